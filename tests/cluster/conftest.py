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


@pytest.fixture(scope="session")
def slurm(request):
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
