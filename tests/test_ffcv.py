"""The .beton loader yields what the torch loader yields, from files of FFCV's own writer, and never
hangs or lies.
"""

import gc
import io
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command_line import TINY
from helpers.loaders import copies, plain_data_of, same

from lightning_resnet.data.augment.crops import draw
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.loaders import read_batch
from lightning_resnet.data.sources.beton_files import BetonFiles
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.errors import UserError
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.training.task import ClassificationTask

pytestmark = pytest.mark.skipif(
    kernel.library() is None, reason="the kernel was not built: no libjpeg-turbo headers"
)


class Samples:
    """Samples in the form that FFCV's writer wants."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return (
            np.ascontiguousarray(self.images.pixels[i]),
            int(self.images.labels[i]),
            int(self.images.ids[i]),
        )


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Raw, and JPEG and raw mixed, by FFCV's DatasetWriter, shuffled on disk."""
    pytest.importorskip("ffcv")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    folder, made = tmp_path_factory.mktemp("beton"), {}
    for mode, size in (("raw", 32), ("proportion", 64)):
        for split, images in Synthetic(192, 40, size).splits().items():
            path = made[mode, split] = folder / f"{mode}_{split}.beton"
            fields = {"image": RGBImageField(mode), "label": IntField(), "id": IntField()}
            DatasetWriter(str(path), fields, num_workers=2).from_indexed_dataset(
                Samples(images), shuffle_indices=True
            )
    return made


def data_of(source, epoch=1, **options):
    return plain_data_of(source, epoch, batch_size=32, **options)


def batches(source, **options):
    return copies(data_of(source, **options).train_dataloader())


def beton(files, mode="raw"):
    return BetonFiles(str(files[mode, "train"]), str(files[mode, "val"]))


@pytest.mark.parametrize(
    "options", [{}, {"flip": True}, {"crop": "pad", "flip": True}, {"crop": "pad", "pad": 40}]
)
def test_raw_batches_are_bitwise_those_of_the_torch_loader(files, options):
    expected = batches(Synthetic(192, 40), **options)
    assert same(expected, batches(beton(files), **options))
    assert same(expected, batches(beton(files), loader="torch", workers=0, **options))
    x = next(iter(data_of(beton(files), **options).train_dataloader()))[0]
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("crop", ["resized", "none"])
def test_resized_pixels_are_pillows_but_for_rounding(files, crop):
    options = {"crop": crop, "size": 24, "flip": True}
    ours, theirs = batches(beton(files), **options), batches(Synthetic(192, 40), **options)
    for (x, y), (u, v) in zip(ours, theirs, strict=True):
        assert torch.equal(y, v) and (x.int() - u.int()).abs().max() <= 1


def test_jpeg_and_raw_mixed_are_near_the_images(files):
    options = {"crop": "resized", "size": 24, "scale": (0.3, 1.0)}
    assert {0, 1} == set(Beton(files["proportion", "train"]).images["mode"].tolist())
    for (x, y), (u, v) in zip(
        batches(beton(files, "proportion"), **options),
        batches(Synthetic(192, 40, 64), **options),
        strict=True,
    ):
        assert (
            torch.equal(y, v) and (x.float() - u.float()).abs().mean() < 12
        )  # noise is what JPEG keeps worst


@pytest.mark.parametrize("mode", ["raw", "proportion"])
def test_threads_and_ranks_do_not_matter(files, mode):
    options = {"crop": "resized", "size": 24, "flip": True}
    alone = batches(beton(files, mode), workers=1, **options)
    for workers in (2, 4):
        assert same(alone, batches(beton(files, mode), workers=workers, **options))
    ranks = [batches(beton(files, mode), workers=2, rank=r, world=2, **options) for r in (0, 1)]
    joined = [
        tuple(torch.cat(parts) for parts in zip(a, b, strict=True))
        for a, b in zip(*ranks, strict=True)
    ]
    assert same(alone, joined)


def live():
    return sum(t.name == "FFCVLoader" for t in threading.enumerate())


def test_no_thread_outlives_its_epoch(files):
    loader = data_of(beton(files)).train_dataloader()
    unused = iter(loader)
    assert live() == 0  # lazily
    next(unused)
    assert live() == 1
    unused.close()
    assert live() == 0
    for _ in loader:
        break
    gc.collect()
    assert live() == 0
    with pytest.raises(KeyboardInterrupt):
        for _ in loader:
            raise KeyboardInterrupt
    gc.collect()
    assert live() == 0
    loader.augment = lambda epoch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(iter(loader))
    assert live() == 0


@pytest.mark.parametrize("end", ["limit", KeyboardInterrupt, ZeroDivisionError, "transform"])
def test_no_thread_outlives_a_fit(cli, monkeypatch, tmp_path, end):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = [
        *TINY,
        "--trainer.max_epochs",
        "2",
        "--data.loader",
        "ffcv",
        "--data.train_eval_samples",
        "8",
    ]
    seen, inner = [], ClassificationTask.training_step

    def step(task, *args):
        seen.append(live())
        if isinstance(end, type) and len(seen) == 3:
            raise end
        return inner(task, *args)

    monkeypatch.setattr(ClassificationTask, "training_step", step)
    if end == "transform":
        monkeypatch.setattr(
            read_batch, "draw", lambda *args: draw(*args) if len(seen) < 3 else 1 / 0
        )
    if end == "limit":
        assert cli("fit", *options, "--trainer.limit_train_batches", "2")[0] == 0
        assert len(seen) == 4
    elif end is KeyboardInterrupt:
        assert cli("fit", *options)[0] == 130
    else:
        with pytest.raises(ZeroDivisionError):
            cli("fit", *options)
    assert live() == 0 and max(seen) == 1


def test_a_batch_is_the_callers_own_while_held_and_reused_after(files):
    loader = data_of(beton(files)).train_dataloader()
    kept = [x for x, _ in loader]
    assert len({x.data_ptr() for x in kept}) == len(kept)
    assert all(torch.equal(x, y) for x, (y, _) in zip(kept, batches(beton(files)), strict=True))
    del kept
    before = len(loader._buffers)
    for _ in range(3):
        for _ in loader:
            pass
    assert len(loader._buffers) == before


@pytest.fixture
def damaged(files, tmp_path):
    """A copy with one JPEG's bytes overwritten in the middle; (source, sample id)."""
    path = tmp_path / "damaged.beton"
    shutil.copy(files["proportion", "train"], path)
    file = Beton(path)
    position = int(np.flatnonzero(file.images["mode"] == 0)[0])
    with path.open("r+b") as f:
        f.seek(int(file.images["data_ptr"][position]) + 2)
        f.write(bytes(300))
    return BetonFiles(str(path), str(files["proportion", "val"])), int(file.ids[position])


def test_a_damaged_image_stops_training_or_is_left_out(damaged):
    source, sample = damaged
    options = {"crop": "resized", "size": 24}
    with pytest.raises(
        UserError,
        match=rf"sample {sample} \(position \d+\): damaged JPEG; `resnet-cli data verify`",
    ):
        batches(source, **options)
    got = batches(source, on_bad="count", **options)
    bad = [(x, y) for images, labels in got for x, y in zip(images, labels, strict=True) if y < 0]
    assert len(bad) == 1 and bad[0][1] == -100 and (bad[0][0] == 127).all()


def test_a_replaced_file_stays_readable_and_a_changed_one_is_noticed(files, tmp_path):
    path = tmp_path / "f.beton"
    shutil.copy(files["raw", "train"], path)
    loader = data_of(BetonFiles(str(path), str(files["raw", "val"]))).train_dataloader()
    shutil.copy(files["proportion", "train"], tmp_path / "new")
    (tmp_path / "new").replace(path)
    assert same([(x.clone(), y) for x, y in loader], batches(beton(files)))
    other = data_of(BetonFiles(str(path), str(files["raw", "val"])), size=24).train_dataloader()
    with path.open("r+b") as f:
        f.truncate(path.stat().st_size // 2)
    with pytest.raises(UserError, match="was changed while in use"):
        list(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b"", "its header does not fit"),
        (lambda b: b"not a beton at all" * 9, "does not begin like a .beton of version 2"),
        (lambda b: b[:4000], "cut off, or no .beton"),
        (lambda b: b[:8] + b"\xff" * 8 + b[16:], "its metadata does not fit"),
        (lambda b: b[:16] + b"\xff" * 8 + b[24:], "allocation table lies outside"),
        (lambda b: b[:24] + b"\x09" + b[25:], "its field image is of a kind that is not read here"),
    ],
)
def test_files_that_are_no_beton(files, tmp_path, change, message):
    path = tmp_path / "bad.beton"
    path.write_bytes(change(files["raw", "train"].read_bytes()))
    with pytest.raises(UserError, match=message) as e:
        Beton(path)
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="make it with `resnet-cli data write`"):
        Beton(tmp_path / "absent.beton")


def test_resize_is_closer_to_the_definition_than_ffcvs(tmp_path):
    """PSNR against a full decode and Pillow's antialiased bilinear resize, on photos."""
    pytest.importorskip("ffcv")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.libffcv import imdecode, resize_crop
    from ffcv.writer import DatasetWriter
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    path = tmp_path / "photos.beton"
    fields = {"image": RGBImageField("jpg"), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset([(p, 0) for p in photos])
    file, rng = Beton(path), np.random.default_rng(0)
    raw = path.read_bytes()

    def psnr(a, b):
        return 10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2)))

    for position, (height, width, pointer) in enumerate(
        file.images[["height", "width", "data_ptr"]].tolist()
    ):
        data = np.frombuffer(raw, np.uint8, int(file.sizes(np.array([position]))[0]), pointer)
        full = np.empty((height, width, 3), np.uint8)
        imdecode(data, full, height, width, height, width, 0, 0, 1, 1, False, False)
        exact = np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))
        for _ in range(10):
            h, w = rng.integers(60, height), rng.integers(60, width)
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            reference = np.asarray(
                Image.fromarray(exact[top : top + h, left : left + w]).resize(
                    (96, 96), Image.BILINEAR
                )
            )
            theirs, ours = np.empty((96, 96, 3), np.uint8), np.empty((1, 96, 96, 3), np.uint8)
            resize_crop(full, top, top + h, left, left + w, theirs)
            items = kernel.make_items(
                file, np.array([position]), np.array([[top, left, h, w]]), np.array([False])
            )
            assert kernel.decode(file, items, ours, 1).tolist() == [0]
            assert psnr(ours[0], reference) >= psnr(theirs, reference)


def test_fit_ends_with_the_same_weights_through_either_loader(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = [
        *TINY,
        "--trainer.max_epochs",
        "2",
        "--data.crop",
        "pad",
        "--data.pad",
        "1",
        "--data.flip",
        "true",
    ]
    for loader in ("ffcv", "torch"):
        code, _, err = cli("fit", *options, "--data.loader", loader, "--run.root", loader)
        assert code == 0, err
    assert live() == 0 and len(list((tmp_path / "cache").rglob("*.beton"))) == 2
    ours, theirs = (
        load_checkpoint(next(Path(root).rglob("last.ckpt")))["state_dict"]
        for root in ("ffcv", "torch")
    )
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
