"""Run a mirror in a thread, so that a training waits neither for the start of W&B nor for rows."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from queue import SimpleQueue
from threading import Thread
from typing import Any

from lightning_resnet.tracking.mirror import FINISH_S, FORGET_S, START_S, Mirror
from lightning_resnet.tracking.mode import check_variables, needs_wandb

PATIENCE_S = 5.0  # seconds in addition to the mirror's own limits
LIMIT_S = 2 * START_S + FINISH_S + FORGET_S + PATIENCE_S  # two starts: online, then offline


class BackgroundMirror:
    """Mirror whose methods return at once and do their work in a thread.

    Args:
        mirror: mirror of one attempt at a run.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="mirror", daemon=True)

    def start(self, *args: Any) -> None:
        """Begin `Mirror.start`, and return before it has ended."""
        if needs_wandb(self._mirror.options.mode):
            # Import wandb before the thread starts: a loader's worker that is forked during the
            # import would have half of the module. `Mirror.start` tells why it cannot be imported.
            with suppress(Exception):
                check_variables()
                import_module("wandb")
        self._calls.put(partial(self._mirror.start, *args))
        self._thread.start()

    def record(self, row: Any) -> None:
        """Queue `Mirror.record` for the thread, and return at once."""
        self._calls.put(partial(self._mirror.record, row))

    def finish(self, reason: str) -> None:
        """Begin `Mirror.finish`, and wait until all calls have ended, at most `LIMIT_S` seconds."""
        self._calls.put(partial(self._mirror.finish, reason))
        self._calls.put(None)
        with suppress(RuntimeError):  # a signal came before the thread was started
            self._thread.join(LIMIT_S)

    def _work(self) -> None:
        """Make the calls in order, until None."""
        while call := self._calls.get():
            call()
