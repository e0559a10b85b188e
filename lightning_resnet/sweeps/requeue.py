"""resnet-cli requeue: what a SLURM job does once its training has left; the last line of slurm/*.sbatch.

The time limit's signal, or a kill, requeues the job if it came further than the attempts before it. After SIGTERM the
job waits to be killed: Slurm then requeues it if it was preempted, and does not if it was cancelled.
resnet-cli requeue --status 143 fit --config configs/digits.yaml
"""

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
from lightning_resnet.runs.status import ATTEMPT, attempts, restarts

LIMIT = 20  # times a job requeues itself
STAY_S = 900.0  # seconds to wait to be killed; no site's KillWait is longer
SLURM_S = 60.0  # seconds that scontrol may take to answer
ENDING_S = 60.0  # seconds that Slurm may take to end a job that was requeued
KILLED = 128 + signal.SIGKILL
STOPPED = 128 + signal.SIGTERM
HIGHEST = 255  # exit status there is


def folders(argv: list[str]) -> set[Path]:
    """Where the runs of `fit ARGS`, or of the command lines of `table FILE`, are kept.

    Raises:
        UserError: the table cannot be read.
    """
    if argv[0] != "table":
        return {_folder(argv)}
    try:
        lines = read_text(Path(argv[1])).splitlines()
        commands = [shlex.split(line) for line in lines if line.strip()]
    except (IndexError, ValueError, UserError) as e:
        raise UserError(f"requeue cannot read its table of commands ({one_line(e)}): give table FILE") from e
    return {_folder(words[1:]) for words in commands}


def _folder(argv: list[str]) -> Path:
    """Where the runs of `fit ARGS` are kept; what it cannot read has ended the training with a message."""
    given = pairs(argv)
    recipes = [Path(value) for flag, value in given if flag in ("-c", "--config")]
    run = {"root": "runs", "name": recipes[0].stem if recipes else "run"}
    for recipe in recipes:
        with suppress(UserError):
            run |= _options_of_run(read_yaml(recipe), recipe.parent)
    run |= {k: v for a, b in given if a == "--run" for k, v in _options_of_run({"run": b}, Path()).items()}
    run |= {a[6:]: b for a, b in given if a in ("--run.root", "--run.name")}
    return Path(run["root"], run["name"])


def _options_of_run(recipe: Any, folder: Path) -> dict[str, str]:
    """The texts below `run:`, which may be a mapping, dotted keys, a mapping as text, or another file's name."""
    if not isinstance(recipe, dict):
        return {}
    options = recipe.get("run")
    if isinstance(options, str):
        with suppress(UserError):
            file = folder / options
            options = read_yaml(file) if file.is_file() else parse_yaml(options)
    dotted = {key[4:]: value for key, value in recipe.items() if isinstance(key, str) and key.startswith("run.")}
    found = (options if isinstance(options, dict) else {}) | dotted
    return {key: value for key, value in found.items() if isinstance(value, str)}


def of_this_job(folder: Path, env: dict[str, str]) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each attempt that this start of the job made, with the steps that earlier ones of its run had done."""
    mine = (env["SLURM_JOB_ID"], restarts(env))
    for run in folder.glob("*/attempts"):
        *before, last = attempts(run.parent) or [ATTEMPT]
        if (last["job_id"], last["restart_count"]) == mine:
            yield last, max((attempt["last_step"] for attempt in before), default=0)


def decide(made: list[tuple[dict[str, Any], int]], status: int, restarts: int, limit: int) -> tuple[str, str]:
    """`requeue`, `stay` to be killed or `end`, and why.

    Args:
        made: attempts of this job, each with the steps done before it.
        status: exit status of the training.
        restarts: of this job.
        limit: of restarts.
    """
    if status == STOPPED and not made:
        return "stay", "stopped before training began; Slurm will end this job"
    if any(attempt["signal"] == "SIGTERM" for attempt, _ in made):
        return "stay", "Slurm sent SIGTERM and will end this job: it is requeued if it was preempted"
    unfinished = [
        (attempt, before)
        for attempt, before in made
        if attempt["signal"] in ("SIGUSR1", "SIGUSR2") or attempt["reason"] == "running" or status == KILLED
    ]
    if not unfinished:
        return "end", ""
    done = ", ".join(f"step {before} to {attempt['last_step']}" for attempt, before in unfinished[:3])
    if all(attempt["last_step"] <= before for attempt, before in unfinished):
        return "end", f"not requeued: it came no further ({done}); the same command continues"
    if restarts >= limit:
        return "end", f"not requeued: {restarts} times is the limit; the same command continues"
    return "requeue", f"{done}; requeued for the {restarts + 1}. time"


def requeue(env: dict[str, str], status: int) -> int:
    """By scontrol; in a container without it, or where users may not, by the site's exit code, if it has one."""
    if scontrol := shutil.which("scontrol"):
        call = [scontrol, "requeue", env["SLURM_JOB_ID"]]
        try:
            done = subprocess.run(call, capture_output=True, text=True, errors="replace", timeout=SLURM_S)
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
        tell(f"REQUEUE_EXIT is {code}, which is no exit status: give a number up to {HIGHEST} in slurm/site.env")
    tell("cannot requeue here: submit the same command again, or begin with --chain")
    return status
