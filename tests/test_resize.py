"""The area filter is the mean over what a pixel covers, in every loader and in writing; padding may
have the mean colour.
"""

import io
import os
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.loaders import copies, data_of, files_of, plain_data_of, same
from PIL import Image
from sklearn.datasets import load_sample_images

from lightning_resnet.data.beton import area_filter
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.beton import decode_fallback as fallback
from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.images import ArrayImages
from lightning_resnet.data.loaders.device_loader import DeviceLoader
from lightning_resnet.data.module import ImageData
from lightning_resnet.data.sources.cifar import CIFAR10
from lightning_resnet.data.sources.folder import ImageFolder
from lightning_resnet.data.sources.synthetic import Synthetic

PHOTO = load_sample_images().images[0]  # [427, 640, 3]
NOISE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
# Boxes (top, left, height, width) and the side of the result: smaller, larger, both, equal.
BOXES = [
    ((0, 0, 300, 300), 160),
    ((3, 7, 287, 311), 96),
    ((10, 20, 50, 200), 160),
    ((5, 5, 33, 110), 500),
    ((299, 0, 1, 1), 7),
    ((0, 0, 300, 13), 192),
    ((40, 50, 160, 160), 160),
]


def exact(pixels, height, width):
    """Return the mean over each pixel's part of the image, float64: its integral's differences."""

    def along_rows(x, n_out):
        integral = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, axis=0)])
        edges = np.linspace(0, len(x), n_out + 1)
        columns = [np.interp(edges, np.arange(len(x) + 1), column) for column in integral.T]
        return np.diff(np.stack(columns, axis=1), axis=0) * n_out / len(x)

    rows, cols, channels = pixels.shape
    mixed = along_rows(pixels.reshape(rows, -1).astype(float), height)
    mixed = mixed.reshape(height, cols, channels).swapaxes(0, 1).reshape(cols, -1)
    return along_rows(mixed, width).reshape(width, height, channels).swapaxes(0, 1)


def decode(stored, box, size, jpeg=False, threads=1):
    """Make an image by the kernel, nine times; all nine are equal."""
    file = os.memfd_create("image")
    os.pwrite(file, stored if jpeg else stored.tobytes(), 0)
    shape = PHOTO.shape if jpeg else stored.shape
    items = np.zeros(9, kernel.ITEM)
    items["size"] = os.fstat(file).st_size
    items["rows"], items["cols"], _ = shape
    items["jpeg"] = jpeg
    items["top"], items["left"], items["height"], items["width"] = box
    out = np.empty((9, size, size, 3), np.uint8)
    status = kernel.decode(SimpleNamespace(fd=file), items, out, threads, area=True)
    os.close(file)
    assert not status.any() and (out == out[0]).all()
    return out[0]


@pytest.mark.parametrize(("box", "size"), BOXES)
def test_a_pixel_is_the_mean_over_what_it_covers(box, size, monkeypatch):
    """Rows are rounded before columns: a level at most. Without the kernel the same."""
    top, left, height, width = box
    crop = NOISE[top : top + height, left : left + width]
    found = decode(NOISE, box, size)
    difference = found - exact(crop, size, size)
    assert np.abs(difference).max() < 1.05 and abs(difference.mean()) < 0.1
    assert (found == decode(NOISE, box, size, threads=4)).all()
    assert (found == area_filter.resize(crop, size, size)).all()
    monkeypatch.setattr(kernel, "library", lambda: None)
    assert (found == decode(NOISE, box, size)).all()


def test_where_opencv_scales_down_its_pixels_are_within_a_level():
    cv2 = pytest.importorskip("cv2")
    for side, size in ((300, 160), (287, 96), (161, 160), (192, 96)):
        crop = NOISE[:side, :side]
        theirs = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
        assert np.abs(area_filter.resize(crop, size, size) - theirs.astype(int)).max() <= 1


def test_large_crops_of_a_jpeg_are_decoded_in_full():
    """Scaling in the DCT domain would be another filter."""
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "JPEG", quality=90)
    full = np.asarray(Image.open(file).convert("RGB"))
    box = (1, 2, 420, 440)
    expected = area_filter.resize(full[1:421, 2:442], 96, 96)
    assert np.abs(decode(file.getvalue(), box, 96, jpeg=True) - expected.astype(int)).max() <= 1


def test_every_loader_scales_by_area(tmp_path):
    """Files, arrays and .betons; training and validation; the default filter gives others."""
    source = Synthetic(64, 16, 40)
    betons = files_of(source, tmp_path, mode="raw")
    for loader, images in (("torch", source), ("torch", betons), ("ffcv", betons)):
        data = data_of(images, loader=loader, workers=0, resize="area")
        batches = copies(data.train_dataloader())
        validation = copies(data.eval_loader("val"))
        if images is source:
            expected, expected_validation = batches, validation
        assert same(expected, batches) and same(expected_validation, validation)
    default = data_of(source, loader="torch", workers=0)
    assert not same(expected, copies(default.train_dataloader()))
    assert not same(expected_validation, copies(default.eval_loader("val")))


def test_image_files_are_scaled_by_area(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(NOISE).save(tmp_path / split / name / "0.png")
    data = plain_data_of(ImageFolder(str(tmp_path)), batch_size=2, size=64, resize="area")
    ((images, _),) = copies(data.eval_loader("val"))
    crop = NOISE[19:281, 69:331]  # rint(0.875 x 300) = 262
    found = images[0].permute(1, 2, 0).numpy()
    assert (found == area_filter.resize(crop, 64, 64)).all()


def test_data_write_scales_by_area(cli, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "photos/train" / name).mkdir(parents=True)
        (tmp_path / "photos/val" / name).mkdir(parents=True)
        for split in ("train", "val"):
            Image.fromarray(PHOTO).save(tmp_path / "photos" / split / name / "0.png")
    write = ["data", "write", "image_folder", "--root", tmp_path / "photos", "--mode", "raw"]
    code, out, err = cli(
        *write, "--out", tmp_path / "x.beton", "--max-side", "500", "--resize", "area"
    )
    assert code == 0, err
    assert "resized to  max side 500 px by area" in out
    beton = Beton(tmp_path / "x.beton")
    stored = beton.path.read_bytes()
    start = int(beton.images["data_ptr"][0])
    size = 334 * 500 * 3
    pixels = np.frombuffer(stored, np.uint8, size, start).reshape(334, 500, 3)
    assert (pixels == area_filter.resize(PHOTO, 334, 500)).all()
    code, _, err = cli(*write, "--out", tmp_path / "y.beton", "--resize", "area")
    assert code == 2 and "give --short-side or --max-side" in err
    assert not (tmp_path / "y.beton").exists()


class Colours(Synthetic):
    """Synthetic colours whose mean colour is CIFAR-10's."""

    mean = CIFAR10.mean


@pytest.mark.parametrize("channels", [1, 3])
def test_every_loader_pads_with_the_mean_colour(channels, tmp_path, monkeypatch):
    """Bitwise the same with every loader, and without the kernel."""
    source = Colours(48, 16, 8)
    splits = source.splits()
    if channels == 1:
        splits = {
            name: ArrayImages(images.ids, images.labels, images.pixels[..., :1])
            for name, images in splits.items()
        }
    monkeypatch.setattr(source, "splits", lambda: splits)
    betons = files_of(source, tmp_path)
    monkeypatch.setattr(type(betons), "mean", source.mean)
    options = {"crop": "pad", "pad": 20, "pad_fill": "mean", "size": None, "workers": 0}
    expected = copies(data_of(source, loader="torch", **options).train_dataloader())
    for loader, images in (("device", source), ("torch", betons), ("ffcv", betons)):
        data = data_of(images, loader=loader, **options)
        assert isinstance(data.train_dataloader(), DeviceLoader) == (loader == "device")
        assert same(expected, copies(data.train_dataloader()))
    monkeypatch.setattr(kernel, "library", lambda: None)
    monkeypatch.setattr(fallback, "ffcv", lambda: None)
    assert same(expected, copies(data_of(betons, loader="ffcv", **options).train_dataloader()))
    mean = np.array([125, 123, 114], np.uint8)  # 255 times the mean, rounded
    corners = np.concatenate([x.numpy() for x, _ in expected])[:, :, 0, 0]
    assert 0.5 < (corners == mean).all(axis=1).mean() < 1
    black = copies(
        data_of(source, loader="torch", **options | {"pad_fill": None}).train_dataloader()
    )
    outside = np.concatenate([x.numpy() for x, _ in black])[:, :, 0, 0]
    assert not outside[(corners == mean).all(axis=1)].any()


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"pad_fill": "mean"}, "drop pad_fill"),
        ({"resize": "area"}, "set --data.size, or drop resize"),
        ({"resize": "area", "crop": "pad"}, "set --data.size, or drop resize"),
    ],
)
def test_options_without_effect_are_refused(options, cure):
    with pytest.raises(ValueError, match=cure):
        ImageData(Synthetic(4, 4, 8), **options)
