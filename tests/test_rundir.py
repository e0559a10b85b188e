"""What is damaged, foreign or left lying in a run directory ends in no traceback, and neither loses
nor locks a run.
"""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from helpers import waiting
from helpers.command_line import TINY
from helpers.run_dir import edit, only_run
from helpers.spies import spy
from PIL import Image
from pytorch_lightning.callbacks import Callback

from lightning_resnet.analysis import load_runs
from lightning_resnet.cli.main import main
from lightning_resnet.engine import checkpoints
from lightning_resnet.errors import UserError
from lightning_resnet.reading import read_json
from lightning_resnet.runs import directory as rundir
from lightning_resnet.runs import status
from lightning_resnet.runs.checkpoint import (
    check_resumable,
    load_checkpoint,
    newest_good,
    write_checkpoint,
)
from lightning_resnet.runs.find import described_runs
from lightning_resnet.runs.index import Index
from lightning_resnet.runs.metrics import row_of
from lightning_resnet.runs.reader import END, Run
from lightning_resnet.runs.status import process_name
from lightning_resnet.sweeps.requeue import folders, of_this_job
from lightning_resnet.sweeps.state import _find_among
from lightning_resnet.training.task import ClassificationTask
from lightning_resnet.weights.trained import build_alone

SHORT = [*TINY, "--trainer.max_epochs", "2"]


@pytest.fixture
def stopped(finished, tmp_path):
    """The same, as if it had failed at its end: the same command continues it."""
    run = tmp_path / "runs" / finished.parent.name / finished.name
    shutil.copytree(finished, run)
    edit(run / "attempts/1.json", reason="failed")
    return run


def stray(run):
    """What editors, file managers and file systems leave, and what only looks like an attempt."""
    folder = run / "attempts"
    for name in (
        "._1.json",
        "1.json~",
        ".nfs000000001",
        ".1.json.swp",
        "x.json",
        "²1.json",
        "01.json",
        "-1.json",
    ):
        (folder / name).write_text("{")
    (folder / "2.json").mkdir()
    (folder / "3.json").symlink_to("nowhere")
    (run / "checkpoints/last.ckpt~").write_text("")


def test_stray_files_never_matter(cli, stopped):
    stray(stopped)
    assert Run(stopped).status() == "failed" and [
        a["attempt"] for a in Run(stopped).attempts()
    ] == [1]
    assert [*of_this_job(stopped.parent, {"SLURM_JOB_ID": "7"})] == []
    code, out, err = cli("fit", *SHORT)
    assert code == 0 and "continued from last.ckpt at step 44" in out, err
    assert [a["attempt"] for a in Run(stopped).attempts()] == [1, 4] and Run(
        stopped
    ).status() == "finished"
    runs, _ = load_runs(stopped)
    assert runs["status"].tolist() == ["finished"] and runs["attempts"].tolist() == [2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0" * 300,
        "[]",
        "null",
        "3",
        "[" * 100_000,
        '{"reason": 3, "last_step": "x", "host": null}',
        "{}",
    ]
    + [
        f'{{"reason": "running", "heartbeat": {value}}}'
        for value in ('"now"', "NaN", "[]", "1e999", "true", "null")
    ]
    + [
        f'{{"reason": "running", "process": {value}}}'
        for value in ("3", "[]", '{"pid": "x", "where": 1}', '"x"')
    ],
)
def test_an_attempt_of_any_content_is_an_attempt(tmp_path, text):
    """It ran until the file was written; two minutes later it is dead."""
    file = tmp_path / "attempts/1.json"
    file.parent.mkdir()
    file.write_text(text)
    (tmp_path / "config.yaml").write_text("model: {}\n")
    assert Run(tmp_path).status() == "running" and Run(tmp_path).last_attempt()["attempt"] == 1
    os.utime(file, (time.time() - 200,) * 2)
    assert Run(tmp_path).status() == "dead"
    assert load_runs(tmp_path).runs["status"].tolist() == ["dead"]


@pytest.mark.parametrize("ahead", [600, 365 * 86400, -600])
def test_a_heartbeat_by_a_wrong_clock_does_not_lock_a_run(cli, stopped, ahead):
    file = stopped / "attempts/1.json"
    elsewhere = json.loads(file.read_text())["process"] | {"where": "before the reboot"}
    edit(file, reason="running", heartbeat=time.time(), process=elsewhere)
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and "attempts/1.json" in err and err.count("\n") == 1
    edit(file, heartbeat=time.time() + ahead)
    assert Run(stopped).status() == "dead" and cli("fit", *SHORT)[0] == 0


def test_a_run_whose_process_is_alive_on_this_machine_is_not_taken_over(cli, stopped, monkeypatch):
    """It was stopped by Ctrl-Z, or the machine slept: it goes on, though its heartbeat is old."""
    other = subprocess.Popen(["sleep", "60"])
    file = stopped / "attempts/1.json"
    own = process_name()
    process = own | {"pid": other.pid, "start": status._start_time(other.pid)}
    try:
        other.send_signal(signal.SIGSTOP)
        edit(file, reason="running", process=process, heartbeat=time.time() - 1000)
        assert Run(stopped).status() == "running"
        code, _, err = cli("fit", *SHORT)
        assert code == 2 and "is being trained by attempt 1" in err
        monkeypatch.setattr(rundir, "DEAD_S", 0.0)
        monkeypatch.setattr(rundir, "POLL_S", 0.01)
        code, _, err = cli("fit", *SHORT, "--run.elastic", "true")
        assert code == 2 and "is being trained by attempt 1" in err
    finally:
        other.kill()
        other.wait()
    assert Run(stopped).status() == "dead"
    edit(file, process=own)  # a notebook that could not write how its training ended
    assert Run(stopped).status() == "dead"


@pytest.mark.parametrize(
    "meta",
    [
        "",
        "\0\0",
        "[]",
        '{"versions": [], "point": 3, "hardware": "x", "threads": "all", "git_sha": 1}',
        "{}",
    ],
)
def test_a_damaged_meta_is_no_matter_and_keeps_the_threads(cli, stopped, meta):
    (stopped / "meta.json").write_text(meta)
    asked = [arg for arg in SHORT if arg not in ("--run.threads", "1")]
    code, _, err = cli("fit", *asked)
    assert code == 0, err
    assert yaml.safe_load((stopped / "config.yaml").read_text())["run"]["threads"] == 1


def test_a_meta_of_other_types_is_read_as_if_it_did_not_tell(tmp_path):
    (tmp_path / "meta.json").write_text(
        '{"versions": [], "steps_per_epoch": "x", "point": ["a", 3], "net": "n"}'
    )
    assert Run(tmp_path).meta() == {"point": ["a", 3], "net": "n"}
    (tmp_path / "meta.json").write_text("[1]")
    assert read_json(tmp_path / "meta.json") is None and Run(tmp_path).meta() == {}


@pytest.mark.parametrize("left", [0.0, 0.01, 0.1, 0.5, 0.9, "zeros", "foreign"])
def test_a_damaged_config_is_told_and_written_again(cli, stopped, left):
    path = stopped / "config.yaml"
    complete = path.read_bytes()
    if left == "zeros":
        path.write_bytes(complete[:400] + bytes(200) + complete[600:])
    elif left == "foreign":
        path.write_text("data: {source: 3}\nmodel: {net: [1]}\nseed_everything: x\ntrainer: 3\n")
    else:
        path.write_bytes(complete[: int(left * len(complete))])
    code, out, err = cli("fit", *SHORT)
    assert code == 0, err
    assert "config.yaml was damaged" in out or left == 0.9  # what decides the result may be intact
    again, before = (yaml.safe_load(text) for text in (path.read_text(), complete))
    again["run"].pop("root"), before["run"].pop("root")
    assert again == before and path.read_text().endswith(END)


def test_what_older_versions_wrote_continues(cli, stopped):
    """Older versions wrote config.yaml without its last line, and the position in our words
    alone.
    """
    config = stopped / "config.yaml"
    config.write_text("".join(config.read_text().splitlines(keepends=True)[:-1]))
    for name in ("last", "prev"):
        checkpoint = load_checkpoint(stopped / f"checkpoints/{name}.ckpt")
        checkpoint["loops"]["fit_loop"] = checkpoint["loops"]["fit_loop"]["lightning_resnet"]
        write_checkpoint(checkpoint, stopped / f"checkpoints/{name}.ckpt")
    (stopped / "checkpoints/last.ckpt").unlink()
    code, out, err = cli("fit", *SHORT)
    assert code == 0 and "continued from prev.ckpt at step 22" in out, err


@pytest.mark.parametrize(
    ("name", "text"),
    [("attempts", None), ("checkpoints", None), ("config.yaml", ""), ("metrics.jsonl", "")],
)
def test_a_file_for_a_folder_and_the_other_way_round_is_told_in_a_line(cli, stopped, name, text):
    shutil.rmtree(stopped / name, ignore_errors=True)
    (stopped / name).unlink(missing_ok=True)
    if text is None:
        (stopped / name).write_text("")
    else:
        (stopped / name).mkdir()
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and name in err and err.count("\n") == 1 and "Traceback" not in err


def test_rows_of_any_content(tmp_path):
    bad = [
        "[1]",
        "3",
        '{"step": "x"}',
        '{"step": 1, "val/acc1": "high"}',
        '{"step": 1, "attempt": "x"}',
        "[" * 10**5,
    ]
    bad += [
        '{"step": true}',
        '{"step": 1, "val/acc1": [1]}',
        f'{{"step": 1, "val/acc1": {10**400}}}',
    ]
    assert not [line for line in bad if row_of(line)]
    good = '{"step": 2, "epoch": 0, "time": 1.5, "val/acc1": 0.5}'
    (tmp_path / "metrics.jsonl").write_text("\n".join([good, *bad]))
    (tmp_path / "config.yaml").write_text("model: {}\n")
    assert Run(tmp_path).final_row("val/acc1")["step"] == 2
    runs, history = load_runs(tmp_path)
    assert runs["unreadable_lines"].tolist() == [len(bad)] and history["val/acc1"].tolist() == [0.5]


# -- checkpoints -----------------------------------------------------------------------------------


def test_a_run_never_starts_over_next_to_checkpoints_that_cannot_be_read(cli, stopped):
    for file in (stopped / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    before = {file: file.read_bytes() for file in stopped.rglob("*") if file.is_file()}
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and err.count("\n") == 1 and "no other is good" in err and "--run.new" in err
    assert {file: file.read_bytes() for file in stopped.rglob("*") if file.is_file()} == before
    shutil.rmtree(stopped / "checkpoints")  # the cure that the line names
    assert cli("fit", *SHORT)[0] == 0


def test_the_best_is_taken_where_last_and_the_one_before_are_gone(cli, stopped):
    for name in ("last", "prev"):
        (stopped / f"checkpoints/{name}.ckpt").unlink()
    (stopped / "checkpoints/last.ckpt").symlink_to("nowhere")
    code, out, err = cli("fit", *SHORT)
    assert code == 0 and "last.ckpt does not exist" in out and "continued from best.ckpt" in out, (
        err
    )


@pytest.mark.parametrize("kind", ["weights", "foreign", "stock"])
def test_a_checkpoint_that_is_none_to_continue_from_is_told(cli, stopped, kind):
    last = stopped / "checkpoints/last.ckpt"
    checkpoint = load_checkpoint(last)
    if kind == "weights":
        checkpoint = {key: checkpoint[key] for key in ("state_dict", "epoch", "global_step", "run")}
    elif kind == "foreign":
        checkpoint["run"]["id"] = "0123456789"
    else:
        del checkpoint["loops"]["fit_loop"]["lightning_resnet"]
    words = {
        "weights": "weights alone",
        "foreign": "of run 0123456789",
        "stock": "another Trainer",
    }[kind]
    shutil.rmtree(last.parent)
    last.parent.mkdir()
    write_checkpoint(checkpoint, last)
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and words in err and "--run.init_from" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("loops.fit_loop.lightning_resnet", 5),
        ("loops.fit_loop", {"evaluated": True}),
        ("loops.fit_loop.lightning_resnet.epoch", "1"),
        ("optimizer_states", 5),
        ("callbacks", 3),
        ("train_sums", "x"),
        ("train_sums", torch.zeros(4)),
        ("schedule", 5),
        ("frozen", 5),
        ("last_taken", "x"),
    ],
)
def test_a_state_of_another_form_is_told_and_the_one_before_taken(place, value, tmp_path):
    folders, _, key = place.rpartition(".")
    position = {"epoch": 1, "steps": 0, "global_step": 11, "evaluated": True, "should_stop": False}
    checkpoint = {
        "state_dict": {"net.fc.bias": torch.zeros(2)},
        "optimizer_states": [],
        "callbacks": {},
        "loops": {"fit_loop": {"lightning_resnet": position}},
        "run": {"id": "0123456789"},
    }
    write_checkpoint(checkpoint, tmp_path / "prev.ckpt")
    folder = checkpoint
    for name in filter(None, folders.split(".")):
        folder = folder[name]
    folder[key] = value
    write_checkpoint(checkpoint, tmp_path / "last.ckpt")
    said = []
    both = [tmp_path / "last.ckpt", tmp_path / "prev.ckpt"]
    check = partial(check_resumable, run_id="0123456789")
    path, _ = newest_good(both, said.append, "start again", check)
    assert path.name == "prev.ckpt" and "is not what `fit` writes there" in said[0]


READERS = {
    "evaluate": "evaluate TARGET --crops centre --sizes 8 --weights net",
    "inspect": "inspect responses TARGET --batches 1",
    "deepen": "deepen TARGET --depth 14 --out deep.ckpt --batches 1",
    "predict": "predict image.png --ckpt_path TARGET --data.size 8 --format csv",
    "convert": "convert TARGET --out out.ckpt",
    "validate": " ".join(["validate", *SHORT, "--ckpt_path TARGET"]),
}


def read_by(cli, verb, target, run):
    """Let a verb read a checkpoint or run; returns what it printed without paths, what it wrote,
    and its stderr.
    """
    words = READERS[verb]
    if verb == "validate" and target == run:
        words = words.replace(" --ckpt_path TARGET", "")  # it finds the run by its flags
    code, out, err = cli(*words.replace("TARGET", str(target)).split())
    assert code == 0, err
    written = [load_checkpoint(file)["state_dict"] for file in Path().glob("*.ckpt")]
    sums = [tensor.double().sum().item() for state in written for tensor in state.values()]
    return [line for line in out.splitlines() if run.name not in line], sums, err


@pytest.mark.parametrize(
    ("verb", "gone"), [*((verb, False) for verb in READERS), ("inspect", True), ("convert", True)]
)
def test_who_reads_a_run_takes_the_checkpoint_that_fit_would_continue_from(
    cli, stopped, verb, gone
):
    """A warning names both files; what is printed and written is of the one that is good."""
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save("image.png")
    last = stopped / "checkpoints/last.ckpt"
    prev = last.with_name("prev.ckpt")
    before = read_by(cli, verb, prev, stopped)
    assert before[:2] != read_by(cli, verb, last, stopped)[:2]
    content = last.read_bytes()
    last.unlink()
    if not gone:
        last.write_bytes(content[:-1])
    printed, sums, err = read_by(cli, verb, stopped, stopped)
    assert (printed, sums) == before[:2]
    (warning,) = [line for line in err.splitlines() if "warning: checkpoint" in line]
    why = "does not exist" if gone else "cannot be read"
    assert (
        f"{last.relative_to(stopped)} {why}" in warning
        and f"{prev.name} is taken in its place" in warning
    )


def test_a_checkpoint_that_is_named_is_read_and_no_other(cli, stopped):
    for name in ("last", "best"):
        file = stopped / f"checkpoints/{name}.ckpt"
        content = file.read_bytes()
        file.unlink()  # it may be a name of another one
        file.write_bytes(content[:-1])
        code, _, err = cli("convert", file, "--out", "out.ckpt")
        assert code == 2 and f"{name}.ckpt cannot be read" in err and err.count("\n") == 1
    code, _, err = cli("evaluate", stopped, "--at", "best")
    assert code == 2 and "best.ckpt cannot be read" in err and err.count("\n") == 1
    (stopped / "checkpoints/prev.ckpt").unlink()
    for words in (
        ["evaluate", stopped],
        ["convert", stopped, "--out", "out.ckpt"],
        ["validate", *SHORT],
    ):
        code, _, err = cli(*words)
        assert code == 2 and "last.ckpt cannot be read" in err and "no other is good" in err, err
        assert err.count("\n") == 1 and "--run.new" not in err
    assert not Path("out.ckpt").exists()


class Keeps(Callback):
    """Has a state that is read back only as code."""

    def __init__(self, after: int):
        self.after = after
        self.value = 0.5

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step > self.after:
            self.value = np.float64(0.5)

    def on_train_start(self, *args):
        if not self.after:
            self.value = np.float64(0.5)

    def state_dict(self):
        return {"value": self.value}


@pytest.mark.parametrize("after", [0, 30])
def test_a_state_that_cannot_be_read_back_is_told_before_a_checkpoint_is_lost(cli, after):
    """The refusal comes before the first step or, if the state comes later, at the save."""
    callback = ["--trainer.callbacks+=test_rundir.Keeps", "--trainer.callbacks.after", after]
    code, _, err = cli("fit", *SHORT, *callback)
    assert code == 2 and "the callback Keeps keeps numpy" in err and err.count("\n") == 1
    run = only_run()
    assert json.loads((run / "attempts/1.json").read_text())["reason"] == "failed"
    if after:
        assert load_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == 22
    else:
        assert not (run / "metrics.jsonl").exists() and not [*(run / "checkpoints").iterdir()]


class Seen(Callback):
    """The (epoch, batch) of all steps."""

    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append((trainer.current_epoch, batch_idx))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("at", ["an epoch's end", "a step"])
def test_a_stock_trainer_continues_where_ours_stopped(cli, monkeypatch, finished, at):
    checkpoint = finished / "checkpoints/prev.ckpt"
    if at == "a step":
        from lightning_resnet.engine.signals import request

        original = ClassificationTask.training_step

        def step(self, *args):
            request.signum = 15 if self.global_step == 29 else request.signum
            return original(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(ClassificationTask, "training_step", step)
            assert cli("fit", *SHORT)[0] == 143
        request.signum = 0
        checkpoint = only_run() / "checkpoints/last.ckpt"
    parts = build_alone(SHORT)
    seen = Seen()
    options = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[seen],
        **options,
    )
    trainer.fit(parts.task, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
    first = 8 if at == "a step" else 0
    assert seen.batches == [(1, i) for i in range(first, 22)] and trainer.global_step == 44
    ours = load_checkpoint(finished / "checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(ours[name], tensor) for name, tensor in parts.task.state_dict().items())


def test_lightnings_checkpoint_callbacks_make_their_folder(cli):
    callback = "pytorch_lightning.callbacks.ModelCheckpoint"
    options = ["--trainer.enable_checkpointing", "true", f"--trainer.callbacks+={callback}"]
    options += [
        "--trainer.callbacks.dirpath",
        "new/folder",
        "--trainer.callbacks.filename",
        "a/{epoch}",
    ]
    code, _, err = cli("fit", *SHORT, *options)
    assert code == 0, err
    assert load_checkpoint(next(Path("new/folder").rglob("*.ckpt")))["global_step"] == 44


class Fails(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 3:
            raise UserError("the first error")


def test_an_error_is_told_where_its_checkpoint_cannot_be_written(cli):
    Path("file").write_text("")
    callback = "pytorch_lightning.callbacks.OnExceptionCheckpoint"
    options = ["--trainer.enable_checkpointing", "true", f"--trainer.callbacks+={callback}"]
    options.append("--trainer.callbacks.dirpath")
    fails = "--trainer.callbacks+=test_rundir.Fails"
    code, out, err = cli("fit", *SHORT, *options, "file/below", fails)
    assert code == 2 and err == "error: the first error\n" and "cannot save file/below" in out
    code, _, err = cli("fit", *SHORT, *options, "new", fails, "--run.new")
    assert code == 2 and err == "error: the first error\n" and [*Path("new").glob("*.ckpt")]


def test_a_checkpoint_of_lightnings_that_found_no_room_is_told_at_the_end(cli, monkeypatch):
    def full(checkpoint, path, *args):
        if "theirs" in str(path):
            raise OSError(28, os.strerror(28), str(path))
        return write_checkpoint(checkpoint, path, *args)

    monkeypatch.setattr(checkpoints, "write_checkpoint", full)
    callback = "pytorch_lightning.callbacks.ModelCheckpoint"
    options = ["--trainer.enable_checkpointing", "true", f"--trainer.callbacks+={callback}"]
    code, out, err = cli("fit", *SHORT, *options, "--trainer.callbacks.dirpath", "theirs")
    assert (
        "training goes on" in out
        and load_checkpoint(only_run() / "checkpoints/last.ckpt")["global_step"] == 44
    )
    assert code == 2 and "theirs/epoch=1-step=44.ckpt: No space" in err and err.count("\n") == 1


def test_what_load_from_checkpoint_needs_is_told(finished):
    from lightning_resnet.training.ema import Averaging

    file, net = finished / "checkpoints/last.ckpt", build_alone(SHORT).task.net
    with pytest.raises(UserError, match="needs net="):
        ClassificationTask.load_from_checkpoint(file)
    assert ClassificationTask.load_from_checkpoint(file, net=net).net is net
    with pytest.raises(UserError, match="--model.ema, in Python ema=Averaging"):
        ClassificationTask.load_from_checkpoint(file, net=net, ema=Averaging())


def test_a_disk_that_is_full_from_the_start_is_told_and_the_attempt_closed(cli, monkeypatch):
    def full(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(checkpoints, "check_readable", lambda state: None)
    code, out, err = cli("fit", *SHORT)
    assert code == 2 and "device (free some space); no checkpoint of it could be saved" in err
    assert (
        "training goes on" in out
        and json.loads((only_run() / "attempts/1.json").read_text())["end"]
    )


def test_a_signal_on_a_full_disk_is_told_as_not_saved(cli, monkeypatch):
    from lightning_resnet.engine.signals import request

    def full(*args):
        raise OSError(28, os.strerror(28))

    def step(self, *args):
        request.signum = 15
        return original(self, *args)

    original = ClassificationTask.training_step
    monkeypatch.setattr(ClassificationTask, "training_step", step)
    monkeypatch.setattr(checkpoints, "write_checkpoint", full)
    code, _, err = cli("fit", *SHORT)
    assert (
        code == 143
        and "not saved (cannot save" in err
        and "No space left on device (free some space))" in err
    )


def test_rows_that_could_not_be_written_are_told_at_the_end(cli, monkeypatch):
    original = rundir.RunDir._append

    def append(self):
        if any(row.startswith('{"step": 22') for row in self._unwritten_rows):
            raise OSError(30, os.strerror(30), "metrics.jsonl")
        original(self)

    monkeypatch.setattr(rundir.RunDir, "_append", append)
    code, out, err = cli("fit", *SHORT)
    assert code == 2 and "metrics.jsonl: Read-only file system; training goes on" in out
    assert "lacks 5 of its rows: " in err and Run(only_run()).status() == "failed"
    assert "metrics.jsonl, whose rows come first: Read-only file system" in err


@pytest.fixture
def claimed(tmp_path):
    """A run that this process has begun, with a row."""
    run = rundir.RunDir(tmp_path)
    run.start_attempt()
    run.record(1, 0, {"train/loss": 1.0})
    yield run
    run.stop_heartbeats()


def full(self):
    raise OSError(28, os.strerror(28), str(self.rows_file))


def test_rows_that_a_full_disk_held_back_come_before_a_checkpoint(claimed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(rundir.RunDir, "_append", full)
        claimed.record(2, 0, {"val/acc1": 0.9})
        with pytest.raises(UserError, match="whose rows come first: No space left"):
            claimed.ready_for_checkpoint()
    assert claimed.ready_for_checkpoint()
    assert [row["step"] for row in claimed.rows().rows] == [1, 2]


def test_rows_that_a_full_disk_held_back_are_written_or_told_at_a_signal(
    claimed, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        patch.setattr(rundir.RunDir, "_append", full)
        claimed.record(2, 0, {"val/acc1": 0.9})
        claimed.end(2, "preempted", signal="SIGTERM")
        assert "lacks 1 of its rows: " in capsys.readouterr().err
        with pytest.raises(UserError, match="lacks 1 of its rows: ") as caught:
            claimed.finish()
        claimed.end(2, "failed", str(caught.value))  # which the user is told anyhow
        assert not capsys.readouterr().err
    claimed.end(2, "preempted", signal="SIGTERM")
    assert [row["step"] for row in claimed.rows().rows] == [1, 2]
    assert not capsys.readouterr().err


def test_a_training_between_two_batches_has_heartbeats_until_it_ends(cli, monkeypatch):
    """Compiling, recomputing statistics or a slow disk may take minutes without a batch."""
    monkeypatch.setattr(rundir, "HEARTBEAT_S", 0.01)
    beats = set()
    original = ClassificationTask.on_train_start

    def wait(self):
        def has_beaten():
            beats.add(Run(only_run()).last_attempt()["heartbeat"])
            return len(beats) > 2

        waiting.wait_for(has_beaten)
        original(self)

    monkeypatch.setattr(ClassificationTask, "on_train_start", wait)
    assert cli("fit", *SHORT)[0] == 0
    assert "Heartbeats" not in [thread.name for thread in threading.enumerate()]


def test_a_training_that_hangs_has_no_heartbeats(claimed, monkeypatch):
    monkeypatch.setattr(rundir, "HEARTBEAT_S", 0.01)
    looks = []
    monkeypatch.setattr(claimed, "is_owner", lambda: looks.append(claimed.last_attempt()) or True)
    claimed.start_heartbeats(hang_s=0.0)
    waiting.wait_for(lambda: len(looks) > 3)
    assert len({look["heartbeat"] for look in looks}) == 1
    claimed.end(7, "failed")
    assert claimed.last_attempt()["last_step"] == 7


def test_a_heartbeat_replaces_no_newer_attempt_file(claimed, monkeypatch):
    """A heartbeat is held up between its look at the attempt and its write."""
    monkeypatch.setattr(rundir, "HEARTBEAT_S", 0.01)
    looked = threading.Event()
    go_on = threading.Event()
    write_json = rundir.write_json

    def write(path, content, sync=True):
        if threading.current_thread().name == "Heartbeats" and not looked.is_set():
            looked.set()
            go_on.wait(5)
            claimed._has_ended.set()  # no later heartbeat writes the file
        write_json(path, content, sync)

    monkeypatch.setattr(rundir, "write_json", write)
    claimed.start_heartbeats(hang_s=60.0)
    assert looked.wait(5)
    noting = threading.Thread(target=claimed.note_comparison, args=(7,))
    noting.start()
    noting.join(0.3)
    go_on.set()
    noting.join()
    claimed.stop_heartbeats()
    assert claimed.last_attempt()["compared_step"] == 7


def test_storage_that_hangs_at_the_end_is_told_and_not_waited_for(claimed, monkeypatch, capsys):
    monkeypatch.setattr(rundir, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(rundir, "STUCK_S", 0.1)
    hangs = threading.Event()
    answers = threading.Event()

    def write(path, content, sync=True):
        hangs.set()
        answers.wait(60)

    monkeypatch.setattr(rundir, "write_json", write)
    claimed.start_heartbeats(hang_s=60.0)
    assert hangs.wait(5)
    ending = threading.Thread(target=claimed.end, args=(7, "failed"), daemon=True)
    ending.start()
    ending.join(5)
    has_ended = not ending.is_alive()
    answers.set()
    ending.join(5)
    assert has_ended and "1.json: the storage has not answered for" in capsys.readouterr().err


def test_a_checkpoint_on_storage_that_hangs_is_waited_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "HANG_S", 0.1)
    answers = threading.Event()
    saving = checkpoints.Checkpoints(tmp_path, {})
    saving._writer = threading.Thread(target=answers.wait, args=(60,), daemon=True)
    saving._writer.start()
    with pytest.raises(UserError, match="the storage has not answered for"):
        saving.finish()
    waits = spy(monkeypatch, threading.Thread, "join")
    assert not saving.finish(must=False)
    answers.set()
    assert not waits


def test_a_heartbeat_says_nothing_of_rows_that_cannot_be_written(claimed, monkeypatch, capsys):
    monkeypatch.setattr(rundir.RunDir, "_append", full)
    for step in (2, 3):
        claimed.record(step, 0, {"train/loss": 1.0})
        claimed.note_comparison(step)
    assert capsys.readouterr().out.count("training goes on and tries again") == 1
    original = rundir.RunDir._try

    def beats_after(self, write, *before):
        told = original(self, write, *before)
        if write == self._append:
            claimed.note_comparison(4)  # as the heartbeats' thread may, before the message
        return told

    monkeypatch.setattr(rundir.RunDir, "_try", beats_after)
    with pytest.raises(UserError, match="lacks 2 of its rows: No space left"):
        claimed.finish()


def test_requeue_without_its_job_or_command_is_told(cli, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for command, words in (([], "needs the command"), (["fit"], "last line of a batch script")):
        code, _, err = cli("requeue", "--status", 1, *command)
        assert code == 2 and words in err and err.count("\n") == 1
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    code, _, err = cli("requeue", "--status", 1, "table", "nowhere.txt")
    assert code == 2 and "nowhere.txt" in err
    assert (
        cli("requeue", "--status", 3, "fit", "--config", "nowhere.yaml")[0] == 3
    )  # the training has told that
    for text in (
        "run: {root: 5}",
        "run: {name: null}",
        "run: [a, b]",
        "run: nowhere.yaml",
        "- a",
        "run: {",
    ):
        Path("odd.yaml").write_text(text)
        assert cli("requeue", "--status", 3, "fit", "--config", "odd.yaml")[0] == 3  # and that
    for table in ("resnet-cli fit 'a", b"\xff\xfe"):
        Path("table.txt").write_bytes(table if isinstance(table, bytes) else table.encode())
        code, _, err = cli("requeue", "--status", 1, "table", "table.txt")
        assert code == 2 and "give table FILE" in err and err.count("\n") == 1
    for table in ("\n\n", "resnet-cli table table.txt", "resnet-cli"):
        Path("table.txt").write_text(table)
        assert cli("requeue", "--status", 3, "table", "table.txt")[0] == 3


@pytest.mark.parametrize(
    "word", ["model.net.depth=20", "+x=3", "--model.net.depth=", "$UNSET", "--lrr", "nowhere", ""]
)
def test_requeue_does_not_repeat_what_fit_has_answered(cli, monkeypatch, word):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert cli("fit", "--config", "digits", word)[0] == 2
    assert cli("requeue", "--status", 2, "fit", "--config", "digits", word) == (2, "", "")


def test_words_of_requeue_itself_are_checked(cli, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for words, told in {
        "--status 2 model.net.depth=20": "fit ARGS, or table FILE; got model.net.depth=20",
        "--status 2 --lmit 3 fit --lrr 0.1": "unknown option --lmit; did you mean --limit?",
        "fit --config digits --lrr 0.1": "needs --status N",
        "--status= fit": "--status is empty",
    }.items():
        code, _, err = cli("requeue", *words.split())
        assert code == 2 and told in err and err.count("\n") == 1


def test_requeue_finds_the_run_however_its_name_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("{root: r, name: n}")
    ways = {
        "nested": "run: {root: r, name: n}",
        "dotted": "run.root: r\nrun.name: n",
        "file": "run: run.yaml",
    }
    for way, text in ways.items():
        Path(f"{way}.yaml").write_text(text)
        assert folders(["fit", "--config", f"{way}.yaml"]) == {Path("r/n")}
    for value in ("run.yaml", '{"root": "r", "name": "n"}'):
        assert (
            folders(["fit", "--run", value]) == folders(["fit", f"--run={value}"]) == {Path("r/n")}
        )


def test_a_wrong_exit_code_for_requeueing_is_told(cli, monkeypatch):
    Path("runs/run/x/attempts").mkdir(parents=True)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    killed = {"job_id": "7", "restart_count": 0, "reason": "running", "last_step": 5}
    Path("runs/run/x/attempts/1.json").write_text(json.dumps(killed))
    monkeypatch.setenv("PATH", "")
    for code, expected in (("85", 85), ("abc", 1), ("-1", 1), ("300", 1)):
        monkeypatch.setenv("REQUEUE_EXIT", code)
        status, out, _ = cli("requeue", "--status", 1, "fit")
        assert status == expected and ("no exit status" in out) == (expected == 1), out


def test_a_bomb_is_refused_by_convert_too(cli, stopped):
    import zipfile

    with zipfile.ZipFile("bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    code, _, err = cli("convert", "bomb.ckpt", "--out", "out.ckpt")
    assert code == 2 and "is compressed" in err and err.count("\n") == 1


def test_stray_submissions_are_no_matter(tmp_path):
    from lightning_resnet.sweeps.slurm import _numbers, _submissions

    for name, text in (
        ("1", '{"jobs": ["3"], "points": []}'),
        ("x", "{}"),
        ("²", "{}"),
        ("2", "{"),
        ("3", "[]"),
        ("4", '{"jobs": 1}'),
        ("5", '{"jobs": ["--user=me"], "points": []}'),  # would be a flag of scancel
        ("6", '{"jobs": [{}], "points": []}'),
        ("7", '{"jobs": ["3"], "points": [{}]}'),
        ("8", '{"jobs": ["3"], "points": [], "pack": 0}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "about.json").write_text(text)
    assert [about["jobs"] for about in _submissions(tmp_path)] == [["3"]]
    assert sorted(_numbers(tmp_path)) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("name", ["meta.json", "metrics.jsonl", "config.yaml", "attempts/1.json"])
def test_a_named_pipe_in_a_run_stops_no_reader(cli, stopped, name):
    """A synchronising program, or somebody else who has the folder, may leave one there."""
    Path(stopped, name).unlink()
    os.mkfifo(Path(stopped, name))

    def late(*args):
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    try:
        assert cli("compare", "runs", "--out", "report")[0] in (0, 2)
        assert cli("fit", *SHORT)[0] in (0, 2)
        if name == "meta.json":  # which a sweep reads of each run
            _find_among(described_runs(Path("runs"), "*/*"), [], Index())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_half_of_a_surrogate_pair_is_no_text(cli, stopped):
    """JSON can spell it, and no file can hold it: such a row is none, such a meta.json cannot be
    read.
    """
    assert row_of('{"step": 1, "val/\\ud800": 0.5}') is None
    assert row_of('{"step": 1, "val/\\ud83d\\ude00": 0.5}')
    Path(stopped, "meta.json").write_text('{"name": "\\ud800"}')
    assert Run(stopped).meta() == {}
    code, _, err = cli("compare", "runs", "--out", "report")
    assert code == 2 and err.count("\n") == 1, err


def test_an_attempt_with_the_last_number_there_is_locks_no_run(cli, stopped):
    """The next would have a number that no reader expects."""
    Path(stopped, "attempts/999999999.json").write_text('{"reason": "failed"}')
    code, _, err = cli("fit", *SHORT)
    assert (
        code == 2 and "999999999.json is of no attempt of this run" in err and err.count("\n") == 1
    )
    Path(stopped, "attempts/999999999.json").unlink()
    assert cli("fit", *SHORT)[0] == 0


def test_a_start_that_loses_the_race_for_an_attempt_leaves_it_alone(stopped, monkeypatch, capsys):
    """Both have looked, and no attempt was training; then the other one makes the file first."""
    file = stopped / "attempts/2.json"
    begin = rundir.write_new

    def beaten(path, content):
        begin(path, content)
        edit(path, host="theirs")
        begin(path, content)

    monkeypatch.setattr(rundir, "write_new", beaten)
    assert main(["fit", *SHORT, "--run.root", str(stopped.parents[1])]) == 2
    assert "is being trained by attempt 2 on theirs" in capsys.readouterr().err
    assert read_json(file)["host"] == "theirs" and read_json(file)["reason"] == "running"
