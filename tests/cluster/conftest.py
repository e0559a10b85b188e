"""The cluster of these tests: started for the first that needs it, stopped after the last."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers.command_line import REPOSITORY

from cluster.loopback import Cluster, NoSlurm, unpack

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark all tests of this folder slow: they start Slurm's daemons."""
    for item in items:
        if HERE in item.path.parents and not item.get_closest_marker("all"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def slurm(request):
    """A real Slurm on the loopback interface; without its packages the tests are skipped."""
    packages = Path(request.config.cache.mkdir("slurm")).resolve()
    root = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    cluster = Cluster(packages, root)
    try:
        unpack(packages)
        cluster.start()
    except (NoSlurm, subprocess.SubprocessError) as e:
        cluster.stop()
        pytest.skip(f"no Slurm here: {e}")
    cluster.env |= {
        "PATH": f"{BIN}:{cluster.env['PATH']}",
        "WANDB_MODE": "disabled",
        "CUDA_VISIBLE_DEVICES": "",
    }
    yield cluster
    cluster.stop()


@pytest.fixture(autouse=True)
def folder(slurm, tmp_path, monkeypatch):
    """An empty folder that holds what a checkout holds; no job is left behind."""
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "slurm"):
        os.symlink(REPOSITORY / name, name)
    yield tmp_path
    slurm.clear()
