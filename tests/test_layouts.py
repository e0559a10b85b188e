"""ImageNet in each layout that people hold makes the same .beton; what is wrong with one is said in
one line.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_resnet.bench.layouts import (
    CLS_LOC,
    DEVKIT,
    KAGGLE_ZIP,
    MAKERS,
    SOLUTION,
    Contents,
    archives,
    devkit,
    folders,
    kaggle,
    kaggle_zip,
    save,
    shard,
    tar,
    tar_gz,
    webdataset,
    write_parquet,
)
from lightning_resnet.data.archives import (
    LONGEST_NAME,
    member_of,
    read_in_order,
    tar_members,
    zip_members,
)
from lightning_resnet.data.beton.encode import read_bytes
from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.beton.journal import PartialFile
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.module import ImageData
from lightning_resnet.data.sources import ImageNet, Parquet, WebDataset
from lightning_resnet.data.sources.imagenet import VAL as VAL_TAR
from lightning_resnet.errors import UserError
from lightning_resnet.progress import Meter

WNIDS = ["n02119789", "n01440764", "n01443537", "n01484850"]  # by the devkit's numbers, not sorted


def jpeg(i):
    file = io.BytesIO()
    colours = np.random.default_rng(i).integers(0, 255, (3, 4, 3), np.uint8)
    Image.fromarray(colours).resize((20 + i, 24)).save(file, "JPEG")
    return file.getvalue()


# 28 training images, some of whose names begin with others', and 12 to validate; name -> bytes.
TRAIN = {f"{WNIDS[i % 4]}_{[100, 1002, 10026, 3, 17][i // 4 % 5]}{i // 20}": i for i in range(28)}
TRAIN = {name: jpeg(i) for name, i in TRAIN.items()}
VAL = {f"ILSVRC2012_val_{i:08}": jpeg(100 + i) for i in range(1, 13)}
TRUTH = {name: WNIDS[(7 * i) % 4] for i, name in enumerate(VAL)}
RANK = {wnid: i for i, wnid in enumerate(sorted(WNIDS))}
ALL = Contents(TRAIN, VAL, TRUTH, WNIDS)


def write(root, out, split, **options):
    source = ImageNet(str(root), expect=False)
    images = source.splits()[split]
    options = {"classes": source.classes, "workers": 1, "progress": False, **options}
    return write_beton(images, out, **options)


def fails(match, root, read=ImageNet, **options):
    with pytest.raises(UserError, match=match) as caught:
        read(str(root), **({"expect": False} if read is ImageNet else {}), **options).splits()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_images_make_the_same_beton_from_each_layout(tmp_path):
    pytest.importorskip("pyarrow")
    found = {}
    for name, make in MAKERS.items():
        make(tmp_path / name, ALL)
        for split, images in (("train", TRAIN), ("val", VAL)):
            out = write(tmp_path / name, tmp_path / f"{split}.beton", split)
            data = out.read_bytes()
            beton = Beton(out)
            found.setdefault(split, {})[name] = hashlib.sha256(data).hexdigest()
            assert beton.classes == sorted(WNIDS)
            expected = sorted((RANK[ALL.wnid(n)], n) for n in images)
            labels = dict(zip(beton.ids.tolist(), beton.labels.tolist(), strict=True))
            assert [labels[i] for i in range(len(images))] == [label for label, _ in expected]
            assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob("*.journal"))
            for i, start in zip(beton.ids, beton.images["data_ptr"], strict=True):
                assert data[int(start) :].startswith(images[expected[i][1]])
            out.unlink()
            print(f"{split:5} {name:18} {found[split][name]}")
    assert [len(set(sums.values())) for sums in found.values()] == [1, 1]


def test_scaled_images_and_bad_ones_that_are_left_out_are_the_same_too(tmp_path):
    """Sizes are known only when an image is encoded, in a layout that is read in order."""
    pytest.importorskip("pyarrow")
    sums = set()
    manifests = []
    for name in ("folders", "tar.gz", "parquet"):
        changed = dict(TRAIN)
        changed[next(iter(TRAIN))] = b""
        changed[[*TRAIN][7]] = b"no image"
        MAKERS[name](tmp_path / name, ALL._replace(train=changed))
        with pytest.raises(UserError, match="or leave bad images out with --skip-bad"):
            write(tmp_path / name, tmp_path / "t.beton", "train", short_side=12)
        assert not (tmp_path / "t.beton").exists()
        out = write(tmp_path / name, tmp_path / "t.beton", "train", short_side=12, skip_bad=True)
        sums.add(hashlib.sha256(out.read_bytes()).hexdigest())
        manifest = json.loads(Path(f"{out}.json").read_text())
        manifests.append([(bad["id"], bad["why"]) for bad in manifest["skipped"]])
        out.unlink()
    assert len(sums) == 1 and len(manifests[0]) == 2
    assert manifests[0] == manifests[1] == manifests[2]


def test_a_write_in_two_steps_continues_in_either(tmp_path, monkeypatch, capsys):
    tar_gz(tmp_path, ALL)
    good = write(tmp_path, tmp_path / "a.beton", "train").read_bytes()
    monkeypatch.setattr("lightning_resnet.data.beton.write.CHUNK_FILES", 4)
    for place in (Meter.update, PartialFile.sample):
        with monkeypatch.context() as patch:
            calls = []

            def fail(self, n, place=place, calls=calls):
                calls.append(n)
                if len(calls) > 3:
                    raise KeyboardInterrupt
                return place(self, n)

            patch.setattr(Meter if place is Meter.update else PartialFile, place.__name__, fail)
            with pytest.raises(KeyboardInterrupt):
                write(tmp_path, tmp_path / "b.beton", "train")
    capsys.readouterr()
    assert write(tmp_path, tmp_path / "b.beton", "train").read_bytes() == good
    assert "28 of 28 are there, continuing" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob("*.journal"))


def test_images_of_archives_in_order_are_not_trained_on(tmp_path):
    tar_gz(tmp_path, ALL)
    data = ImageData(ImageNet(str(tmp_path), expect=False), batch_size=4, size=8, loader="torch")
    with pytest.raises(UserError, match="can only be read in order, .* data write"):
        data.setup("fit")


def test_a_layout_is_chosen_or_named(tmp_path, cli):
    webdataset(tmp_path, ALL)
    folders(tmp_path, ALL)
    said = fails("ImageNet in 2 layouts", tmp_path)
    assert "webdataset" in said and "folders" in said and "--layout" in said
    for layout in ("webdataset", "folders"):
        images = ImageNet(str(tmp_path), False, layout).splits()["train"]
        assert (".tar!" in images.paths[0]) == (layout == "webdataset")
    fails("has not all of layout parquet", tmp_path, layout="parquet")
    argv = "data write imagenet --out x.beton --root".split()
    for flags, words in (
        (["--layout", "tarballs"], "choose among folders, archives"),
        (["--layout", "folders"], "has 28 train images, ImageNet 1,281,167"),
        (["--classes", "x"], "--classes is for webdataset and parquet"),
    ):
        code, _, err = cli(*argv, str(tmp_path), *flags)
        assert code == 2 and words in err and len(err.strip().splitlines()) == 1
    shutil.rmtree(tmp_path / "val")
    for shard_of_train in tmp_path.glob("*-train-*.tar"):
        shard_of_train.unlink()
    said = fails("put both splits of one layout there", tmp_path)
    assert "train in layout folders" in said and "val in layout webdataset" in said
    shutil.rmtree(tmp_path / "train")
    fails("has only val of layout webdataset", tmp_path)


def test_an_archive_left_next_to_class_folders_is_no_shard(tmp_path):
    folders(tmp_path, ALL)
    save(tmp_path / "train" / f"{WNIDS[1]}.tar", tar([("x.JPEG", jpeg(1))]))
    for layout in (None, "folders"):
        assert len(ImageNet(str(tmp_path), False, layout).splits()["train"]) == 28
    inside = tmp_path / "elsewhere"
    webdataset(inside, ALL)
    for split, word in (("train", "train"), ("val", "validation")):
        for path in inside.glob(f"*-{word}-*.tar"):
            path.rename(tmp_path / split / path.name)
    (tmp_path / "train" / f"{WNIDS[1]}.tar").unlink()
    assert ".tar!" not in ImageNet(str(tmp_path), False).splits()["train"].paths[0]
    images = ImageNet(str(tmp_path), False, "webdataset").splits()["train"]
    assert ".tar!" in images.paths[0] and len(images) == 28


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_bad_labels_of_val_are_one_line(tmp_path):
    kaggle(tmp_path, ALL)
    table = tmp_path / SOLUTION
    good = table.read_bytes()
    lines = good.splitlines(keepends=True)
    for content, words in (
        (b"".join(lines[:-2]), r"has no label of ILSVRC2012_val_0000000\d \(2 images without\)"),
        (good + b"ILSVRC2012_val_00000001.JPEG,n01443537 1 2 3 4\n", "here and .* above"),
        (good.replace(lines[3].split(b",")[1], b"12\n"), "must be a WordNet id"),
        (b'"' + good + bytes(b"x" * 140_000), "is no CSV .field larger.* get Kaggle's"),
        (good.replace(b"n02119789", b"n99999999"), "n99999999 .* is not among the 4 of train"),
    ):
        table.write_bytes(content)
        fails(words, tmp_path)
    table.write_bytes(good.replace(b"\n", b"\r"))  # as old programs for the Mac end lines
    assert len(ImageNet(str(tmp_path), False).splits()["val"]) == 12
    again = tmp_path / "ILSVRC/Data" / CLS_LOC / "val" / f"{next(iter(VAL))}.png"
    again.write_bytes(jpeg(1))
    fails(f"val image {next(iter(VAL))} is there twice", tmp_path)
    again.unlink()
    table.write_bytes(good)
    devkit_file = tmp_path / DEVKIT
    devkit_file.write_bytes(devkit(ALL))
    assert len(ImageNet(str(tmp_path), False).splits()["val"]) == 12  # they agree
    table.unlink()
    for name in ("notes.csv", "others.csv"):  # are not of val, if the devkit is there
        (tmp_path / name).write_text("a,b\n1,2\n")
    assert len(ImageNet(str(tmp_path), False).splits()["val"]) == 12
    for name in ("notes.csv", "others.csv"):
        (tmp_path / name).unlink()
    swapped = good.replace(b"n02119789", b"n?").replace(b"n01440764", b"n02119789")
    table.write_bytes(swapped.replace(b"n?", b"n01440764"))
    fails("remove the wrong one", tmp_path)
    for file in (table, devkit_file):
        file.unlink()
    fails("val is flat and .* has no labels of it", tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(good)
    fails("may both have the labels", tmp_path)
    (tmp_path / "ILSVRC/Data" / CLS_LOC / "val" / WNIDS[0]).mkdir()
    fails("sort all of them, or none", tmp_path)


def test_bad_zips_are_one_line(tmp_path):
    kaggle_zip(tmp_path, ALL)
    path = tmp_path / KAGGLE_ZIP
    images = ImageNet(str(path), False).splits()["train"]  # the zip itself is a root
    assert [read_bytes(p) for p in images.paths] == [
        TRAIN[member_of(p).name.split("/")[-1][:-5]] for p in images.paths
    ]
    data = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(".", b"x")
    assert len(ImageNet(str(path), False).splits()["val"]) == 12
    with zipfile.ZipFile(path) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        (packed,) = [info for info in archive.infolist() if info.filename.endswith(SOLUTION)]
    start = packed.header_offset + 30 + len(packed.filename)
    sound = path.read_bytes()
    path.write_bytes(sound[:start] + 20 * b"\xff" + sound[start + 20 :])
    fails("zip is damaged or cut short .* download it again", tmp_path)
    path.write_bytes(data)
    cut(path, 5000)
    fails("zip is damaged or cut short .* download it again", tmp_path)
    start = member_of(images.paths[1]).start
    path.write_bytes(data[:start] + b"XXXX" + data[start + 4 :])
    with pytest.raises(ValueError, match="damaged there"):
        read_bytes(images.paths[1])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../x.JPEG", b"x")
    with pytest.raises(UserError, match="leads out of the archive"):
        zip_members(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Q", b"x")
    path.write_bytes(path.read_bytes().replace(b"Q", b"\0"))
    fails("has a member without a name", tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.JPEG", b"x")
    fails("another zip than Kaggle's", tmp_path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.JPEG", b"x")
    with pytest.raises(UserError, match="two members called x.JPEG"):
        zip_members(path)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.jpg", b"x")], "image a has no label .no a.cls, and no `label` in a.json"),
        ([("a.jpg", b"x"), ("a.cls", b"many")], "label of a is many: it must be a number"),
        ([("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"0")], "key a has 2 images"),
        ([("a.jpg", b"x"), ("a.JPG", b"x"), ("a.cls", b"0")], "a.jpg and a.JPG have one key"),
        ([("a.jpg", b"x"), ("a.jpg", b"x")], "two members called a.jpg"),
        ([("a.cls", b"0")], "key a has a label and no image"),
        ([("../a.jpg", b"x")], "leads out of the archive"),
        ([("/a.jpg", b"x")], "leads out of the archive"),
        ([("readme.txt", b"x")], "has no images"),
        ([("", b"x")], "has a member without a name"),
        ([("a.jpg", b"x"), ("a.json", b"{")], "a.json is no JSON"),
        ([("a.jpg", b"x"), ("a.cls", b"3"), ("b.jpg", b"x"), ("b.cls", b"0")], "none is 1"),
        ([("a.jpg", b"x"), ("a.cls", b"-2")], "must count from 0"),
        ([("a.jpg", b"x"), ("a.cls", b"999999999")], "none is 0: they must count from 0"),
    ],
)
def test_bad_shards_are_one_line(tmp_path, members, words):
    save(tmp_path / "x-0000.tar", tar(members))
    said = fails(words, tmp_path, WebDataset)
    assert str(tmp_path) in said


def test_labels_of_shards_are_proven_by_the_names(tmp_path):
    for label, words in (
        (lambda wnid: WNIDS.index(wnid), "not in order of the WordNet ids .* devkit's numbers"),
        (lambda wnid: RANK[wnid] + 998, "label 100[01] is outside 0 to 999"),
    ):
        rows = [(n, d, label(ALL.wnid(n))) for n, d, _ in ALL.rows("train")]
        save(tmp_path / "imagenet1k-train-0000.tar", shard(rows, ALL.wnid))
        save(tmp_path / "imagenet1k-validation-00.tar", shard(ALL.rows("val"), ALL.wnid))
        fails(words, tmp_path)
    rows = ALL.rows("train")
    save(tmp_path / "imagenet1k-train-0000.tar", shard(rows, ALL.wnid))
    save(tmp_path / "imagenet1k-train-0001.tar", shard(rows[:1], ALL.wnid))
    fails("is there twice", tmp_path)
    rows[3] = (*rows[3][:2], (rows[3][2] + 1) % 4)
    save(tmp_path / "imagenet1k-train-0000.tar", shard(rows, ALL.wnid))
    (tmp_path / "imagenet1k-train-0001.tar").unlink()
    fails("is not that of n0.* elsewhere", tmp_path)
    save(tmp_path / "imagenet1k-train-0000.tar", shard(ALL.rows("train"), ALL.wnid))
    val = [(n, d, 7) for n, d, _ in ALL.rows("val")]
    save(tmp_path / "imagenet1k-validation-00.tar", shard(val, ALL.wnid))
    fails("label 7 is none of train", tmp_path)
    numbers = [(f"{i}_x", d, label) for i, (_, d, label) in enumerate(ALL.rows("train"))]
    save(tmp_path / "imagenet1k-train-0000.tar", shard(numbers, str))
    fails("no WordNet id.* data write webdataset", tmp_path)


def test_bad_archives_in_order_are_one_line(tmp_path):
    tar_gz(tmp_path, ALL)
    path = tmp_path / "data" / "train_images_1.tar.gz"
    source = ImageNet(str(tmp_path), False)
    images = source.splits()["train"]
    data = path.read_bytes()
    cut(path, len(data) // 2)
    fails("train_images_1.tar.gz is damaged or cut short", tmp_path)
    with pytest.raises(UserError, match="train_images_1.tar.gz is damaged or cut short"):
        write_beton(images, tmp_path / "x.beton", classes=source.classes, workers=1, progress=False)
    assert not (tmp_path / "x.beton").exists()
    path.write_bytes(data[:100] + bytes(50) + data[150:])
    fails("is damaged or cut short", tmp_path)
    path.write_bytes(gzip.compress(tar([("x.JPEG", b"x")])))
    fails("has no WordNet id at its end", tmp_path)


def test_bad_parquet_is_one_line(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "train-00000-of-00001.parquet"
    write_parquet(path, ALL.rows("train"), 5)
    data = path.read_bytes()
    cut(path, len(data) - 100)
    fails("is damaged or cut short", tmp_path, Parquet)
    text = pyarrow.array(["a"])
    nulls = pyarrow.array(
        [{"bytes": None, "path": "a"}],
        pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    )
    for columns, words in (
        ({"image": text, "label": [0]}, "has no image bytes; its columns are image, label"),
        ({"image": nulls, "label": [0]}, "rows .the first, say. without image bytes"),
        ({"image": [b"x"], "other": [0]}, "has no labels: its columns are image, other"),
        ({"image": [b"x"], "label": [0.5]}, "label of row 0 is 0.5: labels must be whole numbers"),
        ({"a": [b"x"], "b": [b"x"], "label": [0]}, "several columns of bytes"),
        ({"image": [b"x"], "label": [-1]}, "must count from 0"),
    ):
        pq.write_table(pyarrow.table(columns), path)
        fails(words, tmp_path, Parquet)


def test_shards_of_any_data_set(tmp_path, cli):
    """Class names come from a file or from the data; one shard is a data set too."""
    pytest.importorskip("pyarrow")
    names = ["fish", "shark", "ray", "fox"]
    write_parquet(
        tmp_path / "p" / "train-00000-of-00001.parquet", ALL.rows("train"), 5, "img", names
    )
    write_parquet(tmp_path / "p" / "test-00000-of-00001.parquet", [("a", jpeg(1), -1)], 5, "img")
    save(tmp_path / "w" / "train" / "000.tar", shard(ALL.rows("train"), ALL.wnid))
    save(tmp_path / "w" / "val" / "000.tar", shard(ALL.rows("val"), ALL.wnid))
    (tmp_path / "names").write_text("\n".join(names))
    flags = {"parquet": ["p"], "webdataset": ["w", "--classes", str(tmp_path / "names")]}
    for source, (folder, *more) in flags.items():
        out = tmp_path / f"{source}.beton"
        root = str(tmp_path / folder)
        argv = ["data", "write", source, "--root", root, "--out", str(out), "--workers", "1", *more]
        code, said, err = cli(*argv)
        assert code == 0, err
        assert Beton(out).classes == names and "not in this file" in said
    splits = {name: len(x) for name, x in Parquet(str(tmp_path / "p")).splits().items()}
    assert splits == {"train": 23, "val": 5}
    one = WebDataset(str(tmp_path / "w" / "train" / "000.tar"))
    assert [len(x) for x in one.splits().values()] == [23, 5] and one.classes == [*"0123"]
    (tmp_path / "names").write_text("a\nb\na\nc\n")
    with pytest.raises(UserError, match="names class a twice"):
        WebDataset(str(tmp_path / "w"), str(tmp_path / "names")).splits()
    (tmp_path / "names").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"label [23] .* is outside 0 to 1 \(2 classes\)"):
        WebDataset(str(tmp_path / "w"), str(tmp_path / "names")).splits()


def test_a_name_that_is_twice_or_empty_in_the_archive_of_val_is_refused(tmp_path):
    archives(tmp_path, ALL)
    names = [f"{name}.JPEG" for name in VAL]
    first = names[0].removesuffix(".JPEG")
    for more, words in ((f"{first}.png", f"val image {first} is there twice"), (".", "no name")):
        save(tmp_path / VAL_TAR, tar([(name, b"x") for name in (*names, more)]))
        fails(words, tmp_path)


def test_one_file_is_a_root_where_its_source_reads_it(tmp_path, cli):
    pytest.importorskip("pyarrow")
    folder = tmp_path / "in"
    kaggle_zip(folder, ALL)
    save(folder / "a.tar", shard(ALL.rows("train"), ALL.wnid))
    write_parquet(folder / "a.parquet", ALL.rows("train"), 5)
    for source, name, words in (
        ("webdataset", "a.tar", "5 val images"),
        ("parquet", "a.parquet", "5 val images"),
        ("imagenet", KAGGLE_ZIP, "has 28 train images, ImageNet 1,281,167"),
        ("webdataset", "a.parquet", "is a file: give the folder that it is in, or one file that"),
        ("imagenet", "a.tar", "one file that ends in .zip"),
        ("image_folder", "a.tar", "is an archive: unpack it"),
    ):
        out = tmp_path / f"{source}-{name}.beton"
        argv = ["--root", folder / name, "--out", out, "--workers", "1"]
        code, said, err = cli("data", "write", source, *argv)
        assert words in said + err and (code == 0) == out.exists()
        assert err.count("\n") == (code != 0)
    flags = "--data.source ImageNet --data.source.expect false --data.source.root"
    size = "--data.size 8 --data.crop resized --data.batch_size 4 --trainer.max_steps 1"
    root = folder / KAGGLE_ZIP
    code, said, err = cli("fit", *flags.split(), root, *size.split(), "--config", "digits")
    assert code == 0, err


def test_a_class_that_is_twice_in_the_archive_of_train_is_refused(tmp_path):
    archives(tmp_path, ALL)
    inner = tar([("n01440764_1.JPEG", b"x")])
    twice = tar([("n01440764.tar", inner), ("n01440764.tar", inner)])
    save(tmp_path / "ILSVRC2012_img_train.tar", twice)
    fails("two members called n01440764.tar", tmp_path)
    assert len(tar_members(tmp_path / "ILSVRC2012_img_val.tar")) == 12


@pytest.mark.parametrize("make", [archives, webdataset])
def test_a_tar_that_is_cut_short_is_one_line(tmp_path, cli, make):
    root = tmp_path / "in"
    make(root, ALL)
    path = root / ("ILSVRC2012_img_train.tar" if make is archives else "imagenet1k-train-0001.tar")
    cut(path, path.stat().st_size // 2)
    fails(f"{path.name} is damaged or cut short", root)
    flags = ["--root", root, "--out", tmp_path / "out" / "x.beton"]
    code, _, err = cli("data", "write", "imagenet", *flags)
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_tar_must_end_as_one_and_have_sound_headers(tmp_path):
    """A copy that stops between two members, or a damaged header, is not the archive's end."""
    complete = shard(ALL.rows("train"), str)
    starts = [member.offset for member in tarfile.open(fileobj=io.BytesIO(complete)).getmembers()]
    packed = tmp_path / "train_images_0.tar.gz"
    plain = tmp_path / "train-0000.tar"
    damaged = complete[: starts[12]] + b"?" * 512 + complete[starts[12] + 512 :]
    for content in (complete[: starts[12]], damaged, complete[: starts[12] + 100]):
        plain.write_bytes(content)
        packed.write_bytes(gzip.compress(content))
        for path in (plain, packed):
            with pytest.raises(UserError, match="damaged or cut short .no end of the archive"):
                tar_members(path)
        if content != complete[: starts[12]]:
            fails("damaged or cut short .no end of the archive", tmp_path, WebDataset)


def test_a_shard_that_ends_after_a_complete_member_is_taken_with_a_warning(tmp_path, capsys):
    """GNU tar takes such files, and some programs write them."""
    complete = shard(ALL.rows("train"), str)
    starts = [member.offset for member in tarfile.open(fileobj=io.BytesIO(complete)).getmembers()]
    plain = tmp_path / "train-0000.tar"
    packed = tmp_path / "train-0000.tar.gz"
    plain.write_bytes(complete)
    all_members = tar_members(plain)
    assert WebDataset(str(plain)).splits() and not capsys.readouterr().out
    plain.write_bytes(complete[: starts[12]])
    packed.write_bytes(gzip.compress(complete[: starts[12]]))
    unended: list[Path] = []
    assert tar_members(plain, unended=unended) == all_members[:12]
    assert [member.name for member in tar_members(packed, unended=unended)] == [
        member.name for member in all_members[:12]
    ]
    assert unended == [plain, packed]
    packed.unlink()
    assert len(WebDataset(str(plain)).splits()["train"].labels) > 0
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "1 of the shards, such as" in told
    for size in (starts[12] - 1, starts[12] - 512, starts[12] - 600, 0):
        plain.write_bytes(complete[:size])
        fails("damaged or cut short", plain, WebDataset)


def test_members_that_would_fill_the_memory_are_refused_when_they_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_resnet.data.archives.MAX_BYTES", 5000)
    path = tmp_path / "train_images_0.tar.gz"
    path.write_bytes(gzip.compress(tar([("a.JPEG", bytes(6000))])))
    with pytest.raises(UserError, match="a.JPEG has 6,000 bytes, as no image"):
        tar_members(path)
    head = tarfile.TarInfo("././@LongLink")
    for kind, size, words in (
        (tarfile.GNUTYPE_LONGNAME, LONGEST_NAME + 1, "a name of 1,048,577 bytes"),
        (tarfile.XHDTYPE, LONGEST_NAME + 1, "a name of 1,048,577 bytes"),
        (tarfile.GNUTYPE_SPARSE, 0, "is a sparse file"),
    ):
        head.type = kind
        head.size = size
        path.write_bytes(gzip.compress(head.tobuf(tarfile.GNU_FORMAT) + bytes(size + 1024)))
        with pytest.raises(UserError, match=words):
            tar_members(path)
    path.write_bytes(gzip.compress(tar([("x" * 300, b"x")])))
    assert tar_members(path)[0].name == "x" * 300


def test_a_flipped_bit_in_a_zip_is_damage(tmp_path):
    """The decoder of JPEGs does not notice most of them; the zip's CRC-32 notices all."""
    path = tmp_path / "a.zip"
    data = jpeg(1)

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for file in (io.BytesIO(), Pipe()):  # a pipe's sums stand behind the data
            with zipfile.ZipFile(file, "w", kind) as archive:
                archive.writestr("a.jpg", data)
            content = bytearray(file.getvalue())
            path.write_bytes(content)
            address = zip_members(path)[0].address
            assert read_bytes(address) == data
            content[content.index(b"a.jpg") + 300] ^= 16
            path.write_bytes(content)
            with pytest.raises(ValueError, match="damaged there"):
                read_bytes(address)


def test_a_pipe_in_place_of_an_archive_is_one_line(tmp_path):
    pytest.importorskip("pyarrow")
    for name, read in (("train-000.tar", WebDataset), ("train-0.parquet", Parquet)):
        os.mkfifo(tmp_path / name)
        fails(f"cannot read .*{name}: it is no plain file", tmp_path, read)
    os.mkfifo(tmp_path / KAGGLE_ZIP)
    with pytest.raises(UserError, match="it is no plain file"):
        zip_members(tmp_path / KAGGLE_ZIP)


def test_images_of_a_parquet_file_are_in_memory_one_at_a_time(tmp_path):
    """A dictionary of two images can stand for any number of rows."""
    pyarrow = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "train-0.parquet"
    big = pyarrow.array([bytes(1_000_000)]).take(pyarrow.array([0] * 60))
    pq.write_table(pyarrow.table({"image": big, "label": [0] * 60}), path)
    del big
    before = pyarrow.total_allocated_bytes()
    images = read_in_order([f"{path}!x@{i}+1" for i in range(60)])
    for image in images:
        assert len(image) == 1_000_000
        assert pyarrow.total_allocated_bytes() - before < 20_000_000


def test_shards_of_other_names_of_classes_are_refused(tmp_path):
    """A label is a place among the names: in another order all labels would be wrong."""
    pytest.importorskip("pyarrow")
    rows = [(f"i{i}", jpeg(i), i % 2) for i in range(8)]
    write_parquet(tmp_path / "train-0.parquet", rows, 5, names=["cat", "dog"])
    val = tmp_path / "validation-0.parquet"
    for names, words in (
        (["dog", "cat"], "dog as name of class 0, and .*train-0.parquet cat"),
        (["cat", "dog", "fox"], "3 names of classes, and .*train-0.parquet 2"),
        (["cat", "cat"], "cat as name of class 1"),
    ):
        write_parquet(val, rows, 5, names=names)
        fails(words, tmp_path, Parquet)
    write_parquet(val, rows, 5, names=["cat", "dog"])
    source = Parquet(str(tmp_path))
    source.splits()
    assert source.classes == ["cat", "dog"]
    write_parquet(tmp_path / "train-0.parquet", rows, 5, names=["crane", "crane"])
    fails("train-0.parquet names class crane twice", tmp_path, Parquet)
    write_parquet(val, rows, 5, names=["crane", "crane"])
    own = tmp_path / "names.txt"
    own.write_text("bird\nmachine\n")
    source = Parquet(str(tmp_path), classes=str(own))
    source.splits()
    assert source.classes == ["bird", "machine"]


def test_names_of_splits_are_those_of_folders_and_are_all_there_or_none(tmp_path):
    content = shard(ALL.rows("val"), str)
    names = ["trainset-0.tar", "x/evaluation/part/0.tar", "testset-0.tar"]
    for name in names:
        save(tmp_path / name, content)
    assert [*WebDataset(str(tmp_path)).splits()] == ["train", "val", "test"]
    save(tmp_path / "extra-0.tar", content)
    fails("neither the name of .*extra-0.tar nor its folder says a split", tmp_path, WebDataset)
    for name in names:
        (tmp_path / name).unlink()
    assert [*WebDataset(str(tmp_path)).splits()] == ["train", "val"]


def test_shards_that_are_missing_by_their_numbers_are_told(tmp_path, capsys):
    content = shard(ALL.rows("val"), str)
    for names, words in (
        (["a-000.tar", "a-003.tar"], "2 of the 4 shards"),
        (["a-0-of-3.tar", "a-1-of-3.tar"], "2 of the 3 shards"),
        (["a-0-of-2.tar", "a-1-of-3.tar"], "of several sets, of 2 and 3 shards"),
        (["a-0-of-2.tar", "a-1-of-2.tar"], ""),
        (["a-007.tar", "a-008.tar"], ""),
        (["a-1.tar", "b-5.tar"], ""),
    ):
        root = tmp_path / "".join(names)
        for name in names:
            save(root / name, content)
        WebDataset(str(root)).splits()
        out = capsys.readouterr().out
        assert words in out and ("warning" in out) == bool(words)


def test_an_unreadable_folder_of_shards_is_one_line(tmp_path, monkeypatch):
    save(tmp_path / "a" / "0.tar", shard(ALL.rows("val"), str))

    def scandir(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    fails("cannot read folder .*a: Permission denied; allow it", tmp_path, WebDataset)


def test_names_of_images_in_parquet_need_be_no_paths(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "train-0.parquet"
    for kind, name, expected in (
        (pyarrow.string(), "/", "0"),
        (pyarrow.string(), None, "0"),
        (pyarrow.int64(), 7, "0"),
        (pyarrow.string(), "a/b.jpg", "b.jpg"),
    ):
        kinds = pyarrow.struct([("bytes", pyarrow.binary()), ("path", kind)])
        images = pyarrow.array([{"bytes": b"x", "path": name}], kinds)
        pq.write_table(pyarrow.table({"image": images, "label": [0]}), path)
        source = Parquet(str(path))
        source.all_validate = True
        assert [member_of(p).name for p in source.splits()["val"].paths] == [expected]
    images = pyarrow.array([{"bytes": b"x", "path": "x" * 20_000}])
    pq.write_table(pyarrow.table({"image": images, "label": [0]}), path)
    fails("path of row 0 has 20,000 characters", path, Parquet)


def test_a_wordnet_id_that_is_twice_in_the_devkit_is_refused(tmp_path):
    archives(tmp_path, ALL)
    (tmp_path / DEVKIT).write_bytes(devkit(ALL._replace(wnids=[*WNIDS, WNIDS[0]])))
    fails(f"{DEVKIT} is damaged or another archive .a WordNet id is there twice.", tmp_path)


@pytest.mark.slow
def test_the_benchmark_writes_each_layout_and_lists_shards(cli):
    small = "--images 20 --entries 2000 --repeat 1 --workers 1".split()
    code, out, err = cli("bench", "layouts", *small)
    assert code == 0, err
    assert all(f"| {layout} " in out for layout in MAKERS)
    assert out.count(" yes |") == len(MAKERS)
