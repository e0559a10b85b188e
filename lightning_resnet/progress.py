"""How a training, or other long work, shows itself: a bar on a terminal, one line every few seconds in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TypeVar

from tqdm import tqdm

LINE_S = 15.0  # seconds between lines in a log file
BAR_S = 1.0  # seconds after which a bar appears: of what is short there is none
SHOWN = {  # metrics of a training, and how they look
    "train/loss": "loss {:.3f}",
    "train/acc1": "acc {:.3f}",
    "val/acc1": "val acc {:.4f}",
    "perf/images_per_s": "{:.0f} images/s",
}
Item = TypeVar("Item")


class Progress:
    """Progress over optimizer steps.

    Args:
        show: whether to print; not beside a bar that the user chose.
    """

    def __init__(self, show: bool = True) -> None:
        self.shows = show
        self.metrics: dict[str, float] = {}
        self.bar: tqdm | None = None

    def start(self, step: int, total: int) -> None:
        """Begin at `step` of `total`."""
        self.total = total
        self._first, self._t0 = step, time.monotonic()
        self._next = self._t0 + LINE_S
        if self.shows and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True)

    def update(self, step: int) -> None:
        """`step` steps are done."""
        if self.bar:
            self.bar.update(step - self.bar.n)
        elif self.shows and (time.monotonic() >= self._next or step == self.total):
            self._next = time.monotonic() + LINE_S
            seconds = (time.monotonic() - self._t0) / max(1, step - self._first) * (self.total - step)
            print(f"step {step}/{self.total}  {self._text()}  {_eta(seconds)}", flush=True)

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
        return "  ".join(text.format(self.metrics[k]) for k, text in SHOWN.items() if k in self.metrics)


class Meter:
    """How far long work is, on stderr: a passing bar on a terminal, else a line every few seconds.

    Args:
        total: to be dealt with.
        unit: what it is, in the plural; B: bytes.
        first: dealt with before.
        show: whether it is for this process to tell.
    """

    def __init__(self, total: int, unit: str, first: int = 0, show: bool = True) -> None:
        self._show, self._first, self._done, self._total, self._bar = show, first, first, total, None
        self._per, self._unit = (1e6, "MB") if unit == "B" else (1, unit)
        self._start = self._last = time.monotonic()
        if show and sys.stderr.isatty():
            unit = {"unit": "B", "unit_scale": True} if unit == "B" else {"unit": f" {unit}"}
            self._bar = tqdm(total=total, initial=first, **unit, dynamic_ncols=True, delay=BAR_S, leave=False)

    def update(self, n: int) -> None:
        """So much more is done."""
        self._done += n
        if self._bar:
            self._bar.update(n)
        elif self._show and self._done < self._total and time.monotonic() - self._last >= LINE_S:
            self._last = time.monotonic()
            rate = max(1e-9, self._done - self._first) / max(1e-9, self._last - self._start)
            done, total, per_s = self._done / self._per, self._total / self._per, rate / self._per
            eta = _eta((self._total - self._done) / rate)
            text = f"{done:,.0f} of {total:,.0f} {self._unit}  {per_s:,.1f}/s  {eta}"
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar:
            self._bar.close()


def _eta(seconds: float) -> str:
    """As hours:minutes:seconds."""
    return f"ETA {int(seconds) // 3600}:{int(seconds) % 3600 // 60:02}:{int(seconds) % 60:02}"


def metered(items: Iterable[Item], total: int, unit: str, show: bool = True) -> Iterator[Item]:
    """The same items; see `Meter`.

    Args:
        items: to deal with one by one.
        total: number of them.
        unit: what they are, in the plural.
        show: whether it is for this process to tell.
    """
    with closing(Meter(total, unit, show=show)) as meter:
        for item in items:
            yield item
            meter.update(1)
