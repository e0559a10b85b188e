"""Show the progress of long work: a bar on a terminal, one line every few seconds in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TypeVar

from tqdm import tqdm

from lightning_resnet.console import is_quiet

LINE_S = 15.0  # seconds between lines in a log file
BAR_S = 1.0  # seconds after which a bar appears, so that short work has none
SHOWN = {  # metrics of a training, with their format
    "train/loss": "loss {:.3f}",
    "train/acc1": "train error {:.1f} %",
    "val/acc1": "val error {:.1f} %",
    "perf/images_per_s": "{:.0f} images/s",
}
SPLITS = {"train_eval": "clean train", "val_ema": "val ema", "test_ema": "test ema"}  # in words
Item = TypeVar("Item")


class Progress:
    """Progress of a training in optimizer steps.

    Args:
        show: whether to print; False where the user has chosen another progress bar.
    """

    def __init__(self, show: bool = True) -> None:
        self.shows = show and not is_quiet()
        self.metrics: dict[str, float] = {}
        self.bar: tqdm | None = None
        self._step = 0
        self._evaluated_at = 0  # step of the newest evaluation

    def start(self, step: int, total: int) -> None:
        """Start to show progress.

        Args:
            step: optimizer steps done before.
            total: optimizer steps of the full training.
        """
        self.total = total
        self._step = step
        self._first_step = step
        self._begun_at = step
        self._start = time.monotonic()
        self._next_line = self._start  # the first loss is shown at once
        if self.shows and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True)

    def update(self, step: int) -> None:
        """Show that `step` optimizer steps are done.

        The first step also starts threads and compiles, so it says nothing about the steps to come.
        """
        self._step = step
        if self.bar:
            self.bar.update(step - self.bar.n)
            if self.is_due():
                self._next_line = time.monotonic() + LINE_S
            return
        if not self.shows or step == self._first_step:
            return
        now = time.monotonic()
        if now >= self._next_line or step == self.total:
            self._next_line = now + LINE_S
            line = f"step {step}/{self.total}  {self._text()}"
            if self._begun_at > self._first_step:
                seconds_per_step = (now - self._start) / max(1, step - self._begun_at)
                line += f"  {_eta(seconds_per_step * (self.total - step))}"
            print(line, flush=True)
        if self._begun_at == self._first_step:
            self._begun_at = step
            self._start = now

    def is_due(self) -> bool:
        """Tell whether the next update shows new metrics, after `LINE_S` seconds."""
        return self.shows and time.monotonic() >= self._next_line

    def show(self, metrics: dict[str, float]) -> None:
        """Show the newest values of metrics, in a log file with the next line."""
        self.metrics |= metrics
        if "val/acc1" in metrics:
            self._evaluated_at = self._step
        if self.bar:
            self.bar.set_postfix_str(self._text())

    def stop(self) -> None:
        """Close the bar, which leaves the terminal in order."""
        if self.bar:
            self.bar.close()

    def _text(self) -> str:
        """Return the newest metrics in one line, with the step of an earlier evaluation."""
        texts = []
        for key, text in SHOWN.items():
            if key not in self.metrics:
                continue
            shown = text.format(percent_wrong(key, self.metrics[key]))
            if key == "val/acc1" and self._evaluated_at < self._step:
                shown += f" at step {self._evaluated_at}"
            texts.append(shown)
        return "  ".join(texts)


def percent_wrong(key: str, value: float) -> float:
    """Return an accuracy in [0, 1] as error in percent, and any other metric as it is."""
    return 100 * (1 - value) if key.endswith(("/acc1", "/acc5")) else value


def in_words(metrics: dict[str, float]) -> str:
    """Return metrics of evaluations in one line, such as `val error 10.56 %  val loss 0.3921`."""
    texts = []
    for key, value in metrics.items():
        split, _, name = key.partition("/")
        named = {"acc1": "error {:.2f} %", "acc5": "top-5 error {:.2f} %", "loss": "loss {:.4f}"}
        text = named.get(name, f"{name} {{:.4f}}").format(percent_wrong(key, value))
        texts.append(f"{SPLITS.get(split, split)} {text}")
    return "  ".join(texts)


class Meter:
    """Progress of long work on stderr: a bar on a terminal, otherwise a line every few seconds.

    The bar disappears when the work is done. The first update also waits for what has to start, so
    it says nothing about the pace.

    Args:
        total: amount of all work.
        unit: unit of the amount, in the plural; B: bytes.
        first: amount that was done before.
        show: whether this process shows the progress.
    """

    def __init__(self, total: int, unit: str, first: int = 0, show: bool = True) -> None:
        self._show = show and not is_quiet()
        self._first = first
        self._done = first
        self._total = total
        self._in_bytes = unit == "B"
        self._unit = "MB" if self._in_bytes else unit
        self._begun_at: float | None = None  # time of the first update
        self._last_line = time.monotonic()
        self._bar: tqdm | None = None
        if self._show and sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                initial=first,
                unit="B" if self._in_bytes else f" {unit}",
                unit_scale=self._in_bytes,
                dynamic_ncols=True,
                delay=BAR_S,
                leave=False,
            )

    def update(self, n: int) -> None:
        """Show that `n` more are done."""
        self._done += n
        if self._bar:
            self._bar.update(n)
            return
        now = time.monotonic()
        if self._begun_at is None:
            self._begun_at = now
            self._first = self._done
        if self._show and self._done < self._total and now - self._last_line >= LINE_S:
            self._last_line = now
            scale = 1e6 if self._in_bytes else 1
            amount = f"{self._done / scale:,.0f} of {self._total / scale:,.0f} {self._unit}"
            # One write, so that no interrupt falls between a line and its end.
            print(f"{amount}{self._pace(now)}\n", end="", file=sys.stderr, flush=True)

    def _pace(self, now: float) -> str:
        """Return the amount per second and the remaining time; empty after the first update."""
        if self._done == self._first:
            return ""
        rate = (self._done - self._first) / max(1e-9, now - self._begun_at)
        eta = _eta((self._total - self._done) / rate)
        pace = f"{rate / 1e3:,.0f} kB/s" if self._in_bytes else f"{rate:,.1f}/s"
        return f"  {pace}  {eta}"

    def close(self) -> None:
        """Close the bar, which leaves the terminal in order."""
        if self._bar:
            self._bar.close()


def _eta(seconds: float) -> str:
    """Return the remaining time as `ETA hours:minutes:seconds`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"ETA {minutes // 60}:{minutes % 60:02}:{rest:02}"


def metered(items: Iterable[Item], total: int, unit: str, show: bool = True) -> Iterator[Item]:
    """Yield the items and show how many are done; see `Meter`.

    Args:
        items: items to work on one by one.
        total: number of items.
        unit: what the items are, in the plural.
        show: whether this process shows the progress.
    """
    with closing(Meter(total, unit, show=show)) as meter:
        for item in items:
            yield item
            meter.update(1)
