"""What `make demo` shows, and what a user's own net must go through, with the real processes."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from helpers.command_line import REPOSITORY
from helpers.run_dir import unlabelled

from lightning_resnet.runs.checkpoint import load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


RESNET_CLI = str(Path(sys.executable).with_name("resnet-cli"))


def resnet_cli(*args):
    return subprocess.run(
        [RESNET_CLI, *map(str, args)], capture_output=True, text=True, timeout=800, check=True
    ).stdout


def test_degradation_on_digits(tmp_path, monkeypatch):
    """He et al. 2015, figures 1 and 6, in 330 steps: the deeper plain net is worse, the deeper
    residual net is not.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    resnet_cli("sweep", "configs/sweeps/digits_degradation.yaml", "--local", "-j", 2)
    resnet_cli("compare", "runs/digits_degradation")
    report = Path("runs/digits_degradation/report")
    assert {p.name for p in report.iterdir()} == {
        "curves.png",
        "curves.svg",
        "table.md",
        "table.csv",
        "table.tex",
        "index.html",
    }
    table = pd.read_csv(report / "table.csv", keep_default_na=False).set_index(
        ["depth", "shortcut"]
    )
    columns = (
        "depth,shortcut,n,val_err_final_mean,val_err_final_std,val_err_best_mean,train_err_mean,"
        "gap_points,params,macs,seconds"
    )
    assert (report / "table.csv").read_text().splitlines()[0] == columns
    error = table["val_err_final_mean"].astype(float)
    assert (table["n"] == 3).all()
    assert error[56, "A"] <= error[20, "A"] + 1

    from lightning_resnet.analysis import load_runs

    runs, history = load_runs(["runs/digits_degradation"])
    final = history[history["kind"] == "val"].sort_values("step").groupby("run_id").last()
    runs = runs.set_index("run_id").join(final[["val/acc1", "train_eval/acc1"]])
    for seed in range(3):
        for metric in ("val/acc1", "train_eval/acc1"):
            plain = runs[(runs["seed"] == seed) & (runs["shortcut"] == "none")].set_index("depth")[
                metric
            ]
            assert plain[56] <= plain[20] - 0.10, (seed, metric)


def test_a_net_from_a_file_outside_the_package_sweeps_and_compares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "tests/helpers/gated.py", "gated.py")
    recipe = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    recipe["model"]["net"] = {"class_path": "gated.GatedNet", "init_args": {"depth": 2}}
    recipe["trainer"]["max_epochs"] = 1
    Path("gated.yaml").write_text(yaml.safe_dump(recipe))
    sweep = {
        "method": "grid",
        "command": ["resnet-cli", "fit", "--config", "gated.yaml", "--config", "${args_json_file}"],
        "parameters": {
            "model.net.depth": {"values": [2, 4]},
            "seed_everything": {"values": [0, 1]},
        },
    }
    Path("gates.yaml").write_text(yaml.safe_dump(sweep))
    assert "4 finished, 0 not" in resnet_cli("sweep", "gates.yaml", "--local", "-j", 2)
    table = resnet_cli("compare", "runs/gates")
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:4]] == ["2", "4"]
    assert "0 finished before" not in resnet_cli("sweep", "gates.yaml", "--local")


def hear_interrupts():
    """Whoever started the tests may have set SIGINT to be ignored, as shells do in the
    background.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.all  # the schedule of kills has these signals in short
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_continues_at_once_with_the_same_command(tmp_path, monkeypatch, how):
    """Bit by bit as the run that was not stopped."""
    monkeypatch.chdir(tmp_path)
    args = [
        "fit",
        "--config",
        str(REPOSITORY / "configs/digits.yaml"),
        "--run.threads",
        "1",
        "--trainer.max_epochs",
        "8",
    ]
    resnet_cli(*args, "--run.root", "complete")
    process = subprocess.Popen(
        [RESNET_CLI, *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )
    deadline = time.monotonic() + 120
    while not list(Path("runs").rglob("prev.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert (
            process.returncode == 130
            and "the same command continues" in err
            and "Traceback" not in err
        )
    out = resnet_cli(*args)
    assert "continued from" in out  # last, or prev where the kill hit the moment between
    (run,), (complete,) = (
        unlabelled(Path(root).glob("*/*/checkpoints/last.ckpt")) for root in ("runs", "complete")
    )
    ours, theirs = load_checkpoint(run)["state_dict"], load_checkpoint(complete)["state_dict"]
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_two_ranks_measure_and_train_as_one(tmp_path, monkeypatch):
    """The net has no norm, which would see the rank's batch: two ranks differ from one by
    rounding, and all samples count once.
    """
    monkeypatch.chdir(tmp_path)
    recipe = str(REPOSITORY / "configs/digits.yaml")
    args = [
        "fit",
        "--config",
        recipe,
        "--run.threads",
        "1",
        "--trainer.max_epochs",
        "1",
        "--model.net.norm",
        "none",
    ]
    args += ["--model.net.depth", "8", "--model.optimizer.lr", "0.01"]
    resnet_cli(*args, "--run.root", "one")
    resnet_cli(*args, "--run.root", "two", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    one, two = (
        [
            json.loads(line)
            for line in next(Path(root).rglob("metrics.jsonl")).read_text().splitlines()
        ]
        for root in ("one", "two")
    )
    for a, b in zip(one, two, strict=True):
        for key in a.keys() - {"time"} - {k for k in a if k.startswith("perf/")}:
            tolerance = (
                2.5 / 360 if "acc" in key else 1e-4
            )  # an image or two on the edge between two classes
            assert b[key] == pytest.approx(a[key], rel=1e-4, abs=tolerance), key
