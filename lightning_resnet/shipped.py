"""Files that come with the package: recipes, sweeps, measured runs, batch scripts, documents.

In a checkout they are the repository's folders configs/, reference/, slurm/ and docs/, also where
the package is installed from there with `pip install -e`. A wheel holds copies of them, which
setup.py puts into lightning_resnet/share/.
"""

import os
from pathlib import Path

_COPIES = Path(__file__).parent / "share"
HOME = _COPIES if _COPIES.is_dir() else Path(__file__).parents[1]
CONFIGS = HOME / "configs"
REFERENCE = HOME / "reference"
SLURM = HOME / "slurm"
SWEEPS = "sweeps/"  # folder of the sweeps in configs/, which their names leave out


def recipes() -> dict[str, Path]:
    """Return the file of each recipe by its name, such as `digits` or `imagenet/ffcv`."""
    return {name: file for name, file in _files().items() if not name.startswith(SWEEPS)}


def sweeps() -> dict[str, Path]:
    """Return the file of each sweep by its name, such as `digits_degradation`."""
    return {
        name.removeprefix(SWEEPS): file
        for name, file in _files().items()
        if name.startswith(SWEEPS)
    }


def references() -> dict[str, Path]:
    """Return the folder of each set of measured runs by its name, such as `digits`."""
    return {folder.name: folder for folder in sorted(REFERENCE.glob("*")) if folder.is_dir()}


def batch_files() -> dict[str, Path]:
    """Return SLURM's batch scripts, and the example of a site's settings, by name."""
    files = [*SLURM.glob("*.sbatch"), *SLURM.glob("*.example")]
    return {file.name: file for file in sorted(files)}


def recipe_file(word: str | os.PathLike[str]) -> Path:
    """Return the file of a recipe or sweep.

    Args:
        word: path of a file; or the name of a recipe or sweep of ours, such as `digits`,
            `imagenet/ffcv`, `digits_degradation` or `configs/digits.yaml`. A file of the user's,
            with or without `.yaml`, goes before ours.

    Returns:
        The file's path; the word as a path where there is no such file.
    """
    path = Path(word)
    for here in (path, Path(f"{word}.yaml")):
        if here.exists() and not here.is_dir():
            return here
    name = str(word).removeprefix("configs/").removesuffix(".yaml")
    for known in (recipes(), sweeps()):
        if name.removeprefix(SWEEPS) in known:
            return known[name.removeprefix(SWEEPS)]
    return path


def _files() -> dict[str, Path]:
    """Return the file of each recipe and sweep by its path in configs/, without `.yaml`."""
    files = sorted(CONFIGS.rglob("*.yaml"))
    return {file.relative_to(CONFIGS).with_suffix("").as_posix(): file for file in files}
