"""Tells which limit of the shell (`ulimit`) an error comes from."""

import errno
import resource
from collections.abc import Iterator

MEMORY = ("failed to map segment", "cannot allocate memory", "can't allocate memory", "not enough memory")
THREADS = ("can't start new thread", "Resource temporarily unavailable")
NUMBERS = {
    errno.ENOMEM: "memory",
    errno.EMFILE: "files",
    errno.EFBIG: "file size",
    errno.EAGAIN: "processes",
}
LIMITS = {  # what is short: (name in `resource`, letter of `ulimit`, bytes in its unit, what it limits)
    "memory": [("RLIMIT_AS", "v", 1024, "address space"), ("RLIMIT_DATA", "d", 1024, "memory")],
    "files": [("RLIMIT_NOFILE", "n", 1, "open files")],
    "file size": [("RLIMIT_FSIZE", "f", 1024, "file size")],
    "processes": [("RLIMIT_NPROC", "u", 1, "processes and threads")],
}


def limit_met(error: BaseException | None) -> str | None:
    """Tell in one line, with the cure, which limit an error or what caused it comes from; None: from none."""
    for one in _causes(error):
        what = _short_of(one)
        if what is None:
            continue
        for name, letter, unit, noun in LIMITS[what]:
            limit = resource.getrlimit(getattr(resource, name))[0]
            if limit != resource.RLIM_INFINITY:
                return (
                    f"this shell's limit of {noun} (ulimit -{letter} {limit // unit}) is too low: raise it with "
                    f"`ulimit -{letter} unlimited`, or as far as `ulimit -H -{letter}` allows"
                )
        if what == "memory" and isinstance(one, MemoryError):
            return "out of memory: give this process more, or a smaller --data.batch_size"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _short_of(error: BaseException) -> str | None:
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
