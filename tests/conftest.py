"""Shared by all tests: the command line, in process."""

import os
from pathlib import Path

import pytest
import torch

from lightning_resnet.cli import main

REPOSITORY = Path(__file__).parents[1]
torch.set_num_threads(1)  # two threads beside another busy process can be 20 times slower than one
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what the tests promise, they promise on the CPU

TINY = f"--config {REPOSITORY}/configs/digits.yaml --run.threads 1 --model.net.depth 8 --model.net.width 4".split()


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run `resnet-cli` in an empty folder; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])

    def run(*args):
        capsys.readouterr()
        code = main([str(a) for a in args])
        return code, *capsys.readouterr()

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
