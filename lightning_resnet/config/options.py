"""Define the options of a run, and refuse options before anything is built.

Callbacks, plugins and hooks are refused in engine/refused.py.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jsonargparse import Namespace

from lightning_resnet.engine.halving import Hyperband
from lightning_resnet.engine.launch import refuse_gpus
from lightning_resnet.errors import UserError
from lightning_resnet.flags import check_trainer


@dataclass
class RunOptions:
    """Options that say where a run is kept and how it starts.

    Args:
        root: folder of all runs.
        name: folder of the runs of this recipe; default: the recipe's file name.
        new: begin the next replicate instead of continuing.
        replicate: number of the replicate to begin or continue; the first is the run itself.
        must_resume: refuse to begin a run: there must be a checkpoint to continue from.
        init_from: run or checkpoint to take the weights from, and nothing else; or weights by name:
            torchvision:NET.WEIGHTS | timm:NET.TAG | hf:ORG/REPO/FILE | https://...#sha256=...
        threads: threads of torch on the CPU, per rank; default: all cores, or what the run began
            with.
        save_minutes: minutes between two checkpoints within an epoch.
        keep: checkpoints of a finished run: all (last, prev, best) | weights (last and best,
            without what only a continuation needs) | none.
        keep_epochs: keep the weights after every so many epochs, as epoch-005.ckpt and so on; null:
            none.
        hang_s: seconds without a step after which a rank is taken to hang, tells where, and ends
            the run.
        elastic: go on with the ranks that are left where torchrun or slurm/fit.sbatch starts the
            training again after a loss: wait until the attempt that was lost counts as dead,
            instead of refusing. Their number must divide the batch.
        point: key of the sweep point that this run is; then a run of another name that has the
            same id is continued.
        label: readable name of a link next to the run, which leads to it; default: of the flags
            that were given.
        dry: train a few steps and evaluate a few batches in a temporary folder, forecast time and
            memory of the complete training, and keep nothing.
        code: commit that a sweep was submitted with; if another one runs, a warning says so and
            the run records it.
        hyperband: metric, goal, brackets, eta and strict of a sweep's early_terminate: the run ends
            where other runs in its folder are better; null: it goes on to its end.
    """

    root: str = "runs"
    name: str | None = None
    new: bool = False
    replicate: int = 1
    must_resume: bool = False
    init_from: str | None = None
    threads: int | None = None
    save_minutes: float = 10.0
    keep: Literal["all", "weights", "none"] = "all"
    keep_epochs: int | None = None
    hang_s: float = 600.0
    elastic: bool = False
    point: str | None = None
    label: str | None = None
    dry: bool = False
    code: str | None = None
    hyperband: Hyperband | None = None


def local_devices(trainer: Namespace) -> int:
    """Return the number of ranks on this node, one per device, that the options ask for."""
    devices = trainer.devices
    if isinstance(devices, str) and devices.isdigit():
        return int(devices)
    if devices in ("auto", "-1", -1):
        return max(1, torch.cuda.device_count()) if gpus(trainer) else 1
    if isinstance(devices, str):
        return len([d for d in devices.split(",") if d])
    return devices if isinstance(devices, int) else len(devices)


def refuse_gpus_on_cpu(trainer: Namespace, is_placed: bool) -> None:
    """Refuse a choice of GPUs for a training on the CPU, where torch tells that it is one.

    Args:
        trainer: options of the trainer.
        is_placed: whether a launcher has told how many ranks there are; then -1 stands for these.

    Raises:
        UserError: the options choose GPUs, and the training runs on the CPU.
    """
    on_cpu = trainer.accelerator == "cpu"
    if trainer.accelerator == "auto":
        on_cpu = not torch.cuda.is_available() and not torch.backends.mps.is_available()
    if on_cpu:
        refuse_gpus(trainer.devices, is_placed)


def check_gpus(trainer: Namespace, are_all_here: bool) -> None:
    """Refuse GPUs that torch does not see.

    Args:
        trainer: options of the trainer.
        are_all_here: whether this process should see the GPUs of all ranks of the node.

    Raises:
        UserError: torch sees no GPU, or fewer than are asked for.
    """
    if trainer.accelerator not in ("auto", "gpu", "cuda"):
        return
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    is_mac = trainer.accelerator == "gpu" and torch.backends.mps.is_available()
    if not here and trainer.accelerator != "auto" and not is_mac:
        raise UserError(
            f"--trainer.accelerator {trainer.accelerator}: torch {torch.__version__} sees no GPU: "
            "resnet-cli doctor tells why; --trainer.accelerator cpu trains on the CPU"
        )
    asked = trainer.devices
    if (
        are_all_here
        and here
        and isinstance(asked, int | str)
        and str(asked).isdecimal()
        and int(asked) > here
    ):
        raise UserError(
            f"--trainer.devices {asked}: this machine has {here}: --trainer.devices {here}, with "
            f"--trainer.accumulate_grad_batches {-(-int(asked) // here)} for the memory"
        )


def gpus(trainer: Namespace) -> bool:
    """Return whether the trainer's options and this machine give GPUs."""
    return trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def check(config: Namespace) -> None:
    """Refuse options that would end in a traceback, or that our loop has another way for.

    Args:
        config: all options, parsed.

    Raises:
        UserError: the option, and what to use instead.
    """
    run = config.run
    trainer = config.trainer
    # Lightning takes true and false for no seed, or for PL_GLOBAL_SEED, else 0
    if isinstance(config.seed_everything, bool):
        given = str(config.seed_everything).lower()
        raise UserError(
            f"--seed_everything must be a number that the run can record, got {given}: give a "
            "whole number, or leave it out for 0"
        )
    for name in ("run.init_from", "ckpt_path", "data.stage"):
        if config.get(name) == "":
            raise UserError(
                f"--{name} is empty, as a variable of the shell is that is not set: leave it out, "
                "or set it"
            )
    if run.root.startswith("~"):
        raise UserError(
            f"--run.root {run.root}: only a shell makes a home folder of ~, and not after =: write "
            "it out"
        )
    if "$" in run.root:
        raise UserError(
            f"--run.root {run.root}: only a shell fills in a variable, and not in single quotes: "
            "write the path out, or use double quotes"
        )
    unlimited = (
        trainer.max_epochs in (None, -1) and trainer.max_steps is not None and trainer.max_steps > 0
    )
    if not unlimited and (trainer.max_epochs or 0) < 1:
        raise UserError(
            "--trainer.max_epochs must be 1 or more, such as --epochs 10: schedules are fractions "
            "of the training"
        )
    check_trainer(trainer)
    has_graphs = config.model.compile in ("reduce-overhead", "max-autotune")
    has_graphs = has_graphs and config.model.graph is False
    if has_graphs and trainer.accumulate_grad_batches > 1 and gpus(trainer):
        raise UserError(
            f"--model.compile {config.model.compile} keeps gradients in the memory of CUDA graphs, "
            "where no micro-batch can add to another's: leave out --model.graph false, or use "
            "--model.compile true, or --trainer.accumulate_grad_batches 1"
        )
    if trainer.sync_batchnorm and config.model.bn_batch:
        raise UserError("--trainer.sync_batchnorm and --model.bn_batch exclude each other")
