"""What all tests run in, and the fixtures that several files use."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.command_line import REPOSITORY, TINY
from helpers.loaders import files_of
from helpers.made_runs import make_run
from helpers.run_dir import only_run
from helpers.sweeping import COMMAND
from helpers.wandb_runs import KEY
from helpers.wandb_standin import StandIn

from lightning_resnet.cli.main import main
from lightning_resnet.data.beton import journal
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.sweeps import local as pool

torch.set_num_threads(1)  # two threads next to another busy process can be 20 times slower than one
os.environ.setdefault("WANDB_MODE", "disabled")  # but where a test is about it
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background job is started with it ignored
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what the tests promise, they promise on the CPU


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Skip fsync: the machine outlives the tests, and waiting for a busy disk took a minute.

    The load of the machine is not known either.
    """
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run `resnet-cli` in an empty folder; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as the command line sets it; and back afterwards

    def run(*args):
        capsys.readouterr()
        code = main([str(a) for a in args])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make an empty folder for runs of real processes, which can import tests/helpers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Write 192 + 40 images to files, JPEG and raw mixed."""
    return files_of(Synthetic(192, 40, 32), tmp_path_factory.mktemp("mixed"), 0.5)


@pytest.fixture(scope="session")
def paged(tmp_path_factory):
    """Write 192 + 40 images of 16x16 to files, raw, ten on a page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "PAGE", 1 << 13)
        return files_of(Synthetic(192, 40, 16), tmp_path_factory.mktemp("paged"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Train for two epochs; return the run directory, which tests copy before they change it."""
    root = tmp_path_factory.mktemp("finished")
    assert main(["fit", *TINY, "--trainer.max_epochs", "2", "--run.root", str(root)]) == 0
    return only_run(root)


@pytest.fixture
def sweep(tmp_path):
    """Make run directories of plain and residual twins: two depths, three seeds; deeper plain nets
    are worse.
    """
    last = {(20, "none"): 4, (20, "A"): 2, (56, "none"): 40, (56, "A"): 1}
    for (depth, shortcut), error in last.items():
        for seed in range(3):
            path = tmp_path / "runs" / "digits" / f"{depth}{shortcut}{seed}"
            make_run(
                path,
                depth=depth,
                shortcut=shortcut,
                seed=seed,
                errors=(80, error - 0.5, error + seed),
            )
    return tmp_path / "runs" / "digits"


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    """Write a sweep's YAML into an empty folder that holds a recipe."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("seed_everything: 0\n")

    def write(parameters=None, **top):
        content = {
            "method": "grid",
            "command": COMMAND,
            "parameters": parameters or {"a": {"values": [1, 2]}},
        } | top
        Path("s.yaml").write_text(
            yaml.safe_dump({k: v for k, v in content.items() if v is not None})
        )
        return "s.yaml"

    return write


@pytest.fixture
def light(monkeypatch):
    """Let a sweep's fork server import nothing before its runs start."""
    monkeypatch.setattr(pool, "PRELOAD", [])


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Hide the developer's own key and settings of W&B; end wandb's processes after the test."""
    wandb = pytest.importorskip("wandb")  # takes a second, which only these tests should pay
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)  # where it decides the mode
    monkeypatch.chdir(tmp_path)
    yield
    wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture
def server(monkeypatch):
    """Run a stand-in for W&B's server on loopback."""
    server = StandIn()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield server
    server.close()
    assert not server.unknown
