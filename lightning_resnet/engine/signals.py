"""Handle signals that ask a training to end: the training loop saves and ends after the next step.

SIGTERM, SIGUSR1, SIGUSR2 and SIGXCPU (the limit of CPU time): save, exit 143. SIGHUP (the terminal
is closed): save, exit 129; under nohup the signal stays ignored. Ctrl-C (SIGINT): save, exit 130; a
second Ctrl-C at least a second later ends the process at once.

In the training loop, a handler only records the request, and the loop reads it between two steps.
Outside the loop there is nothing to save, and an exception ends the process. During imports the
handler exits without an exception, because C code that imports a module swallows exceptions. If
other ranks wait for this one, and no parent passes the signal on to them, the request is kept until
the loop starts, where all ranks agree to end. Verbs that save nothing end within a second.

This module imports nothing slow: the command line sets the handlers before it imports torch, as a
signal in those seconds would otherwise kill the process without a message.
"""

import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import NoReturn

# Seconds that a process with nothing to save has to react to a signal, before it is ended.
DEAF_S = 3.0
LEAVE_S = 0.7  # the same for a verb that cannot be continued
JOIN_S = 30.0  # the same for a rank that keeps the request until it meets the other ranks
CPU_S = 30  # seconds of CPU time between SIGXCPU and the limit, at which the system kills
# Seconds after a SIGINT in which another one is ignored: some programs pass each signal on twice.
AGAIN_S = 1.0
# Seconds until a signal is sent again that arrived in a finalizer, which swallows exceptions.
FINALIZER_S = 0.05
# Exit status of a process that a signal has ended.
STATUSES = {
    signal.SIGTERM: 143,
    signal.SIGUSR1: 143,
    signal.SIGUSR2: 143,
    signal.SIGXCPU: 143,
    signal.SIGINT: 130,
    signal.SIGHUP: 129,
}
SIGNALS = tuple(STATUSES)


def heeded() -> tuple[signal.Signals, ...]:
    """Return the signals to handle: all of `SIGNALS`, without SIGHUP if nohup ignores it."""
    return tuple(s for s in SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN)


class Stopped(BaseException):
    """End of the process that a signal has asked for.

    The class is not an Exception, so that no `except Exception` swallows it.

    Args:
        signum: number of the signal.
        saved: whether a checkpoint of the current state has been written.
        error: why the checkpoint could not be saved.

    Attributes:
        continues: whether the same command would continue from here.
    """

    def __init__(self, signum: int, saved: bool = False, error: str = "") -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.saved = saved
        self.continues = request.continues
        self.error = error

    @property
    def reason(self) -> str:
        """Reason for the end, as the attempt records it: interrupted or preempted."""
        return "interrupted" if self.signum == signal.SIGINT else "preempted"

    @property
    def exit_status(self) -> int:
        """Exit status of the process: 130 after Ctrl-C, 129 after SIGHUP, else 143."""
        return STATUSES[signal.Signals(self.signum)]

    def __str__(self) -> str:
        name = signal.Signals(self.signum).name
        is_interrupt = self.signum == signal.SIGINT
        if not self.continues:
            what = "interrupted" if is_interrupt else f"stopped by {name}"
            return f"{what}; the same command starts over"
        undone = f"not saved ({self.error})" if self.error else "nothing new to save"
        done = "saved" if self.saved else undone
        what = "interrupted" if is_interrupt else "stopped"
        return f"{what} by {name}, {done}; the same command continues"


class _Request:
    """State of a stop request; one per process, because signal handlers are per process.

    Attributes:
        signum: number of the first signal; 0: none has arrived.
        since: time of the first signal, on the monotonic clock.
        importing: whether the process still imports modules.
        deferred: whether a signal is only recorded, until a step has ended or the ranks have met.
        joined: whether no time limit holds for the reaction, because the request will be read: all
            ranks have met in the loop, or the outcome is already decided.
        continues: whether the same command would continue from here.
        hosted: whether the process goes on after the training, as a notebook's does.
        pid: id of the process that set the handlers; its workers inherit the handlers.
    """

    signum = 0
    since = 0.0
    importing = False
    deferred = False
    joined = False
    continues = True
    hosted = False
    pid = 0

    def hear(self, signum: int, frame: FrameType | None = None) -> None:
        """Handle a signal: record it, and raise an error or end the process where that is right.

        Args:
            signum: number of the signal.
            frame: the frame that the signal interrupted.

        Raises:
            Stopped: this is the first signal, and it is not deferred.
            KeyboardInterrupt: this is a worker process, and signals are not deferred; or a second
                Ctrl-C in a process that goes on.
        """
        if self.importing and not self.deferred:
            end_now(signum)
        if os.getpid() != self.pid:
            if self.deferred:
                return  # a worker of a loader ends with the training
            raise KeyboardInterrupt  # on this error, workers of torch end without a message
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
        if self.hosted and signum == signal.SIGINT == before:
            raise KeyboardInterrupt
        if signum == signal.SIGINT == before and time.monotonic() - self.since > AGAIN_S:
            os._exit(130)  # an exception would not end a rank that waits in a collective

    @property
    def patience_s(self) -> float:
        """Seconds that the process has to react to a signal, before it is ended."""
        if not self.continues:
            return LEAVE_S
        return JOIN_S if self.deferred else DEAF_S


request = _Request()


def _in_finalizer(frame: FrameType | None) -> bool:
    """Tell whether a frame, or one of its callers, is a `__del__` method."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@contextmanager
def armed(continues: bool = True, deferred: bool = False, hosted: bool = False) -> Iterator[None]:
    """Handle signals within the context, and restore the former handlers afterwards.

    A process that does not react in time is ended, see `insisting`.

    Args:
        continues: whether the same command would continue from here.
        deferred: whether signals are only recorded, because other ranks wait for this one.
        hosted: whether the process goes on afterwards, as a notebook's does: it is never ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python sets signal handlers in the main thread only
        return
    request.signum = 0
    request.pid = os.getpid()
    request.deferred = deferred
    request.joined = False
    request.hosted = hosted
    former = {s: signal.signal(s, request.hear) for s in heeded()}
    _hear_of_the_cpu_limit()
    try:
        with nullcontext() if hosted else insisting(continues):
            # The parent of local ranks starts the ranks with these signals blocked.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            yield
    finally:
        request.deferred = False
        request.joined = False
        request.hosted = False
        for s, handler in former.items():
            signal.signal(s, handler)


def _hear_of_the_cpu_limit() -> None:
    """Lower the soft limit of CPU time, so that SIGXCPU comes early enough to save.

    With `ulimit -t`, both limits are equal, and SIGXCPU would come when the system kills the
    process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard == resource.RLIM_INFINITY:
        return
    earlier = max(1, hard - min(CPU_S, hard // 2))
    if soft == resource.RLIM_INFINITY or soft > earlier:
        resource.setrlimit(resource.RLIMIT_CPU, (earlier, hard))


@contextmanager
def insisting(continues: bool) -> Iterator[None]:
    """End the process if it does not react in time to a signal within the context.

    Args:
        continues: whether the same command would continue from here; without this the process has
            LEAVE_S seconds only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = request.continues
    request.continues = continues
    out, into = os.pipe()
    os.set_blocking(into, False)
    # The C handler writes to this pipe even if the main thread runs no Python code.
    former_fd = signal.set_wakeup_fd(into, warn_on_full_buffer=False)
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
    """Watch for signals in a thread, and end the process if the main thread does not react.

    The main thread may be blocked, for example in a collective before the training starts.

    Args:
        pipe: read end of the pipe to which signal numbers are written.
        over: set when the context has ended.
    """
    while number := os.read(pipe, 1):
        if number[0] not in SIGNALS or over.wait(request.patience_s) or request.joined:
            continue
        end_now(number[0])
    os.close(pipe)


def end_now(signum: int) -> NoReturn:
    """End this process at once, with the message and the exit status for a signal."""
    stopped = Stopped(signum)
    with suppress(OSError):
        print(stopped, file=sys.stderr, flush=True)
    os._exit(stopped.exit_status)


def leave(status: int) -> NoReturn:
    """End this process without the interpreter's shutdown, which takes a second with torch.

    Child processes of `multiprocessing` are terminated, and the output streams are flushed.

    Args:
        status: exit status.
    """
    from multiprocessing import active_children

    for child in active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def leave_with(status: int) -> None:
    """Let any further signal end the process at once with an exit status that is decided.

    Args:
        status: exit status.
    """
    for s in heeded():
        signal.signal(s, _leaving(status))


def _leaving(status: int) -> Callable[[int, FrameType | None], None]:
    """Return a signal handler that ends the process at once with a status."""

    def leave_at_once(signum: int, frame: FrameType | None) -> None:
        os._exit(status)

    return leave_at_once


@contextmanager
def importing() -> Iterator[None]:
    """Let signals end the process at once within the context, which imports modules.

    Where it imports torch, no garbage is collected meantime: the collector would look through all
    that the modules make, which stays, a quarter of the time that Lightning's import takes. What
    is there at the end is left out of later collections.
    """
    is_first = "torch" not in sys.modules and gc.isenabled()
    request.importing = True
    if is_first:
        gc.disable()
    try:
        yield
    finally:
        request.importing = False
        if is_first:
            gc.freeze()
            gc.enable()
