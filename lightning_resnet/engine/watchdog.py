"""End a rank that hangs, and write crash reports: `attempts/<n>.rank<r>.txt` in the run directory.

A rank that makes no step for `hang_s` seconds writes the stacks of its threads to the report and
ends, which ends the other ranks. The timer of faulthandler works even if Python itself hangs, but
runs on while a process is stopped. The only rank of a training therefore takes the timer down when
SIGTSTP asks it to stop: Ctrl-Z sends that, and Slurm before it suspends a job, as its manual says.
Several ranks do not, because the collectives between them have time limits too.
"""

import faulthandler
import os
import signal
import threading
import time
import traceback
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import distributed as dist

from lightning_resnet.errors import one_line
from lightning_resnet.files import write_atomic
from lightning_resnet.masking import mask
from lightning_resnet.provenance import versions
from lightning_resnet.runs.directory import RunDir
from lightning_resnet.runs.status import LOST

WRITE_S = 1.0  # seconds that a rank that failed has to write its report
FIRST_S = 5.0  # seconds that the first rank waits longer, so that it can record the others' end


def write_crash_report(rundir: RunDir, rank: int, step: int, error: BaseException) -> None:
    """Write the crash report of this rank, without waiting for other ranks.

    Args:
        rundir: directory of the run.
        rank: global rank of this process.
        step: optimizer steps done.
        error: the error that ended the rank.
    """
    text = mask("".join(traceback.format_exception(error)))
    known = ", ".join(f"{k} {v}" for k, v in versions().items())
    try:
        write_atomic(
            rundir.report_file(rank, rundir.number),
            f"rank {rank} failed after step {step}\n{known}\n\n{text}",
        )
    except OSError:  # a full disk must not hide the error that is reported
        pass


def is_consequence(error: BaseException) -> bool:
    """Tell whether an error only says that another rank is gone."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def cause(rundir: RunDir, size: int, error: BaseException) -> str:
    """Describe how another rank failed, by the first crash report in the order of the ranks.

    This is called in a rank whose own error is a consequence of the failure.

    Args:
        rundir: directory of the run; the message names the report's path if the directory stays.
        size: world size.
        error: error by which this rank noticed the failure.
    """
    time.sleep(WRITE_S)
    for rank in range(size):
        path = rundir.report_file(rank, rundir.number)
        if path.exists() and (text := path.read_text().strip()):
            where = f" ({path})" if rundir.is_kept else ""
            return f"rank {rank} failed: {text.splitlines()[-1]}{where}"
    told = f"as when it is killed, or is out of reach ({one_line(error)[:200]})"
    return f"{LOST}, {told}"


class Watchdog(Callback):
    """Callback that ends a rank that makes no step, and writes the stacks of its threads.

    Args:
        rundir: directory of the run.
        hang_s: seconds that a rank has for a step.
    """

    def __init__(self, rundir: RunDir, hang_s: float) -> None:
        self.rundir = rundir
        self.hang_s = hang_s

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Open the crash report, and start the timer."""
        if trainer.is_global_zero:
            self.hang_s += FIRST_S
        self.path = self.rundir.report_file(trainer.global_rank, self.rundir.number)
        self._file = self.path.open("w")
        self._armed = 0.0
        self._pid = os.getpid()
        self.alive()
        in_main_thread = threading.current_thread() is threading.main_thread()
        is_alone = trainer.world_size == 1 and in_main_thread
        if is_alone and signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._stop)

    def _stop(self, *args: Any) -> None:
        """Stop this process until it is continued; that time is none of `hang_s`.

        Worker processes inherit this signal handler, and no timer.
        """
        has_timer = os.getpid() == self._pid
        if has_timer:
            faulthandler.cancel_dump_traceback_later()
        os.kill(os.getpid(), signal.SIGSTOP)
        if has_timer:
            self._armed = 0.0
            self.alive()

    def alive(self, *args: Any) -> None:
        """Restart the timer, at most once per second or per quarter of `hang_s`."""
        if time.monotonic() - self._armed > min(1.0, self.hang_s / 4):
            self._armed = time.monotonic()
            faulthandler.dump_traceback_later(self.hang_s, exit=True, file=self._file)

    on_train_batch_end = on_validation_batch_end = on_test_batch_end = on_train_epoch_end = alive

    def close(self) -> None:
        """Stop the timer, and remove the crash report if it is empty."""
        faulthandler.cancel_dump_traceback_later()
        if hasattr(self, "_file"):
            if signal.getsignal(signal.SIGTSTP) == self._stop:
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            self._file.close()
            if self.path.exists() and not self.path.stat().st_size:
                self.path.unlink()
