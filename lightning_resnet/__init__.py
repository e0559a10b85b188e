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
    "Digits": "data.sources",
    "Synthetic": "data.sources",
    "FashionMNIST": "data.sources",
    "CIFAR10": "data.sources",
    "CIFAR100": "data.sources",
    "ImageFolder": "data.sources",
    "Source": "data.sources",
    "ImageNet": "data.imagenet",
    "ImageNetV2": "data.imagenet",
    "BetonFiles": "data.betonfiles",
    "Subset": "data.subset",
    "Policy": "data.policy",
    "Lighting": "data.policy",
    "TrivialAugment": "data.policy",
    "RandAugment": "data.policy",
    "IncreasingRandAugment": "data.policy",
    "ImageData": "data.module",
    "Schedule": "optim",
    "Steps": "optim",
    "Annealed": "optim",
    "Cosine": "optim",
    "Linear": "optim",
    "Plateau": "optim",
    "ErrorWarmup": "optim",
    "Mix": "mix",
    "Averaging": "ema",
    "ClassificationTask": "task",
    "GradientNorms": "analysis.callbacks",
    "ResponseStds": "analysis.callbacks",
    "AddedBlocks": "analysis.callbacks",
    "load": "trained",
    "load_runs": "analysis.runs",
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
