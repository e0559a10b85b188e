"""Guard the standard streams, which a closed pipe or terminal or a full disk can make fail.

The output of a verb is its result, unless the verb calls `report_only`. A verb whose result cannot
be printed ends, with status 141 if the reader of a pipe has left, like programs that SIGPIPE ends.
A training only reports its progress on stdout and has its results in files, so it continues
without stdout. No verb ends because stderr is lost.
"""

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from typing import Any, TextIO

RANKED = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # 0 in the first rank
SUPERVISED = "LIGHTNING_RESNET_MEETING"  # set in ranks whose parent says that they begin
READER_GONE = 141  # 128 + SIGPIPE
# Variable that -q sets, also for the ranks: print warnings and the last line only, no progress.
QUIET = "LIGHTNING_RESNET_QUIET"
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)  # a later write may succeed again


class OutputLost(BaseException):
    """Signal that the result of this verb cannot be printed.

    The class is no Exception, so that no handler swallows it.

    Args:
        error: the error of a write to stdout.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"stdout cannot be written: {error.strerror}")
        self.exit_status = READER_GONE if error.errno == errno.EPIPE else 2


class Stream:
    """Replacement of stdout or stderr that survives the loss of the stream.

    Args:
        stream: the stream to write to.
        required: whether the loss ends the verb.
    """

    def __init__(self, stream: TextIO, required: bool) -> None:
        self.stream = stream
        self.required = required
        self._lost = False

    def write(self, text: str) -> int:
        """Write a text, or handle the loss of the stream."""
        try:
            return self.stream.write(text)
        except OSError as e:
            self._lose(e)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line, or handle the loss of the stream."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream, or handle its loss."""
        try:
            self.stream.flush()
        except OSError as e:
            self._lose(e)

    def end(self) -> None:
        """Print what was held back until the verb's end: nothing."""

    def finish(self) -> None:
        """Flush or discard the buffer, which the interpreter would write, and fail, at its end."""
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
        if self is sys.stdout:
            sys.stderr.write(
                f"warning: stdout cannot be written ({error.strerror}): the work goes on without "
                "it\n"
            )

    def _discard(self) -> None:
        """Send all later output, and what is in the buffers, to the null device."""
        with suppress(OSError, ValueError):  # the stream may be no file
            null_device = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_device, self.stream.fileno())
            os.close(null_device)
            self.stream.flush()


class QuietStream(Stream):
    """Replacement of stdout that prints warnings at once and, of all other lines, the last.

    Args:
        stream: the stream to write to.
        required: whether the loss ends the verb.
    """

    _begun = ""
    _last = ""

    def write(self, text: str) -> int:
        """Write the warnings in a text; keep its last complete line."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.startswith("warning:"):
                super().write(f"{line}\n")
            elif line:
                self._last = line
        return len(text)

    def end(self) -> None:
        """Print the last line."""
        if last := self._begun or self._last:
            super().write(f"{last}\n")


def is_quiet() -> bool:
    """Tell whether the user has asked for warnings and the last line only."""
    return QUIET in os.environ


@contextmanager
def guarded() -> Iterator[None]:
    """Guard stdout and stderr.

    Raises:
        OutputLost: stdout was required and is lost.
    """
    former_out = sys.stdout
    former_err = sys.stderr
    sys.stdout = (QuietStream if is_quiet() else Stream)(former_out, required=True)
    sys.stderr = Stream(former_err, required=False)
    try:
        try:
            yield
        except SystemExit:  # raised by --help
            sys.stdout.flush()
            raise
        if isinstance(sys.stdout, Stream):
            sys.stdout.end()
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


class TorchLine(MetaPathFinder):
    """Import hook that prints one line on stderr when torch begins to be imported, which is slow.

    Args:
        text: the line.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Print the line for torch, once; find nothing."""
        if name == "torch" and self in sys.meta_path:
            sys.meta_path.remove(self)
            with suppress(OSError):
                print(self.text, file=sys.stderr, flush=True)


def tell_of_torch(argv: list[str], env: Mapping[str, str]) -> None:
    """Let the first rank say that it imports torch, unless the command line asks for silence.

    Args:
        argv: the command line, the verb first.
        env: environment of the process.
    """
    is_first = SUPERVISED not in env and all(env.get(name, "0") == "0" for name in RANKED)
    if "-q" in argv or "--quiet" in argv or not is_first:
        return
    has_recipe = argv[:1] in (["fit"], ["validate"], ["test"])
    text = "reading the recipe, importing torch ..." if has_recipe else "importing torch ..."
    sys.meta_path.insert(0, TorchLine(text))


def torch_begins() -> None:
    """Print the line of `tell_of_torch` now, because other processes begin to import torch."""
    for hook in list(sys.meta_path):
        if isinstance(hook, TorchLine):
            hook.find_spec("torch")


def report_only() -> None:
    """Declare that further output of this verb is no result, so its loss does not end the verb."""
    if isinstance(sys.stdout, Stream):
        sys.stdout.required = False


def open_closed_streams() -> None:
    """Give this process the standard streams that it was started without (`>&-`).

    Otherwise the next files that are opened would take their places, and output would go to these
    files. The null device is opened for reading only, so that a verb notices that its result cannot
    be printed.
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
