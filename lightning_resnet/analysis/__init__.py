"""Analysis of runs, nets and checkpoints: `compare` (without torch), `inspection`, `evaluation`.

In a notebook, `from lightning_resnet.analysis import load_runs` reads runs; `resnet-cli compare`
makes a report of them.
"""

from importlib import import_module
from typing import Any

__all__ = ["Runs", "load_runs"]


def __getattr__(name: str) -> Any:
    """Import pandas only when runs are read, so that `resnet-cli compare --help` is immediate."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.compare.load"), name)
