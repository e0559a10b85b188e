"""When a rank fails or hangs, it says where: `attempts/<n>.rank<r>.txt` in the run directory.

A rank that makes no step for `hang_s` seconds writes the stacks of its threads there and ends, which ends the others.
"""

import faulthandler
import time
import traceback
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import distributed as dist

from lightning_resnet.errors import one_line
from lightning_resnet.files import write_whole
from lightning_resnet.masking import mask
from lightning_resnet.provenance import versions
from lightning_resnet.runs.status import last_attempt

WRITE_S = 1.0  # for the rank that failed to write its report
FIRST_S = 5.0  # that the first rank waits longer: it sees the others end, and records it


def report_path(run: Path, rank: int) -> Path:
    """Of the newest attempt."""
    attempt = last_attempt(run)
    return run / "attempts" / f"{attempt['attempt'] if attempt else 0}.rank{rank}.txt"


def report(run: Path, rank: int, step: int, error: BaseException) -> None:
    """Write down what happened; no other rank is waited for."""
    text = mask("".join(traceback.format_exception(error)))
    known = ", ".join(f"{k} {v}" for k, v in versions().items())
    try:
        write_whole(
            report_path(run, rank), f"rank {rank} failed after step {step}\n{known}\n\n{text}"
        )
    except OSError:  # a full disk must not hide the error itself
        pass


def is_consequence(error: BaseException) -> bool:
    """Whether it only says that another rank is gone."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def cause(run: Path, size: int, error: BaseException, kept: bool = True) -> str:
    """Tell, in a rank that lost another, which one, and why, as far as it wrote it down.

    Args:
        run: directory of the run.
        size: number of ranks.
        error: by which this one noticed.
        kept: whether the directory stays, and what a rank wrote down can be read there.
    """
    time.sleep(WRITE_S)
    for rank in range(size):
        if (path := report_path(run, rank)).exists() and (text := path.read_text().strip()):
            return f"rank {rank} failed: {text.splitlines()[-1]}" + f" ({path})" * kept
    told = f"as when it is killed, or is out of reach ({one_line(error)[:200]})"
    return f"another rank ended without a word, {told}"


class Watchdog(Callback):
    """Ends a rank that makes no step.

    Args:
        run: directory of the run.
        hang_s: seconds it is given for a step.
    """

    def __init__(self, run: Path, hang_s: float) -> None:
        self.run, self.hang_s = run, hang_s

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Begin."""
        if trainer.is_global_zero:
            self.hang_s += FIRST_S
        self.path = report_path(self.run, trainer.global_rank)
        self._file, self._armed = self.path.open("w"), 0.0
        self.alive()

    def alive(self, *args: Any) -> None:
        """A step was made."""
        if time.monotonic() - self._armed > min(1.0, self.hang_s / 4):
            self._armed = time.monotonic()
            faulthandler.dump_traceback_later(self.hang_s, exit=True, file=self._file)

    on_train_batch_end = on_validation_batch_end = on_test_batch_end = on_train_epoch_end = alive

    def close(self) -> None:
        """The training has ended, one way or another."""
        faulthandler.cancel_dump_traceback_later()
        if hasattr(self, "_file"):
            self._file.close()
            if self.path.exists() and not self.path.stat().st_size:
                self.path.unlink()
