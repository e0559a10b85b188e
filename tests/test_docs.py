"""Every example and command of README and docs, in order, at a small size."""

import hashlib
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from helpers.command_line import REPOSITORY, small
from PIL import Image

from lightning_resnet.data.sources.photos import make_photos

SMALL = "--run.threads 1 --trainer.max_epochs 1".split()
TINY_NET = "--model.net.depth 8 --model.net.width 4".split()


def test_every_example_of_extending_runs(cli, monkeypatch, capsys):
    text = (REPOSITORY / "docs/extending.md").read_text()
    Path("configs").symlink_to(REPOSITORY / "configs")
    files = re.findall(r"^```python file=(\S+)\n(.*?)^```", text, re.M | re.S)
    for name, content in files:
        Path(name).write_text(content)
    commands = re.findall(r"^ {4}((?:resnet-cli|python) .+)$", text, re.M)
    assert [name for name, _ in files] == [
        "mynet.py",
        "mysource.py",
        "myschedule.py",
        "myhooks.py",
        "mytask.py",
        "inspection.py",
        "mycallback.py",
    ]
    assert len(commands) == 9
    for command in commands:
        program, *args = shlex.split(command)
        if program == "resnet-cli":
            small = [*SMALL, *(TINY_NET if "mynet" not in command else [])]
            code, out, err = cli(*args, *small)
            assert code == 0 and ("val error" in out or "val/acc1" in out), (command, err)
            if "mycallback" in command:
                rows = [f.read_text() for f in Path("runs").glob("**/metrics.jsonl")]
                assert any('"weight_norm"' in text for text in rows)
            continue
        monkeypatch.setattr(sys, "argv", args)
        runpy.run_path(args[0])
        lines = capsys.readouterr().out.splitlines()
        if args == ["mytask.py"]:
            assert any(line.startswith("val/acc1 0.") for line in lines)
            continue
        assert any("silent" in line and "layer1.0" in line for line in lines)
        assert (
            len({line.split()[0] for line in lines if "silent" in line}) == 4
        )  # Wide has no blocks


def test_the_hooks_of_extending_change_the_training_and_repeat_themselves(cli):
    text = (REPOSITORY / "docs/extending.md").read_text()
    (content,) = re.findall(r"^```python file=myhooks.py\n(.*?)^```", text, re.M | re.S)
    Path("myhooks.py").write_text(content)
    recipe = ["--config", REPOSITORY / "configs/digits.yaml", *SMALL, *TINY_NET]
    said = []
    for name, extra in (
        ("a", []),
        ("b", ["--model.hooks", "myhooks.Darken"]),
        ("c", ["--model.hooks", "myhooks.Darken"]),
        ("d", ["--model.hooks", "myhooks.Focal", "--model.hooks.gamma", "5"]),
        ("e", ["--model.hooks", "myhooks.Focal", "--model.hooks.gamma", "0"]),
    ):
        code, out, err = cli("fit", *recipe, "--run.name", name, *extra)
        assert code == 0, err
        said.append(out.splitlines()[-1])
    assert said[0] != said[1] == said[2]
    assert said[0] == said[4] != said[3] != said[1]


def test_the_arithmetic_of_cluster():
    text = (REPOSITORY / "docs/cluster.md").read_text()
    rows = {
        cells[0]: cells[1:]
        for cells in ([c.strip() for c in line.strip("|").split("|")] for line in text.splitlines())
    }
    a100, images, file, mb = 2470, 1_281_167, 22e9, 4 * 25.557032
    loader = (REPOSITORY / "benchmarks/loader.md").read_text()
    measured = re.search(r"^\| lightning_resnet, .beton +\| +([\d,]+) ", loader, re.M)
    core = int(measured[1].replace(",", "")) / 2  # the first table is of photos, on two cores
    tables = re.search(r"^\| lightning_resnet +\| .+ \| +(\d+) \|$", loader, re.M)[1]
    step, sent = {b: b / a100 for b in (256, 64)}, {n: 2 * (n - 1) / n * mb for n in (8, 64, 512)}
    expected = {
        "images/s if nothing is lost": lambda n: f"{n * a100:,}",
        "90 epochs of 1,281,167 images, min": lambda n: f"{90 * images / n / a100 / 60:.1f}",
        "global batch at 256 per GPU": lambda n: f"{256 * n:,}",
        "step at 256 per GPU, ms": lambda n: f"{1e3 * step[256]:.0f}",
        "sent per GPU and step, MB": lambda n: f"{sent[n]:.0f}",
        "needed to hide it behind 69 ms of backward, GB/s": lambda n: (
            f"{sent[n] / step[256] * 1.5e-3:.1f}"
        ),
        "the same at 64 per GPU (17 ms), GB/s": lambda n: f"{sent[n] / step[64] * 1.5e-3:.1f}",
        f"cores that decode, per GPU (2,470 / {core:,.0f})": lambda n: f"{a100 / core:.1f}",
        "reads of all nodes from shared storage without stage, first epoch, GB/s": (
            lambda n: f"{n * a100 * file / images / 1e9:.1f}"
        ),
        "the same staged: copies of 22 GB, one per node of 8 GPUs, GB": lambda n: (
            f"{22 * n // 8:,}"
        ),
        f"tables of 1.28 M samples, {tables} MB per rank, MB per node": lambda n: (
            f"{8 * int(tables)}"
        ),
        "steps per epoch, the rest of the images dropped": lambda n: f"{images // (256 * n)}",
    }
    for name, value in expected.items():
        assert rows[name] == [value(n) for n in (8, 64, 512)], name
    assert f"our loader {core:,.0f} images/s per\ncore ({measured[1]} on two cores" in text
    assert f"measured 16,621 images/s, {100 * 16_621 / (8 * a100):.0f} %" in text
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
    """But those that need SLURM or do not end: of them test_readme.py makes sure that they are
    understood.
    """
    Path("configs").symlink_to(REPOSITORY / "configs")
    for i in range(40):
        file = Path("photos", "ab"[i % 2], f"{i}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (300, 280, 3), np.uint8)).save(
            file
        )
    text = (REPOSITORY / "docs/cluster.md").read_text()
    assert re.findall(r"^ {4}make (\w+)$", text, re.M) == ["bundle"]
    jobs = re.findall(r"^ {4}\. slurm/site.env && sbatch (.+)$", text, re.M)
    assert [re.findall(r"\S+\.sbatch", job) for job in jobs] == 2 * [["slurm/fit.sbatch"]]
    for file in ("fit.sbatch", "site.env.example"):
        assert (REPOSITORY / "slurm" / file).exists()
    ran = 0
    for command in re.findall(r"^ {4}resnet-cli (.+)$", text, re.M):
        verb, *args = shlex.split(command)
        if "--submit" in args or "--watch" in args:
            continue
        code, _, err = cli(verb, *args, *SHORT[verb])
        assert code == 0, (command, err)
        ran += 1
    assert ran == 9


ELSEWHERE = (
    "--submit",
    "--watch",
    "wandb://",
    "fashion_mnist_small",
)  # SLURM, no end, a server, a data set


def shrink_configs():
    """A copy of configs/ whose sweeps, which take no flags, are few points of four steps of narrow
    nets.
    """
    shutil.copytree(REPOSITORY / "configs", "configs")
    digits = yaml.safe_load(Path("configs/digits.yaml").read_text())
    digits["trainer"] |= {"max_epochs": 1, "limit_train_batches": 4, "log_every_n_steps": 2}
    digits["model"]["net"]["init_args"]["width"] = 4
    digits["data"]["train_eval_samples"] = 64
    Path("configs/digits.yaml").write_text(yaml.safe_dump(digits))
    for file in Path("configs/sweeps").glob("digits_*.yaml"):
        sweep = yaml.safe_load(file.read_text())
        for name, among in sweep["parameters"].items():
            if "values" in among:
                among["values"] = among["values"][: 1 if name.startswith("data.") else 2]
            if name == "trainer.max_steps":
                among["value"] = 4
        file.write_text(yaml.safe_dump(sweep))


def give_files(monkeypatch):
    """What README's commands find: a net of the user's, photos, weights, ImageNet's folders,
    labels.
    """
    shutil.copy(REPOSITORY / "tests/helpers/gated.py", ".")
    make_photos(Path("made"), {"train": 80})
    Path("made/train").rename("photos")
    image = shutil.copy(min(Path("photos").rglob("*.jpg")), "cat.jpg")
    torch.save(torchvision.models.resnet50().state_dict(), "resnet50-11ad3fa6.pth")
    digest = hashlib.sha256(Path("resnet50-11ad3fa6.pth").read_bytes()).hexdigest()
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    monkeypatch.setitem(vars(weights.value), "url", f"https://example.com/made-{digest}.pth")
    monkeypatch.setenv("TORCH_HOME", str(Path("torch").absolute()))
    Path("torch/hub/checkpoints").mkdir(parents=True)  # as if it had been fetched
    shutil.copy("resnet50-11ad3fa6.pth", f"torch/hub/checkpoints/made-{digest}.pth")
    for i in range(1000):
        Path(f"imagenet/train/n{i:08}").mkdir(parents=True)
    for i in range(1, 5):
        for name in (
            f"imagenet/train/n{i:08}/a.JPEG",
            f"imagenet/val/n{i:08}/ILSVRC2012_val_{i:08}.JPEG",
        ):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, name)
        Path(f"imagenetv2-matched-frequency-format-val/{i}").mkdir(parents=True)
        shutil.copy(image, f"imagenetv2-matched-frequency-format-val/{i}")
    Path("real.json").write_text(json.dumps([[1], [2, 3], [], [4]]))
    Path("stage").mkdir()


def little(verb, args, name):
    """Flags that make a command small."""
    named = ["--run.name", name] if "--run.name" not in args else []
    if verb in ("fit", "validate") and "configs/digits.yaml" not in args:
        flags = [
            *small(args, "photos")[1],
            "--model.net.num_classes",
            "10",
            "--run.keep",
            "weights",
        ]
        if "imagenet" in args[1]:
            return [*flags, "--run.name", "imagenet", "--model.net.depth", "18"]
        return [*flags, *named]
    if verb in ("fit", "validate"):
        return [*SMALL, *named]
    if verb == "inspect":
        noise = (
            "--data.source Synthetic --data.source.n_val 8 --data.size 32".split()
            if "--data.size" in args
            else []
        )
        return ["--batches", "1", "--draws", "1", "--run.threads", "1", *noise]
    if verb == "evaluate":
        folder = (
            "--data.source.expect false --data.batch_size 4".split() if "real.json" in args else []
        )
        return ["--sizes", "32,48", "--run.threads", "1", *folder]
    if verb == "doctor" and "--config" in args:
        return [*small(args, "photos")[1], "--model.net.num_classes", "10"]
    return []


def what_runs_say():
    """Return the errors of runs in processes of their own, which the command itself
    does not print.
    """
    told = [
        f"{log}:\n{log.read_text()[-2000:]}" for log in sorted(Path("runs").glob("*/points/*.log"))
    ]
    for file in sorted(Path("runs").glob("*/*/attempts/*.json")):
        attempt = json.loads(file.read_text() or "{}")
        if attempt.get("reason") != "finished":
            told.append(f"{file}: {attempt}")
    return "\n".join(told)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("document", "count"), [("README.md", 35), ("docs/science.md", 39)])
def test_every_command_runs(cli, document, count, monkeypatch):
    """But those that need SLURM, a server or a data set: of them test_readme.py makes sure that
    they are understood.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
    shrink_configs()
    text, ran = (REPOSITORY / document).read_text(), 0
    if document == "README.md":
        give_files(monkeypatch)
    for command in re.findall(r"^ {4}resnet-cli (.+)$", text, re.M):
        if any(word in command for word in ELSEWHERE):
            continue
        verb, *args = shlex.split(command.replace("/tmp ", "stage "), comments=True)
        ran += verb != "validate"  # that one is of the run before
        code, out, err = cli(verb, *args, *little(verb, args, f"run{ran}"))
        diverges = (
            verb == "sweep" and "digits_init_norm" in command
        )  # two of its nets, as docs/science.md says
        assert code == diverges, f"{command}\n{out}\n{err}\n{what_runs_say()}"
    assert ran == count
