"""Runs, nets and checkpoints, looked into: `compare` (without torch), `inspection` and `evaluation`.

`from lightning_resnet.analysis import load_runs` is the way in; `resnet-cli compare` makes the report of it.
"""

from importlib import import_module
from typing import Any

__all__ = ["Runs", "load_runs"]


def __getattr__(name: str) -> Any:
    """Import pandas only when runs are read, so that `resnet-cli compare --help` is immediate."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.compare.load"), name)
