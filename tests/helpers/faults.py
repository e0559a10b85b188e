"""Trainings that end with an exception, and callbacks that make a rank misbehave."""

import os
import time
from contextlib import contextmanager

import pytest
from pytorch_lightning.callbacks import Callback

from lightning_resnet.training.task import ClassificationTask


class Stop(Exception):
    pass


@contextmanager
def dies_at_step(step):
    """Let a training raise `Stop` before one of its steps."""
    original = ClassificationTask.training_step

    def dying(self, batch, batch_idx):
        if self.global_step == step:
            raise Stop
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", dying)
        yield


class Raises(Callback):
    def __init__(self, rank: int, step: int):
        self.rank, self.step = rank, step

    def on_train_batch_end(self, trainer, *args):
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step):
            self.act()

    def act(self):
        raise RuntimeError("a fault of this rank alone")


class Hangs(Raises):
    def act(self):
        time.sleep(3600)


class Dies(Raises):
    def act(self):
        os._exit(17)
