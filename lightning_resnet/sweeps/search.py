"""Find the points of a sweep with method bayes while it runs, without a server.

Optuna chooses the points; this module maps W&B's format. All workers of a sweep, on one machine or
several, share `<root>/<sweep>/search/`: a journal of Optuna, and a lock that works on NFS too. A
worker takes a point that was left unfinished by a worker that is gone, else a new one. The runs are
the truth: their results are copied into the journal before a new point is chosen.

Optuna sees quantiles from 0 to 1 of each parameter's distribution, or the numbers of categories.
A sampler is seeded by the sweep's name and the number of points so far, so one worker, however
often it is stopped, always finds the same points: also without its journal, and these have their
runs already. Several workers do not, because each choice is by the results that are known then.
"""

import fcntl
import hashlib
import json
import math
import os
import socket
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_resnet.engine.halving import evaluations
from lightning_resnet.errors import UserError, tell
from lightning_resnet.files import LOOK_S, SOON_S, WORD_S, write_new
from lightning_resnet.reading import open_plain, read_json, read_text
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.status import has_ended, process_name
from lightning_resnet.sweeps.points import Point, Search, Sweep, choices
from lightning_resnet.sweeps.state import assign_runs

OWNER = "owner"  # attribute of a trial: who has taken the point
# Seconds in which a worker on another machine must begin a run that it has taken. Copying the data
# to its disk comes before, and may take hours. A dead worker on this machine is seen at once, and a
# task of SLURM that is submitted again has a slot, which takes its point again at once.
CLAIM_S = 6 * 3600.0
# Seconds after which a lock is taken for one of a killed process, where it cannot be seen whether
# the process is gone. All runs are read under the lock.
LOCK_S = 600.0
# Points in a row that were there before; then the space has no others, or the first of those that
# are listed is taken.
MOST_TWICE = 100
MOST_TWICE_LISTED = 10
RANDOM = 10  # points that are drawn at random before any is chosen by results


def refresh(sweep: Sweep, root: Path) -> None:
    """Fill in runs and states of the points, and which points a search has found so far.

    Args:
        sweep: changed in place.
        root: folder of all runs.

    Raises:
        UserError: Optuna is not installed, or the journal cannot be read.
    """
    if not sweep.search:
        assign_runs(sweep, root)
    elif journal_file(sweep, root).exists() and (study := _study(sweep, root)):
        _fill(sweep, root, study)


def take(
    sweep: Sweep, root: Path, slot: str = "", tried: Collection[str] = ()
) -> tuple[int, Point] | None:
    """Take a point to run: one that was left, else a new one, else one that failed.

    Args:
        sweep: a sweep with a search; its points are filled in.
        root: folder of all runs.
        slot: name of a place in a submission, which takes one point, and the same one again; empty:
            this process takes as many as it asks for.
        tried: keys of points that are not to be taken.

    Returns:
        The number of the point among the sweep's, from 0, and the point; None where none is left.

    Raises:
        UserError: Optuna is not installed, or the search's folder cannot be read and written.
    """
    folder = journal_file(sweep, root).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _heal(journal_file(sweep, root))
            return _take(sweep, root, slot, tried)
    except OSError as e:
        raise UserError(
            f"cannot read and write {e.filename or folder}: {e.strerror}; set --root to a folder "
            "where you can"
        ) from e


def journal_file(sweep: Sweep, root: Path) -> Path:
    """Return the path of Optuna's journal of a sweep."""
    return root.absolute() / sweep.name / "search" / "journal.log"


def _take(sweep: Sweep, root: Path, slot: str, tried: Collection[str]) -> tuple[int, Point] | None:
    """Take a point; see `take`. The lock is held."""
    study = _study(sweep, root, is_new=True)
    trials = _fill(sweep, root, study)
    _tell(sweep, study, trials)
    _end_torn(study, trials)
    if slot and any(point.slot == slot for point in sweep.points):
        own = [point for point in sweep.points if point.slot == slot and not _is_over(sweep, point)]
        return _claimed(sweep, study, trials, own, slot)
    left = _left(sweep, trials, tried)
    while all(point.state == "failed" for point in left):
        if len(sweep.points) >= sweep.size or not _ask(sweep, study):
            break
        trials = _fill(sweep, root, study)
        _tell(sweep, study, trials)  # the point may have been run before the journal was removed
        left = _left(sweep, trials, tried)
    return _claimed(sweep, study, trials, left, slot)


def _left(sweep: Sweep, trials: list[Any], tried: Collection[str]) -> list[Point]:
    """Return the points that may be taken, those that failed last."""
    left = []
    for point, trial in zip(sweep.points, trials, strict=True):
        if point.key in tried or _is_over(sweep, point):
            continue
        owner = {} if trial.state.is_finished() else trial.user_attrs.get(OWNER) or {}
        if not _is_held(point, owner):
            left.append(point)
    return sorted(left, key=lambda point: point.state == "failed")


def _is_over(sweep: Sweep, point: Point) -> bool:
    """Tell whether a point has its result, which may be that its training diverged."""
    return sweep.is_done(point) or point.state == "diverged"


def _claimed(
    sweep: Sweep, study: Any, trials: list[Any], points: list[Point], slot: str
) -> tuple[int, Point] | None:
    """Record this process as the owner of the first of some points, and return that point."""
    if not points:
        return None
    keys = [point.key for point in sweep.points]
    number = keys.index(points[0].key)
    point = sweep.points[number]
    attempts = Run(point.run).attempt_files() if point.run else {}
    owner = {
        "process": process_name(),
        "time": time.time(),
        "attempt": max(attempts, default=0),
        "slot": slot,
    }
    trial = trials[number]
    if trial.state.is_finished():  # its run was removed since, or goes on
        study.add_trial(_running(trial.params, trial.distributions, {OWNER: owner}))
    else:
        study._storage.set_trial_user_attr(trial._trial_id, OWNER, owner)
    point.slot = slot
    return number, point


def _running(
    numbers: dict[str, float], space: dict[str, Any], attributes: dict[str, Any] | None = None
) -> Any:
    """Return a new trial of a point that Optuna has not chosen.

    Args:
        numbers: what `Search.point` takes.
        space: Optuna's distribution of each parameter.
        attributes: attributes of the trial.
    """
    optuna = import_optuna()
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        params=numbers,
        distributions=space,
        user_attrs=attributes,
    )


def _is_held(point: Point, owner: dict[str, Any]) -> bool:
    """Tell whether a worker runs a point, or is about to.

    Args:
        point: the point, with its run and state.
        owner: who took the point last.
    """
    if point.state == "running":
        return True
    if has_ended(owner.get("process") or {}):
        return False
    attempts = Run(point.run).attempt_files() if point.run else {}
    has_begun = max(attempts, default=0) > owner.get("attempt", 0)
    return not has_begun and time.time() - owner.get("time", 0.0) < CLAIM_S


def _fill(sweep: Sweep, root: Path, study: Any) -> list[Any]:
    """Fill in the sweep's points from the journal, and return the trial of each.

    Trials that have not all numbers of a point are left out, and so are those that have the point
    of an earlier one, unless they replace it because the point was taken once more.
    """
    points: dict[str, Point] = {}
    trials = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.params.keys() != set(sweep.search.free):
            continue
        point = sweep.search.point(trial.params)
        if point.key not in points or OWNER in trial.user_attrs:
            point.slot = (trial.user_attrs.get(OWNER) or {}).get("slot", "")
            points[point.key] = point
            trials[point.key] = trial
    sweep.points = list(points.values())
    assign_runs(sweep, root)
    return list(trials.values())


def _tell(sweep: Sweep, study: Any, trials: list[Any]) -> None:
    """Copy the results of runs that are over into the journal, in the order of their numbers."""
    goal = sweep.search.goal
    worst = -math.inf if goal.is_more else math.inf
    for point, trial in zip(sweep.points, trials, strict=True):
        if trial.state.is_finished() or not _is_over(sweep, point):
            continue
        found = evaluations(Run(point.run), goal.metric)
        if found is None:
            continue
        step, value = found[-1] if found else (0, worst)
        if point.state == "diverged":
            value = worst
        if point.state in ("finished", "diverged"):
            study.tell(trial.number, value)
        else:
            optuna = import_optuna()
            optuna.trial.Trial(study, trial._trial_id).report(value, step)
            study.tell(trial.number, state=optuna.trial.TrialState.PRUNED)


def _end_torn(study: Any, trials: list[Any]) -> None:
    """End trials that a process left which was killed before it had a new point."""
    complete = {trial.number for trial in trials}
    for trial in study.get_trials(deepcopy=False):
        if trial.number not in complete and not trial.state.is_finished():
            study.tell(trial.number, state=import_optuna().trial.TrialState.FAIL)


def _ask(sweep: Sweep, study: Any) -> bool:
    """Let Optuna choose a new point; return whether there is one that was not there before."""
    optuna = import_optuna()
    search = sweep.search
    space = {}
    for key in search.free:
        count = choices(search.specs[key])
        space[key] = optuna.distributions.FloatDistribution(0.0, 1.0)
        if count:
            space[key] = optuna.distributions.CategoricalDistribution(range(count))
    known = {point.key for point in sweep.points}
    for again in range(MOST_TWICE_LISTED if search.listed else MOST_TWICE):
        study.sampler = _sampler(search, len(known), again)
        trial = study.ask(space)
        point = search.point(trial.params)
        if point.key not in known:
            return True
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    for numbers in search.listed:
        if search.point(numbers).key not in known:
            study.add_trial(_running(numbers, space))
            return True
    return False


def _sampler(search: Search, number: int, again: int) -> Any:
    """Return Optuna's sampler for a point: a tree-structured Parzen estimator.

    The estimator sees all parameters together, and takes points that are being run for bad ones, so
    that several workers do not choose the same.

    Args:
        search: the search.
        number: number of points before.
        again: number of times that the choice fell on one of these.
    """
    told = f"{search.name}\n{number}\n{again}"
    seed = hashlib.blake2b(told.encode(), digest_size=4).digest()
    return import_optuna().samplers.TPESampler(
        n_startup_trials=RANDOM,
        multivariate=True,
        constant_liar=True,
        seed=int.from_bytes(seed, "big"),
    )


def _study(sweep: Sweep, root: Path, is_new: bool = False) -> Any:
    """Return Optuna's study of a sweep; a changed space or metric begins another one.

    Args:
        sweep: a sweep with a search.
        root: folder of all runs.
        is_new: make the study where there is none; else None is returned then.

    Raises:
        UserError: the journal cannot be read.
    """
    optuna = import_optuna()
    search = sweep.search
    journal = journal_file(sweep, root)
    file = str(journal)
    told = f"{search.origin}\n{sorted(search.specs.items())}\n{search.goal}"
    name = hashlib.blake2b(told.encode(), digest_size=5).hexdigest()
    try:
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(
                file, optuna.storages.journal.JournalFileOpenLock(file)
            )
        )
        names = optuna.get_all_study_names(storage)
        if name in names:
            return optuna.load_study(study_name=name, storage=storage)
        if not is_new:
            if names:
                tell(
                    f"warning: {sweep.name} was searched with another space, metric or command: "
                    "those points do not count here, and their runs stay"
                )
            return None
        return optuna.create_study(storage=storage, study_name=name, direction=search.goal.word)
    except (ValueError, LookupError, TypeError) as e:
        raise _damaged(journal) from e


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a search: a file that names its owner, made in one step on NFS too.

    The lock of a process that has ended is broken at once, if that process ran on this machine,
    and else after `LOCK_S` seconds.
    """
    file = folder / "take.lock"
    owner = process_name() | {"host": socket.gethostname(), "time": time.time()}
    own = json.dumps(owner)
    try:
        _wait_for_lock(file, own)
        yield
    finally:
        if _content(file) == own:  # else the lock was never had, or is lost
            file.unlink(missing_ok=True)


def _wait_for_lock(file: Path, own: str) -> None:
    """Make a lock file; wait for its owner, and say so after two seconds.

    Args:
        file: path of the lock.
        own: content of the lock, which names this process.
    """
    since = time.monotonic()
    told = since - WORD_S + SOON_S
    found = ""
    while True:
        with suppress(FileExistsError):
            if not file.exists():
                return write_new(file, own)
        now = time.monotonic()
        before = found
        found = _content(file)
        if found != before:
            since = now
        owner = read_json(file) or {}
        if has_ended(owner) or now - since > LOCK_S:
            _break(file, found)
        elif now - told > WORD_S:
            told = now
            who = f"process {owner.get('pid')} on {owner.get('host')}" if owner else "another"
            tell(f"waiting for {who}, which takes a point of this sweep ({file})")
        time.sleep(LOOK_S)


def _break(file: Path, found: str) -> None:
    """Remove a lock whose owner is gone, unless another process has done so in the meantime.

    The system's lock on the file lets one process of this machine at a time compare and remove it:
    a second one would else remove the lock that a third has made since.
    """
    with suppress(OSError), file.open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(lock.fileno()), file.stat()) and lock.read() == found:
            file.unlink()


def _content(file: Path) -> str:
    """Return the text of a lock; empty where there is none."""
    with suppress(UserError):
        return read_text(file)
    return ""


def _heal(file: Path) -> None:
    """Remove what a killed process may have left of a journal: half a line at its end, and a lock.

    Optuna would append to this line, and then read nothing of the journal any more. It does not
    tell that a last line is damaged before it has appended another.

    Raises:
        UserError: the last line is damaged.
    """
    if not file.exists():
        return
    with suppress(FileNotFoundError):  # whoever writes to the journal holds the search's lock
        file.with_name(f"{file.name}.lock").unlink()
    with open_plain(file) as content:
        text = content.read()
    end = text.rfind(b"\n") + 1
    if end < len(text):
        os.truncate(file, end)
    try:
        json.loads(text[:end].splitlines()[-1] if end else "{}")
    except ValueError as e:
        raise _damaged(file) from e


def _damaged(file: Path) -> UserError:
    return UserError(f"{file} is damaged: remove it, and the search begins again")


def import_optuna(what: str = "method bayes") -> Any:
    """Import Optuna, and keep its messages out of ours.

    Args:
        what: what needs Optuna, for the message.

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as e:
        raise UserError(
            f"{what} needs optuna: pip install 'optuna>=5,<6' (or lightning_resnet[sweeps])"
        ) from e
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
