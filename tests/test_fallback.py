"""Decoding without the C kernel: the same boxes and flips, pixels within a tolerance, damage
still reported.
"""

import io
import os
import shutil
import signal

import numpy as np
import pytest
from helpers.loaders import copies, data_of, same
from PIL import Image
from sklearn.datasets import load_sample_images

from lightning_resnet.data.augment.crops import Augment
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.beton import decode_fallback as fallback
from lightning_resnet.data.beton import encode
from lightning_resnet.data.beton.format import IMAGE, Beton, manifest_path
from lightning_resnet.data.beton.journal import ROW
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.images import Images
from lightning_resnet.data.loaders.read_batch import read_beton
from lightning_resnet.data.sources.beton_files import BetonFiles
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.errors import UserError

TOLERANCE = 1.0  # levels of 255, mean of a batch


@pytest.fixture(params=["ffcv", "pillow"])
def without(request, monkeypatch):
    """No kernel from now on."""
    if request.param == "ffcv":
        pytest.importorskip("ffcv.libffcv")

    def act():
        monkeypatch.setattr(kernel, "library", lambda: None)
        if request.param == "pillow":
            monkeypatch.setattr(fallback, "ffcv", lambda: None)
        return request.param

    return act


@pytest.mark.parametrize("options", [{"flip": True}, {"crop": "pad", "pad": 40, "flip": True}])
def test_raw_batches_without_resize_are_the_same_bits(paged, without, options):
    without()
    options = {"crop": "none", "size": None} | options
    expected = copies(data_of(Synthetic(192, 40, 16), **options).train_dataloader())
    assert same(expected, copies(data_of(paged, workers=2, **options).train_dataloader()))


def test_jpegs_are_the_same_but_for_a_tolerance(source, without, capsys):
    options = {"scale": (0.5, 1.0)}
    expected = copies(data_of(source, **options).train_dataloader())
    assert capsys.readouterr().out == ""
    name = without()
    got = copies(data_of(source, workers=2, **options).train_dataloader())
    for (x, y), (u, v) in zip(expected, got, strict=True):
        assert (y == v).all() and (x.float() - u.float()).abs().mean() < TOLERANCE
    assert (
        "our decoder was not built (or before an update), "
        f"{'FFCV' if name == 'ffcv' else 'Pillow'}'s is" in (out := capsys.readouterr().out)
    )
    assert out.count("\n") == 1


def test_a_kernel_that_cannot_be_loaded_is_told_and_not_needed(source, monkeypatch, capsys):
    """The machine lacks the libjpeg-turbo with which the kernel was built."""
    said = "libjpeg.so.62: cannot open shared object file: No such file or directory"

    def lacking(path):
        raise OSError(said)

    monkeypatch.setattr(fallback, "ffcv", lambda: None)
    monkeypatch.setattr(kernel.ctypes, "CDLL", lacking)
    kernel._load.cache_clear()
    try:
        batches = copies(data_of(source, on_bad="count").train_dataloader())
        assert encode.jpeg_problem(b"\xff\xd8", 8, 8) == ""
    finally:
        monkeypatch.undo()
        kernel._load.cache_clear()
    assert all((labels >= 0).all() for _, labels in batches) and kernel.library()
    out = capsys.readouterr().out
    assert f"our decoder cannot be loaded ({said}), Pillow's is used" in out


def test_a_forked_process_decodes_too(source, monkeypatch):
    """The worker processes of the torch loader are forks, which have no thread of their parent."""
    monkeypatch.setattr(fallback, "ffcv", lambda: None)
    monkeypatch.setattr(kernel, "library", lambda: None)
    images = data_of(source).splits["train"]
    read_beton(images, Augment(crop="resized", size=24), 0, 0, np.arange(4))
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)  # ends the process if it waits
        try:
            read_beton(images, Augment(crop="resized", size=24), 0, 0, np.arange(4))
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0


def damage(beton, position, how):
    """Overwrite bytes of a sample, its size in the metadata, or its address."""
    with beton.path.open("r+b") as file:
        if how in ("header", "pixels"):
            file.seek(int(beton.images["data_ptr"][position]) + (4 if how == "header" else 800))
            file.write(bytes(300))
        else:
            row = beton.images[position : position + 1].copy()
            row["data_ptr" if how == "address" else "width"] += 1 << (62 if how == "address" else 0)
            file.seek(beton.header_bytes - (len(beton) - position) * ROW.itemsize)
            file.write(row.astype(IMAGE).tobytes())


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("header", "CRC differs|damaged JPEG"),
        ("pixels", "CRC differs|damaged JPEG"),
        ("address", "outside the file"),
        ("size", "size differs"),
    ],
)
def test_a_damaged_sample_is_named(source, without, tmp_path, manifest, how, told):
    path = tmp_path / "f.beton"
    shutil.copy(source.files["train"], path)
    if manifest:
        shutil.copy(f"{source.files['train']}.json", manifest_path(path))
    beton = Beton(path)
    position = int(np.flatnonzero(beton.images["mode"] == 0)[3])
    damage(beton, position, how)
    if without() == "pillow" and how == "pixels" and not manifest:
        pytest.skip("Pillow does not tell")
    files = BetonFiles(str(path), source.files["val"])
    if manifest and how in ("address", "size"):
        with pytest.raises(UserError, match="metadata or table are not what was written"):
            data_of(files)
        return
    with pytest.raises(
        UserError, match=rf"sample {beton.ids[position]} \(position {position}\): ({told})"
    ):
        copies(data_of(files).train_dataloader())
    batches = copies(data_of(files, on_bad="count").train_dataloader())
    assert sum(int((y < 0).sum()) for _, y in batches) == 1


@pytest.mark.parametrize("with_kernel", [True, False])
def test_a_harmless_warning_of_libjpeg_is_no_damage(tmp_path, monkeypatch, with_kernel):
    """Stray bytes between two segments: `Corrupt JPEG data: 3 extraneous bytes before marker`, and
    no pixel lost.
    """
    clean = io.BytesIO()
    Image.fromarray(load_sample_images().images[0][:200, :300]).save(clean, "JPEG", quality=90)
    header, rest = clean.getvalue()[:20], clean.getvalue()[20:]
    assert header[:4] == b"\xff\xd8\xff\xe0" and rest[:2] == b"\xff\xdb"
    paths = [tmp_path / "0.jpg", tmp_path / "1.jpg"]
    paths[0].write_bytes(header + rest)
    paths[1].write_bytes(header + b"\1\2\3" + rest)
    images = Images(np.arange(2), np.arange(2), paths=[*map(str, paths)])
    out = write_beton(images, tmp_path / "f.beton", classes=["a", "b"], workers=1, progress=False)
    if not with_kernel:
        monkeypatch.setattr(kernel, "library", lambda: None)
    data = data_of(BetonFiles(str(out), str(out)), batch_size=2, size=64, on_bad="count")
    (_, y), *_ = data.train_dataloader()
    assert sorted(y.tolist()) == [0, 1]
