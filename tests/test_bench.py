"""Benchmarks measure what they say: the same nets, every kind's table, shares that add up."""

import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from helpers.command_line import REPOSITORY
from helpers.markdown import rows_of
from torchvision.transforms import v2

from lightning_resnet.bench import child, loader, peers, startup, train
from lightning_resnet.bench.inputs import make_photos
from lightning_resnet.bench.plain import PlainScriptResNet
from lightning_resnet.bench.roofline import step_traffic, traffic
from lightning_resnet.bench.scaling import moved
from lightning_resnet.cli import bench
from lightning_resnet.data.augment import policies
from lightning_resnet.data.sources.beton_files import images_of, open_beton
from lightning_resnet.errors import UserError
from lightning_resnet.models import CifarResNet
from lightning_resnet.training.optimizer import fuse


def test_the_plain_script_is_the_same_net():
    ours, script = CifarResNet(14), PlainScriptResNet(14)
    with torch.no_grad():
        for a, b in zip(script.parameters(), ours.parameters(), strict=True):
            a.copy_(b)
    x = torch.randn(4, 3, 16, 16)
    assert torch.allclose(ours(x), script(x), atol=1e-5)


def test_traffic_counts_each_tensor_of_each_operation_once():
    """Counted by hand, in bytes, for 10 numbers of 4 bytes.

    relu reads 40 and writes 40, sum 40 and 4, the gradient of ones 4 and 4, the gradient of relu
    reads 80 and writes 40.
    """
    x = torch.zeros(10, device="meta", requires_grad=True)
    assert traffic(lambda: x.relu().sum().backward()) == 80 + 44 + 8 + 120
    few = step_traffic(CifarResNet(8, width=4), 16, 8, "32")
    assert 1.7 * few < step_traffic(CifarResNet(8, width=4), 16, 16, "32") < 2 * few
    half = step_traffic(CifarResNet(8, width=4), 16, 8, "bf16")
    assert 0.5 * few < half < 0.51 * few


def test_step_prints_a_row_for_each_net(cli):
    small = "--size 16 --batch 2 --steps 1 --repeat 2 --threads 1 --out step.md".split()
    code, out, _ = cli("bench", "step", "--net", "cifar-8", "imagenet-18", *small)
    first = [row[0] for row in rows_of(out)]
    assert code == 0 and first == ["net", "ours", "script", "net", "ours", "torchvision", "timm"]
    assert "`resnet-cli bench step" in out and "torch 2" in out
    assert out.count("Roofline of ours: ") == 2 and "bound by " in out
    wrong = ["--vs keras", "--net vgg", "--net imagenet-20", "--repeat 0", "--compile nonsense"]
    wrong += [] if torch.cuda.is_available() else ["--device cuda"]
    for words in wrong:
        code, _, err = cli("bench", "step", *words.split())
        assert code == 2 and len(err.strip().splitlines()) == 1 and "Traceback" not in err, err


@pytest.mark.filterwarnings(
    "ignore"
)  # Lightning's own, of the Trainer that is measured for comparison
def test_overhead_measures_all_loops(cli):
    code, out, err = cli("bench", "overhead", "--steps", "8", "--repeat", "1")
    assert code == 0, err
    cells = rows_of(out)[1:]
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


def test_the_largest_share_is_the_bottleneck():
    one = {
        "steps_per_s": 10.0,
        "images_per_s": 640.0,
        "decode": 0.5,
        "copy": 0.0,
        "step": 0.4,
        "loop": 0.1,
    }
    row = train._row("net", [one, one | {"decode": 0.7, "step": 0.2}, one], [20.0, 20.0, 20.0])
    assert row[5].startswith("0.500") and row[6:] == [
        "decode",
        "50.0 %",
        "0.0 %",
        "40.0 %",
        "10.0 %",
    ]


MOUNT = SimpleNamespace(mountpoint="/", fstype="ext4")
MOUNT_OF_TMP = SimpleNamespace(mountpoint=tempfile.gettempdir(), fstype="tmpfs")


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        ("", "needs one of startup, overhead, loader"),
        ("step --steps 0", "1 or more"),
        ("overhead --batch 0", "1 or more"),
        ("loader --images 100", "256 or more"),
        (
            "loader --policy RandAugment --peers ffcv",
            "for the peers ours, torchvision",
        ),
        ("loader --cold --peers ffcv", "the others keep what they read"),
        ("loader --peers ours spdl", "the package spdl_that_is_nowhere is not installed"),
        ("train --json missing/rows.jsonl", "missing/rows.jsonl"),
        ("train --out missing/train.md", "missing/train.md"),
        ("train --recipe sweep.yaml", "such as digits"),
        ("train --recipe broken.yaml", "broken.yaml: this is not YAML"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(cli, monkeypatch, words, cure):
    monkeypatch.setattr(train, "child", None)
    monkeypatch.setitem(loader.PACKAGES, "spdl", "spdl_that_is_nowhere")
    Path("sweep.yaml").write_text("method: grid")
    Path("broken.yaml").write_text("data: [")
    code, _, err = cli("bench", *words.split())
    assert code == 2 and cure in err and len(err.strip().splitlines()) == 1, err


def test_a_process_that_hangs_is_given_up_with_its_children(monkeypatch):
    monkeypatch.setattr(child, "HANG_S", 1.0)
    hangs = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '99']); print(p.pid, "
        "flush=True); p.wait()"
    )
    with child.child([sys.executable, "-c", hangs]) as process:
        pid = int(process.stdout.readline())
        with pytest.raises(UserError, match="killed"):
            child.output(process)
    if psutil.pid_exists(pid):  # it is being killed, or waits for its new parent to look
        psutil.wait_procs([psutil.Process(pid)], timeout=20)
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    with (
        pytest.raises(UserError, match="ended with 3"),
        child.child([sys.executable, "-c", "exit(3)"]) as process,
    ):
        child.output(process)


def test_ours_and_the_peers_read_the_same_images(tmp_path):
    make_photos(tmp_path, 24)
    assert (
        len(images_of(open_beton(tmp_path / "photos.beton")))
        == len([*tmp_path.rglob("*.jpg")])
        == 24
    )


def test_the_flags_offer_all_that_is_measured():
    assert bench.PEERS == [peer for group in loader.GROUPS.values() for peer in group]
    for name in bench.POLICIES:
        assert issubclass(getattr(policies, name), policies.Policy)
    for name, theirs in peers.POLICIES.items():
        assert name in bench.POLICIES and hasattr(v2, theirs)
    assert list(train.NETS) == bench.NETS and {*bench.SCALING_NETS} <= {*bench.NETS}


def test_bytes_of_a_ring():
    assert [moved(1000, n) for n in (1, 2, 4)] == [0, 4000, 6000]


@pytest.mark.slow
def test_train_and_scaling_measure_real_runs(cli):
    code, out, err = cli(
        "bench",
        "train",
        "--processes",
        "1",
        "--steps",
        "20",
        "--repeat",
        "1",
        "--json",
        "rows.jsonl",
    )
    assert code == 0 and "| digits |" in out, err
    two = "--nets digits --loaders device torch --processes 1 --steps 20 --repeat 1".split()
    code, out, err = cli("bench", "train", *two)
    assert code == 0 and [row[0] for row in rows_of(out)[1:]] == ["digits, device", "digits, torch"]
    (row,) = map(json.loads, Path("rows.jsonl").read_text().splitlines())
    (fit,) = row["fit"]
    assert (
        sum(fit[part] for part in train.PARTS) == pytest.approx(1)
        and min(fit.values()) >= 0
        and row["git_sha"]
    )
    assert fit["images_per_s"] == pytest.approx(64 * fit["steps_per_s"])
    short = [
        "--recipe",
        str(REPOSITORY / "configs/digits.yaml"),
        *"--processes 1 --repeat 1 --steps 200".split(),
    ]
    code, out, err = cli(
        "bench", "train", *short, "--flags", "--data.batch_size", "128"
    )  # an epoch of 11 steps
    assert code == 0 and rows_of(out)[1][0].endswith("digits.yaml") and "bare" not in out, err
    code, _, err = cli("bench", "train", *short, "--flags", "--data.batch_size", "700")
    assert code == 2 and "a smaller --data.batch_size" in err
    code, out, err = cli("bench", "scaling", "--net", "digits", "--steps", "10", "--repeat", "1")
    assert code == 0 and rows_of(out)[2][0] == "2", err


@pytest.mark.slow
def test_loaders_are_measured_with_a_policy_and_without(cli):
    words = "loader --policy TrivialAugment Lighting --images 256 --size 32 --threads 1 --repeat 1"
    code, out, err = cli("bench", *words.split())
    assert code == 0, err
    rows = rows_of(out)[1:]
    assert [row[1] for row in rows] == ["none"] * 3 + ["TrivialAugment"] * 3 + ["Lighting"]
    assert all(float(row[2].split()[0].replace(",", "")) > 0 for row in rows)


@pytest.mark.slow
def test_loaders_read_files_that_are_not_cached(cli):
    words = "loader --cold --images 256 --pixels 64 --size 32 --threads 1 --repeat 1"
    code, out, err = cli("bench", *words.split())
    assert code == 0, err
    loaders = {row[0] for row in rows_of(out)[1:]}
    assert "JPEGs of 64 px" in out and "dropped from this" in out
    assert loaders >= {loader.GROUPS["photos"][peer] for peer in ("ours", "torchvision")}
    assert loaders <= {loader.GROUPS["photos"][peer] for peer in loader.COLD}


def test_files_in_memory_cannot_be_cold(cli, monkeypatch):
    monkeypatch.setattr(loader.psutil, "disk_partitions", lambda all: [MOUNT, MOUNT_OF_TMP])
    code, _, err = cli("bench", "loader", "--cold", "--images", "256")
    assert code == 2 and "is in memory; TMPDIR=FOLDER names one on a disk" in err
    monkeypatch.setattr(loader.psutil, "disk_partitions", lambda all: [MOUNT])
    assert not loader._is_in_memory(Path("/tmp"))


@pytest.mark.slow
def test_stock_ffcv_takes_more_threads_than_the_machine_has_cores(cli):
    pytest.importorskip("ffcv")
    words = "loader --peers ours ffcv --images 256 --pixels 64 --size 32 --repeat 1 --threads"
    code, out, err = cli("bench", *words.split(), str(os.cpu_count() + 2))
    assert code == 0, err
    assert len(rows_of(out)) == 3


@pytest.mark.slow
def test_evaluation_measures_ours_and_the_peer(cli):
    code, out, err = cli(
        "bench", "evaluation", "--images", "64", "--size", "32", "--threads", "1", "--repeat", "1"
    )
    rates = [row[1] for row in rows_of(out)[1:]]
    assert (
        code == 0
        and len(rates) == 2
        and all(float(rate.split()[0].replace(",", "")) > 0 for rate in rates)
    ), err


@pytest.mark.slow
def test_startup_measures_commands_that_use_a_trained_net(cli, monkeypatch):
    monkeypatch.setattr(startup, "ANSWERS", {"--version": ["--version"]})
    every = startup._commands()
    few = ("import pytorch_lightning", "resnet-cli --version", "resnet-cli predict, one image")
    monkeypatch.setattr(startup, "_commands", lambda: {name: every[name] for name in few})
    code, out, err = cli("bench", "startup", "--repeat", "1")
    rows = rows_of(out)[1:]
    assert code == 0 and [row[0] for row in rows] == [*few], err
    beyond = [row[2] for row in rows]
    assert beyond[:2] == ["", ""] and beyond[2]
