"""Without the compiled kernel a .beton is read all the same."""

import io
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from test_data import data_of

from lightning_resnet.data import fallback, kernel
from lightning_resnet.data.beton import JPEG, Beton, manifest_path
from lightning_resnet.data.sources import BetonFiles, Images
from lightning_resnet.data.write import write_beton
from lightning_resnet.errors import UserError

pytestmark = pytest.mark.skipif(kernel.library() is None, reason="there is no kernel to compare with")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Sixteen cut-outs of two photos, half JPEG and half raw; written by the kernel's side."""
    shots = load_sample_images().images
    cuts = [shots[i % 2][20 * i :][:200, 30 * (i // 2) :][:, :300] for i in range(8)]
    pixels = np.stack([*cuts, *(c[:, ::-1] for c in cuts)]).copy()
    images = Images(np.arange(16), np.arange(16) % 2, pixels)
    out = tmp_path_factory.mktemp("photos") / "f.beton"
    write_beton(images, out, classes=["a", "b"], mode=0.5, quality=90, workers=1, progress=False)
    return out


@pytest.fixture(params=["ffcv", "pillow"])
def no_kernel(request, monkeypatch):
    if request.param == "ffcv":
        assert pytest.importorskip("ffcv.libffcv") and fallback.ffcv_decoder()
    else:
        monkeypatch.setattr(fallback, "ffcv_decoder", lambda: None)
    return lambda: monkeypatch.setattr(kernel, "library", lambda: None)


def batches(file, **options):
    return list(data_of(BetonFiles(str(file), str(file)), batch_size=8, workers=2, **options).train_dataloader())


@pytest.mark.parametrize("size", [224, 48])
def test_boxes_and_flips_are_the_same_and_pixels_near(photos, no_kernel, size, capsys):
    options = {"crop": "resized", "flip": True, "size": size}
    expected = batches(photos, **options)
    no_kernel()
    got = batches(photos, **options)
    raw = Beton(photos).images["mode"] != JPEG
    means, largest = [], []
    for (x, y), (u, v) in zip(expected, got, strict=True):
        assert torch.equal(y, v) and u.is_contiguous(memory_format=torch.channels_last)
        difference = (x.int() - u.int()).abs().flatten(1)
        means += difference.float().mean(1).tolist()
        largest += difference.amax(1).tolist()
    assert np.mean(means) < 2 and max(means) < 4  # a wrong box or flip: over 20
    assert sum(d <= 1 for d in largest) >= raw.sum()
    assert "decodes .beton files, slowly: our decoder was not built" in capsys.readouterr().out


def test_pictures_without_resize_are_the_same(photos, no_kernel):
    file = Beton(photos)
    raw = np.flatnonzero(file.images["mode"] != JPEG)[:4]
    boxes = np.array([[-20, -10, 200, 200], [0, 0, 200, 200], [30, 150, 200, 200], [500, 500, 200, 200]])
    items = kernel.make_items(file, raw, boxes, np.array([True, False, True, False]))
    expected, got = (np.empty((4, 200, 200, 3), np.uint8) for _ in range(2))
    assert not kernel.decode(file, items, expected, 1).any()
    no_kernel()
    assert not kernel.decode(file, items, got, 1).any() and np.array_equal(expected, got)


@pytest.mark.parametrize("manifest", [True, False])
def test_damage_is_told_or_counted(photos, no_kernel, tmp_path, manifest):
    out = tmp_path / "f.beton"
    shutil.copy(photos, out)
    if manifest:
        shutil.copy(manifest_path(photos), manifest_path(out))
    file = Beton(out)
    position = int(np.flatnonzero(file.images["mode"] == JPEG)[0])
    with out.open("r+b") as f:
        f.seek(int(file.images["data_ptr"][position]) + 2)
        f.write(bytes(300))
    no_kernel()
    with pytest.raises(UserError, match=rf"sample {file.ids[position]} \(position {position}\): "):
        batches(out, crop="resized", size=32)
    data = data_of(BetonFiles(str(out), str(out)), batch_size=8, crop="resized", size=32, on_bad="count")
    loader = data.train_dataloader()
    assert data.bad_images == 0
    for epoch in (1, 2):
        assert sum(int((y < 0).sum()) for _, y in loader) == 1
        assert data.bad_images == epoch


@pytest.mark.parametrize("with_kernel", [True, False])
def test_a_harmless_warning_of_libjpeg_is_no_damage(tmp_path, no_kernel, with_kernel):
    """Stray bytes between two segments: `Corrupt JPEG data: 3 extraneous bytes before marker`, and no pixel lost."""
    clean = io.BytesIO()
    Image.fromarray(load_sample_images().images[0][:200, :300]).save(clean, "JPEG", quality=90)
    header, rest = clean.getvalue()[:20], clean.getvalue()[20:]
    assert header[:4] == b"\xff\xd8\xff\xe0" and rest[:2] == b"\xff\xdb"
    paths = [tmp_path / "0.jpg", tmp_path / "1.jpg"]
    paths[0].write_bytes(header + rest)
    paths[1].write_bytes(header + b"\1\2\3" + rest)
    images = Images(np.arange(2), np.arange(2), paths=[*map(str, paths)])
    out = write_beton(images, tmp_path / "f.beton", classes=["a", "b"], workers=1, progress=False)
    assert len(set(Beton(out).sizes(np.arange(2)).tolist())) == 2  # stored as they are
    if not with_kernel:
        no_kernel()
    data = data_of(BetonFiles(str(out), str(out)), batch_size=2, size=64, on_bad="count")
    (x, y), *_ = data.train_dataloader()
    assert sorted(y.tolist()) == [0, 1] and data.bad_images == 0 and (x[0].int() - x[1].int()).abs().max() <= 20


def test_pillow_decodes_where_ffcv_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "ffcv.libffcv", None)
    assert fallback.ffcv_decoder.__wrapped__() is None
