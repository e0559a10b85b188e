"""Find the limit of the shell (`ulimit`) that an error comes from."""

import errno
import resource
from collections.abc import Iterator

MEMORY = (
    "failed to map segment",
    "cannot allocate memory",
    "can't allocate memory",
    "not enough memory",
)
THREADS = ("can't start new thread", "Resource temporarily unavailable")
NUMBERS = {
    errno.ENOMEM: "memory",
    errno.EMFILE: "files",
    errno.EFBIG: "file size",
    errno.EAGAIN: "processes",
}
# What is short -> (name in `resource`, letter of `ulimit`, bytes in its unit, what it limits).
LIMITS = {
    "memory": [("RLIMIT_AS", "v", 1024, "address space"), ("RLIMIT_DATA", "d", 1024, "memory")],
    "files": [("RLIMIT_NOFILE", "n", 1, "open files")],
    "file size": [("RLIMIT_FSIZE", "f", 1024, "file size")],
    "processes": [("RLIMIT_NPROC", "u", 1, "processes and threads")],
}


def limit_met(error: BaseException | None) -> str | None:
    """Describe in one line the limit that an error, or its cause, comes from, with the cure.

    Returns:
        The message; None if the error comes from no limit.
    """
    for cause in _causes(error):
        what = _short_of(cause)
        if what is None:
            continue
        for name, letter, unit, noun in LIMITS[what]:
            limit = resource.getrlimit(getattr(resource, name))[0]
            if limit != resource.RLIM_INFINITY:
                return (
                    f"this shell's limit of {noun} (ulimit -{letter} {limit // unit}) is too low: "
                    f"raise it with `ulimit -{letter} unlimited`, or as far as `ulimit -H "
                    f"-{letter}` allows"
                )
        if what == "memory" and isinstance(cause, MemoryError):
            return "out of memory: give this process more, or a smaller --data.batch_size"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _short_of(error: BaseException) -> str | None:
    """Return what an error says is short, a key of `LIMITS`; None for other errors."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in NUMBERS:
        return NUMBERS[error.errno]
    if isinstance(error, (ImportError, OSError, RuntimeError)):
        text = str(error)
        if any(words in text for words in MEMORY):
            return "memory"
        if any(words in text for words in THREADS):
            return "processes"
        if "Too many open files" in text:
            return "files"
    return None
