"""Runs a sweep's points on this machine, some at a time, each in a process of its own.

The processes are forked from one that has torch and Lightning imported already: importing them takes seconds.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from lightning_resnet.runtime.status import cores, status
from lightning_resnet.sweep import Point, Sweep, find_runs, validation_error

PRELOAD = ["lightning_resnet.fit", "sklearn.datasets"]  # the latter for the digits
GRACE_S = 30.0  # seconds between asking a run to stop and making it


def run_points(sweep: Sweep, root: Path, jobs: int, main: Callable[[list[str]], int] | None = None) -> int:
    """Run what is not finished.

    Args:
        sweep: with the state of its points filled in.
        root: folder of all runs.
        jobs: runs at a time.
        main: what a process calls with the arguments of `resnet-cli`; default: the command line itself.

    Returns:
        Exit status: 0 if all points are finished now, 1 if not, 130 if interrupted.
    """
    waiting = [p for p in sweep.points if p.state != "finished"]
    threads = max(1, cores() // jobs)
    print(f"{sweep.name}: {len(sweep.points)} points, {len(sweep.points) - len(waiting)} finished before", flush=True)
    print(f"{min(jobs, len(waiting))} runs at a time, {threads} threads each", flush=True)
    folder = root / sweep.name / "points"
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    live: list[multiprocessing.Process] = []

    def run(point: Point) -> tuple[int, float]:
        """Exit code and seconds of one run."""
        start = time.monotonic()
        arguments = _arguments(sweep, point, root, folder, threads)
        process = context.Process(
            target=_child, args=(main or _command_line, arguments, str(folder / f"{point.key}.log"))
        )
        process.start()
        live.append(process)
        process.join()
        live.remove(process)
        return process.exitcode, time.monotonic() - start

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun, failed = time.monotonic(), 0
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {pool.submit(run, point): point for point in waiting}
        for i, future in enumerate(as_completed(futures), 1):
            point, (code, seconds) = futures[future], future.result()
            outcome = _outcome(sweep, root, point, code, folder)
            failed += code != 0
            left = (time.monotonic() - begun) / i * (len(waiting) - i)
            print(
                f"[{i:>{len(str(len(waiting)))}}/{len(waiting)}] {point.text()}  {outcome}  {seconds:.0f} s"
                + (f", about {left:.0f} s left" if i < len(waiting) else ""),
                flush=True,
            )
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        _stop(live)
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
        pool.shutdown()
    print(f"{len(waiting) - failed} finished, {failed} not, {len(sweep.points) - len(waiting)} finished before")
    print(f"next: resnet-cli compare {root / sweep.name}")
    return 1 if failed else 0


def _arguments(sweep: Sweep, point: Point, root: Path, folder: Path, threads: int) -> list[str]:
    """The command line of a point's run; its parameters go through a file, as W&B's `${args_json_file}`."""
    file = folder / f"{point.key}.json"
    file.write_text(json.dumps(point.parameters, indent=1) + "\n")
    configs = [a for recipe in [*sweep.recipes, str(file)] for a in ("--config", recipe)]
    where = ["--run.root", str(root), "--run.name", sweep.name, "--run.point", point.key]
    return ["fit", *configs, *sweep.flags, *where, "--run.threads", str(threads)]


def _command_line(arguments: list[str]) -> int:
    from lightning_resnet.cli import main

    return main(arguments)


def _child(main: Callable[[list[str]], int], arguments: list[str], log: str) -> None:
    """In the process: everything it prints goes to a file; Ctrl-C in the terminal reaches the parent only."""
    os.setsid()
    with open(log, "a") as file, open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(arguments))


def _outcome(sweep: Sweep, root: Path, point: Point, code: int, folder: Path) -> str:
    find_runs(sweep, root)
    if code == 0:
        error = validation_error(point)
        return f"val error {error:.2f} %" if error is not None else "finished"
    if point.run and status(point.run) == "running" and code == 2:
        return f"running elsewhere ({point.run})"
    log = folder / f"{point.key}.log"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else "failed"
    return f"{how}: {lines[-1].removeprefix('error: ') if lines else 'no output'} (log: {log})"


def _stop(processes: list[multiprocessing.Process]) -> None:
    """Ask once, wait, then insist."""
    for ask, patience in ((signal.SIGINT, GRACE_S), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        for process in [p for p in processes if p.is_alive()]:
            os.kill(process.pid, ask)
        deadline = time.monotonic() + patience
        while any(p.is_alive() for p in processes) and time.monotonic() < deadline:
            time.sleep(0.05)
