"""Train, measure and compare plain and residual networks (He et al. 2015).

The classes that a recipe can name stand here, whatever module defines them: `class_path: lightning_resnet.Steps`, or
just `Steps`. So do the ways in for a notebook: `from lightning_resnet import CifarResNet, load_runs`. Each is imported
when it is first asked for, because torch takes seconds to import.
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
    "Mix": "training.mixup",
    "Averaging": "training.ema",
    "ClassificationTask": "training.task",
    "GradientNorms": "training.callbacks",
    "ResponseStds": "training.callbacks",
    "AddedBlocks": "training.callbacks",
    "load": "weights.trained",
    "load_runs": "analysis.compare.load",
}
__all__ = [*PUBLIC]  # noqa: PLE0604 -- the keys are the names


def __getattr__(name: str) -> object:
    """Import a public name's module, or look the version up.

    Raises:
        AttributeError: there is no such name.
    """
    if name == "__version__":
        from importlib.metadata import version  # which is slow to import, and a Ctrl-C in it is a traceback

        return version(__name__)
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
