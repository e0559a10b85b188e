"""Labels of ImageNet's validation images: the devkit's and Kaggle's."""

import csv
import gzip
import io
import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from lightning_resnet.errors import UserError, one_line
from lightning_resnet.reading import read_text

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
SOLUTION = "LOC_val_solution.csv"
MAX_DEVKIT = 1 << 28  # bytes, unpacked
MAT_HEADER = 128  # bytes before the first element of a Matlab file
MAT_COMPRESSED = 15  # type of a compressed element
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def labels_near(folders: list[Path], names: list[str]) -> dict[str, str]:
    """Read the WordNet id of each validation image from the devkit or a CSV in one of the folders.

    Args:
        folders: where to look.
        names: names of the images, without folder and suffix.

    Returns:
        name -> WordNet id.

    Raises:
        UserError: there are no labels, several files of labels, two that disagree, or an image has
            none.
    """
    devkits = [folder / DEVKIT for folder in folders if (folder / DEVKIT).is_file()]
    unpacked = DEVKIT.removesuffix(".tar.gz")
    devkits += [folder / unpacked for folder in folders if (folder / unpacked).is_dir()]
    tables = [folder / SOLUTION for folder in folders if (folder / SOLUTION).is_file()][:1]
    if not tables and not devkits:
        tables = [path for folder in folders for path in sorted(folder.glob("*.csv"))]
    if len(tables) > 1:
        raise UserError(
            f"{tables[0]} and {tables[1]} may both have the labels of val: call the right one "
            f"{SOLUTION}"
        )
    if not tables and not devkits:
        raise UserError(
            f"val is flat and {folders[0]} has no labels of it: put {SOLUTION} (Kaggle's; a CSV of "
            f"image and WordNet id) or {DEVKIT} there, or sort val into folders of classes"
        )
    found = {}
    if tables:
        found = of_csv(read_text(tables[0]), tables[0], names)
    if devkits:
        by_devkit = of_devkit(devkits[0], names)
        wrong = [name for name, wnid in by_devkit.items() if found.get(name, wnid) != wnid]
        if wrong:
            raise UserError(
                f"{wrong[0]} is {found[wrong[0]]} in {tables[0]} and {by_devkit[wrong[0]]} in "
                f"{devkits[0]}: remove the wrong one"
            )
        found = by_devkit
    return found


def of_csv(text: str, file: Path | str, names: list[str]) -> dict[str, str]:
    """Read the WordNet id of each image out of a CSV of name and id, and more, as Kaggle's.

    Raises:
        UserError: the text is no CSV, or an image is not in it or twice, or has a number instead of
            an id.
    """
    found: dict[str, str] = {}
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as e:
        raise UserError(
            f"{file} is no CSV ({one_line(e)}), perhaps for a quotation mark that is not closed: "
            f"get Kaggle's {SOLUTION} again"
        ) from e
    for i, row in enumerate(rows):
        words = row[1].split() if len(row) > 1 else []
        is_id = bool(words) and re.fullmatch(r"n\d+", words[0]) is not None
        if not row or (i == 0 and not is_id and not (words and words[0].isdecimal())):
            continue  # the head
        name = PurePosixPath(row[0]).name.partition(".")[0]
        if not is_id:
            raise UserError(
                f"{file}, line {i + 1}: the label of {name} is {words[0] if words else 'missing'}: "
                "it must be a WordNet id such as n01440764 (a number could be the devkit's, which "
                "are in another order)"
            )
        if found.setdefault(name, words[0]) != words[0]:
            raise UserError(
                f"{file}, line {i + 1}: {name} is {words[0]} here and {found[name]} above: remove "
                "the wrong line"
            )
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(
            f"{file} has no label of {missing[0]} ({len(missing):,} images without): get "
            f"Kaggle's {SOLUTION} again"
        )
    return {name: found[name] for name in names}


def of_devkit(devkit: Path, names: list[str]) -> dict[str, str]:
    """Read the WordNet id of each image, in order of name, out of the devkit."""
    wnids, truth = ground_truth(devkit)
    if len(names) != len(truth):
        raise UserError(
            f"there are {len(names):,} validation images, but {devkit} has {len(truth):,} labels: "
            "get both again"
        )
    unknown = [number for number in truth if number not in wnids]
    if unknown:
        raise UserError(f"class {unknown[0]} is not among those of {devkit}: get it again")
    return {name: wnids[number] for name, number in zip(sorted(names), truth, strict=True)}


def ground_truth(devkit: Path) -> tuple[dict[int, str], list[int]]:
    """Read the WordNet id of each class number, and the class number of each validation image.

    Args:
        devkit: the archive, or the folder that it unpacks to.
    """
    from scipy.io import loadmat  # scikit-learn needs scipy, so it is there

    try:
        content = _read_folder(devkit) if devkit.is_dir() else _read_archive(devkit)
        _check_mat(content[".mat"])
        matlab = io.BytesIO(content[".mat"])
        rows = loadmat(matlab, squeeze_me=True, variable_names=["synsets"])["synsets"]
        numbers = [(int(row["ILSVRC2012_ID"]), str(row["WNID"])) for row in np.atleast_1d(rows)]
        wnids = dict(numbers)
        truth = [int(line) for line in content[".txt"].split()]
        if len(set(wnids.values())) < len(numbers):
            raise ValueError("a WordNet id is there twice")
    except Exception as e:  # noqa: BLE001 -- damaged archives and Matlab files raise many errors
        raise UserError(
            f"{devkit} is damaged or another archive ({one_line(e)}): download it again"
        ) from e
    return wnids, truth


def _read_folder(devkit: Path) -> dict[str, bytes]:
    return {
        Path(name).suffix: (devkit / "data" / name).read_bytes() for name in ("meta.mat", TRUTH)
    }


def _read_archive(devkit: Path) -> dict[str, bytes]:
    content = {}
    with gzip.open(devkit) as file:
        unpacked = _bounded(file.read(MAX_DEVKIT + 1))
    with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
        for member in archive:
            if member.name.endswith(("/meta.mat", f"/{TRUTH}")):
                content[Path(member.name).suffix] = archive.extractfile(member).read()
            if member.size < 0:  # would lead back to the same member, without end
                raise ValueError("a member of negative size")
    return content


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_DEVKIT:
        raise ValueError(f"it unpacks to more than {MAX_DEVKIT:,} bytes")
    return data


def _check_mat(data: bytes) -> None:
    """Raise ValueError for a Matlab file (version 5) that unpacks to more than MAX_DEVKIT."""
    at = MAT_HEADER
    while at + 8 <= len(data):
        kind, size = np.frombuffer(data, "<u4", 2, at).tolist()
        if kind == MAT_COMPRESSED:
            _bounded(zlib.decompressobj().decompress(data[at + 8 : at + 8 + size], MAX_DEVKIT + 1))
        at += 8 + size
