"""Signals that ask a training to end: they only leave a mark, which the training loop reads between two steps.

SIGTERM, SIGUSR1, SIGUSR2: save, exit 143. Ctrl-C (SIGINT): save at the next batch, exit 130; a second one ends at once.
Outside the loop there is nothing to save: an exception ends the process where it is, or in the imports a plain exit,
as C code that imports a module swallows exceptions. Imports nothing slow: the command line arms it before torch is
imported, because a signal in those seconds would otherwise kill without a word.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

DEAF_S = 3.0  # seconds after which a process that has not reacted to a signal is ended; there is nothing to save
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class Stopped(BaseException):
    """The training ends here and can be continued; no Exception, so that nobody's handler swallows it.

    Args:
        signum: of the signal that asked for it.
        saved: whether a checkpoint holds everything up to here.
    """

    def __init__(self, signum: int, saved: bool = False) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum, self.saved = signum, saved

    @property
    def reason(self) -> str:
        """As the attempt records it."""
        return "interrupted" if self.signum == signal.SIGINT else "preempted"

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C, else 143."""
        return 130 if self.signum == signal.SIGINT else 143

    def __str__(self) -> str:
        done = "saved" if self.saved else "nothing new to save"
        return f"{self.reason} by {signal.Signals(self.signum).name}, {done}; the same command continues"


class _Request:
    """The mark. There is one in a process, as signals are the process's."""

    signum = 0  # of the first signal
    heard = False  # Python's handler has run: it cannot while the main thread waits in C code
    importing = False  # the process is still in its imports
    deferred = False  # in the loop: wait for the end of the step

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
            raise Stopped(signum)
        if again:
            os._exit(130)  # a rank that waits in a collective would not see an exception


request = _Request()


@contextmanager
def armed() -> Iterator[None]:
    """Listen; afterwards the former handlers are back."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows handlers in the main thread only
        return
    request.heard, request.signum = False, 0
    former = {s: signal.signal(s, request.hear) for s in SIGNALS}
    out, into = os.pipe()
    os.set_blocking(into, False)
    former_fd = signal.set_wakeup_fd(into, warn_on_full_buffer=False)  # written to from C, whatever Python does
    over = threading.Event()
    threading.Thread(target=_insist, args=(out, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(former_fd)
        os.close(into)
        for s, handler in former.items():
            signal.signal(s, handler)


def _insist(pipe: int, over: threading.Event) -> None:
    """In a thread: a rank that waits for another before the training starts ends too, though it does not hear."""
    while number := os.read(pipe, 1):
        if number[0] in SIGNALS and not (over.wait(DEAF_S) or request.heard or request.deferred):
            os._exit(130 if number[0] == signal.SIGINT else 143)
    os.close(pipe)


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
