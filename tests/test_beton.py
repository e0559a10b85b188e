"""Files we write are read by stock FFCV and the other way round; damage is found; a killed write
continues.
"""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from lightning_resnet.data.beton import decode, encode, journal
from lightning_resnet.data.beton.encode import open_rgb
from lightning_resnet.data.beton.format import HEADER, JPEG, RAW, Beton, manifest_path
from lightning_resnet.data.beton.verify import info, verify
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.hashing import uniform
from lightning_resnet.data.images import Images
from lightning_resnet.data.sources.imagenet import ImageNet
from lightning_resnet.errors import UserError

CLASSES = ["a", "b", "c"]


def noise(n, h, w, c=3):
    """Random, but smooth enough for a JPEG to resemble it."""
    coarse = (100 + uniform(9, np.arange(n * 16 * c)) * 56).astype(np.uint8).reshape(n, 4, 4, c)
    return coarse.repeat(-(-h // 4), 1)[:, :h].repeat(-(-w // 4), 2)[:, :, :w].copy()


def in_memory(n=40, h=12, w=16, c=3):
    return Images(np.arange(n) * 3, np.arange(n) % 3, noise(n, h, w, c))


def write(images, out, **options):
    return write_beton(images, out, classes=CLASSES, workers=1, **options)


def save(folder, name, image, **options):
    file = folder / name
    image.save(file, **options)
    return str(file)


def jpegs(folder, n=40, size=(60, 44)):
    pixels = noise(n, size[1], size[0])
    paths = [
        save(folder, f"{i:03}.jpg", Image.fromarray(p), quality=80) for i, p in enumerate(pixels)
    ]
    return Images(np.arange(n), np.arange(n) % 3, paths=paths)


def content(beton, i):
    """The stored bytes of a sample."""
    return os.pread(beton.fd, int(beton.sizes(np.array([i]))[0]), int(beton.images["data_ptr"][i]))


def pixels(beton, i):
    """Return the pixels of a stored sample, decoded by Pillow."""
    image = beton.images[i]
    if image["mode"] == JPEG:
        return np.asarray(Image.open(io.BytesIO(content(beton, i))).convert("RGB"))
    return np.frombuffer(content(beton, i), np.uint8).reshape(image["height"], image["width"], 3)


@pytest.mark.filterwarnings("ignore")  # FFCV's, numba's
def test_stock_ffcv_reads_our_files(tmp_path):
    ffcv = pytest.importorskip("ffcv")
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder

    images = in_memory()
    for mode in ("raw", "jpeg"):
        beton = Beton(write(images, tmp_path / f"{mode}.beton", mode=mode))
        fields = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()], "id": [IntDecoder()]}
        loader = ffcv.Loader(
            str(beton.path), 8, num_workers=1, os_cache=mode == "raw", pipelines=fields
        )
        batches = [[part.copy() for part in batch] for batch in loader]
        x, labels, ids = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        where = ids[:, 0] // 3
        assert sorted(where) == list(range(40)) and not np.array_equal(where, range(40))
        assert np.array_equal(labels[:, 0], images.labels[where])
        assert np.array_equal(ids[:, 0], beton.ids) and np.array_equal(labels[:, 0], beton.labels)
        if mode == "raw":
            assert np.array_equal(x, images.pixels[where])
        else:
            assert (
                np.abs(x.astype(int) - np.stack([pixels(beton, i) for i in range(40)])).max() <= 6
            )  # its fast DCT


@pytest.mark.filterwarnings("ignore")
def test_we_read_files_of_stock_ffcv(tmp_path):
    pytest.importorskip("ffcv")
    code = (
        "import numpy as np, sys\n"
        "from ffcv.writer import DatasetWriter\n"
        "from ffcv.fields import IntField, RGBImageField\n"
        "x = np.load('x.npy')\n"
        "image = RGBImageField(write_mode='proportion', compress_probability=0.5)\n"
        "writer = DatasetWriter('theirs.beton', {'image': image, 'label': IntField()}, "
        "num_workers=2)\n"
        "writer.from_indexed_dataset([(p, i % 3) for i, p in enumerate(x)], chunksize=5)\n"
    )
    x = noise(40, 12, 16)
    np.save(tmp_path / "x.npy", x)
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, timeout=120
    )
    beton = Beton(tmp_path / "theirs.beton")
    modes = beton.images["mode"].tolist()
    assert len(beton) == 40 and 0 < modes.count(RAW) < 40 and not beton.manifest
    assert np.array_equal(beton.labels, np.arange(40) % 3) and np.array_equal(
        beton.ids, np.arange(40)
    )
    assert all(np.array_equal(pixels(beton, i), x[i]) for i in range(40) if modes[i] == RAW)
    assert all(np.abs(pixels(beton, i).astype(int) - x[i]).mean() < 12 for i in range(40))
    assert verify(beton.path) == [] and "no manifest" in info(beton.path)


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    images = jpegs(tmp_path, 60)
    one = write(images, tmp_path / "one.beton", max_side=50)
    three = write_beton(images, tmp_path / "three.beton", classes=CLASSES, workers=3, max_side=50)
    assert one.read_bytes() == three.read_bytes() and verify(three) == []
    assert manifest_path(one).read_text() == manifest_path(three).read_text()


def test_manifest_and_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PAGE", 1 << 10)
    images = in_memory()  # 576 bytes each: one to a page
    beton = Beton(write(images, tmp_path / "f.beton", source="Mine", split="train"))
    m = beton.manifest
    assert (m["format"], m["count"], m["mode"], m["source"], m["skipped"]) == (
        1,
        40,
        "auto",
        "Mine",
        [],
    )
    assert beton.classes == CLASSES and beton.page_size == m["page_size"] == 1024
    assert [zlib.crc32(content(beton, i)) for i in range(40)] == beton.crcs.tolist()
    pointers = beton.images["data_ptr"].astype(int)
    assert (np.diff(pointers) == 1024).all() and pointers[0] % 1024 == 0
    assert int(beton.header["alloc_table_ptr"]) % 1024 == 0 and verify(beton.path) == []


def test_pages_grow_to_hold_the_largest_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PAGE", 1 << 10)
    sizes = [(9, 9), (50, 40), (10, 10), (30, 20)]
    paths = [
        save(tmp_path, f"{i}.png", Image.fromarray(noise(1, h, w)[0]))
        for i, (w, h) in enumerate(sizes)
    ]
    images = Images(np.arange(4), np.zeros(4, int), paths=paths)
    beton = Beton(write(images, tmp_path / "f.beton", mode="raw", shuffle=False))
    assert beton.page_size == 8192 and verify(beton.path) == []
    assert all(
        np.array_equal(pixels(beton, i), np.asarray(Image.open(p))) for i, p in enumerate(paths)
    )


def test_proportion_grey_and_order(tmp_path):
    images = in_memory(300, 8, 8, 1)
    beton = Beton(write(images, tmp_path / "f.beton", mode=0.25, shuffle=False))
    assert beton.ids.tolist() == images.ids.tolist()
    assert 45 < np.count_nonzero(beton.images["mode"] == JPEG) < 105
    raw = np.flatnonzero(beton.images["mode"] == RAW)
    assert all((pixels(beton, i) == images.pixels[i]).all() for i in raw)


def test_a_file_that_was_cut_off_or_changed_is_written_again(tmp_path, capsys):
    out = write(in_memory(), tmp_path / "f.beton")
    content = out.read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], b"?" + content[1:]):
        out.write_bytes(damaged)
        write(in_memory(), out)
        assert out.read_bytes() == content
        told = capsys.readouterr().out
        assert "f.beton has been cut off or changed since it was written: writing it again" in told
    write(in_memory(), out)
    assert "written already" in capsys.readouterr().out


def test_the_same_again_does_nothing_and_another_is_refused(tmp_path, capsys):
    out = write(in_memory(), tmp_path / "f.beton")
    before = out.stat().st_mtime_ns
    write(in_memory(), out)
    assert out.stat().st_mtime_ns == before and "written already" in capsys.readouterr().out
    content = out.read_bytes()
    for options, words in (
        ({"mode": "jpeg"}, "was written with another mode"),
        ({"max_side": 3}, "was written with another max side"),
        ({"max_side": 3, "resize": "area"}, "was written with another max side"),
        ({"source": "Digits"}, "was written with another source"),
        (
            {"shuffle": False},
            "holds other images .some were added or removed, say., or in another order",
        ),
    ):
        with pytest.raises(UserError, match=f"is there and {words}: remove it, or give another"):
            write(in_memory(), out, **options)
    assert out.read_bytes() == content and verify(out) == []
    out.unlink()
    write(in_memory(), out, mode="jpeg")
    assert Beton(out).images["mode"].tolist() == [JPEG] * 40 and verify(out) == []


@pytest.mark.parametrize("manifest", [None, "", "thesis", "{}", '{"count": 8}'])
def test_a_file_that_data_write_did_not_make_is_not_replaced(cli, tmp_path, manifest):
    out = tmp_path / "thesis.txt"
    out.write_text("thesis")
    if manifest is not None:
        manifest_path(out).write_text(manifest)
    code, _, err = cli("data", "write", "digits", "--out", out)
    assert code == 2 and "thesis.txt is there, and has no manifest of `data write`" in err, err
    assert out.read_text() == "thesis" and len(list(tmp_path.glob("thesis*"))) <= 2
    out.write_text("")  # such as mktemp makes
    assert cli("data", "write", "digits", "--out", out)[0] == 0 and len(Beton(out)) == 1437


# -- images of all kinds ---------------------------------------------------------------------------


def test_jpeg_files_are_stored_byte_for_byte(tmp_path):
    x = Image.fromarray(noise(1, 44, 60)[0])
    paths = [
        save(tmp_path, "baseline.jpg", x, quality=70),
        save(tmp_path, "progressive.jpg", x, progressive=True, subsampling=0),
        save(tmp_path, "grey.jpg", x.convert("L")),
        save(tmp_path, "png.JPEG", x, format="PNG"),
    ]
    images = Images(np.arange(4), np.zeros(4, int), paths=paths)
    beton = Beton(write(images, tmp_path / "f.beton", max_side=60, shuffle=False))
    assert all(content(beton, i) == Path(paths[i]).read_bytes() for i in range(3))
    assert beton.images["mode"].tolist() == [JPEG] * 4 and verify(beton.path) == []
    assert np.abs(pixels(beton, 3).astype(int) - np.asarray(x)).mean() < 12
    smaller = Beton(write(images, tmp_path / "s.beton", short_side=22, shuffle=False))
    assert set(
        zip(smaller.images["width"].tolist(), smaller.images["height"].tolist(), strict=True)
    ) == {(30, 22)}
    raw = Beton(write(images, tmp_path / "r.beton", mode="raw", shuffle=False))
    assert all(np.array_equal(pixels(raw, i), np.asarray(open_rgb(p))) for i, p in enumerate(paths))


def odd_images(folder):
    """(path, the RGB it must become) of kinds that a naive reader gets wrong."""
    rgb = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    rgb[:10] = (10, 220, 30)
    x = Image.fromarray(rgb)
    grey = np.asarray(x.convert("L"))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    alpha = x.quantize(4)
    alpha.info["transparency"] = bytes([0, 128, 255, 255])
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    return [
        (save(folder, "cmyk.jpg", x.convert("CMYK"), quality=95), rgb),
        (save(folder, "grey.png", x.convert("L")), grey[..., None].repeat(3, 2)),
        (save(folder, "sixteen.png", sixteen), grey[..., None].repeat(3, 2)),
        (save(folder, "turned.jpg", x, exif=exif, quality=95), np.rot90(rgb, -1)),
        (save(folder, "pixel.png", x.crop((0, 0, 1, 1))), rgb[:1, :1]),
        (save(folder, "pixel.jpg", x.crop((0, 0, 1, 1)), quality=95), rgb[:1, :1]),
        (save(folder, "palette.png", alpha), rgb),
        (save(folder, "alpha.png", x.convert("RGBA")), rgb),
        (
            save(folder, "one_bit.png", x.convert("1", dither=0)),
            (grey[..., None].repeat(3, 2) >= 128) * 255,
        ),
    ]


@pytest.mark.parametrize("mode", ["auto", "raw"])
def test_odd_images_become_upright_rgb(tmp_path, mode):
    paths, wanted = zip(*odd_images(tmp_path), strict=True)
    images = Images(np.arange(len(paths)), np.zeros(len(paths), int), paths=list(paths))
    beton = Beton(write(images, tmp_path / "f.beton", mode=mode, shuffle=False, quality=95))
    assert verify(beton.path) == []
    for i, x in enumerate(wanted):
        assert pixels(beton, i).shape == x.shape, paths[i]
        assert np.abs(pixels(beton, i).astype(int) - x).mean() < 8, paths[
            i
        ]  # a wrong turn, clipped or inverted: over 50


def bad_images(folder):
    good = io.BytesIO()
    Image.fromarray(noise(1, 200, 200)[0]).save(good, "JPEG")
    torn, float_ = (
        folder / "torn.jpg",
        save(folder, "float.tif", Image.fromarray(np.ones((4, 4), np.float32))),
    )
    torn.write_bytes(good.getvalue()[:-900])
    (folder / "text.jpg").write_text("not an image at all")
    (folder / "empty.png").write_bytes(b"")
    return [str(torn), float_, str(folder / "text.jpg"), str(folder / "empty.png")]


def test_bad_images_stop_with_their_name_or_are_listed(tmp_path):
    good = jpegs(tmp_path, 20)
    for bad in bad_images(tmp_path):
        images = Images(
            np.arange(21), np.arange(21) % 3, paths=[*good.paths[:10], bad, *good.paths[10:]]
        )
        with pytest.raises(UserError, match=rf"image {bad} \(sample 10\): .* --skip-bad") as e:
            write(images, tmp_path / "f.beton")
        assert "\n" not in str(e.value) and not (tmp_path / "f.beton").exists()
    beton = Beton(write(images, tmp_path / "f.beton", skip_bad=True))  # continues
    assert beton.manifest["skipped"] == [{"id": 10, "picture": bad, "why": "it is empty"}]
    assert sorted(beton.ids) == [i for i in range(21) if i != 10] and verify(beton.path) == []
    with pytest.raises(UserError, match="no image is left"):
        write(
            Images(np.arange(1), np.zeros(1, int), paths=[bad]), tmp_path / "g.beton", skip_bad=True
        )
    assert not list(tmp_path.glob("g.beton*"))


def test_a_file_of_one_split_is_not_replaced_by_another(tmp_path):
    images = jpegs(tmp_path, 4)
    out = write(images, tmp_path / "f.beton", split="train")
    before = out.read_bytes()
    with pytest.raises(UserError, match="f.beton is there and holds the train images: .* --out"):
        write(images, out, split="val")
    assert out.read_bytes() == before


def test_names_of_classes_that_no_file_can_hold_are_refused_before_writing(tmp_path, monkeypatch):
    images = jpegs(tmp_path, 4)
    out = tmp_path / "f.beton"
    with pytest.raises(UserError, match="two classes are called crane"):
        write_beton(images, out, classes=["a", "crane", "b", "crane"])
    monkeypatch.setattr("lightning_resnet.data.beton.write.MAX_LABEL", 3)
    with pytest.raises(UserError, match="4 classes: at most 3"):
        write_beton(images, out, classes=[*"abcd"])
    assert not list(tmp_path.glob("f.beton*"))


def test_a_file_that_cannot_be_read_is_never_skipped(tmp_path):
    images = jpegs(tmp_path, 4)
    os.remove(images.paths[2])
    with pytest.raises(UserError, match="002.jpg .* No such file") as e:
        write(images, tmp_path / "f.beton", skip_bad=True)
    assert "--skip-bad" not in str(e.value)


# -- trouble while writing -------------------------------------------------------------------------

KILLED = """
import sys, time
import numpy as np
from pathlib import Path
from lightning_resnet.data.beton import write
from lightning_resnet.data.sources.imagenet import ImageNet
from lightning_resnet.data.images import Images

if __name__ == "__main__":
    write.CHUNK_FILES = 2
    inner = write.PartialFile.append

    def append_slowly(self, entries):
        inner(self, entries)
        time.sleep(0.05)

    write.PartialFile.append = append_slowly
    paths = sorted(str(p) for p in Path(sys.argv[1]).glob("*.jpg"))
    images = Images(np.arange(len(paths)), np.arange(len(paths)) % 3, paths=paths)
    write.write_beton(images, sys.argv[2], classes=["a", "b", "c"], workers=2, max_side=50)
"""


def test_a_killed_write_continues_to_the_same_file(tmp_path, capsys):
    images = jpegs(tmp_path, 60)
    complete = write(images, tmp_path / "complete.beton", max_side=50)
    out, notes = tmp_path / "f.beton", tmp_path / "f.beton.journal"
    (tmp_path / "kill_me.py").write_text(KILLED)
    child = subprocess.Popen(
        [sys.executable, tmp_path / "kill_me.py", tmp_path, out], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while (
        not notes.exists() or notes.stat().st_size < 48 + 10 * journal.RECORD.itemsize
    ) and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(UserError, match="another process is writing"):
        write(images, out, max_side=50)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not out.exists() and (tmp_path / "f.beton.tmp").exists()
    with open(notes, "ab") as file:
        file.write(b"\1" * 50)  # a record of what never reached the disk, and a part of one
    capsys.readouterr()
    write(images, out, max_side=50)
    assert "of 60 are there, continuing" in capsys.readouterr().out
    assert out.read_bytes() == complete.read_bytes()
    assert manifest_path(out).read_text() == manifest_path(complete).read_text()
    assert sorted(p.name for p in tmp_path.glob("f.beton*")) == ["f.beton", "f.beton.json"]


@pytest.mark.parametrize("with_former", [False, True])
def test_a_write_killed_between_its_two_names_is_completed(
    tmp_path, monkeypatch, capsys, with_former
):
    images = jpegs(tmp_path, 10)
    out = tmp_path / "f.beton"
    if with_former:
        write(images, out)
        os.utime(images.paths[3])
    stale = tmp_path / "f.beton.json.0a1b2c3d.tmp"
    stale.write_text("{")

    replace = os.replace

    def killed(source, target):
        if target == out:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(images, out)
    assert not out.exists() and manifest_path(out).exists()
    assert write(images, out) == out
    assert "10 of 10 are there, continuing" in capsys.readouterr().out
    assert verify(out) == [] and Beton(out).manifest["file_hash"]
    assert sorted(p.name for p in tmp_path.glob("f.beton*")) == ["f.beton", "f.beton.json"]


def test_a_disk_that_is_full_at_the_manifest_leaves_the_former_file(tmp_path, monkeypatch):
    images = jpegs(tmp_path, 10)
    out = write(images, tmp_path / "f.beton")
    former = out.read_bytes()
    os.utime(images.paths[3])
    sync = os.fsync

    def fsync(fd):
        if ".json." in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(28, "No space left on device")
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"no space for .*f.beton"):
        write(images, out)
    assert out.read_bytes() == former and verify(out) == []
    assert sorted(p.name for p in tmp_path.glob("f.beton*")) == ["f.beton", "f.beton.json"]


def test_what_a_killed_write_left_of_a_complete_file_is_removed(tmp_path):
    images = jpegs(tmp_path, 4)
    out = write(images, tmp_path / "f.beton")
    ends = [".journal", ".unsorted.tmp", ".unsorted.journal", ".json.0a1b2c3d.tmp"]
    remains = [out.with_name(f"{out.name}{end}") for end in ends]
    for path in remains:
        path.write_bytes(b"x")
    with remains[2].open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # another process is at it
        write(images, out)
        assert [path.exists() for path in remains] == [False, True, True, False]
    write(images, out)
    assert not any(path.exists() for path in remains) and verify(out) == []


def test_another_command_starts_over(tmp_path, capsys):
    images = jpegs(tmp_path, 10)
    (tmp_path / "bad.jpg").write_text("text")
    broken = Images(
        np.arange(11), np.zeros(11, int), paths=[*images.paths, str(tmp_path / "bad.jpg")]
    )
    with pytest.raises(UserError):
        write(broken, tmp_path / "f.beton", shuffle=False)
    write(images, tmp_path / "f.beton", shuffle=False)
    assert "starting over" in capsys.readouterr().out
    assert (tmp_path / "f.beton").read_bytes() == write(
        images, tmp_path / "g.beton", shuffle=False
    ).read_bytes()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    real, room = os.pwrite, [30_000]

    def pwrite(fd, data, at):
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        return real(fd, data, at)

    images = jpegs(tmp_path, 60)
    monkeypatch.setattr(journal.os, "pwrite", pwrite)
    with pytest.raises(UserError, match=r"no space for .*f.beton .*takes about [0-9.e-]+ GB") as e:
        write(images, tmp_path / "f.beton", max_side=30, quality=99)
    assert "\n" not in str(e.value) and not [*tmp_path.glob("f.beton*")]


def test_a_worker_that_dies_is_an_error(tmp_path, monkeypatch):
    images = jpegs(tmp_path, 60)
    code = f"""
import os, signal, threading, time
import numpy as np
from concurrent.futures import process
from lightning_resnet.data.beton import encode_pool as pool, write
from lightning_resnet.data.sources.imagenet import ImageNet
from lightning_resnet.data.images import Images
from lightning_resnet.errors import UserError

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    pool.encode_chunk = die
    images = Images(np.arange(60), np.zeros(60, int), paths={images.paths!r})
    try:
        write.write_beton(images, "f.beton", classes=["a"], workers=2)
    except UserError as e:
        print(e)
"""
    (tmp_path / "dies.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "dies.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "a process that encodes images died" in done.stdout


# -- damage ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small file: JPEGs and raw images."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "PAGE", 1 << 14)
        return write(in_memory(60), folder / "f.beton", mode=0.5)


def copy_of(sound, folder):
    out = folder / "f.beton"
    out.write_bytes(sound.read_bytes())
    manifest_path(out).write_bytes(manifest_path(sound).read_bytes())
    return out


@pytest.mark.parametrize("kernel", [True, False])
def test_verify_names_the_damaged_sample(sound, tmp_path, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(decode, "library", lambda: None)
        monkeypatch.setattr(encode, "library", lambda: None)
        assert verify(sound) == []
    out = copy_of(sound, tmp_path)
    beton = Beton(out)
    data = bytearray(out.read_bytes())
    data[int(beton.images["data_ptr"][7]) + 100] ^= 4
    out.write_bytes(data)
    assert f"sample {beton.ids[7]} (position 7): CRC differs" in verify(out)
    manifest_path(out).unlink()
    jpeg = int(np.flatnonzero(beton.images["mode"] == JPEG)[3])
    start = int(beton.images["data_ptr"][jpeg])
    data[start : start + 200] = bytes(200)
    out.write_bytes(data)
    assert any(f"(position {jpeg}): damaged JPEG" in p for p in verify(out))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.clear() or d.extend(b"hello"), "does not fit|no .beton"),
        (lambda d: d.clear(), "does not fit"),
        (lambda d: d.__setitem__(slice(None), bytes(len(d))), "does not begin like a .beton"),
        (lambda d: d.__delitem__(slice(3500, None)), "metadata does not fit"),
        (lambda d: lie(d, "num_samples", 2**63), "metadata does not fit"),
        (lambda d: lie(d, "alloc_table_ptr", 2**64 - 1), "allocation table lies outside"),
        (lambda d: lie(d, "num_fields", 60_000), "does not begin like"),
        (lambda d: lie(d, "version", 1), "does not begin like"),
    ],
)
def test_what_is_no_beton_is_refused_in_one_line(sound, tmp_path, change, message):
    out, data = copy_of(sound, tmp_path), bytearray(sound.read_bytes())
    change(data)
    out.write_bytes(data)
    with pytest.raises(UserError, match=message) as e:
        Beton(out)
    assert "\n" not in str(e.value) and len(verify(out)) == 1


def lie(data, field, value):
    header = np.frombuffer(data, HEADER, 1).copy()
    header[field] = value
    data[: HEADER.itemsize] = header.tobytes()


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '{"count": 60, "crc32": "AAA"}', '{"count": 60, "crc32": "AAAA"}']
)
def test_a_damaged_manifest_is_one_line(sound, tmp_path, text):
    out = copy_of(sound, tmp_path)
    manifest_path(out).write_text(text)
    with pytest.raises(UserError, match="manifest .* (remove it|another file)"):
        Beton(out)


# -- command line ----------------------------------------------------------------------------------


def test_the_command_line_writes_describes_and_verifies(cli, tmp_path):
    code, out, err = cli(
        "data", "write", "digits", "--out", "d.beton", "--split", "val", "--mode", "0.5"
    )
    assert (code, err) == (0, "") and "360 samples, 10 classes" in out
    assert cli("data", "verify", "d.beton")[:2] == (0, "d.beton: intact\n")
    assert "made from   Digits val, 0 skipped" in cli("data", "info", "d.beton")[1]
    data = bytearray(Path("d.beton").read_bytes())
    data[-9] ^= 1
    Path("d.beton").write_bytes(data)
    code, out, _ = cli("data", "verify", "d.beton")
    assert code == 1 and "allocation table" in out and "d.beton: " in out
    Path("d.beton").write_bytes(data[:1000])
    code, out, _ = cli("data", "verify", "d.beton")
    assert code == 1 and "data verify" not in out and out.endswith("d.beton: 1 problem\n")
    assert json.loads(Path("d.beton.json").read_text())["count"] == 360


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("write digits --root /tmp --out d.beton", "--root is not for digits: leave it out"),
        ("write digits --out d.beton --split trian", "train, val, test; did you mean train?"),
        ("write digits --out d.beton --mode 1.5", "--mode must be"),
        ("write digits --out d.beton --quality 0", "--quality must be 1 to 100"),
        (
            "write digits --out d.beton --short-side 0",
            "--short-side must be a whole number, 1 or more; got 0",
        ),
        ("write image_folder --out d.beton", "needs --root"),
        (
            "write image_folder --out d.beton --root phots",
            "--root phots does not exist",
        ),
        ("", "needs one of get, write, info, verify"),
        ("write nothing --out d.beton", "choose among digits"),
        ("write digits --out /proc/none/d.beton", "cannot write /proc/none/d.beton: No such file"),
        ("verify none.beton", "none.beton does not exist"),
        ("info none.beton", "none.beton does not exist"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(cli, args, message):
    code, _, err = cli("data", *args.split())
    assert code == 2 and message in err and err.count("\n") == 1


def test_help_does_not_import_torch():
    code = (
        "import sys; from lightning_resnet.cli.main import main\n"
        "try: main(['data', 'write', '--help'])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("False\n")


# -- ImageNet as it is downloaded ------------------------------------------------------------------


def add(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def fake_imagenet(root):
    """Three classes, eight training and four validation images, in archives like ImageNet's; the
    images by name.
    """
    files = {f"{i:03}": Path(p).read_bytes() for i, p in enumerate(jpegs(root, 12).paths)}
    wnids = ["n03", "n01", "n02"]  # in the order of the devkit's numbers, which is not sorted
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for c, wnid in enumerate(wnids):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for i in range(c, 8, 3):
                    add(archive, f"{wnid}_{i:03}.JPEG", files[f"{i:03}"])
            add(outer, f"{wnid}.tar", inner.getvalue())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for i in range(8, 12):
            add(archive, f"ILSVRC2012_val_{i:08}.JPEG", files[f"{i:03}"])
    meta = io.BytesIO()
    rows = np.array(
        [(i + 1, w) for i, w in enumerate(wnids)], [("ILSVRC2012_ID", "O"), ("WNID", "O")]
    )
    savemat(meta, {"synsets": rows})
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        add(
            archive,
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
            b"1\n3\n2\n1\n",
        )
    return files


def test_imagenet_is_read_from_its_archives(tmp_path):
    files = fake_imagenet(tmp_path)
    source = ImageNet(str(tmp_path), expect=False)
    splits = source.splits()
    assert source.classes == ["n01", "n02", "n03"]
    assert splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert splits["val"].labels.tolist() == [0, 1, 2, 2]
    for split, names in (("train", "1 4 7 2 5 0 3 6"), ("val", "10 9 8 11")):
        out = write_beton(
            splits[split],
            tmp_path / f"{split}.beton",
            classes=source.classes,
            workers=1,
            shuffle=False,
        )
        beton = Beton(out)
        assert [content(beton, i) for i in range(len(beton))] == [
            files[f"{int(k):03}"] for k in names.split()
        ]
    with pytest.raises(UserError, match="has 8 train images, ImageNet 1,281,167"):
        ImageNet(str(tmp_path)).splits()


def test_imagenet_in_folders_with_numbers(tmp_path):
    for split, n in (("train", 2), ("val", 1)):
        for name in ("10", "9", "0"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (4, 4)).save(tmp_path / split / name / f"{i}.JPEG")
    source = ImageNet(str(tmp_path), expect=False)
    assert source.splits()["train"].labels.tolist() == [0, 0, 1, 1, 2, 2] and source.classes == [
        "0",
        "9",
        "10",
    ]


@pytest.mark.parametrize("damaged", ["ILSVRC2012_img_train.tar", "ILSVRC2012_devkit_t12.tar.gz"])
def test_damaged_archives_are_one_line(tmp_path, damaged):
    fake_imagenet(tmp_path)
    (tmp_path / damaged).write_bytes(b"x" * 2000)
    with pytest.raises(UserError, match=f"{damaged} is damaged"):
        ImageNet(str(tmp_path), expect=False).splits()
    (tmp_path / damaged).unlink()
    with pytest.raises(UserError, match=f"holds neither train/ and val/ nor {damaged}"):
        ImageNet(str(tmp_path), expect=False).splits()
