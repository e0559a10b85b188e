"""Run sweeps on SLURM: one array job over a frozen table of commands.

The state of a point is read from its run directory. <root>/<sweep>/submitted/<n>/ holds table.txt,
a command per line, and about.json: code, points, sbatch line, jobs.
"""

import math
import os
import re
import shlex
import shutil
import subprocess
from argparse import Namespace
from collections import Counter
from collections.abc import Container, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from lightning_resnet.credentials import refuse_secret_exports, sourced
from lightning_resnet.errors import UserError, one_line, printable, tell
from lightning_resnet.files import write_atomic, write_json
from lightning_resnet.provenance import code, code_name
from lightning_resnet.reading import read_json
from lightning_resnet.runs.status import HALVED, reason_of
from lightning_resnet.shipped import SLURM
from lightning_resnet.sweeps.points import Point, Sweep
from lightning_resnet.sweeps.requeue import EARLY
from lightning_resnet.sweeps.state import (
    clock,
    describe_state,
    forecast,
    listing,
    prepare_command,
    with_root,
)

ERRORS = ("error:", "srun: error:", "slurmstepd: error:")  # what a line of an error begins with
ENDED = (  # Slurm's states of jobs that do not come back
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
)
LOG_END = 20_000  # bytes of a job's log in which its last error is looked for
SLURM_S = 120.0  # seconds that a command of Slurm may take to answer
RETRY = ("failed", "diverged", "interrupted", "preempted", "dead", "superseded")
JOB = re.compile("[0-9]{1,18}")  # the number of a job
BY_SIGNAL = ("preempted", "interrupted")  # states of runs whose log tells nothing more
BEGINNING = {"RUNNING": "starting", "COMPLETING": "ending"}  # of points without a run
LEAD_S = 180  # seconds before its end at which Slurm asks a job to save, as in slurm/*.sbatch
TICK_S = 30  # seconds that Slurm may ask earlier, because it looks every 30 s
LEAST_S = 90  # seconds of training below which a limit is told to be short
NOT_SUBMITTED = "not submitted"  # of a point without a run and without a job


def tell_status(sweep: Sweep, home: Path) -> None:
    """Print the progress of each point, and which points wait in SLURM's queue.

    Args:
        sweep: a sweep with the state of its points filled in.
        home: folder of the sweep's submissions.
    """
    queue = queued(home)
    logs = newest_logs(home)
    states = {point.key: describe(point, queue, logs) for point in sweep.points}
    tell(listing(sweep, lambda point: states[point.key]))
    tell(totals(sweep, states))
    if not _submissions(home) and {*states.values()} == {NOT_SUBMITTED}:
        tell(nothing_submitted(home))


def points_to_submit(sweep: Sweep, home: Path, retry: bool) -> list[Point]:
    """Return the points that neither run nor wait in SLURM's queue; print a line if there are none.

    Args:
        sweep: a sweep with the state of its points filled in.
        home: folder of the sweep's submissions.
        retry: return only points that failed or were stopped.
    """
    queue = queued(home)
    logs = newest_logs(home)
    points = []
    for point in sweep.points:
        is_wanted = point.state in RETRY or (not retry and point.state == "new")
        is_wanted = is_wanted or (point.state == HALVED and not sweep.is_done(point))
        is_wanted = is_wanted or bool(_early_error(point, queue, logs))
        if is_wanted and point.place not in queue:
            points.append(point)
    if diverged := sum(point.state == "diverged" for point in points):
        tell(
            f"note: {diverged} of these diverged, as the same code will again: a lower learning "
            "rate is another point of a sweep"
        )
    if not points:
        if retry and not _submissions(home):
            raise UserError(nothing_submitted(home))
        states = {point.key: describe(point, queue, logs) for point in sweep.points}
        line = f"{totals(sweep, states)}: nothing to submit"
        if queue:
            counts = Counter(queue.values())
            waiting = ", ".join(f"{n} {state}" for state, n in counts.items())
            line += f"; in the queue: {waiting}"
        if "COMPLETING" in queue.values():
            line += "; Slurm is still ending jobs: try again in a minute"
        tell(line)
    return points


def slots_to_submit(sweep: Sweep, home: Path) -> list[str]:
    """Return names for the tasks of a search; print a line if there is nothing to do.

    Each task takes a point when it starts, so there are as many as points without a result, less
    those that run or wait. Names of tasks that are gone, and have left their points, come first: a
    task of the same name takes the same point at once, even if no run had begun.

    Args:
        sweep: a sweep with a search, and the state of its points filled in.
        home: folder of the sweep's submissions.
    """
    done = [point for point in sweep.points if sweep.is_done(point) or point.state == "diverged"]
    queue = queued(home)
    running = [p for p in sweep.points if p.state == "running" and p.place not in queue]
    taken = {point.slot for point in done} & queue.keys()  # tasks that are about to end
    count = sweep.size - len(done) - len(running) - (len(queue) - len(taken))
    if count <= 0:
        tell(f"{sweep.name}: {len(done)} of {sweep.size} done, {len(queue)} queued: nothing to do")
    number = 1 + max(_numbers(home), default=0)
    done_or_running = {point.key for point in [*done, *running]}
    left = [p.slot for p in sweep.points if p.slot and p.key not in done_or_running]
    gone = [slot for slot in left if slot not in queue]
    return [*gone, *(f"{number}.{i}" for i in range(count))][: max(0, count)]


def newest_logs(home: Path) -> dict[str, Path]:
    """Return the log of the newest job of each point that has one, by its place.

    Args:
        home: folder of the sweep's submissions.
    """
    found = {}
    for number in sorted(_numbers(home)):
        about = read_json(home / str(number) / "about.json") or {}
        if not _is_valid(about):
            continue
        pack = about.get("pack") or 1
        for place, key in enumerate(about["points"]):
            task, line = divmod(place, pack)
            log = home / str(number) / f"{task}.log"
            packed = home / str(number) / f"table.{task}.{line + 1}.log"  # as in sweep.sbatch
            if pack > 1 and packed.exists():
                log = packed
            if log.exists():
                found[key] = log
    return found


def _early_error(point: Point, queue: Container[str], logs: Mapping[str, Path]) -> str:
    """Return the error of a job that ended before its run began; empty if there is none.

    Args:
        point: the point, with its state.
        queue: places of the points in SLURM's queue.
        logs: result of `newest_logs`.
    """
    if point.state != "new" or point.place in queue or point.place not in logs:
        return ""
    return _last_error(logs[point.place])


def check_site() -> None:
    """Refuse secrets in the environment and script of SLURM's jobs, before any file is written."""
    _environment()
    refuse_secret_exports(_script())


def freeze(sweep: Sweep, points: list[Point], slots: list[str], root: Path, home: Path) -> Path:
    """Write the table of commands, and the code it is for, into a new folder.

    Args:
        sweep: the sweep.
        points: the points to submit.
        slots: for a search instead of points: names of the tasks, which take points.
        root: folder of all runs.
        home: folder of the sweep's submissions.

    Returns:
        The new folder.

    Raises:
        UserError: a word of a command has a line break.
    """
    for word in (str(root), sweep.file.name, *sweep.recipes, *sweep.flags):
        if word and word.splitlines() != [word]:
            raise UserError(
                f"sweep {sweep.name}: {word!r} has a line break, and its table a line per run: "
                "write one line"
            )
    about = {**code(), "points": slots or [p.key for p in points], "jobs": []}
    commit = code_name(about)
    frozen = ["--run.code", commit] if commit else []
    table = ""
    for point in points:
        arguments, _ = prepare_command(sweep, point, root, "THREADS")
        line = shlex.join(["resnet-cli", *arguments, *frozen])
        # shlex.join would quote the variable, which the job's shell is to expand.
        table += line.replace(" --run.threads THREADS", " --run.threads $THREADS") + "\n"
    n = 1 + max(_numbers(home), default=0)
    folder = home / str(n)
    frozen_file = folder / sweep.file.name  # of the same name, which is the sweep's by default
    for slot in slots:
        words = ["resnet-cli", "sweep", str(frozen_file), "--root", str(root), "--next", slot, "--"]
        # the job finds the folder of its runs by these flags; see requeue.py
        words += ["--run.root", str(root), "--run.name", sweep.name, *frozen]
        table += shlex.join(words) + "\n"
    folder.mkdir(parents=True)
    if slots:
        shutil.copyfile(sweep.file, frozen_file)
    write_atomic(folder / "table.txt", table)
    if about["git_dirty"]:
        tell(
            "warning: the code has changes that are in no commit; the table is for the code as it "
            "is when a job starts"
        )
    write_json(folder / "about.json", about)
    return folder


def submit(sweep: Sweep, count: int, args: Namespace, options: list[str], folder: Path) -> int:
    """Submit the table with sbatch; where there is no sbatch, print the commands.

    Args:
        sweep: the sweep.
        count: number of commands in the table.
        args: flags of `resnet-cli sweep`.
        options: options of sbatch.
        folder: folder of the table.

    Returns:
        The exit status: 1 if there is no sbatch.
    """
    table = folder / "table.txt"
    tasks = math.ceil(count / args.pack)
    tell(f"{count} of {sweep.size} points, in {table}")
    tell(_forecast(sweep, args, options))
    if warning := _short_limit(options):
        tell(warning)
    if not shutil.which("sbatch"):
        commands = table.read_text().replace(" --run.threads $THREADS", "")
        tell(
            "there is no sbatch here, so nothing was submitted; these are the commands:\n"
            f"{commands}",
            end="",
        )
        return 1
    throttle = f"%{args.throttle}" if args.throttle else ""
    escaped_folder = str(folder).replace("%", "%%")
    words = [
        f"--array=0-{tasks - 1}{throttle}",
        f"--job-name={sweep.name}",
        f"--output={escaped_folder}/%a.log",
        *options,
        str(_script()),
        str(table),
        str(args.pack),
    ]
    earlier = [about["sbatch"] for about in _submissions(folder.parent) if about.get("sbatch")]
    if args.retry_failed and earlier and not options:
        tell(f"the last submission was: {earlier[-1]}\nits options are not repeated: add them here")
    jobs: list[str] = []
    for _ in range(args.chain):
        after = [f"--dependency=afterany:{jobs[-1]}"] if jobs else []
        line = ["sbatch", "--parsable", *after, *words]
        tell(shlex.join(line))
        try:
            jobs.append(_sbatch(line))
        except UserError:
            if not jobs:
                shutil.rmtree(folder)
            raise
        about = read_json(folder / "about.json") or {}
        about["pack"] = args.pack
        about["sbatch"] = shlex.join(["sbatch", "--parsable", *words])
        about["jobs"] = jobs
        write_json(folder / "about.json", about)
    watch = with_root(f"resnet-cli sweep {shlex.quote(args.file)} --status", args.root)
    tell(f"submitted as job {' then '.join(jobs)}; watch: {watch}; logs: {folder}/*.log")
    return 0


def _tasks_in_queue(jobs: Container[str]) -> list[tuple[str, int, str]]:
    """Return job, number of the task and SLURM's state of each task of these jobs in its queue."""
    if not shutil.which("squeue"):
        return []
    done = _answer(["squeue", "-h", "-r", "-t", "all", "-o", "%F %K %T"])
    if done.returncode:
        raise UserError(f"squeue: {one_line(done.stderr) or 'failed'}: `sinfo` tells what is wrong")
    found = []
    for line in done.stdout.splitlines():
        words = line.split()
        is_alive = words[-1:] and words[-1] not in ENDED
        if len(words) == 3 and words[0] in jobs and words[1].isdecimal() and is_alive:
            found.append((words[0], int(words[1]), words[2]))
    return found


def queued(home: Path) -> dict[str, str]:
    """Return SLURM's state, such as PENDING, of each point in its queue, by its place."""
    submission_of = {job: about for about in _submissions(home) for job in about["jobs"]}
    if not submission_of:
        return {}
    states: dict[str, str] = {}
    for job, task, state in _tasks_in_queue(submission_of):
        pack = submission_of[job].get("pack", 1)
        start = task * pack
        for key in submission_of[job]["points"][start : start + pack]:
            if states.get(key) != "RUNNING":
                states[key] = state
    return states


def describe(point: Point, queue: dict[str, str], logs: Mapping[str, Path]) -> str:
    """Describe the state of a point.

    Args:
        point: the point, with its state.
        queue: result of `queued`.
        logs: result of `newest_logs`.

    Returns:
        For example `finished, val error 1.94 %`, `waiting`, `starting`, `stopped at step 120/330,
        SIGTERM (cancelled or preempted), waits in the queue`, `failed before it began, LOG: error:
        CIFAR10 not found`.
    """
    if error := _early_error(point, queue, logs):
        return f"failed before it began, {printable(logs[point.place])}: {error}"
    if point.state == "new" and point.place not in queue:
        return NOT_SUBMITTED
    in_queue = queue.get(point.place)
    if point.state == "new":  # imports take seconds before the run begins
        return BEGINNING.get(in_queue, "waiting")
    text = describe_state(point)
    if point.state in ("finished", "running", HALVED):
        return text
    if reason := reason_of(point.state, point.facts.attempt):
        text += f", {printable(reason)}"
    if point.state not in BY_SIGNAL and point.place in logs:
        text += f" (log: {printable(logs[point.place])})"
    if in_queue == "RUNNING":  # the task ends, or continues the run soon
        text += ", its task runs"
    if in_queue == "PENDING":
        text += ", waits in the queue"
    return text


def _last_error(log: Path) -> str:
    """Return the last error in the log of a job whose run did not begin; empty if it did begin."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_END))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:  # there is none yet
        return ""
    if any(line.startswith("run ") for line in lines):  # and has been removed since
        return ""
    errors = [line for line in lines if line.startswith(ERRORS)]
    # What srun says of exit codes tells less than the program's own words, and than SLURM's reason.
    own = [line for line in lines if line.startswith((ERRORS[0], EARLY))]
    reasons = [line for line in errors if "CANCELLED AT" in line]
    found = own or reasons or errors
    return printable(found[-1]) if found else ""


def totals(sweep: Sweep, states: Mapping[str, str]) -> str:
    """Return the number of points in each state: `digits: 4 finished, 2 running, 6 waiting`.

    Args:
        sweep: the sweep.
        states: what `describe` says of each point, by its key.
    """
    words = Counter(states[p.key].split(",")[0].split(" at ")[0] for p in sweep.points)
    return f"{sweep.name}: " + ", ".join(f"{n} {word}" for word, n in words.items())


def nothing_submitted(home: Path) -> str:
    """Return the message for a sweep without submissions, with the flag that may be missing."""
    return (
        f"nothing was submitted from {home.parent}: --submit does it, and where that had --root, "
        "so must this"
    )


def cancel(home: Path) -> int:
    """Cancel the jobs of a sweep.

    Args:
        home: folder of the sweep's submissions.

    Returns:
        The exit status, 0.

    Raises:
        UserError: nothing was submitted, or there is no scancel.
    """
    jobs = [job for about in _submissions(home) for job in about["jobs"]]
    if not jobs:
        raise UserError(nothing_submitted(home))
    if not shutil.which("scancel"):
        raise UserError("there is no scancel here: do this where you submitted")
    if shutil.which("squeue"):
        alive = {job for job, _, _ in _tasks_in_queue(jobs)}
        jobs = [job for job in jobs if job in alive]
    if not jobs:
        tell(f"nothing of {home.parent} is queued or running")
        return 0
    if complaint := _answer(["scancel", *jobs]).stderr.strip():
        tell(complaint)
    tell(f"cancelled {', '.join(jobs)}; runs are kept, and --submit continues them")
    return 0


def _submissions(home: Path) -> list[dict[str, Any]]:
    """Read about.json of each submission, in order, without those of another form than ours."""
    found = []
    for number in sorted(_numbers(home)):
        about = read_json(home / str(number) / "about.json") or {}
        if _is_valid(about):
            found.append(about)
    return found


def _numbers(home: Path) -> list[int]:
    """Return the numbers of a sweep's submissions."""
    return [int(path.name) for path in home.glob("*") if re.fullmatch("[1-9][0-9]{0,8}", path.name)]


def _is_valid(about: dict[str, Any]) -> bool:
    """Tell whether an about.json has the form that `submit` writes.

    The check matters because the names of jobs become words of a call of scancel.
    """
    jobs = about.get("jobs")
    points = about.get("points")
    pack = about.get("pack")
    if not isinstance(jobs, list) or not isinstance(points, list):
        return False
    if not all(isinstance(job, str) and JOB.fullmatch(job) for job in jobs):
        return False
    if not all(isinstance(point, str) for point in points):
        return False
    return pack is None or (type(pack) is int and pack >= 1)


def _environment() -> dict[str, str] | None:
    """Return the environment that slurm/site.env makes for sbatch; None where there is no file."""
    site = _site()
    return sourced(site) if site.exists() else None


def _site() -> Path:
    """Return the file of what is true of this cluster only, which may not exist."""
    return Path(os.environ.get("SITE_ENV", "slurm/site.env"))


def _sbatch(line: list[str]) -> str:
    """Submit a job in the environment of slurm/site.env, and return the job's number."""
    done = _answer(line, _environment())
    if done.returncode:
        lines = [line.removeprefix("sbatch: error: ") for line in done.stderr.strip().splitlines()]
        complaint = "; ".join(lines[-2:]) or "failed"
        site = _site()
        where = f" ({site} sets options too)" if site.exists() else ""
        raise UserError(f"sbatch: {complaint}{where}")
    for answer in reversed(done.stdout.splitlines()):  # a site may print a message before
        job = answer.strip().partition(";")[0]
        if JOB.fullmatch(job):
            return job
    raise UserError(
        "sbatch did not tell the job's number: `squeue --me` shows whether it is queued, and "
        "scancel ends it"
    )


def _answer(
    line: list[str], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm with a time limit.

    Args:
        line: the command.
        environment: environment of the command; default: that of this process.

    Raises:
        UserError: the command does not end within the time limit.
    """
    try:
        return subprocess.run(
            line,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SLURM_S,
        )
    except subprocess.TimeoutExpired as e:
        raise UserError(
            f"{line[0]} did not answer within {SLURM_S:g} s: `sinfo` tells whether Slurm is up"
        ) from e


def _script() -> Path:
    """Return the user's sweep.sbatch in slurm/ of the working directory, or ours."""
    own = Path("slurm/sweep.sbatch")
    return own if own.exists() else SLURM / own.name


def _given(options: list[str]) -> dict[str, str]:
    """Return the values of options of sbatch, by name without dashes."""
    given: dict[str, str] = {}
    for option in options:
        name, equals, value = option.lstrip("-").partition("=")
        if equals:
            given[name] = value
    for option, following in pairwise(options):
        if option.startswith("--") or option == "-t":
            given[option.lstrip("-")] = following
    return given


def _short_limit(options: list[str]) -> str:
    """Return a warning if the time limit leaves a job hardly any time to train; empty if not."""
    given = _given(options)
    site = _environment() or os.environ
    limit = given.get("time") or given.get("t") or site.get("SBATCH_TIMELIMIT") or ""
    told = (given.get("signal") or site.get("SBATCH_SIGNAL") or "").rpartition("@")[2]
    lead = int(told) if told.isdecimal() else LEAD_S
    seconds = _seconds(limit)
    left = seconds - lead - TICK_S
    if not seconds or left > LEAST_S:
        return ""
    return (
        f"warning: a time limit of {limit} leaves {max(0, left)} s to train, because Slurm asks a "
        f"job to save {lead} s before its end, or up to {TICK_S} s earlier: give more --time, or "
        "--signal=USR1@30"
    )


def _seconds(limit: str) -> int:
    """Return the seconds of a time limit such as 30, 30:00, 4:00:00 or 1-12; 0: no limit."""
    found = re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,6})(?::(\d{1,6}))?(?::(\d{1,6}))?", limit)
    if not found:
        return 0
    days, first, second, third = (int(number or 0) for number in found.groups())
    if found[1] or found[4]:
        return ((days * 24 + first) * 60 + second) * 60 + third
    return first * 60 + second


def _forecast(sweep: Sweep, args: Namespace, options: list[str]) -> str:
    """Forecast the run time of the points that are not finished, and the GPU-hours on GPUs."""
    seconds, finished = forecast(sweep)
    if not finished:
        return "no finished run yet to forecast from"
    given = _given(options)
    site = _environment() or os.environ
    gpus = given.get("gpus-per-node") or site.get("SBATCH_GPUS_PER_NODE") or "0"
    gpus_per_node = gpus.rpartition(":")[2]
    nodes = given.get("nodes", "1").partition("-")[0]
    told = f"about {clock(seconds)} of run time left, by {finished} finished"
    if not all(re.fullmatch("[0-9]{1,6}", count) for count in (gpus_per_node, nodes)):
        return told  # sbatch reports what is wrong
    gpus_per_run = int(gpus_per_node) * int(nodes)
    if not gpus_per_run:
        return told
    hours = seconds * gpus_per_run / args.pack / 3600
    return f"{told}: {hours:.2g} GPU-hours on {gpus_per_run} per run"
