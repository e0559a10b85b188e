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

from lightning_resnet.engine.launch import SAVE_S
from lightning_resnet.engine.signals import STATUSES, heeded
from lightning_resnet.errors import tell
from lightning_resnet.machine import cores
from lightning_resnet.runs.find import quote
from lightning_resnet.runs.status import HALVED
from lightning_resnet.sweeps.points import Point, Sweep
from lightning_resnet.sweeps.search import take
from lightning_resnet.sweeps.state import (
    assign_runs,
    clock,
    forecast,
    prepare_command,
    validation_error,
)

PRELOAD = ["lightning_resnet.cli.fit"]

Main = Callable[[list[str]], int]
Command = tuple[int, list[str], Path]  # number of a point, arguments of `resnet-cli`, log


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
    total = sweep.size
    before = sum(map(sweep.is_done, sweep.points))
    failed = 0
    ended = 0
    threads = max(1, cores() // jobs)
    tell(f"{sweep.name}: {total} points, {before} finished before")
    if before < total:
        tell(f"{min(jobs, total - before)} runs at a time, {threads} threads each")
    received: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        raise KeyboardInterrupt

    former = {s: signal.signal(s, stop) for s in heeded()}
    todo = _searched(sweep, root) if sweep.search else _listed(sweep)
    try:
        with closing(_run(main, _commands(sweep, todo, root, threads), jobs)) as events:
            for (number, log), code, seconds in events:
                text = sweep.text(sweep.points[number])
                line = f"[{number + 1:>{len(str(total))}}/{total}] {text}"
                if code is None:
                    tell(f"{line}  started")
                    continue
                assign_runs(sweep, root)
                ended += 1
                if code != 0:
                    failed += 1
                seconds_left, finished = forecast(sweep)
                left = ""
                if finished and ended < total - before:
                    left = f", about {clock(seconds_left / jobs)} left"
                outcome = _outcome(sweep.points[number], code, log)
                tell(f"{line}  {outcome}  {clock(seconds)}{left}")
    except KeyboardInterrupt:
        tell("interrupted; the same command continues", file=sys.stderr)
        return STATUSES[signal.Signals(received[0])] if received else 130
    finally:
        for s, handler in former.items():
            signal.signal(s, handler)
    elsewhere = sum(point.state == "running" for point in sweep.points)
    others = f", {elsewhere} running elsewhere" if sweep.search and elsewhere else ""
    tell(f"{ended - failed} finished, {failed} not, {before} finished before{others}")
    tell(f"next: resnet-cli compare {quote(root / sweep.name)}")
    return 1 if failed else 0


def _listed(sweep: Sweep) -> Iterator[int]:
    """Yield the numbers of the points that are not done."""
    for number, point in enumerate(sweep.points):
        if not sweep.is_done(point):
            yield number


def _searched(sweep: Sweep, root: Path) -> Iterator[int | None]:
    """Yield the number of a point to run, each point once; None when there is none at the time."""
    tried: set[str] = set()
    while True:
        taken = take(sweep, root, tried=tried)
        if taken:
            tried.add(taken[1].key)
        yield taken[0] if taken else None


def _commands(
    sweep: Sweep, todo: Iterator[int | None], root: Path, threads: int
) -> Iterator[Command | None]:
    """Yield the command of each point, when the point is asked for; None for no point."""
    for number in todo:
        if number is None:
            yield None
            continue
        arguments, log = prepare_command(sweep, sweep.points[number], root, str(threads))
        yield number, arguments, log


def _run(
    main: Main, commands: Iterator[Command | None], jobs: int
) -> Iterator[tuple[tuple[int, Path], int | None, float]]:
    """Run commands, several at a time, in one thread.

    With several threads, starting a process could take another's exit code, because
    multiprocessing then cleans up ended processes.

    Yields:
        ((number, log), None, 0) when a command starts, and ((number, log), exit code, seconds) when
        it has ended.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    live: dict[Process, tuple[int, Path, float]] = {}
    is_up = False
    try:
        while True:
            while len(live) < jobs and (command := next(commands, None)):
                if not is_up:
                    _start_server()
                    is_up = True
                number, arguments, log = command
                yield (number, log), None, 0.0
                environment = dict(os.environ)
                process = context.Process(
                    target=_child, args=(environment, main, arguments, str(log), nohup)
                )
                # Register the process before its start, because Ctrl-C may come at any time.
                live[process] = number, log, time.monotonic()
                process.start()
            if not live:
                return
            ended = connection.wait([process.sentinel for process in live])
            for process in [p for p in live if p.sentinel in ended]:
                process.join()
                number, log, start = live.pop(process)
                yield (number, log), process.exitcode, time.monotonic() - start
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
        told = f"val error {error:.2f} %" if error is not None else "finished"
        return f"{HALVED}, {told}" if point.state == HALVED else told
    if point.state == "running" and code == 2:
        return f"running elsewhere ({point.run})"
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else "failed"
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    last = lines[-1].removeprefix("error: ") if lines else "no output"
    return f"{how}: {last} (log: {log})"


def _stop(processes: list[Process]) -> None:
    """Interrupt, terminate and at last kill processes; a further Ctrl-C skips the waiting."""
    steps = ((signal.SIGINT, SAVE_S), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
    for signum, patience in steps:
        deadline = time.monotonic() + patience
        with suppress(KeyboardInterrupt):
            alive = [process for process in processes if process.is_alive()]
            for process in alive:
                os.kill(process.pid, signum)
            if alive and signum == signal.SIGINT:
                tell("stopping: the runs save first; Ctrl-C again does not wait", file=sys.stderr)
            for process in processes:
                process.join(max(0, deadline - time.monotonic()))
