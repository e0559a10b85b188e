"""Sweeps on SLURM: one array job over a frozen table of commands; what became of each point its run directory tells.

<root>/<sweep>/submitted/<n>/ holds table.txt, a command per line, and about.json: code, points, sbatch line, jobs.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from lightning_resnet.credentials import refuse_secret_exports, sourced
from lightning_resnet.errors import UserError, tell
from lightning_resnet.files import write_json, write_whole
from lightning_resnet.provenance import code, code_name
from lightning_resnet.reading import read_json
from lightning_resnet.sweeps.points import Point, Sweep
from lightning_resnet.sweeps.state import clock, command, describe_state, forecast, listing

SLURM_S = 120.0  # seconds that a command of Slurm may take to answer
RETRY = ("failed", "diverged", "interrupted", "preempted", "dead", "superseded")
JOB = re.compile("[0-9]{1,18}")  # a job's number
WORDS = {"new": "waiting", "dead": "failed", "diverged": "failed", "interrupted": "failed"}


def tell_status(sweep: Sweep, home: Path) -> None:
    """Print how far each point is, and what waits in SLURM's queue.

    Args:
        sweep: with the state of its points.
        home: folder of the sweep's submissions.
    """
    queue = queued(home)
    tell(listing(sweep, lambda point: describe(point, queue)))
    tell(totals(sweep, queue))


def points_to_submit(sweep: Sweep, home: Path, retry: bool) -> list[Point]:
    """Return the points that neither run nor wait in SLURM's queue; say so where there are none.

    Args:
        sweep: with the state of its points.
        home: folder of the sweep's submissions.
        retry: only those that failed or were stopped.
    """
    queue = queued(home)
    states = RETRY if retry else ("new", *RETRY)
    points = [p for p in sweep.points if p.state in states and p.key not in queue]
    if not points:
        tell(f"{totals(sweep, queue)}: nothing to submit")
    return points


def check_site() -> None:
    """Refuse secrets in what SLURM's jobs are started with, before anything is written."""
    if shutil.which("sbatch"):
        _environment()
        refuse_secret_exports(_script())


def freeze(sweep: Sweep, points: list[Point], root: Path, home: Path) -> Path:
    """Write the table of commands and what code it is for, into a new folder."""
    for word in (str(root), *sweep.recipes, *sweep.flags):
        if word and word.splitlines() != [word]:
            raise UserError(
                f"sweep {sweep.name}: {word!r} has a line break, and its table a line per run: write one line"
            )
    about = {**code(), "points": [p.key for p in points], "jobs": []}
    frozen = ["--run.code", name] if (name := code_name(about)) else []
    lines = [shlex.join(["resnet-cli", *command(sweep, p, root, "THREADS")[0], *frozen]) for p in points]
    n = 1 + max(_numbers(home), default=0)
    folder = home / str(n)
    folder.mkdir(parents=True)
    write_whole(
        folder / "table.txt",
        "".join(line.replace(" --run.threads THREADS", " --run.threads $THREADS") + "\n" for line in lines),
    )
    if about["git_dirty"]:
        tell(
            "careful: the code has changes that are in no commit; the table is for the code as it is when a job starts"
        )
    write_json(folder / "about.json", about)
    return folder


def submit(sweep: Sweep, points: list[Point], args: Namespace, options: list[str], folder: Path) -> int:
    """Hand the table to sbatch; where there is none, print it."""
    table, tasks = folder / "table.txt", -(-len(points) // args.pack)
    tell(f"{len(points)} of {len(sweep.points)} points, in {table}")
    tell(_forecast(sweep, args, options))
    if not shutil.which("sbatch"):
        commands = table.read_text().replace(" --run.threads $THREADS", "")
        tell(f"there is no sbatch here; these are the commands:\n{commands}", end="")
        return 0
    throttle = f"%{args.throttle}" if args.throttle else ""
    call = ["sbatch", "--parsable", f"--array=0-{tasks - 1}{throttle}", f"--job-name={sweep.name}"]
    call += [
        "--output={}/%a.log".format(str(folder).replace("%", "%%")),
        *options,
        str(_script()),
        str(table),
        str(args.pack),
    ]
    jobs: list[str] = []
    for _ in range(args.chain):
        after = [f"--dependency=afterany:{jobs[-1]}"] if jobs else []
        line = [*call[:2], *after, *call[2:]]
        tell(shlex.join(line))
        jobs.append(_sbatch(line))
        about = (read_json(folder / "about.json") or {}) | {"pack": args.pack, "sbatch": shlex.join(call), "jobs": jobs}
        write_json(folder / "about.json", about)
    tell(f"submitted as job {' then '.join(jobs)}; watch: resnet-cli sweep {args.file} --status; logs: {folder}/*.log")
    return 0


def queued(home: Path) -> dict[str, str]:
    """Key of each point that SLURM still has to run -> `PENDING`, `RUNNING`, ..."""
    ours = {job: about for about in _submissions(home) for job in about["jobs"]}
    if not ours or not shutil.which("squeue"):
        return {}
    done = _answer(["squeue", "-h", "-r", "-o", "%F %K %T"])
    states: dict[str, str] = {}
    lines = [line.split() for line in done.stdout.splitlines()]
    for job, task, state in (words for words in lines if len(words) == 3):
        if job in ours and task.isdecimal():
            k = ours[job].get("pack", 1)
            for key in ours[job]["points"][int(task) * k : (int(task) + 1) * k]:
                states[key] = state if states.get(key) != "RUNNING" else "RUNNING"
    return states


def describe(point: Point, queue: dict[str, str]) -> str:
    """`finished, val error 1.94 %`, `preempted at step 120/330, waits`, `waiting`."""
    state, _, rest = describe_state(point).partition(" ") if point.run else (point.state, "", "")
    bare = state.rstrip(",")
    text = (WORDS.get(bare, bare) + state[len(bare) :] + f" {rest}").strip()
    if point.state not in ("new", "finished", "running") and queue.get(point.key) == "PENDING":
        text += ", waits in the queue"
    return "not submitted" if point.state == "new" and point.key not in queue else text


def totals(sweep: Sweep, queue: dict[str, str]) -> str:
    """`digits: 4 finished, 2 running, 6 waiting`."""
    words = Counter(describe(p, queue).split(",")[0].split(" at ")[0] for p in sweep.points)
    return f"{sweep.name}: " + ", ".join(f"{n} {word}" for word, n in words.items())


def cancel(home: Path) -> int:
    """Cancel what is in the queue."""
    jobs = [job for about in _submissions(home) for job in about["jobs"]]
    if not jobs:
        raise UserError(f"nothing was submitted from {home.parent}: --submit does it")
    if not shutil.which("scancel"):
        raise UserError("there is no scancel here: do this where you submitted")
    if complaint := _answer(["scancel", *jobs]).stderr.strip():
        tell(complaint)
    tell(f"cancelled {', '.join(jobs)}; runs are kept, and --submit continues them")
    return 0


def _submissions(home: Path) -> list[dict[str, Any]]:
    """What each submission's about.json tells, the first first, without those that we do not write so."""
    found = [read_json(home / str(number) / "about.json") or {} for number in sorted(_numbers(home))]
    return [about for about in found if _is_ours(about)]


def _numbers(home: Path) -> list[int]:
    return [int(path.name) for path in home.glob("*") if re.fullmatch("[1-9][0-9]{0,8}", path.name)]


def _is_ours(about: dict[str, Any]) -> bool:
    """Whether an about.json has the form of ours: what it calls a job becomes a word of a call of scancel."""
    jobs, points, pack = (about.get(key) for key in ("jobs", "points", "pack"))
    if not isinstance(jobs, list) or not all(isinstance(job, str) and JOB.fullmatch(job) for job in jobs):
        return False
    if not isinstance(points, list) or not all(isinstance(point, str) for point in points):
        return False
    return pack is None or (type(pack) is int and pack >= 1)


def _environment() -> dict[str, str] | None:
    """The environment for sbatch after slurm/site.env, where there is one; None: this process's."""
    site = Path(os.environ.get("SITE_ENV", "slurm/site.env"))
    return sourced(site) if site.exists() else None


def _sbatch(line: list[str]) -> str:
    """The job's number; slurm/site.env is sourced first, where there is one."""
    done = _answer(line, _environment())
    if done.returncode:
        raise UserError(f"sbatch: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
    for answer in reversed(done.stdout.splitlines()):  # a site's own words may stand before it
        if JOB.fullmatch(job := answer.strip().partition(";")[0]):
            return job
    raise UserError(
        "sbatch did not tell the job's number: `squeue --me` shows whether it is queued, and scancel ends it"
    )


def _answer(line: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What a command of Slurm says, within a time limit.

    Raises:
        UserError: it says nothing.
    """
    try:
        return subprocess.run(line, env=environment, capture_output=True, text=True, errors="replace", timeout=SLURM_S)
    except subprocess.TimeoutExpired as e:
        raise UserError(f"{line[0]} did not answer within {SLURM_S:g} s: `sinfo` tells whether Slurm is up") from e


def _script() -> Path:
    """Beside where you are, else of the checkout or of the installation."""
    places = [Path("slurm"), Path(__file__).parents[2] / "slurm", Path(sys.prefix, "share/lightning_resnet/slurm")]
    for place in places:
        if (place / "sweep.sbatch").exists():
            return place / "sweep.sbatch"
    raise UserError("slurm/sweep.sbatch is missing: go to the repository's root")


def _forecast(sweep: Sweep, args: Namespace, options: list[str]) -> str:
    seconds, by = forecast(sweep)
    if not by:
        return "no finished run yet to forecast from"
    given = dict(pair for option in options if len(pair := option.lstrip("-").split("=", 1)) == 2)
    given |= {a.lstrip("-"): b for a, b in zip(options, options[1:], strict=False) if a.startswith("--")}
    gpus = given.get("gpus-per-node") or os.environ.get("SBATCH_GPUS_PER_NODE") or "1"
    counts = [gpus.rpartition(":")[2], given.get("nodes", "1").partition("-")[0]]
    told = f"about {clock(seconds)} of run time left, by {by} finished"
    if not all(re.fullmatch("[0-9]{1,6}", count) for count in counts):  # sbatch tells what is wrong
        return told
    count = int(counts[0]) * int(counts[1])
    return f"{told}: {seconds * count / args.pack / 3600:.2g} GPU-hours on {count} per run"
