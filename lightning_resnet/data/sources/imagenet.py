"""ImageNet (ILSVRC 2012; Russakovsky et al. 2015) in each layout that people hold, as downloaded.

resnet-cli data write imagenet --root DIR --out imagenet_train.beton --short-side 500

In all layouts a label is the place of the WordNet id among the sorted ones, and the images stand in
order of label and name: the same images make the same .beton.
"""

import re
import zipfile
import zlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, get_args

import numpy as np

from lightning_resnet.data.archives import damaged, tar_members, zip_members
from lightning_resnet.data.images import FileImages, Images
from lightning_resnet.data.sources.base import Source, with_holdout
from lightning_resnet.data.sources.folder import ImageFolder, class_folders
from lightning_resnet.data.sources.imagenet_labels import (
    DEVKIT,
    SOLUTION,
    labels_near,
    of_csv,
    of_devkit,
)
from lightning_resnet.data.sources.shards import Entry, find_shards, list_parquet, list_tar
from lightning_resnet.errors import UserError, tell
from lightning_resnet.files import IMAGES, find_images
from lightning_resnet.reading import LARGEST

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
KAGGLE_ZIP = "imagenet-object-localization-challenge.zip"
CLS_LOC = "CLS-LOC"
COUNTS = {"train": 1_281_167, "val": 50_000}
CLASSES = 1000
Layout = Literal["folders", "archives", "kaggle", "kaggle-zip", "parquet", "tar.gz", "webdataset"]
HOLDS = {
    "folders": "train/ and val/",
    "archives": f"{TRAIN}, {VAL} and {DEVKIT}",
    "kaggle": f"ILSVRC/Data/{CLS_LOC}/train and val",
    "kaggle-zip": KAGGLE_ZIP,
    "parquet": "train-*.parquet and validation-*.parquet",
    "tar.gz": "train_images_*.tar.gz and val_images.tar.gz",
    "webdataset": "imagenet1k-train-*.tar and imagenet1k-validation-*.tar",
}
SUFFIX = {"parquet": ".parquet", "tar.gz": ".tar.gz", "webdataset": ".tar"}
WANTED = (*SUFFIX.values(), ".zip", ".csv", ".mat", ".txt", *IMAGES)  # files of all layouts
WNID_AT_END = re.compile(r"(.+)_(n\d{8})")  # of a file name without suffix
WNID_IN_FRONT = re.compile(r"(n\d{8})[_/]")


class _Image(NamedTuple):
    """An image with its class, its name without suffix and class, and its address."""

    wnid: str
    name: str
    address: str


class ImageNet(ImageFolder):
    """1,281,167 training and 50,000 validation images of 1,000 classes, the sorted WordNet ids.

    Args:
        root: folder with the data in any layout, see `layout`; or Kaggle's zip. Class folders with
            numeric names go by number. A flat val/ takes its labels from the devkit or a CSV.
        expect: check the number of images; false for a part of ImageNet.
        layout: folders (train/ and val/) | archives (the three files of image-net.org) | kaggle
            (ILSVRC/Data/CLS-LOC) | kaggle-zip | parquet (Hugging Face's) | tar.gz (Hugging Face's
            older) | webdataset; null = the one that is there.
        holdout: number of training images to validate on; the 50,000 are then the test set.
    """

    splits_for = Source.splits_for  # labels and counts are proven by both splits

    def __init__(
        self,
        root: str,
        expect: bool = True,
        layout: Layout | None = None,
        holdout: int | None = None,
    ) -> None:
        super().__init__(root, holdout)
        if layout is not None and layout not in HOLDS:
            raise UserError(f"layout {layout}: one of {', '.join(get_args(Layout))}")
        self.expect = expect
        self.layout = layout

    def splits(self) -> dict[str, Images]:
        """Read train and val."""
        root = self.here(self.root, WANTED)
        layout = _choose(root, self.layout)
        if layout in ("folders", "kaggle"):
            splits = self._read_folders(root, _cls_loc(root) if layout == "kaggle" else root)
        elif layout == "archives":
            splits = self._sorted(*_read_archives(root))
        elif layout == "kaggle-zip":
            splits = self._sorted(*_read_zip(root if root.is_file() else root / KAGGLE_ZIP))
        else:
            shards = _shards(root, layout, self.layout)
            read = _read_packed if layout == "tar.gz" else _read_shards
            splits = self._sorted(*read(shards, layout))
        for name, images in splits.items():
            if self.expect and len(images) != COUNTS[name]:
                raise UserError(
                    f"{root} has {len(images):,} {name} images, ImageNet {COUNTS[name]:,}: unpack "
                    "or download it again, or use source image_folder, webdataset or parquet "
                    "(--data.source ImageFolder, ...) for a part of it"
                )
        if self.expect and len(self.classes) != CLASSES:
            raise UserError(
                f"{root} has {len(self.classes):,} classes, ImageNet {CLASSES:,}: download it again"
            )
        return with_holdout(splits, self.holdout)

    def _read_folders(self, root: Path, base: Path) -> dict[str, Images]:
        """Read train/ of class folders, and val/, which is so too or flat with labels near it."""
        self.classes = sorted(class_folders(base / "train"), key=_number_or_name)
        train = self.read(base / "train")
        flat = list(find_images(base / "val", deep=False))
        if not flat:
            return {"train": train, "val": self.read(base / "val")}
        sorted_too = [name for name in class_folders(base / "val") if name in self.classes]
        if sorted_too:
            raise UserError(
                f"{base / 'val'} holds folders of classes ({sorted_too[0]}) and {len(flat):,} "
                f"images outside of them ({Path(flat[0]).name}): sort all of them, or none"
            )
        folders = [root]
        if base.name == CLS_LOC:
            folders += [base, *base.parents[:3]]
        names = _by_name((path, path) for path in flat)
        truth = labels_near(list(dict.fromkeys(folders)), sorted(names))
        val = [_Image(truth[name], name, path) for name, path in names.items()]
        return {"train": train, "val": self._in_order("val", val)}

    def _sorted(self, train: list[_Image], val: list[_Image]) -> dict[str, Images]:
        self.classes = sorted({image.wnid for image in train})
        return {"train": self._in_order("train", train), "val": self._in_order("val", val)}

    def _in_order(self, split: str, images: list[_Image]) -> FileImages:
        """Label images by the place of their class, and put them in order of label and name.

        Raises:
            UserError: a class is not among those of train, or an image is there twice.
        """
        rank = {wnid: i for i, wnid in enumerate(self.classes)}
        unknown = next((image for image in images if image.wnid not in rank), None)
        if unknown:
            raise UserError(
                f"class {unknown.wnid} of {split} image {unknown.address} is not among the "
                f"{len(rank):,} of train: get both again"
            )
        if not images:
            raise UserError(f"{self.root} has no {split} images: download it again")
        images.sort(key=lambda image: (rank[image.wnid], image.name))
        for one, other in pairwise(images):
            if one[:2] == other[:2]:
                raise UserError(
                    f"{split} image {one.name} is there twice, as {one.address} and "
                    f"{other.address}: remove one"
                )
        labels = np.array([rank[image.wnid] for image in images], np.int64)
        return FileImages(np.arange(len(images)), labels, [image.address for image in images])


class ImageNetV2(ImageFolder):
    """10,000 new images of ImageNet's classes to validate on (Recht et al. 2019); none to train on.

    Args:
        root: folder with a folder of images per class, 0 to 999: the place of its WordNet id
            among the sorted ones.
        num_classes: number of classes of the net; some of them may have no image.
    """

    splits_for = Source.splits_for

    def __init__(self, root: str, num_classes: int = 1000) -> None:
        super().__init__(root)
        self.classes = [str(i) for i in range(num_classes)]

    def splits(self) -> dict[str, Images]:
        """Read val; there is no other split."""
        return {"val": self.read(self.here(self.root, IMAGES))}


def _choose(root: Path, layout: Layout | None) -> Layout:
    """Return the layout that a folder has, or check that it has the one that is asked for.

    Raises:
        UserError: it has none, several, or train in one and val in another.
    """
    found = _splits_by_layout(root, layout)
    complete = [name for name, splits in found.items() if len(splits) == 2]
    if layout and layout not in complete:
        raise UserError(
            f"{root} has not all of layout {layout}, {HOLDS[layout]}{_others(complete)}"
        )
    if layout or len(complete) == 1:
        return layout or complete[0]
    if complete:
        both = " and ".join(f"{name} ({HOLDS[name]})" for name in complete)
        raise UserError(
            f"{root} holds ImageNet in {len(complete)} layouts, {both}: say which with --layout "
            f"{complete[0]} (--data.source.layout)"
        )
    parts = [(name, split) for name, splits in found.items() for split in splits]
    if {split for _, split in parts} == {"train", "val"}:
        mixed = " and ".join(f"{split} in layout {name} ({HOLDS[name]})" for name, split in parts)
        raise UserError(f"{root} has {mixed}: put both splits of one layout there")
    if parts and parts[0][0] != "archives" and not (root / TRAIN).is_file():
        name, split = parts[0]
        raise UserError(
            f"{root} has only {split} of layout {name}, which is {HOLDS[name]}: put the rest there"
        )
    missing = [name for name in (TRAIN, VAL, DEVKIT) if not (root / name).is_file()]
    raise UserError(
        f"{root} holds neither train/ and val/ nor {missing[0]}, nor another layout of ImageNet: "
        "set the source's root, or, for a folder of your own, --data.source ImageFolder"
    )


def _others(complete: list[str]) -> str:
    return f"; it has {', '.join(complete)}" if complete else ": put the rest there"


def _splits_by_layout(root: Path, asked: Layout | None) -> dict[Layout, list[str]]:
    """Return which splits a folder has of each layout.

    Args:
        root: the folder, or Kaggle's zip.
        asked: the layout that is asked for; see `_shards`.
    """
    if root.is_file() and root.suffix == ".zip":
        return {"kaggle-zip": ["train", "val"]}
    found: dict[Layout, list[str]] = {}
    for layout in SUFFIX:
        found[layout] = [split for split in _shards(root, layout, asked) if split != "test"]
    are_shards = any(found.values())
    base = _cls_loc(root)
    for split, file in (("train", TRAIN), ("val", VAL)):
        folder = root / split
        if folder.is_dir() and not (are_shards and _has_shards(folder) and not _has_images(folder)):
            found.setdefault("folders", []).append(split)
        if base and (base / split).is_dir():
            found.setdefault("kaggle", []).append(split)
        if (root / file).is_file() and (split == "train" or (root / DEVKIT).is_file()):
            found.setdefault("archives", []).append(split)
    if (root / KAGGLE_ZIP).is_file():
        found["kaggle-zip"] = ["train", "val"]
    return found


def _shards(root: Path, layout: Layout, asked: Layout | None) -> dict[str, list[Path]]:
    """Return the shards of each split, without the archives of image-net.org.

    Archives next to images, such as one of a class that was unpacked, count only if their layout
    is asked for.
    """
    folders = [root, root / "data"]
    for name in ("train", "val", "validation"):
        if layout == asked or not _has_images(root / name):
            folders.append(root / name)
    found = {}
    for split, paths in find_shards(folders, SUFFIX[layout], default=None).items():
        own = [path for path in paths if not path.name.startswith("ILSVRC2012_")]
        if own and split:
            found[split] = own
    return found


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and next(find_images(folder), None) is not None


def _has_shards(folder: Path) -> bool:
    return any(next(folder.glob(f"*{suffix}"), None) for suffix in SUFFIX.values())


def _cls_loc(root: Path) -> Path | None:
    """Return Kaggle's folder of train/ and val/ below the root; None without one."""
    for path in (root / "ILSVRC" / "Data" / CLS_LOC, root / "Data" / CLS_LOC, root / CLS_LOC):
        if path.is_dir():
            return path
    return None


def _number_or_name(name: str) -> tuple[int, str]:
    """Return the key that sorts folders 0 to 999 by number, WordNet ids by name."""
    return (int(name) if name.isdecimal() else -1, name)


def _read_archives(root: Path) -> tuple[list[_Image], list[_Image]]:
    """Read train out of an archive of one archive per class, val out of one with the devkit."""
    train = []
    for outer in tar_members(root / TRAIN):
        wnid = PurePosixPath(outer.name).stem
        for member in tar_members(root / TRAIN, outer.start):
            train.append(_Image(wnid, PurePosixPath(member.name).stem, member.address))
    members = tar_members(root / VAL)
    names = _by_name((member.name, member.address) for member in members)
    truth = of_devkit(root / DEVKIT, list(names))
    return train, [_Image(truth[name], name, address) for name, address in names.items()]


def _by_name(files: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return name without folder and suffix -> address, of pairs of path and address.

    Raises:
        UserError: two images have one name, or one has none.
    """
    found: dict[str, str] = {}
    for path, address in files:
        name = PurePosixPath(path).stem
        if not name:
            raise UserError(f"val image {address} has no name: download val again")
        if found.setdefault(name, address) != address:
            raise UserError(
                f"val image {name} is there twice, as {found[name]} and {address}: remove one"
            )
    return found


def _read_zip(path: Path) -> tuple[list[_Image], list[_Image]]:
    """Read Kaggle's zip, whose val is flat and has its labels in a CSV."""
    train = []
    flat = []
    table = None
    for member in zip_members(path):
        path_inside = PurePosixPath(member.name)
        parts = path_inside.parts
        if path_inside.name == SOLUTION:
            table = member.name
        if path_inside.name.startswith(".") or CLS_LOC not in parts:
            continue
        inside = parts[parts.index(CLS_LOC) + 1 :]
        if len(inside) == 3 and inside[0] == "train":
            train.append(_Image(inside[1], path_inside.stem, member.address))
        elif len(inside) == 2 and inside[0] == "val":
            flat.append((member.name, member.address))
    if not train or not flat:
        raise UserError(
            f"{path} has no ILSVRC/Data/{CLS_LOC}/train and val: it is another zip than "
            f"Kaggle's {KAGGLE_ZIP}"
        )
    val = _by_name(flat)
    names = sorted(val)
    if table:
        truth = of_csv(_text_in(path, table), f"{path}!{table}", names)
    else:
        truth = labels_near([path.parent], names)
    return train, [_Image(truth[name], name, val[name]) for name in names]


def _text_in(path: Path, name: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            return file.read(LARGEST).decode("utf-8-sig")
    except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError, OSError, EOFError) as e:
        raise damaged(path, e) from e


def _read_packed(
    shards: dict[str, list[Path]], layout: Layout
) -> tuple[list[_Image], list[_Image]]:
    """Read Hugging Face's older files, whose names end in the WordNet id."""
    splits = []
    for split in ("train", "val"):
        images = []
        for path in shards[split]:
            tell(f"listing {path}, which is unpacked in memory to find the names in it")
            for member in tar_members(path):
                name, wnid = _name_and_class(member.name)
                if not wnid:
                    raise UserError(
                        f"{path}: name {member.name} has no WordNet id at its end (such as "
                        "_n01440764.JPEG): it is another archive than Hugging Face's"
                    )
                images.append(_Image(wnid, name, member.address))
        splits.append(images)
    return splits[0], splits[1]


def _read_shards(
    shards: dict[str, list[Path]], layout: Layout
) -> tuple[list[_Image], list[_Image]]:
    """Read shards with labels, and prove that these are places of sorted WordNet ids."""
    splits = []
    for split in ("train", "val"):
        entries = []
        for path in shards[split]:
            is_parquet = layout == "parquet"
            entries += list_parquet(path)[0] if is_parquet else list_tar(path, needs_names=True)
        splits.append(entries)
    train = []
    label_of: dict[str, int] = {}
    for address, label, long_name in splits[0]:
        name, wnid = _name_and_class(long_name)
        if not wnid:
            raise UserError(
                f"{address}: its name has no WordNet id, so that its label cannot be proven: use "
                f"`resnet-cli data write {layout}`, which takes labels as they are"
            )
        _check_label(address, label, label_of.setdefault(wnid, label), wnid)
        train.append(_Image(wnid, name, address))
    wnids = sorted(label_of)
    for one, other in pairwise(wnids):
        if label_of[one] >= label_of[other]:
            raise UserError(
                f"labels of {shards['train'][0].parent} are not in order of the WordNet ids ({one} "
                f"is {label_of[one]}, {other} is {label_of[other]}), but perhaps the devkit's "
                f"numbers: get another copy, or take them as they are with `data write {layout}`"
            )
    return train, _proven(splits[1], {label: wnid for wnid, label in label_of.items()}, label_of)


def _proven(
    entries: list[Entry], wnid_of: dict[int, str], label_of: dict[str, int]
) -> list[_Image]:
    """Name the class of validation images by the labels of train, and check it by their names."""
    images = []
    for address, label, long_name in entries:
        name, wnid = _name_and_class(long_name)
        if label not in wnid_of:
            raise UserError(
                f"{address}: label {label} is none of train, whose labels are {min(wnid_of)} to "
                f"{max(wnid_of)}: get val again"
            )
        if wnid:
            _check_label(address, label, label_of.get(wnid), wnid)
        images.append(_Image(wnid_of[label], name, address))
    return images


def _check_label(address: str, label: int, expected: int | None, wnid: str) -> None:
    if label != expected:
        raise UserError(
            f"{address}: label {label} is not that of {wnid} elsewhere ({expected}): get another "
            "copy"
        )
    if not 0 <= label < CLASSES:
        raise UserError(f"{address}: label {label} is outside 0 to {CLASSES - 1}: get another copy")


def _name_and_class(long_name: str) -> tuple[str, str | None]:
    """Return the name of an image without suffix and class, and its class as the name says it.

    The class stands at the end of the name (Hugging Face), or in its folder or front.
    """
    name = PurePosixPath(long_name).name
    stem = name.rpartition(".")[0] or name
    at_end = WNID_AT_END.fullmatch(stem)
    if at_end:
        return at_end[1], at_end[2]
    in_front = WNID_IN_FRONT.search(long_name)
    return stem, in_front[1] if in_front else None
