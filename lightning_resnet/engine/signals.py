"""Signals that ask a training to end: they only leave a mark, which the training loop reads between two steps.

SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU (the limit of CPU time): save, exit 143. SIGHUP (the terminal is closed): likewise,
exit 129; under nohup it stays ignored. Ctrl-C (SIGINT): save at the next batch, exit 130; a second one, a second later
or more, ends at once.
Outside the loop there is nothing to save: an exception ends the process where it is, or in the imports a plain exit,
as C code that imports a module swallows exceptions. A rank that others wait for, and that has no parent to tell them,
takes the mark along into the loop, where all agree to end. Verbs that save nothing are gone within a second. Imports
nothing slow: the command line arms it before torch is imported, because a signal in those seconds would otherwise kill
without a word.
"""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

DEAF_S = 3.0  # seconds after which a process that has not reacted to a signal is ended; there is nothing to save
LEAVE_S = 0.7  # likewise, of a verb that begins anew, whether it has reacted or not
JOIN_S = 30.0  # likewise, of a rank that takes the mark along to where it meets the others
CPU_S = 30  # of CPU time before its limit, at which the system kills, that SIGXCPU shall come
AGAIN_S = 1.0  # a second SIGINT sooner than this after the first is no second wish: some programs pass each on twice
FINALIZER_S = (
    0.05  # until a signal that came in a finalizer, which swallows exceptions, comes again
)
STATUSES = {  # of a process that such a signal has ended
    signal.SIGTERM: 143,
    signal.SIGUSR1: 143,
    signal.SIGUSR2: 143,
    signal.SIGXCPU: 143,
    signal.SIGINT: 130,
    signal.SIGHUP: 129,
}
SIGNALS = tuple(STATUSES)


def heeded() -> tuple[signal.Signals, ...]:
    """The signals to listen to: all of `SIGNALS`, without SIGHUP where nohup has it ignored."""
    return tuple(s for s in SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN)


class Stopped(BaseException):
    """The training ends here and can be continued; no Exception, so that nobody's handler swallows it.

    Args:
        signum: of the signal that asked for it.
        saved: whether a checkpoint holds everything up to here.
        error: why it could not be saved.
    """

    def __init__(self, signum: int, saved: bool = False, error: str = "") -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum, self.saved, self.continues = signum, saved, request.continues
        self.error = error

    @property
    def reason(self) -> str:
        """As the attempt records it."""
        return "interrupted" if self.signum == signal.SIGINT else "preempted"

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C, 129 after SIGHUP, else 143."""
        return STATUSES[signal.Signals(self.signum)]

    def __str__(self) -> str:
        if not self.continues:
            by = "" if self.signum == signal.SIGINT else f" by {signal.Signals(self.signum).name}"
            return f"{self.reason}{by}; the same command begins anew"
        undone = f"not saved ({self.error})" if self.error else "nothing new to save"
        done = "saved" if self.saved else undone
        return f"{self.reason} by {signal.Signals(self.signum).name}, {done}; the same command continues"


class _Request:
    """The mark. There is one in a process, as signals are the process's."""

    signum = 0  # of the first signal
    since = 0.0  # when it came
    importing = False  # the process is still in its imports
    deferred = False  # only mark: wait for the end of the step, or for the other ranks
    joined = False  # the mark will be read: in the loop, where all ranks have met, or at the end, where all is decided
    continues = True  # the same command would go on from here
    pid = 0  # of the process that listens, not of its workers

    def hear(self, signum: int, frame: FrameType | None = None) -> None:
        """The handler."""
        if self.importing and not self.deferred:
            end_now(signum)
        if os.getpid() != self.pid:
            if self.deferred:
                return  # a loader's worker, which ends with the training
            raise KeyboardInterrupt  # workers of torch end quietly on it
        if not self.deferred and _in_finalizer(frame):
            again = threading.Timer(FINALIZER_S, os.kill, (self.pid, signum))
            again.daemon = True
            again.start()
            return
        before = self.signum
        if not before:
            self.signum = signum
            self.since = time.monotonic()
        if not self.deferred and not before:
            raise Stopped(signum)
        if signum == signal.SIGINT == before and time.monotonic() - self.since > AGAIN_S:
            os._exit(130)  # a rank that waits in a collective would not see an exception

    @property
    def patience_s(self) -> float:
        """Seconds that a process that has got a signal has until it must have reacted."""
        if not self.continues:
            return LEAVE_S
        return JOIN_S if self.deferred else DEAF_S


request = _Request()


def _in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@contextmanager
def armed(continues: bool = True, deferred: bool = False) -> Iterator[None]:
    """Listen; afterwards the former handlers are back; see `insisting`.

    Args:
        continues: the same command would go on from here.
        deferred: this is a rank that takes a signal along to where it meets the others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows handlers in the main thread only
        return
    request.signum = 0
    request.pid = os.getpid()
    request.deferred = deferred
    request.joined = False
    former = {s: signal.signal(s, request.hear) for s in heeded()}
    _hear_of_the_cpu_limit()
    try:
        with insisting(continues):
            signal.pthread_sigmask(
                signal.SIG_UNBLOCK, SIGNALS
            )  # the parent of ranks starts them with these blocked
            yield
    finally:
        request.deferred = False
        request.joined = False
        for s, handler in former.items():
            signal.signal(s, handler)


def _hear_of_the_cpu_limit() -> None:
    """Let SIGXCPU come in time to save: `ulimit -t` sets it to the very second at which the system kills."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard == resource.RLIM_INFINITY:
        return
    earlier = max(1, hard - min(CPU_S, hard // 2))
    if soft == resource.RLIM_INFINITY or soft > earlier:
        resource.setrlimit(resource.RLIMIT_CPU, (earlier, hard))


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
    former_fd = signal.set_wakeup_fd(
        into, warn_on_full_buffer=False
    )  # written to from C, whatever Python does
    over = threading.Event()
    threading.Thread(target=_insist, args=(out, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(former_fd)
        os.close(into)
        request.continues = former


def _insist(pipe: int, over: threading.Event) -> None:
    """In a thread: a rank that waits for another before the training starts ends too, though it does not hear."""
    while number := os.read(pipe, 1):
        if number[0] not in SIGNALS or over.wait(request.patience_s) or request.joined:
            continue
        end_now(number[0])
    os.close(pipe)


def end_now(signum: int) -> NoReturn:
    """End this process, wherever it is, with the message and the status of one that a signal has stopped."""
    stopped = Stopped(signum)
    with suppress(OSError):
        print(stopped, file=sys.stderr, flush=True)
    os._exit(stopped.exit_status)


def leave(status: int) -> NoReturn:
    """End without the interpreter's own end, which takes a second once torch is there: nothing is left to finish."""
    from multiprocessing import active_children

    for child in active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def leave_with(status: int) -> None:
    """From here on a signal only hastens the end: what the exit status says is decided."""
    for s in heeded():
        signal.signal(s, _leaving(status))


def _leaving(status: int) -> Callable[[int, FrameType | None], None]:
    def leave_at_once(signum: int, frame: FrameType | None) -> None:
        os._exit(status)

    return leave_at_once


@contextmanager
def importing() -> Iterator[None]:
    """Signals end the process at once."""
    request.importing = True
    try:
        yield
    finally:
        request.importing = False
