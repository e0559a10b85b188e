"""Let ranks agree to save or to stop at the same step, without a synchronization in every step.

Each rank contributes its wish to an all-reduce that runs in the background (gloo, on the CPU). All
ranks read the result the same number of steps later. The number of steps follows from the speed of
the fastest rank, so that about half a second passes between two reductions.
"""

import time
from datetime import timedelta
from enum import IntEnum

import torch
from torch import distributed as dist

PERIOD_S = 0.5  # seconds between two reductions; a stop takes up to twice as long


class Wish(IntEnum):
    """Request of a rank; if several ranks have one, the highest value counts."""

    NOTHING = 0
    SAVE = 1
    STOP = 2  # save and end, because of a signal
    GIVE_WAY = 3  # end without saving, because a newer attempt has taken over the run


class Agreement:
    """Agreement of all ranks on what to do next; with one rank, its own wish is granted at once.

    All ranks must make the object, and must call its methods in the same order.

    Args:
        timeout_s: seconds that a rank waits for the others in a collective before it raises an
            error.
    """

    def __init__(self, timeout_s: float) -> None:
        self._group = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._reduced = torch.zeros(3)  # wish, signal, calls per second
        self._work: dist.Work | None = None
        self._calls_left = 0  # calls of `check` until the result is read
        self._interval = 1  # calls of `check` between two reductions
        self._start = time.monotonic()

    def check(self, wish: Wish, signum: int = 0) -> tuple[Wish, int]:
        """Return what all ranks agreed on, and start the next reduction when one is due.

        Every rank must call this method equally often.

        Args:
            wish: what this rank wants; pass the same wish again until it is granted.
            signum: number of the signal that asks this rank to stop, else 0.

        Returns:
            The highest wish and the highest signal number of all ranks in the last reduction; in
            calls between two reductions, `Wish.NOTHING` and 0.
        """
        if self._group is None:
            return wish, signum
        self._calls_left -= 1
        if self._calls_left > 0:
            return Wish.NOTHING, 0
        granted = self._finish()
        now = time.monotonic()
        rate = self._interval / max(1e-6, now - self._start)
        self._start = now
        if wish <= granted[0]:  # this wish is granted now; do not request it a second time
            wish = Wish.NOTHING
        self._reduced = torch.tensor([float(wish), float(signum), rate])
        self._work = dist.all_reduce(self._reduced, dist.ReduceOp.MAX, self._group, async_op=True)
        self._calls_left = self._interval
        return granted

    def check_now(self, wish: Wish, signum: int = 0) -> tuple[Wish, int]:
        """Wait for all ranks, and return their highest wish and their highest signal number."""
        return Wish(self.maximum(wish)), self.maximum(signum)

    def maximum(self, number: int) -> int:
        """Wait for all ranks, and return the largest of their numbers."""
        if self._group is None:
            return number
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX, self._group)
        return int(largest)

    def close(self) -> None:
        """Wait until the running reduction has ended."""
        self._finish()

    def _finish(self) -> tuple[Wish, int]:
        """Wait for the running reduction, set the next interval, and return the granted wish."""
        if self._work is None:
            return Wish.NOTHING, 0
        self._work.wait()
        self._work = None
        wish, signum, rate = self._reduced.tolist()
        # At most twice the last interval: a few calls in quick succession, such as those after an
        # evaluation, would overestimate the speed.
        self._interval = max(1, min(2 * self._interval, int(rate * PERIOD_S)))
        return Wish(int(wish)), int(signum)
