"""No image, archive or .beton takes memory or time out of proportion, runs a program or ends what
others go on with.
"""

import fcntl
import gzip
import io
import json
import os
import pickle
import re
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.loaders import copies, data_of
from PIL import Image

from lightning_resnet.data import module
from lightning_resnet.data.archives import tar_members
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.beton import decode_fallback as fallback
from lightning_resnet.data.beton import encode as encoding
from lightning_resnet.data.beton.cache import as_beton
from lightning_resnet.data.beton.encode import (
    EncodeFailure,
    EncodeJob,
    EncodeOptions,
    encode,
    open_rgb,
)
from lightning_resnet.data.beton.format import FIELD, HEADER, IMAGE, Beton, manifest_path
from lightning_resnet.data.beton.journal import ROW
from lightning_resnet.data.beton.limits import MAX_SCANS
from lightning_resnet.data.beton.verify import verify
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.images import Images
from lightning_resnet.data.loaders import torch_loader
from lightning_resnet.data.module import ImageData
from lightning_resnet.data.sources import fashion_mnist, imagenet_labels
from lightning_resnet.data.sources.beton_files import BetonFiles
from lightning_resnet.data.sources.folder import ImageFolder
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.errors import UserError
from lightning_resnet.files import find_images

PACKAGE = Path(kernel.__file__).parents[1]
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 255, (160, 160, 3), np.uint8)


def as_jpeg(pixels, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def decode(data, boxes, size, rows, cols):
    """Decode images through the kernel; return the images and their statuses."""
    file = os.memfd_create("jpeg")
    os.pwrite(file, data, 0)
    items = np.zeros(len(boxes), kernel.ITEM)
    items["size"], items["rows"], items["cols"], items["jpeg"] = len(data), rows, cols, 1
    items["top"], items["left"], items["height"], items["width"] = np.array(boxes, float).T
    out = np.empty((len(boxes), size, size, 3), np.uint8)
    status = kernel.decode(SimpleNamespace(fd=file), items, out, 1)
    os.close(file)
    return out, status


# -- the decoder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("side", [48, 19])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_crop_has_the_pixels_of_the_full_image(sampling, side, progressive):
    data = as_jpeg(NOISE[:side, :side], subsampling=sampling, progressive=progressive)
    for shrink in (1, 2, 4, 8):
        n = side // shrink
        if side % shrink:
            continue
        (complete,), _ = decode(data, [(0, 0, side, side)], n, side, side)
        for size in {1, 2, 17} & set(range(n)):
            corners = [(y, x) for y in range(0, n - size + 1, 5) for x in range(n - size + 1)]
            boxes = [(y * shrink, x * shrink, size * shrink, size * shrink) for y, x in corners]
            crops, status = decode(data, boxes, size, side, side)
            assert not status.any()
            for (y, x), crop in zip(corners, crops, strict=True):
                assert np.array_equal(crop, complete[y : y + size, x : x + size]), (
                    shrink,
                    size,
                    y,
                    x,
                )


@pytest.mark.parametrize(
    "box", [(0.5, 0, 24, 24), (0, 7.25, 24, 24), (-3.5, 2, 24, 24), (float("nan"), 0, 24, 24)]
)
def test_a_crop_without_resize_at_a_part_of_a_pixel_is_refused(box):
    _, status = decode(as_jpeg(NOISE), [box], 24, 160, 160)
    assert kernel.PROBLEMS[status[0]] == "size differs from what the file says"


@pytest.mark.parametrize(
    "box",
    [(5, 5, 1e-300, 1), (5, 5, 1, 1e-300), (160, 160, 1e-9, 1e-9), (3, 3, 0.5, 9), (0, 0, 0, 0)],
)
def test_a_box_below_a_pixel_is_refused(box):
    _, status = decode(as_jpeg(NOISE), [box], 24, 160, 160)
    assert kernel.PROBLEMS[status[0]] == "size differs from what the file says"


def claiming(data, rows, cols):
    """The same JPEG, whose header says another size."""
    at = next(i for marker in (b"\xff\xc0", b"\xff\xc2") if (i := data.find(marker)) >= 0)
    return data[: at + 5] + struct.pack(">HH", rows, cols) + data[at + 9 :]


def with_scans(data, n):
    """The last scan of a progressive JPEG n times more."""
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * n + data[-2:]


SMALL = as_jpeg(NOISE[:16, :16], progressive=True)


@pytest.fixture(params=["kernel", "pillow"])
def decoder(request, monkeypatch):
    """Tests run with our decoder, and as where it was not built."""
    if request.param == "pillow":
        monkeypatch.setattr(kernel, "library", lambda: None)
        monkeypatch.setattr(encoding, "library", lambda: None)
        monkeypatch.setattr(fallback, "ffcv", lambda: None)


@pytest.mark.parametrize(
    ("data", "rows", "cols"),
    [
        (claiming(SMALL, 16_000, 16_000), 16_000, 16_000),
        (claiming(SMALL, 65_500, 65_500), 65_500, 65_500),
        (claiming(SMALL, 5_000, 5_000), 5_000, 5_000),
        (claiming(as_jpeg(NOISE[:16, :16]), 40_000, 4_000) + bytes(1 << 20), 40_000, 4_000),
        (with_scans(SMALL, MAX_SCANS), 16, 16),
    ],
)
def test_a_jpeg_of_more_pixels_or_scans_than_its_bytes_can_hold_is_refused(
    decoder, tmp_path, data, rows, cols
):
    _, (status,) = decode(data, [(0, 0, rows, cols)], 8, rows, cols)
    assert "more pixels than its bytes can hold" in kernel.PROBLEMS[status]
    (tmp_path / "x.jpg").write_bytes(data)
    sample = encode(EncodeJob(str(tmp_path / "x.jpg"), True), EncodeOptions())
    assert (
        isinstance(sample, EncodeFailure)
        and not sample.fatal
        and ("pixels" in sample.why or "scans" in sample.why)
    )
    with pytest.raises(ValueError, match="pixels|scans"):
        open_rgb(str(tmp_path / "x.jpg"))


def test_usual_numbers_of_scans_and_markers_in_an_appended_film_are_no_bomb(decoder, tmp_path):
    data = as_jpeg(NOISE, progressive=True)
    assert fallback.count_scans(data) == data.count(b"\xff\xda") == 10
    (tmp_path / "x.jpg").write_bytes(data + b"\xff\xda film" * 1000)  # phones append a film
    assert open_rgb(str(tmp_path / "x.jpg")).size == (160, 160)


# -- other formats ---------------------------------------------------------------------------------


def png(width, height, *chunks):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*c) for c in chunks) + chunk(b"IEND", b"")


def tiff(tags, order="<"):
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items())
    )
    return (
        b"II*\0"
        + struct.pack("<I", 8)
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
        + bytes(64)
    )


def gif(width, height, frames):
    frame = b"!\xf9\4\0\1\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + frame * frames + b";"


TEXT = b"Comment\0\0" + zlib.compress(bytes(1 << 26), 9)
TILED = {
    256: 8,
    257: 8,
    258: 8,
    259: 8,
    262: 1,
    277: 1,
    322: 1 << 14,
    323: 1 << 14,
    324: 150,
    325: 20,
}
HOSTILE = {
    "png of 900 MP": (png(30_000, 30_000, (b"IDAT", zlib.compress(bytes(1000)))), "pixels"),
    "png of 16 MP wide": (png(70_000, 10, (b"IDAT", b"")), "pixels"),
    "png text": (png(8, 8, (b"zTXt", TEXT), (b"IDAT", zlib.compress(bytes(200)))), "too large"),
    "png of one pixel's data": (png(4000, 4000, (b"IDAT", zlib.compress(bytes(3)))), ""),
    "tiff of one huge tile": (tiff(TILED), "pixels"),
    "tiff of 4 GP": (tiff({**TILED, 256: 65_535, 257: 65_535}), "pixels"),
    "gif of 4 GP": (gif(65_535, 65_535, 1), "pixels"),
    "ppm of 4 GP": (b"P6 65535 65535 255\n", "pixels"),
    "bmp wide": (
        b"BM" + struct.pack("<IIIIiiHHI", 60, 0, 54, 40, 1 << 27, 1, 1, 8, 1) + bytes(40),
        "pixels",
    ),
    "empty": (b"", "it is empty"),
    "html": (b"<html>not found</html>", "it is no image"),
    "eps": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "it is no image",
    ),
    "cut": (as_jpeg(NOISE)[:3000] + b"\xff\xd9", "damaged JPEG"),
    "cut CMYK": (as_jpeg(NOISE, mode="CMYK")[:9000] + b"\xff\xd9", "damaged JPEG"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_are_told_in_words(name, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)  # no other program is run
    data, words = HOSTILE[name]
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    for jpeg in (True, False):
        sample = encode(EncodeJob(str(path), jpeg), EncodeOptions())
        assert isinstance(sample, EncodeFailure) and words in sample.why and not sample.fatal
        assert "\n" not in sample.why and " object at " not in sample.why
    images = Images(np.arange(2), np.arange(2), paths=[str(path)] * 2)
    for on_bad in ("raise", "count"):
        reader = torch_loader.Reader(
            images, lambda epoch: data_of(Synthetic(64, 8)).eval_augment, 0, on_bad
        )
        if on_bad == "raise":
            with pytest.raises(
                UserError, match=rf"image {path} \(sample 0\): .*{words}.*--data.on_bad count"
            ):
                reader[0, np.arange(2)]
        else:
            pixels, labels = reader[0, np.arange(2)]
            assert labels.tolist() == [-100, -100] and (pixels == 127).all()


def test_pillow_is_asked_for_named_formats_everywhere():
    opened = [
        line
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text().splitlines()
        if "Image.open(" in line
    ]
    assert opened and all("formats=" in line for line in opened)


def test_many_frames_and_large_metadata_cost_nothing(tmp_path):
    (tmp_path / "frames.gif").write_bytes(gif(9, 9, 200_000))
    assert open_rgb(str(tmp_path / "frames.gif")).size == (9, 9)
    photo = Image.fromarray(NOISE)
    photo.save(
        tmp_path / "icc.jpg", icc_profile=bytes(1 << 23), exif=b"Exif\0\0II*\0" + bytes(60_000)
    )
    assert open_rgb(str(tmp_path / "icc.jpg")).size == (160, 160)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "folder.jpg").mkdir()
    for name, words in (
        ("pipe", "it is no file"),
        ("sparse", "bytes are more than"),
        ("folder", "it is no file"),
    ):
        with pytest.raises(ValueError, match=words):
            open_rgb(str(tmp_path / f"{name}.jpg"))
    with pytest.raises(UserError, match="it is no file"):
        BetonFiles(str(tmp_path / "pipe.jpg"), "none").splits()


# -- folders ---------------------------------------------------------------------------------------


def save(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 24), (colour, colour // 2, 9)).save(path)


def test_hidden_files_and_folders_are_no_classes_and_no_images(tmp_path, capsys):
    for name in (
        "cat/1.jpg",
        "dog/1.jpg",
        ".ipynb_checkpoints/1.jpg",
        "__MACOSX/cat/._1.jpg",
        "cat/.thumbs/1.jpg",
    ):
        save(tmp_path / name)
    (tmp_path / "cat" / "._1.jpg").write_bytes(b"\0\5\x16\7")
    (tmp_path / "cat" / "x.jpg").mkdir()
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    source = ImageFolder(str(tmp_path))
    images = source.read(tmp_path)
    assert source.classes == ["cat", "dog"]
    assert images.paths == [str(tmp_path / "cat/1.jpg"), str(tmp_path / "dog/1.jpg")]
    out = capsys.readouterr().out
    assert (
        "/.ipynb_checkpoints is hidden" in out
        and "/__MACOSX is hidden" in out
        and out.count("\n") == 2
    )


def test_a_deep_tree_is_walked(tmp_path):
    deep = "/".join(["d"] * 1500)
    (tmp_path / "a").mkdir()
    at = os.open(tmp_path / "a", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("x.jpg", os.O_WRONLY | os.O_CREAT, dir_fd=at))
    os.close(at)
    found = [*find_images(tmp_path)]
    subprocess.run(["rm", "-r", tmp_path / "a"], check=True)  # pytest's own clean-up is recursive
    assert found == [f"{tmp_path}/a/{deep}/x.jpg"]


NAMES = [
    "new\nline.jpg",
    "esc\x1b[2J.jpg",
    os.fsdecode(b"half \xff.jpg"),
    "a!b@1+2.jpg",
    "rtl\u202egpj.jpg",
]


def test_odd_names_of_files_are_written_and_told_on_one_line(tmp_path, cli):
    for i, name in enumerate([*NAMES, "plain.jpg"]):
        for split in ("train", "val"):
            save(tmp_path / "images" / split / f"class{i % 2}" / name, 40 * i)
    argv = [
        "data",
        "write",
        "image_folder",
        "--root",
        "images",
        "--out",
        "f.beton",
        "--workers",
        "1",
    ]
    code, out, err = cli(*argv)
    assert code == 0, err
    assert verify("f.beton") == []
    for name in NAMES:
        for file in Path("images").rglob("*.jpg"):
            if file.name == name:
                file.write_bytes(b"no image")
    code, _, err = cli(*argv)
    assert code == 2 and err.count("\n") == 1 and "--skip-bad" in err
    code, out, err = cli(*argv, "--skip-bad")
    assert code == 0 and "1 samples" in out and "5 skipped" in out, err
    assert out.count("left out: ") == 5
    assert all(line.isprintable() for line in (out + err).split("\n"))


# -- what was written before its images changed ----------------------------------------------------


def test_images_that_change_under_their_names_are_noticed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(6):
        save(tmp_path / f"c{i % 2}" / f"{i}.jpg", 30 * i)
    source = ImageFolder(str(tmp_path))
    images = Images(
        np.arange(6), np.arange(6) % 2, paths=sorted(str(p) for p in tmp_path.rglob("*.jpg"))
    )
    source.classes = ["c0", "c1"]
    out = write_beton(images, tmp_path / "f.beton", classes=source.classes, workers=1)
    first, cached = out.read_bytes(), as_beton(images, source, "train").file.path
    assert as_beton(images, source, "train").file.path == cached
    write_beton(images, out, classes=source.classes, workers=1)
    assert "written already" in capsys.readouterr().out
    status = os.stat(images.paths[3])
    data = bytearray(Path(images.paths[3]).read_bytes())
    data[-40] ^= 1  # as many bytes
    Path(images.paths[3]).write_bytes(data)
    os.utime(images.paths[3], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    write_beton(images, out, classes=source.classes, workers=1)
    assert "before its images changed" in capsys.readouterr().out and out.read_bytes() != first
    assert as_beton(images, source, "train").file.path != cached


def test_a_write_that_continues_takes_images_again_that_changed(tmp_path, capsys):
    for i in range(6):
        save(tmp_path / f"{i}.jpg", 30 * i)
    images = Images(
        np.arange(6), np.arange(6) % 2, paths=[str(tmp_path / f"{i}.jpg") for i in range(6)]
    )
    (tmp_path / "5.jpg").write_bytes(b"bad")
    options = {"classes": ["a", "b"], "workers": 1, "shuffle": False}
    with pytest.raises(UserError, match="5.jpg"):
        write_beton(images, tmp_path / "f.beton", **options)
    save(tmp_path / "5.jpg", 150)
    save(tmp_path / "3.jpg", 200)
    write_beton(images, tmp_path / "f.beton", **options)
    assert "3 of 6 are there, continuing" in capsys.readouterr().out
    write_beton(images, tmp_path / "g.beton", **options)
    assert (tmp_path / "f.beton").read_bytes() == (tmp_path / "g.beton").read_bytes()


# -- classes of two files --------------------------------------------------------------------------


def beton_of(folder, name, classes, n=8):
    images = Images(np.arange(n), np.arange(n) % len(classes), np.zeros((n, 4, 4, 3), np.uint8))
    return str(
        write_beton(images, folder / f"{name}.beton", classes=classes, workers=1, progress=False)
    )


def test_labels_of_two_files_mean_the_same_classes(tmp_path, capsys):
    train = beton_of(tmp_path, "train", ["ant", "bee", "cat"])
    source = BetonFiles(train, beton_of(tmp_path, "val", ["bee", "cat"]))
    splits = source.splits()
    assert source.classes == ["ant", "bee", "cat"] and "numbered by name" in capsys.readouterr().out
    assert splits["val"].labels.tolist() == [1, 2] * 4 and splits["train"].labels.tolist()[:3] == [
        0,
        1,
        2,
    ]
    with pytest.raises(UserError, match="class dog of .*other.beton is none of .*train.beton"):
        BetonFiles(train, beton_of(tmp_path, "other", ["bee", "dog"])).splits()
    manifest_path(Path(tmp_path / "other.beton")).unlink()  # then nothing is known of its classes
    assert (
        BetonFiles(train, str(tmp_path / "other.beton")).splits()["val"].labels.tolist()
        == [0, 1] * 4
    )


def test_training_images_do_not_validate_without_a_word(tmp_path, capsys):
    images = Images(np.arange(8), np.arange(8) % 2, np.zeros((8, 4, 4, 3), np.uint8))
    files = {}
    for split in ("train", "val", ""):
        out = tmp_path / f"x{split}.beton"
        files[split] = str(write_beton(images, out, classes=[*"ab"], split=split, workers=1))
    for arguments in ((files["train"], files["train"]), (files["train"],) * 3):
        with pytest.raises(UserError, match="holds training images, .* for val: .*--split val"):
            BetonFiles(*arguments).splits()
    with pytest.raises(UserError, match="is given for test: .*--data.source.test test.beton"):
        BetonFiles(files["train"], files["val"], files["train"]).splits()
    capsys.readouterr()
    BetonFiles(files["train"], files["val"]).splits()
    assert "warning" not in capsys.readouterr().out
    BetonFiles(files[""], files[""]).splits()
    assert "train and val are one file" in capsys.readouterr().out
    fewer = tmp_path / "fewer.beton"  # of a folder of its own, and without --split
    few = Images(np.arange(4), np.arange(4) % 2, np.zeros((4, 4, 4, 3), np.uint8))
    write_beton(few, fewer, classes=[*"ab"], split="train", workers=1)
    BetonFiles(files["train"], str(fewer)).splits()
    assert "is given for val, and was written as train" in capsys.readouterr().out


def test_a_run_waits_while_another_writes_either_file_of_two_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = Synthetic(8, 4, 8)
    images = source.splits()["train"]
    path = as_beton(images, source, "train").file.path
    os.remove(path)
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    looks = []

    def look(seconds):
        looks.append(seconds)
        step = "unsorted.tmp" if len(looks) < 6 else "tmp"
        path.with_name(f"{path.name}.{step}").write_bytes(bytes(len(looks)))
        if len(looks) > 12:
            fcntl.flock(lock, fcntl.LOCK_UN)

    clock = SimpleNamespace(sleep=look, monotonic=lambda: 1000.0 * len(looks))
    monkeypatch.setattr("lightning_resnet.files.time", clock)
    as_beton(images, source, "train")  # has waited for hours
    assert len(looks) == 13
    os.close(lock)


def lying_about_size(folder, rows, cols):
    """A .beton without a manifest, all of whose images are said to have so many pixels."""
    path = Path(beton_of(folder, "lying", ["a", "b"]))
    manifest_path(path).unlink()
    beton = Beton(path)
    stored = beton.images.copy()
    stored["height"], stored["width"] = rows, cols
    data = bytearray(path.read_bytes())
    for i, image in enumerate(stored):
        at = beton.header_bytes - (len(beton) - i) * ROW.itemsize
        data[at : at + IMAGE.itemsize] = image.tobytes()
    path.write_bytes(data)
    return str(path)


def test_images_that_are_said_to_be_huge_take_no_memory(tmp_path, monkeypatch):
    path = lying_about_size(tmp_path, 60_000, 60_000)
    data = data_of(BetonFiles(path, path), batch_size=4, size=None, crop="none")
    with pytest.raises(
        UserError, match="a batch of 4 images of 60000x60000 pixels takes 43.2 GB: set --data.size"
    ):
        list(data.train_dataloader())
    batches = copies(
        data_of(BetonFiles(path, path), batch_size=4, size=16, on_bad="count").train_dataloader()
    )
    assert all((labels == -100).all() for _, labels in batches)
    assert len(verify(path)) == 8


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"classes": "abc"}, "its classes is 'abc'|its classes is abc"),
        ({"classes": ["a", 1]}, "not different names"),
        ({"classes": ["a", "a"]}, "not different names"),
        ({"skipped": 3}, "its skipped is 3"),
        ({"skipped": [1]}, "is no list of samples"),
        ({"count": True}, "its count is True"),
        ({"count": None}, "it has no count"),
        ({"crc32": 5}, "its crc32 is 5"),
        ({"file_hash": ["\x1b[2J\n"]}, r"its file_hash is \['"),
        ([], "it is no mapping"),
    ],
)
def test_a_manifest_of_odd_types_is_one_line(tmp_path, manifest, words, cli):
    path = Path(beton_of(tmp_path, "f", ["a", "b"]))
    written = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(
        json.dumps(written | manifest if isinstance(manifest, dict) else manifest)
    )
    for verb in ("info", "verify"):
        code, out, err = cli("data", verb, path)
        assert code in (1, 2) and (out + err).count("remove it to go without its checks") == 1
        assert re.search(words, out + err) and all(
            line.isprintable() for line in (out + err).split("\n")
        )


def test_names_in_a_manifest_act_on_no_terminal(tmp_path, cli):
    path = Path(beton_of(tmp_path, "f", ["a\x1b[2J", "b\nc"]))
    code, out, _ = cli("data", "info", path)
    assert code == 0 and r"a\x1b[2J, b\nc; 4 to 4" in out


def with_fields(path, change):
    """The same file with other entries in its table of fields."""
    data = bytearray(path.read_bytes())
    fields = np.frombuffer(data, FIELD, 3, HEADER.itemsize).copy()
    change(fields)
    data[HEADER.itemsize : HEADER.itemsize + fields.nbytes] = fields.tobytes()
    path.write_bytes(data)


def set_header(path, **values):
    data = bytearray(path.read_bytes())
    header = np.frombuffer(data, HEADER, 1).copy()
    for name, value in values.items():
        header[name] = value
    data[: HEADER.itemsize] = header.tobytes()
    path.write_bytes(data)


def set_label(path, label):
    beton, data = Beton(path), bytearray(path.read_bytes())
    at = beton.header_bytes - ROW.itemsize + ROW.fields["f1"][1]
    data[at : at + 8] = struct.pack("<q", label)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda p: set_label(p, 2**63 - 1),
            r"position 7\): label 9223372036854775807 is not of 0 to 1048575 \(1 such",
        ),
        (lambda p: set_label(p, -1), "label -1 is not of 0 to"),
        (lambda p: set_label(p, 2**31 - 1), "label 2147483647 is not of 0 to"),
        (
            lambda p: set_header(p, num_fields=2),
            "image data begin|must hold one image|label|its allocation",
        ),
        (lambda p: set_header(p, num_samples=9), "counts 9 samples, its allocation table 8"),
        (lambda p: set_header(p, num_samples=7), "counts 7 samples, its allocation table 8"),
        (lambda p: set_header(p, page_size=0), "its pages have no bytes"),
        (
            lambda p: with_fields(p, lambda f: f["type_id"].__setitem__(1, 0)),
            "its field label holds no integers",
        ),
        (
            lambda p: with_fields(p, lambda f: f["type_id"].__setitem__(2, 0)),
            "its field id holds no integers",
        ),
        (
            lambda p: with_fields(p, lambda f: f["name"].__setitem__(2, f["name"][1])),
            "two of its fields have one name",
        ),
        (
            lambda p: with_fields(
                p, lambda f: (f["type_id"].__setitem__(2, 9), f["name"][2].__setitem__(0, 27))
            ),
            "kind",
        ),
    ],
)
def test_a_beton_that_contradicts_itself_is_one_line(tmp_path, change, words, cli):
    path = Path(beton_of(tmp_path, "f", ["a", "b"]))
    manifest_path(path).unlink()
    change(path)
    for verb in ("info", "verify"):
        code, out, err = cli("data", verb, path)
        assert code in (1, 2) and re.search(words, out + err), out + err
        assert all(line.isprintable() for line in (out + err).split("\n"))
    with pytest.raises(UserError, match=words):
        BetonFiles(str(path), str(path)).splits()


# -- archives --------------------------------------------------------------------------------------


def test_archives_that_lead_back_or_unpack_without_end_are_refused(tmp_path, monkeypatch):
    back = tarfile.TarInfo("x")
    back.size = -512
    headers = tarfile.TarInfo("first").tobuf() + back.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "loop.tar").write_bytes(headers + bytes(1024))
    with pytest.raises(UserError, match="is damaged"):
        tar_members(tmp_path / "loop.tar")
    monkeypatch.setattr(imagenet_labels, "MAX_DEVKIT", 1 << 16)
    with gzip.open(tmp_path / "devkit.tar.gz", "wb") as file:
        file.write(bytes(1 << 20))
    with pytest.raises(UserError, match="unpacks to more than"):
        imagenet_labels.ground_truth(tmp_path / "devkit.tar.gz")
    packed = zlib.compress(bytes(1 << 20))
    mat = bytes(128) + struct.pack("<II", 15, len(packed)) + packed
    with pytest.raises(ValueError, match="unpacks to more than"):
        imagenet_labels._check_mat(mat)
    monkeypatch.setattr(fashion_mnist, "MAX_IDX_BYTES", 1 << 16)
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(bytes(1 << 20))
    with pytest.raises(UserError, match="get the data set again"):
        fashion_mnist._read_idx(tmp_path, "train")


# -- the data module -------------------------------------------------------------------------------


def test_the_data_module_can_be_pickled_with_open_files_and_loaders(source):
    data = data_of(source)
    loader = data.train_dataloader()
    again = pickle.loads(pickle.dumps(data))
    assert again.splits["train"].file.fd != data.splits["train"].file.fd
    batches = zip(copies(loader), copies(again.train_dataloader()), strict=True)
    assert all((x == u).all() and (y == v).all() for (x, y), (u, v) in batches)
    again.teardown("fit")


def test_without_a_trainer_the_data_module_makes_the_batches_of_one_process():
    data = ImageData(Synthetic(64, 8), batch_size=16)
    for ask in (data.train_dataloader, data.val_dataloader, data.test_dataloader):
        with pytest.raises(UserError, match="call data.setup"):
            ask()
    data.setup()
    assert data.micro_batch == 16
    first, second = (
        torch.cat([y for _, y in data.train_dataloader().batches(epoch)]) for epoch in (0, 1)
    )
    assert len(first) == len(second) == 64 and not torch.equal(first, second)


def test_too_little_shared_memory_is_told_before_training(tmp_path, monkeypatch):
    for i in range(40):
        save(tmp_path / f"c{i % 2}" / f"{i}.jpg", 5 * i)
    options = {"batch_size": 8, "size": 64, "workers": 2, "loader": "torch"}
    data = data_of(ImageFolder(str(tmp_path)), **options)
    data.splits = {}
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 16))
    with pytest.raises(UserError, match="2 worker processes .* --data.workers 0"):
        data.setup("fit")


def test_a_worker_that_cannot_hand_over_a_batch_ends_the_training(tmp_path, monkeypatch):
    for i in range(40):
        save(tmp_path / f"c{i % 2}" / f"{i}.jpg", 5 * i)

    def full(reader, item):
        return (
            lambda: None,
            item,
        )  # cannot be pickled, as a batch cannot be handed over on a full disk

    monkeypatch.setattr(torch_loader.Reader, "__getitem__", full)
    data = data_of(ImageFolder(str(tmp_path)), batch_size=8, size=16, workers=1, loader="torch")
    with pytest.raises(UserError, match="died .*--data.workers 0"):
        list(data.train_dataloader())


def test_bad_files_are_counted_by_torch_with_every_loader(tmp_path, capsys):
    for i in range(40):
        save(tmp_path / f"c{i % 2}" / f"{i:02}.jpg", 5 * i)
    (tmp_path / "c1" / "01.jpg").write_bytes(b"bad")
    options = {"batch_size": 32, "size": 16, "on_bad": "count"}
    labels = [
        y
        for _, y in copies(
            data_of(ImageFolder(str(tmp_path)), loader="torch", **options).train_dataloader()
        )
    ]
    assert sum(int((y == -100).sum()) for y in labels) <= 1
    data_of(ImageFolder(str(tmp_path)), loader="ffcv", **options)
    assert "image files are read one by one, as by --data.loader torch" in capsys.readouterr().out
