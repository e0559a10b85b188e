"""The processes that benchmarks measure."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from lightning_resnet.errors import UserError

HANG_S = 900.0  # seconds after which a process is given up


@contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A process whose stdout is read; it and its own are gone afterwards, and after `HANG_S` in any case.

    It has a session of its own: Ctrl-C on a terminal reaches the benchmark alone, which ends it and says so.

    Args:
        command: the program and its arguments.
        options: of `subprocess.Popen`.
    """
    pipe = {"stdout": subprocess.PIPE} | options
    with subprocess.Popen([*map(str, command)], text=True, start_new_session=True, **pipe) as process:
        watch = threading.Timer(HANG_S, _kill, [process])
        watch.daemon = True
        watch.start()
        try:
            yield process
        finally:
            watch.cancel()
            _kill(process)


def output(process: subprocess.Popen) -> list[str]:
    """Its lines, once it has ended well.

    Raises:
        UserError: it has not.
    """
    lines = process.stdout.read().splitlines()
    ended(process, lines)
    return lines


def ended(process: subprocess.Popen, lines: Sequence[str] = ()) -> None:
    """Wait for its end.

    Args:
        process: a child.
        lines: what it has printed.

    Raises:
        UserError: it failed, or was given up.
    """
    if status := process.wait():
        how = f"ended with {status}" if status != -signal.SIGKILL else f"was killed, by us after {HANG_S:.0f} s"
        raise UserError(f"a measured process {how}: {' '.join(process.args)}: {' '.join(lines[-3:])[-300:]}")


def _kill(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
