"""Runs -> DataFrames -> tables and figures: pure, and without torch.

`from lightning_resnet.analysis import load_runs` is the way in; `resnet-cli compare` makes the report of it.
"""

from typing import Any

__all__ = ["Runs", "load_runs"]


def __getattr__(name: str) -> Any:
    """Import pandas only when runs are read, so that `resnet-cli compare --help` is immediate."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_resnet.analysis import runs

    return getattr(runs, name)
