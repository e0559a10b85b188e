"""Learning rate schedules, each with its source.

A schedule maps the fraction of training done (0 at the first optimizer step, below 1 at the last)
to a factor of the optimizer's learning rate. Only schedules that watch metrics hold state.
"""

import math

from lightning_resnet.errors import UserError

EVALUATED = [
    f"{split}/{kind}"
    for split in ("val", "val_ema", "train_eval")
    for kind in ("loss", "acc1", "acc5")
]


def _check_warmup(warmup: float) -> None:
    if not 0 <= warmup < 1:
        raise ValueError(
            "--model.schedule.warmup must be a fraction of training, 0 or more and below 1, got "
            f"{warmup}: divide epochs by --trainer.max_epochs"
        )


class Schedule:
    """Constant learning rate, and the base class of all schedules."""

    # Number of epochs of the training, which the task sets by `begin`.
    epochs = 1.0

    def begin(self, epochs: float) -> None:
        """Set the number of epochs of the training; the task calls this as the training starts."""
        self.epochs = epochs

    def warning(self, epochs: float) -> str:
        """Return a warning, with its cure, if the schedule does not fit so many epochs; else ""."""
        return ""

    def factor(self, fraction: float) -> float:
        """Return the factor of the base learning rate at a fraction of training in [0, 1)."""
        return 1.0

    def observe(self, metrics: dict[str, float]) -> None:
        """Receive metrics over all ranks.

        Args:
            metrics: training metrics, at each log interval, or metrics of an evaluation, after it.
        """

    def state_dict(self) -> dict:
        """Return the state that a checkpoint keeps; empty if the fraction determines the factor."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""


class Steps(Schedule):
    """Step schedule: the rate is multiplied by `gamma` at each fraction, after a linear warm-up.

    He et al. 2015, sec. 4.2: by 0.1 at 32k and 48k of 64k steps.

    Args:
        at: fractions of training, 0 to 1.
        gamma: factor of the rate at each fraction.
        warmup: fraction of training over which the rate rises linearly from 0.

    Raises:
        ValueError: a fraction is not in [0, 1], or the warm-up is not in [0, 1).
    """

    def __init__(
        self,
        at: list[float] = [0.5, 0.75],  # noqa: B006 -- jsonargparse reads the default from here
        gamma: float = 0.1,
        warmup: float = 0.0,
    ) -> None:
        if not all(0 <= a <= 1 for a in at):
            raise ValueError(
                f"--model.schedule.at {at} must be fractions of training, 0 to 1: divide epochs by "
                "--trainer.max_epochs"
            )
        _check_warmup(warmup)
        self.at = at
        self.gamma = gamma
        self.warmup = warmup

    def factor(self, fraction: float) -> float:
        """Return the warm-up's factor times `gamma` for each fraction that is reached."""
        reached = sum(fraction >= at for at in self.at)
        return _warmup_factor(fraction, self.warmup) * self.gamma**reached


class Annealed(Schedule):
    """Base class of schedules that decay to `end` without steps, after a linear warm-up.

    Args:
        warmup: fraction of training over which the rate rises linearly from `start`.
        end: factor of the rate at the end of training.
        start: factor of the rate at the first step, if there is a warm-up.
        warmup_epochs: length of the warm-up in epochs, in place of `warmup`; null: `warmup` counts.

    Raises:
        ValueError: the warm-up is not in [0, 1), or its number of epochs is negative.
    """

    def __init__(
        self,
        warmup: float = 0.0,
        end: float = 0.0,
        start: float = 0.0,
        warmup_epochs: float | None = None,
    ) -> None:
        _check_warmup(warmup)
        if warmup_epochs is not None and warmup_epochs < 0:
            raise ValueError(
                f"--model.schedule.warmup_epochs must be 0 or more, got {warmup_epochs}"
            )
        self.warmup = warmup
        self.end = end
        self.start = start
        self.warmup_epochs = warmup_epochs

    def warning(self, epochs: float) -> str:
        """Return a warning if the warm-up takes all epochs of the training."""
        if (self.warmup_epochs or 0) < epochs:
            return ""
        return (
            f"a warm-up of {self.warmup_epochs:g} epochs in a training of {epochs:g} never reaches "
            "the rate asked for: lower --model.schedule.warmup_epochs"
        )

    def factor(self, fraction: float) -> float:
        """Return the factor of the warm-up or, after the warm-up, of the decay."""
        warmup = self.warmup if self.warmup_epochs is None else self.warmup_epochs / self.epochs
        if fraction < warmup:
            return self.start + (1 - self.start) * _warmup_factor(fraction, warmup)
        return self.decay(fraction - warmup, 1 - warmup)

    def decay(self, done: float, length: float) -> float:
        """Return the factor of the learning rate during the decay.

        Args:
            done: fraction of training since the decay began.
            length: length of the decay, in fractions of training.
        """
        raise NotImplementedError


class Cosine(Annealed):
    """Half a cosine from 1 to `end` (Loshchilov & Hutter 2017, eq. 5, one cycle)."""

    def decay(self, done: float, length: float) -> float:
        """Return the factor on a half cosine from 1 to `end`."""
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * (done / length))) / 2


class Linear(Annealed):
    """Straight line from 1 to `end`."""

    def decay(self, done: float, length: float) -> float:
        """Return the factor on a straight line from 1 to `end`."""
        return 1 + (self.end - 1) * done / length


class Plateau(Schedule):
    """Plateau schedule: the rate is multiplied by `gamma` when `monitor` stops improving.

    He et al. 2015, sec. 3.4: by 0.1 "when the error plateaus".

    Args:
        monitor: metric of an evaluation, such as val/acc1; a loss improves if it falls, an accuracy
            if it rises.
        patience: number of evaluations without improvement that change nothing; the next one
            multiplies the rate. There is one evaluation in trainer.check_val_every_n_epoch epochs.
        gamma: factor of the rate at each plateau.

    Raises:
        ValueError: `monitor` is no metric of an evaluation.
    """

    def __init__(self, monitor: str = "val/acc1", patience: int = 5, gamma: float = 0.1) -> None:
        if monitor not in EVALUATED:
            metrics = ", ".join(EVALUATED)
            raise ValueError(
                f"--model.schedule.monitor {monitor} is no metric of an evaluation: take one of "
                f"{metrics}"
            )
        self.monitor = monitor
        self.patience = patience
        self.gamma = gamma
        self.state = {"best": -math.inf, "waited": 0, "drops": 0}

    def factor(self, fraction: float) -> float:
        """Return `gamma` to the power of the number of plateaus so far."""
        return self.gamma ** self.state["drops"]

    def observe(self, metrics: dict[str, float]) -> None:
        """Count evaluations without improvement, and plateaus.

        Raises:
            UserError: the evaluation did not measure `monitor`.
        """
        if self.monitor not in metrics:
            if "val/loss" in metrics:
                raise UserError(
                    f"--model.schedule.monitor {self.monitor} was not measured: add --model.ema, "
                    "or take val/acc1"
                )
            # These are training metrics.
            return
        value = metrics[self.monitor] * (-1 if self.monitor.endswith("loss") else 1)
        if value > self.state["best"]:
            self.state.update(best=value, waited=0)
        elif self.state["waited"] < self.patience:
            self.state["waited"] += 1
        else:
            self.state.update(drops=self.state["drops"] + 1, waited=0)

    def state_dict(self) -> dict:
        """Return the best value, the evaluations since then or the last drop, and the drops."""
        return dict(self.state)

    def load_state_dict(self, state: dict) -> None:
        """Restore the best value and the counts."""
        self.state.update(state)


class ErrorWarmup(Schedule):
    """Low constant rate until the training error falls below a value, then another schedule.

    He et al. 2015, sec. 4.2: ResNet-110 starts at 0.01 until the training error is below 80 %
    (about 400 steps), then goes on at 0.1.

    Args:
        then: schedule after the warm-up; its fractions count from the beginning of training.
        factor_before: factor of the learning rate during the warm-up.
        until_error: training error in [0, 1], mean over a log interval, below which the warm-up
            ends.

    Raises:
        ValueError: `until_error` is not in [0, 1].
    """

    def __init__(
        self,
        then: Schedule = Steps(),  # noqa: B008 -- jsonargparse reads the default from here
        factor_before: float = 0.1,
        until_error: float = 0.8,
    ) -> None:
        if not 0 <= until_error <= 1:
            raise ValueError(f"--model.schedule.until_error must be 0 to 1, got {until_error}")
        self.then = then
        self.factor_before = factor_before
        self.until_error = until_error
        self.warm = False

    def begin(self, epochs: float) -> None:
        """Set the number of epochs of the schedule after the warm-up."""
        self.then.begin(epochs)

    def warning(self, epochs: float) -> str:
        """Return the warning of the schedule after the warm-up."""
        return self.then.warning(epochs)

    def factor(self, fraction: float) -> float:
        """Return `factor_before` during the warm-up, then the other schedule's factor."""
        return self.then.factor(fraction) if self.warm else self.factor_before

    def observe(self, metrics: dict[str, float]) -> None:
        """End the warm-up if the training error, 1 - train/acc1, is below `until_error`."""
        self.warm = self.warm or 1 - metrics.get("train/acc1", 0.0) < self.until_error
        self.then.observe(metrics)

    def state_dict(self) -> dict:
        """Return whether the warm-up is over, and the other schedule's state."""
        return {"warm": self.warm, "then": self.then.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore whether the warm-up is over, and the other schedule's state."""
        self.warm = state["warm"]
        self.then.load_state_dict(state["then"])


def _warmup_factor(fraction: float, warmup: float) -> float:
    return min(1.0, fraction / warmup) if warmup else 1.0
