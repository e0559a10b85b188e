"""A run that died continues bitwise from its last good checkpoint, and a finished or live run is
left alone.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from helpers.command_line import REPOSITORY, TINY
from helpers.faults import Stop, dies_at_step
from helpers.run_dir import attempt, only_run, rows, same_weights, unlabelled, weights
from helpers.spies import spy

from lightning_resnet.cli import fit
from lightning_resnet.engine import checkpoints
from lightning_resnet.engine.signals import Stopped
from lightning_resnet.engine.watchdog import Watchdog
from lightning_resnet.models import CifarResNet, batch_norm
from lightning_resnet.runs.checkpoint import WEIGHTS, load_checkpoint
from lightning_resnet.runs.reader import Run
from lightning_resnet.training import evaluation
from lightning_resnet.training.task import ClassificationTask

SHORT = [*TINY, "--trainer.max_epochs", "2"]


def test_same_command_again_returns_and_replicates_are_bitwise_equal(cli):
    cli("fit", *SHORT)
    path = only_run()
    code, out, _ = cli("fit", *SHORT)
    assert code == 0 and "is finished" in out
    assert len(list(path.glob("attempts/*"))) == 1
    assert cli("fit", "--run.new", *SHORT)[0] == 0
    assert cli("fit", *SHORT, "--seed_everything", "1")[0] == 0
    replicate = path.with_name(path.name + "-2")
    assert same_weights(weights(path), weights(replicate))
    (other,) = {*unlabelled(path.parent.iterdir())} - {path, replicate}
    assert not same_weights(weights(path), weights(other))


def test_a_finished_run_belongs_to_all_points_that_it_was(cli):
    for point in (
        "0123456789",
        "12345e6789",
    ):  # an edit of the sweep or the recipe that does not touch the result
        assert cli("fit", *SHORT, "--run.point", point)[0] == 0
    assert json.loads((only_run() / "meta.json").read_text())["point"] == [
        "0123456789",
        "12345e6789",
    ]


@pytest.mark.parametrize("schedule", ["Steps", "Plateau", "ErrorWarmup"])
def test_a_run_that_died_continues_bitwise(cli, schedule):
    """Killed in the third epoch, its last checkpoint is the second's; what comes after is as if
    nothing had been.
    """

    args = [
        *TINY,
        "--trainer.max_epochs",
        "4",
        "--data.crop",
        "pad",
        "--data.pad",
        "1",
        "--model.schedule",
        schedule,
    ]
    if schedule == "Plateau":
        args += ["--model.schedule.patience", "0"]
    cli("fit", *args)
    path = only_run()
    complete = weights(path)
    expected = {
        (r["step"], k): r[k]
        for r in rows(path)
        for k in r
        if k.split("/")[0] in ("train", "val", "lr")
    }
    shutil.rmtree("runs")

    with dies_at_step(50), pytest.raises(Stop):
        cli("fit", *args)
    assert json.loads((only_run() / "attempts/1.json").read_text())["reason"] == "failed"
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')  # as a kill leaves it
    code, out, _ = cli("fit", *args)
    assert code == 0 and "continued from last.ckpt at step 44" in out
    assert same_weights(complete, weights(path))
    second = [r for r in rows(path) if r["attempt"] == 2]
    assert second[0]["step"] == 55 and second[-1]["step"] == 88
    merged = [r for r in rows(path) if r["attempt"] == 1 and r["step"] < second[0]["step"]] + second
    assert {
        (r["step"], k): r[k] for r in merged for k in r if k.split("/")[0] in ("train", "val", "lr")
    } == expected


def test_a_net_that_draws_continues_bitwise(cli):
    """Dropout draws by seed, epoch and rank."""

    Path("drop.py").write_text(
        "from torch import nn\n\nclass Drop(nn.Sequential):\n    def __init__(self, p: float = "
        "0.3):\n"
        "        super().__init__(nn.Conv2d(3, 4, 3), nn.Dropout(p), nn.Flatten(), "
        "nn.Linear(144, 10))\n"
    )
    recipe = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    recipe["model"]["net"] = {"class_path": "drop.Drop"}
    Path("drop.yaml").write_text(yaml.safe_dump(recipe))
    args = ["--config", "drop.yaml", "--run.threads", "1", "--trainer.max_epochs", "3"]
    assert cli("fit", *args)[0] == 0
    complete = weights(only_run())
    shutil.rmtree("runs")
    with dies_at_step(50), pytest.raises(Stop):
        cli("fit", *args)
    assert cli("fit", *args)[0] == 0
    assert same_weights(complete, weights(only_run()))


def test_a_damaged_last_checkpoint_is_told_and_the_one_before_taken(cli):
    cli("fit", *SHORT)
    path = only_run()
    attempt = json.loads((path / "attempts/1.json").read_text()) | {"reason": "failed"}
    (path / "attempts/1.json").write_text(json.dumps(attempt))
    expected, last = weights(path), path / "checkpoints/last.ckpt"
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 1  # torch.load would not notice
    last.write_bytes(damaged)
    code, out, _ = cli("fit", *SHORT)
    assert code == 0 and "last.ckpt cannot be read" in out and "continued from prev.ckpt" in out
    assert same_weights(expected, weights(path))


def test_best_is_the_highest_val_acc1_even_after_a_kill_right_after_it_was_written(
    cli, monkeypatch
):
    original = checkpoints.link

    def dying(source, target):
        original(source, target)
        if torch.load(source)["global_step"] == 44:
            raise Stop("cannot give it its name")

    monkeypatch.setattr(checkpoints, "link", dying)
    args = [*TINY, "--trainer.max_epochs", "2"]
    code, out, err = cli("fit", *args)
    assert code == 2 and "warning: cannot save" in out and "the same command continues" in err
    best = only_run() / "checkpoints/best.ckpt"
    assert load_checkpoint(best)["global_step"] == 44
    assert load_checkpoint(only_run() / "checkpoints/last.ckpt")["global_step"] == 22
    monkeypatch.setattr(checkpoints, "link", original)
    assert cli("fit", *args)[0] == 0
    accuracy = {r["step"]: r["val/acc1"] for r in rows(only_run()) if "val/acc1" in r}
    assert load_checkpoint(best)["global_step"] == min(accuracy, key=lambda s: (-accuracy[s], s))


def test_a_kept_epoch_is_written_before_last_counts_it_and_again_after_a_full_disk(
    cli, monkeypatch
):
    """A kill between the two files, or a disk that is full for a while, loses no kept epoch."""
    original = checkpoints.write_checkpoint
    written = []
    refused = [2]

    def write(content, path, *before):
        if path.name == "epoch-001.ckpt" and refused[0]:
            refused[0] -= 1
            raise OSError(28, os.strerror(28), str(path))
        original(content, path, *before)
        written.append(f"{path.stem} {content['global_step']}")

    monkeypatch.setattr(checkpoints, "write_checkpoint", write)
    code, out, err = cli("fit", *SHORT, "--run.keep_epochs", "1")
    assert code == 0, err
    assert "epoch-001.ckpt: No space left on device (free some space); training goes on" in out
    assert written == ["last 22", "epoch-001 22", "epoch-002 44", "last 44"]
    folder = only_run() / "checkpoints"
    kept = load_checkpoint(folder / "epoch-001.ckpt")["state_dict"]
    assert same_weights(kept, load_checkpoint(folder / "prev.ckpt")["state_dict"])


def test_weights_that_no_disk_takes_do_not_fill_the_memory(cli, monkeypatch):
    monkeypatch.setattr(checkpoints, "MOST_UNKEPT", 0)
    code, out, err = cli("fit", *SHORT, "--run.keep_epochs", "1")
    assert code == 0 and "epoch-001.ckpt is given up: it could not be written" in out, err
    assert not [*(only_run() / "checkpoints").glob("epoch-*")]


@pytest.mark.parametrize("what", ["weights", "none"])
def test_a_kill_before_checkpoints_are_removed_leaves_that_to_the_same_command(
    cli, monkeypatch, what
):
    args = [*SHORT, "--run.keep_epochs", "1", "--run.keep", what]

    def killed(*args):
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(fit, "keep", killed)
        cli("fit", *args)
    folder = only_run() / "checkpoints"
    assert Run(only_run()).status() == "finished"
    others = [*SHORT, "--run.keep", "all"]  # such as of another sweep
    assert cli("fit", *others)[0] == 0 and (folder / "prev.ckpt").exists()
    for _ in range(2):
        code, out, _ = cli("fit", *args)
        assert code == 0 and "is finished; nothing to do" in out and "warning" not in out
        if what == "none":
            assert not list(folder.iterdir())
            continue
        names = {"last.ckpt", "best.ckpt", "epoch-001.ckpt", "epoch-002.ckpt"}
        assert {path.name for path in folder.iterdir()} == names
        assert all({*WEIGHTS} == load_checkpoint(path).keys() for path in folder.iterdir())
    if what == "weights":
        (folder / "last.ckpt").write_bytes(b"cut off")
        code, out, _ = cli("fit", *args)
        assert code == 0 and "warning: not all is removed that --run.keep weights says: " in out


def test_divergence_stops_with_step_and_rate_and_keeps_the_last_good_checkpoint(cli, monkeypatch):

    original, calls = CifarResNet.forward, []

    def forward(self, x):
        calls.append(self.training)
        return original(self, x) * (
            float("nan") if sum(calls) == 31 else 1
        )  # the first is before the training

    monkeypatch.setattr(CifarResNet, "forward", forward)
    code, _, err = cli("fit", *SHORT)
    assert (
        code == 2
        and "loss is not finite from step 30 on (learning rate 0.002)" in err
        and err.count("\n") == 1
    )
    path = only_run()
    assert json.loads((path / "attempts/1.json").read_text())["reason"] == "diverged"
    assert load_checkpoint(path / "checkpoints/last.ckpt")["global_step"] == 22
    assert all(torch.isfinite(t).all() for t in weights(path).values())


def test_a_run_directory_whose_config_differs_shows_the_keys(cli):
    cli("fit", *SHORT)
    path = only_run()
    attempt = json.loads((path / "attempts/1.json").read_text()) | {"reason": "failed"}
    (path / "attempts/1.json").write_text(json.dumps(attempt))
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("lr: 0.02", "lr: 0.5"))
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and "model.optimizer.init_args.lr: 0.5 -> 0.02" in err and err.count("\n") == 1


def test_a_live_run_is_refused_naming_its_owner(cli):
    cli("fit", *SHORT)
    path = only_run()
    attempt = json.loads((path / "attempts/1.json").read_text()) | {
        "reason": "running",
        "host": "node7",
    }
    (path / "attempts/1.json").write_text(json.dumps(attempt))
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and "attempt 1 on node7" in err
    (path / "attempts/2.json").touch()  # another start, an instant ago
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and "attempt 2 on ?" in err
    (path / "attempts/2.json").unlink()
    assert Run(path).status() == "running"
    (path / "attempts/1.json").write_text(
        json.dumps(attempt | {"process": attempt["process"] | {"start": "1"}})
    )
    assert Run(path).status() == "dead"  # its pid is another process by now
    attempt["heartbeat"] -= 1000  # on another machine, killed long ago
    attempt["process"]["where"] = "elsewhere"
    (path / "attempts/1.json").write_text(json.dumps(attempt))
    assert cli("fit", *SHORT)[0] == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, where we may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small file system: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_told_and_the_last_good_checkpoint_is_kept(cli, small_disk, monkeypatch):
    from lightning_resnet.engine.recorder import Recorder

    args = [*TINY, "--trainer.max_epochs", "4", "--run.root", small_disk]
    ballast, original = small_disk / "ballast", Recorder.on_train_epoch_end

    def fill(self, trainer, *rest):
        """Fill the disk in the second epoch; the next attempt finds room before its last save."""
        original(self, trainer, *rest)
        if trainer.current_epoch == 1:
            checkpoints._wait()
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        elif trainer.current_epoch == 3 and repaired:
            ballast.unlink()

    def init(self, *rest):
        nonlocal checkpoints
        checkpoints = self
        begin(self, *rest)

    from lightning_resnet.engine.checkpoints import Checkpoints

    checkpoints, begin = None, Checkpoints.__init__
    monkeypatch.setattr(Checkpoints, "__init__", init)
    monkeypatch.setattr(Recorder, "on_train_epoch_end", fill)
    repaired = False
    code, out, err = cli("fit", *args)
    assert code == 2 and "No space left on device (free some space); training goes on" in out
    assert "enforce fail" not in out + err
    assert "last good checkpoint: the same command continues" in err and err.count("\n") == 1
    (path,) = unlabelled(small_disk.glob("digits/*"))
    assert load_checkpoint(path / "checkpoints/last.ckpt")["global_step"] == 22
    assert not list((path / "checkpoints").glob("*.tmp"))
    ballast.unlink()
    ended = json.loads(
        (path / "attempts/1.json").read_text()
    )  # written over what was there: it took no more room
    assert ended["reason"] == "failed" and "No space left on device" in ended["error"]
    repaired = True
    code, out, err = cli("fit", *args)
    assert code == 0 and "continued from last.ckpt" in out, err
    assert load_checkpoint(path / "checkpoints/last.ckpt")["global_step"] == 88
    monkeypatch.setattr(Recorder, "on_train_epoch_end", original)
    assert cli("fit", *args[:-1], "undisturbed")[0] == 0
    assert same_weights(weights(path), weights(only_run(Path("undisturbed"))))


def test_a_torn_config_does_not_end_a_run(cli):
    """A kill or a full disk at start-up could have left such a file in a version that did not
    rename.
    """
    cli("fit", *SHORT)
    path = only_run()
    attempt = json.loads((path / "attempts/1.json").read_text()) | {"reason": "failed"}
    (path / "attempts/1.json").write_text(json.dumps(attempt))
    (path / "config.yaml").write_text("")
    assert cli("fit", *SHORT)[0] == 0
    assert yaml.safe_load((path / "config.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_the_last_evaluation_is_made_up_for(cli, monkeypatch):
    """A run of --max_steps that was stopped after its last step still owes its evaluation."""
    from lightning_resnet.engine.signals import request

    args = [*TINY, "--trainer.max_epochs", "-1", "--trainer.max_steps", "3"]
    original = ClassificationTask.validation_step

    def stopped(self, *rest):
        request.signum = 15
        return original(self, *rest)

    monkeypatch.setattr(ClassificationTask, "validation_step", stopped)
    assert cli("fit", *args)[0] == 143
    assert not [r for r in rows(only_run()) if "val/acc1" in r]
    monkeypatch.setattr(ClassificationTask, "validation_step", original)
    assert cli("fit", *args)[0] == 0
    assert [r["step"] for r in rows(only_run()) if "val/acc1" in r] == [3]
    assert (only_run() / "checkpoints/best.ckpt").exists()


def test_a_signal_while_batch_norm_is_measured_stops_and_continues_bitwise(cli, monkeypatch):
    """Measuring may take longer than hang_s, and than a cluster waits after its signal."""
    from lightning_resnet.engine.signals import request

    args = [*SHORT, "--model.precise_bn", "5", "--model.ema", "{decay: 0.5}"]
    assert cli("fit", *args)[0] == 0
    complete = weights(only_run())
    shutil.rmtree("runs")
    measured = []

    def signalled(images):
        for batch in images:
            yield batch
            measured.append(len(batch))
            request.signum = 15 if len(measured) == 7 else 0  # the second of the average's

    def measure(net, images, reduce):
        batch_norm.measure_norms(net, signalled(images), reduce)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "measure_norms", measure)
        signs = spy(patch, Watchdog, "alive")
        assert cli("fit", *args)[0] == 143
    assert len(measured) == 7 and len(signs) == 1 + 7
    assert attempt()["reason"] == "preempted"
    code, out, _ = cli("fit", *args)
    assert code == 0 and "continued from last.ckpt at step 22" in out
    assert same_weights(complete, weights(only_run()))


def test_a_signal_whose_exception_is_swallowed_stops_the_training_all_the_same(cli, monkeypatch):
    """A signal before the loop is an exception, which C code may drop."""

    original = ClassificationTask.setup

    def dropped(self, stage):
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        original(self, stage)

    monkeypatch.setattr(ClassificationTask, "setup", dropped)
    assert cli("fit", *SHORT)[0] == 143
    assert json.loads((only_run() / "attempts/1.json").read_text())["reason"] == "preempted"
    assert not (only_run() / "metrics.jsonl").exists()
