"""Pack runs into one archive: recipe, metadata, metrics, attempts and weights.

The same runs give the same bytes. Unpacked, the archive is a run directory again, or the folders of
several.
"""

import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lightning_resnet.errors import UserError
from lightning_resnet.files import replacing
from lightning_resnet.masking import mask
from lightning_resnet.reading import open_plain
from lightning_resnet.runs.checkpoint import WEIGHTS, load_checkpoint
from lightning_resnet.runs.labels import links_in
from lightning_resnet.runs.reader import Run


def pack(runs: Sequence[Run], out: Path) -> list[str]:
    """Write an archive of runs, and return the names of the files in it.

    Secrets in texts are masked; of the checkpoints `last`, `best` and those of kept epochs the
    archive has what `--run.keep weights` keeps. Several runs lie in folders named like those they
    were in.

    Args:
        runs: readers of run directories.
        out: file to write, `.tar.gz`.

    Raises:
        UserError: a run has no checkpoint, a file of a run cannot be read, or two runs would have
            one name.
    """
    names = []
    folders: dict[str, Path] = {}
    weights = [_weights(run) for run in runs]
    for run in runs:
        path = run.path.absolute()
        name = _folder(runs, run) + path.name
        if folders.setdefault(name, path) != path:
            raise UserError(
                f"{folders[name]} and {path} would have one name in the archive: export them one "
                "by one"
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(out) as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        links = {folder: links_in(folder) for folder in {run.path.parent for run in runs}}
        for run, checkpoints in zip(runs, weights, strict=True):
            path = run.path.absolute()
            folder = _folder(runs, run)
            for name, content in _members(run, checkpoints):
                member = tarfile.TarInfo(f"{folder}{path.name}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
                names.append(f"{folder}{path.name}/{name}" if folder else name)
            # so that unpacked runs have their readable names too
            for label in links[run.path.parent].get(run.path.name, []):
                link = tarfile.TarInfo(f"{folder}{label.name}")
                link.type = tarfile.SYMTYPE
                link.linkname = path.name
                archive.addfile(link)
    return names


def _folder(runs: Sequence[Run], run: Run) -> str:
    """Return the folder of a run in the archive, which a single run has not."""
    return f"{run.path.absolute().parent.name}/" if len(runs) > 1 else ""


def _weights(run: Run) -> list[Path]:
    """Return the checkpoints `last` and `best` of a run, those that exist.

    Raises:
        UserError: there is none.
    """
    weights = [run.checkpoints / f"{name}.ckpt" for name in ("last", "best")]
    weights = [file for file in weights if file.exists()]
    if not weights:
        raise UserError(
            f"run {run.path} has no checkpoint, so there are no weights to export (was it trained "
            "with --run.keep none?): export --reference DIR copies runs without weights"
        )
    return weights


def _members(run: Run, weights: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield the name of each file, as seen from the run directory, with its content.

    Args:
        run: reader of the run directory.
        weights: checkpoints to pack besides those of kept epochs.
    """
    for file in run.files():
        with open_plain(file) as plain:
            text = plain.read().decode(errors="replace")
        yield file.relative_to(run.path).as_posix(), mask(text).encode()
    for file in [*weights, *run.kept_epochs().values()]:
        full = load_checkpoint(file)
        buffer = io.BytesIO()
        torch.save({key: full[key] for key in WEIGHTS if key in full}, buffer)
        yield file.relative_to(run.path).as_posix(), buffer.getvalue()
