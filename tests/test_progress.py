"""Long work shows how far it is, and Ctrl-C ends it with a word on how to go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.command_line import REPOSITORY, TINY
from helpers.run_dir import only_run, rows
from PIL import Image
from tqdm import tqdm

from lightning_resnet import progress
from lightning_resnet.arguments import Parser
from lightning_resnet.cli import main as command_line
from lightning_resnet.data.beton import verify
from lightning_resnet.training.task import ClassificationTask


def test_lines_in_a_log_file(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    assert list(progress.metered(iter("abc"), 3, "runs")) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == "" and [line.split("  ")[0] for line in err.splitlines()] == [
        "1 of 3 runs",
        "2 of 3 runs",
    ]
    assert "/s  ETA 0:00:00" in err


def test_the_time_that_work_takes_to_start_is_no_pace(monkeypatch, capsys):
    clock = iter([0.0, 20.0, 40.0])  # processes start in 20 s, then an image takes a second
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    meter = progress.Meter(41, "images")
    meter.update(1)
    meter.update(20)
    assert capsys.readouterr().err.splitlines() == [
        "1 of 41 images",
        "21 of 41 images  1.0/s  ETA 0:00:20",
    ]


def test_lines_of_a_training(monkeypatch, capsys):
    clock = iter([0.0, 60.0, 61.0, 63.0, 64.0])  # compilation takes the first step's minute
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    shown = progress.Progress()
    shown.start(10, 14)
    shown.show({"train/loss": 2.5})
    shown.update(11)
    shown.update(12)
    shown.show({"val/acc1": 0.75})
    shown.update(13)
    shown.show({"val/acc1": 0.8, "train/loss": 1.0})
    shown.show({"train/acc1": 0.5})
    shown.update(14)
    assert capsys.readouterr().out.splitlines() == [
        "step 11/14  loss 2.500",
        "step 12/14  loss 2.500  ETA 0:00:02",
        "step 13/14  loss 2.500  val error 25.0 % at step 12  ETA 0:00:01",
        "step 14/14  loss 1.000  train error 50.0 %  val error 20.0 % at step 13  ETA 0:00:00",
    ]


def test_each_line_of_a_training_has_the_loss_of_its_step(cli, monkeypatch):
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    few = ["--trainer.limit_train_batches", "4", "--trainer.limit_val_batches", "1"]
    _, out, _ = cli("fit", *TINY, *few, "--trainer.max_epochs", "1")
    losses = [line.split()[3] for line in out.splitlines() if line.startswith("step ")]
    assert len(losses) == len({*losses}) == 4, out


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "BAR_S", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(
        progress,
        "tqdm",
        lambda *args, **kwargs: tqdm(*args, **kwargs, file=sys.stderr, mininterval=0),
    )
    assert list(progress.metered(range(3), 3, "turns")) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err


def test_bytes_are_told_in_megabytes(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    meter = progress.Meter(4_000_000, "B")
    meter.update(1_000_000)
    progress.Meter(2, "ranks", show=False).update(1)
    assert capsys.readouterr().err.startswith("1 of 4 MB\n")


def test_an_evaluation_within_a_training_shows_itself(cli, monkeypatch):
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    code, out, err = cli(
        "fit", *TINY, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2
    )
    lines = [line for line in err.splitlines() if " batches" in line]
    assert (
        code == 0 and lines[0].startswith("1 of ") and "step 2/2" in out and " batches" not in out
    )
    n = int(lines[0].split()[2])
    assert [int(line.split()[0]) for line in lines] == [*range(1, n)]


def test_what_is_short_says_nothing(capsys):
    assert list(progress.metered(range(3), 3, "runs")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_an_interrupted_check_says_that_it_starts_over(cli, source, monkeypatch):
    monkeypatch.setattr(verify, "_check", lambda *args: signal.raise_signal(signal.SIGINT))
    code, _, err = cli("data", "verify", source.files["train"])
    assert code == 130 and err == "interrupted; the same command starts over\n"


@pytest.mark.parametrize(
    ("argv", "how"),
    [
        (["sweep", "s.yaml"], "continues"),
        (["data", "write", "digits"], "continues"),
        (["compare", "runs"], "starts over"),
        (["inspect", "gradients"], "starts over"),
        (["bench", "step"], "starts over"),
        (["validate", "--config", "digits"], "starts over"),
        (["predict", "--config", "digits"], "starts over"),
    ],
)
def test_every_long_verb_ends_with_a_word(cli, monkeypatch, argv, how):
    def run(args):
        signal.raise_signal(signal.SIGINT)

    module = SimpleNamespace(make_parser=lambda: Parser(recipe="all"), run=run)
    monkeypatch.setattr(command_line, "import_module", lambda name: module)
    code, _, err = cli(*argv)
    assert code == 130 and err == f"interrupted; the same command {how}\n"


RECIPE = """
trainer: {max_epochs: 1, accelerator: cpu}
model: {net: {class_path: CifarResNet, init_args: {depth: 20, width: 16}}}
data:
  source: {class_path: Synthetic, init_args: {n: 1024, n_val: 4000, size: 32}}
  size: 32
  batch_size: 8
run: {threads: 1}
"""
LONG = """
import sys
from lightning_resnet.cli.main import main
from lightning_resnet.data.beton import verify
from lightning_resnet import progress
progress.LINE_S, verify.BATCH = 0.0, 1
sys.exit(main())
"""


@pytest.fixture
def trained(cli):
    """A run in a folder of its own, which `source` names."""
    Path("R.yaml").write_text(RECIPE)
    short = ["--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 1]
    code, _, err = cli("fit", "--config", "R.yaml", *short)
    assert code == 0, err
    Path("photos").mkdir()
    for i in range(160):
        Image.fromarray(np.full((500, 500, 3), i % 256, np.uint8)).save(f"photos/{i:03}.png")
    return next(Path("runs").glob("*/*/meta.json")).parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_verbs_show_progress_and_leave_at_once(trained, source):
    checkpoint = ["--ckpt_path", str(trained / "checkpoints" / "last.ckpt")]
    recipe = ["--config", "R.yaml", *checkpoint]
    for argv, unit in (
        (["evaluate", str(trained), "--crops", "centre"], "batches"),
        (["evaluate", str(trained), "--crops", "centre", "--bn", "precise"], "training batches"),
        (["predict", "photos", *checkpoint, "--format", "csv"], "images"),
        (["predict", *recipe], "batches"),
        (["validate", *recipe], "batches"),
        (["test", *recipe], "batches"),
        (["inspect", "lesions", str(trained), "--out", "out"], "lesions"),
        (["inspect", "probes", str(trained), "--out", "out"], "batches"),
        (["inspect", "paths", str(trained), "--out", "out", "--draws", "99"], "path lengths"),
        (["inspect", "gradients", str(trained), "--out", "out", "--batches", "128"], "batches"),
        (["inspect", "responses", str(trained), "--out", "out", "--batches", "128"], "batches"),
        (["data", "verify", source.files["train"]], "batches of 1 images"),
        (["bench", "overhead", "--steps", "8", "--repeat", "99"], "turns"),
        (
            [
                "bench",
                "loader",
                "--images",
                "256",
                "--peers",
                "ours",
                "torchvision",
                "--repeat",
                "99",
            ],
            "turns",
        ),
    ):
        code, out, err, seconds = interrupted(argv, f" {unit}  ")
        print(f"{' '.join(argv[:2])}: {seconds:.2f} s from Ctrl-C to the end")
        last = err.splitlines()[-1]
        assert code == 130 and last == "interrupted; the same command starts over", (
            argv,
            code,
            err,
        )
        assert "Traceback" not in err and err.count("interrupted") == 1
        if argv[0] == "predict":
            assert len(out.splitlines()) > 8 and out.endswith("\n")


def interrupted(argv, sign):
    """Status, stdout, stderr and the seconds that a verb takes to end, interrupted once stderr
    shows the sign.
    """
    command, env = (
        [sys.executable, "-c", LONG, *map(str, argv)],
        os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    pipe, err = subprocess.PIPE, ""
    with (
        open("out.txt", "w") as out,
        subprocess.Popen(command, stdout=out, stderr=pipe, text=True, env=env) as process,
    ):
        for line in process.stderr:
            err += line
            if sign in line:
                break
        os.kill(process.pid, signal.SIGINT)
        start = time.monotonic()
        err += process.stderr.read()
        code = process.wait(100)
    return code, Path("out.txt").read_text(), err, time.monotonic() - start


def test_the_first_step_shows_its_loss_and_makes_no_row(cli, monkeypatch):
    peeks = []
    peek = ClassificationTask.peek_train_metrics
    monkeypatch.setattr(
        ClassificationTask, "peek_train_metrics", lambda task: peeks.append(task) or peek(task)
    )
    flags = "--trainer.max_epochs 1 --trainer.limit_train_batches 3 --trainer.log_every_n_steps 2"
    code, out, _ = cli("fit", *TINY, *flags.split())
    (first, *_) = [line for line in out.splitlines() if line.startswith("step ")]
    assert code == 0 and first.startswith("step 1/3  loss ") and "train error" in first
    found = rows(only_run())
    assert len(peeks) == 1 and [row["step"] for row in found if "train/loss" in row] == [2, 3]
