"""How ranks agree to save or to stop at the same step, without waiting for one another in every step.

Each rank adds its wish to a reduction that runs in the background (gloo, on the CPU). All ranks look at the outcome the
same number of steps later. That number follows from the fastest rank's speed, so that it is about half a second.
"""

import time
from datetime import timedelta
from enum import IntEnum

import torch
from torch import distributed as dist

PERIOD_S = 0.5  # between two reductions: a stop takes up to twice as long


class Wish(IntEnum):
    """What a rank wants; of the wishes of several ranks, the highest counts."""

    NOTHING = 0
    SAVE = 1
    STOP = 2  # save and end, because of a signal
    GIVE_WAY = 3  # end without saving, because a newer attempt has the run


class Agreement:
    """An agreement among all ranks; a rank that is alone agrees with itself.

    Args:
        timeout_s: seconds after which a rank that does not answer ends the others.
    """

    def __init__(self, timeout_s: float) -> None:
        self._group = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._reduced = torch.zeros(3)  # wish, signal, calls per second
        self._work: dist.Work | None = None
        self._calls_left = 0  # until the outcome is looked at
        self._interval = 1  # calls between two reductions
        self._start = time.monotonic()

    def check(self, wish: Wish, signum: int = 0) -> tuple[Wish, int]:
        """Return the highest wish and signal of all ranks, as far as they are known.

        Every rank must call this equally often.

        Args:
            wish: what this rank wants, until it is granted.
            signum: number of the signal that asks this rank to stop, else 0.
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
        if wish <= granted[0]:  # what is granted need not be asked for again
            wish = Wish.NOTHING
        self._reduced = torch.tensor([float(wish), float(signum), rate])
        self._work = dist.all_reduce(self._reduced, dist.ReduceOp.MAX, self._group, async_op=True)
        self._calls_left = self._interval
        return granted

    def check_now(self, wish: Wish, signum: int = 0) -> tuple[Wish, int]:
        """Return the highest wish and signal of all ranks, after waiting for them."""
        return Wish(self.maximum(wish)), self.maximum(signum)

    def maximum(self, number: int) -> int:
        """Return the largest number of all ranks, after waiting for them."""
        if self._group is None:
            return number
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX, self._group)
        return int(largest)

    def close(self) -> None:
        """Wait for the reduction under way."""
        self._finish()

    def _finish(self) -> tuple[Wish, int]:
        if self._work is None:
            return Wish.NOTHING, 0
        self._work.wait()
        self._work = None
        wish, signum, rate = self._reduced.tolist()
        # at most twice as many as before: a few calls in a row, as after an evaluation, say little of the speed
        self._interval = max(1, min(2 * self._interval, int(rate * PERIOD_S)))
        return Wish(int(wish)), int(signum)
