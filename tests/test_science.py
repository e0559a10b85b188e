"""Every command of docs/science.md, in order, at a small size."""

import re
import shlex

import pytest
from conftest import REPOSITORY

from lightning_resnet.points import read

COMMANDS = re.findall(r"^ {4}resnet-cli (.+)$", (REPOSITORY / "docs/science.md").read_text(), re.M)
# torch 2.13 on a CPU with AVX2 alone writes beyond its memory in the backward pass of projections from 4 to 8 channels
SMALL = "--run.threads 1 --model.net.width 8 --trainer.max_epochs 1".split()
KEYS = ("model.net.depth", "model.net.width", "model.net.shortcut", "model.net.init_args", "run.init_from")


def small_sweep(cli, file):
    """One point for each net of the sweep and where it starts; other settings stay the recipe's."""
    sweep = read(file)
    nets = {}
    for point in sweep.points:
        if point.parameters.get("model.net.width", 0) > 8:
            continue
        chosen = {key: point.parameters[key] for key in KEYS if key in point.parameters}
        nets.setdefault(str(chosen), chosen)
    for chosen in nets.values():
        chosen = {k: v for k, v in chosen.items() if not isinstance(v, dict)} | {
            f"model.net.{k}": v for k, v in chosen.get("model.net.init_args", {}).items()
        }
        small = SMALL if "run.init_from" not in chosen else [*SMALL[:2], *SMALL[4:]]
        small = [*small, *(f"--{key}={value}" for key, value in chosen.items())]
        code, _, err = cli("fit", "--config", "configs/digits.yaml", *small, "--run.name", sweep.name)
        assert code == 0, (chosen, err)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_of_the_page_runs(cli, tmp_path):
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    assert {command.split()[0] for command in COMMANDS} == {"sweep", "fit", "inspect", "compare", "deepen"}
    for command in COMMANDS:
        verb, *args = shlex.split(command)
        if verb == "sweep":
            small_sweep(cli, args[0])
            continue
        if verb == "fit":
            args += [*SMALL[:2], *SMALL[4:]]
        if verb == "inspect":
            args += ["--batches", "1", "--draws", "1", *SMALL[:2], *(SMALL[2:4] if "configs" in args[1] else [])]
        if verb == "deepen":
            args += ["--batches", "2"]
        code, out, err = cli(verb, *args)
        assert code == 0, (command, err)
