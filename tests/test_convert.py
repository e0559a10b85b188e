"""Weights in and out: the nets on both sides give the same logits."""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
import yaml
from helpers.akamaster import Akamaster
from helpers.command_line import TINY
from helpers.run_dir import history, only_run
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.resnet import Bottleneck

from lightning_resnet.cli.convert import make_parser
from lightning_resnet.data.images import FileImages
from lightning_resnet.data.loaders.read_batch import read_files
from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import record_blocks
from lightning_resnet.models.blocks import Scale, block_modules, blocks
from lightning_resnet.models.complexity import PeakMemory
from lightning_resnet.models.plain_form import plain_form
from lightning_resnet.models.resnet import CifarResNet, ImageNetResNet
from lightning_resnet.models.surgery import drop, without
from lightning_resnet.weights import onnx_export
from lightning_resnet.weights.convert import checkpoint_of, untold, use_elsewhere
from lightning_resnet.weights.layouts import RecognisedNet, recognise, unwrap
from lightning_resnet.weights.trained import load

PIXELS = torch.randint(
    0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(5)
)
MEAN, STD = (
    torch.tensor(v).view(3, 1, 1) * 255 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)
IMAGES = (PIXELS - MEAN) / STD


def shaken(net, seed=0):
    """Norms as after a training: no statistic or parameter at its start."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 2),
                (module.weight.data, 0.3, 1),
                (module.bias.data, -0.2, 0.2),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return net.eval()


def same(ours, theirs, images=IMAGES):
    with torch.no_grad():
        wanted, got = theirs.eval()(images), ours.eval()(images)
    assert wanted.std() > 1e-2, "logits that say nothing"
    return (wanted - got).abs().max() <= 1e-4


PEERS = {
    "torchvision50": lambda: torchvision.models.resnet50(num_classes=7),
    "timm18": lambda: timm.create_model("resnet18"),
}
SLOW = {
    "torchvision18": lambda: torchvision.models.resnet18(),
    "timm34": lambda: timm.create_model("resnet34", num_classes=12),
    "timm50": lambda: timm.create_model("resnet50"),
}
LONG = {
    "torchvision152": lambda: torchvision.models.resnet152(),
    "timm101": lambda: timm.create_model("resnet101"),
}
NETS = [
    *PEERS,
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    *(pytest.param(name, marks=pytest.mark.all) for name in LONG),
]


@pytest.mark.parametrize("name", NETS)
def test_torchvision_and_timm_come_in_and_go_out(cli, name):
    theirs = shaken((PEERS | SLOW | LONG)[name]())
    if "timm" in name:
        save_file(theirs.state_dict(), "theirs.safetensors")
    else:
        torch.save(theirs.state_dict(), "theirs.pth")
    file = "theirs.safetensors" if "timm" in name else "theirs.pth"
    code, out, err = cli("convert", file, "--out", "ours.ckpt")
    assert code == 0, err
    assert f"depth={re.sub('[a-z]', '', name)} shortcut=B" in out
    trained = load("ours.ckpt")
    assert same(trained.task.net, theirs) and torch.equal(
        trained.task(PIXELS), trained.task.net(IMAGES)
    )
    back = "back.safetensors" if "timm" in name else "back.pth"
    code, out, err = cli("convert", "ours.ckpt", "--out", back)
    assert code == 0 and f"torchvision.models.resnet{trained.options['depth']}(" in out, err
    state = load_file(back) if "timm" in name else torch.load(back, weights_only=True)
    fresh = getattr(torchvision.models, f"resnet{trained.options['depth']}")(
        num_classes=trained.options["num_classes"]
    )
    fresh.load_state_dict(state, strict=True)
    assert same(fresh, theirs)


@pytest.mark.parametrize(("depth", "option"), [(18, "blur_pool"), (50, "stride_in_1x1")])
def test_what_torchvision_loads_but_computes_otherwise_is_said(cli, depth, option):
    ours = shaken(ImageNetResNet(depth, num_classes=4, **{option: True}))
    torch.save(ours.state_dict(), "plain.pth")
    assert cli("convert", "plain.pth", "--out", "ours.ckpt")[0] == 0
    content = torch.load("ours.ckpt", weights_only=True)
    recipe = yaml.safe_load(content["run"]["config"])
    recipe["model"]["net"]["init_args"][option] = True  # as a run of such a recipe has it
    content["run"]["config"] = yaml.safe_dump(recipe)
    torch.save(content, "ours.ckpt")
    code, out, err = cli("convert", "ours.ckpt", "--out", "theirs.pth")
    assert (
        code == 0
        and f"warning: torchvision.models.resnet{depth} loads it, but computes another" in out
    ), err
    fresh = getattr(torchvision.models, f"resnet{depth}")(num_classes=4)
    fresh.load_state_dict(torch.load("theirs.pth", weights_only=True), strict=True)
    assert same(load("ours.ckpt").task.net, ours) and not same(fresh, ours)


def test_blurred_nets_of_timm_are_not_ours(capsys):
    """They blur elsewhere, and their tensors do not tell: the help says so."""
    theirs = shaken(timm.create_model("resnetblur18", num_classes=4))
    for blur_pool in (False, True):
        ours = ImageNetResNet(18, num_classes=4, blur_pool=blur_pool)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        assert not same(ours, theirs)
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--help"])
    assert "resnetblur18" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["A", "B"])
def test_akamaster(cli, option):
    theirs = shaken(Akamaster(3, option))
    state = {
        f"module.{k}": v for k, v in theirs.state_dict().items() if "num_batches" not in k
    }  # as old torch wrote
    torch.save(
        {"state_dict": state, "best_prec1": 91.7},
        "resnet20.th",
        _use_new_zipfile_serialization=False,
    )
    code, out, err = cli("convert", "resnet20.th", "--out", "aka.ckpt")
    assert (
        code == 0 and f"CifarResNet depth=20 shortcut={option} block=basic num_classes=10" in out
    ), err
    trained = load("aka.ckpt")
    assert trained.classes[3] == "cat" and same(trained.task.net, theirs, IMAGES[:, :, :32, :32])


def test_a_plain_net_is_told_by_hand_and_others_are_refused(cli):
    plain = shaken(CifarResNet(8, "none"))
    torch.save(plain.state_dict(), "plain.pth")
    assert cli("convert", "plain.pth", "--out", "plain.ckpt", "--shortcut", "none")[0] == 0
    assert same(load("plain.ckpt").task.net, plain)
    code, _, err = cli("convert", "plain.pth", "--out", "plain.ckpt", "--shortcut", "B")
    assert code == 2 and "option A" in err
    for net, word in (
        (
            torchvision.models.ResNet(Bottleneck, [1, 1, 1, 2]),
            "stages of [1, 1, 1, 2] blocks",
        ),
        (timm.create_model("resnet26t"), "conv1.0.weight"),
        (timm.create_model("ecaresnet26t"), "conv1.0.weight"),
    ):
        torch.save(net.state_dict(), "other.pth")
        code, _, err = cli("convert", "other.pth", "--out", "other.ckpt")
        assert code == 2 and word in err and "Traceback" not in err, err
    torch.save(
        plain.state_dict() | {"layer1.0.conv1.weight": torch.zeros(4, 16, 3, 3)}, "other.pth"
    )
    code, _, err = cli("convert", "other.pth", "--out", "other.ckpt")
    assert (
        code == 2
        and "layer1.0.conv1.weight is (4, 16, 3, 3) there and (16, 16, 3, 3) here, in CifarResNet"
        in err
    )
    Path("junk.pth").write_bytes(b"junk" * 99)
    for file, word in (
        ("none.pth", "none.pth does not exist"),
        ("junk.pth", "cannot be read as weights"),
        ("x.ckpt", "exist"),
    ):
        code, _, err = cli("convert", file, "--out", "new.ckpt")
        assert code == 2 and word in err
    assert cli("convert", "plain.pth", "--out", "new.tar")[0] == 2


@pytest.mark.parametrize(
    ("name", "options", "elsewhere"),
    [
        ("resnet18d", {"depth": 18, "stem": "deep", "downsample": "average"}, "no net"),
        ("seresnet18", {"depth": 18, "se_ratio": 0.0625}, "no net"),
        ("resnet26", {"depth": 26}, "no net"),
        ("resnext50_32x4d", {"depth": 50, "groups": 32, "width_per_group": 4}, "resnext50_32x4d("),
        ("wide_resnet50_2", {"depth": 50, "width_per_group": 128}, "wide_resnet50_2("),
    ],
)
def test_relatives_are_told_by_their_tensors(name, options, elsewhere):
    theirs = shaken(timm.create_model(name, num_classes=3))
    known = recognise(unwrap(theirs.state_dict()))
    assert known.options == options | {"shortcut": "B", "num_classes": 3}
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(known.net(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)
    assert elsewhere in use_elsewhere(known.net, known.class_path, known.options)


@pytest.mark.parametrize("depth", [20, 29])
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_the_form_is_read_off_the_tensors(depth, shortcut):
    block = "bottleneck" if depth == 29 else "basic"
    net = shaken(CifarResNet(depth, shortcut, width=8, num_classes=3, block=block))
    known = recognise(unwrap({"model": net.state_dict()}))
    assert (
        known.options["shortcut"] == shortcut
        and known.options["depth"] == depth
        and same(known.net, net)
    )
    assert recognise(ImageNetResNet(18, shortcut).state_dict()).options["shortcut"] == shortcut


def test_a_run_starts_from_converted_weights_and_says_that_the_head_is_new(cli, tmp_path):
    theirs = shaken(Akamaster(1, num_classes=7))
    torch.save({"state_dict": theirs.state_dict()}, "theirs.th")
    assert cli("convert", "theirs.th", "--out", "ours.ckpt")[0] == 0
    flags = [
        *TINY,
        "--model.net.width",
        16,
        "--trainer.max_epochs",
        1,
        "--trainer.limit_train_batches",
        2,
    ]
    code, out, err = cli("fit", *flags, "--run.init_from", "ours.ckpt")
    assert code == 0 and "net.fc.weight is new: (10, 64), (7, 64) in ours.ckpt" in out, err
    run = only_run()
    code, out, err = cli("convert", run, "--out", "weights.ckpt")
    assert code == 0 and "10 class names" in out
    shapes = [*TINY, "--model.net.width", 16]
    a = cli("validate", *shapes, "--ckpt_path", "weights.ckpt")[1]
    b = cli("validate", *shapes, "--ckpt_path", run / "checkpoints" / "last.ckpt")[1]
    assert json.loads(a)["val/acc1"] == json.loads(b)["val/acc1"]


def test_averaged_weights_by_convention(cli):
    net, average = shaken(CifarResNet(8), 1), shaken(CifarResNet(8), 2)
    torch.save(net.state_dict(), "net.pth")
    assert cli("convert", "net.pth", "--out", "net.ckpt")[0] == 0
    assert cli("convert", "net.ckpt", "--out", "ema.pth", "--weights", "ema")[0] == 2
    content = torch.load("net.ckpt")
    content["state_dict"] |= {f"ema.{k}": v for k, v in average.state_dict().items()}
    torch.save(content, "both.ckpt")
    assert cli("convert", "both.ckpt", "--out", "ema.ckpt", "--weights", "ema")[0] == 0
    assert same(load("ema.ckpt").task.net, average) and same(load("both.ckpt").task.net, net)


@pytest.mark.parametrize(("key", "prefix"), [("state_dict_ema", ""), ("model_ema", "module.")])
def test_the_average_in_files_of_others_is_told_and_taken_when_asked(cli, key, prefix):
    net, average = shaken(CifarResNet(8), 1), shaken(CifarResNet(8), 2)
    counter = {"n_averaged": torch.tensor(3)} if prefix else {}
    averaged = {f"{prefix}{k}": v for k, v in average.state_dict().items()} | counter
    torch.save({"state_dict": net.state_dict(), key: averaged}, "theirs.pth")
    code, out, err = cli("convert", "theirs.pth", "--out", "raw.ckpt")
    assert (
        code == 0 and f"weights: as trained; the file also holds their moving average, {key}" in out
    ), err
    code, out, err = cli("convert", "theirs.pth", "--out", "ema.ckpt", "--weights", "ema")
    assert code == 0 and f"weights: their moving average, {key}" in out, err
    assert same(load("raw.ckpt").task.net, net) and same(load("ema.ckpt").task.net, average)
    torch.save({"state_dict": net.state_dict()}, "plain.pth")
    code, out, err = cli("convert", "plain.pth", "--out", "no.ckpt", "--weights", "ema")
    assert code == 2 and "holds no averaged weights" in err
    assert "weights:" not in cli("convert", "plain.pth", "--out", "plain.ckpt")[1]


def test_normalisation_outlives_a_round_trip_or_is_told(cli):
    torch.save(shaken(CifarResNet(8)).state_dict(), "theirs.pth")
    constants = ["--mean", 0.4914, 0.4822, 0.4465, "--std", 0.247, 0.2435, 0.2616]
    code, out, err = cli("convert", "theirs.pth", "--out", "first.ckpt", *constants)
    said = "--mean 0.4914 0.4822 0.4465 --std 0.247 0.2435 0.2616"
    assert code == 0 and f"normalisation as given: {said}\n" in out, err
    first = torch.load("first.ckpt")["state_dict"]
    assert first["mean"].flatten().tolist() == pytest.approx([125.307, 122.961, 113.8575])
    assert cli("convert", "first.ckpt", "--out", "net.safetensors")[0] == 0
    code, out, _ = cli("convert", "net.safetensors", "--out", "back.ckpt")
    back = torch.load("back.ckpt")["state_dict"]
    assert f"normalisation from the file: {said}\n" in out
    assert first.keys() == back.keys() and all(torch.equal(first[k], back[k]) for k in first)
    assert (
        f"normalisation is not in this file: {said};"
        in cli("convert", "first.ckpt", "--out", "net.pth")[1]
    )
    code, out, _ = cli("convert", "net.pth", "--out", "back.ckpt")
    assert (
        "normalisation assumed, as the file tells none: --mean 0.485 0.456 0.406 --std 0.229 "
        "0.224 0.225\n" in out
    )
    code, out, _ = cli("convert", "net.pth", "--out", "back.ckpt", *said.split())
    torch.testing.assert_close(torch.load("back.ckpt")["state_dict"]["std"], first["std"])
    assert cli("convert", "net.pth", "--out", "back.ckpt", "--std", 1, 0, 1)[0] == 2


@pytest.mark.parametrize("told", ["0.485,0.456,0.406", "[1, 2]", "[0, 0, 0]", "[NaN, 1, 1]", "[[]"])
def test_normalisation_in_a_file_is_three_numbers_or_given_by_flag(cli, told):
    save_file(dict(CifarResNet(8).state_dict()), "net.safetensors", {"std": told})
    code, _, err = cli("convert", "net.safetensors", "--out", "net.ckpt")
    assert code == 2 and err.count("\n") == 1 and not Path("net.ckpt").exists()
    assert f"std in its metadata is {told}, not three numbers above 0: give it by" in err
    assert cli("convert", "net.safetensors", "--out", "net.ckpt", "--std", 0.2, 0.2, 0.2)[0] == 0


def test_class_names_outlive_a_round_trip_or_are_told(cli):
    torch.save(CifarResNet(8).state_dict(), "theirs.pth")
    digits = [f"digit {n}" for n in range(10)]
    Path("names.txt").write_text("\n".join(digits))
    code, out, err = cli("convert", "theirs.pth", "--out", "ours.ckpt", "--classes", "names.txt")
    assert code == 0 and "class names assumed" not in out, err
    assert cli("convert", "ours.ckpt", "--out", "net.safetensors")[0] == 0
    code, out, _ = cli("convert", "net.safetensors", "--out", "back.ckpt")
    assert "class names assumed" not in out and load("back.ckpt").classes == digits
    unnamed = torch.load("ours.ckpt")
    unnamed["run"]["classes"] = []
    torch.save(unnamed, "unnamed.ckpt")
    assert cli("convert", "unnamed.ckpt", "--out", "net.safetensors")[0] == 0
    assert "no class names" in cli("convert", "net.safetensors", "--out", "back.ckpt")[1]
    code, out, _ = cli("convert", "theirs.pth", "--out", "back.ckpt")
    assert "class names assumed, as the file tells none: airplane, automobile, bird, ...;" in out
    for told in ('["a", "b"]', "[1]", "a,b"):
        save_file(dict(CifarResNet(8).state_dict()), "net.safetensors", {"classes": told})
        code, out, _ = cli("convert", "net.safetensors", "--out", "x.ckpt")
        assert code == 0 and "class names assumed" in out  # what others write there
    named = ["--classes", "names.txt"]
    assert cli("convert", "net.safetensors", "--out", "back.ckpt", *named)[0] == 0


def test_a_net_is_compared_before_it_takes_memory():
    state = dict(CifarResNet(8).state_dict())
    state["conv1.weight"] = torch.zeros(1).expand(1 << 20, 3, 3, 3)
    with pytest.raises(UserError, match="no net of ours: bn1.weight is .16,. there"):
        recognise(state)
    state["conv1.weight"] = torch.zeros(1).expand(1 << 40, 3, 3, 3)
    with pytest.raises(UserError, match="Storage size calculation overflowed"):
        recognise(state)


def test_a_convolution_without_channels_is_refused():
    state = dict(ImageNetResNet(50).state_dict())
    state["layer1.0.conv2.weight"] = torch.zeros(64, 0, 3, 3)
    with pytest.raises(UserError, match="no CIFAR or ImageNet ResNet of ours"):
        recognise(state)


def test_flags_that_do_not_apply_are_refused(cli):
    torch.save(shaken(CifarResNet(8)).state_dict(), "theirs.pth")
    assert cli("convert", "theirs.pth", "--out", "ours.ckpt")[0] == 0
    Path("many.txt").write_text("".join(f"name{i}\n" for i in range(1000)))
    for file, out, flags, word in (
        (
            "theirs.pth",
            "new.ckpt",
            ["--classes", "many.txt"],
            "many.txt names 1000 classes, the net has 10 outputs",
        ),
        (
            "ours.ckpt",
            "new.ckpt",
            ["--classes", "many.txt"],
            "many.txt names 1000 classes, the net has 10 outputs",
        ),
        ("ours.ckpt", "new.ckpt", ["--shortcut", "B"], "--shortcut is for weights of others"),
        ("ours.ckpt", "new.pth", ["--std", 1, 1, 1], "--std is for weights of others"),
        ("theirs.pth", "new.ckpt", ["--size", 64], "--size is of .onnx files"),
    ):
        code, _, err = cli("convert", file, "--out", out, *flags)
        assert code == 2 and word in err and not Path(out).exists(), err
    Path("ten.txt").write_text("".join(f"name{i}\n" for i in range(10)))
    assert cli("convert", "ours.ckpt", "--out", "new.ckpt", "--classes", "ten.txt")[0] == 0
    assert load("new.ckpt").classes[3] == "name3"


@pytest.mark.slow  # the exporter alone takes 15 s
def test_onnx_gives_the_same_logits_on_batches_of_any_size(cli):
    theirs = shaken(CifarResNet(8, "B", width=4, num_classes=3))
    torch.save(theirs.state_dict(), "theirs.pth")
    Path("names.txt").write_text("ant\nbee\ncat\n")
    code, out, err = cli(
        "convert", "theirs.pth", "--out", "net.onnx", "--size", 64, "--classes", "names.txt"
    )
    assert code == 0 and "within" in out, err
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["ant", "bee", "cat"]
    assert told["preprocessing"] in out
    for images in (PIXELS, PIXELS[:1]):
        (got,) = session.run(["logits"], {"images": images.numpy()})
        with torch.no_grad():
            wanted = theirs((images - MEAN) / STD)
        assert (torch.from_numpy(got) - wanted).abs().max() < 1e-4 * max(1, wanted.abs().max())


def test_onnx_tells_how_an_image_is_prepared(cli):
    """The words are those of what `predict` makes of an image."""
    torch.save(CifarResNet(8, num_classes=3).state_dict(), "theirs.pth")
    assert cli("convert", "theirs.pth", "--out", "ours.ckpt")[0] == 0
    told = onnx_export.prepared(load("ours.ckpt"), 32)
    assert "central square of 0.875 of the shorter side, scaled to 32x32 (bilinear" in told
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    photo.save("photo.png")
    side = round(0.875 * min(photo.size))
    left = (photo.width - side) // 2
    top = (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    pixels = np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR))
    read = FileImages(np.zeros(1, int), np.zeros(1, int), ["photo.png"])
    augment = load("ours.ckpt").experiment.data.eval_augment
    made, _ = read_files(read, augment, 0, 0, np.zeros(1, int))
    assert (made[0].permute(1, 2, 0).numpy() == pixels).all()


def test_weights_of_others_are_taken_as_they_lie(cli):
    """A .pth begins a training, and predicts, as the .ckpt does that convert makes of it."""
    net = CifarResNet(8, num_classes=10)
    torch.save(net.state_dict(), "theirs.pth")
    save_file(net.state_dict(), "theirs.safetensors")
    Image.new("RGB", (32, 32)).save("photo.png")
    assert cli("convert", "theirs.pth", "--out", "ours.ckpt")[0] == 0
    flags = ["photo.png", "--format", "csv", "--data.size", 32]
    wanted = cli("predict", "ours.ckpt", *flags)[1]
    for file in ("theirs.pth", "theirs.safetensors"):
        code, out, err = cli("predict", file, *flags)
        assert code == 0 and out == wanted and "normalisation assumed" in err, err
    few = ["--epochs", 1, "--trainer.limit_train_batches", 2, "--trainer.limit_val_batches", 1]
    few += ["--model.net.width", 16]
    code, out, err = cli("fit", *TINY, *few, "--run.init_from", "theirs.pth")
    assert code == 0 and "net.fc.weight is" in out, err
    code, _, err = cli("fit", "--data", "CIFAR10", "--arch", "resnet20")
    assert code == 2 and "train for how many epochs? give --epochs N" in err


def test_onnx_is_an_extra(cli, monkeypatch):
    torch.save(CifarResNet(8).state_dict(), "theirs.pth")
    monkeypatch.setattr(onnx_export, "is_installed", lambda name: None)
    code, _, err = cli("convert", "theirs.pth", "--out", "none.onnx")
    assert code == 2 and "pip install" in err and not Path("none.onnx").exists()


def test_a_converted_file_tells_its_recipe(cli):
    torch.save(shaken(CifarResNet(8, num_classes=100)).state_dict(), "c100.pth")
    assert cli("convert", "c100.pth", "--out", "c100.ckpt")[0] == 0
    recipe = yaml.safe_load(torch.load("c100.ckpt")["run"]["config"])
    assert recipe["data"]["source"]["class_path"] == "CIFAR100"
    flags = "--data.source Synthetic --data.source.num_classes 100 --data.size null".split()
    code, out, err = cli("inspect", "responses", "c100.ckpt", *flags, "--out", "report")
    assert code == 0 and "c100" in out, err


@pytest.mark.parametrize(
    "make",
    [
        lambda: (CifarResNet, {"depth": 20}),
        lambda: (CifarResNet, {"depth": 56, "shortcut": "B"}),
        lambda: (CifarResNet, {"depth": 110}),
        lambda: (CifarResNet, {"depth": 20, "shortcut": "C", "width": 8}),
        lambda: (CifarResNet, {"depth": 29, "block": "bottleneck", "shortcut": "B"}),
        lambda: (CifarResNet, {"depth": 20, "shortcut": "scaled", "branch_scale": 0.5}),
        lambda: (CifarResNet, {"depth": 20, "norm": "none", "branch_scale": "rezero"}),
        lambda: (CifarResNet, {"depth": 20, "stochastic_depth": 0.5}),
        lambda: (CifarResNet, {"depth": 8, "block": "single"}),
        lambda: (ImageNetResNet, {"depth": 18, "num_classes": 10}),
    ],
)
def test_the_plain_form_computes_the_same(make):
    """Meng et al. 2021: exact up to rounding, without a shortcut, a norm or a gate."""
    kind, options = make()
    net = shaken(kind(**options)).eval()
    for scale in (m for m in net.modules() if isinstance(m, Scale)):
        nn.init.constant_(scale.weight, 0.3)
    plain = plain_form(net, options)
    x = torch.randn(4, 3, 33, 33)
    with torch.no_grad():
        wanted = net(x)
        assert (plain(x) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert not any(block.residual for block in block_modules(plain))
    for mine, theirs in zip(block_modules(plain), block_modules(net), strict=True):
        if mine.layers > 1:
            carried = mine.conv1.out_channels - theirs.conv1.out_channels
            assert carried == mine.conv1.in_channels


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (CifarResNet, {"depth": 8, "shortcut": "none"}, "plain already"),
        (CifarResNet, {"depth": 8, "block": "preact"}, "order preact x may be negative"),
        (CifarResNet, {"depth": 8, "shortcut": "gate"}, "a gate multiplies x"),
        (CifarResNet, {"depth": 8, "norm": "none", "branch_scale": "fixup"}, "Fixup"),
        (ImageNetResNet, {"depth": 18, "se_ratio": 0.0625}, "squeeze-and-excitation"),
        (ImageNetResNet, {"depth": 18, "blur_pool": True}, "blur"),
        (ImageNetResNet, {"depth": 50, "groups": 32, "width_per_group": 4}, "grouped"),
        (ImageNetResNet, {"depth": 18, "downsample": "average"}, "means of pixels"),
        (ImageNetResNet, {"depth": 18, "stem": "deep"}, "deep stem"),
        (torchvision.models.resnet18, {}, "not of ResNet"),
    ],
)
def test_nets_without_a_plain_form_say_why(kind, options, message):
    with pytest.raises(UserError, match=message):
        plain_form(kind(**options), options)


def test_a_run_becomes_a_plain_net_that_trains_on(cli):
    assert cli("fit", *TINY, "--trainer.max_epochs", "2", "--run.name", "a")[0] == 0
    run = str(only_run("runs"))
    code, out, err = cli("convert", run, "--plain", "--out", "plain.ckpt", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["difference"] < 1e-5 and document["options"]["carries_input"]
    forms = {row["net"]: row for row in document["forms"]}
    assert forms["plain"]["parameters"] > forms["residual"]["parameters"]
    assert forms["plain"]["activations_kb"] > 0 and forms["plain"]["multiply_adds"] > 0
    code, out, err = cli("convert", run, "--plain", "--out", "plain.onnx")
    assert code == 0 and "kB of activations" in out and "uint8 [N, 3, 8, 8]" in out, err
    args = [*TINY, "--model.net.shortcut", "none", "--model.net.norm", "none"]
    args += ["--model.net.carries_input", "true", "--run.init_from", "plain.ckpt"]
    assert cli("fit", *args, "--trainer.max_epochs", "1", "--run.root", "on")[0] == 0
    error = 1 - history("runs", "val/acc1")[-1]
    trained_on = 1 - history("on", "val/acc1")[-1]
    assert trained_on < error + 0.2, "the plain net forgot what it was given"


def without_effect(net, name):
    """Make the branch of a block compute zeros."""
    block = net.get_submodule(name)
    last = block.get_submodule(f"bn{block.layers}")
    if not isinstance(last, nn.BatchNorm2d) or block.order == "preact":
        last = block.get_submodule(f"conv{block.layers}")
    for parameter in last.parameters():
        nn.init.zeros_(parameter)


@pytest.mark.parametrize(
    ("kind", "options", "names"),
    [
        (CifarResNet, {"depth": 20}, ["layer2.1"]),
        (CifarResNet, {"depth": 20, "shortcut": "B"}, ["layer1.0", "layer1.1", "layer1.2"]),
        (CifarResNet, {"depth": 20, "block": "preact"}, ["layer1.0", "layer3.2"]),
        (CifarResNet, {"depth": 20, "block": "relu_preact"}, ["layer3.1"]),
        (CifarResNet, {"depth": 20, "block": "relu_before_add"}, ["layer2.2"]),
        (CifarResNet, {"depth": 29, "block": "bottleneck", "shortcut": "B"}, ["layer1.1"]),
        (CifarResNet, {"depth": 20, "norm": "none", "branch_scale": "skip_init"}, ["layer2.1"]),
        (CifarResNet, {"depth": 20, "stochastic_depth": 0.5}, ["layer2.1", "layer3.1"]),
        (ImageNetResNet, {"depth": 18, "num_classes": 10}, ["layer3.1"]),
    ],
)
def test_a_block_whose_branch_is_zero_can_be_left_out(kind, options, names):
    net = shaken(kind(**options))
    for name in names:
        without_effect(net, name)
    shorter, told = without(net, options, names)
    assert told == options | {"drop_blocks": sorted(names)}
    x = torch.randn(4, 3, 33, 33)
    with torch.no_grad():
        assert torch.equal(shorter(x), net(x))
    left = [name for name, _, _ in blocks(net) if name not in names]
    assert [name for name, _, _ in blocks(shorter)] == left
    assert shorter.train()(x).isfinite().all()
    plain_again, _ = without(shorter.eval(), told, left[-1:])
    assert len(block_modules(plain_again)) == len(left) - 1


def test_what_is_left_computes_what_the_lesion_does():
    net = shaken(CifarResNet(20))
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        _, recorded = record_blocks(net, x)
        with drop([block for block in recorded if block.name in ("layer1.1", "layer3.2")]):
            wanted = net(x)
        shorter, _ = without(net, {"depth": 20}, ["layer1.1", "layer3.2"])
        assert torch.allclose(shorter(x), wanted, atol=1e-6)
        assert not torch.allclose(shorter(x), net(x), atol=1e-2)


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({}, "layer2.0", "changes the shape, 16 to 32 channels"),
        ({"shortcut": "B"}, "layer3.0", "changes the shape, 32 to 64 channels"),
        ({"shortcut": "C"}, "layer2.1", "is a projection"),
        ({"shortcut": "none"}, "layer2.1", "it is plain"),
        ({"shortcut": "scaled"}, "layer2.1", "multiplies x by 0.5"),
        ({"shortcut": "gate"}, "layer2.1", "has a gate"),
        ({"shortcut": "exclusive_gate"}, "layer2.1", "has a gate"),
        ({"shortcut": "dropout"}, "layer2.1", "drops parts of x"),
        ({"block": "bn_after_add"}, "layer2.1", "a norm follows its sum"),
        ({"block": "preact", "shared_activation": "first"}, "layer1.0", "takes the activation"),
        ({}, "layer2.3", "no block layer2.3; .*, layer2.0 to layer2.2, layer3.0 to"),
        ({}, "conv1", "no block conv1"),
    ],
)
def test_a_block_that_does_more_than_add_is_kept(options, name, message):
    options = {"depth": 20} | options
    with pytest.raises(UserError, match=message):
        without(CifarResNet(**options), options, [name])


def test_blocks_are_dropped_of_our_nets_and_not_all():
    with pytest.raises(UserError, match="not of ResNet"):
        without(torchvision.models.resnet18(), {}, ["layer1.0"])
    for names, message in (
        (["layer2.0"], "layer2.0 changes the shape"),
        (["layer4.0"], "no block layer4.0"),
        ([f"layer{i}.{k}" for i in (1, 2, 3) for k in range(3)], "no block would be left"),
    ):
        with pytest.raises(ValueError, match=message):
            CifarResNet(20, drop_blocks=names)


def test_a_run_without_a_block_is_evaluated_exported_and_trains_on(cli):
    deep = [*TINY, "--model.net.depth", "14"]
    assert cli("fit", *deep, "--trainer.max_epochs", "2", "--run.name", "a")[0] == 0
    run = str(only_run("runs"))
    drop_two = ["--drop-block", "layer1.0,layer2.1", "--drop-block", "layer3.1"]
    code, out, err = cli("convert", run, *drop_two, "--out", "short.ckpt", "--json")
    assert code == 0 and "--run.init_from short.ckpt" in err, err
    document = json.loads(out)
    assert document["options"]["drop_blocks"] == ["layer1.0", "layer2.1", "layer3.1"]
    given, shorter = document["forms"]
    assert shorter["parameters"] < given["parameters"] and document["difference"] > 0
    assert cli("evaluate", "short.ckpt")[0] == 0
    assert cli("convert", "short.ckpt", "--out", "short.onnx", "--size", "8")[0] == 0
    code, out, err = cli("convert", "short.ckpt", "--plain", "--out", "plain.ckpt", "--json")
    assert code == 0 and json.loads(out)["difference"] < 1e-5, err
    code, out, err = cli("convert", "short.ckpt", "--out", "short.safetensors")
    assert code == 0 and "do not tell drop_blocks" in out + err
    again = [*deep, "--model.net.drop_blocks", '["layer1.0", "layer2.1", "layer3.1"]']
    again += ["--run.init_from", "short.ckpt", "--trainer.max_epochs", "1", "--run.root", "on"]
    assert cli("fit", *again)[0] == 0
    code, _, err = cli("fit", *deep, "--run.init_from", "short.ckpt", "--run.root", "other")
    assert code == 2 and "drop_blocks" in err and not Path("other").exists()
    code, _, err = cli("convert", run, "--drop-block", "layer2.0", "--out", "no.ckpt")
    assert code == 2 and "changes the shape" in err and not Path("no.ckpt").exists()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"depth": 8}, []),
        ({"depth": 8, "shortcut": "C", "width": 4, "num_classes": 3}, []),
        ({"depth": 8, "shortcut": "none", "init": "xavier"}, []),
        ({"depth": 8, "stochastic_depth": 0.5}, ["stochastic_depth"]),
        ({"depth": 8, "block": "relu_before_add"}, ["block"]),
        ({"depth": 8, "shortcut": "scaled", "branch_scale": 0.5}, ["shortcut", "branch_scale"]),
    ],
)
def test_options_that_tensors_do_not_tell_are_named(options, names):
    assert untold(CifarResNet(**options), options) == names


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_torchvisions_own_net_are_told_to_be_that_nets(cli, suffix):
    options = {"weights": None, "num_classes": 10}
    net = torchvision.models.resnet18(**options)
    known = RecognisedNet("torchvision.models.resnet18", options, net)
    torch.save(checkpoint_of(known, "own", []), "own.ckpt")
    code, out, err = cli("convert", "own.ckpt", "--out", f"own{suffix}")
    assert code == 0 and re.search(r"models\.resnet18\(.*num_classes=10.* loads it", out), err
    assert "warning" not in out + err


def test_peak_memory_counts_what_is_alive():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 1, 1))
    x = torch.zeros(1, 1, 10, 10)
    with torch.inference_mode(), PeakMemory() as memory:
        net(x)
    assert memory.peak == 4 * 100 * (2 + 4) and memory.alive == 0
