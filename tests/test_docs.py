"""Every example and command of docs/extending.md and docs/cluster.md, in order, at a small size."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

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


def test_the_arithmetic_of_cluster():
    text = (REPOSITORY / "docs/cluster.md").read_text()
    rows = {
        cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip("|").split("|")] for line in text.splitlines())
    }
    a100, images, file, mb = 2470, 1_281_167, 22e9, 4 * 25.557032
    step, sent = {b: b / a100 for b in (256, 64)}, {n: 2 * (n - 1) / n * mb for n in (8, 64, 512)}
    expected = {
        "images/s if nothing is lost": lambda n: f"{n * a100:,}",
        "90 epochs of 1,281,167 images, min": lambda n: f"{90 * images / n / a100 / 60:.1f}",
        "global batch at 256 per GPU": lambda n: f"{256 * n:,}",
        "step at 256 per GPU, ms": lambda n: f"{1e3 * step[256]:.0f}",
        "sent per GPU and step, MB": lambda n: f"{sent[n]:.0f}",
        "needed to hide it behind 69 ms of backward, GB/s": lambda n: f"{sent[n] / step[256] * 1.5e-3:.1f}",
        "the same at 64 per GPU (17 ms), GB/s": lambda n: f"{sent[n] / step[64] * 1.5e-3:.1f}",
        "reads of all nodes from shared storage without stage, GB/s": lambda n: f"{n * a100 * file / images / 1e9:.1f}",
        "the same staged: copies of 22 GB, one per node of 8 GPUs, GB": lambda n: f"{22 * n // 8:,}",
        "tables of 1.28 M samples, 73 MB per rank, MB per node": lambda n: f"{8 * 73}",
        "steps per epoch": lambda n: f"{images // (256 * n)}" if n < 512 else f"{images / 256 / n:.1f}",
    }
    for name, value in expected.items():
        assert rows[name] == [value(n) for n in (8, 64, 512)], name
    assert "a step of 198 ms, an efficiency of 0.52" in text


SHORT = {
    "bench": ["--steps", "10", "--repeat", "1"],
    "fit": [*SMALL, *TINY_NET],
    "data": [],
    "compare": [],
    "sweep": [],
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_cluster_runs(cli):
    """But those that need SLURM or do not end: of them test_readme.py makes sure that they are understood."""
    Path("configs").symlink_to(REPOSITORY / "configs")
    for i in range(40):
        file = Path("photos", "ab"[i % 2], f"{i}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (300, 280, 3), np.uint8)).save(file)
    text = (REPOSITORY / "docs/cluster.md").read_text()
    assert re.findall(r"^ {4}make (\w+)$", text, re.M) == ["bundle"]
    (job,) = re.findall(r"^ {4}\. slurm/site.env && sbatch (.+)$", text, re.M)
    assert (REPOSITORY / job.split()[2]).exists() and (REPOSITORY / "slurm/site.env.example").exists()
    ran = 0
    for command in re.findall(r"^ {4}resnet-cli (.+)$", text, re.M):
        verb, *args = shlex.split(command)
        if "--submit" in args or "--watch" in args:
            continue
        code, _, err = cli(verb, *args, *SHORT[verb])
        assert code == 0, (command, err)
        ran += 1
    assert ran == 8
