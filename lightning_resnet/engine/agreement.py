"""How ranks agree to save or to stop at the same step, without waiting for one another in every step.

Each rank adds its wish to a reduction that runs in the background (gloo, on the CPU); all look at the outcome the same
number of steps later. How many that is follows from the fastest rank's speed, so that it is about half a second.
"""

import time
from datetime import timedelta

import torch
from torch import distributed as dist

PERIOD_S = 0.5  # between two reductions: a stop takes up to twice as long
NOTHING, SAVE, STOP, SUPERSEDED = 0, 1, 2, 1000  # wishes, the strongest wins; STOP + n is to stop by signal n


class Agreement:
    """Among all ranks; alone, a rank agrees with itself.

    Args:
        timeout_s: after which a rank that does not answer ends the others.
    """

    def __init__(self, timeout_s: float) -> None:
        self._group = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._wishes, self._work, self._until, self._start = torch.zeros(2), None, 0, time.monotonic()
        self._interval = 1

    def check(self, wish: int) -> int:
        """The strongest wish of all ranks, as far as it is known; every rank must call equally often.

        Args:
            wish: this rank's, until it is granted.
        """
        if self._group is None:
            return wish
        self._until -= 1
        if self._until > 0:
            return NOTHING
        granted = self._finish()
        now = time.monotonic()
        rate = self._interval / max(1e-6, now - self._start)
        self._start = now
        pending = wish if wish > granted else NOTHING  # what is granted need not be asked for again
        self._wishes = torch.tensor([float(pending), rate])
        self._work = dist.all_reduce(self._wishes, dist.ReduceOp.MAX, self._group, async_op=True)
        self._until = self._interval
        return granted

    def now(self, wish: int) -> int:
        """The strongest wish of all ranks; waits for them."""
        if self._group is None:
            return wish
        strongest = torch.tensor(wish)
        dist.all_reduce(strongest, dist.ReduceOp.MAX, self._group)
        return int(strongest)

    def close(self) -> None:
        """Leave nothing under way."""
        self._finish()

    def _finish(self) -> int:
        if self._work is None:
            return NOTHING
        self._work.wait()
        self._work = None
        # at most twice as many as before: a few calls in a row, as after an evaluation, say little of the speed
        self._interval = max(1, min(2 * self._interval, int(self._wishes[1] * PERIOD_S)))
        return int(self._wishes[0])
