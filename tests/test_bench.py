"""Benchmarks measure what they say: the same nets, every kind's table, shares that add up."""

import pytest
import torch

from lightning_resnet.bench.plain import PlainScriptResNet
from lightning_resnet.models import CifarResNet
from lightning_resnet.optim import fuse


def test_the_plain_script_is_the_same_net():
    ours, script = CifarResNet(14), PlainScriptResNet(14)
    with torch.no_grad():
        for a, b in zip(script.parameters(), ours.parameters(), strict=True):
            a.copy_(b)
    x = torch.randn(4, 3, 16, 16)
    assert torch.allclose(ours(x), script(x), atol=1e-5)


def test_step_prints_a_row_for_each_net(cli):
    small = "--size 16 --batch 2 --steps 1 --repeat 2 --threads 1 --out step.md".split()
    code, out, _ = cli("bench", "step", "--net", "cifar-8", "imagenet-18", *small)
    rows = [line.split(" | ")[0].removeprefix("| ") for line in out.splitlines() if line.startswith("| ")]
    assert code == 0 and rows == ["net", "---", "ours", "script", "net", "---", "ours", "torchvision", "timm"]
    assert "`resnet-cli bench step" in out and "torch 2" in out
    assert cli("bench", "step", "--vs", "keras")[0] == 2 == cli("bench", "step", "--net", "vgg")[0]


@pytest.mark.filterwarnings("ignore")  # Lightning's own, of the Trainer that is measured beside
def test_overhead_measures_all_loops(cli):
    code, out, err = cli("bench", "overhead", "--steps", "8", "--repeat", "1")
    assert code == 0, err
    cells = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")][2:]
    assert len(cells) == 4 and cells[0][2] == "0 (0 to 0)"
    assert all(float(cell[1].split()[0].replace(",", "")) > 0 for cell in cells)


def test_an_optimizer_is_fused_on_a_gpu_only():
    for device, fused in (("cpu", None), ("cuda", True)):
        optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), 0.1)
        assert fuse(optimizer, torch.device(device)) is optimizer
        assert [group["fused"] for group in optimizer.param_groups] == [fused]
    chosen = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), 0.1, foreach=True)
    assert fuse(chosen, torch.device("cuda")).param_groups[0]["fused"] is None
    other = torch.optim.Rprop(torch.nn.Linear(2, 2).parameters(), 0.1)
    assert "fused" not in fuse(other, torch.device("cuda")).param_groups[0]
