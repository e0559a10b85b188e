"""Run the points of a sweep on this machine, several at a time, each in a process of its own.

The processes are forked from a server that has already imported torch and Lightning, because these
imports take seconds.
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
from lightning_resnet.sweeps.state import (
    assign_runs,
    clock,
    forecast,
    prepare_command,
    validation_error,
)

PRELOAD = ["lightning_resnet.cli.fit"]
GRACE_S = 30.0  # seconds between asking a run to stop and ending it

Main = Callable[[list[str]], int]


def run_points(sweep: Sweep, root: Path, jobs: int, main: Main) -> int:
    """Run the points that are not finished.

    Args:
        sweep: a sweep with the state of its points filled in.
        root: folder of all runs.
        jobs: number of runs at a time.
        main: function that a process calls with the arguments of `resnet-cli`, such as
            `cli.main.shielded`.

    Returns:
        Exit status: 0 if all points are finished now, 1 if not, 129, 130 or 143 if a signal has
        stopped them.
    """
    total = len(sweep.points)
    numbers = [n for n, point in enumerate(sweep.points) if point.state != "finished"]
    before = total - len(numbers)
    failed = 0
    ended = 0
    threads = max(1, cores() // jobs)
    tell(f"{sweep.name}: {total} points, {before} finished before")
    if numbers:
        tell(f"{min(jobs, len(numbers))} runs at a time, {threads} threads each")
    commands = [prepare_command(sweep, sweep.points[n], root, str(threads)) for n in numbers]
    received: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        raise KeyboardInterrupt

    former = {s: signal.signal(s, stop) for s in heeded()}
    try:
        with closing(_run(main, commands, jobs)) as events:
            for i, code, seconds in events:
                point = sweep.points[numbers[i]]
                line = f"[{numbers[i] + 1:>{len(str(total))}}/{total}] {sweep.text(point)}"
                if code is None:
                    tell(f"{line}  started")
                    continue
                assign_runs(sweep, root)
                ended += 1
                if code != 0:
                    failed += 1
                seconds_left, finished = forecast(sweep)
                left = ""
                if finished and ended < len(numbers):
                    left = f", about {clock(seconds_left / jobs)} left"
                log = commands[i][1]
                tell(f"{line}  {_outcome(point, code, log)}  {clock(seconds)}{left}")
    except KeyboardInterrupt:
        tell("interrupted; the same command continues", file=sys.stderr)
        return STATUSES[signal.Signals(received[0])] if received else 130
    finally:
        for s, handler in former.items():
            signal.signal(s, handler)
    tell(f"{ended - failed} finished, {failed} not, {before} finished before")
    tell(f"next: resnet-cli compare {root / sweep.name}")
    return 1 if failed else 0


def _run(
    main: Main, commands: list[tuple[list[str], Path]], jobs: int
) -> Iterator[tuple[int, int | None, float]]:
    """Run commands, several at a time, in one thread.

    With several threads, starting a process could take another's exit code, because
    multiprocessing then cleans up ended processes.

    Yields:
        (position, None, 0) when a command starts, and (position, exit code, seconds) when it has
        ended.
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
                process = context.Process(
                    target=_child, args=(environment, main, arguments, str(log), nohup)
                )
                # Register the process before its start, because Ctrl-C may come at any time.
                live[process] = i, time.monotonic()
                process.start()
            ended = connection.wait([process.sentinel for process in live])
            for process in [p for p in live if p.sentinel in ended]:
                process.join()
                i, start = live.pop(process)
                yield i, process.exitcode, time.monotonic() - start
    finally:
        _stop([process for process in live if process.pid])


def _start_server() -> None:
    """Start the fork server with SIGINT and SIGHUP ignored.

    Otherwise Ctrl-C or a closed terminal would end the server during its imports. The runs restore
    the handlers.
    """
    former = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGHUP)}
    try:
        forkserver.ensure_running()
    finally:
        for s, handler in former.items():
            signal.signal(s, handler)


def _child(
    environment: dict[str, str], main: Main, arguments: list[str], log: str, nohup: bool
) -> None:
    """Run one command in this process; its output goes to a file.

    Ctrl-C in the terminal reaches the parent only, because this process starts a session.

    Args:
        environment: present environment of the parent.
        main: function of the arguments of `resnet-cli`.
        arguments: arguments of `resnet-cli`.
        log: path of the file for the output.
        nohup: whether to ignore SIGHUP.
    """
    # The server forks with the variables from its start, maybe for an earlier sweep of the parent.
    # `environment` comes through a pipe, so no list of processes shows it. multiprocessing passes
    # on sys.path. What the server's libraries have read at their import, such as OMP_NUM_THREADS or
    # LD_PRELOAD, stays; a run gets its threads by --run.threads.
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
    if not parent_process().is_alive():  # the parent was interrupted during the imports
        sys.exit(130)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main(arguments))


def _set_by_imports() -> dict[str, str]:
    """Return the variables that imports in the server have set, as those of Lightning do.

    A process that was not forked would have these variables too.
    """
    try:
        at_start = os.fsdecode(Path("/proc/self/environ").read_bytes()).split("\0")
    except OSError:  # not Linux
        return {}
    return {name: value for name, value in os.environ.items() if f"{name}={value}" not in at_start}


def _end_with_parent() -> None:
    """Interrupt this run when the sweep's process has ended, so that no run goes on unseen."""
    connection.wait([parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGINT)


def _outcome(point: Point, code: int, log: Path) -> str:
    """Describe how a run has ended.

    Args:
        point: the point, with its state after the run.
        code: exit code of the process; negative: number of the signal that killed it.
        log: output of the process.
    """
    if code == 0:
        error = validation_error(point)
        return f"val error {error:.2f} %" if error is not None else "finished"
    if point.state == "running" and code == 2:
        return f"running elsewhere ({point.run})"
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else "failed"
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    last = lines[-1].removeprefix("error: ") if lines else "no output"
    return f"{how}: {last} (log: {log})"


def _stop(processes: list[Process]) -> None:
    """Interrupt, terminate and at last kill processes; a further Ctrl-C skips the waiting."""
    steps = ((signal.SIGINT, GRACE_S), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
    for signum, patience in steps:
        deadline = time.monotonic() + patience
        with suppress(KeyboardInterrupt):
            for process in [p for p in processes if p.is_alive()]:
                os.kill(process.pid, signum)
            for process in processes:
                process.join(max(0, deadline - time.monotonic()))
