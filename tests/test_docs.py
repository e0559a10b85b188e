"""Every example and command of docs/extending.md, in order, at a small size."""

import re
import runpy
import shlex
import sys
from pathlib import Path

from conftest import REPOSITORY

SMALL = "--run.threads 1 --trainer.max_epochs 1".split()
TINY_NET = "--model.net.depth 8 --model.net.width 4".split()


def test_every_example_of_extending_runs(cli, monkeypatch, capsys):
    text = (REPOSITORY / "docs/extending.md").read_text()
    Path("configs").symlink_to(REPOSITORY / "configs")
    files = re.findall(r"^```python file=(\S+)\n(.*?)^```", text, re.M | re.S)
    for name, content in files:
        Path(name).write_text(content)
    commands = re.findall(r"^ {4}((?:resnet-cli|python) .+)$", text, re.M)
    assert [name for name, _ in files] == ["mynet.py", "mysource.py", "myaug.py", "inspection.py"]
    assert len(commands) == 4
    for command in commands:
        program, *args = shlex.split(command)
        if program == "resnet-cli":
            small = [*SMALL, *(TINY_NET if "mynet" not in command else [])]
            code, out, err = cli(*args, *small)
            assert code == 0 and "val/acc1" in out, (command, err)
            continue
        monkeypatch.setattr(sys, "argv", args)
        runpy.run_path(args[0])
        lines = capsys.readouterr().out.splitlines()
        assert any("silent" in line and "layer1.0" in line for line in lines)
        assert len({line.split()[0] for line in lines if "silent" in line}) == 2  # Wide has no blocks


def test_the_augmentation_of_extending_changes_the_training_and_repeats_itself(cli):
    text = (REPOSITORY / "docs/extending.md").read_text()
    (content,) = re.findall(r"^```python file=myaug.py\n(.*?)^```", text, re.M | re.S)
    Path("myaug.py").write_text(content)
    recipe = ["--config", REPOSITORY / "configs/digits.yaml", *SMALL, *TINY_NET]
    said = []
    for name, extra in (
        ("a", []),
        ("b", ["--trainer.callbacks+=myaug.Darken"]),
        ("c", ["--trainer.callbacks+=myaug.Darken"]),
    ):
        code, out, err = cli("fit", *recipe, "--run.name", name, *extra)
        assert code == 0, err
        said.append(out.splitlines()[-1])
    assert said[0] != said[1] == said[2]
