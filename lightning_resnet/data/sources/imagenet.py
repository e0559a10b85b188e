"""ImageNet (ILSVRC 2012; Russakovsky et al. 2015) as folders, or in the archives as downloaded.

resnet-cli data write imagenet --root DIR --out imagenet_train.beton --short-side 500
"""

import gzip
import io
import tarfile
import zlib
from pathlib import Path

import numpy as np

from lightning_resnet.data.images import FileImages, Images
from lightning_resnet.data.sources.folder import ImageFolder, class_folders
from lightning_resnet.errors import UserError, one_line

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
COUNTS = {"train": 1_281_167, "val": 50_000}
MAX_DEVKIT = 1 << 28  # bytes, unpacked
MAT_HEADER = 128  # bytes before the first element of a Matlab file
MAT_COMPRESSED = 15  # type of a compressed element
Member = tuple[str, int, int]


class ImageNet(ImageFolder):
    """1,281,167 training and 50,000 validation images of 1,000 classes, the sorted WordNet ids.

    Args:
        root: folder with `train/` and `val/`, one folder of images per class in each (numeric
            names go by number), or with the three files as downloaded: ILSVRC2012_img_train.tar,
            ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz.
        expect: check the number of images; false for a part of ImageNet.
    """

    def __init__(self, root: str, expect: bool = True) -> None:
        super().__init__(root)
        self.expect = expect

    def splits(self) -> dict[str, Images]:
        """Read train and val."""
        root = Path(self.root)
        if (root / "train").is_dir() and (root / "val").is_dir():
            self.classes = sorted(class_folders(root / "train"), key=_number_or_name)
            splits = {name: self.read(root / name) for name in ("train", "val")}
        elif missing := [name for name in (TRAIN, VAL, DEVKIT) if not (root / name).is_file()]:
            raise UserError(
                f"{root} holds neither train/ and val/ nor {missing[0]}: set the source's root, "
                "or, for a folder of your own, --data.source ImageFolder"
            )
        else:
            splits = {
                "train": self._read_train(root / TRAIN),
                "val": self._read_val(root / VAL, root / DEVKIT),
            }
        for name, images in splits.items():
            if self.expect and len(images) != COUNTS[name]:
                raise UserError(
                    f"{root} has {len(images):,} {name} images, ImageNet {COUNTS[name]:,}: unpack "
                    "or download it again, or use source image_folder (--data.source ImageFolder) "
                    "for a part of it"
                )
        return splits

    def _read_train(self, path: Path) -> Images:
        """Read the training images out of an archive of one archive per class."""
        found = {Path(name).stem: _members(path, start) for name, start, _ in _members(path)}
        self.classes = sorted(found)
        labels = np.repeat(np.arange(len(found)), [len(found[c]) for c in self.classes])
        paths = [_address(path, m) for c in self.classes for m in sorted(found[c])]
        return FileImages(np.arange(len(paths)), labels, paths)

    def _read_val(self, path: Path, devkit: Path) -> Images:
        """Read the validation images out of one archive; the devkit has the labels."""
        members = sorted(_members(path))
        wnids, truth = _ground_truth(devkit)
        if len(members) != len(truth):
            raise UserError(
                f"{path} has {len(members):,} images, {devkit} {len(truth):,} labels: get them "
                "again"
            )
        label = {wnid: i for i, wnid in enumerate(self.classes)}
        if unknown := sorted({wnids.get(t, str(t)) for t in truth} - label.keys()):
            raise UserError(
                f"class {unknown[0]} of {devkit} is not among those of {TRAIN}: get them again"
            )
        labels = np.array([label[wnids[t]] for t in truth], np.int64)
        return FileImages(np.arange(len(labels)), labels, [_address(path, m) for m in members])


class ImageNetV2(ImageFolder):
    """10,000 new images of ImageNet's classes to validate on (Recht et al. 2019); none to train on.

    Args:
        root: folder with a folder of images per class, 0 to 999: the place of its WordNet id
            among the sorted ones.
        num_classes: number of classes of the net; some of them may have no image.
    """

    def __init__(self, root: str, num_classes: int = 1000) -> None:
        super().__init__(root)
        self.classes = [str(i) for i in range(num_classes)]

    def splits(self) -> dict[str, Images]:
        """Read val; there is no other split."""
        return {"val": self.read(Path(self.root))}


def _number_or_name(name: str) -> tuple[int, str]:
    """Return the key that sorts folders 0 to 999 by number, WordNet ids by name."""
    return (int(name) if name.isdecimal() else -1, name)


def _members(path: Path, start: int = 0) -> list[Member]:
    """List the files in an archive.

    Args:
        path: a file.
        start: byte of the file at which the archive begins.

    Returns:
        Name, first byte in `path`, and number of bytes of each.
    """
    members: list[Member] = []
    last = -1
    try:
        with open(path, "rb") as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for m in archive:
                    # A negative size would lead back to the same member, without end.
                    if m.offset_data <= last:
                        raise tarfile.TarError("its members do not follow one another")
                    last = m.offset_data
                    if m.isfile():
                        members.append((m.name, m.offset_data, m.size))
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as e:
        raise UserError(f"{path} is damaged ({one_line(e)}): download it again") from e
    return members


def _address(path: Path, member: Member) -> str:
    """Return the address of an image in an archive, as `encode.read_bytes` takes it."""
    name, start, size = member
    return f"{path}!{name}@{start}+{size}"


def _ground_truth(devkit: Path) -> tuple[dict[int, str], list[int]]:
    """Read the WordNet id of each class number, and the class number of each validation image."""
    from scipy.io import loadmat  # scikit-learn needs scipy, so it is there

    content = {}
    try:
        with gzip.open(devkit) as file:
            unpacked = _bounded(file.read(MAX_DEVKIT + 1))
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
            for member in archive:
                if member.name.endswith(("/meta.mat", "/ILSVRC2012_validation_ground_truth.txt")):
                    content[Path(member.name).suffix] = archive.extractfile(member).read()
                if member.size < 0:  # would lead back to the same member, without end
                    raise ValueError("a member of negative size")
        _check_mat(content[".mat"])
        matlab = io.BytesIO(content[".mat"])
        rows = loadmat(matlab, squeeze_me=True, variable_names=["synsets"])["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(rows)}
        return wnids, [int(line) for line in content[".txt"].split()]
    except Exception as e:  # noqa: BLE001 -- damaged archives and Matlab files raise many errors
        raise UserError(
            f"{devkit} is damaged or another archive ({one_line(e)}): download it again"
        ) from e


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
