"""Does a mirror's work in a thread: a training waits neither for W&B's start, which takes seconds, nor for its rows."""

from importlib import import_module
from importlib.util import find_spec
from queue import SimpleQueue
from threading import Thread
from typing import Any

from lightning_resnet.tracking.mirror import FINISH_S, FORGET_S, START_S, Mirror
from lightning_resnet.tracking.mode import asked_for

PATIENCE_S = 5.0  # beyond what the mirror's own limits allow
LIMIT_S = 2 * START_S + FINISH_S + FORGET_S + PATIENCE_S  # online, then offline


class BackgroundMirror:
    """In front of a mirror, with its interface.

    Args:
        mirror: of one attempt at a run.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror, self._todo = mirror, SimpleQueue()
        self._thread = Thread(target=self._work, name="mirror", daemon=True)

    def start(self, *args: Any) -> None:
        """As `Mirror.start`; returns before it has."""
        if asked_for(self._mirror.options.mode) != "disabled" and find_spec("wandb"):
            import_module("wandb")  # here: a loader's worker that is forked meanwhile would have it half imported
        self._todo.put((self._mirror.start, args))
        self._thread.start()

    def record(self, row: Any) -> None:
        """As `Mirror.record`."""
        self._todo.put((self._mirror.record, (row,)))

    def finish(self, reason: str) -> None:
        """As `Mirror.finish`: waits until all is done, but not for ever."""
        self._todo.put((self._mirror.finish, (reason,)))
        self._todo.put((None, ()))
        self._thread.join(LIMIT_S)

    def _work(self) -> None:
        while (job := self._todo.get())[0]:
            job[0](*job[1])
