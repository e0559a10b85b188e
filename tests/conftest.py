"""Shared by all tests: the command line, in process."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from lightning_resnet.cli.main import main
from lightning_resnet.data.beton import journal
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.sources.beton_files import BetonFiles
from lightning_resnet.data.sources.synthetic import Synthetic

REPOSITORY = Path(__file__).parents[1]
torch.set_num_threads(1)  # two threads beside another busy process can be 20 times slower than one
os.environ.setdefault("WANDB_MODE", "disabled")  # but where a test is about it
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with it ignored
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what the tests promise, they promise on the CPU

TINY = f"--config {REPOSITORY}/configs/digits.yaml --run.threads 1 --model.net.depth 8 --model.net.width 4".split()


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """The machine outlives the tests: to wait for the disk, which has gigabytes of them in its queue, took a minute."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run `resnet-cli` in an empty folder; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as the command line sets it; and back afterwards

    def run(*args):
        capsys.readouterr()
        code = main([str(a) for a in args])
        return code, *capsys.readouterr()

    return run


def verb(module):
    """Return a function that runs the words of a verb as the command line does, and raises what it meets."""

    def run(words):
        return module.run(module.make_parser().read([str(word) for word in words]))

    return run


def only_run(root=Path("runs")):
    """The one run directory there is."""
    (path,) = (p.parent for p in root.glob("*/*/meta.json"))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder for runs of real processes, which find what stands in tests/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def files_of(synthetic, folder, mode="auto"):
    """Its splits as .beton files."""
    write = partial(write_beton, classes=synthetic.classes, mode=mode, workers=1, progress=False)
    return BetonFiles(*(str(write(images, folder / f"{split}.beton")) for split, images in synthetic.splits().items()))


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """192 + 40 pictures in files, JPEG and raw mixed."""
    return files_of(Synthetic(192, 40, 32), tmp_path_factory.mktemp("mixed"), 0.5)


@pytest.fixture(scope="session")
def paged(tmp_path_factory):
    """192 + 40 pictures of 16x16 in files, raw, ten on a page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "PAGE", 1 << 13)
        return files_of(Synthetic(192, 40, 16), tmp_path_factory.mktemp("paged"))
