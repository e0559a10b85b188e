"""Guards the standard streams, which can be lost at any time: a closed pipe or terminal, a full disk.

What a verb prints is its result, unless it says otherwise by `report_only`: a verb whose result cannot be printed ends,
with status 141 where the reader of a pipe has left, as programs that SIGPIPE ends. A training only reports its progress
there; its results are in its files, so it goes on without. Nobody ends for want of stderr.
"""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

READER_GONE = 141  # 128 + SIGPIPE
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)  # a later write may succeed again


class OutputLost(BaseException):
    """The result of this verb cannot be printed; no Exception, so that nobody's handler swallows it.

    Args:
        error: that a write of stdout met.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"stdout cannot be written: {error.strerror}")
        self.exit_status = READER_GONE if error.errno == errno.EPIPE else 2


class Stream:
    """Stands for stdout or stderr and survives its loss.

    Args:
        stream: to write to.
        required: whether the loss ends the verb.
    """

    def __init__(self, stream: TextIO, required: bool) -> None:
        self.stream = stream
        self.required = required
        self._lost = False

    def write(self, text: str) -> int:
        """Write, or see to the loss."""
        try:
            return self.stream.write(text)
        except OSError as e:
            self._lose(e)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or see to the loss."""
        try:
            self.stream.flush()
        except OSError as e:
            self._lose(e)

    def finish(self) -> None:
        """Leave nothing behind that the interpreter's end would try to write again, and complain about."""
        try:
            self.stream.flush()
        except OSError:
            self._discard()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _lose(self, error: OSError) -> None:
        if error.errno not in PASSING or self.required:
            self._discard()
        if self._lost:
            return
        self._lost = True
        if self.required:
            raise OutputLost(error)
        if self is sys.stdout:  # the reader of a pipe, or a full disk; what is lost is no result
            sys.stderr.write(f"warning: stdout cannot be written ({error.strerror}): the work goes on without it\n")

    def _discard(self) -> None:
        """Send what is still to come, and what is still in the buffers, nowhere."""
        with suppress(OSError, ValueError):  # a stream that is no file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
            self.stream.flush()


@contextmanager
def guarded() -> Iterator[None]:
    """Guard stdout and stderr.

    Raises:
        OutputLost: stdout was required and is lost.
    """
    former_out = sys.stdout
    former_err = sys.stderr
    sys.stdout = Stream(former_out, required=True)
    sys.stderr = Stream(former_err, required=False)
    try:
        try:
            yield
        except SystemExit:  # after --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except OutputLost as e:
        if e.exit_status != READER_GONE:
            sys.stderr.write(f"error: {e}\n")
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Stream):
                stream.finish()
        sys.stdout = former_out
        sys.stderr = former_err


def report_only() -> None:
    """Declare that what this verb prints from here on is no result: the work goes on when nobody can read it."""
    if isinstance(sys.stdout, Stream):
        sys.stdout.required = False


def open_closed_streams() -> None:
    """Give this process the standard streams that it was started without (`>&-`).

    Otherwise the next files that are opened would take their places, and what is printed would end up in them. The
    null device is opened for reading only, so that a verb notices that its result cannot be printed.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)
