"""`fit --run.dry` is the real training, short: it forecasts the complete one.

It leaves nothing behind, however it ends.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from helpers.command_line import DIGITS, TINY
from helpers.run_dir import only_run

from lightning_resnet.config.forecast import FORECAST, epochs_by_size, forecast, lines_of
from lightning_resnet.config.recipe import parse
from lightning_resnet.engine import dry_run
from lightning_resnet.engine.dry_run import DryRun
from lightning_resnet.engine.step import Step
from lightning_resnet.training import ema
from lightning_resnet.training.task import ClassificationTask
from lightning_resnet.weights.trained import build_alone

RECIPE = """
trainer: {max_epochs: 3, accelerator: cpu}
model: {net: {class_path: CifarResNet, init_args: {depth: 8, width: 4}}}
data: {source: {class_path: Synthetic, init_args: {n: 256, n_val: 32, size: 8}}, batch_size: 64}
run: {threads: 1}
"""
DRY = ["fit", "--config", "R.yaml", "--run.dry"]


@pytest.fixture
def here_dry(cli, tmp_path, monkeypatch):
    """Run the command line in a folder with the recipe.

    `left` lists what else is there and in the temporary folder.
    """
    Path("R.yaml").write_text(RECIPE)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return cli


def left():
    return {str(path) for path in Path().rglob("*")} - {"R.yaml", "tmp"}


def test_a_dry_run_forecasts_and_leaves_nothing(here_dry, monkeypatch):
    monkeypatch.setenv(FORECAST, "tmp/forecast.json")
    saving = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath", "mine"]
    logging = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs"]
    logging += ["--trainer.callbacks+=LearningRateMonitor"]
    profiling = ["--trainer.profiler", "SimpleProfiler", "--trainer.profiler.dirpath", "profile"]
    profiling += ["--trainer.profiler.filename", "x"]
    sweep = [
        "--run.name",
        "of/two",
        "--run.point",
        "0123456789",
        "--run.must_resume",
        "--wandb.mode",
        "offline",
    ]
    code, out, err = here_dry(*DRY, *saving, *logging, *profiling, *sweep)
    assert code == 0, err
    measured, told = out.splitlines()[-2:]
    assert measured.startswith("dry run: ") and "images/s with batches of 64, 32-true" in measured
    assert "CPU, 1 thread;" in measured and "the process took" in measured
    assert told.startswith("forecast: ") and "for 3 epochs" in told and "rank-hours" in told
    numbers = json.loads(Path("tmp/forecast.json").read_text())
    assert f"{numbers['hours']:.2f} h for 3 epochs" in told and numbers["device"] == "CPU"
    Path("tmp/forecast.json").unlink()
    assert not left()


def test_a_dry_run_has_nothing_to_do_with_the_run_of_the_same_recipe(here_dry):
    assert here_dry("fit", "--config", "R.yaml")[0] == 0
    run = only_run()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, out, _ = here_dry(*DRY, "--run.new")
    assert code == 0 and "forecast: " in out and only_run() == run
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    flags = ["--config", "R.yaml"]
    assert parse("fit", [*flags, "--run.dry"]).resolved == parse("fit", flags).resolved
    code, _, err = here_dry("validate", "--config", "R.yaml", "--run.dry")
    assert code == 2 and "--run.dry is for fit" in err


def test_it_is_the_recipes_own_step_at_each_size(here_dry, monkeypatch):
    own, update, seen, averaged, compiled = ClassificationTask.training_step, ema.update, [], [], []

    def step(task, batch, i):
        images = batch[0]
        autocast = torch.is_autocast_enabled("cpu")
        seen.append((task.current_epoch, images.shape[-1], len(images), autocast, task.loss_kind))
        return own(task, batch, i)

    monkeypatch.setattr(ClassificationTask, "training_step", step)
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled.append(options) or f)
    monkeypatch.setattr(ema, "update", lambda *args: averaged.append(args[2]) or update(*args))
    flags = "--trainer.precision bf16-mixed --trainer.accumulate_grad_batches 2 --model.loss bce"
    flags += " --model.compile true --data.crop resized --data.size 8 --data.source.n 2048"
    flags += " --trainer.max_epochs 8"
    mix, sizes = "{mixup: 0.2, cutmix: 1.0}", "{low: 8, high: 16}"
    average = ["--model.ema", "{decay: 0.9, every: 2}"]
    code, out, err = here_dry(
        *DRY, *flags.split(), "--model.mix", mix, *average, "--data.progressive", sizes
    )
    assert code == 0, err
    # the middle of epochs 0 to 5, and of 6 and 7
    assert {row[:2] for row in seen} == {(3, 8), (7, 16)}
    assert {row[2:] for row in seen} == {(32, True, "bce")}  # 64 images, 2 micro-batches
    steps = dry_run.WARM + dry_run.STEPS // 2
    assert len(seen) == 3 * 2 * steps  # the last size twice
    assert len(averaged) == 3 * steps // 2 and len(compiled) == 1
    assert "at 8 px (6 epochs)" in out and "at 16 px (2 epochs)" in out
    assert "bf16-mixed, compiled" in out


def test_the_forecast_is_of_all_epochs_and_evaluations(here_dry):
    experiment = build_alone(["--config", "R.yaml", "--data.progressive", "{low: 8, high: 16}"])
    experiment.data.setup("fit")
    found = DryRun({8: 1, 16: 2})
    found.seconds = {8: 0.1, 16: 0.4}
    found.evaluation, found.evaluated_every = 3.0, 2
    epochs = {size: len(some) for size, some in epochs_by_size(experiment).items()}
    assert sum(epochs.values()) == 3 and len(epochs) == 2
    step = (epochs[8] * 0.1 + epochs[16] * 0.4) / 3
    numbers = forecast(experiment, found)
    assert numbers["step_s"] == pytest.approx(step) and numbers["epochs"] == 3
    assert [each["size"] for each in numbers["images_per_s"]] == [8, 16]
    measured, told = lines_of(numbers)
    assert f"{1000 * step:,.1f} ms a step" in measured and "640 images/s at 8 px" in measured
    assert f"{4 * step + 1.5:,.1f} s an epoch" in told


def test_what_the_first_batches_take_does_not_count(here_dry, monkeypatch):
    trained, evaluated = ClassificationTask.training_step, ClassificationTask.validation_step
    found, shorten, steps, shapes = [], DryRun.shorten, [], set()

    def slow_at_first(task, batch, i):
        steps.append(i)
        time.sleep(0.5 if i < dry_run.WARM else 0)
        return trained(task, batch, i)

    def slow_once(task, batch, *args):
        if len(batch[0]) not in shapes:  # as if it were compiled
            shapes.add(len(batch[0]))
            time.sleep(1)
        return evaluated(task, batch, *args)

    monkeypatch.setattr(ClassificationTask, "training_step", slow_at_first)
    monkeypatch.setattr(ClassificationTask, "validation_step", slow_once)
    monkeypatch.setattr(DryRun, "shorten", lambda self, t: found.append(self) or shorten(self, t))
    every = ["--trainer.check_val_every_n_epoch", 3]
    assert here_dry(*DRY, "--data.batch_size", 48, *every)[0] == 0
    assert shapes == {32, 96, 64} and found[0].evaluation < 0.5 and found[0].evaluated_every == 3
    assert found[0].seconds[None] < 0.2 and len(steps) == 2 * (256 // 48)


def test_an_evaluation_counts_all_its_batches(here_dry, monkeypatch):
    evaluated, found, shorten = ClassificationTask.validation_step, [], DryRun.shorten
    calls = []

    def slow(task, batch, *args):
        calls.append(len(batch[0]))
        time.sleep(0.02)
        return evaluated(task, batch, *args)

    monkeypatch.setattr(ClassificationTask, "validation_step", slow)
    monkeypatch.setattr(DryRun, "shorten", lambda self, t: found.append(self) or shorten(self, t))
    many = ["--data.source.n_val", 2048, "--data.batch_size", 8, "--data.train_eval_samples", 16]
    assert here_dry(*DRY, *many)[0] == 0
    assert found[0].evaluation > 0.02 * 2048 / 16
    assert calls == 2 * [16] * (6 + 1)  # six of 128 batches, and one of `train_eval`


@pytest.mark.parametrize(
    "flags",
    [
        "--trainer.max_steps 2",
        "--trainer.max_epochs -1 --trainer.max_steps 5",
        "--trainer.limit_val_batches 0",
        "--trainer.min_epochs 3 --trainer.min_steps 12",
        "--trainer.precision bf16-true --model.precise_bn 2",
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/loss",
    ],
)
def test_any_training_can_run_dry(here_dry, flags):
    code, out, err = here_dry(*DRY, *flags.split())
    assert code == 0 and "forecast: " in out and not left(), err


def test_slow_steps_end_it_soon(here_dry, monkeypatch):
    monkeypatch.setattr(dry_run, "LIMIT_S", 0)
    calls, own = [], Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda *args: calls.append(args) or own(*args))
    assert here_dry(*DRY)[0] == 0 and len(calls) == 2 * 2


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "diverges"])
def test_however_it_ends_it_leaves_nothing(here_dry, monkeypatch, how):
    calls, own = [], Step.__call__

    def ended(*args):
        calls.append(args)
        if len(calls) == 3 and how != "diverges":
            os.kill(os.getpid(), signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM)
        return own(*args)

    monkeypatch.setattr(Step, "__call__", ended)
    flags = ["--model.optimizer.lr", "1e30"] if how == "diverges" else []
    code, _, err = here_dry(*DRY, *flags)
    assert code == {"Ctrl-C": 130, "SIGTERM": 143, "diverges": 2}[how] and not left()
    assert ("starts over" in err or how == "diverges") and "Traceback" not in err, err


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_a_line_with_its_cure(here_dry, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(Step, "__call__", fail)
    code, _, err = here_dry(*DRY)
    assert code == 2 and err.startswith("error: out of memory") and err.count("\n") == 1, err
    assert "accumulate_grad_batches 2" in err and not left()


def test_other_errors_are_not_called_lack_of_memory(here_dry, monkeypatch):
    def fail(*args):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Step, "__call__", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        here_dry(*DRY)
    assert not left()


def test_it_shows_its_progress(here_dry, monkeypatch):
    monkeypatch.setattr("lightning_resnet.progress.BAR_S", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert "steps of a dry run" in here_dry(*DRY)[2]


# -- real processes --------------------------------------------------------------------------------


def start(here, verb, *flags):
    (here / "tmp").mkdir()
    command = [sys.executable, "-P", "-m", "lightning_resnet", verb, *TINY, *flags]
    environment = os.environ | {"TMPDIR": str(here / "tmp")}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def left_by(here):
    """List what is left, except what libraries keep for all processes."""
    kept = (here / "cache", *here.glob("tmp/torchinductor_*"), here / "tmp")
    return [path for path in [*here.iterdir(), *here.glob("tmp/*")] if path not in kept]


TWO = ["--trainer.devices", "2", "--trainer.accelerator", "cpu"]


@pytest.mark.slow
def test_two_ranks_run_dry(here):
    out, err = start(here, "fit", "--run.dry", *TWO).communicate(timeout=200)
    assert "on 2 ranks" in out and out.count("forecast: ") == 1 and not left_by(here), err


@pytest.mark.slow
def test_two_ranks_that_are_interrupted_leave_nothing(here):
    process = start(here, "fit", "--run.dry", *TWO, "--data.repeats", "1")
    for line in process.stdout:
        if "weight decay 0:" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130 and "Traceback" not in err and not left_by(here), err


@pytest.mark.slow
def test_the_doctor_ends_with_a_dry_run(here):
    process = start(here, "doctor", "--trainer.max_epochs", "4")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "ok batch norm" in out and "for 4 epochs" in out, err
    assert not left_by(here)


def test_the_doctor_tells_of_a_dry_run_that_fails_and_needs_the_nodes_of_a_recipe(cli, monkeypatch):
    started = []
    module = "lightning_resnet.engine.launch.supervise"

    def dry(words, ranks):
        Path(os.environ[FORECAST]).write_text('{"hours": 0.5}')
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(module, dry)
        code, out, err = cli("doctor", "--config", DIGITS, "--json")
        assert code == 0 and json.loads(out)["forecast"] == {"hours": 0.5}, err
        assert FORECAST not in os.environ
    monkeypatch.setattr(module, lambda words, ranks: started.append((words, ranks)) or 2)
    code, out, _ = cli("doctor", "--config", DIGITS)
    assert code == 1 and "FAILS dry run" in out
    assert started == [(["fit", "--config", DIGITS, "--run.dry=true"], 1)]
    monkeypatch.setattr(module, lambda *args: 130)
    assert cli("doctor", "--config", DIGITS)[0] == 130
    code, out, _ = cli("doctor", "--config", DIGITS, "--trainer.num_nodes", 2)
    assert code == 0 and "needs the 2 nodes" in out and "--run.dry" in out
