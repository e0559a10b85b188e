"""Runs a sweep's points on this machine, some at a time, each in a process of its own.

The processes are forked from one that has torch and Lightning imported already: importing them takes seconds.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from multiprocessing import Process, connection, forkserver, get_context, parent_process
from pathlib import Path
from types import FrameType

from lightning_resnet.engine.signals import STATUSES, heeded
from lightning_resnet.errors import tell
from lightning_resnet.machine import cores
from lightning_resnet.sweeps.points import Point, Sweep
from lightning_resnet.sweeps.state import clock, command, find_runs, forecast, validation_error

PRELOAD = ["lightning_resnet.cli.fit"]
GRACE_S = 30.0  # seconds between asking a run to stop and making it

Main = Callable[[list[str]], int]


def run_points(sweep: Sweep, root: Path, jobs: int, main: Main) -> int:
    """Run what is not finished.

    Args:
        sweep: with the state of its points filled in.
        root: folder of all runs.
        jobs: runs at a time.
        main: what a process calls with the arguments of `resnet-cli`, such as `cli.main.shielded`.

    Returns:
        Exit status: 0 if all points are finished now, 1 if not, 129, 130 or 143 if a signal has stopped them.
    """
    numbers = [n for n, point in enumerate(sweep.points) if point.state != "finished"]
    before, failed, ended = len(sweep.points) - len(numbers), 0, 0
    threads = max(1, cores() // jobs)
    tell(f"{sweep.name}: {len(sweep.points)} points, {before} finished before")
    if numbers:
        tell(f"{min(jobs, len(numbers))} runs at a time, {threads} threads each")
    commands = [command(sweep, sweep.points[n], root, str(threads)) for n in numbers]
    heard: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        heard.append(signum)
        raise KeyboardInterrupt

    former = {s: signal.signal(s, stop) for s in heeded()}
    try:
        with closing(_run(main, commands, jobs)) as events:
            for i, code, seconds in events:
                point = sweep.points[numbers[i]]
                line = f"[{numbers[i] + 1:>{len(str(len(sweep.points)))}}/{len(sweep.points)}] {sweep.text(point)}"
                if code is None:
                    tell(f"{line}  started")
                    continue
                find_runs(sweep, root)
                ended, failed = ended + 1, failed + (code != 0)
                left, by = forecast(sweep)
                left = f", about {clock(left / jobs)} left" if by and ended < len(numbers) else ""
                tell(f"{line}  {_outcome(point, code, commands[i][1])}  {clock(seconds)}{left}")
    except KeyboardInterrupt:
        tell("interrupted; the same command continues", file=sys.stderr)
        return STATUSES[signal.Signals(heard[0])] if heard else 130
    finally:
        for s, handler in former.items():
            signal.signal(s, handler)
    tell(f"{ended - failed} finished, {failed} not, {before} finished before")
    tell(f"next: resnet-cli compare {root / sweep.name}")
    return 1 if failed else 0


def _run(main: Main, commands: list[tuple[list[str], Path]], jobs: int) -> Iterator[tuple[int, int | None, float]]:
    """Yield (position, None, 0) when a command starts, (position, exit code, seconds) when it has ended.

    One thread only: with more, starting a process can steal another's exit code (multiprocessing's clean-up).
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    waiting = list(enumerate(commands))
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    live: dict[Process, tuple[int, float]] = {}
    if waiting:
        _start_server()
    try:
        while waiting or live:
            while waiting and len(live) < jobs:
                i, (arguments, log) = waiting.pop(0)
                yield i, None, 0.0
                environment = dict(os.environ)
                process = context.Process(target=_child, args=(environment, main, arguments, str(log), nohup))
                live[process] = i, time.monotonic()  # before it starts: Ctrl-C may come any time
                process.start()
            ended = connection.wait([process.sentinel for process in live])
            for process in [p for p in live if p.sentinel in ended]:
                process.join()
                i, start = live.pop(process)
                yield i, process.exitcode, time.monotonic() - start
    finally:
        _stop([process for process in live if process.pid])


def _start_server() -> None:
    """Deaf to Ctrl-C and a closed terminal from birth: it would die of them; the runs listen again."""
    former = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGHUP)}
    try:
        forkserver.ensure_running()
    finally:
        for s, handler in former.items():
            signal.signal(s, handler)


def _child(environment: dict[str, str], main: Main, arguments: list[str], log: str, nohup: bool) -> None:
    """In the process: everything it prints goes to a file; Ctrl-C in the terminal reaches the parent only."""
    # The server forks with the variables of the moment when it began, maybe for an earlier sweep of the same process.
    # These are the parent's of now. They came through a pipe, so no list of processes shows them. sys.path needs
    # nothing: multiprocessing hands the parent's to each child. What the server's libraries have read for good, such
    # as OMP_NUM_THREADS or LD_PRELOAD, stays as it was; a run gets its threads by --run.threads.
    environment = _set_by_imports() | environment
    os.environ.clear()
    os.environ.update(environment)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    with open(log, "a") as file, open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if not parent_process().is_alive():  # interrupted while the imports were still going on
        sys.exit(130)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main(arguments))


def _set_by_imports() -> dict[str, str]:
    """Return the variables that the server's imports have set, as Lightning does: a fresh process would have them."""
    try:
        began = os.fsdecode(Path("/proc/self/environ").read_bytes()).split("\0")
    except OSError:  # not Linux
        return {}
    return {name: value for name, value in os.environ.items() if f"{name}={value}" not in began}


def _end_with_parent() -> None:
    """A run must not go on unseen when the sweep was killed or its terminal closed."""
    connection.wait([parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGINT)


def _outcome(point: Point, code: int, log: Path) -> str:
    if code == 0:
        error = validation_error(point)
        return f"val error {error:.2f} %" if error is not None else "finished"
    if point.state == "running" and code == 2:
        return f"running elsewhere ({point.run})"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else "failed"
    return f"{how}: {lines[-1].removeprefix('error: ') if lines else 'no output'} (log: {log})"


def _stop(processes: list[Process]) -> None:
    """Ask, wait, insist; Ctrl-C again does not wait."""
    for ask, patience in ((signal.SIGINT, GRACE_S), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        with suppress(KeyboardInterrupt):
            for process in [p for p in processes if p.is_alive()]:
                os.kill(process.pid, ask)
            for process in processes:
                process.join(max(0, deadline - time.monotonic()))
