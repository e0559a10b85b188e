"""Understand the words that users of other libraries type where a recipe's keys are taken.

`--lr 0.1` stands for `--model.optimizer.lr 0.1`. A short name is a flag where exactly one key ends
so, or where `SHORT` names the key. Names of classes are understood in any case. What has no key of
ours is answered with a sentence. Nothing here imports torch.
"""

import os
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lightning_resnet.errors import UserError, printable
from lightning_resnet.keys import keys

# short names in which no key ends, or several do -> the key that is meant
SHORT = {
    "epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "train_epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "iterations": "trainer.max_steps",
    "iters": "trainer.max_steps",
    "max_iters": "trainer.max_steps",
    "lr": "model.optimizer.lr",
    "learning_rate": "model.optimizer.lr",
    "base_lr": "model.optimizer.lr",
    "lr0": "model.optimizer.lr",
    "wd": "model.optimizer.weight_decay",
    "weight_decay": "model.optimizer.weight_decay",
    "momentum": "model.optimizer.momentum",
    "nesterov": "model.optimizer.nesterov",
    "betas": "model.optimizer.betas",
    "opt": "model.optimizer",
    "optim": "model.optimizer",
    "sched": "model.schedule",
    "scheduler": "model.schedule",
    "lr_scheduler": "model.schedule",
    "lr_schedule": "model.schedule",
    "arch": "model.net",
    "architecture": "model.net",
    "model_name": "model.net",
    "network": "model.net",
    "backbone": "model.net",
    "depth": "model.net.depth",
    "layers": "model.net.depth",
    "num_layers": "model.net.depth",
    "shortcut": "model.net.shortcut",
    "width": "model.net.width",
    "num_classes": "model.net.num_classes",
    "smoothing": "model.label_smoothing",
    "ema_decay": "model.ema.decay",
    "mixup": "model.mix.mixup",
    "mixup_alpha": "model.mix.mixup",
    "cutmix": "model.mix.cutmix",
    "cutmix_alpha": "model.mix.cutmix",
    "dataset": "data.source",
    "batch": "data.batch_size",
    "bs": "data.batch_size",
    "train_batch_size": "data.batch_size",
    "num_workers": "data.workers",
    "img_size": "data.size",
    "image_size": "data.size",
    "input_size": "data.size",
    "crop_size": "data.size",
    "resolution": "data.size",
    "imgsz": "data.size",
    "data_dir": "data.source.root",
    "data_path": "data.source.root",
    "data_root": "data.source.root",
    "hflip": "data.flip",
    "random_erasing": "data.erase",
    "reprob": "data.erase",
    "seed": "seed_everything",
    "random_seed": "seed_everything",
    "manual_seed": "seed_everything",
    "nodes": "trainer.num_nodes",
    "nnodes": "trainer.num_nodes",
    "device": "trainer.accelerator",
    "num_devices": "trainer.devices",
    "ngpus": "trainer.devices",
    "grad_clip": "trainer.gradient_clip_val",
    "clip_grad": "trainer.gradient_clip_val",
    "clip_grad_norm": "trainer.gradient_clip_val",
    "accumulate": "trainer.accumulate_grad_batches",
    "grad_accum": "trainer.accumulate_grad_batches",
    "grad_accum_steps": "trainer.accumulate_grad_batches",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "log_interval": "trainer.log_every_n_steps",
    "log_freq": "trainer.log_every_n_steps",
    "print_freq": "trainer.log_every_n_steps",
    "val_every": "trainer.check_val_every_n_epoch",
    "eval_every": "trainer.check_val_every_n_epoch",
    "dtype": "trainer.precision",
    "exp_name": "run.name",
    "experiment": "run.name",
    "experiment_name": "run.name",
    "run_name": "run.name",
    "dry_run": "run.dry",
    "dryrun": "run.dry",
    "num_threads": "run.threads",
}
# flags of one letter, of fit alone -> the key
LETTERS = {
    "a": "model.net",
    "b": "data.batch_size",
    "e": "trainer.max_epochs",
    "j": "data.workers",
    "s": "seed_everything",
}
# flags that need no value -> the flags that they stand for
SWITCHES = {
    "amp": ["--trainer.precision=bf16-mixed"],
    "bf16": ["--trainer.precision=bf16-mixed"],
    "fp16": ["--trainer.precision=16-mixed"],
    "half": ["--trainer.precision=16-mixed"],
    "fp32": ["--trainer.precision=32-true"],
    "cpu": ["--trainer.accelerator=cpu"],
    "cuda": ["--trainer.accelerator=gpu"],
    "gpu": ["--trainer.accelerator=gpu"],
    "debug": ["--trainer.fast_dev_run=true"],
    "channels_last": ["--model.channels_last=true"],
    "sync_bn": ["--trainer.sync_batchnorm=true"],
}
# last parts of keys that say too little alone
NO_SHORT = ("decay", "mode", "details", "point", "code", "root", "scale", "ckpt_path")
RUNS = "runs lie in ROOT/NAME/ID: give --run.root ROOT, --run.name NAME"
RESUME = (
    "the same command continues a run that was stopped, and --run.init_from FILE starts a new one "
    "from its weights"
)
WEIGHTS = (
    "--run.init_from FILE starts from the weights of a checkpoint or run, --run.init_from "
    "torchvision:NAME, timm:NAME or hf:ORG/REPO from those of others"
)
RANKS = "fit starts the ranks itself: give --trainer.devices N, or start it by srun or torchrun"
# names of a checkpoint, which all verbs but fit take
CHECKPOINTS = ("ckpt_path", "ckpt", "checkpoint", "weights", "resume", "load")
# names of what has no key of its own -> what to do
SAID = {
    "resume": RESUME,
    "resume_from": RESUME,
    "resume_from_checkpoint": RESUME,
    "auto_resume": RESUME,
    "restart": RESUME,
    "ckpt_path": RESUME,
    "ckpt": RESUME,
    "checkpoint": RESUME,
    "continue": RESUME,
    "pretrained": WEIGHTS,
    "weights": WEIGHTS,
    "initial_checkpoint": WEIGHTS,
    "load": WEIGHTS,
    "load_from": WEIGHTS,
    "finetune": WEIGHTS,
    "output": RUNS,
    "out": RUNS,
    "output_dir": RUNS,
    "outdir": RUNS,
    "out_dir": RUNS,
    "save_dir": RUNS,
    "savedir": RUNS,
    "log_dir": RUNS,
    "logdir": RUNS,
    "work_dir": RUNS,
    "root_dir": RUNS,
    "checkpoint_dir": RUNS,
    "local_rank": RANKS,
    "world_size": RANKS,
    "rank": RANKS,
    "dist_url": RANKS,
    "dist_backend": RANKS,
    "ddp": RANKS,
    "distributed": RANKS,
    "wandb": "W&B is --wandb.mode online or offline, --wandb.project NAME",
    "no_wandb": "W&B is off with --wandb.mode disabled",
    "tensorboard": "give --trainer.logger TensorBoardLogger; metrics.jsonl holds each run's values",
    "evaluate": "resnet-cli validate measures a trained run, resnet-cli evaluate in several ways",
    "eval": "resnet-cli validate measures a trained run, resnet-cli evaluate in several ways",
    "test_only": "resnet-cli validate measures a trained run, resnet-cli test its test images",
    "warmup": "warm-up is a part of the schedule: --model.schedule.warmup SHARE, from 0 to below 1",
    "warmup_epochs": "warm-up is a part of the schedule: --model.schedule Cosine "
    "--model.schedule.warmup_epochs N",
    "lr_warmup_epochs": "warm-up is a part of the schedule: --model.schedule Cosine "
    "--model.schedule.warmup_epochs N",
    "min_lr": "--model.schedule Cosine --model.schedule.end takes the last rate as a share of "
    "--model.optimizer.lr",
    "gamma": "Steps has it: --model.schedule.gamma",
    "lr_gamma": "Steps has it: --model.schedule.gamma",
    "lr_step_size": "Steps has its steps as shares of the training: --model.schedule.at [0.5,0.75]",
    "milestones": "Steps has them as shares of the training: --model.schedule.at [0.5,0.75]",
    "dropout": "our nets have none; a net of your own is --model.net module.Class",
    "aa": "augmentation is --data.policy TrivialAugment, RandAugment, ...",
    "augment": "augmentation is --data.policy TrivialAugment, RandAugment, ...",
    "auto_augment": "augmentation is --data.policy TrivialAugment, RandAugment, ...",
    "patience": "early stopping is --trainer.callbacks EarlyStopping "
    "--trainer.callbacks.monitor val/loss --trainer.callbacks.patience N",
    "early_stopping": "it is --trainer.callbacks EarlyStopping --trainer.callbacks.monitor "
    "val/loss",
    "decay": "give --model.optimizer.weight_decay NUMBER, or --model.decay weights|all (what it "
    "acts on)",
    "root": "give --data.source.root DIR for images, or --run.root DIR for runs",
    "val_split": "a source knows its splits; --data.source.holdout N validates on N of the "
    "training images",
    "v": "-q prints less, and metrics.jsonl of the run holds each value",
    "verbose": "-q prints less, and metrics.jsonl of the run holds each value",
    "overwrite": "a run is never overwritten: --run.new begins another one",
    "exist_ok": "a run is never overwritten: --run.new begins another one",
    "force": "a run is never overwritten: --run.new begins another one",
}
# words for precisions and other choices -> the words that we take
SYNONYMS = {
    "trainer.precision": {
        "fp16": "16-mixed",
        "float16": "16-mixed",
        "half": "16-mixed",
        "amp": "bf16-mixed",
        "mixed": "bf16-mixed",
        "bfloat16": "bf16-mixed",
        "fp32": "32-true",
        "float32": "32-true",
        "full": "32-true",
        "fp64": "64-true",
        "float64": "64-true",
    },
    "trainer.logger": {
        "wandb": "--wandb.mode online",
        "tensorboard": "TensorBoardLogger",
        "csv": "CSVLogger",
    },
    "model.loss": {"ce": "cross_entropy", "crossentropy": "cross_entropy"},
    "model.net.shortcut": {"identity": "A", "zero_pad": "A", "projection": "B", "plain": "none"},
}
SECTIONS = ("trainer", "model", "data", "run", "wandb")
# names of nets, as other libraries have them: ours by their depth
CIFAR_DEPTHS = ("20", "32", "44", "56", "110", "1202")
IMAGENET_DEPTHS = ("18", "34", "50", "101", "152")
PATHS = {  # section of a recipe -> what to give in place of a class or a word
    "model": "the task is always ours: choose --model.net CLASS, --model.optimizer CLASS, "
    "--model.hooks CLASS",
    "data": "for images in one folder per class give --data FOLDER; else --data.source CLASS, your "
    "own Source too, because the data module is always ours",
    "trainer": "the trainer is always Lightning's: give its options, such as "
    "--trainer.max_epochs 5",
}
AS_IT_IS = ("config", "print_config", "print_shtab", "trainer", "run")

Pairs = list[tuple[str, str | None]]  # flags without dashes, each with its value


def understood(
    words: Sequence[str],
    verb: str = "fit",
    own: Collection[str] | None = None,
    tells: bool = True,
) -> list[str]:
    """Return the words of a command line with the true key for each short name.

    Args:
        words: the command line after the verb.
        verb: the verb.
        own: flags of the verb itself, which are left as they are; None: it takes a recipe's keys
            alone, and then flags of one letter are short names too.
        tells: whether to print once, to stderr, which key each short name is.

    Raises:
        UserError: a flag has no key; the message says what to do.
    """
    found: list[str] = []
    told: dict[str, None] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*found, word, *rest]
        flag, has_equals, value = word.partition("=")
        is_key = is_flag(flag)
        if own is not None:
            is_key = flag[:2] == "--" and not any(other.startswith(flag) for other in own)
            is_key = is_key and _plain(flag) not in SAID
        if not is_key:
            found.append(word)
            continue
        given: str | None = value if has_equals else None
        if not has_equals and rest and not is_flag(rest[0]):
            given = rest[0]
        if verb != "fit" and own is None and _plain(flag) in CHECKPOINTS:
            meant: Pairs | None = [("ckpt_path", given)]
        else:
            meant = _meant(flag, given)
        if meant is None:  # the value may be a word of its own
            found.append(word)
            continue
        if given is not None and not has_equals and _takes_value(flag, given):
            rest.pop(0)
        for key, its_value in meant:
            found += [f"--{key}"] if its_value is None else _as_words(key, its_value)
        told |= dict.fromkeys(_told(flag, given, meant))
    if told and tells and _is_first():
        print(printable("; ".join(told)), file=sys.stderr)
    return found


def is_flag(word: str) -> bool:
    """Tell whether a word of a command line is a flag; a negative number is none."""
    return re.match(r"--?[A-Za-z]", word) is not None


def _as_words(key: str, value: str) -> list[str]:
    """Return a flag and its value as words of a command line."""
    return [f"--{key}={value}"] if value.startswith("-") or not value else [f"--{key}", value]


def _is_first() -> bool:
    """Tell whether no other process with the same command line prints the same."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID"))


def _takes_value(flag: str, value: str) -> bool:
    """Tell whether the word after a flag is the flag's value."""
    return _plain(flag) not in SWITCHES or value in ("true", "false")


def _plain(flag: str) -> str:
    """Return the name of a flag, with underscores."""
    return flag.lstrip("-").rstrip("+").replace("-", "_").lower()


def _told(flag: str, value: str | None, meant: Pairs) -> list[str]:
    """Return what to tell of a short name; nothing of a key that is given in full."""
    name = flag.removeprefix("--").rstrip("+")
    keys_meant = [key.rstrip("+") for key, _ in meant]
    if keys_meant == [name]:
        return []
    if len(meant) == 1 and (_plain(flag) not in SWITCHES) and name not in ("data", "model"):
        return [f"{flag} is --{keys_meant[0]}"]
    shown = " ".join(f"--{key} {its_value}" for key, its_value in meant)
    typed = flag
    if value is not None and _plain(flag) not in SWITCHES:
        typed = f"{flag} {value}"
    return [f"{typed} is {shown}"]


def _meant(flag: str, value: str | None) -> Pairs | None:
    """Return the keys that a flag stands for, with their values; None: the flag stays as it is.

    Raises:
        UserError: the flag has no key; the message says what to do.
    """
    name = flag.lstrip("-")
    plus = "+" if name.endswith("+") else ""
    name = name.rstrip("+")
    if name in AS_IT_IS and flag.startswith("--") or name.endswith(".help"):
        return None
    if name in ("model", "data", "wandb") and flag.startswith("--"):
        return _of_section(name, value)
    key = key_of(flag)
    if key is None and _plain(flag) == "gpus":
        return _gpus(value)
    if key is None and _plain(flag) in SWITCHES:
        return _switch(flag, value)
    if key is None:
        if said := SAID.get(_plain(flag)):
            raise UserError(f"there is no {flag}: {said}")
        return None
    return _with_value(key, plus, value)


def key_of(flag: str) -> str | None:
    """Return the key of a recipe that a flag stands for; None without one, or with several."""
    name = flag.lstrip("-").rstrip("+")
    if not flag.startswith("--") and len(name) == 1:
        return LETTERS.get(name)
    if name in keys() and name != "ckpt_path":
        return name
    if _class_key(name):
        return name
    plain = _plain(flag)
    if plain in SHORT:
        return SHORT[plain]
    if plain in NO_SHORT or plain in SAID:
        return None
    ends = [key for key in keys() if key.endswith(f".{plain}")]
    if not ends and "." in plain:
        ends = [key for key in sorted(set(SHORT.values())) if key.endswith(f".{plain}")]
    return ends[0] if len(ends) == 1 else None


def _class_key(name: str) -> str | None:
    """Return the key of a class that a dotted name is below; None: it is below none."""
    return next((key for key in keys() if keys()[key].classes and name.startswith(f"{key}.")), None)


def _with_value(key: str, plus: str, value: str | None) -> Pairs:
    """Return a key with the value as the parser takes it: true for a switch, the class's name."""
    record = keys().get(key)
    if value is None:
        is_switch = record is not None and "bool" in record.kinds and "other" not in record.kinds
        return [(key + plus, "true" if is_switch else None)]
    base = key.removesuffix(".class_path")
    if base in keys() and keys()[base].classes:
        if base == "model.net" and (net := _net(value)):
            return net
        return [(key + plus, true_name(base, value))]
    if key == "trainer.accelerator" and re.fullmatch(r"(cuda|gpu):\d+", value):
        return [(key, "gpu"), ("trainer.devices", f"[{value.rpartition(':')[2]}]")]
    return [(key + plus, value)]


def _net(name: str) -> Pairs | None:
    """Return class and depth of a net by a name such as resnet50 or plain20; None: another name."""
    found = re.fullmatch(r"(res_?net|plain)[-_]?(\d+)", name.lower())
    if not found:
        return None
    cls = "ImageNetResNet" if found[2] in IMAGENET_DEPTHS else "CifarResNet"
    if cls == "CifarResNet" and found[2] not in CIFAR_DEPTHS:
        return None
    meant: Pairs = [("model.net", cls), ("model.net.depth", found[2])]
    if found[1] == "plain":
        return [*meant, ("model.net.shortcut", "none")]
    # The names are of nets with projections (ImageNet) or with zero padding (CIFAR).
    shortcut = "B" if cls == "ImageNetResNet" else "A"
    return [*meant, ("model.net.shortcut", shortcut)]


def true_name(key: str, name: str) -> str:
    """Return the name of a class as the class is written; another text as it is.

    Args:
        key: key of a recipe that takes classes, such as `data.source`.
        name: name in any case, perhaps with dashes or underscores.
    """
    listed = keys()[key].classes
    if name in listed:
        return name
    found = [cls for cls in listed if _letters(cls) == _letters(name)]
    return found[0] if len(found) == 1 else name


def true_classes(tree: Any, prefix: str = "") -> Any:
    """Return a recipe with the name of each class as the class is written.

    Args:
        tree: content of a recipe; anything else is returned as it is.
        prefix: dotted key of `tree`, with a dot at the end.
    """
    if not isinstance(tree, dict):
        return tree
    found = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        base = key.removesuffix(".class_path")
        if base in keys() and keys()[base].classes and isinstance(value, str):
            found[name] = true_name(base, value)
        else:
            found[name] = true_classes(value, f"{key}.") if isinstance(name, str) else value
    return found


def _letters(name: str) -> str:
    return re.sub("[-_ ]", "", name).lower()


def _gpus(value: str | None) -> Pairs:
    """Return the keys for --gpus N: their number, or which ones."""
    if value is None or value == "0":
        raise UserError("--gpus needs a number, such as --gpus 2, or all; for none: --cpu")
    devices = "-1" if value == "all" else value
    return [("trainer.devices", devices), ("trainer.accelerator", "gpu")]


def _switch(flag: str, value: str | None) -> Pairs:
    """Return the keys for a flag that needs no value."""
    if value == "false":
        raise UserError(f"{flag} false: leave {flag} out")
    meant = [word.removeprefix("--").partition("=") for word in SWITCHES[_plain(flag)]]
    return [(key, its_value) for key, _, its_value in meant]


def _of_section(name: str, value: str | None) -> Pairs | None:
    """Return the keys for --data X, --model X, --wandb X; None: X is a file of options.

    Raises:
        UserError: X is neither a file nor a class; the message says what to give.
    """
    if name == "wandb":
        if value is None or not Path(value).is_file():
            raise UserError(f"there is no --wandb: {SAID['wandb']}")
        return None
    key = "model.net" if name == "model" else "data.source"
    if value and Path(value).is_file() and Path(value).suffix not in (".yaml", ".yml", ".json"):
        raise UserError(f"--{name} {printable(value, 60)} is a file; {PATHS[name]}")
    if value is None or Path(value).is_file() or value[:1] in ("{", "[", ""):
        return None
    if name == "data" and Path(value).is_dir():
        return [("data.source", "ImageFolder"), ("data.source.root", value)]
    if re.fullmatch(r"[\w-]+", value):
        return _with_value(key, "", value)
    raise UserError(f"--{name} {printable(value, 60)} is no file of options; {PATHS[name]}")
