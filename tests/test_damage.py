"""Faults in a file are found, named and counted; none hangs or kills the process; oddities that
cost no pixel pass.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import TINY
from helpers.loaders import copies, data_of, files_of, same
from helpers.run_dir import only_run
from PIL import Image

from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.beton import decode_fallback as fallback
from lightning_resnet.data.beton import encode, journal
from lightning_resnet.data.beton.format import JPEG, Beton, manifest_path
from lightning_resnet.data.beton.verify import verify
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.images import Images
from lightning_resnet.data.sources.beton_files import BetonFiles
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.errors import UserError

FAULTS = """
import json, shutil, sys
from pathlib import Path
import torch
from helpers.loaders import copies, data_of, same
from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.hashing import uniform
from lightning_resnet.data.sources.beton_files import BetonFiles
from lightning_resnet.data.beton.verify import verify
from lightning_resnet.errors import UserError

torch.set_num_threads(1)
sound, path = sys.argv[1:]
complete, beton = Path(sound).read_bytes(), Beton(sound)
expected = copies(data_of(BetonFiles(sound, sound)).train_dataloader())
shutil.copy(sound + ".json", path + ".json")
for fault in range(200):
    data = bytearray(complete)
    at = int(uniform(1, fault) * len(data))
    if fault % 4 == 0:
        data = data[:at]
    else:  # a third of the others in the first kilobytes: header, fields, metadata
        at = at % beton.header_bytes if fault % 4 == 1 else at
        data[at] ^= 1 + int(uniform(2, fault) * 255)
    Path(path).write_bytes(data)
    starts, sizes = beton.images["data_ptr"], beton.sizes(range(len(beton)))
    hit = []
    for i in range(len(beton)):
        if fault % 4 and starts[i] <= at < starts[i] + sizes[i]:
            hit.append(beton.name(i))
    outcome = "trained"
    try:
        loader = data_of(BetonFiles(path, sound), workers=2).train_dataloader()
        assert same(expected, copies(loader))
    except UserError as e:
        outcome = str(e)
    print(json.dumps([fault, verify(path), hit, outcome]), flush=True)
"""


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """A file of 64 JPEGs, on pages of 16 KB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "PAGE", 1 << 14)
        return files_of(Synthetic(64, 8, 32), tmp_path_factory.mktemp("jpegs"), "jpeg")


def test_200_faults_are_found_and_stop_training(jpegs, tmp_path):
    command = [sys.executable, "-c", FAULTS, jpegs.files["train"], str(tmp_path / "f.beton")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(outcomes) == 200
    for fault, problems, hit, outcome in outcomes:
        assert problems and all("\n" not in p for p in [*problems, outcome]), fault
        if hit:
            assert f"{hit[0]}: CRC differs" in outcome and f"{hit[0]}: CRC differs" in problems, (
                fault
            )
        elif outcome == "trained":  # the byte is of no sample: filling between pages
            assert "file: not the bytes that were written" in problems[0], fault
    assert (
        sum(bool(hit) for *_, hit, _ in outcomes)
        > 50
        < sum(outcome != "trained" for *_, outcome in outcomes)
    )


def test_bad_images_are_counted_in_the_metrics(jpegs, tmp_path, cli):
    path = tmp_path / "f.beton"
    shutil.copy(jpegs.files["train"], path)
    beton = Beton(path)
    with path.open("r+b") as file:
        for position in (3, 9):
            file.seek(int(beton.images["data_ptr"][position]) + 2)
            file.write(bytes(100))
    source = [
        "--data.source",
        "BetonFiles",
        "--data.source.train",
        path,
        "--data.source.val",
        jpegs.files["val"],
    ]
    options = [*TINY, *source, "--data.batch_size", "32", "--trainer.max_epochs", "2"]
    code, _, err = cli("fit", *options)
    assert code == 2 and "damaged JPEG" in err and err.count("\n") == 1
    code, _, err = cli("fit", *options, "--data.on_bad", "count", "--run.root", "counted")
    assert code == 0, err
    assert err.splitlines() == [
        "2 training images up to step 2 cannot be read: left out of the loss, and counted in "
        "metrics.jsonl as data/bad_images",
        f"2 of 64 train_eval images cannot be read: left out; resnet-cli data verify {path} names "
        "them",
    ]
    lines = (only_run(tmp_path / "counted") / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    counted = {e: sum(r.get("data/bad_images", 0) for r in rows if r["epoch"] == e) for e in (0, 1)}
    assert counted == {0: 2, 1: 2} and all(r.get("data/bad_images") != 0 for r in rows)
    bad = tmp_path / "bad.beton"
    shutil.copy(jpegs.files["val"], bad)
    beton, content = Beton(bad), bytearray(bad.read_bytes())
    content[int(beton.images["data_ptr"].min()) : int(beton.header["alloc_table_ptr"])] = bytes(
        int(beton.header["alloc_table_ptr"]) - int(beton.images["data_ptr"].min())
    )
    bad.write_bytes(content)
    code, _, err = cli(
        "fit", *options, "--data.on_bad", "count", "--run.root", "none", "--data.source.val", bad
    )
    assert code == 2 and "none of the 8 val images can be read: --data.on_bad raise names" in err


@pytest.mark.parametrize("with_kernel", [True, False])
@pytest.mark.parametrize("on_bad", ["raise", "count"])
def test_a_disk_that_fails_is_not_counted_as_bad_images(jpegs, monkeypatch, with_kernel, on_bad):
    if not with_kernel:
        monkeypatch.setattr(kernel, "library", lambda: None)
        monkeypatch.setattr(fallback, "ffcv", lambda: None)
    data = data_of(jpegs, on_bad=on_bad, workers=0)
    images = data.splits["train"]
    cannot_read = os.open(images.file.path, os.O_WRONLY)  # pread answers EBADF
    os.dup2(cannot_read, images.file.fd)
    os.close(cannot_read)
    with pytest.raises(
        UserError, match="beton: disk or network gives an error for 32 images .*; correct"
    ):
        [*data.train_dataloader()]


@pytest.mark.parametrize("on_bad", ["raise", "count"])
def test_a_lack_of_memory_is_not_counted_as_bad_images(jpegs, monkeypatch, on_bad):
    lacking = np.full(32, kernel.NO_MEMORY, np.uint8)
    monkeypatch.setattr(kernel, "decode", lambda *args: lacking)
    data = data_of(jpegs, on_bad=on_bad, workers=0)
    with pytest.raises(
        UserError, match="no memory to decode images of .*: lower --data.batch_size"
    ):
        [*data.train_dataloader()]
    monkeypatch.setattr("lightning_resnet.data.beton.encode.library", Lacking)
    with pytest.raises(MemoryError):
        encode.jpeg_problem(b"\xff\xd8", 8, 8)


class Lacking:
    """A kernel without memory."""

    def check_jpeg(self, *args):
        return kernel.NO_MEMORY


def test_an_oddity_that_costs_no_pixel_is_no_damage(tmp_path):
    file, rng = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(file, "JPEG")
    plain = odd = file.getvalue()
    odd = odd[:11] + b"\x03" + odd[12:]  # a version of JFIF that libjpeg warns of
    made = []
    for name, data in (("plain", plain), ("odd", odd)):
        (tmp_path / f"{name}.jpg").write_bytes(data)
        images = Images(
            np.arange(32), np.arange(32) % 2, paths=[str(tmp_path / f"{name}.jpg")] * 32
        )
        out = write_beton(
            images, tmp_path / f"{name}.beton", classes=["a", "b"], workers=1, progress=False
        )
        assert (Beton(out).images["mode"] == JPEG).all() and verify(out) == []
        manifest_path(out).unlink()
        assert verify(out) == []
        made.append(copies(data_of(BetonFiles(str(out), str(out))).train_dataloader()))
    assert odd in out.read_bytes() and same(*made)


def test_a_label_that_was_changed_is_noticed(jpegs, tmp_path):
    path = tmp_path / "f.beton"
    shutil.copy(jpegs.files["train"], path)
    shutil.copy(jpegs.files["train"] + ".json", manifest_path(path))
    beton = Beton(path)
    label = (
        beton.header_bytes
        - journal.ROW.itemsize
        + journal.ROW.fields[f"f{beton.names.index('label')}"][1]
    )
    with path.open("r+b") as file:
        file.seek(label)
        file.write(bytes([(beton.labels[-1] + 1) % 10]))
    with pytest.raises(UserError, match="metadata or table are not what was written"):
        data_of(BetonFiles(str(path), jpegs.files["val"]))
