"""What `resnet-cli compare` gives beside the report: configuration differences, Parquet files."""

from collections.abc import Sequence
from pathlib import Path

from lightning_resnet.analysis.compare.load import load_runs
from lightning_resnet.analysis.compare.report import select
from lightning_resnet.errors import UserError
from lightning_resnet.files import replacing
from lightning_resnet.reading import read_yaml
from lightning_resnet.runs.find import locate
from lightning_resnet.runs.identity import differences


def diff(a: Path, b: Path) -> str:
    """`key: value of a -> value of b` for each setting that differs."""
    configs = []
    for path in map(locate, (a, b)):
        try:
            configs.append(read_yaml(path / "config.yaml"))
        except UserError as e:
            raise UserError(f"--diff takes two run directories: {e}") from e
    return "\n".join(differences(*configs)) or "no setting differs"


def write_parquet(paths: Sequence[str], where: str, folder: Path) -> list[Path]:
    """Both tables of `load_runs`, training rows included."""
    runs = select(load_runs(paths), where)
    files = [folder / "runs.parquet", folder / "history.parquet"]
    try:
        for frame, file in zip(runs, files, strict=True):
            mixed = [name for name in frame if frame[name].dtype == object]
            texts = frame[mixed].map(lambda v: v if isinstance(v, str) or v is None else str(v))
            with replacing(file) as whole:
                frame.assign(**texts).to_parquet(whole)
    except ImportError as e:
        raise UserError("--parquet needs pyarrow: pip install 'pyarrow>=18'") from e
    return files
