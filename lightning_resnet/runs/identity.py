"""What a run is: the part of a configuration that decides its result, and the id made of it."""

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from lightning_resnet import PUBLIC
from lightning_resnet.errors import UserError
from lightning_resnet.reading import LARGEST, open_plain, parse_yaml

# What decides a run's result; the rest of the trainer is about where and how to run.
TRAINER_KEYS = (
    "max_epochs",
    "max_steps",
    "min_epochs",
    "min_steps",
    "precision",
    "deterministic",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "limit_val_batches",
    "check_val_every_n_epoch",
    "fast_dev_run",
    "overfit_batches",
    "sync_batchnorm",
    "log_every_n_steps",  # the interval over which ErrorWarmup watches the training error
)
DATA_KEYS_WITHOUT_EFFECT = ("workers", "cache", "stage")
SAVING = re.compile(r"(pytorch_lightning|lightning_fabric)\..*CheckpointIO$")  # plugins that write files of callbacks
# Callbacks that leave the training alone; others may change it, such as EarlyStopping.
OBSERVERS = (
    "lightning_resnet.GradientNorms",
    "lightning_resnet.ResponseStds",
    "lightning_resnet.AddedBlocks",
    "pytorch_lightning.callbacks.DeviceStatsMonitor",
    "pytorch_lightning.callbacks.LearningRateMonitor",
    "pytorch_lightning.callbacks.ModelCheckpoint",
    "pytorch_lightning.callbacks.ModelSummary",
    "pytorch_lightning.callbacks.RichModelSummary",
    "pytorch_lightning.callbacks.RichProgressBar",
    "pytorch_lightning.callbacks.ThroughputMonitor",
    "pytorch_lightning.callbacks.TQDMProgressBar",
)
# The modules that classes of this package stood in when ids were first made of their import paths. The table is frozen:
# it keeps the ids of all runs. A class that is not in it enters an id by its name alone.
FIRST_MODULES = {
    "CifarResNet": "models",
    "ImageNetResNet": "models",
    "Digits": "data.sources",
    "Synthetic": "data.sources",
    "FashionMNIST": "data.sources",
    "CIFAR10": "data.sources",
    "CIFAR100": "data.sources",
    "ImageFolder": "data.sources",
    "ImageNet": "data.imagenet",
    "ImageNetV2": "data.imagenet",
    "BetonFiles": "data.betonfiles",
    "Subset": "data.subset",
    "Lighting": "data.policy",
    "TrivialAugment": "data.policy",
    "RandAugment": "data.policy",
    "IncreasingRandAugment": "data.policy",
    "Steps": "optim",
    "Cosine": "optim",
    "Linear": "optim",
    "Plateau": "optim",
    "ErrorWarmup": "optim",
}
OWN_CLASS = re.compile(r"lightning_resnet\.(?:\w+\.)*(\w+)")


def result_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that decides the result; of paths only the last component.

    What is null is left out: an option that joins later is null by default, and leaves the ids of older runs alone.
    """
    config = with_public_paths(config)
    trainer = config.get("trainer", {})
    data = {k: v for k, v in config["data"].items() if k not in DATA_KEYS_WITHOUT_EFFECT}
    callbacks = [c for c in trainer.get("callbacks") or [] if c["class_path"] not in OBSERVERS]
    plugins = [p for p in trainer.get("plugins") or [] if not SAVING.match(p["class_path"])]
    run = config.get("run", {})
    return _given(
        {
            "seed_everything": config["seed_everything"],
            "model": config["model"],
            "data": _without_folders(data),
            "trainer": {k: trainer.get(k) for k in TRAINER_KEYS}
            | {"callbacks": callbacks or None, "plugins": plugins or None},
            "init_from": _digest_file(run["init_from"]) if run.get("init_from") else None,
        }
    )


def run_id(config: dict[str, Any]) -> str:
    """Ten hexadecimal digits: a hash of what decides the result."""
    text = json.dumps(_with_first_paths(result_config(config)), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def public_path(text: str) -> str:
    """Return `lightning_resnet.Steps` for `lightning_resnet.optim.Steps`, and so for each public class of this package.

    Older versions wrote the paths of the modules in which the classes stood then. Any other text is returned as it is.
    """
    match = OWN_CLASS.fullmatch(text)
    return f"lightning_resnet.{match[1]}" if match and match[1] in PUBLIC else text


def with_public_paths(tree: Any) -> Any:
    """Return a configuration in which each import path of a class of this package is the public one."""
    if isinstance(tree, dict):
        return {key: with_public_paths(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [with_public_paths(item) for item in tree]
    return public_path(tree) if isinstance(tree, str) else tree


def _with_first_paths(tree: Any) -> Any:
    """Return the tree with each class of this package named as `FIRST_MODULES` says, else by its bare name."""
    if isinstance(tree, dict):
        return {key: _with_first_paths(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_first_paths(item) for item in tree]
    match = OWN_CLASS.fullmatch(tree) if isinstance(tree, str) else None
    if match is None or match[1] not in PUBLIC:
        return tree
    name = match[1]
    return f"lightning_resnet.{FIRST_MODULES[name]}.{name}" if name in FIRST_MODULES else name


def replicate_dir(path: Path, k: int) -> Path:
    """Directory of the k-th run of one id; the first has no number."""
    return path.with_name(f"{path.name}-{k}") if k > 1 else path


def read_recipe(text: Any, path: Path) -> dict[str, Any]:
    """Read the recipe of a checkpoint or run directory; no tag of its YAML makes an object.

    Args:
        text: YAML.
        path: where it was, for the message.

    Raises:
        UserError: it is no mapping, or would grow out of proportion.
    """
    if not isinstance(text, str) or len(text) > LARGEST:
        raise UserError(f"{path} holds no recipe: it is not text, or of more than {LARGEST:,} characters")
    try:
        content = parse_yaml(text)
    except UserError as e:
        raise UserError(f"the recipe of {path}: {e}") from e
    if not isinstance(content, dict):
        raise UserError(f"the recipe of {path} is not a mapping")
    return with_public_paths(content)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> one level with dotted keys."""
    flat = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Lines `key: a -> b` for each key on which two configurations differ."""
    a = flatten(with_public_paths(a))
    b = flatten(with_public_paths(b))
    return [f"{k}: {a.get(k)} -> {b.get(k)}" for k in sorted(a | b) if a.get(k) != b.get(k)]


def _given(tree: Any) -> Any:
    """Without what is null."""
    return {k: _given(v) for k, v in tree.items() if v is not None} if isinstance(tree, dict) else tree


def _without_folders(data: Any, key: str = "") -> Any:
    if isinstance(data, dict):
        return {k: _without_folders(v, k) for k, v in data.items()}
    return Path(data).name if isinstance(data, str) and (key == "root" or data.endswith(".beton")) else data


def _digest_file(path: str) -> str:
    try:
        with open_plain(path) as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:20]
    except OSError as e:
        raise UserError(f"cannot read --run.init_from {path}: {e.strerror}") from e


def resolve_class(path: str) -> Any:
    """Return what a class_path names, as jsonargparse does.

    `pkgutil.resolve_name` alone takes `torchvision.models.googlenet` for the module of that name, not the function.

    Raises:
        ValueError, ImportError, AttributeError: it names nothing.
    """
    parent, _, name = path.rpartition(".")
    if parent:
        with suppress(ImportError, AttributeError):
            return getattr(resolve_name(parent), name)
    return resolve_name(path)
