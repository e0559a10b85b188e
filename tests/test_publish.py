"""`compare --wandb` publishes tables, figures and the page; with the real client, offline."""

import json
import os
import subprocess
import sys

import pytest
from helpers.command_line import verb

from lightning_resnet.analysis import load_runs
from lightning_resnet.cli import compare as command
from lightning_resnet.errors import UserError

wandb = pytest.importorskip("wandb")
main = verb(command)


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


def test_tables_and_figures_go_to_the_project(sweep, capsys):
    main([str(sweep), "--baseline", "shortcut=none", "--wandb", "me/study"])
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("W&B: offline; to upload it: wandb sync ")
    (file,) = (sweep / "report/wandb").glob("offline-run-*/run-*.wandb")
    assert str(file.parent) in told
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(inspect, capture_output=True, text=True, timeout=120, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    (run,) = (record["run"] for record in records if record["type"] == "run")
    assert (run["entity"], run["project"], run["job_type"]) == ("me", "study", "compare")
    (item,) = (record["history"]["item"] for record in records if record["type"] == "history")
    assert {"table._type", "pairs._type", "curves._type", "page._type"} <= item.keys()
    assert (item["table.nrows"], item["pairs.nrows"], item["curves.format"]) == (4, 2, "png")
    assert (
        load_runs(sweep).runs["status"].tolist() == ["finished"] * 12
    )  # what was published is no run


def test_disabled_says_so(sweep, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(UserError, match="WANDB_MODE is disabled"):
        main([str(sweep), "--wandb"])
    for name in ("WANDB_MODE", "WANDB_API_KEY", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "nowhere")
    with pytest.raises(UserError, match="no key: wandb login; WANDB_MODE=offline"):
        main([str(sweep), "--wandb"])
