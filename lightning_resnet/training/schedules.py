"""Learning rate schedules, each with its source."""

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
            f"--model.schedule.warmup must be a fraction of training, 0 or more and below 1, got {warmup}: divide "
            "epochs by --trainer.max_epochs"
        )


class Schedule:
    """Base of schedules: a constant learning rate."""

    epochs = 1.0  # of the whole training; the task tells

    def begin(self, epochs: float) -> None:
        """Be told how many epochs the whole training has."""
        self.epochs = epochs

    def doubt(self, epochs: float) -> str:
        """What a training of so many epochs would not do that the schedule says, and the cure; empty: nothing."""
        return ""

    def factor(self, fraction: float) -> float:
        """Factor of the base learning rate at this fraction of training."""
        return 1.0

    def observe(self, metrics: dict[str, float]) -> None:
        """Be told reduced metrics: running ones at each log interval, validation's after each epoch."""

    def state_dict(self) -> dict:
        """What a checkpoint keeps; empty in a pure function of the fraction."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take it back."""


class Steps(Schedule):
    """Times `gamma` at each fraction (He et al. 2015: 0.1 at 32k and 48k of 64k steps), after a linear warm-up.

    Args:
        at: fractions of training.
        gamma: factor at each.
        warmup: fraction of training over which the rate rises linearly from 0.
    """

    def __init__(
        self,
        at: list[float] = [0.5, 0.75],  # noqa: B006 -- jsonargparse reads the default from here
        gamma: float = 0.1,
        warmup: float = 0.0,
    ) -> None:
        if not all(0 <= a <= 1 for a in at):
            raise ValueError(
                f"--model.schedule.at {at} must be fractions of training, 0 to 1: divide epochs by --trainer.max_epochs"
            )
        _check_warmup(warmup)
        self.at, self.gamma, self.warmup = at, gamma, warmup

    def factor(self, fraction: float) -> float:
        """See `Schedule`."""
        return _rise(fraction, self.warmup) * self.gamma ** sum(fraction >= a for a in self.at)


class Annealed(Schedule):
    """Base of schedules that go down to `end` in one sweep, after a linear warm-up.

    Args:
        warmup: fraction of training over which the rate rises linearly from `start`.
        end: factor reached at the end.
        start: factor at the first step, where there is a warm-up.
        warmup_epochs: length of the warm-up in epochs, instead.
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
        self.warmup, self.end, self.start, self.warmup_epochs = warmup, end, start, warmup_epochs

    def doubt(self, epochs: float) -> str:
        """See `Schedule`."""
        if (self.warmup_epochs or 0) < epochs:
            return ""
        return (
            f"a warm-up of {self.warmup_epochs:g} epochs in a training of {epochs:g} never reaches the rate asked for: "
            "lower --model.schedule.warmup_epochs"
        )

    def factor(self, fraction: float) -> float:
        """See `Schedule`."""
        warmup = self.warmup if self.warmup_epochs is None else self.warmup_epochs / self.epochs
        if fraction < warmup:
            return self.start + (1 - self.start) * _rise(fraction, warmup)
        return self.fall(fraction - warmup, 1 - warmup)

    def fall(self, done: float, whole: float) -> float:
        """Factor when `done` of the `whole` way down is covered, both in fractions of training."""
        raise NotImplementedError


class Cosine(Annealed):
    """Half a cosine (Loshchilov & Hutter 2017, eq. 5, one cycle); see `Annealed`."""

    def fall(self, done: float, whole: float) -> float:
        """See `Annealed`."""
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * (done / whole))) / 2


class Linear(Annealed):
    """A straight line; see `Annealed`."""

    def fall(self, done: float, whole: float) -> float:
        """See `Annealed`."""
        return 1 + (self.end - 1) * done / whole


class Plateau(Schedule):
    """Times `gamma` whenever `monitor` has not improved for `patience` evaluations (He et al. 2015, sec. 3.4).

    Args:
        monitor: a metric of each evaluation, such as val/acc1; a loss should fall, an accuracy rise.
        patience: evaluations without improvement that are borne; one in trainer.check_val_every_n_epoch epochs.
        gamma: factor each time.
    """

    def __init__(self, monitor: str = "val/acc1", patience: int = 5, gamma: float = 0.1) -> None:
        if monitor not in EVALUATED:
            metrics = ", ".join(EVALUATED)
            raise ValueError(
                f"--model.schedule.monitor {monitor} is no metric of an evaluation: take one of {metrics}"
            )
        self.monitor, self.patience, self.gamma = monitor, patience, gamma
        self.state = {"best": -math.inf, "waited": 0, "drops": 0}

    def factor(self, fraction: float) -> float:
        """See `Schedule`."""
        return self.gamma ** self.state["drops"]

    def observe(self, metrics: dict[str, float]) -> None:
        """Count evaluations without improvement.

        Raises:
            UserError: the evaluation has no such metric.
        """
        if self.monitor not in metrics:
            if "val/loss" in metrics:
                raise UserError(
                    f"--model.schedule.monitor {self.monitor} was not measured: add --model.ema, or take val/acc1"
                )
            return  # a row of training
        value = metrics[self.monitor] * (-1 if self.monitor.endswith("loss") else 1)
        if value > self.state["best"]:
            self.state.update(best=value, waited=0)
        elif self.state["waited"] < self.patience:
            self.state["waited"] += 1
        else:
            self.state.update(drops=self.state["drops"] + 1, waited=0)

    def state_dict(self) -> dict:
        """Best value, evaluations waited, drops so far."""
        return dict(self.state)

    def load_state_dict(self, state: dict) -> None:
        """Take it back."""
        self.state.update(state)


class ErrorWarmup(Schedule):
    """A low rate until the training error falls below a value, then another schedule (He et al. 2015, sec. 4.2).

    The paper starts ResNet-110 at 0.01 until the training error is below 80 % (about 400 steps), then goes on at 0.1.

    Args:
        then: the schedule afterwards; it counts from the beginning of training.
        factor_before: of the learning rate, until then.
        until_error: running training error in [0, 1], over a log interval.
    """

    def __init__(
        self,
        then: Schedule = Steps(),  # noqa: B008 -- jsonargparse reads the default from here
        factor_before: float = 0.1,
        until_error: float = 0.8,
    ) -> None:
        if not 0 <= until_error <= 1:
            raise ValueError(f"--model.schedule.until_error must be 0 to 1, got {until_error}")
        self.then, self.factor_before, self.until_error = then, factor_before, until_error
        self.warm = False

    def begin(self, epochs: float) -> None:
        """Pass on."""
        self.then.begin(epochs)

    def doubt(self, epochs: float) -> str:
        """See `Schedule`."""
        return self.then.doubt(epochs)

    def factor(self, fraction: float) -> float:
        """See `Schedule`."""
        return self.then.factor(fraction) if self.warm else self.factor_before

    def observe(self, metrics: dict[str, float]) -> None:
        """Watch train/acc1."""
        self.warm = self.warm or 1 - metrics.get("train/acc1", 0.0) < self.until_error
        self.then.observe(metrics)

    def state_dict(self) -> dict:
        """Whether the warm-up is over, and the other schedule's state."""
        return {"warm": self.warm, "then": self.then.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Take it back."""
        self.warm = state["warm"]
        self.then.load_state_dict(state["then"])


def _rise(fraction: float, warmup: float) -> float:
    return min(1.0, fraction / warmup) if warmup else 1.0
