"""Every command of docs/science.md, in order, at a small size."""

import re
import shlex

import pytest
from conftest import REPOSITORY

from lightning_resnet.points import read

COMMANDS = re.findall(r"^ {4}resnet-cli (.+)$", (REPOSITORY / "docs/science.md").read_text(), re.M)
SMALL = "--run.threads 1 --model.net.width 4 --trainer.max_epochs 1".split()
POINTS = 4  # of each sweep


def small_sweep(cli, file):
    """A few points, spread over the sweep: the first seed of each setting."""
    sweep = read(file)
    points = [p for p in sweep.points if p.parameters["seed_everything"] == 0]
    for point in points[:: max(1, len(points) // POINTS)] if len(points) > 2 * POINTS else points:
        flags = [f"--{key}={value}" for key, value in point.parameters.items() if not isinstance(value, dict | list)]
        flags = [flag for flag in flags if "max_" not in flag and "source" not in flag and "width" not in flag]
        for key, value in point.parameters.items():
            flags += [f"--{key}.{k}={v}" for k, v in value.items()] if isinstance(value, dict) else []
        flags = [flag.replace(".init_args", "") for flag in flags]
        arguments = [*flags, *SMALL, "--run.name", sweep.name]
        code, _, err = cli("fit", "--config", "configs/digits.yaml", *arguments)
        assert code == 0, (arguments, err)


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
            args += SMALL
        if verb == "inspect":
            args += ["--batches", "1", "--draws", "1", *SMALL[:2], *(SMALL[2:4] if "configs" in args[1] else [])]
        if verb == "deepen":
            args += ["--batches", "2"]
        code, out, err = cli(verb, *args)
        assert code == 0, (command, err)
