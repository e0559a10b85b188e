"""`resnet-cli fit`, and the way in of validate, test and predict with a recipe.

resnet-cli fit --config configs/digits.yaml --model.net.depth 56 --model.net.shortcut none
"""

import os
import secrets
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
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import distributed as dist

from lightning_resnet.arguments import Parser
from lightning_resnet.cli.validate import parse_of_run, validate
from lightning_resnet.config.forecast import FORECAST, dry_run, forecast, lines_of
from lightning_resnet.config.options import local_devices
from lightning_resnet.config.recipe import (
    Config,
    Experiment,
    build,
    find_place,
    normalise,
    parse,
    ranks_asked,
)
from lightning_resnet.config.summary import describe, say
from lightning_resnet.console import report_only
from lightning_resnet.engine import observers
from lightning_resnet.engine.checkpoints import Checkpoints, keep
from lightning_resnet.engine.dry_run import UnwrittenCheckpoints
from lightning_resnet.engine.halving import Hyperband
from lightning_resnet.engine.launch import MEETING, Place, end_with_parent, idle_tasks, supervise
from lightning_resnet.engine.recorder import Recorder
from lightning_resnet.engine.refused import check_training
from lightning_resnet.engine.signals import Stopped, request
from lightning_resnet.engine.silence import silence_lightning
from lightning_resnet.engine.watchdog import Watchdog, cause, is_consequence, write_crash_report
from lightning_resnet.errors import Diverged, Superseded, UserError, is_out_of_memory, one_line
from lightning_resnet.files import write_json
from lightning_resnet.machine import cores, crowded
from lightning_resnet.progress import Progress, in_words
from lightning_resnet.provenance import (
    changes,
    code,
    code_name,
    hardware,
    source_digest,
    versions,
)
from lightning_resnet.reading import read_yaml
from lightning_resnet.runs.checkpoint import check_resumable, newest_good
from lightning_resnet.runs.directory import RunDir
from lightning_resnet.runs.find import quote
from lightning_resnet.runs.identity import (
    decides,
    differences,
    flatten,
    replicate_dir,
    resolve_class,
    result_config,
    run_id,
)
from lightning_resnet.runs.labels import label_of, link_label, with_label
from lightning_resnet.runs.names import is_hub_name
from lightning_resnet.runs.shared import points, share
from lightning_resnet.runs.status import HALVED
from lightning_resnet.tracking.background import BackgroundMirror
from lightning_resnet.tracking.mirror import Mirror, WandbOptions
from lightning_resnet.weights.hubs import fetch
from lightning_resnet.weights.init_from import init_from

SHOWN = ("val", "val_ema", "train_eval", "test", "test_ema")


def make_parser() -> Parser:
    """Return the parser of the verbs that take a recipe: LightningCLI reads their words."""
    return Parser(recipe="all")


def run(args: Namespace) -> int:
    """Run fit, validate, test, or predict for a recipe's validation images.

    Returns:
        The exit status.
    """
    words = args.words
    if args.verb in ("validate", "test"):  # whose result is always JSON
        words = [word for word in words if word != "--json"]
    argv = [args.verb, *words]
    silence_lightning()
    end_with_parent()
    config = parse_of_run(args.verb, words) or parse(args.verb, words)
    if config.run.dry and config.verb != "fit":
        raise UserError(f"--run.dry is for fit, and {config.verb} keeps nothing: leave it out")
    is_trial = config.verb == "fit" and (config.run.dry or bool(config.trainer.fast_dev_run))
    if is_trial:
        config = _as_trial(config)
    first = Path(config.run.root, config.run.name, run_id(yaml.safe_load(config.resolved)))
    if config.verb == "fit" and config.run.new:
        config = config.replaced({"run.replicate": _free_replicate(first)})
    rundir = RunDir(replicate_dir(first, config.run.replicate))
    args.run_path = rundir.path  # for the function `fit` of Python
    if config.verb == "fit":
        config = _join_sweep(config, rundir)
        if _is_over(config, rundir):
            _remove_unkept(config, rundir)
            how = rundir.status()
            more = "--run.new trains a replicate"
            if how == HALVED:
                more += ", --run.hyperband null goes on to the end"
            say(f"run {rundir.path} is {how}; nothing to do ({more})")
            if changed := _changed_class(config, rundir.meta()):
                say(
                    f"warning: {changed}, and the run is of the former code: --run.new (from "
                    "Python: new=True) trains with the present one"
                )
            return 0
        _check_stored(config, rundir)
        weights = config.run.init_from or ""
        if is_hub_name(weights) and not rundir.candidates():
            fetch(weights)  # once, before ranks start and data are read
    place = find_place(config)
    if place is None and ranks_asked(config) > 1:
        return _supervise(config, argv)
    if place is None and (warning := idle_tasks(os.environ)):
        say(warning)
    threads = _threads(config, rundir, place or Place(0, 1, 0, 1))
    if threads > 1 and not config.run.threads and not torch.cuda.is_available():
        if told := crowded():
            say(f"warning: {told}", file=sys.stderr)
    torch.set_num_threads(threads)
    config = config.replaced({"run.threads": threads})
    if config.run.dry:
        experiment = _build_without_loggers(config, rundir.path)
    else:
        experiment = build(config, rundir.path)
    if config.verb != "fit":
        return validate(experiment, rundir)
    report_only()
    with _nothing_kept(rundir, config.run.root) if is_trial else nullcontext():
        return _fit(experiment, rundir, argv)


def _is_over(config: Config, rundir: RunDir) -> bool:
    """Tell whether nothing is left to do; a run that hyperband ended goes on without hyperband."""
    status = rundir.status()
    return status == "finished" or (status == HALVED and config.run.hyperband is not None)


@rank_zero_only
def _remove_unkept(config: Config, rundir: RunDir) -> None:
    """Remove what a finished run does not keep, as a kill may have come before that.

    Nothing is removed from a run that ended with another --run.keep than this command gives: it may
    be the run of another sweep too.
    """
    ended_with = flatten(rundir.config_if_good()[0]).get("run.keep")
    if rundir.status() != "finished" or ended_with != config.run.keep:
        return
    try:
        keep(rundir, config.run.keep)
    except (UserError, OSError) as e:
        say(f"warning: not all is removed that --run.keep {config.run.keep} says: {one_line(e)}")


def _changed_class(config: Config, meta: dict[str, Any]) -> str:
    """Tell that the class of the net is another than a run began with; empty where it is not."""
    name = config.values.model.net.class_path
    now = source_digest(resolve_class(name))
    before = meta.get("net_source")
    return f"the code of {name} has changed" if now and before and now != before else ""


def _free_replicate(first: Path) -> int:
    """Return the number of the next replicate of a run."""
    return next(k for k in range(2, sys.maxsize) if not replicate_dir(first, k).exists())


def _join_sweep(config: Config, rundir: RunDir) -> Config:
    """Link a sweep's point to the run that other sweeps share, and record the point there.

    Returns:
        The configuration, with the number of threads of a run that another sweep began.
    """
    run = config.run
    is_linked = False
    if run.point and run.replicate == 1:
        is_linked = share(Path(run.root), run.name, rundir.path.name)
    stored = rundir.meta()
    if is_linked and stored:
        config = config.replaced({"run.threads": stored.get("threads")})
    # the run is another sweep's, or the sweep was edited without effect on this point
    if stored and run.point and run.point not in points(stored):
        keys = [*points(stored), run.point]
        rank_zero_only(rundir.write_meta)(stored | {"point": keys})
    return config


def _check_stored(config: Config, rundir: RunDir) -> None:
    """Refuse to continue a run whose config.yaml is another run's; warn of a damaged one.

    Raises:
        UserError: config.yaml gives another run.
    """
    asked = yaml.safe_load(config.resolved)
    stored, is_complete = rundir.config_if_good()
    differing = []
    if stored:
        try:
            differing = differences(result_config(stored), result_config(asked))
        except (UserError, LookupError, TypeError, AttributeError, ValueError):  # any content
            differing = ["it is damaged"]
            stored = {}
    is_complete = is_complete or asked.keys() <= stored.keys()  # as older versions wrote it
    if differing and is_complete:
        raise UserError(
            f"{rundir.config_file} is not this run's any more ({'; '.join(differing)}): "
            "restore it, or delete it (it is written again, as this command says), or add "
            "--run.new for a new run"
        )
    if differing or (not stored and rundir.config_file.exists()):
        say(f"warning: {rundir.config_file} was damaged; it is written again, as this command says")


def _supervise(config: Config, argv: list[str]) -> int:
    """Start the ranks of this node, wait for them, and return the exit status.

    The ranks must not each look for a new replicate: the last flag wins.
    """
    told = [*argv, "--run.new=false", f"--run.replicate={config.run.replicate}"]
    return supervise(told, local_devices(config.trainer), config.trainer.num_nodes)


def _threads(config: Config, rundir: RunDir, place: Place) -> int:
    """Return torch's number of threads: as asked for, as the run began, or this rank's cores.

    A run that goes on with another number of ranks is not bitwise the same with any number of
    threads. Its ranks then have no more threads than cores.
    """
    if config.run.threads:
        return config.run.threads
    own_cores = max(1, cores() // place.local_size)
    begun_with = rundir.meta().get("threads") or _stored_threads(rundir) or own_cores
    if rundir.ranks() in (0, place.local_size * place.nodes):
        return begun_with
    return min(begun_with, own_cores)


def _stored_threads(rundir: RunDir) -> int | None:
    """Return the number of threads in a run's config.yaml; None if it has none.

    The number is needed for runs whose meta.json does not tell it.
    """
    run = rundir.config_if_good()[0].get("run")
    threads = run.get("threads") if isinstance(run, dict) else None
    return threads if isinstance(threads, int) and threads > 0 else None


def _as_trial(config: Config) -> Config:
    """Return the configuration of a trial, of which nothing is kept.

    A trial is a dry run, or one by --trainer.fast_dev_run, of which Lightning would keep nothing
    either.
    """
    values = {
        "run.root": str(trial_root()),
        "run.point": None,
        "run.new": False,
        "run.must_resume": False,
        "wandb.mode": "disabled",
    }
    if config.run.dry:
        values |= {
            "trainer.profiler": None,
            "trainer.min_epochs": None,
            "trainer.min_steps": None,
        }
    return config.replaced(values)


def _build_without_loggers(config: Config, path: Path) -> Experiment:
    """Build an experiment with a stand-in for its loggers.

    The constructors of some of Lightning's loggers begin an experiment on a server.
    """
    has_loggers = config.trainer.logger not in (None, False, [])
    experiment = build(config.replaced({"trainer.logger": False}), path)
    experiment.trainer.loggers = [DummyLogger()] if has_loggers else []
    return experiment


@contextmanager
def _nothing_kept(rundir: RunDir, root: str) -> Iterator[None]:
    """Make the run directory of a trial, and remove its root after the trial.

    Raises:
        UserError: the memory is not enough.
    """
    rundir.is_kept = False
    request.continues = False
    try:
        rundir.attempts_folder.mkdir(parents=True, exist_ok=True)  # ranks report there
        yield
    except (RuntimeError, MemoryError, OSError) as e:
        if not is_out_of_memory(e):
            raise
        raise UserError(
            f"out of memory: {one_line(e)[:200]}: --trainer.accumulate_grad_batches 2 (or twice "
            "what it is), --trainer.precision bf16-mixed, or a smaller --data.batch_size"
        ) from e
    finally:
        # of several ranks the parent removes the folder, once all have read the reports
        if not os.environ.get(MEETING):
            shutil.rmtree(root, ignore_errors=True)


def trial_root() -> Path:
    """Return the folder of a trial's run.

    The ranks of one machine share the folder, to tell one another how they failed.
    """
    if folder := os.environ.get(MEETING):
        return Path(folder, "trial")
    return Path(tempfile.gettempdir(), f"resnet-trial-{uuid4().hex}")


def _fit(experiment: Experiment, rundir: RunDir, argv: list[str]) -> int:
    """Train, test, and keep the run directory; return the exit status."""
    trainer = experiment.trainer
    task = experiment.task
    data = experiment.data
    config = experiment.config
    run = config.run
    try:
        check_training(trainer, task, data)
        data.setup("fit")
        facts = describe(experiment)
    except (ValueError, ZeroDivisionError) as e:  # what an optimizer or a source refuses
        raise UserError(one_line(e)) from e
    observers.check(trainer, task, data, rundir.checkpoints)
    if run.must_resume and not rundir.candidates():
        raise UserError(
            f"run {rundir.path} has no checkpoint to continue from: drop --run.must_resume to "
            "begin it"
        )
    cure = (
        f"restore one, or delete {rundir.checkpoints} to begin at step 0, or add --run.new for a "
        "replicate"
    )
    check = partial(check_resumable, run_id=rundir.path.name)
    choose = partial(newest_good, say=say, cure=cure, check=check)
    before = rundir.checkpoint_stamps()
    resume, newest = choose(rundir.candidates())
    if run.init_from and not resume:
        facts |= init_from(task, run.init_from, data.source.classes, config.resolved)
    step = newest.get("global_step", 0)
    del newest  # Lightning reads the file itself
    origin = {
        "id": rundir.path.name,
        "config": config.resolved,
        "classes": data.source.classes,
        "input_size": facts["input_size"],
    }
    make_checkpoints = UnwrittenCheckpoints if run.dry else Checkpoints
    checkpoints = make_checkpoints(
        rundir.checkpoints,
        origin,
        run.save_minutes,
        rundir.ready_for_checkpoint,
        run.keep_epochs,
    )
    progress = Progress(show=trainer.progress_bar_callback is None and not run.dry)
    watchdog = Watchdog(rundir, run.hang_s)
    try:
        with _attempt(experiment, rundir, checkpoints, progress, watchdog) as end:
            if trainer.is_global_zero:
                _open_rundir(experiment, rundir, facts, argv)
            ours = [Recorder(rundir, progress), checkpoints, watchdog]
            if run.dry:
                return _dry_run(experiment, rundir, checkpoints, ours)
            # the first rank has claimed the run: no other attempt writes from here
            rundir.number = trainer.meet(rundir.attempt.get("attempt", 0))
            after = rundir.checkpoint_stamps()
            if after and after != before:  # another attempt wrote one before it ended
                resume, newest = choose(rundir.candidates())
                step = newest["global_step"]
                del newest
            if trainer.is_global_zero:
                rundir.attempt["start_step"] = step
            trainer.prepare_run(rundir, checkpoints, ours, run.hang_s)
            trainer.fit_loop.hyperband = run.hyperband and Hyperband(**run.hyperband.as_dict())
            observers.go_on(trainer, rundir.path, step)
            if trainer.fast_dev_run:
                say(
                    f"a trial of {trainer.max_steps} steps by --trainer.fast_dev_run; nothing of "
                    "it is kept"
                )
            elif resume:
                say(f"run {with_label(rundir.path)}, continued from {resume.name} at step {step}")
                _tell_of_other_ranks(rundir, trainer)
            else:
                say(f"run {with_label(rundir.path)}")
            trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
            if early := observers.stopped_early(trainer, task):
                say(early)
            if halved := trainer.fit_loop.halved:
                end["reason"] = HALVED
                say(f"{HALVED}, after step {trainer.global_step}: {halved}")
            elif "test" in data.splits:
                trainer.test(task, datamodule=data, verbose=False)
                trainer.fit_loop.agreement.close()
            rundir.finish()
            if error := trainer.strategy.checkpoint_io.error:
                raise UserError(f"{error}; the training is done, and its own checkpoints are kept")
    except Stopped as e:
        hint = f" (with --run.replicate {run.replicate} instead of --run.new)" if run.new else ""
        say(f"{e}{hint}", file=sys.stderr)
        trainer.profiler.describe()  # Lightning prints the profile at the end of a training only
        return e.exit_status
    if trainer.is_global_zero and not trainer.fit_loop.halved:  # which may yet be continued
        keep(rundir, run.keep)
    if rundir.is_kept and rundir.candidates():
        say(f"run {with_label(rundir.path)}; next: resnet-cli evaluate {quote(rundir.path)}")
    say(_text(progress.metrics, data.num_classes))  # the last line, which -q leaves
    return 0


def _dry_run(
    experiment: Experiment, rundir: RunDir, checkpoints: Checkpoints, callbacks: list[Callback]
) -> int:
    """Train and evaluate shortly, and print what the complete training would take.

    Args:
        experiment: experiment whose data are set up.
        rundir: directory of the trial, which the caller removes.
        checkpoints: callback that copies checkpoints, and writes none.
        callbacks: the callbacks of a run, `checkpoints` among them.
    """
    trainer = experiment.trainer
    measured = dry_run(experiment)
    # first of ours, to time the steps before rows are made
    trainer.prepare_run(rundir, checkpoints, [measured, *callbacks], experiment.config.run.hang_s)
    measured.shorten(trainer)
    trainer.fit(experiment.task, datamodule=experiment.data)
    numbers = forecast(experiment, measured)
    for line in lines_of(numbers):
        say(line)
    if trainer.is_global_zero and (file := os.environ.get(FORECAST)):
        write_json(Path(file), numbers, sync=False)
    return 0


@contextmanager
def _attempt(
    experiment: Experiment,
    rundir: RunDir,
    checkpoints: Checkpoints,
    progress: Progress,
    watchdog: Watchdog,
) -> Iterator[dict[str, str]]:
    """Record how the attempt ends, and stop its threads and processes.

    Yields:
        What is recorded unless an exception comes; the reason may be changed.
    """
    trainer = experiment.trainer
    end = {"reason": "failed"}
    done = {"reason": "finished"}
    try:
        yield done
        end = done
    except Stopped as e:
        request.deferred = True
        end = {"reason": e.reason, "signal": str(e.args[0])}
        raise
    except SystemExit:  # Lightning turns a KeyboardInterrupt that is not ours into this
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
        request.deferred = True  # the outcome is decided; no signal may keep it from being written
        request.joined = True
        progress.stop()
        watchdog.close()
        with suppress(UserError):
            checkpoints.finish(must=False)  # a write under way is worth waiting for
        if trainer.is_global_zero and rundir.attempt and rundir.is_owner():
            rundir.end(trainer.global_step, **end)
            if rundir.mirror:
                rundir.mirror.finish(end["reason"])
        rundir.stop_heartbeats()  # of an attempt that another has taken over from, too
        is_clean = end["reason"] in ("finished", HALVED, "preempted", "interrupted")
        if dist.is_initialized() and is_clean:
            dist.destroy_process_group()


def _again(rundir: RunDir, trainer: pl.Trainer, checkpoints: Checkpoints) -> str:
    """Say whether the same command continues after a failure.

    There is nothing to continue after a trial, or before the first checkpoint.
    """
    with suppress(UserError):
        checkpoints.finish(must=False)  # the first may be under way
    can_continue = rundir.candidates() and rundir.is_kept
    return f"the same command {'continues' if can_continue else 'starts over'}"


def _told(
    e: BaseException, rundir: RunDir, trainer: pl.Trainer, checkpoints: Checkpoints
) -> BaseException:
    """Convert an exception for the user; an unexpected error also writes a report.

    Args:
        e: exception that ended the attempt.
        rundir: directory of the run, which gets the report.
        trainer: trainer of the attempt.
        checkpoints: writer of the run's checkpoints.

    Returns:
        The exception to raise.
    """
    if isinstance(e, MisconfigurationException):
        return UserError(one_line(e))
    if isinstance(e, RuntimeError) and "ddp_find_unused_parameters_true" in str(e):
        return UserError(
            "some parameters of the net had no part in the loss, which ddp does not bear: add "
            "--trainer.strategy ddp_find_unused_parameters_true, or take them out of the net"
        )
    if isinstance(e, ValueError) and "loaded state dict" in str(e) and "group" in str(e):
        return UserError(
            f"the checkpoint's optimizer has other parameters than this one ({one_line(e)}): a "
            "callback has added some on its way; let it derive from BaseFinetuning, whose groups a "
            "run that continues finds again, and begin with --run.new"
        )
    if is_consequence(e):
        had_joined = request.joined
        found = cause(rundir, trainer.world_size, e)
        why = UserError(f"{found}; {_again(rundir, trainer, checkpoints)}")
        # the other rank alone got a signal, which our parent has passed on in the meantime
        if request.signum and not had_joined:
            return Stopped(request.signum)
        return why
    if failed := observers.failed(e):
        return UserError(failed)
    if not isinstance(e, UserError):
        write_crash_report(rundir, trainer.global_rank, trainer.global_step, e)
    return e


def _open_rundir(
    experiment: Experiment, rundir: RunDir, facts: dict[str, Any], argv: list[str]
) -> None:
    """Claim the run directory for this attempt, describe the run there, and start its mirror.

    Raises:
        UserError: another process has finished the run, or the directory cannot be written.
    """
    config = experiment.config
    if config.run.elastic:
        rundir.wait_for_owner()
    # an error, and no exit status 0, because other ranks wait for this one
    if _is_over(config, rundir):
        raise UserError(
            f"run {rundir.path} has just been finished by another process; nothing is left to do"
        )
    on_gpu = experiment.trainer.strategy.root_device.type == "cuda"
    ranks = experiment.trainer.world_size
    rundir.start_attempt(ranks if on_gpu else 0, ranks, experiment.trainer.num_nodes)
    rundir.start_heartbeats(config.run.hang_s)
    try:
        stored = _describe_run(config, rundir, facts, argv)
    except OSError as e:
        error = f"cannot write {e.filename or rundir.path}: {e.strerror}"
        rundir.end(0, "failed", error)
        raise UserError(f"{error}; fix that, or set --run.root to a folder you can write") from e
    if rundir.is_kept:
        link_label(rundir.path, _label(config, argv[1:]))
    rundir.mirror = BackgroundMirror(Mirror(WandbOptions(**config.values.wandb.as_dict()), say))
    rundir.mirror.start(rundir.path, stored, yaml.safe_load(config.resolved))


def _label(config: Config, words: list[str]) -> str:
    """Return the readable name of a run: as asked for, or from what was given besides its recipe.

    Args:
        config: configuration of the run.
        words: words of the command line after the verb.
    """
    given: dict[str, Any] = {}
    recipes = 0
    rest = normalise(words)
    while rest:
        flag, has_value, value = rest.pop(0).partition("=")
        if not has_value and rest:
            value = rest.pop(0)
        if flag == "--config":
            given |= flatten(read_yaml(Path(value))) if recipes else {}
            recipes += 1
        else:
            given[flag.removeprefix("--")] = value
    given = {key: value for key, value in given.items() if decides(key)}
    return label_of(given, config.run.replicate, config.run.label)


def _describe_run(
    config: Config, rundir: RunDir, facts: dict[str, Any], argv: list[str]
) -> dict[str, Any]:
    """Write config.yaml, and meta.json if there is none that can be read.

    Args:
        config: configuration of the run.
        rundir: directory of the run.
        facts: facts about net and data for meta.json, from `describe`.
        argv: verb and words of the command line.

    Returns:
        The content of meta.json.
    """
    rundir.write_config(config.resolved)
    now = code() | {"versions": versions(), "hardware": hardware()}
    here = code_name(now)
    rundir.attempt["code"] = here
    if here and config.run.code not in (None, here):
        say(f"warning: the sweep was submitted with code {config.run.code}, but this is {here}")
    if stored := rundir.meta():
        if changed := _changed_class(config, stored):
            say(f"warning: {changed} since this run began; --run.new begins another")
        if differing := changes(stored, now):
            say(
                f"warning: this run began with other software: {differing}; it may not end with "
                "the same weights"
            )
        if _has_older_statistics(config, rundir):
            say(
                "warning: this run was begun by older code, where each micro-batch updated batch "
                "norm's running statistics: from here on the first of each step does"
            )
    else:
        stored = _meta(config, rundir, facts, argv, now)
        rundir.write_meta(stored)
    return stored


def _tell_of_other_ranks(rundir: RunDir, trainer: pl.Trainer) -> None:
    """Print that a run goes on with another number of ranks, which is not bitwise the same."""
    ranks = trainer.world_size
    attempts = rundir.attempts()
    before = attempts[-2]["ranks"] if len(attempts) > 1 else 0  # 0: by older code
    if before and before != ranks:
        say(
            f"ranks: {ranks} in place of {before}; images, draws and rates stay, bits do not: "
            f"resnet-cli doctor --elastic {quote(rundir.path)} --trainer.devices "
            f"{ranks // trainer.num_nodes}"
        )


def _has_older_statistics(config: Config, rundir: RunDir) -> bool:
    """Tell whether a run goes on for which older code updated the statistics of batch norm.

    The code that updates them once per step also records the ranks of each attempt.
    """
    accumulates = config.trainer.accumulate_grad_batches > 1
    if not (config.values.model.bn_batch and accumulates and rundir.candidates()):
        return False
    return not rundir.attempts()[0]["ranks"]


def _meta(
    config: Config, rundir: RunDir, facts: dict[str, Any], argv: list[str], now: dict[str, Any]
) -> dict[str, Any]:
    """Return what meta.json tells of a new run."""
    run = config.run
    net = config.values.model.net.class_path
    meta = {
        "net_source": source_digest(resolve_class(net)),
        "run_id": rundir.path.name,
        "wandb_id": f"{rundir.path.name}-{secrets.token_hex(3)}",  # of this folder alone
        "name": run.name,
        "point": [run.point] if run.point else [],
        "threads": run.threads,
    }
    start = {"command": ["resnet-cli", *argv], "created": rundir.attempt["start"]}
    return meta | now | start | facts


def _text(metrics: dict[str, float], classes: int) -> str:
    """Return a line of the final metrics; of five classes or fewer, the best five are all."""
    shown = {}
    for key, value in metrics.items():
        split, _, name = key.partition("/")
        if split in SHOWN and not (name == "acc5" and classes <= 5):
            shown[key] = value
    return in_words(shown)
