"""Order and draws are pure functions; the loader only carries them out."""

import json
import subprocess
from pathlib import Path
from shutil import copytree, rmtree
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.loaders import plain_data_of as data_of
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from lightning_resnet.data import draws
from lightning_resnet.data.augment.crops import Augment
from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.hashing import hash64, uniform
from lightning_resnet.data.images import Images
from lightning_resnet.data.loaders.read_batch import read
from lightning_resnet.data.module import ImageData
from lightning_resnet.data.order import eval_batches, permutation, train_batches
from lightning_resnet.data.sources.base import Source
from lightning_resnet.data.sources.beton_files import BetonFiles
from lightning_resnet.data.sources.cifar import CIFAR10
from lightning_resnet.data.sources.digits import Digits
from lightning_resnet.data.sources.fashion_mnist import FashionMNIST
from lightning_resnet.data.sources.folder import ImageFolder
from lightning_resnet.data.sources.imagenet import ImageNet
from lightning_resnet.data.sources.subset import Subset
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.errors import UserError
from lightning_resnet.weights.trained import tell_apart


def test_hash_is_fixed():
    """Runs are defined by these numbers: a change would silently make every old run another one."""
    assert hash64(0, 0, np.arange(3)).tolist() == [
        2558736989570252433,
        3400964856525257824,
        12865742008072950574,
    ]
    assert permutation(0, 0, 10).tolist() == [0, 9, 1, 6, 3, 5, 4, 2, 8, 7]
    assert permutation(0, 1, 10).tolist() == [8, 3, 0, 1, 5, 2, 7, 4, 9, 6]


def test_integers_hash_as_arrays_do():
    for parts in ((0,), (1, 2, 3), (-1, 5), (2**64 - 1, 7, 0)):
        arrays = [np.array([part % 2**64], np.uint64) for part in parts]
        assert hash64(*parts) == hash64(*arrays)[0] and isinstance(hash64(*parts), np.uint64)


def test_draws_are_fixed():
    ids = np.arange(4)
    assert draws.flips(1, 2, np.arange(8)).tolist() == [
        False,
        True,
        False,
        False,
        True,
        True,
        True,
        True,
    ]
    assert draws.pad_crops(1, 2, ids, 4).tolist() == [[1, 4], [3, 4], [3, 2], [0, 5]]
    boxes = [[141, 172, 230, 234], [11, 11, 363, 355], [124, 104, 227, 200], [52, 52, 309, 258]]
    assert draws.random_resized_crops(1, 2, ids, [375] * 4, [500] * 4).tolist() == boxes


def test_uniform_is_uniform_and_independent_of_company():
    u = uniform(5, 2, np.arange(100_000), 0, 1)
    assert np.histogram(u, 20, (0, 1))[0] == pytest.approx(5000, abs=350)  # 5 standard deviations
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.02
    assert uniform(5, 2, np.array([77]), 0, 1)[0] == u[77]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("parts", [1, 2])
def test_global_batches_do_not_depend_on_world_size(world, parts):
    n, size = 103, 16
    per_rank = [
        list(train_batches(permutation(7, 3, n), size, r, world, parts)) for r in range(world)
    ]
    batches = [
        np.concatenate([per_rank[r][b * parts + p] for r in range(world) for p in range(parts)])
        for b in range(6)
    ]
    assert np.array_equal(np.concatenate(batches), permutation(7, 3, n)[:96])
    assert len(set(np.concatenate(batches))) == 96


@pytest.mark.parametrize(("n", "world"), [(360, 1), (360, 2), (7, 2), (7, 4), (2, 3), (10_000, 3)])
def test_evaluation_sees_every_sample_once(n, world):
    seen = [i for r in range(world) for batch in eval_batches(n, 64, r, world) for i in batch]
    assert sorted(seen) == list(range(n))


def test_random_resized_crops_follow_torchvisions_definition():
    ids, h, w = np.arange(10_000), 375, 500
    boxes = draws.random_resized_crops(0, 0, ids, np.full(10_000, h), np.full(10_000, w))
    torch.manual_seed(0)
    image = torch.empty(3, h, w)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(10_000)]
    )
    assert (
        (boxes[:, :2] >= 0).all()
        and (boxes[:, 0] + boxes[:, 2] <= h).all()
        and (boxes[:, 1] + boxes[:, 3] <= w).all()
    )
    for ours, reference in zip(boxes.T, theirs.T, strict=True):
        assert np.quantile(ours, [0.1, 0.5, 0.9]) == pytest.approx(
            np.quantile(reference, [0.1, 0.5, 0.9]), abs=8
        )


def test_random_resized_crop_of_an_extreme_shape_falls_back_to_the_centre():
    box = draws.random_resized_crops(0, 0, np.arange(1), [10], [1000], scale=(1.0, 1.0))[0]
    assert box.tolist() == [0, 493, 10, 13]


def test_pad_crops_and_flips_cover_all_choices_evenly():
    ids = np.arange(81_000)
    corners = draws.pad_crops(1, 0, ids, 4)
    assert np.bincount(corners[:, 0] * 9 + corners[:, 1], minlength=81) == pytest.approx(
        1000, abs=160
    )
    assert draws.flips(1, 0, ids).mean() == pytest.approx(0.5, abs=0.01)
    assert not np.array_equal(draws.flips(1, 0, ids), draws.flips(1, 1, ids))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Twelve images of several sizes and modes in three classes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, n in (("train", 4), ("val", 2)):
        for c, name in enumerate(("cat", "dog", "eel")):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (20 + 3 * i, 24 + c, 3), np.uint8)
                Image.fromarray(pixels).convert("L" if i == 3 else "RGB").save(
                    root / split / name / f"{i}.png"
                )
    return root


AUGMENTED = [
    (lambda _: Synthetic(64, 8), {"crop": "pad", "flip": True}),
    (lambda _: Synthetic(64, 8), {"crop": "resized", "flip": True, "size": 24}),
    (lambda folder: ImageFolder(str(folder)), {"crop": "resized", "flip": True, "size": 16}),
]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize(("make", "options"), AUGMENTED)
def test_batches_do_not_depend_on_workers_ranks_or_accumulation(make, options, folder):
    def images(**how):
        loader = data_of(make(folder), epoch=2, batch_size=8, **options, **how).train_dataloader()
        return [tuple(t.clone() for t in b) for b in loader]

    alone = images(workers=0)
    for x, y in alone:
        assert (x.dtype, y.dtype, len(x)) == (torch.uint8, torch.int64, 8)
        assert x.shape[1] == 3 and x.is_contiguous(memory_format=torch.channels_last)
    for workers in (1, 4):
        assert all(
            torch.equal(a, b)
            for p, q in zip(alone, images(workers=workers), strict=True)
            for a, b in zip(p, q, strict=True)
        )
    for world, accumulate in ((2, 1), (4, 1), (2, 2)):
        ranks = [
            images(workers=0, rank=r, world=world, accumulate=accumulate) for r in range(world)
        ]
        for b, (x, y) in enumerate(alone):
            mine = [ranks[r][b * accumulate + a] for r in range(world) for a in range(accumulate)]
            assert torch.equal(torch.cat([m[0] for m in mine]), x) and torch.equal(
                torch.cat([m[1] for m in mine]), y
            )


def test_epochs_differ_and_repeat(folder):
    first, again, later = (
        torch.cat(
            [
                x
                for x, _ in data_of(
                    Synthetic(64, 8), epoch=e, batch_size=8, crop="pad"
                ).train_dataloader()
            ]
        )
        for e in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, later)


def test_pad_crop_and_flip_move_pixels_as_told():
    pixels = np.arange(2 * 4 * 4 * 1, dtype=np.uint8).reshape(2, 4, 4, 1) + 1
    source = Source()
    source.classes = ["a", "b"]
    source.splits = lambda: {
        s: Images(np.array([10, 20]), np.array([0, 1]), pixels) for s in ("train", "val")
    }
    data = data_of(source, batch_size=2, crop="pad", pad=2, flip=True)
    (x, y), *rest = data.train_dataloader()
    assert not rest
    for image, label in zip(x, y, strict=True):
        sample = np.array([10, 20])[label : label + 1]
        (top, left), flip = draws.pad_crops(0, 0, sample, 2)[0], draws.flips(0, 0, sample)[0]
        expected = np.pad(pixels[label, :, :, 0], 2)[top : top + 4, left : left + 4]
        for channel in image:
            assert np.array_equal(channel, expected[:, ::-1] if flip else expected)


@pytest.fixture
def equal_files(tmp_path):
    """A folder of grey and colour images of 16x16 pixels, as `(folder, their pixels)`."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    for i, image in enumerate(pixels):
        folder = tmp_path / "equal" / "ab"[i // 10]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02}.png")
    return tmp_path / "equal", pixels


def test_crop_pad_takes_files_of_one_size_as_it_takes_images_in_memory(equal_files):
    root, pixels = equal_files
    files = data_of(ImageFolder(str(root)), batch_size=4, crop="pad", flip=True, pad_fill="mean")
    assert files.input_size == (3, 16, 16)
    in_memory = ImageFolder(str(root))
    in_memory.classes = ["a", "b"]
    in_memory.splits = lambda: {
        name: Images(images.ids, images.labels, pixels[images.ids])
        for name, images in files.splits.items()
    }
    same = data_of(in_memory, batch_size=4, crop="pad", flip=True, pad_fill="mean")
    for make in (lambda d: d.train_dataloader(), lambda d: d.val_dataloader()[0]):
        pairs = zip(make(files), make(same), strict=True)
        assert all(torch.equal(x, y) for (x, _), (y, _) in pairs)


def test_each_refusal_of_a_size_names_flags_that_work(equal_files, folder):
    root, _ = equal_files
    with pytest.raises(UserError, match="stored size: give --data.crop resized"):
        ImageData(ImageFolder(str(root)), batch_size=4, crop="pad", size=16).setup("fit")
    for size in (None, 16):
        with pytest.raises(UserError, match="--data.crop resized --data.size N"):
            ImageData(ImageFolder(str(folder)), batch_size=4, crop="pad", size=size).setup("fit")
    with pytest.raises(UserError, match="set --data.size to the pixels"):
        assert data_of(ImageFolder(str(folder)), batch_size=4).input_size
    some = data_of(ImageFolder(str(folder)), batch_size=4, crop="resized", size=16)
    assert some.input_size == (3, 16, 16)


def test_images_of_the_nets_size_are_not_cut_in_silence(equal_files, capsys):
    root, _ = equal_files
    data = data_of(ImageFolder(str(root)), batch_size=4, size=16)
    data.val_dataloader()
    data.eval_loader("val")
    said = capsys.readouterr().err
    assert said.count("warning: val images have 16x16 pixels as they are stored") == 1
    assert "central 14 are enlarged to 16: --data.eval_share 1" in said
    for how in ({"size": 16, "eval_share": 1.0}, {"size": 12}, {}):
        data_of(ImageFolder(str(root)), batch_size=4, **how).val_dataloader()
    assert not capsys.readouterr().err


def test_each_validation_sample_once_in_order_of_id():
    data = data_of(Digits(), batch_size=64)
    val, train_eval = data.val_dataloader()
    labels = torch.cat([y for _, y in val])
    assert torch.equal(labels, torch.from_numpy(data.splits["val"].labels)) and len(labels) == 360
    assert len(torch.cat([y for _, y in train_eval])) == 1437


def test_digits_split_is_fixed():
    splits = Digits().splits()
    assert {name: len(s) for name, s in splits.items()} == {"train": 1437, "val": 360}
    assert not set(splits["train"].ids) & set(splits["val"].ids)
    assert splits["val"].ids[:5].tolist() == [0, 1, 9, 11, 15]
    pixels = splits["train"].pixels / 255
    assert (pixels.mean(), pixels.std()) == (
        pytest.approx(Digits.mean[0], abs=1e-4),
        pytest.approx(Digits.std[0], abs=1e-4),
    )


def test_fashion_mnist_of_debian_needs_no_folder(tmp_path, cli, monkeypatch):
    debian = tmp_path / "debian"
    write = ["data", "write", "fashion_mnist", "--workers", 1, "--out", tmp_path / "f.beton"]
    fit = "fit --config digits --data.source FashionMNIST --trainer.max_steps 1".split()
    for place in ("data.sources.fashion_mnist", "meant"):
        monkeypatch.setattr(f"lightning_resnet.{place}.DEBIAN_FASHION", debian)
    for argv in (write, fit):
        code, _, err = cli(*argv)
        assert code == 2 and "data get fashion_mnist" in err
    debian.mkdir()
    for split, n in (("train", 64), ("t10k", 8)):
        images = bytes(16 + n * 784)
        (debian / f"{split}-images-idx3-ubyte").write_bytes(images)
        (debian / f"{split}-labels-idx1-ubyte").write_bytes(bytes(8 + n))
    for argv in (write, [*fit, "--data.batch_size", "4"]):
        code, _, err = cli(*argv)
        assert code == 0, err
    code, _, err = cli(*write, "--root", "absent")
    assert code == 2 and "absent does not exist" in err


def test_fashion_mnist_holdout(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, n in (("train", 50), ("t10k", 10)):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(bytes(16) + bytes(range(n)) * 784)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(bytes(8) + bytes(i % 10 for i in range(n)))
    assert {k: len(v) for k, v in FashionMNIST(str(tmp_path)).splits().items()} == {
        "train": 50,
        "val": 10,
    }
    held = FashionMNIST(str(tmp_path), holdout=5).splits()
    assert {k: len(v) for k, v in held.items()} == {"train": 45, "val": 5, "test": 10}
    with pytest.raises(UserError, match="cannot hold out 50 of 50"):
        FashionMNIST(str(tmp_path), holdout=50).splits()


def test_image_folder(folder, tmp_path):
    source = ImageFolder(str(folder))
    splits = source.splits()
    assert source.classes == ["cat", "dog", "eel"]
    assert {k: len(v) for k, v in splits.items()} == {"train": 12, "val": 6}
    assert splits["train"].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    one_level = ImageFolder(str(folder / "train")).splits()
    assert {k: len(v) for k, v in one_level.items()} == {"train": 10, "val": 2}


@pytest.mark.parametrize("names", [("valid",), ("validation",), ("test",), ("test", "valid")])
def test_the_folder_that_validates_may_have_another_name(folder, tmp_path, names, cli):
    root = tmp_path / "f"
    copytree(folder / "train", root / "train")
    for name in names:
        copytree(folder / "val", root / name)
    splits = ImageFolder(str(root)).splits()
    tested = {"test": 6} if names == ("test", "valid") else {}
    assert {k: len(v) for k, v in splits.items()} == {"train": 12, "val": 6} | tested
    for split in ("val", *names, "train"):
        out = tmp_path / f"{split}.beton"
        flags = ["--root", root, "--split", split, "--out", out, "--workers", 1]
        code, said, err = cli("data", "write", "image_folder", *flags)
        assert code == 0 and len(Beton(out)) == len(splits["train" if split == "train" else "val"])
    assert f"6 {names[0]} images (--split {names[0]}" in said
    code, _, err = cli(
        "data", "write", "image_folder", "--root", root, "--split", "x", "--out", "x.beton"
    )
    assert code == 2 and f"no split x; has train, {sorted(names, key='valid test'.find)[0]}" in err


def test_test_images_next_to_others_are_the_test_split(folder, tmp_path, capsys):
    for split in ("train", "val", "valid", "test"):
        copytree(folder / ("train" if split == "train" else "val"), tmp_path / split)
    splits = ImageFolder(str(tmp_path)).splits()
    assert [*splits] == ["train", "val", "test"] and len(splits["test"]) == len(splits["val"])
    told = f"{tmp_path} has val and valid and test: val validates, and valid is left out\n"
    assert capsys.readouterr().out == told
    assert [*ImageFolder(str(tmp_path), holdout=1).splits()] == ["train", "val", "test"]


def test_test_images_without_labels_are_left_out(folder, tmp_path, capsys):
    for split in ("train", "val"):
        copytree(folder / split, tmp_path / split)
    (tmp_path / "test").mkdir()
    (tmp_path / "test/1.png").touch()
    assert [*ImageFolder(str(tmp_path)).splits()] == ["train", "val"]
    assert f"{tmp_path}/test is left out: 1 images lie in" in capsys.readouterr().out


def test_train_is_written_without_any_other_split(folder, tmp_path, cli):
    copytree(folder / "train", tmp_path / "f" / "train")
    write = ["data", "write", "image_folder", "--root", tmp_path / "f", "--workers", 1]
    assert cli(*write, "--out", tmp_path / "a.beton")[0] == 0
    with pytest.raises(
        UserError, match="none of val, valid, validation, test: .* --data.source.ho"
    ):
        ImageFolder(str(tmp_path / "f")).splits()
    code, _, err = cli(*write, "--split", "val", "--out", tmp_path / "b.beton")
    assert code == 2 and "put a folder of images to validate on there" in err
    (tmp_path / "f/test/wolf").mkdir(parents=True)  # a class that train has not
    (tmp_path / "f/test/wolf/1.jpg").write_bytes(b"")
    assert cli(*write, "--out", tmp_path / "c.beton")[0] == 0


def test_each_source_holds_out_the_same_images(folder, tmp_path):
    root = tmp_path / "f"
    copytree(folder, root)
    source = ImageFolder(str(root))
    for split, images in source.splits().items():
        write_beton(images, tmp_path / f"{split}.beton", classes=source.classes, workers=1)
    files = [str(tmp_path / f"{split}.beton") for split in ("train", "val")]
    held = [ImageFolder(str(root), holdout=4), BetonFiles(*files, holdout=4)]
    held += [Subset(ImageFolder(str(root)), holdout=4), ImageNet(str(root), False, holdout=4)]
    found = [{name: s.ids.tolist() for name, s in source.splits().items()} for source in held]
    assert [len(ids) for ids in found[0].values()] == [8, 4, 6] and [*found[0]][2] == "test"
    assert found.count(found[0]) == len(found)
    rmtree(root / "val")
    assert [*ImageFolder(str(root), holdout=4).splits()] == ["train", "val"]
    for source in (Digits(holdout=37), Synthetic(60, 9, holdout=37)):
        assert len(source.splits()["val"]) == 37 and "test" in source.splits()
    with pytest.raises(UserError, match="holdout 4: the source has .* and test images"):
        BetonFiles(*files, files[1], holdout=4).splits()


@pytest.mark.parametrize("names", [("Train", "val"), ("training", "validation", "test"), ("dev",)])
def test_folders_of_splits_are_no_classes(folder, tmp_path, names):
    for name in names:
        copytree(folder / "train", tmp_path / "f" / name)
    with pytest.raises(UserError, match="which are splits and no classes: name them train and val"):
        ImageFolder(str(tmp_path / "f")).splits()


def test_a_flat_folder_is_told_how_folders_of_classes_are_made(cli, folder, tmp_path):
    """The line of shell that the message gives makes a folder that can be read."""
    flat = tmp_path / "my photos"
    flat.mkdir()
    rows = ["file,label"]
    copytree(folder / "train", tmp_path / "copy")
    for path in sorted((tmp_path / "copy").rglob("*.*")):
        path.rename(flat / f"{path.parent.name}_{path.name}")
        rows.append(f"{path.parent.name}_{path.name},{path.parent.name}")
    said = []
    for table in ("", "labels.csv"):
        if table:
            (flat / table).write_text("\r\n".join(rows) + "\r\n")
        code, _, err = cli("fit", "--config", "photos", "--data", flat)
        assert code == 2 and f"12 images lie in {flat} itself" in err, err
        with pytest.raises(UserError, match="12 images lie in"):
            ImageFolder(str(flat)).splits()
        said.append(err.strip())
    assert "make one for each class, and move" in said[0]
    subprocess.run(["sh", "-c", said[1].partition("this makes them: ")[2]], check=True)
    assert [len(images) for images in ImageFolder("sorted").splits().values()] == [10, 2]


def test_bad_images_of_a_folder_are_counted_with_every_loader(folder, tmp_path, capsys):
    copytree(folder, tmp_path / "f")
    (tmp_path / "f/train/cat/0.png").write_bytes(b"no image")
    how = {"crop": "resized", "size": 16, "batch_size": 4, "workers": 0}
    for loader in ("ffcv", "torch"):
        data = data_of(ImageFolder(str(tmp_path / "f")), loader=loader, on_bad="count", **how)
        labels = torch.cat([labels for _, labels in data.train_dataloader()])
        assert sorted(labels.tolist()).count(-100) == 1 and len(labels) == 12
        assert ("image files are read one by one" in capsys.readouterr().out) == (loader == "ffcv")


def test_bad_images_of_a_folder_of_one_size_are_counted(tmp_path):
    """Small images, such as those of CIFAR as PNG files, are cropped without --data.size."""
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{i}.png") for i in range(8)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    for i in (0, 4, 5):
        Path(paths[i]).write_bytes(b"no image")
    images = Images(np.arange(8), np.arange(8), paths=paths)
    for crop, at in (("none", [0, 1, 2]), ("pad", [3, 4, 6]), ("none", [4, 5]), ("pad", [0, 4])):
        pixels, labels = read(images, Augment(crop=crop, pad=4), 0, 0, np.array(at), "count")
        bad = [i in (0, 4, 5) for i in at]
        assert pixels.shape[1:] == (3, 16, 16) and (labels < 0).tolist() == bad
        assert [bool((x == 127).all()) for x in pixels] == bad
    Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(paths[7])
    with pytest.raises(UserError, match="these images have no common square size"):
        read(images, Augment(), 0, 0, np.array([0, 1, 7]), "count")


def test_a_class_folder_that_vanishes_is_not_counted_as_bad_images(folder, tmp_path):
    root = tmp_path / "f"
    copytree(folder, root)
    how = {"crop": "resized", "size": 16, "batch_size": 4, "workers": 0}
    data = data_of(ImageFolder(str(root)), loader="torch", on_bad="count", **how)
    (root / "train/dog").rename(root / "gone")
    with pytest.raises(UserError, match="dog/.*No such file or directory; correct that and give"):
        [*data.train_dataloader()]


def test_a_folder_is_checked(cli, folder, tmp_path):
    root = tmp_path / "f"
    copytree(folder, root)
    code, out, _ = cli("data", "check", root)
    assert code == 0 and "18 images, 0 cannot be read, 0 in several places" in out
    (root / "train/cat/0.png").write_bytes(b"no image")
    (root / "val/dog/twin.png").write_bytes((root / "train/cat/1.png").read_bytes())
    (root / "train/dog/x.heic").touch()
    (root / "train/outside.png").touch()
    code, out, _ = cli("data", "check", root, "--json")
    found = json.loads(out)
    assert found["outside"] == 1
    assert code == 1 and found["counts"]["train/cat"] == 4 and found["ignored"] == {".heic": 1}
    assert [*found["unreadable"]] == [str(root / "train/cat/0.png")]
    twins = [str(root / "train/cat/1.png"), str(root / "val/dog/twin.png")]
    assert found["duplicates"] == [twins] and sum(s["images"] for s in found["sizes"]) == 18
    code, out, _ = cli("data", "check", root)
    assert code == 1 and f"the same bytes (in several classes or splits): {', '.join(twins)}" in out
    assert f"cannot be read: {root}/train/cat/0.png: it is no image" in out
    assert "left out: 1 images outside the folders of classes" in out
    assert cli("data", "check", "nothere")[0] == 2


def test_images_outside_the_folders_of_classes_are_told_once(folder, tmp_path, capsys):
    root = tmp_path / "f"
    copytree(folder, root)
    for name in ("a.png", "b.JPG", "notes.txt"):
        (root / "train" / name).touch()
    ImageFolder(str(root)).splits()
    told = f"warning: 2 images lie in {root}/train itself, outside the folders of classes: left out"
    assert capsys.readouterr().out == f"{told}\n"


def test_a_folder_is_no_beton_file(cli, folder):
    code, _, err = cli("data", "write", "image_folder", "--root", folder, "--out", ".")
    assert code == 2 and "--out . is a folder: name a file in it, --out train.beton" in err


@pytest.mark.parametrize("names", [("val",), ("test",), ("valid", "test")])
def test_a_folder_of_held_out_splits_alone_is_to_evaluate_on(folder, tmp_path, names):
    for name in names:
        copytree(folder / "train", tmp_path / "f" / name)
    splits = ImageFolder(str(tmp_path / "f")).splits()
    assert [*splits] == (["val", "test"] if "test" in names else ["val"])
    assert {f"/{names[0]}/" in path for path in splits["val"].paths} == {True}
    assert splits["val"].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_fifth_that_validates_is_told_and_other_images_all_validate(folder, tmp_path, capsys):
    root = tmp_path / "f"
    copytree(folder / "train", root)
    source = ImageFolder(str(root))
    assert [len(images) for images in source.splits().values()] == [10, 2]
    assert not capsys.readouterr().err
    source.all_validate = False
    assert [len(images) for images in source.splits().values()] == [10, 2]
    assert f"{root} names no splits: 2 of its 12 images (a fifth)" in capsys.readouterr().err
    source.all_validate = True
    (images,) = source.splits().values()
    assert len(images) == 12 and "all 12 images are evaluated" in capsys.readouterr().err


def test_a_class_in_letters_composed_otherwise_is_told(folder, tmp_path):
    for split, name in (("train", "caf\u00e9"), ("val", "cafe\u0301")):
        copytree(folder / split, tmp_path / "f" / split)
        first = min((tmp_path / "f" / split).iterdir())
        first.rename(first.with_name(name))
    with pytest.raises(UserError, match="no counterpart .* composed otherwise"):
        ImageFolder(str(tmp_path / "f")).splits()


def test_folders_of_classes_without_images(folder, tmp_path, capsys):
    copytree(folder, tmp_path / "f")
    (tmp_path / "f/train/ant").mkdir()
    (tmp_path / "f/train/bee").mkdir()
    (tmp_path / "f/train/bee/notes.txt").write_text("no image")
    source = ImageFolder(str(tmp_path / "f"))
    assert source.splits()["train"].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert source.classes == ["cat", "dog", "eel"]
    assert (
        capsys.readouterr().out
        == f"warning: no images in class folder {tmp_path}/f/train/ant (2 such): left out\n"
    )
    for name in ("dog", "eel"):
        rmtree(tmp_path / "f/train" / name)
    with pytest.raises(UserError, match="f/train has images of one class only, cat"):
        ImageFolder(str(tmp_path / "f")).splits()


def bad(labels, classes=2):
    source = Source()
    source.classes = [str(i) for i in range(classes)]
    images = Images(
        np.arange(len(labels)),
        np.array(labels, np.int64),
        np.zeros((len(labels), 4, 4, 3), np.uint8),
    )
    source.splits = lambda: {"train": images, "val": images}
    return source


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda p: data_of(bad([0, 1, 2])), r"must be 0 to 1 \(2 classes\), found 0 to 2"),
        (lambda p: data_of(bad([-1, 1])), r"found -1 to 1"),
        (lambda p: data_of(bad([])), "found none"),
        (
            lambda p: data_of(bad([0, 1]), batch_size=4).train_dataloader(),
            "batch_size 4 exceeds the 2 training images",
        ),
        (
            lambda p: data_of(bad([0, 1]), batch_size=5, world=2).micro_batch,
            "by 2 ranks .* try .*--data.batch_size 4",
        ),
        (
            lambda p: ImageFolder(str(p / "none")).splits(),
            "does not exist .*; --data.source.root gives another",
        ),
        (lambda p: ImageFolder(str(p)).splits(), "no images in"),
        (lambda p: CIFAR10(str(p)).splits(), "CIFAR10 not found .* `resnet-cli data get cifar10"),
        (lambda p: FashionMNIST(str(p)).splits(), "data get fashion_mnist"),
    ],
)
def test_bad_data_is_named_with_its_cure(act, message, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lightning_resnet.data.sources.fashion_mnist.DEBIAN_FASHION", tmp_path / "absent"
    )
    with pytest.raises(UserError, match=message) as e:
        act(tmp_path)
    assert "\n" not in str(e.value)


def test_unreadable_image_is_named_even_from_a_worker(folder, tmp_path):
    from lightning_resnet.errors import one_line

    copytree(folder, tmp_path / "f")
    (tmp_path / "f/train/dog/0.png").write_bytes(b"not an image")
    for workers in (0, 2):
        loader = data_of(
            ImageFolder(str(tmp_path / "f")), batch_size=4, size=16, workers=workers
        ).train_dataloader()
        with pytest.raises(UserError) as e:
            list(loader)
        assert one_line(e.value).startswith(
            "cannot read image"
        ) and "dog/0.png (sample 4)" in one_line(e.value)


def folder_recipe(kind, root):
    return {"source": {"class_path": f"lightning_resnet.{kind}", "init_args": {"root": root}}}


@pytest.mark.parametrize(
    ("recipe", "all_validate"),
    [
        (folder_recipe("ImageFolder", "here"), False),
        (folder_recipe("ImageFolder", "other"), True),
        # These may be the same images, elsewhere then.
        (folder_recipe("ImageFolder", "not_to_be_found"), False),
        (folder_recipe("CIFAR10", "data"), True),
        ({"source": "Digits"}, True),
        ({"source": None}, True),
        ({"source": [1, 2]}, True),
        ("recipe.yaml", True),
        (None, True),
    ],
)
def test_images_of_another_folder_than_the_trainings_all_validate(
    tmp_path, monkeypatch, recipe, all_validate
):
    monkeypatch.chdir(tmp_path)
    for name in ("here", "other"):
        Path(name).mkdir()
    source = ImageFolder(root="here")
    experiment = SimpleNamespace(data=SimpleNamespace(source=source))
    tell_apart(experiment, {"data": recipe})
    assert source.all_validate == all_validate
