"""ClassificationTask: the LightningModule around a net it is given; loss, metrics, learning rate.

It knows nothing of files, plots or clusters. Sums stay on the device between log intervals: no step waits for them.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal

import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from lightning_resnet.data.hashing import seed_generators
from lightning_resnet.errors import Diverged, UserError, tell
from lightning_resnet.files import private_compile_cache
from lightning_resnet.models.ghost import ghost_batch_norm
from lightning_resnet.training.ema import Averaging, average_of
from lightning_resnet.training.evaluation import Batch, Evaluated
from lightning_resnet.training.hooks import TrainingHooks
from lightning_resnet.training.loss import Loss, TrainingSums, probabilities, training_loss
from lightning_resnet.training.mixup import Mix, heavier, mixed_targets, own_parts, pair_numbers
from lightning_resnet.training.optimizer import fuse, parameter_groups
from lightning_resnet.training.schedules import Schedule, Steps
from lightning_resnet.training.state_dict import check_same_tensors

EPOCH_START = 1 << 40  # in place of a batch's number: what is drawn before the first batch


class ClassificationTask(Evaluated):
    """Cross entropy on a net's logits.

    Args:
        net: images [B, 3, H, W] -> logits [B, classes]; any importable class.
        optimizer: any of torch.optim; its learning rate is for the global batch.
        schedule: factor of the learning rate over the fraction of training.
        label_smoothing: share of the target spread over all classes (training loss only).
        decay: what weight decay acts on: weights (all but biases and norms) | all.
        bn_batch: images that batch norm takes statistics of together; null: all that a rank has. With the rank's batch
            of a recipe for more devices, fewer devices give that recipe's results.
        loss: cross_entropy | bce (each class its own binary decision, mean over classes).
        bce_threshold: `bce` takes targets above it as 1 and others as 0; null: as they are.
        mix: Mixup and CutMix of neighbours in the global batch.
        ema: a moving average of the net, evaluated beside it.
        precise_bn: optimizer steps' worth of training images, over which batch norm's statistics are measured anew
            before each evaluation; 0: their moving averages.
        compile: by torch.compile, normalisation and net as one; a mode of its, or true: its default.
        channels_last: memory layout of weights and images; null: true. false is for nets that take `view` of images.
        hooks: augmentation, targets and loss of a user's own, in training.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(
            p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
        ),
        schedule: Schedule = Steps(),  # noqa: B008 -- jsonargparse reads it as the default of the YAML
        label_smoothing: float = 0.0,
        decay: Literal["weights", "all"] = "weights",
        bn_batch: int | None = None,
        loss: Loss = "cross_entropy",
        bce_threshold: float | None = None,
        mix: Mix | None = None,
        ema: Averaging | None = None,
        precise_bn: int = 0,
        compile: bool
        | Literal["reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = False,
        channels_last: bool | None = None,
        hooks: TrainingHooks | None = None,
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"--model.label_smoothing must be 0 to 1, got {label_smoothing}")
        if bce_threshold is not None and (loss != "bce" or not 0 <= bce_threshold < 1):
            raise ValueError(
                f"--model.bce_threshold {bce_threshold} is for --model.loss bce, and from 0 to below 1: add that, or "
                "--model.bce_threshold null"
            )
        if precise_bn < 0:
            raise ValueError(
                f"--model.precise_bn must be 0 or more optimizer steps, got {precise_bn}"
            )
        if lazy := [name for name, parameter in net.named_parameters() if is_lazy(parameter)]:
            raise ValueError(
                f"{type(net).__name__}.{lazy[0]} is of a lazy layer: give that layer its number of inputs"
            )
        if bn_batch is not None:
            ghost_batch_norm(net, bn_batch)
        if channels_last is not False:
            net = net.to(memory_format=torch.channels_last)
        super().__init__(net, average_of(net) if ema else None, precise_bn)
        self.channels_last = channels_last is not False
        self.bn_batch = bn_batch
        self.make_optimizer, self.schedule, self.decay = optimizer, schedule, decay
        self.averaging, self.mix, self.compiled = ema, mix, compile
        self.loss_kind = loss
        self.label_smoothing = label_smoothing
        self.bce_threshold = bce_threshold
        self.hooks = hooks
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer samples than ranks
        self.seed = torch.initial_seed()  # what --seed_everything set
        self.recorded = False  # somebody takes the training metrics; else they are logged as other modules log theirs
        self._train_sums = TrainingSums()  # since the last row
        self.extra_metrics: dict[str, float] = {}  # of callbacks, for the next training row
        self._lr = 0.0  # of the last optimizer step
        self._scheduled: dict[
            int, float
        ] = {}  # learning rate that each group of parameters was last set to
        self._rate_told = False  # that somebody else has set one
        self._followed = 0  # optimizer steps done when the average last followed
        self._frozen: dict[
            str, list[str]
        ] = {}  # parameters and norms of a run that continues, until it has begun
        self._last_taken = 0  # optimizer steps done when training sums were last taken

    def setup(self, stage: str) -> None:
        """A training takes the normalisation from its data; from then on it belongs to the weights."""
        if stage != "fit":
            return
        source = getattr(self.trainer.datamodule, "source", None)
        if source is None:
            self._check_own_data()
            return
        self.mean.copy_(torch.tensor(source.mean).view(3, 1, 1) * 255)
        self.std.copy_(torch.tensor(source.std).view(3, 1, 1) * 255)

    def _check_own_data(self) -> None:
        """Refuse, or warn of, what cannot be known of other data than ImageData's."""
        if self.precise_bn:
            raise UserError(
                "precise_bn measures on the training images of ImageData: give that data, or precise_bn=0"
            )
        if not self.mean.any() and bool((self.std == 1).all()):
            rank_zero_warn(
                "the images are not normalised: ImageData tells their mean and standard deviation, other data do not; "
                "set task.mean and task.std (pixels of 0 to 255, shape [3, 1, 1]) before the training"
            )

    def on_fit_start(self) -> None:
        """Freeze what was frozen where a run continues, and compile.

        Frozen after the optimizer is made, which has the parameters that the run began with: a callback may freeze some
        later, and one that unfreezes layers has frozen all of them again. Each size of images and each net is compiled
        for itself: progressive resizing has few.
        """
        if self._frozen:
            for name, p in self.net.named_parameters():
                p.requires_grad_(name not in self._frozen["frozen"])
            for name, m in self._norms():
                m.track_running_stats = name not in self._frozen["unmeasured"]
            self._frozen = {}
        if self.compiled:
            torch._dynamo.config.recompile_limit = (
                64  # sizes x last batches x training or not x net or average
            )
            mode = None if self.compiled is True else self.compiled
            private_compile_cache()
            self.logits = torch.compile(self.logits, dynamic=False, mode=mode)

    # -- training --------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer, with weight decay off biases and norms."""
        optimizer = self.make_optimizer(parameter_groups(self.net, self.decay))
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # the schedule's base, under torch's own name for it
        self._scheduled = {i: group["lr"] for i, group in enumerate(optimizer.param_groups)}
        return fuse(optimizer, self.device)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training.

        Raises:
            UserError: the training has no end.
        """
        t = self.trainer
        steps = t.max_epochs * math.ceil(t.num_training_batches / t.accumulate_grad_batches)
        if steps <= 0 and t.max_steps <= 0:
            raise UserError(
                "schedules are fractions of the whole training: give the Trainer max_epochs or max_steps"
            )
        return min(s for s in (steps, t.max_steps) if s > 0)

    def on_train_start(self) -> None:
        """Tell the schedule.

        Raises:
            UserError: there is another, which it would overwrite.
        """
        if self.trainer.lr_scheduler_configs:
            raise UserError(
                f"{type(self).__name__}.configure_optimizers returns a scheduler, and the learning rate is set by "
                "`schedule` in each step: return the optimizer alone, and give as `schedule` a subclass of "
                "lightning_resnet.Schedule"
            )
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        self._all_steps = self.total_steps  # asked for in each step
        self.schedule.begin(self._all_steps / steps)
        groups = self.trainer.optimizers[0].param_groups
        self._lr = groups[0]["lr"]  # of a run that continues
        if self.global_step:
            self._scheduled = {i: group["lr"] for i, group in enumerate(groups)}
        self._followed = self.global_step
        self._logged_step = self.global_step
        self._seed_epoch(self.trainer.current_epoch)
        if not self.recorded:
            self.set_learning_rate()

    def set_learning_rate(self) -> None:
        """Set the learning rate of the coming optimizer step: before its first hook, as callbacks look at it there."""
        trainer = self.trainer
        factor = self.schedule.factor(trainer.global_step / self._all_steps)
        for i, group in enumerate(trainer.optimizers[0].param_groups):
            if (
                "initial_lr" in group
            ):  # else it came by a callback that unfreezes layers, and keeps what that gave it
                if group["lr"] != self._scheduled.get(i, group["lr"]):
                    self._tell_of_other_rate(group["lr"])
                group["lr"] = self._scheduled[i] = group["initial_lr"] * factor

    def _tell_of_other_rate(self, rate: float) -> None:
        """Say once that a learning rate which somebody else has set does not last."""
        if not self._rate_told:
            self._rate_told = True
            rank_zero_only(tell)(
                f"warning: by step {self.global_step} something set the learning rate to {float(rate):g}, but "
                "--model.schedule sets it anew for each step: let a callback change the group's initial_lr, which the "
                "schedule multiplies, or give a --model.schedule of your own"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the generators that a net may draw from (dropout).

        They are seeded by seed, epoch, batch and rank: a run that continues repeats itself, and nothing need be kept.
        """
        trainer = self.trainer
        if not self.recorded and batch_idx % trainer.accumulate_grad_batches == 0:
            self.set_learning_rate()
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]
        seed_generators(
            self.device, self.seed, trainer.current_epoch, batch_idx, trainer.global_rank
        )

    def _seed_epoch(self, epoch: int) -> None:
        """Seed what callbacks draw as an epoch begins, alike where a run continues within it."""
        seed_generators(self.device, self.seed, epoch, EPOCH_START, self.trainer.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one micro-batch.

        Raises:
            UserError: it cannot be mixed in pairs.
        """
        images, labels = batch
        if self.mix and len(labels) % 2:
            raise UserError(
                f"mix mixes pairs of images, and a batch has {len(labels)}: give the training loader an even "
                "batch_size and drop_last=True"
            )
        images, targets = self.augment(images, labels)
        if targets.ndim == 1:
            labels = targets
        own = share = None
        predicted = labels
        if self.mix:
            size = images.shape[2:]
            numbers = pair_numbers(batch_idx, len(labels), self.trainer)
            draws = self.mix.draw(self.seed, self.current_epoch, numbers, *size)
            own, partners, share = own_parts(labels, *draws, *size, self.mean.dtype)
            predicted = heavier(labels, partners, share)
        logits = self.logits(self.net, images, own)
        if targets.ndim == 2:
            targets = targets * (labels >= 0)[:, None]
        if share is not None:
            targets = mixed_targets(probabilities(targets, logits), share)
        loss = self.loss(logits, targets)
        self._train_sums.add(loss, logits, labels, predicted)
        return loss

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images to train on, and their targets; a hook, see `TrainingHooks.augment`."""
        if self.hooks is None:
            return images, labels
        return self.hooks.augment(images, labels)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a micro-batch; a hook, see `TrainingHooks.loss`."""
        loss = None if self.hooks is None else self.hooks.loss(logits, targets)
        if loss is None:
            loss = training_loss(
                logits, targets, self.loss_kind, self.label_smoothing, self.bce_threshold
            )
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Let the average follow after each optimizer step."""
        self._follow()
        if not self.recorded:
            self._log_training()

    def _follow(self) -> None:
        """Let the average follow the newest optimizer step, once."""
        step = self.global_step
        if self.averaging and step not in (0, self._followed):
            self._followed = step
            self.averaging.follow(self.ema, self.net, step, self._all_steps)

    def on_train_epoch_end(self) -> None:
        """Log what no row of an interval holds."""
        self._seed_epoch(self.trainer.current_epoch + 1)
        if not self.recorded:
            self.log_dict(self.take_train_metrics(), sync_dist=True)
            self.set_learning_rate()

    def _log_training(self) -> None:
        """Log as other modules do, in a Trainer that is not ours; all ranks at the same step."""
        trainer = self.trainer
        if trainer.global_step == self._logged_step:  # in the middle of an optimizer step
            return
        self._logged_step = trainer.global_step
        if trainer.global_step % max(1, trainer.log_every_n_steps) == 0:
            self.log_dict(self.take_train_metrics())
        self.set_learning_rate()  # of the next step, which callbacks look at before it begins

    @property
    def has_train_metrics(self) -> bool:
        """Whether there were steps since the last call of `take_train_metrics`."""
        return self._train_sums.total() is not None

    def take_train_metrics(self) -> dict[str, float]:
        """Means since the last call, over all ranks; all ranks must call it at the same step.

        Raises:
            Diverged: a loss was not finite.
        """
        if (sums := self._train_sums.total()) is None:
            return {}
        loss, correct, finite, n, bad = self._reduce(sums).tolist()
        self._train_sums = TrainingSums()
        lr = self._lr
        if not math.isfinite(loss):
            step = self._last_taken + int(
                finite / self.trainer.world_size / self.trainer.accumulate_grad_batches
            )
            base = self.trainer.optimizers[0].param_groups[0]["initial_lr"]
            raise Diverged(step + 1, base * self.schedule.factor(step / self._all_steps))
        self._last_taken = self.global_step
        metrics = {"train/loss": loss / n, "train/acc1": correct / n, "lr": lr} if n else {"lr": lr}
        if bad:
            metrics["data/bad_images"] = bad
        self.schedule.observe(metrics)
        extra, self.extra_metrics = self.extra_metrics, {}
        return metrics | extra

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: Any, *args: Any, **kwargs: Any
    ) -> "ClassificationTask":
        """As Lightning's, for a net that is given.

        Raises:
            UserError: none is.
        """
        if "net" not in kwargs:
            raise UserError(
                "load_from_checkpoint needs net=..., a net to load into; lightning_resnet.load(PATH).task "
                "builds the checkpoint's own"
            )
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the schedule's state, what is frozen, and what was measured since the last row, over all ranks.

        Raises:
            Diverged: a loss was not finite; such a net is not worth saving.
        """
        if self.trainer.training:
            self._follow()  # a ModelCheckpoint saves before `on_train_batch_end`; the state_dict shares the tensors
        checkpoint["schedule"] = self.schedule.state_dict()
        checkpoint["frozen"] = [
            name for name, p in self.net.named_parameters() if not p.requires_grad
        ]
        checkpoint["unmeasured"] = [name for name, m in self._norms() if not m.track_running_stats]
        sums = self._train_sums.total()
        sums = None if sums is None else self._reduce(sums)
        if sums is not None and not math.isfinite(sums[0]):
            self.take_train_metrics()
        checkpoint["train_sums"], checkpoint["last_taken"] = sums, self._last_taken

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back; refuse the weights of another net, naming the first tensor that differs."""
        check_same_tensors(self.state_dict(), checkpoint["state_dict"])
        self._followed = checkpoint["global_step"]
        self.schedule.load_state_dict(checkpoint.get("schedule", {}))
        if "frozen" in checkpoint:
            self._frozen = {key: checkpoint[key] for key in ("frozen", "unmeasured")}
        with suppress(RuntimeError):  # of a task without a trainer, in load_from_checkpoint
            trainer = self.trainer
            trainer.precision_plugin.convert_module(
                self
            )  # else weights would pass through a smaller type
        sums, self._last_taken = (
            checkpoint.get("train_sums"),
            checkpoint.get("last_taken", checkpoint["global_step"]),
        )
        self._train_sums = TrainingSums(
            sums if sums is None or self.global_rank == 0 else torch.zeros_like(sums)
        )

    def _norms(self) -> Iterator[tuple[str, nn.Module]]:
        """Each norm of the net that can keep statistics, with its name."""
        return ((name, m) for name, m in self.net.named_modules() if isinstance(m, _NormBase))
