"""Parsing writes, seeds and builds nothing; building gives an experiment of this process."""

import os
from pathlib import Path

import pytest
import torch

from lightning_resnet.config.recipe import build, parse
from lightning_resnet.errors import UserError

FLAGS = (
    "--data.source Synthetic --data.batch_size 64 --trainer.accelerator cpu --trainer.max_epochs 1"
).split()
FLAGS += ["--model.net", "CifarResNet", "--model.net.depth", "8"]


def test_to_parse_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    before = dict(os.environ), torch.get_rng_state().tolist()
    config = parse("fit", [*FLAGS, "--seed_everything", "7", "--run.new"])
    assert (dict(os.environ), torch.get_rng_state().tolist()) == before
    assert not [*Path().iterdir()]
    assert config.verb == "fit" and config.run.new and config.values.seed_everything == 7


def test_a_changed_copy_leaves_the_configuration_as_it_was():
    config = parse("fit", FLAGS)
    text = config.resolved
    changed = config.replaced({"run.threads": 3, "trainer.devices": 2})
    assert (changed.run.threads, changed.trainer.devices) == (3, 2)
    assert config.run.threads is None and config.resolved == text != changed.resolved


def test_an_experiment_is_seeded_and_keeps_its_configuration(monkeypatch):
    config = parse("fit", [*FLAGS, "--seed_everything", "7"])
    text = config.resolved
    nets = [build(config).task.net.state_dict() for _ in range(2)]
    assert all(torch.equal(tensor, nets[1][name]) for name, tensor in nets[0].items())
    assert config.resolved == text
    experiment = build(config, Path("runs/a/b"))
    assert experiment.config is config and experiment.trainer.default_root_dir == str(
        Path("runs/a/b")
    )


def test_ranks_that_no_launcher_has_started_are_refused():
    with pytest.raises(UserError, match="2 ranks are asked for.*: add --trainer.devices 1"):
        build(parse("fit", [*FLAGS, "--trainer.devices", "2"]))
