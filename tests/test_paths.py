"""The decoder's pixels are bitwise the same with every set of instructions, with libjpeg reading or
our own reader of the Huffman codes, and on any number of threads.
"""

import io
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from lightning_resnet.data.beton import decode as kernel

pytestmark = pytest.mark.skipif(
    not hasattr(kernel.library(), "choose_paths"),
    reason="the kernel was not built (no libjpeg-turbo headers), or is older: make setup",
)

PHOTO = load_sample_images().images[0]  # [427, 640, 3]
NOISE = np.random.default_rng(0).integers(0, 256, (211, 157, 3), np.uint8)
KINDS = {
    "4:2:0": dict(subsampling="4:2:0"),
    "4:2:2": dict(subsampling="4:2:2"),
    "4:4:4 with codes of its own": dict(subsampling="4:4:4", optimize=True),
    "long codes": dict(subsampling="4:2:0", quality=100, optimize=True),
    "restart markers": dict(subsampling="4:2:0", restart_marker_blocks=3),
    "progressive": dict(progressive=True),
}
LIBJPEG_ALONE = -1  # see choose_paths in decode.c


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **{"quality": 92} | options)
    return file.getvalue()


def stored():
    """Yield bytes, shape and whether they are a JPEG: photos and noise of all kinds, grey, raw."""
    for pixels in (PHOTO, NOISE):
        for options in KINDS.values():
            yield jpeg(pixels, **options), pixels.shape, True
        yield jpeg(pixels[..., 0]), pixels.shape, True
        yield pixels.tobytes(), pixels.shape, False


def put(file, samples):
    """Write samples into a file; return items with boxes of all sizes in each sample."""
    rng = np.random.default_rng(1)
    items = []
    offset = 0
    for data, (rows, cols, _), is_jpeg in samples:
        os.pwrite(file, data, offset)
        for scale in (0.06, 0.2, 0.4, 0.7, 1, 1):
            item = np.zeros((), kernel.ITEM)
            height = max(1, int(rows * scale))
            width = max(1, int(cols * scale * rng.uniform(0.7, 1)))
            top = rng.integers(rows - height + 1)
            left = rng.integers(cols - width + 1)
            item["offset"], item["size"], item["jpeg"] = offset, len(data), is_jpeg
            item["rows"], item["cols"], item["flip"] = rows, cols, rng.integers(2)
            item["top"], item["left"], item["height"], item["width"] = top, left, height, width
            items.append(item)
        offset += len(data)
    return np.stack(items)


@pytest.fixture
def choose():
    """Give the function that chooses instructions; choose the best in the end."""
    yield kernel.library().choose_paths
    kernel.library().choose_paths(255)


@pytest.mark.parametrize("area", [False, True])
@pytest.mark.parametrize("size", [1, 30, 65])
def test_instructions_and_threads_change_no_pixel(size, area, choose):
    file = os.memfd_create("images")
    items = put(file, stored())
    made = {}
    best = choose(255)
    for level in range(LIBJPEG_ALONE, best + 1):
        assert choose(level) == max(level, 0)
        for threads in (1, 2, 5):
            out = np.empty((len(items), size, size, 3), np.uint8)
            status = kernel.decode(SimpleNamespace(fd=file), items, out, threads, area=area)
            assert not status.any()
            made[level, threads] = out.tobytes()
    os.close(file)
    assert len(set(made.values())) == 1


def damaged():
    """Yield JPEGs that are cut, have a changed bit, a marker in the wrong place, stray bytes."""
    rng = np.random.default_rng(2)
    for options in ("4:2:0", "restart markers", "4:4:4 with codes of its own"):
        sound = jpeg(PHOTO[:160, :200], **KINDS[options])
        scan = sound.index(b"\xff\xda") + 14
        for at in rng.integers(scan, len(sound) - 2, 12).tolist():
            yield sound[:at]
            yield sound[:at] + b"\xff\xd9"
            yield sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :]
            yield sound[:at] + b"\xff\xd3" + sound[at:]
            yield sound[:at] + b"\xff\xff" + sound[at:]
        yield sound[:-2]
        yield sound[:-2] + b"stray" + sound[-2:]


def test_what_is_damaged_is_the_same_with_our_reader_of_codes(choose):
    """Libjpeg decides what is damage, and its pixels are taken where there is none."""
    file = os.memfd_create("images")
    items = put(file, ((data, (160, 200, 3), True) for data in damaged()))
    made = {}
    for level in (LIBJPEG_ALONE, 0, choose(255)):
        choose(level)
        out = np.empty((len(items), 48, 48, 3), np.uint8)
        status = kernel.decode(SimpleNamespace(fd=file), items, out, 1)
        made[level] = status.tobytes() + out.tobytes()
    os.close(file)
    assert 0.2 < (status == kernel.PROBLEMS.index("damaged JPEG")).mean() < 0.9
    assert len(set(made.values())) == 1


# -- threads ---------------------------------------------------------------------------------------


def make(file, items, threads):
    out = np.empty((len(items), 40, 40, 3), np.uint8)
    status = kernel.decode(SimpleNamespace(fd=file), items, out, threads)
    assert not status.any()
    return out.tobytes()


@pytest.fixture
def images():
    """A file of images and the items of a batch."""
    file = os.memfd_create("images")
    yield file, put(file, stored())
    os.close(file)


def test_batches_made_at_once_share_threads_and_pixels_stay(images):
    alone = make(*images, 1)
    with ThreadPoolExecutor(4) as callers:
        made = callers.map(lambda i: make(*images, 1 + i % 4), range(24))
        assert set(made) == {alone}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads cannot be counted")
def test_threads_are_started_once(images):
    make(*images, 3)
    before = set(os.listdir("/proc/self/task"))
    for _ in range(20):
        make(*images, 3)
    assert len(set(os.listdir("/proc/self/task")) - before) <= 2


def test_a_process_that_is_forked_from_one_with_threads_has_its_own(images):
    expected = make(*images, 3)
    child = os.fork()
    if child == 0:
        os._exit(0 if make(*images, 3) == make(*images, 1) == expected else 1)
    ended, status = os.waitpid(child, 0)
    assert (ended, status) == (child, 0)
    assert make(*images, 3) == expected


LOOP = """
import os, sys, threading, time
from types import SimpleNamespace
import numpy as np
from lightning_resnet.data.beton import decode as kernel
items = np.zeros(64, kernel.ITEM)
items["size"] = 120_000
items["rows"] = items["cols"] = 200
items["height"] = items["width"] = 150
file = os.memfd_create("raw")
os.pwrite(file, bytes(120_000), 0)
def run():
    out = np.empty((64, 96, 96, 3), np.uint8)
    while True:
        kernel.decode(SimpleNamespace(fd=file), items, out, 4)
threading.Thread(target=run, daemon=True).start()
print("runs", flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize("how", ["exit", signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_while_its_threads_decode(how):
    seconds = "0.1" if how == "exit" else "60"
    command = [sys.executable, "-c", LOOP, seconds]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "runs\n"
        if how != "exit":
            process.send_signal(how)
        process.communicate(timeout=300)
        assert process.returncode == (0 if how == "exit" else -how)
