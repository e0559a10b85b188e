"""resnet-cli fit, and the entry of the other verbs that run a net.

resnet-cli fit --config configs/digits.yaml --model.net.depth 56 --model.net.shortcut none
"""

import os
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import distributed as dist

from lightning_resnet.arguments import Parser
from lightning_resnet.cli.validate import evaluate
from lightning_resnet.config.options import Launch
from lightning_resnet.config.recipe import ResNetCLI
from lightning_resnet.config.summary import describe, say
from lightning_resnet.console import report_only
from lightning_resnet.engine import observers
from lightning_resnet.engine.checkpoints import AtomicCheckpointIO, Checkpoints, GivenCheckpointIO
from lightning_resnet.engine.launch import MEETING, end_with_parent, supervise
from lightning_resnet.engine.loop import install
from lightning_resnet.engine.recorder import Recorder
from lightning_resnet.engine.refused import check_training
from lightning_resnet.engine.signals import Stopped, request
from lightning_resnet.engine.watchdog import Watchdog, cause, is_consequence, report
from lightning_resnet.errors import Diverged, Superseded, UserError, one_line
from lightning_resnet.files import write_json
from lightning_resnet.machine import cores
from lightning_resnet.progress import Progress
from lightning_resnet.provenance import changes, code, code_name, hardware, versions
from lightning_resnet.runs.checkpoint import check_resumable, newest_good
from lightning_resnet.runs.directory import RunDir, read_config, write_config
from lightning_resnet.runs.identity import decisive, differences, replicate, run_id
from lightning_resnet.runs.shared import points, share
from lightning_resnet.runs.status import read_meta, status
from lightning_resnet.tracking.background import Aside
from lightning_resnet.tracking.mirror import Mirror, WandbOptions
from lightning_resnet.weights.init_from import init_from
from lightning_resnet.weights.trained import hush

SHOWN = ("val", "val_ema", "train_eval", "test", "test_ema")


class _Finished(Exception):
    """The run is done already."""


class _CLI(ResNetCLI):
    """Finds the run directory as soon as the configuration is known: before anything heavy is built."""

    def before_instantiate_classes(self) -> None:
        run = self.config.run
        if self.config.trainer.fast_dev_run and self.verb == "fit":
            run.root = str(trial_root())
            self.config.wandb.mode = "disabled"
        config = yaml.safe_load(self.resolved)
        first = Path(run.root, run.name, run_id(config))
        if run.new and self.verb == "fit":
            run.replicate = next(k for k in range(2, sys.maxsize) if not replicate(first, k).exists())
        self.rundir = RunDir(replicate(first, run.replicate))
        self.run_path = self.rundir.path
        linked = run.point and self.verb == "fit" and run.replicate == 1 and share(Path(run.root), run.name, first.name)
        stored = read_meta(self.rundir.path)
        if linked and stored:
            run.threads = stored.get("threads")  # with what another sweep began
        if self.verb == "fit":
            if stored and run.point and run.point not in points(stored):  # another sweep's, or edited without effect
                keys = [*points(stored), run.point]
                rank_zero_only(write_json)(self.rundir.path / "meta.json", stored | {"point": keys})
            self._check_stored(config)
        super().before_instantiate_classes()
        begun_with = stored.get("threads") or self._stored_threads()
        run.threads = run.threads or begun_with or max(1, cores() // self.here.local_size)
        torch.set_num_threads(run.threads)

    def _check_stored(self, config: dict[str, Any]) -> None:
        path = self.rundir.path
        if status(path) == "finished":
            raise _Finished(path)
        stored, whole = read_config(path)
        try:
            differing = differences(decisive(stored), decisive(config)) if stored else []
        except (UserError, LookupError, TypeError, AttributeError, ValueError):  # of any shape
            differing, stored = ["it is damaged"], {}
        whole = whole or config.keys() <= stored.keys()  # as older versions wrote it
        if differing and whole:
            raise UserError(
                f"{path}/config.yaml is not this run's any more ({'; '.join(differing)}): restore it, or delete it "
                "(it is written again, as this command says), or add --run.new for a new run"
            )
        if differing or (not stored and (path / "config.yaml").exists()):
            say(f"careful: {path}/config.yaml was damaged; it is written again, as this command says")

    def _stored_threads(self) -> int | None:
        """What the run began with, where meta.json does not tell: by its config.yaml."""
        run = read_config(self.rundir.path)[0].get("run")
        threads = run.get("threads") if isinstance(run, dict) else None
        return threads if isinstance(threads, int) and threads > 0 else None


def make_parser() -> Parser:
    """Return the parser of the verbs that take a recipe: LightningCLI reads their words."""
    return Parser(recipe="all")


def run(args: Namespace) -> int:
    """Run fit, validate, test, or predict for a recipe's validation images.

    Returns:
        The exit status.
    """
    argv = [args.verb, *args.words]
    hush()
    end_with_parent()
    try:
        cli = _CLI(argv[0], argv[1:])
        given = cli.trainer._accelerator_connector.checkpoint_io
        ours = AtomicCheckpointIO() if given is None else GivenCheckpointIO(given, cli.rundir.candidates())
        cli.trainer.strategy.checkpoint_io = ours
        if cli.verb != "fit":
            return evaluate(cli, cli.rundir)
        report_only()
        with _nothing_kept(cli) if cli.trainer.fast_dev_run else nullcontext():
            return _fit(cli, argv)
    except _Finished as e:
        say(f"run {e} is finished; nothing to do (--run.new trains a replicate)")
        return 0
    except Launch as e:
        return supervise(e.argv(argv), e.size, e.nodes)


@contextmanager
def _nothing_kept(cli: _CLI) -> Iterator[None]:
    """Make the folder of a trial by --trainer.fast_dev_run, which goes with it, as Lightning would keep nothing."""
    (cli.rundir.path / "attempts").mkdir(parents=True, exist_ok=True)  # where ranks report
    request.continues = False
    try:
        yield
    finally:
        if not os.environ.get(MEETING):  # else the parent removes it, once the other ranks have read the reports
            shutil.rmtree(cli.config.run.root, ignore_errors=True)


def trial_root() -> Path:
    """Choose the folder of a trial's run: the ranks of one machine share it, to tell one another how they failed."""
    if folder := os.environ.get(MEETING):
        return Path(folder, "trial")
    return Path(tempfile.gettempdir(), f"resnet-trial-{uuid4().hex}")


def _fit(cli: _CLI, argv: list[str]) -> int:
    trainer, task, data, rundir, run = cli.trainer, cli.model, cli.datamodule, cli.rundir, cli.config.run
    data.trainer = trainer
    try:
        check_training(trainer, task, data)
        data.setup("fit")
        facts = describe(cli)
    except (ValueError, ZeroDivisionError) as e:  # what an optimizer or a source refuses
        raise UserError(one_line(e)) from e
    observers.check(trainer, task, data, rundir.checkpoints)
    if run.init_from:
        init_from(task, run.init_from, data.source.classes, cli.resolved)
    if run.must_resume and not rundir.candidates():
        raise UserError(f"run {rundir.path} has no checkpoint to continue from: drop --run.must_resume to begin it")
    cure = f"restore one, or delete {rundir.checkpoints} to begin at step 0, or add --run.new for a replicate"
    check = partial(check_resumable, run_id=rundir.path.name)
    resume, newest = newest_good(rundir.candidates(), say, cure, check)
    step = newest.get("global_step", 0)
    del newest  # Lightning reads the file itself
    origin = {"id": rundir.path.name, "config": cli.resolved, "classes": data.source.classes}
    checkpoints = Checkpoints(rundir.checkpoints, origin, run.save_minutes, rundir.look)
    progress = Progress(show=trainer.progress_bar_callback is None)
    watchdog = Watchdog(rundir.path, run.hang_s)
    try:
        with _attempt(cli, checkpoints, progress, watchdog):
            if trainer.is_global_zero:
                _open_rundir(cli, facts, argv)
            # a ModelCheckpoint comes last, as in Lightning: it needs what the Recorder has just measured
            ours = [Recorder(rundir, progress), checkpoints, watchdog]
            trainer.callbacks = trainer._callback_connector._reorder_callbacks([*trainer.callbacks, *ours])
            install(trainer, rundir, checkpoints, run.hang_s)
            observers.go_on(trainer, rundir.path, step)
            if trainer.fast_dev_run:
                say(f"a trial of {trainer.max_steps} steps by --trainer.fast_dev_run; nothing of it is kept")
            else:
                say(f"run {rundir.path}" + (f", continued from {resume.name} at step {step}" if resume else ""))
            trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
            if early := observers.stopped_early(trainer, task):
                say(early)
            if "test" in data.splits:
                trainer.test(task, datamodule=data, verbose=False)
                trainer.fit_loop.agreement.close()
            rundir.finish()
            if error := trainer.strategy.checkpoint_io.error:
                raise UserError(f"{error}; the training is done, and its own checkpoints are kept")
    except Stopped as e:
        hint = f" (with --run.replicate {run.replicate} instead of --run.new)" if run.new else ""
        say(f"{e}{hint}", file=sys.stderr)
        trainer.profiler.describe()  # Lightning prints it at the end of a training only
        return e.exit_status
    if trainer.is_global_zero:
        checkpoints.keep(run.keep)
    say(_text(progress.metrics))
    return 0


@contextmanager
def _attempt(cli: _CLI, checkpoints: Checkpoints, progress: Progress, watchdog: Watchdog) -> Iterator[None]:
    """Record how it ends, and end what it began."""
    trainer, rundir, end = cli.trainer, cli.rundir, {"reason": "failed"}
    try:
        yield
        end = {"reason": "finished"}
    except Stopped as e:
        request.deferred = True
        end = {"reason": e.reason, "signal": str(e.args[0])}
        raise
    except SystemExit:  # how Lightning ends on a KeyboardInterrupt of anybody else's
        end = {"reason": "interrupted"}
        raise KeyboardInterrupt from None
    except BaseException as e:
        request.deferred = True
        told = _told(e, rundir, trainer, checkpoints)
        reason = {Diverged: "diverged", Superseded: "superseded"}.get(type(e), "failed")
        end = {"reason": reason, "error": one_line(told)}
        if isinstance(told, Stopped):
            end = {"reason": told.reason, "signal": str(told.args[0])}
        raise told from None
    finally:
        request.deferred = True  # the outcome is decided: it is written down whatever else comes
        request.joined = True
        progress.stop()
        watchdog.close()
        with suppress(UserError):
            checkpoints.finish(must=False)  # a write under way is worth waiting for
        if trainer.is_global_zero and rundir.attempt and rundir.look():
            rundir.end(trainer.global_step, **end)
            if rundir.mirror:
                rundir.mirror.finish(end["reason"])
        if dist.is_initialized() and end["reason"] in ("finished", "preempted", "interrupted"):
            dist.destroy_process_group()


def _again(rundir: RunDir, trainer: pl.Trainer, checkpoints: Checkpoints) -> str:
    """Tell what the same command does after a failure: nothing is kept of a trial, or before the first checkpoint."""
    with suppress(UserError):
        checkpoints.finish(must=False)  # the first may be under way
    saved = rundir.candidates() and not trainer.fast_dev_run
    return f"the same command {'continues' if saved else 'begins anew'}"


def _told(e: BaseException, rundir: RunDir, trainer: pl.Trainer, checkpoints: Checkpoints) -> BaseException:
    """The error as users shall see it; what is nobody's mistake leaves a report in the run directory."""
    if isinstance(e, MisconfigurationException):
        return UserError(one_line(e))
    if isinstance(e, RuntimeError) and "ddp_find_unused_parameters_true" in str(e):
        return UserError(
            "some parameters of the net had no part in the loss, which ddp does not bear: add "
            "--trainer.strategy ddp_find_unused_parameters_true, or take them out of the net"
        )
    if isinstance(e, ValueError) and "loaded state dict" in str(e) and "group" in str(e):
        return UserError(
            f"the checkpoint's optimizer has other parameters than this one ({one_line(e)}): a callback has added some "
            "on its way; let it derive from BaseFinetuning, whose groups a run that continues finds again, and begin "
            "with --run.new"
        )
    if is_consequence(e):
        met = request.joined
        found = cause(rundir.path, trainer.world_size, e, not trainer.fast_dev_run)
        why = UserError(f"{found}; {_again(rundir, trainer, checkpoints)}")
        if request.signum and not met:  # a signal to the other rank alone, which our parent has passed on meanwhile
            return Stopped(request.signum)
        return why
    if failed := observers.failed(e):
        return UserError(failed)
    if not isinstance(e, UserError):
        report(rundir.path, trainer.global_rank, trainer.global_step, e)
    return e


def _open_rundir(cli: _CLI, facts: dict[str, Any], argv: list[str]) -> None:
    rundir = cli.rundir
    if status(rundir.path) == "finished":  # meanwhile; as an error, because other ranks wait for this one
        raise UserError(f"run {rundir.path} has just been finished by another process; nothing is left to do")
    on_gpu = cli.trainer.strategy.root_device.type == "cuda"
    rundir.claim(cli.trainer.world_size if on_gpu else 0)
    try:
        stored = _describe_run(cli, facts, argv)
    except OSError as e:
        error = f"cannot write {e.filename or rundir.path}: {e.strerror}"
        rundir.end(0, "failed", error)
        raise UserError(f"{error}; mend that, or set --run.root to a folder you can write") from e
    rundir.mirror = Aside(Mirror(WandbOptions(**cli.config.wandb.as_dict()), say))
    rundir.mirror.start(rundir.path, stored, yaml.safe_load(cli.resolved))


def _describe_run(cli: _CLI, facts: dict[str, Any], argv: list[str]) -> dict[str, Any]:
    """Write config.yaml, and meta.json where there is none that can be read; returns what meta.json tells."""
    rundir = cli.rundir
    write_config(rundir.path, cli.resolved)
    now = code() | {"versions": versions(), "hardware": hardware()}
    rundir.attempt["code"] = here = code_name(now)
    if here and cli.config.run.code not in (None, here):
        say(f"careful: the sweep was submitted with code {cli.config.run.code}, but this is {here}")
    if stored := read_meta(rundir.path):
        if differing := changes(stored, now):
            say(f"careful: this run began with other software: {differing}; it may not end with the same weights")
    else:
        stored = _meta(cli, facts, argv, now)
        write_json(rundir.path / "meta.json", stored)
    return stored


def _meta(cli: _CLI, facts: dict[str, Any], argv: list[str], now: dict[str, Any]) -> dict[str, Any]:
    run, rundir = cli.config.run, cli.rundir
    meta = {
        "run_id": rundir.path.name,
        "name": run.name,
        "point": [run.point] if run.point else [],
        "threads": run.threads,
    }
    return meta | now | {"command": ["resnet-cli", *argv], "created": rundir.attempt["start"], **facts}


def _text(metrics: dict[str, float]) -> str:
    return "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k.split("/")[0] in SHOWN)
