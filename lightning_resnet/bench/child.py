"""Child processes that the benchmarks measure."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_resnet.errors import UserError

HANG_S = 900.0  # seconds after which a process is killed


@contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Start a process whose stdout is read; kill the process and its children at the end.

    The process is killed after `HANG_S` in any case. It has its own session: Ctrl-C on a terminal
    reaches the benchmark alone, which ends the process and says so.

    Args:
        command: the program and its arguments.
        options: arguments of `subprocess.Popen`.
    """
    pipe = {"stdout": subprocess.PIPE} | options
    words = [*map(str, command)]
    with subprocess.Popen(words, text=True, start_new_session=True, **pipe) as process:
        watch = threading.Timer(HANG_S, _kill, [process])
        watch.daemon = True
        watch.start()
        try:
            yield process
        finally:
            watch.cancel()
            _kill(process)


def output(process: subprocess.Popen) -> list[str]:
    """Return the lines that the process prints, once it has exited with status 0.

    Raises:
        UserError: the process failed or was killed.
    """
    lines = process.stdout.read().splitlines()
    ended(process, lines)
    return lines


def ended(process: subprocess.Popen, lines: Sequence[str] = ()) -> None:
    """Wait until the process has exited with status 0.

    Args:
        process: a child.
        lines: what the process has printed.

    Raises:
        UserError: the process failed or was killed.
    """
    status = process.wait()
    if not status:
        return
    how = f"ended with {status}"
    if status == -signal.SIGKILL:
        how = f"was killed, by us after {HANG_S:.0f} s"
    last = " ".join(lines[-3:])[-300:]
    raise UserError(f"a measured process {how}: {' '.join(process.args)}: {last}")


def verb_measured(folder: Path, words: Sequence[str]) -> tuple[float, resource.struct_rusage]:
    """Run a verb from start to end, with a cache of its own; return seconds and what it used.

    Args:
        folder: the working directory, which gets the cache.
        words: the verb and its arguments.

    Raises:
        UserError: the verb failed.
    """
    command = [sys.executable, "-m", "lightning_resnet", *words]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    begin = time.monotonic()
    with child(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        # else Popen thinks that the process still runs
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"`resnet-cli {words[0]}` failed, see above: nothing was measured")
    return time.monotonic() - begin, used


def _kill(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
