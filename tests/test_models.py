"""The networks are the paper's: counted, compared with torchvision's, and equal to their twins
where they should be.
"""

from functools import partial
from typing import get_args

import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml
from helpers.command_line import REPOSITORY
from helpers.nets import Half
from torch import nn
from torch.nn import functional as F

from lightning_resnet.errors import UserError
from lightning_resnet.models import CifarResNet, ImageNetResNet, blocks
from lightning_resnet.models.activations import record_blocks, train_mode
from lightning_resnet.models.blocks import ScaledConv2d, block_modules, rectify
from lightning_resnet.models.complexity import count_macs, stem_warning
from lightning_resnet.models.resnet import CifarBlock, correlation_after

# (depth, shortcut): parameters, multiply-adds at 32x32 (in M). Table 6 of He et al. 2015 rounds
# them: 0.27M ... 19.4M.
CIFAR = {
    (20, "none"): (269_722, 40.551),
    (20, "A"): (269_722, 40.551),
    (20, "B"): (272_474, 40.813),
    (20, "C"): (283_962, 42.648),
    (32, "A"): (464_154, 68.863),
    (32, "B"): (466_906, 69.125),
    (32, "C"): (489_594, 72.533),
    (44, "A"): (658_586, 97.174),
    (44, "B"): (661_338, 97.436),
    (44, "C"): (695_226, 102.417),
    (56, "none"): (853_018, 125.486),
    (56, "A"): (853_018, 125.486),
    (56, "B"): (855_770, 125.748),
    (56, "C"): (900_858, 132.301),
    (110, "none"): (1_727_962, 252.888),
    (110, "A"): (1_727_962, 252.888),
    (110, "B"): (1_730_714, 253.150),
    (110, "C"): (1_826_202, 266.781),
    (1202, "A"): (19_421_274, 2829.239),
    (1202, "B"): (19_424_026, 2829.501),
    (1202, "C"): (20_538_714, 2986.263),
}
# at 224x224 (in G). Table 1 rounds: 1.8, 3.6, 3.8 (stride in the 1x1), 7.6, 11.3.
IMAGENET = {
    (18, "none"): (11_515_688, 1.795),
    (18, "A"): (11_515_688, 1.795),
    (18, "B"): (11_689_512, 1.814),
    (18, "C"): (12_043_816, 1.878),
    (34, "none"): (21_623_848, 3.644),
    (34, "B"): (21_797_672, 3.664),
    (34, "C"): (22_716_840, 3.831),
    (50, "none"): (22_780_456, 3.730),
    (50, "B"): (25_557_032, 4.089),
    (50, "C"): (40_128_552, 6.555),
    (101, "none"): (41_772_584, 7.442),
    (101, "B"): (44_549_160, 7.801),
    (101, "C"): (76_981_288, 13.762),
    (152, "none"): (57_416_232, 11.154),
    (152, "B"): (60_192_808, 11.514),
    (152, "C"): (107_335_720, 20.968),
}


PREACT_BOTTLENECKS = partial(CifarResNet, block="preact_bottleneck")


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("depth", "shortcut"), CIFAR)
def test_cifar_counts(depth, shortcut):
    net = CifarResNet(depth, shortcut)
    outputs, macs = count_macs(net, (3, 32, 32))
    assert (outputs, count(net), round(macs / 1e6, 3)) == (10, *CIFAR[depth, shortcut])


@pytest.mark.parametrize(("depth", "shortcut"), IMAGENET)
def test_imagenet_counts(depth, shortcut):
    net = ImageNetResNet(depth, shortcut)
    outputs, macs = count_macs(net, (3, 224, 224))
    assert (outputs, count(net), round(macs / 1e9, 3)) == (1000, *IMAGENET[depth, shortcut])


@pytest.mark.parametrize(("depth", "gmacs"), [(50, 3.858), (101, 7.570), (152, 11.282)])
def test_the_papers_stride_in_the_1x1(depth, gmacs):
    net = ImageNetResNet(depth, stride_in_1x1=True)
    assert (count(net), round(count_macs(net, (3, 224, 224))[1] / 1e9, 3)) == (
        IMAGENET[depth, "B"][0],
        gmacs,
    )


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_logits_equal_torchvisions_with_its_weights(depth):
    theirs = torchvision.models.get_model(f"resnet{depth}").eval()
    ours = ImageNetResNet(depth).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


# (block, depth, shortcut): parameters; and those of convolutions and head alone, which He et al.
# 2016 seem to count:
# 1.7M and 10.2M (10.3M with the norms').
BOTTLENECKS = {
    ("bottleneck", 164, "B"): (1_704_154, 1_679_034),
    ("preact_bottleneck", 164, "none"): (1_661_274, 1_637_050),
    ("preact_bottleneck", 164, "A"): (1_661_274, 1_637_050),
    ("preact_bottleneck", 164, "B"): (1_703_258, 1_679_034),
    ("preact_bottleneck", 164, "C"): (3_165_530, 3_141_306),
    ("bottleneck", 1001, "B"): (10_328_602, 10_178_490),
    ("preact_bottleneck", 1001, "B"): (10_327_706, 10_178_490),
}


def bottlenecks_by_hand(block, depth, shortcut):
    """All, and without norms: 16 channels in, n blocks of 16, 32 and 64 wide channels that give 64,
    128 and 256.
    """
    weights, norms, x = 3 * 9 * 16 + 256 * 10 + 10, 32 if block == "bottleneck" else 512, 16
    for width in (16, 32, 64):
        for k in range((depth - 2) // 9):
            weights += x * width + 9 * width * width + width * 4 * width
            norms += 2 * (2 * width + (4 * width if block == "bottleneck" else x))
            if shortcut == "C" or (shortcut == "B" and k == 0):
                weights += x * 4 * width
                norms += 2 * 4 * width if block == "bottleneck" else 0
            x = 4 * width
    return weights + norms, weights


@pytest.mark.parametrize(("block", "depth", "shortcut"), BOTTLENECKS)
def test_nets_of_164_and_1001_layers(block, depth, shortcut):
    net = CifarResNet(depth, shortcut, block=block)
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    found = count(net), sum(p.numel() for m in layers for p in m.parameters())
    assert (
        found == BOTTLENECKS[block, depth, shortcut] == bottlenecks_by_hand(block, depth, shortcut)
    )
    assert (
        len([name for name, m in net.named_modules() if m in layers and "downsample" not in name])
        == depth
    )


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
def test_preact_bottleneck_is_the_papers(shortcut):
    """Norm, ReLU, convolution, three times; projections share the first activation where shapes
    change.
    """
    block = CifarResNet(20, shortcut, block="preact_bottleneck").layer2
    for k, module in enumerate(block):
        x, changes = torch.randn(4, 64 if k == 0 else 128, 8, 8), k == 0
        active = F.relu(F.batch_norm(x, None, None, training=True))
        h = F.conv2d(active, module.conv1.weight)
        h = F.relu(F.batch_norm(h, None, None, training=True))
        h = F.conv2d(h, module.conv2.weight, stride=2 if changes else 1, padding=1)
        h = F.conv2d(F.relu(F.batch_norm(h, None, None, training=True)), module.conv3.weight)
        if shortcut in "BC" and (changes or shortcut == "C"):
            (projection,) = module.downsample  # no norm
            h = h + F.conv2d(
                active if changes else x, projection.weight, stride=2 if changes else 1
            )
        elif shortcut != "none":
            h = h + (F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 32, 32)) if changes else x)
        torch.testing.assert_close(module(x), h, rtol=1e-4, atol=1e-4)
        assert module.bn1.num_batches_tracked == 1  # also where two share it


@pytest.mark.parametrize("make", [CifarResNet, ImageNetResNet, PREACT_BOTTLENECKS])
def test_twins_start_equal(make):
    depth = {CifarResNet: 56, ImageNetResNet: 34}.get(make, 29)
    nets = {}
    for shortcut in ("none", "A", "B", "C"):
        torch.manual_seed(3)
        torch.rand(len(nets))  # what was drawn before must not matter
        nets[shortcut] = make(depth, shortcut).state_dict()
    assert set(nets["none"]) == set(nets["A"]) < set(nets["B"]) < set(nets["C"])
    for other in "ABC":
        assert all(torch.equal(t, nets[other][name]) for name, t in nets["none"].items())
    torch.manual_seed(4)
    assert not torch.equal(make(depth).state_dict()["conv1.weight"], nets["A"]["conv1.weight"])


STUDY = yaml.safe_load((REPOSITORY / "configs/sweeps/digits_variants.yaml").read_text())
CELLS = STUDY["parameters"]["model.net.init_args"]["values"]


@pytest.mark.parametrize("options", [cell for cell in CELLS if cell["depth"] == 20])
def test_nets_of_the_study_start_from_the_tensors_of_their_plain_twin(options):
    start = {k: v for k, v in options.items() if k in ("depth", "norm", "init", "activation")}
    nets = []
    for arguments in (options, start | {"shortcut": "none"}):
        torch.manual_seed(3)
        torch.rand(len(nets))
        nets.append(CifarResNet(**arguments).state_dict())
    variant, plain = nets
    kernels = [name for name in plain if plain[name].ndim == 4]
    if options.get("branch_scale") == "fixup":
        kernels = ["conv1.weight"]  # Fixup scales the others
    assert len(kernels) in (1, 19)
    assert all(torch.equal(variant[name], plain[name]) for name in kernels)


def test_option_a_pads_equally_on_both_sides():
    net = CifarResNet(20)
    x = torch.randn(2, 16, 8, 8)
    y = net.layer2[0].shortcut(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


FOREIGN = [torchvision.models.resnet18, torchvision.models.resnet50]
FOREIGN += [
    lambda name=name: timm.create_model(name)
    for name in ("resnet18", "resnet50d", "seresnet18", "resnetaa50")
]
OURS = [
    lambda s=s, b=b: CifarResNet(29 if "bottleneck" in b else 20, s, block=b)
    for s in ("none", "A", "B", "C")
    for b in ("basic", "bottleneck", "preact", "preact_bottleneck")
]
OURS += [
    lambda b=b, a=a: CifarResNet(29 if "bottleneck" in b else 20, block=b, shared_activation=a)
    for b in ("preact", "preact_bottleneck")
    for a in ("first", "stages")
]


def after_norm(variant):
    """Tell whether a norm follows the sum of the variant's blocks."""
    return variant.get("block", "").startswith("bn_after_add")


VARIANTS = [
    {"block": block, "depth": 20 if block.count("bottleneck") == 0 else 29}
    for block in get_args(CifarBlock)
]
VARIANTS += [{"shortcut": s} for s in ("scaled", "dropout", "gate", "exclusive_gate")]
VARIANTS += [
    {"shortcut": "exclusive_gate", "block": "preact", "shared_activation": "stages"},
    {"shortcut": "scaled", "branch_scale": 0.5},
    {"branch_scale": "skip_init", "norm": "none"},
    {"branch_scale": "rezero"},
    {"branch_scale": "fixup", "norm": "none"},
    {"norm": "scaled_weights", "shortcut": "B", "block": "preact"},
    {"branch_scale": "fixup", "norm": "none", "shortcut": "C", "block": "bottleneck", "depth": 29},
]
OURS += [lambda v=v: CifarResNet(**{"depth": 20} | v) for v in VARIANTS if not after_norm(v)]
OURS += [
    lambda: ImageNetResNet(50, stride_in_1x1=True),
    lambda: ImageNetResNet(50, groups=32, width_per_group=4, se_ratio=1 / 16),
    lambda: ImageNetResNet(50, stem="deep", downsample="average"),
]


@pytest.mark.parametrize("make", [*OURS, *FOREIGN])
def test_branch_plus_shortcut_is_the_block(make):
    net = make().eval()
    seen = []
    for name, branch, shortcut in blocks(net):
        net.get_submodule(name).register_forward_hook(
            lambda _, x, y, b=branch, s=shortcut: seen.append((x[0].clone(), y.clone(), b, s))
        )
    with torch.no_grad():
        net(torch.randn(1, 3, 64, 64))
        assert len(seen) == len(list(blocks(net))) >= 8
        for module in net.modules():
            module._forward_hooks.clear()
        for x, y, branch, shortcut in seen:
            total = branch(x) + shortcut(x) if shortcut else branch(x)
            preact = getattr(net, "preact", False)
            torch.testing.assert_close(total if preact else total.relu(), y, rtol=1e-5, atol=1e-5)


def test_blocks_of_a_net_that_lists_its_own():
    class Own(nn.Module):
        def blocks(self):
            yield "a", torch.sin, None

    assert list(blocks(Own())) == [("a", torch.sin, None)]


@pytest.mark.parametrize("held", [nn.Sequential(Half(8), Half(8)), nn.ModuleList([Half(8)])])
def test_blocks_of_a_net_whose_attribute_blocks_holds_them(held):
    net = nn.Module()
    net.blocks = held
    assert [name for name, _, _ in blocks(net)] == [f"blocks.{i}" for i in range(len(held))]


@pytest.mark.parametrize("init", ["he", "he_fan_in", "xavier", 0.5])
def test_init_scales(init):
    weight = CifarResNet(20, init=init, norm="none").layer3[0].conv1.weight  # 32 to 64 channels
    he = (2 / (64 * 9)) ** 0.5
    fan_in = (2 / (32 * 9)) ** 0.5
    xavier = (2 / (32 * 9 + 64 * 9)) ** 0.5
    expected = {"he": he, "he_fan_in": fan_in, "xavier": xavier, 0.5: he / 2}[init]
    assert weight.std().item() == pytest.approx(expected, rel=0.02)


def test_dirac_convolutions_start_as_identity():
    net = CifarResNet(20, "none", init="dirac", norm="none")
    x = torch.rand(2, 16, 8, 8)
    torch.testing.assert_close(net.layer1(x), x)  # x >= 0, as after a ReLU
    torch.testing.assert_close(net.layer2[0].branch(x)[:, :16], x[:, :, ::2, ::2])
    assert net.conv1.weight.std() > 0.1  # the stem is drawn


@pytest.mark.parametrize("block", ["basic", "bottleneck", "preact", "preact_bottleneck"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_zero_last_makes_residual_blocks_identity(block, norm):
    net = CifarResNet(29 if "bottleneck" in block else 20, block=block, norm=norm, zero_last=True)
    x = torch.rand(2, 64 if "bottleneck" in block else 16, 8, 8)
    torch.testing.assert_close(net.layer1[1](x), x)
    net.layer1[1](
        x
    ).sum().backward()  # and leaves it: behind a zeroed norm and a ReLU no layer would ever learn
    assert any(p.grad.any() for p in net.layer1[1].parameters())
    with pytest.raises(ValueError, match="zero_last needs a shortcut"):
        CifarResNet(20, "none", zero_last=True)


def test_first_activation_is_shared_where_the_sources_share_it():
    """He et al. 2016, appendix: the first unit of the net; fb.resnet.torch: of each stage. The
    parameters stay the same, and a plain net has nothing to share.
    """
    made = {}
    for shared in (None, "first", "stages"):
        torch.manual_seed(0)
        made[shared] = CifarResNet(20, block="preact", shared_activation=shared).eval()
    x = torch.randn(2, 16, 8, 8)
    for shared, expected in ((None, []), ("first", ["layer1.0"])):
        found = [n for n, m in made[shared].named_modules() if getattr(m, "shares_activation", 0)]
        assert found == expected
    found = [n for n, m in made["stages"].named_modules() if getattr(m, "shares_activation", 0)]
    assert found == ["layer1.0", "layer2.0", "layer3.0"]
    first = made["first"].layer1[0]
    active = first.bn1(x).relu()
    torch.testing.assert_close(
        first(x), first.conv2(first.bn2(first.conv1(active)).relu()) + active
    )
    second = made["stages"].layer2[0]
    active = second.bn1(x).relu()
    padded = torch.nn.functional.pad(active[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    expected = second.conv2(second.bn2(second.conv1(active)).relu()) + padded
    torch.testing.assert_close(second(x), expected)
    first.train()
    first(x)
    assert first.bn1.num_batches_tracked == 1  # one pass, not one for each path
    states = [net.state_dict() for net in made.values()]
    assert states[0].keys() == states[1].keys() == states[2].keys()
    plain = CifarResNet(20, "none", block="preact", shared_activation="first").eval()
    torch.testing.assert_close(plain.layer1[0](x), plain.layer1[0].branch(x))
    with pytest.raises(ValueError, match="about pre-activation blocks"):
        CifarResNet(20, shared_activation="first")


def test_norm_none_has_zero_biases_instead():
    net = CifarResNet(20, "B", norm="none")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    biases = [m.bias for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(biases) == 21 and not any(b.any() for b in biases)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CifarResNet(21), r"6n\+2, got 21; try 20"),
        (lambda: CifarResNet(2), r"got 2; try 8"),
        (lambda: CifarResNet(56 + 3, block="bottleneck"), r"9n\+2, got 59; try 56"),
        (lambda: CifarResNet(1000, block="preact_bottleneck"), r"9n\+2, got 1000; try 992 or 1001"),
        (lambda: ImageNetResNet(49), r"got 49; try 50"),
        (lambda: ImageNetResNet(18, stride_in_1x1=True), "has none"),
    ],
)
def test_impossible_nets_name_a_possible_one(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("block", ["basic", "preact_bottleneck"])
def test_every_conv_and_linear_learns(block):
    """Plain and residual: no layer is cut off from the loss."""
    for shortcut in ("none", "A", "B", "C"):
        net = CifarResNet(20, shortcut, block=block)
        net(torch.randn(4, 3, 16, 16)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
@pytest.mark.parametrize("block", ["basic", "bottleneck", "preact", "preact_bottleneck"])
def test_every_block_keeps_the_memory_format(block, shortcut):
    """A block that returned contiguous tensors would make each next convolution convert them."""
    net = CifarResNet(29 if block.endswith("bottleneck") else 20, shortcut=shortcut, block=block)
    net = net.to(memory_format=torch.channels_last).train()
    seen = []

    def look(module, inputs, output):
        seen.append(output.is_contiguous(memory_format=torch.channels_last))

    for module in block_modules(net):
        module.register_forward_hook(look)
    images = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    net(images).sum().backward()
    assert len(seen) == len(block_modules(net)) and all(seen)
    gradients = [p.grad for p in net.parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert all(g.is_contiguous(memory_format=torch.channels_last) for g in gradients)


@pytest.mark.parametrize("shortcut", [None, "None", "D", "a"])
def test_a_shortcut_that_does_not_exist_is_refused(shortcut):
    with pytest.raises(ValueError, match="one of none, A, B, C"):
        CifarResNet(8, shortcut=shortcut)


@pytest.mark.parametrize(
    ("net", "size", "warns"),
    [
        (ImageNetResNet(18, num_classes=10), 32, True),
        (ImageNetResNet(18, "none", num_classes=10, blur_pool=True), 32, True),
        (ImageNetResNet(18, num_classes=10), 33, False),  # 2x2 in the last stage
        (CifarResNet(8), 32, False),
        (CifarResNet(8), 4, False),  # 1x1 too, but not for its stem
        (torchvision.models.resnet18(num_classes=10), 28, True),
        (torchvision.models.mobilenet_v3_small(num_classes=10), 32, True),  # has no pooling
        (torchvision.models.vgg11(num_classes=10), 32, False),
        (timm.create_model("seresnet18", num_classes=10), 32, True),  # squeeze: 1x1 at any size
        (timm.create_model("seresnet18", num_classes=10), 64, False),
        (timm.create_model("resnet26d", num_classes=10), 32, True),
    ],
)
def test_an_imagenet_stem_on_small_images_is_warned_of(net, size, warns):
    warning = stem_warning(net, (3, size, size))
    assert bool(warning) == warns
    assert not warns or (f"{size}x{size} as 1x1" in warning and "--data.size 64" in warning)
    assert net.training


def test_what_counts_outputs_leaves_a_frozen_norm_frozen():
    net = CifarResNet(8)
    net.bn1.eval()
    count_macs(net, (3, 8, 8))
    stem_warning(net, (3, 8, 8))
    with pytest.raises(UserError, match="cannot take images"):
        count_macs(net, (1, 8, 8))
    assert [name for name, module in net.named_modules() if not module.training] == ["bn1"]


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"groups": 32, "width_per_group": 4}, "torchvision resnext50_32x4d"),
        ({"width_per_group": 128}, "torchvision wide_resnet50_2"),
        ({"stem": "deep", "downsample": "average"}, "timm resnet50d"),
        ({"se_ratio": 0.0625}, "timm seresnet50"),
        ({"groups": 32, "width_per_group": 4, "se_ratio": 0.0625}, "timm seresnext50_32x4d"),
        ({"depth": 26}, "timm resnet26"),
        ({"depth": 26, "stem": "deep", "downsample": "average"}, "timm resnet26d"),
        ({"depth": 18, "se_ratio": 0.0625}, "timm seresnet18"),
    ],
)
def test_logits_equal_those_of_relatives_with_their_weights(options, theirs):
    library, name = theirs.split()
    make = timm.create_model if library == "timm" else torchvision.models.get_model
    theirs = make(name).eval()
    ours = ImageNetResNet(**{"depth": 50} | options).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


def normalised(x):
    return F.batch_norm(x, None, None, training=True)


@pytest.mark.parametrize("shortcut", ["none", "A"])
@pytest.mark.parametrize(
    "order", ["original", "bn_after_add", "relu_before_add", "relu_preact", "preact"]
)
def test_orders_are_those_of_figure_4(order, shortcut):
    """He et al. 2016, figure 4 (a) to (e), each written out."""
    net = CifarResNet(20, shortcut, block="basic" if order == "original" else order)
    block = net.layer1[1]
    x = torch.randn(4, 16, 8, 8)
    added = x if shortcut == "A" else 0

    def first(y):
        return F.conv2d(y, block.conv1.weight, padding=1)

    def second(y):
        return F.conv2d(y, block.conv2.weight, padding=1)

    expected = {
        "original": lambda: F.relu(normalised(second(F.relu(normalised(first(x))))) + added),
        "bn_after_add": lambda: F.relu(normalised(second(F.relu(normalised(first(x)))) + added)),
        "relu_before_add": lambda: F.relu(normalised(second(F.relu(normalised(first(x)))))) + added,
        "relu_preact": lambda: normalised(second(F.relu(normalised(first(F.relu(x)))))) + added,
        "preact": lambda: second(F.relu(normalised(first(F.relu(normalised(x)))))) + added,
    }
    torch.testing.assert_close(block(x), expected[order](), rtol=1e-4, atol=1e-4)
    activations = sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert activations == 19  # one for each convolution, wherever it stands


def twin(depth=20, **options):
    """A net with running statistics that differ from those at the start."""
    torch.manual_seed(5)
    net = CifarResNet(depth, **options)
    torch.manual_seed(6)
    net.train()(torch.randn(16, 3, 8, 8))
    return net.eval()


@pytest.mark.parametrize(
    ("options", "equal"),
    [
        ({"shortcut": "gate", "shortcut_value": -200.0}, {"shortcut": "A"}),
        ({"shortcut": "scaled", "shortcut_value": 1.0}, {"shortcut": "A"}),
        ({"shortcut": "dropout", "shortcut_value": 0.0}, {"shortcut": "A"}),
        ({"shortcut": "dropout"}, {"shortcut": "A"}),  # in eval mode
        ({"shortcut": "exclusive_gate", "shortcut_value": 200.0}, {"shortcut": "none"}),
        ({"shortcut": "scaled", "shortcut_value": 0.0}, {"shortcut": "none"}),
        ({"branch_scale": 1.0}, {"shortcut": "A"}),
    ],
)
def test_variants_of_the_shortcut_end_at_the_twins(options, equal):
    """Limits of He et al. 2016, section 3: an open gate and the factor 1 are the identity."""
    x = torch.randn(4, 3, 8, 8)
    net = twin(**equal)
    variant = CifarResNet(20, **options).eval()
    variant.load_state_dict(net.state_dict(), strict=False)
    with torch.no_grad():
        for module in variant.modules():
            if hasattr(module, "initial_bias"):
                module.weight.zero_()  # else the limit depends on x
        torch.testing.assert_close(variant(x), net(x), rtol=1e-5, atol=1e-5)


def test_half_the_shortcut_and_half_the_branch():
    block = CifarResNet(20, "scaled", branch_scale=0.5).eval().layer1[0]
    x = torch.randn(2, 16, 8, 8)
    F_x = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), F.relu(0.5 * x + 0.5 * F_x))


def test_gates_scale_what_they_are_said_to_scale():
    x = torch.randn(2, 16, 8, 8)
    for shortcut in ("gate", "exclusive_gate"):
        block = CifarResNet(20, shortcut, shortcut_value=-1.0).eval().layer1[0]
        assert block.gate.bias.unique().tolist() == [-1.0]
        gate = torch.sigmoid(F.conv2d(x, block.gate.weight, block.gate.bias))
        F_x = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
        branch = gate * F_x if shortcut == "exclusive_gate" else F_x
        torch.testing.assert_close(block(x), F.relu(branch + (1 - gate) * x))
    assert CifarResNet(8, "gate").layer1[0].gate.bias[0] == -6


@pytest.mark.parametrize("scale", ["skip_init", "rezero"])
def test_learned_scales_start_as_the_shortcut_alone(scale):
    net = CifarResNet(20, norm="none", branch_scale=scale)
    x = torch.rand(2, 16, 8, 8)
    torch.testing.assert_close(net.layer1(x), x)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(block.scale.weight.grad.abs() > 0 for block in block_modules(net))


@pytest.mark.parametrize(
    ("block", "depth", "power"), [("basic", 20, -1 / 2), ("bottleneck", 29, -1 / 4)]
)
def test_fixup_is_zhangs(block, depth, power):
    """Rules 1 to 3 of Zhang et al. 2019: zeros, scale, offsets and multipliers."""
    options = {"depth": depth, "block": block, "shortcut": "B"}
    net = CifarResNet(**options, norm="none", branch_scale="fixup")
    he = CifarResNet(**options, norm="none")
    x = torch.randn(2, 3, 8, 8)
    assert not net(x).any() and not net.fc.weight.any()
    n_blocks = 9
    for name, weight in he.named_parameters():
        if name.startswith("layer") and name.endswith(("conv1.weight", "conv2.weight")):
            ours = net.get_parameter(name)
            last = block == "basic" and "conv2" in name
            torch.testing.assert_close(ours, weight * (0 if last else n_blocks**power))
    scalars = [p for p in net.parameters() if p.ndim == 0]
    layers = 2 if block == "basic" else 3
    assert len(scalars) == 2 + n_blocks * (2 * layers + 1)
    assert {p.item() for p in scalars} == {0.0, 1.0}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):  # one step frees the head, the next the last layers, the third the rest
        optimizer.zero_grad()
        F.cross_entropy(net(x), torch.tensor([0, 1])).backward()
        optimizer.step()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_variants_add_the_parameters_of_their_definitions():
    plain = count(CifarResNet(110))
    blocks_of = {16: 18, 32: 18, 64: 18}
    gates = sum(n * (channels**2 + channels) for channels, n in blocks_of.items())
    for shortcut in ("gate", "exclusive_gate"):
        assert count(CifarResNet(110, shortcut)) == plain + gates
    for options in ({"shortcut": "scaled"}, {"shortcut": "dropout"}, {"branch_scale": 0.5}):
        assert count(CifarResNet(110, **options)) == plain
    assert count(CifarResNet(110, branch_scale="skip_init")) == plain + 54
    for block in ("bn_after_add", "relu_before_add", "relu_preact"):
        assert count(CifarResNet(110, block=block)) == plain
    # blocks of one layer: 36 in each stage, as many layers as 18 blocks of two
    assert count(CifarResNet(110, block="single")) == plain
    layers = [m for m in CifarResNet(110, block="single").modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 109


def test_dropout_of_the_shortcut_drops_it_alone():
    block = CifarResNet(20, "dropout", shortcut_value=0.25, norm="none").layer1[0]
    nn.init.zeros_(block.conv2.weight)
    x = torch.ones(8, 16, 8, 8)
    kept = block(x)
    torch.testing.assert_close(kept.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert (kept == 0).float().mean() == pytest.approx(0.25, abs=0.03)


def test_survival_falls_linearly_with_depth():
    """Huang et al. 2016, eq. 4, with p_L = 0.5 in the 54 blocks of 110 layers."""
    net = CifarResNet(110, stochastic_depth=0.5)
    survivals = [block.stochastic_depth.survival for block in block_modules(net)]
    assert survivals == pytest.approx([1 - i / 54 * 0.5 for i in range(1, 55)])
    assert count(net) == count(CifarResNet(110))


def test_survival_1_is_no_stochastic_depth():
    net = twin()
    certain = CifarResNet(20, stochastic_depth=1.0)
    certain.load_state_dict(net.state_dict())
    x = torch.randn(4, 3, 8, 8)
    for mode in (True, False):
        torch.testing.assert_close(certain.train(mode)(x), net.train(mode)(x), rtol=0, atol=0)


@pytest.mark.parametrize("per", ["batch", "image"])
def test_evaluation_is_the_expectation_over_draws(per):
    """p F(x) + x is the mean over both outcomes, as no activation follows the sum."""
    net = CifarResNet(
        8, block="preact", norm="none", stochastic_depth=0.25, stochastic_depth_per=per
    )
    block = net.layer3[0]
    x = torch.randn(4, 32, 8, 8)
    outcomes = {}
    for kept in (0.0, 1.0):
        net.draws.kept = torch.full((3, 4 if per == "image" else 1), kept)
        outcomes[kept] = block(x)
    expected = 0.25 * outcomes[1.0] + 0.75 * outcomes[0.0]
    torch.testing.assert_close(block.eval()(x), expected)
    torch.testing.assert_close(outcomes[0.0], block.shortcut(x))
    block.train()
    if per == "image":
        net.draws.kept = torch.tensor([[1.0] * 4, [1.0] * 4, [1.0, 0.0, 0.0, 1.0]])
        torch.testing.assert_close(block(x)[1:3], outcomes[0.0][1:3])
        torch.testing.assert_close(block(x)[[0, 3]], outcomes[1.0][[0, 3]])
    net.draws.kept = None  # then torch's generator decides
    dropped = [torch.equal(block(x)[0], outcomes[0.0][0]) for _ in range(200)]
    assert np.mean(dropped) == pytest.approx(0.75, abs=0.12)


@pytest.mark.parametrize(
    "net",
    [
        timm.create_model("resnet18", zero_init_last=False, drop_path_rate=0.5),
        timm.create_model("resnet18", zero_init_last=False, drop_block_rate=0.5),
        nn.Sequential(nn.Dropout2d(), torchvision.ops.StochasticDepth(0.5, "row")),
    ],
)
def test_inspections_in_train_mode_draw_nothing_in_nets_of_others(net):
    x = torch.randn(4, 3, 64, 64)
    with train_mode(net), torch.no_grad():
        assert torch.equal(net(x), net(x)) and net.training
    assert all(module.training for module in net.modules())


def test_inspections_in_train_mode_draw_nothing():
    net = CifarResNet(8, "dropout", stochastic_depth=0.5)
    x = torch.randn(4, 3, 8, 8)
    with train_mode(net), torch.no_grad():
        assert torch.equal(net(x), net(x)) and net.layer1[0].bn1.training
    assert net.layer1[0].dropout.training and net.layer1[0].stochastic_depth.training


def test_a_norm_after_the_sum_is_no_relu():
    net = twin(block="bn_after_add")
    _, recorded = record_blocks(net, torch.randn(4, 3, 8, 8))
    with pytest.raises(UserError, match=r"layer1\.0 .*more than a ReLU"):
        recorded[0].gated()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CifarResNet(8, "A", shortcut_value=0.5), "A takes none: drop it"),
        (lambda: CifarResNet(8, "none", shortcut_value=0.5), "none takes none: drop it"),
        (lambda: CifarResNet(8, "dropout", shortcut_value=1.0), "below 1; got 1.0"),
        (lambda: CifarResNet(8, "none", branch_scale="skip_init"), "plain net has none"),
        (lambda: CifarResNet(8, branch_scale="fixup"), "set norm none"),
        (lambda: CifarResNet(8, branch_scale="fixup", norm="none", block="preact"), "block basic"),
        (lambda: CifarResNet(8, branch_scale="fixup", norm="none", block="single"), "block basic"),
        (lambda: CifarResNet(8, block="basic_bottleneck"), "block must be one of basic"),
        (lambda: CifarResNet(9, block="single"), r"3n\+2, got 9; try 8"),
        (lambda: CifarResNet(8, norm="none", activation="tat"), "set shortcut none"),
        (lambda: CifarResNet(8, "none", activation="tat"), "norm none"),
        (lambda: CifarResNet(8, carries_input=True), "set shortcut none"),
        (lambda: CifarResNet(8, block="bn_after_add", zero_last=True), "no gradient passes"),
        (lambda: CifarResNet(8, block="relu_before_add", zero_last=True), "no gradient passes"),
        (lambda: CifarResNet(8, branch_scale="rezero", zero_last=True), "neither gets a gradient"),
        (lambda: CifarResNet(8, "none", 15, norm="none", init="looks_linear"), "an even width"),
        (
            lambda: ImageNetResNet(18, "none", norm="none", activation="tat", stem="deep"),
            "7x7 stem",
        ),
        (lambda: CifarResNet(8, stochastic_depth=0.0), "above 0 and at most 1; got 0.0"),
        (lambda: CifarResNet(8, "none", stochastic_depth=0.5), "plain net has none"),
        (lambda: CifarResNet(8, stochastic_depth_per="image"), "set both"),
        (lambda: ImageNetResNet(18, groups=32), "groups is about bottlenecks"),
        (lambda: ImageNetResNet(34, width_per_group=128), "width_per_group is about bottlenecks"),
        (lambda: ImageNetResNet(50, "A", downsample="average"), "set shortcut B"),
        (
            lambda: CifarResNet(8, "none", norm="none", init="looks_linear", activation="tat"),
            "drop one of the two",
        ),
        (lambda: CifarResNet(8, norm="none", init="looks_linear"), "set shortcut none"),
        (
            lambda: CifarResNet(8, "none", norm="scaled_weights", init="looks_linear"),
            "set norm none",
        ),
        (lambda: CifarResNet(8, norm="scaled_weights", init="delta_orthogonal"), "set norm none"),
        (
            lambda: ImageNetResNet(50, "none", init="looks_linear", width_per_group=3),
            "an even width, not 3",
        ),
        (lambda: ImageNetResNet(50, groups=0), "groups must be 1 or more; got 0"),
        (lambda: ImageNetResNet(50, width_per_group=-4), "1 or more; got -4"),
        (lambda: ImageNetResNet(50, se_ratio=0.0), "above 0 and at most 1; got 0.0"),
        (lambda: ImageNetResNet(50, se_ratio=-1.0), "above 0 and at most 1; got -1.0"),
        (lambda: ImageNetResNet(18, norm="scaled_weights", blur_pool=True), "drop one of the two"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_grouped_convolutions_start_as_identity():
    net = ImageNetResNet(50, groups=32, width_per_group=4, init="dirac")
    conv2 = net.layer1[0].conv2
    x = torch.randn(1, 128, 8, 8)
    torch.testing.assert_close(conv2(x), x)


@pytest.mark.parametrize(("layers", "slope"), [(19, 0.164), (55, 0.452), (109, 0.586)])
def test_the_slope_of_tat_is_solved_for_the_depth(layers, slope):
    """Zhang et al. 2022, eq. 8: 0.9 where ReLUs would end at 0.944, 0.990 and 0.997."""
    net = CifarResNet(layers + 1, "none", norm="none", activation="tat")
    assert net.slope == pytest.approx(slope, abs=5e-4)
    assert {block.slope for block in block_modules(net)} == {net.slope}
    for each, last in ((net.slope, 0.9), (0.0, {19: 0.9445, 55: 0.9897, 109: 0.9969}[layers])):
        correlation = 0.0
        for _ in range(layers):
            correlation = correlation_after(each, correlation)
        assert correlation == pytest.approx(last, abs=1e-4)


def test_tailored_activations_keep_the_second_moment():
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    for slope in (0.1, 0.5):
        assert rectify(x, slope).square().mean() == pytest.approx(1, abs=0.02)
    weight = (
        CifarResNet(20, "none", norm="none", activation="tat", init="he_fan_in", width=32)
        .layer1[0]
        .conv1.weight
    )
    assert weight.std().item() == pytest.approx((1 / (32 * 9)) ** 0.5, rel=0.03)


def test_images_stay_apart_in_a_wide_tailored_net():
    """The correlation of two images behind 19 layers, by the C-map of their activation."""
    torch.manual_seed(0)
    x = torch.randn(8, 3, 5, 5)
    found = {}
    for activation in (None, "tat"):
        net = CifarResNet(
            20, "none", 96, norm="none", init="delta_orthogonal", activation=activation
        )
        with torch.no_grad():
            maps = rectify(net.conv1(x), net.slope)
            maps = net.layer1(maps)  # 7 layers; at one position, as in a fully connected net
        vectors = F.normalize(maps[:, :, 2, 2].flatten(1), dim=1)
        cosines = vectors @ vectors.T
        found[activation] = (cosines.sum() - 8).item() / 56
        first = F.normalize(x[:, :, 2, 2], dim=1)
        expected = []
        for c in (first @ first.T)[~torch.eye(8, dtype=bool)].tolist():
            for _ in range(7):
                c = correlation_after(net.slope or 0.0, min(c, 1.0))
            expected.append(c)
        assert found[activation] == pytest.approx(np.mean(expected), abs=0.05)
    assert found["tat"] < found[None] - 0.05


def test_delta_orthogonal_kernels_are_orthogonal():
    """Xiao et al. 2018: the centre is orthogonal, the rest 0, so that lengths are kept."""
    net = CifarResNet(20, "none", norm="none", init="delta_orthogonal")
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            centre = module.weight[:, :, 1, 1]
            small = centre if centre.shape[0] <= centre.shape[1] else centre.T
            product = small @ small.T / 2  # the ReLU's gain
            torch.testing.assert_close(product, torch.eye(len(small)), rtol=0, atol=1e-5)
            assert module.weight.count_nonzero() == centre.count_nonzero()


def test_each_group_of_a_convolution_is_orthogonal():
    net = ImageNetResNet(
        50, "none", norm="none", init="delta_orthogonal", groups=32, width_per_group=4
    )
    for block in (net.layer1[1], net.layer2[1]):
        for of_group in block.conv2.weight.chunk(32):
            centre = of_group[:, :, 1, 1]
            product = centre @ centre.T / 2  # the ReLU's gain
            torch.testing.assert_close(product, torch.eye(len(centre)), rtol=0, atol=1e-5)


def test_a_net_that_looks_linear_is_linear():
    """Balduzzi et al. 2017, sec. 5: pairs of ReLUs of opposite sign pass what enters."""
    net = CifarResNet(20, "none", norm="none", init="looks_linear").eval()
    x, y = torch.randn(2, 4, 3, 8, 8)
    with torch.no_grad():
        offset = net(torch.zeros(1, 3, 8, 8))
        expected = 2 * (net(x) - offset) - 3 * (net(y) - offset)
        torch.testing.assert_close(net(2 * x - 3 * y) - offset, expected, rtol=1e-4, atol=1e-5)
        assert expected.std() > 0.01
        with_he = CifarResNet(20, "none", norm="none").eval()
        offset = with_he(torch.zeros(1, 3, 8, 8))
        sums = with_he(x) + with_he(y) - offset
        assert (with_he(x + y) - sums).norm() > 0.1 * (sums - offset).norm()


def test_scaled_weights_are_brocks():
    """Mean 0 and variance gain^2 GAIN / fan_in in each channel, whatever the stored weights are."""
    net = CifarResNet(20, norm="scaled_weights")
    layers = [module for module in net.modules() if isinstance(module, ScaledConv2d)]
    assert len(layers) == 19 and not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    layer = net.layer2[1].conv1
    with torch.no_grad():
        layer.gain.fill_(2.0)
        layer.weight.mul_(5).add_(1)
        kernels = layer.standardized()
        x = torch.randn(2, 32, 8, 8)
        torch.testing.assert_close(layer(x), F.conv2d(x, kernels, layer.bias, padding=1))
    fan_in = 32 * 9
    expected = torch.full((32,), 4 * 2 / (1 - 1 / np.pi) / fan_in)
    torch.testing.assert_close(kernels.mean((1, 2, 3)), torch.zeros(32), rtol=0, atol=1e-6)
    torch.testing.assert_close(kernels.var((1, 2, 3), correction=0), expected)
    assert count(net) == count(CifarResNet(20, norm="none")) + sum(m.out_channels for m in layers)


def test_scaled_weights_keep_the_variance_behind_relus():
    torch.manual_seed(0)
    net = CifarResNet(20, "none", 64, norm="scaled_weights")
    x = torch.randn(4, 64, 32, 32)
    with torch.no_grad():
        for block in net.layer1:
            x = block.conv1(F.relu(x))
    assert x[:, :, 8:-8, 8:-8].var() == pytest.approx(1, abs=0.35)
