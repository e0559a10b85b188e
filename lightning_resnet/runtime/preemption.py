"""Signals that ask a training to end: they only leave a mark, which the training loop reads between two steps.

SIGTERM, SIGUSR1, SIGUSR2: save, exit 143. Ctrl-C (SIGINT): save at the next batch, exit 130; a second one ends at once.
Outside the loop there is nothing to save: an exception ends the process where it is, or in the imports a plain exit,
as C code that imports a module swallows exceptions. Verbs that save nothing are gone within a second. Imports nothing
slow: the command line arms it before torch is imported, because a signal in those seconds would otherwise kill without
a word.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

DEAF_S = 3.0  # seconds after which a process that has not reacted to a signal is ended; there is nothing to save
LEAVE_S = 0.7  # likewise, of a verb that begins anew, whether it has reacted or not
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class Stopped(BaseException):
    """The training ends here and can be continued; no Exception, so that nobody's handler swallows it.

    Args:
        signum: of the signal that asked for it.
        saved: whether a checkpoint holds everything up to here.
    """

    def __init__(self, signum: int, saved: bool = False) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum, self.saved, self.continues = signum, saved, request.continues

    @property
    def reason(self) -> str:
        """As the attempt records it."""
        return "interrupted" if self.signum == signal.SIGINT else "preempted"

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C, else 143."""
        return 130 if self.signum == signal.SIGINT else 143

    def __str__(self) -> str:
        if not self.continues:
            by = "" if self.signum == signal.SIGINT else f" by {signal.Signals(self.signum).name}"
            return f"{self.reason}{by}; the same command begins anew"
        done = "saved" if self.saved else "nothing new to save"
        return f"{self.reason} by {signal.Signals(self.signum).name}, {done}; the same command continues"


class _Request:
    """The mark. There is one in a process, as signals are the process's."""

    signum = 0  # of the first signal
    heard = False  # Python's handler has run: it cannot while the main thread waits in C code
    importing = False  # the process is still in its imports
    deferred = False  # in the loop: wait for the end of the step
    continues = True  # the same command would go on from here
    pid = 0  # of the process that listens, not of its workers

    def hear(self, signum: int, frame: FrameType | None = None) -> None:
        """The handler."""
        self.heard = True
        if self.importing:
            stopped = Stopped(signum)
            print(stopped, file=sys.stderr, flush=True)
            os._exit(stopped.exit_status)
        again = signum == signal.SIGINT == self.signum
        self.signum = self.signum or signum
        if not self.deferred:
            raise (
                Stopped(signum) if os.getpid() == self.pid else KeyboardInterrupt
            )  # workers of torch end quietly on it
        if again:
            os._exit(130)  # a rank that waits in a collective would not see an exception


request = _Request()


@contextmanager
def armed(continues: bool = True) -> Iterator[None]:
    """Listen; afterwards the former handlers are back; see `insisting`."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows handlers in the main thread only
        return
    request.heard, request.signum, request.pid = False, 0, os.getpid()
    former = {s: signal.signal(s, request.hear) for s in SIGNALS}
    try:
        with insisting(continues):
            yield
    finally:
        for s, handler in former.items():
            signal.signal(s, handler)


@contextmanager
def insisting(continues: bool) -> Iterator[None]:
    """End a process that a signal does not end in time.

    Args:
        continues: the same command would go on from here; it is given the time to save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    request.continues, former = continues, request.continues
    out, into = os.pipe()
    os.set_blocking(into, False)
    former_fd = signal.set_wakeup_fd(into, warn_on_full_buffer=False)  # written to from C, whatever Python does
    over = threading.Event()
    threading.Thread(target=_insist, args=(out, over, continues), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(former_fd)
        os.close(into)
        request.continues = former


def _insist(pipe: int, over: threading.Event, continues: bool) -> None:
    """In a thread: a rank that waits for another before the training starts ends too, though it does not hear."""
    while number := os.read(pipe, 1):
        if number[0] not in SIGNALS or over.wait(DEAF_S if continues else LEAVE_S):
            continue
        if not (continues and (request.heard or request.deferred)):
            stopped = Stopped(number[0])
            print(stopped, file=sys.stderr, flush=True)
            os._exit(stopped.exit_status)
    os.close(pipe)


def leave(status: int) -> NoReturn:
    """End without the interpreter's own end, which takes a second once torch is there: nothing is left to finish."""
    from multiprocessing import active_children

    for child in active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


@contextmanager
def deferring() -> Iterator[None]:
    """Signals wait in `request.signum`, as does one whose exception somebody has swallowed before."""
    request.deferred = True
    try:
        yield
    finally:
        request.deferred = False


@contextmanager
def importing() -> Iterator[None]:
    """Signals end the process at once."""
    request.importing = True
    try:
        yield
    finally:
        request.importing = False
