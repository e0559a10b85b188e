"""What `resnet-cli compare` gives besides the report: configuration differences, Parquet files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_resnet.analysis.compare.load import load_runs
from lightning_resnet.analysis.compare.report import select
from lightning_resnet.errors import UserError
from lightning_resnet.files import replacing
from lightning_resnet.runs.find import folder_of
from lightning_resnet.runs.identity import differing
from lightning_resnet.runs.reader import Run


def diff(a: Path, b: Path) -> dict[str, tuple[Any, Any]]:
    """Return both values of each setting that differs, under its config key.

    Raises:
        UserError: a path is no run directory.
    """
    configs = []
    for path in (a, b):
        try:
            configs.append(Run(folder_of(path)).config())
        except UserError as e:
            raise UserError(f"--diff takes two run directories: {e}") from e
    return differing(*configs)


def write_parquet(paths: Sequence[str], where: str, folder: Path) -> list[Path]:
    """Write both tables of `load_runs`, training rows included; return the files.

    Args:
        paths: see `load_runs`.
        where: see `select`.
        folder: where to write runs.parquet and history.parquet.

    Raises:
        UserError: pyarrow is not installed.
    """
    runs = select(load_runs(paths), where)
    files = [folder / "runs.parquet", folder / "history.parquet"]
    try:
        for frame, file in zip(runs, files, strict=True):
            mixed = [name for name in frame if frame[name].dtype == object]
            with replacing(file) as unfinished:
                frame.assign(**frame[mixed].map(_as_text)).to_parquet(unfinished)
    except ImportError as e:
        raise UserError("--parquet needs pyarrow: pip install 'pyarrow>=18'") from e
    return files


def _as_text(value: Any) -> str | None:
    """Return a cell of a column of mixed types, which Parquet does not hold."""
    return value if isinstance(value, str) or value is None else str(value)
