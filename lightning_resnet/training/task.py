"""ClassificationTask: the LightningModule with loss, metrics and learning rate of a given net.

The task has no code for files, plots or clusters. Sums of metrics stay on the device between log
intervals, so that no training step waits for them.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from lightning_resnet.data.draws import kept_branches
from lightning_resnet.data.hashing import seed_generators
from lightning_resnet.errors import Diverged, UserError, tell
from lightning_resnet.files import private_compile_cache
from lightning_resnet.models.blocks import StochasticDepth, block_modules, learned_scales
from lightning_resnet.models.ghost import ghost_batch_norm, ghosts
from lightning_resnet.training.ema import Averaging, average_of
from lightning_resnet.training.evaluation import Batch, Evaluated
from lightning_resnet.training.hooks import TrainingHooks
from lightning_resnet.training.loss import Loss, TrainingSums, probabilities, training_loss
from lightning_resnet.training.mixup import (
    Mix,
    heavier,
    mixed_targets,
    own_parts,
    pair_numbers,
    places,
)
from lightning_resnet.training.optimizer import fuse, parameter_groups
from lightning_resnet.training.schedules import Schedule, Steps
from lightning_resnet.training.state_dict import check_same_tensors

# Modes of torch.compile that make CUDA graphs, and the same without.
WITHOUT_GRAPHS = {"reduce-overhead": None, "max-autotune": "max-autotune-no-cudagraphs"}
# Stands for the batch's number in the seed of draws before the first batch of an epoch.
EPOCH_START = 1 << 40


class ClassificationTask(Evaluated):
    """Training, evaluation and prediction of a net that classifies images.

    Args:
        net: net that maps images [B, 3, H, W] to logits [B, classes]; any importable class.
        optimizer: any optimizer of torch.optim; its learning rate is for the global batch.
        schedule: factor of the learning rate over the fraction of training.
        label_smoothing: share of the target, 0 to 1, that is spread evenly over all classes; in
            training only (Szegedy et al. 2016, sec. 7).
        decay: parameters that weight decay acts on: weights (all but biases and norms) | all.
        bn_batch: number of images over which batch norm takes statistics in training (ghost batch
            norm, Hoffer et al. 2017); null: the rank's micro-batch. If it is the micro-batch per
            rank of a recipe for more devices, fewer devices give the results of that recipe.
        loss: cross_entropy | bce (binary cross entropy of each class, mean over the classes;
            Wightman et al. 2021).
        bce_threshold: targets above it, from 0 to below 1, count as 1 and others as 0, for `bce`;
            null: targets as they are.
        mix: Mixup and CutMix of neighbours in the global batch; null: off.
        ema: moving average of the net, which is evaluated too; null: off.
        precise_bn: number of optimizer steps whose training images give batch norm's statistics,
            measured before each evaluation of a training (Wu & Johnson 2021, sec. 3); 0: running
            averages.
        compile: mode of torch.compile, which compiles normalisation and net as one; true: the
            default mode; blocks: only the blocks of the net, each kind once (with stochastic depth
            each block), which takes a deep net less time to compile and a little more in each step;
            false: off.
        channels_last: whether weights and images have the memory layout channels_last; null: true.
            Use false for nets that call `view` on images.
        hooks: a user's own augmentation, targets and loss, in training only; null: none.
        graph: on a GPU, capture the optimizer step once in a CUDA graph and replay it, which takes
            a small net a fraction of the time; the results are the same. null: where every part of
            the step is known to allow it; true: with nets, losses and callbacks of your own too,
            which must compute the same operations in each step; false: never.

    Raises:
        ValueError: an argument is out of range, or the net has a lazy layer without its shape.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(
            p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
        ),
        schedule: Schedule = Steps(),  # noqa: B008 -- jsonargparse reads the default from here
        label_smoothing: float = 0.0,
        decay: Literal["weights", "all"] = "weights",
        bn_batch: int | None = None,
        loss: Loss = "cross_entropy",
        bce_threshold: float | None = None,
        mix: Mix | None = None,
        ema: Averaging | None = None,
        precise_bn: int = 0,
        compile: bool
        | Literal[
            "blocks", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"
        ] = False,
        channels_last: bool | None = None,
        hooks: TrainingHooks | None = None,
        graph: bool | None = None,
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"--model.label_smoothing must be 0 to 1, got {label_smoothing}")
        if bce_threshold is not None and (loss != "bce" or not 0 <= bce_threshold < 1):
            raise ValueError(
                f"--model.bce_threshold {bce_threshold} is for --model.loss bce, and from 0 to "
                "below 1: add that, or --model.bce_threshold null"
            )
        if compile == "blocks" and not block_modules(net):
            raise ValueError(
                f"--model.compile blocks: {type(net).__name__} has no blocks that this package "
                "knows: use --model.compile true"
            )
        if precise_bn < 0:
            raise ValueError(
                f"--model.precise_bn must be 0 or more optimizer steps, got {precise_bn}"
            )
        if lazy := [name for name, parameter in net.named_parameters() if is_lazy(parameter)]:
            raise ValueError(
                f"{type(net).__name__}.{lazy[0]} is of a lazy layer: give that layer its number "
                "of inputs"
            )
        if bn_batch is not None:
            ghost_batch_norm(net, bn_batch)
        if channels_last is not False:
            net = net.to(memory_format=torch.channels_last)
        super().__init__(net, average_of(net) if ema else None, precise_bn)
        self.channels_last = channels_last is not False
        self.bn_batch = bn_batch
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.decay = decay
        self.averaging = ema
        self.mix = mix
        self._dropping = [m for m in net.modules() if isinstance(m, StochasticDepth)]
        self._ghosts = ghosts(net)
        self._scales = learned_scales(net)
        self.compiled = compile
        self.loss_kind = loss
        self.label_smoothing = label_smoothing
        self.bce_threshold = bce_threshold
        self.hooks = hooks
        self.graph = graph
        # A rank has no batch if there are fewer samples than ranks.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        # The seed that --seed_everything set.
        self.seed = torch.initial_seed()
        # Whether the Recorder callback takes the training metrics; if not, the task logs them.
        self.recorded = False
        # Sums since the last training row.
        self._train_sums = TrainingSums()
        # Metrics from callbacks for the next training row.
        self.extra_metrics: dict[str, float] = {}
        # Learning rate of the last optimizer step.
        self._lr = 0.0
        # Learning rate that the schedule last set in each parameter group.
        self._scheduled: dict[int, float] = {}
        # Whether the user was warned that the schedule overwrites a learning rate set elsewhere.
        self._rate_told = False
        # Number of optimizer steps at the last update of the moving average.
        self._followed = 0
        # Frozen parameters and norms of a run that continues, until `on_fit_start` applies them.
        self._frozen: dict[str, list[str]] = {}
        # Number of optimizer steps when the training sums were last taken.
        self._last_taken = 0

    def setup(self, stage: str) -> None:
        """Copy mean and standard deviation of the training data, which checkpoints then keep.

        Raises:
            UserError: `precise_bn` is set and the data are not ImageData.
        """
        if stage != "fit":
            return
        source = getattr(self.trainer.datamodule, "source", None)
        if source is None:
            self._check_own_data()
            return
        self.mean.copy_(torch.tensor(source.mean).view(3, 1, 1) * 255)
        self.std.copy_(torch.tensor(source.std).view(3, 1, 1) * 255)

    def _check_own_data(self) -> None:
        """Check the options that need ImageData, for other data.

        Warn if the mean and standard deviation of the images are not set.

        Raises:
            UserError: `precise_bn` is set.
        """
        if self.precise_bn:
            raise UserError(
                "precise_bn measures on the training images of ImageData: give that data, or "
                "precise_bn=0"
            )
        if not self.mean.any() and bool((self.std == 1).all()):
            rank_zero_warn(
                "the images are not normalised: ImageData tells their mean and standard deviation, "
                "other data do not; set task.mean and task.std (pixels of 0 to 255, shape "
                "[3, 1, 1]) before the training"
            )

    def on_fit_start(self) -> None:
        """Freeze again what the checkpoint of a continued run had frozen, and compile.

        Parameters are frozen after the optimizer is made, so that its groups are those that the run
        began with: a callback may have frozen some later, and a callback that unfreezes layers has
        frozen them all again in its setup. Each image size and each net is compiled separately;
        progressive resizing has few sizes.
        """
        if self._frozen:
            for name, p in self.net.named_parameters():
                p.requires_grad_(name not in self._frozen["frozen"])
            for name, m in self._norms():
                m.track_running_stats = name not in self._frozen["unmeasured"]
            self._frozen = {}
        if self.compiled:
            self._compile()

    def _compile(self) -> None:
        """Compile what `compile` names.

        If this package's Trainer captures the step in a graph of its own, the compiler must not
        make graphs inside of it.
        """
        # One compilation for each image size, last batch, training or not, net or average.
        torch._dynamo.config.recompile_limit = 64
        private_compile_cache()
        if self.compiled == "blocks":
            for net in self.nets:
                for module in block_modules(net):
                    module.compile(dynamic=False)
            return
        mode = None if self.compiled is True else self.compiled
        if self.recorded and self.graph is not False and self.device.type == "cuda":
            mode = WITHOUT_GRAPHS.get(mode, mode)
        self.logits = torch.compile(self.logits, dynamic=False, mode=mode)

    # -- training ------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer, whose weight decay acts on the parameters that `decay` names."""
        optimizer = self.make_optimizer(parameter_groups(self.net, self.decay))
        for group in optimizer.param_groups:
            # The base rate of the schedule, under the name that torch's schedulers give it.
            group["initial_lr"] = group["lr"]
        self._scheduled = {i: group["lr"] for i, group in enumerate(optimizer.param_groups)}
        return fuse(optimizer, self.device)

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the training.

        Raises:
            UserError: the Trainer has neither max_epochs nor max_steps.
        """
        t = self.trainer
        steps = t.max_epochs * math.ceil(t.num_training_batches / t.accumulate_grad_batches)
        if steps <= 0 and t.max_steps <= 0:
            raise UserError(
                "schedules are fractions of the training: give the Trainer max_epochs or max_steps"
            )
        return min(s for s in (steps, t.max_steps) if s > 0)

    def on_train_start(self) -> None:
        """Give the schedule the length of the training, and set the first learning rate.

        Raises:
            UserError: `configure_optimizers` of a subclass returns a scheduler, whose rates
                `schedule` would overwrite.
        """
        if self.trainer.lr_scheduler_configs:
            raise UserError(
                f"{type(self).__name__}.configure_optimizers returns a scheduler, and the learning "
                "rate is set by `schedule` in each step: return the optimizer alone, and give as "
                "`schedule` a subclass of lightning_resnet.Schedule"
            )
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        # Kept, because every step needs the number.
        self._all_steps = self.total_steps
        self.schedule.begin(self._all_steps / steps)
        groups = self.trainer.optimizers[0].param_groups
        # A run that continues has the rate of the checkpoint's optimizer until the next step.
        self._lr = groups[0]["lr"]
        if self.global_step:
            self._scheduled = {i: group["lr"] for i, group in enumerate(groups)}
        self._followed = self.global_step
        self._logged_step = self.global_step
        self._seed_epoch(self.trainer.current_epoch)
        if not self.recorded:
            self.set_learning_rate()

    def set_learning_rate(self) -> None:
        """Set the learning rate of the next optimizer step, before callbacks read it in hooks."""
        trainer = self.trainer
        factor = self.schedule.factor(trainer.global_step / self._all_steps)
        for i, group in enumerate(trainer.optimizers[0].param_groups):
            # A group without `initial_lr` was added by a callback that unfreezes layers: it keeps
            # the rate that the callback gave it.
            if "initial_lr" in group:
                if group["lr"] != self._scheduled.get(i, group["lr"]):
                    self._tell_of_other_rate(group["lr"])
                group["lr"] = self._scheduled[i] = group["initial_lr"] * factor

    def _tell_of_other_rate(self, rate: float) -> None:
        """Warn once that the schedule overwrites a learning rate that other code has set."""
        if not self._rate_told:
            self._rate_told = True
            rank_zero_only(tell)(
                f"warning: by step {self.global_step} something set the learning rate to "
                f"{float(rate):g}, but --model.schedule sets it for each step: let a callback "
                "change the group's initial_lr, which the schedule multiplies, or give a "
                "--model.schedule of your own"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the generators that a net may draw from, for example in dropout.

        The seed is a hash of the run's seed, epoch, batch and rank, so that a run that continues
        repeats its draws and checkpoints hold no generator state. Ghost batch norms learn whether
        an optimizer step begins. Without a Recorder, the method also sets the learning rate.
        """
        trainer = self.trainer
        starts_step = batch_idx % trainer.accumulate_grad_batches == 0
        if not self.recorded and starts_step:
            self.set_learning_rate()
        if trainer.accumulate_grad_batches > 1:
            for norm in self._ghosts:
                norm.starts_step = starts_step
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]
        seed_generators(
            self.device, self.seed, trainer.current_epoch, batch_idx, trainer.global_rank
        )

    def _seed_epoch(self, epoch: int) -> None:
        """Seed the generators for draws of callbacks at the start of an epoch.

        A run that continues in the middle of the epoch gets the same seed.
        """
        seed_generators(self.device, self.seed, epoch, EPOCH_START, self.trainer.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one micro-batch and add the batch to the training sums.

        Raises:
            UserError: `mix` is set and the number of images is odd.
        """
        loss, labels, correct = self.measure(*self.inputs(batch, batch_idx))
        self.count(loss, labels, correct)
        return loss

    def inputs(self, batch: Batch, batch_idx: int) -> tuple[Tensor, ...]:
        """Return the tensors from which `measure` computes the loss of a micro-batch.

        Returns:
            (images, labels, targets) after `augment`, with labels as in the batch where the targets
            are probabilities, else the targets themselves; with stochastic depth, also which
            branches are kept, see `Draws`; with `mix`, also the shares and boxes of the pairs, see
            `Mix.draw`. All are on the device.

        Raises:
            UserError: `mix` is set and the number of images is odd.
        """
        images, labels = batch
        if self.mix and len(labels) % 2:
            raise UserError(
                f"mix mixes pairs of images, and a batch has {len(labels)}: give the training "
                "loader an even batch_size and drop_last=True"
            )
        images, targets = self.augment(images, labels)
        if targets.ndim == 1:
            labels = targets
        draws = []
        if self._dropping:
            draws.append(self._draw_kept(batch_idx, len(labels)))
        if self.mix:
            numbers = pair_numbers(batch_idx, len(labels), self.trainer)
            draws += self.mix.draw(self.seed, self.current_epoch, numbers, *images.shape[2:])
        tensors = [torch.from_numpy(draw).to(labels.device, non_blocking=True) for draw in draws]
        return images, labels, targets, *tensors

    def _draw_kept(self, batch_idx: int, n: int) -> np.ndarray:
        """Draw which branches a micro-batch of n images keeps, float32 [blocks, 1 or n].

        All micro-batches of a step and all ranks keep the same, or the images have draws of their
        own.
        """
        decided_for = np.array([batch_idx // self.trainer.accumulate_grad_batches])
        if self._dropping[0].per_image:
            decided_for = places(batch_idx, n, self.trainer)
        survivals = [module.survival for module in self._dropping]
        kept = kept_branches(self.seed, self.current_epoch, decided_for, survivals)
        return kept.astype(np.float32)

    def measure(
        self, images: Tensor, labels: Tensor, targets: Tensor, *draws: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss of a micro-batch; a function of tensors, which a graph can capture.

        Args:
            images: uint8 [B, 3, H, W].
            labels: class indices [B], below 0 for damaged images.
            targets: class indices [B], or probabilities [B, C].
            draws: with stochastic depth, which branches are kept [blocks, 1 or B], see `Draws`;
                with `mix`, the shares of the pairs [B / 2] and their boxes [B / 2, 4], see
                `Mix.draw`; in this order.

        Returns:
            (loss, a scalar; labels [B]; which images are predicted correctly, bool [B]).
        """
        own = share = None
        predicted = labels
        if self.mix:
            shares, boxes = draws[-2:]
            size = images.shape[2:]
            own, partners, share = own_parts(labels, shares, boxes, *size, self.mean.dtype)
            predicted = heavier(labels, partners, share)
        if self._dropping:
            self._dropping[0].draws.kept = draws[0]
        logits = self.logits(self.net, images, own)
        if self._dropping:
            self._dropping[0].draws.kept = None
        if targets.ndim == 2:
            targets = targets * (labels >= 0)[:, None]
        if share is not None:
            targets = mixed_targets(probabilities(targets, logits), share)
        loss = self.loss(logits, targets)
        return loss, labels, logits.argmax(1) == predicted

    def count(self, loss: Tensor, labels: Tensor, correct: Tensor) -> None:
        """Add a micro-batch to the training sums; see `measure` for the tensors."""
        self._train_sums.add(loss, labels, correct)

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images to train on, and their targets; see `TrainingHooks.augment`."""
        if self.hooks is None:
            return images, labels
        return self.hooks.augment(images, labels)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a micro-batch, a scalar; see `TrainingHooks.loss`."""
        loss = None if self.hooks is None else self.hooks.loss(logits, targets)
        if loss is None:
            loss = training_loss(
                logits, targets, self.loss_kind, self.label_smoothing, self.bce_threshold
            )
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Update the moving average and, without a Recorder, log the training metrics."""
        self._follow()
        if not self.recorded:
            self._log_training()

    def _follow(self) -> None:
        """Update the moving average for the newest optimizer step, once per step."""
        step = self.global_step
        if self.averaging and step not in (0, self._followed):
            self._followed = step
            self.averaging.follow(self.ema, self.net, step, self._all_steps)

    def on_train_epoch_end(self) -> None:
        """Seed the draws of the next epoch; without a Recorder, log the rest of the metrics."""
        self._seed_epoch(self.trainer.current_epoch + 1)
        if not self.recorded:
            self.log_dict(self.take_train_metrics(), sync_dist=True)
            self.set_learning_rate()

    def _log_training(self) -> None:
        """Log the training metrics by `log_dict`, on all ranks at the same step."""
        trainer = self.trainer
        # The step is the same between the micro-batches of one optimizer step.
        if trainer.global_step == self._logged_step:
            return
        self._logged_step = trainer.global_step
        if trainer.global_step % max(1, trainer.log_every_n_steps) == 0:
            self.log_dict(self.take_train_metrics())
        # Callbacks read the rate of the next step before that step begins.
        self.set_learning_rate()

    @property
    def has_train_metrics(self) -> bool:
        """Whether there were steps since the last call of `take_train_metrics`."""
        return self._train_sums.total() is not None

    def peek_train_metrics(self) -> dict[str, float]:
        """Return train/loss and train/acc1 since the last row, of this rank alone, and keep them.

        The call waits for the device.
        """
        sums = self._train_sums.total()
        loss, correct, _, n, _ = [0] * 5 if sums is None else sums.tolist()
        return {"train/loss": loss / n, "train/acc1": correct / n} if n else {}

    def take_train_metrics(self) -> dict[str, float]:
        """Return the means since the last call, over all ranks, and start new sums.

        All ranks must call this method at the same step.

        Returns:
            The metrics train/loss, train/acc1, lr, data/bad_images if there are damaged images,
            branch_scale/<block> of learned scales, and those of callbacks. Without a step since the
            last call, an empty dict.

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
        if self._scales:
            values = torch.stack([scale.weight.detach() for scale in self._scales.values()])
            for name, value in zip(self._scales, values.tolist(), strict=True):
                metrics[f"branch_scale/{name}"] = value
        extra = self.extra_metrics
        self.extra_metrics = {}
        return metrics | extra

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: Any, *args: Any, **kwargs: Any
    ) -> "ClassificationTask":
        """Load a checkpoint as Lightning does; the keyword argument `net` is required.

        Raises:
            UserError: `net` is missing.
        """
        if "net" not in kwargs:
            raise UserError(
                "load_from_checkpoint needs net=..., a net to load into; "
                "lightning_resnet.load(PATH).task builds the checkpoint's own"
            )
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    # -- checkpoints ---------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the task's state to a checkpoint; all ranks must call this method.

        The state is that of the schedule, the names of frozen parameters and of norms without
        running statistics, and the training sums since the last row, over all ranks.

        Raises:
            Diverged: a loss was not finite; such a net is not worth saving.
        """
        if self.trainer.training:
            # A ModelCheckpoint saves before `on_train_batch_end`. The state_dict in `checkpoint`
            # shares its tensors with the moving average, so that this update reaches the file.
            self._follow()
        checkpoint["schedule"] = self.schedule.state_dict()
        checkpoint["frozen"] = [
            name for name, p in self.net.named_parameters() if not p.requires_grad
        ]
        checkpoint["unmeasured"] = [name for name, m in self._norms() if not m.track_running_stats]
        sums = self._train_sums.total()
        sums = None if sums is None else self._reduce(sums)
        if sums is not None and not math.isfinite(sums[0]):
            self.take_train_metrics()
        if sums is not None:
            # Micro-batches of one rank: the training may continue with another number of ranks.
            sums[2] /= self.trainer.world_size
        checkpoint["train_sums"] = sums
        checkpoint["last_taken"] = self._last_taken

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added.

        Raises:
            UserError: the weights are those of another net; the error names the first tensor that
                differs.
        """
        check_same_tensors(self.state_dict(), checkpoint["state_dict"])
        self._followed = checkpoint["global_step"]
        self.schedule.load_state_dict(checkpoint.get("schedule", {}))
        if "frozen" in checkpoint:
            self._frozen = {key: checkpoint[key] for key in ("frozen", "unmeasured")}
        # In load_from_checkpoint there is no trainer, and Lightning raises RuntimeError.
        ranks = 1
        with suppress(RuntimeError):
            trainer = self.trainer
            ranks = trainer.world_size
            # Without this, weights of double precision would be loaded into single precision.
            trainer.precision_plugin.convert_module(self)
        sums = checkpoint.get("train_sums")
        if sums is not None:
            sums = sums.clone() if self.global_rank == 0 else torch.zeros_like(sums)
            sums[2] *= ranks
        self._last_taken = checkpoint.get("last_taken", checkpoint["global_step"])
        self._train_sums = TrainingSums(sums)

    def _norms(self) -> Iterator[tuple[str, nn.Module]]:
        """Return name and module of each norm of the net that can keep running statistics."""
        return ((name, m) for name, m in self.net.named_modules() if isinstance(m, _NormBase))
