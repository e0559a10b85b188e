"""Guard the standard streams, which a closed pipe or terminal or a full disk can make fail.

The output of a verb is its result, unless the verb calls `report_only`. A verb whose result cannot
be printed ends, with status 141 if the reader of a pipe has left, like programs that SIGPIPE ends.
A training only reports its progress on stdout and has its results in files, so it continues
without stdout. No verb ends because stderr is lost.
"""

import errno
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from typing import Any, TextIO

RANKED = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # 0 in the first rank
SUPERVISED = "LIGHTNING_RESNET_MEETING"  # set in ranks whose parent says that they begin
READER_GONE = 141  # 128 + SIGPIPE
# Variable that -q sets, also for the ranks: print warnings and the last line only, no progress.
QUIET = "LIGHTNING_RESNET_QUIET"
MOVES_S = 0.5  # seconds between two changes of the second line while torch is imported
ERASE = "\r\x1b[K"  # terminal's code: erase this line
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)  # a later write may succeed again

_moving: "list[TorchLine]" = []  # the second line that stands on the terminal, if any


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
        for line in [*_moving]:
            line.end()
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
        for line in [*_moving]:
            line.end()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Stream):
                stream.finish()
        sys.stdout = former_out
        sys.stderr = former_err


class TorchLine(MetaPathFinder):
    """Import hook that prints one line on stderr when torch begins to be imported, which is slow.

    On a terminal a second line follows, which tells the package that is being imported and for how
    long this has taken, until something else is printed.

    Args:
        text: the line; empty: another process has printed it.
        moves: whether the second line follows.
    """

    def __init__(self, text: str, moves: bool) -> None:
        self.text = text
        self.moves = moves
        self.doing = ""
        self._has_begun = False
        self._has_ended = threading.Event()
        self._is_shown = False
        self._writing = threading.Lock()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Note what is imported; find nothing."""
        if name == "torch":
            self.begin()
        self.doing = f"importing {name.partition('.')[0]}"

    def begin(self) -> None:
        """Print the line, once, and start the second one."""
        if self._has_begun:
            return
        self._has_begun = True
        with suppress(OSError):
            if self.text:
                print(self.text, file=sys.stderr, flush=True)
        if not self.moves:
            self.end()
            return
        _moving.append(self)
        self._stream = sys.stderr.stream if isinstance(sys.stderr, Stream) else sys.stderr
        threading.Thread(target=self._move, daemon=True).start()

    def end(self) -> None:
        """Take the second line away."""
        with self._writing:
            self._has_ended.set()
            if self._is_shown:
                self._show("")
            self._is_shown = False
        for hooks in (_moving, sys.meta_path):
            if self in hooks:
                hooks.remove(self)

    def _move(self) -> None:
        start = time.monotonic()
        while not self._has_ended.wait(MOVES_S):
            with self._writing:
                if not self._has_ended.is_set():
                    self._show(f"{self.doing}, {time.monotonic() - start:.0f} s")
                    self._is_shown = True

    def _show(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(f"{ERASE}{text}")
            self._stream.flush()


def tell_of_torch(argv: list[str], env: Mapping[str, str]) -> None:
    """Let the first rank say that it imports torch, unless the command line asks for silence.

    Args:
        argv: the command line, the verb first.
        env: environment of the process.
    """
    is_first = all(env.get(name, "0") == "0" for name in RANKED)
    moves = sys.stderr.isatty()
    if "-q" in argv or "--quiet" in argv or not is_first or (SUPERVISED in env and not moves):
        return
    has_recipe = argv[:1] in (["fit"], ["validate"], ["test"])
    text = "reading the recipe, importing torch ..." if has_recipe else "importing torch ..."
    sys.meta_path.insert(0, TorchLine("" if SUPERVISED in env else text, moves))


def torch_begins() -> None:
    """Print the line of `tell_of_torch` now, because other processes begin to import torch."""
    for hook in list(sys.meta_path):
        if isinstance(hook, TorchLine):
            hook.moves = False  # the first of the others has a second line
            hook.begin()


def now(doing: str) -> None:
    """Say on the second line of `TorchLine`, where it stands, what is done now."""
    for line in _moving:
        line.doing = doing


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
