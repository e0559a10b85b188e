"""Callbacks that make a rank misbehave."""

import os
import time

from pytorch_lightning.callbacks import Callback


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
