"""Identity of a run: the part of a configuration that decides the result, and the id made of it."""

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
from lightning_resnet.runs.names import is_hub_name

# Options of the trainer that decide a run's result; the others are about where and how to run.
TRAINER_KEYS = (
    "max_epochs",
    "max_steps",
    "min_epochs",
    "min_steps",
    "precision",
    "deterministic",
    "matmul_precision",
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
MODEL_KEYS_WITHOUT_EFFECT = ("graph",)
# Plugins that only write the files of callbacks.
SAVING = re.compile(r"(pytorch_lightning|lightning_fabric)\..*CheckpointIO$")
ADDED_BLOCKS = "lightning_resnet.AddedBlocks"
# Callbacks that do not change the training; others may, such as EarlyStopping.
OBSERVERS = (
    "lightning_resnet.GradientNorms",
    "lightning_resnet.ResponseStds",
    "lightning_resnet.Curvature",
    ADDED_BLOCKS,  # unless its recipe lets it freeze layers
    "pytorch_lightning.callbacks.DeviceStatsMonitor",
    "pytorch_lightning.callbacks.LearningRateMonitor",
    "pytorch_lightning.callbacks.ModelCheckpoint",
    "pytorch_lightning.callbacks.ModelSummary",
    "pytorch_lightning.callbacks.RichModelSummary",
    "pytorch_lightning.callbacks.RichProgressBar",
    "pytorch_lightning.callbacks.ThroughputMonitor",
    "pytorch_lightning.callbacks.TQDMProgressBar",
)
# Modules in which classes of this package were when ids were first made of their import paths. The
# table is frozen, because it keeps the ids of all runs. A class that is not in the table enters an
# id by its name alone.
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
# Classes that took no arguments when ids were first made of them.
HAD_NO_ARGUMENTS = ("lightning_resnet.Digits",)
OWN_CLASS = re.compile(r"lightning_resnet\.(?:\w+\.)*(\w+)")


def result_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved configuration that decides the result.

    Paths are cut to their last component. Null values are left out: an option that is added later
    is null by default, and so does not change the ids of older runs.
    """
    config = with_public_paths(config)
    trainer = config.get("trainer", {})
    data = {k: v for k, v in config["data"].items() if k not in DATA_KEYS_WITHOUT_EFFECT}
    callbacks = [_deciding(c) for c in trainer.get("callbacks") or [] if _decides(c)]
    model = {k: v for k, v in config["model"].items() if k not in MODEL_KEYS_WITHOUT_EFFECT}
    plugins = [p for p in trainer.get("plugins") or [] if not SAVING.match(p["class_path"])]
    weights = config.get("run", {}).get("init_from")
    if weights and not is_hub_name(weights):  # a name stands for its content
        weights = _digest_file(weights, "--run.init_from")
    trainer_part = {key: trainer.get(key) for key in TRAINER_KEYS}
    trainer_part["callbacks"] = callbacks or None
    trainer_part["plugins"] = plugins or None
    return _without_nulls(
        {
            "seed_everything": config["seed_everything"],
            "model": model,
            "data": _without_folders(data),
            "trainer": trainer_part,
            "init_from": weights or None,
        }
    )


def decides(key: str) -> bool:
    """Tell whether an option can decide the result, by its dotted key; paths of data cannot."""
    part, _, rest = key.partition(".")
    name = rest.partition(".")[0]
    if part == "data":
        return name not in DATA_KEYS_WITHOUT_EFFECT and not key.endswith(".root")
    if part == "model":
        return name not in MODEL_KEYS_WITHOUT_EFFECT
    if part == "trainer":
        return name in (*TRAINER_KEYS, "callbacks", "plugins")
    return key in ("seed_everything", "run.init_from")


def run_id(config: dict[str, Any]) -> str:
    """Return the id of a run: ten hexadecimal digits, a hash of what decides the result."""
    text = json.dumps(_with_first_paths(result_config(config)), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def public_path(text: str) -> str:
    """Return the public import path of a class of this package.

    The path of `lightning_resnet.optim.Steps`, for example, is `lightning_resnet.Steps`. Older
    versions wrote the paths of the modules that had the classes then. Any other text is returned
    unchanged.
    """
    match = OWN_CLASS.fullmatch(text)
    return f"lightning_resnet.{match[1]}" if match and match[1] in PUBLIC else text


def with_public_paths(tree: Any) -> Any:
    """Return a configuration with the public import path for each class of this package."""
    if isinstance(tree, dict):
        return {key: with_public_paths(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [with_public_paths(item) for item in tree]
    return public_path(tree) if isinstance(tree, str) else tree


def _with_first_paths(tree: Any) -> Any:
    """Return the tree with each class of this package named by `FIRST_MODULES` or its bare name."""
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
    """Return the directory of the k-th replicate of a run; the first has no number."""
    return path.with_name(f"{path.name}-{k}") if k > 1 else path


def read_recipe(text: Any, path: Path) -> dict[str, Any]:
    """Read the recipe of a checkpoint or run directory; no YAML tag can create an object.

    Args:
        text: the recipe as YAML.
        path: the checkpoint or run directory, for the message.

    Raises:
        UserError: the text is no mapping, or would grow out of proportion.
    """
    if not isinstance(text, str) or len(text) > LARGEST:
        raise UserError(
            f"{path} holds no recipe: it is not text, or of more than {LARGEST:,} characters"
        )
    try:
        content = parse_yaml(text)
    except UserError as e:
        raise UserError(f"the recipe of {path}: {e}") from e
    if not isinstance(content, dict):
        raise UserError(f"the recipe of {path} is not a mapping")
    return with_public_paths(content)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one level with dotted keys."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return a line `key: a -> b` for each key in which two configurations differ."""
    return [f"{key}: {old} -> {new}" for key, (old, new) in differing(a, b).items()]


def differing(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return both values of each key in which two configurations differ."""
    a = flatten(with_public_paths(a))
    b = flatten(with_public_paths(b))
    return {k: (a.get(k), b.get(k)) for k in sorted(a | b) if a.get(k) != b.get(k)}


def _without_nulls(tree: Any) -> Any:
    """Return nested mappings without the keys whose value is null."""
    if not isinstance(tree, dict):
        return tree
    kept = {k: _without_nulls(v) for k, v in tree.items() if v is not None}
    if kept.get("class_path") in HAD_NO_ARGUMENTS and kept.get("init_args") == {}:
        del kept["init_args"]
    return kept


def _without_folders(data: Any, key: str = "") -> Any:
    """Return the data's configuration with paths cut to their last component."""
    if isinstance(data, dict):
        return {k: _without_folders(v, k) for k, v in data.items()}
    if isinstance(data, str):
        path = data.partition("?")[0] if "://" in data else data  # a query says how to fetch
        if key == "root" or path.endswith(".beton"):
            return Path(path).name
    return data


def _freezes(callback: dict[str, Any]) -> bool:
    """Tell whether a callback is an AddedBlocks that was told to freeze the other layers.

    Recipes of older versions leave it to the checkpoint whether AddedBlocks freezes. Their runs
    keep their ids, which are also those of the same training without AddedBlocks.
    """
    arguments = callback.get("init_args") or {}
    return callback["class_path"] == ADDED_BLOCKS and arguments.get("freeze") is True


def _decides(callback: dict[str, Any]) -> bool:
    """Tell whether a callback may change the training."""
    return callback["class_path"] not in OBSERVERS or _freezes(callback)


def _deciding(callback: dict[str, Any]) -> dict[str, Any]:
    """Return what a callback contributes to the result: content of its checkpoint, not the path."""
    if not _freezes(callback):
        return callback
    option = "the checkpoint of AddedBlocks"
    digest = _digest_file(callback["init_args"]["checkpoint"], option)
    return callback | {"init_args": callback["init_args"] | {"checkpoint": digest}}


def _digest_file(path: str, option: str) -> str:
    """Return a hash of a file's content.

    Args:
        path: path of the file.
        option: what names the file, for the message.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open_plain(path) as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:20]
    except OSError as e:
        raise UserError(f"cannot read {option} {path}: {e.strerror}") from e


def resolve_class(path: str) -> Any:
    """Return the object that a class_path names, as jsonargparse does.

    `pkgutil.resolve_name` alone would return the module `torchvision.models.googlenet`, not the
    function of that name.

    Raises:
        ValueError, ImportError, AttributeError: the path names nothing.
    """
    parent, _, name = path.rpartition(".")
    if parent:
        with suppress(ImportError, AttributeError):
            return getattr(resolve_name(parent), name)
    return resolve_name(path)
