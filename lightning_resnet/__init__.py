"""Train, measure and compare plain and residual networks (He et al. 2015).

This module has all classes that a recipe can name, whatever module defines them: `class_path:
lightning_resnet.Steps`, or just `Steps`. It also has the functions for scripts and notebooks: fit,
load, evaluate, compare, load_runs, gradients, blocks (docs/python.md). Each name is imported at its
first use, because torch takes seconds to import; `__init__.pyi` tells the names to editors.
"""

from importlib import import_module

PUBLIC = {  # name -> the module that defines it
    "CifarResNet": "models",
    "ImageNetResNet": "models",
    "blocks": "models",
    "Digits": "data.sources.digits",
    "Synthetic": "data.sources.synthetic",
    "FashionMNIST": "data.sources.fashion_mnist",
    "CIFAR10": "data.sources.cifar",
    "CIFAR100": "data.sources.cifar",
    "ImageFolder": "data.sources.folder",
    "Source": "data.sources.base",
    "ImageNet": "data.sources.imagenet",
    "ImageNetV2": "data.sources.imagenet",
    "WebDataset": "data.sources.shards",
    "Parquet": "data.sources.shards",
    "BetonFiles": "data.sources.beton_files",
    "Subset": "data.sources.subset",
    "Policy": "data.augment.policies",
    "Lighting": "data.augment.policies",
    "TrivialAugment": "data.augment.policies",
    "RandAugment": "data.augment.policies",
    "IncreasingRandAugment": "data.augment.policies",
    "ImageData": "data.module",
    "Schedule": "training.schedules",
    "Steps": "training.schedules",
    "Annealed": "training.schedules",
    "Cosine": "training.schedules",
    "Linear": "training.schedules",
    "Plateau": "training.schedules",
    "ErrorWarmup": "training.schedules",
    "ConvMuon": "training.optimizer",
    "Mix": "training.mixup",
    "Averaging": "training.ema",
    "ClassificationTask": "training.task",
    "TrainingHooks": "training.hooks",
    "GradientNorms": "training.callbacks",
    "ResponseStds": "training.callbacks",
    "AddedBlocks": "training.callbacks",
    "Curvature": "training.callbacks",
    "UserError": "errors",
    "fit": "api.training",
    "load": "api.results",
    "evaluate": "api.results",
    "compare": "api.results",
    "load_runs": "analysis.compare.load",
    "gradients": "analysis.inspection.gradients",
}
__all__ = [*PUBLIC]  # noqa: PLE0604 -- the keys are the names


def __getattr__(name: str) -> object:
    """Import the module of a public name, or look up the version.

    Raises:
        AttributeError: there is no such name.
    """
    if name == "__version__":
        # A Ctrl-C during this slow import would be a traceback, so it is not at the top.
        from importlib.metadata import version

        return version(__name__)
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, also those that are not imported yet."""
    return sorted({*globals(), *PUBLIC, "__version__"})
