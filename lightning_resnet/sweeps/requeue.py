"""Decide what a SLURM job does when its training has ended: requeue the job, wait, or end.

The signal of the time limit, or a kill, requeues the job if it came further than the attempts
before. After SIGTERM the job waits to be killed: Slurm then requeues a job that was preempted, and
does not requeue one that was cancelled. The last line of slurm/*.sbatch is such as
resnet-cli requeue --status 143 fit --config configs/digits.yaml

With --run.elastic, slurm/fit.sbatch asks first whether nodes were lost, and runs its step again on
those that are left.
"""

import math
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_resnet.engine.launch import pairs
from lightning_resnet.errors import UserError, one_line, tell
from lightning_resnet.reading import parse_yaml, read_text, read_yaml
from lightning_resnet.runs.find import begun_runs
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.status import ATTEMPT, LOST, restarts
from lightning_resnet.shipped import recipe_file

LIMIT = 20  # number of times that a job requeues itself
STAY_S = 900.0  # seconds to wait to be killed; longer than the KillWait of any site
SLURM_S = 60.0  # seconds that scontrol may take to answer
ENDING_S = 60.0  # seconds that Slurm may take to end a job that was requeued
# Seconds without an answer after which Slurm gives up a node, unless its configuration tells; and
# seconds that it may take longer.
SLURMD_TIMEOUT_S = 300.0
LATE_S = 60.0
POLL_S = 2.0  # seconds between two questions which nodes a job has
KILLED = 128 + signal.SIGKILL
# Exit statuses of a training that a signal has ended before its run began: its own, or that of a
# process that has not set its handlers yet.
STOPPED = [
    128 + signum for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
]
HIGHEST = 255  # largest exit status
EARLY = "stopped before training began"  # begins the line of a job without an attempt
SHORT = "Where the time limit was too short: more --time, or sbatch --signal=USR1@30"


def folders(argv: list[str]) -> set[Path]:
    """Return the folders that hold the runs of `fit ARGS`, or of the commands in `table FILE`.

    Raises:
        UserError: the table cannot be read.
    """
    if argv[0] != "table":
        return {_folder(argv)}
    try:
        lines = read_text(Path(argv[1])).splitlines()
        commands = [shlex.split(line) for line in lines if line.strip()]
    except (IndexError, ValueError, UserError) as e:
        raise UserError(
            f"requeue cannot read its table of commands ({one_line(e)}): give table FILE"
        ) from e
    return {_folder(words[1:]) for words in commands}


def _folder(argv: list[str]) -> Path:
    """Return the folder that holds the runs of `fit ARGS`."""
    recipes = _recipes(argv)
    run = {"root": "runs", "name": recipes[0].stem if recipes else "run"}
    for key, value in _run_options(argv).items():
        if isinstance(value, str):
            run[key] = value
    return Path(run["root"], run["name"])


def is_elastic(argv: list[str]) -> bool:
    """Tell whether `fit ARGS` has --run.elastic, on the command line or in a recipe."""
    given = _run_options(argv).get("elastic")
    if not isinstance(given, str):
        return given is True
    if not given or given.startswith("--"):  # the flag alone
        return True
    with suppress(UserError):
        return parse_yaml(given) is True
    return False


def _recipes(argv: list[str]) -> list[Path]:
    """Return the recipes of `fit ARGS`."""
    return [recipe_file(value) for flag, value in pairs(argv) if flag in ("-c", "--config")]


def _run_options(argv: list[str]) -> dict[str, Any]:
    """Return the options of `run:` that `fit ARGS` gives, in its recipes and as flags.

    The value of a flag is a text, and the next word or empty where the flag has none. Recipes that
    cannot be read are skipped, because they have ended the training with an error.
    """
    given = pairs([*argv, ""])
    options = {}
    for recipe in _recipes(argv):
        with suppress(UserError):
            options |= _options_of_run(read_yaml(recipe), recipe.parent)
    for flag, value in given:
        if flag == "--run":
            options |= _options_of_run({"run": value}, Path())
    for flag, value in given:
        if flag.startswith("--run."):
            options[flag.removeprefix("--run.")] = value
    return options


def _options_of_run(recipe: Any, folder: Path) -> dict[str, Any]:
    """Return the options of `run:` in a recipe.

    Args:
        recipe: content of a recipe. `run:` may be a mapping, dotted keys, a mapping as text, or the
            name of another file.
        folder: folder of the recipe, for the name of another file.
    """
    if not isinstance(recipe, dict):
        return {}
    options = recipe.get("run")
    if isinstance(options, str):
        with suppress(UserError):
            file = folder / options
            options = read_yaml(file) if file.is_file() else parse_yaml(options)
    found = dict(options) if isinstance(options, dict) else {}
    for key, value in recipe.items():
        if isinstance(key, str) and key.startswith("run."):
            found[key.removeprefix("run.")] = value
    return found


def nodes_left(folder: Path, status: int, env: dict[str, str], nodes: int) -> int:
    """Return on how many nodes to run a step again that has lost others; 0: not again.

    If a rank was lost, wait until Slurm takes its node from the job. A job keeps its other nodes
    if it was submitted with --no-kill. Nodes among whose ranks the batch does not divide stay idle.

    Args:
        folder: folder that holds the run directory.
        status: exit status of the training.
        env: environment of the job.
        nodes: number of nodes that the step had.
    """
    run = next(_runs_of_this_job(folder, env), None)
    if run is None or not _has_lost_a_rank(run.last_attempt(), status):
        return 0
    if not shutil.which("squeue"):
        tell("a rank was lost, and without squeue it is not known which nodes are left")
        return 0
    limit = re.search(r"SlurmdTimeout\s*=\s*(\d+)", _asked("scontrol", "show", "config"))
    seconds = (float(limit[1]) if limit else SLURMD_TIMEOUT_S) + LATE_S
    tell(f"a rank was lost: waiting for up to {seconds:.0f} s for Slurm to give up its node")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = _asked("squeue", "-h", "-j", env["SLURM_JOB_ID"], "-o", "%D").strip()
        if left.isdecimal() and 0 < int(left) < nodes:
            return _dividing(run, int(left))
        time.sleep(POLL_S)
    return 0


def _has_lost_a_rank(attempt: dict[str, Any], status: int) -> bool:
    """Tell whether an attempt has lost a rank, and no signal has asked it to end."""
    if attempt["signal"]:
        return False
    told = attempt["error"] or ""
    return status == KILLED or attempt["reason"] == "running" or told.startswith(LOST)


def _dividing(run: Run, left: int) -> int:
    """Return the largest number of nodes, up to those left, among whose ranks the batch divides.

    Where there is none, return all that are left: the training tells what is wrong.

    Args:
        run: the run.
        left: number of nodes that are left.
    """
    try:
        last = run.last_attempt()
        ranks = last["ranks"] // last["nodes"]
        config = run.config()
        model = config["model"]
        unit = math.lcm(model["bn_batch"] or 1, 2 if model["mix"] else 1)
        unit *= config["trainer"]["accumulate_grad_batches"]
        steps = config["data"]["batch_size"]
        dividing = [n for n in range(1, left + 1) if steps % (n * ranks * unit) == 0]
    except (UserError, LookupError, TypeError, ZeroDivisionError):
        return left
    return max(dividing, default=left)


def _asked(*command: str) -> str:
    """Return what a command of Slurm prints; empty where it fails or is missing."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SLURM_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def of_this_job(folder: Path, env: dict[str, str]) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the attempts that this start of the job has made.

    Args:
        folder: folder that holds run directories.
        env: environment of the job.

    Yields:
        The attempt, and the optimizer steps that were done before; see `_done_before`.
    """
    for run in _runs_of_this_job(folder, env):
        *before, last = run.attempts()
        yield last, _done_before(last, before)


def _done_before(last: dict[str, Any], before: list[dict[str, Any]]) -> int:
    """Return the optimizer steps beyond which an attempt must come to count as progress.

    These are the steps that the attempt began at. If an attempt before began at the same step and
    ended in the same way, it has saved nothing, and the attempt must come further than that one.

    Args:
        last: the attempt.
        before: the attempts before.
    """
    start = last["start_step"]
    if start < 0:  # it did not begin, or older code has not recorded where
        return max((attempt["last_step"] for attempt in before), default=0)
    done = [start]
    for attempt in before:
        if attempt["start_step"] == start and attempt["reason"] == last["reason"]:
            done.append(attempt["last_step"])
    return max(done)


def _runs_of_this_job(folder: Path, env: dict[str, str]) -> Iterator[Run]:
    """Yield the runs whose last attempt this start of the job has made."""
    for run in begun_runs(folder):
        last = run.last_attempt() or ATTEMPT
        if last["job_id"] == env["SLURM_JOB_ID"] and last["restart_count"] == restarts(env):
            yield run


def decide(
    made: list[tuple[dict[str, Any], int]], status: int, restarts: int, limit: int
) -> tuple[str, str]:
    """Decide what the job does.

    Args:
        made: attempts of this job, each with the steps that were done before.
        status: exit status of the training.
        restarts: number of restarts of this job so far.
        limit: largest number of restarts.

    Returns:
        `requeue`, `stay` (wait to be killed) or `end`, and the reason, which may be empty.
    """
    if status in STOPPED and not made:
        return "stay", f"{EARLY}; Slurm will end this job. {SHORT}"
    if any(attempt["signal"] == "SIGTERM" for attempt, _ in made):
        return (
            "stay",
            "SIGTERM: this job was cancelled, or preempted by another; Slurm requeues the latter",
        )
    unfinished = []
    for attempt, before in made:
        was_warned = attempt["signal"] in ("SIGUSR1", "SIGUSR2")
        if was_warned or attempt["reason"] == "running" or status == KILLED:
            unfinished.append((attempt, before))
    if not unfinished:
        return "end", ""
    done = ", ".join(
        f"step {before} to {attempt['last_step']}" for attempt, before in unfinished[:3]
    )
    if all(attempt["last_step"] <= before for attempt, before in unfinished):
        told = f"not requeued: it came no further ({done}); the same command continues. {SHORT}"
        return "end", told
    if restarts >= limit:
        return "end", f"not requeued: {restarts} times is the limit; the same command continues"
    return "requeue", f"{done}; asking Slurm to requeue this job ({restarts + 1} of {limit} times)"


def requeue(env: dict[str, str], status: int) -> int:
    """Requeue this job with scontrol.

    If scontrol is missing or not permitted, the site's exit code for requeueing is returned, if
    there is one (REQUEUE_EXIT).

    Args:
        env: environment of the job.
        status: exit status of the training.

    Returns:
        The exit status of the job.
    """
    if scontrol := shutil.which("scontrol"):
        call = [scontrol, "requeue", env["SLURM_JOB_ID"]]
        try:
            done = subprocess.run(
                call, capture_output=True, text=True, errors="replace", timeout=SLURM_S
            )
        except subprocess.TimeoutExpired:
            tell(f"scontrol did not answer within {SLURM_S:g} s")
        else:
            if done.returncode == 0:
                time.sleep(ENDING_S)  # until Slurm ends this job
                return status
            tell(done.stderr.strip())
    if code := env.get("REQUEUE_EXIT"):
        if code.isdecimal() and int(code) <= HIGHEST:
            return int(code)
        tell(
            f"REQUEUE_EXIT is {code}, which is no exit status: give a number up to {HIGHEST} in "
            "slurm/site.env"
        )
    tell(
        "this job cannot be requeued (sbatch --no-requeue, or the site forbids it): submit the "
        "same command again, which continues; `sweep --submit --chain N` queues N jobs in a row"
    )
    return status
