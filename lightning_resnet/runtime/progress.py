"""How a training, or other long work, shows itself: a bar on a terminal, one line every few seconds in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

LINE_S = 15.0  # seconds between lines in a log file
BAR_S = 1.0  # after which the bar of what may be short appears
Item = TypeVar("Item")


class Progress:
    """Progress over optimizer steps."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.bar: tqdm | None = None

    def start(self, step: int, total: int) -> None:
        """Begin at `step` of `total`."""
        self.total = total
        self._first, self._t0 = step, time.monotonic()
        self._next = self._t0 + LINE_S
        if sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True)

    def update(self, step: int) -> None:
        """`step` steps are done."""
        if self.bar:
            self.bar.update(step - self.bar.n)
        elif time.monotonic() >= self._next or step == self.total:
            self._next = time.monotonic() + LINE_S
            seconds = (time.monotonic() - self._t0) / max(1, step - self._first) * (self.total - step)
            eta = f"ETA {int(seconds) // 3600}:{int(seconds) % 3600 // 60:02}:{int(seconds) % 60:02}"
            print(f"step {step}/{self.total}  {self._text()}  {eta}", flush=True)

    def show(self, metrics: dict[str, float]) -> None:
        """The newest values, to appear with the next line."""
        self.metrics |= metrics
        if self.bar:
            self.bar.set_postfix_str(self._text())

    def stop(self) -> None:
        """Leave the terminal in order."""
        if self.bar:
            self.bar.close()

    def _text(self) -> str:
        shown = {
            "train/loss": "loss {:.3f}",
            "train/acc1": "acc {:.3f}",
            "val/acc1": "val acc {:.4f}",
            "perf/images_per_s": "{:.0f} images/s",
        }
        return "  ".join(text.format(self.metrics[k]) for k, text in shown.items() if k in self.metrics)


class Meter:
    """Images dealt with: a bar on a terminal, else a line every few seconds."""

    def __init__(self, first: int, total: int, show: bool) -> None:
        bar = show and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=first, unit=" images", dynamic_ncols=True) if bar else None
        self._show, self._first, self._done, self._total = show, first, first, total
        self._start = self._last = time.monotonic()

    def update(self, n: int) -> None:
        """So many more are done."""
        self._done += n
        if self._bar:
            self._bar.update(n)
        elif self._show and (time.monotonic() - self._last >= LINE_S or self._done == self._total):
            self._last = time.monotonic()
            rate = (self._done - self._first) / max(1e-3, self._last - self._start)
            eta = f"ETA {(self._total - self._done) / rate / 60:.1f} min"
            print(f"{self._done:,} of {self._total:,} images  {rate:,.0f} images/s  {eta}", flush=True)

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar:
            self._bar.close()


def metered(items: Iterable[Item], total: int, unit: str) -> Iterator[Item]:
    """The same items; what takes long shows on stderr how far it is: a passing bar on a terminal, else lines.

    Args:
        items: to deal with one by one.
        total: number of them.
        unit: what they are, in the plural.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, unit=f" {unit}", dynamic_ncols=True, delay=BAR_S, leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        if done and time.monotonic() - last >= LINE_S:
            last = time.monotonic()
            eta = (last - start) / done * (total - done) / 60
            rate = done / (last - start)
            print(f"{done:,} of {total:,} {unit}  {rate:,.1f}/s  ETA {eta:.1f} min", file=sys.stderr, flush=True)
        yield item
