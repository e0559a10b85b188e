"""Read what runs leave."""

import json
from pathlib import Path

import torch

from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.runs.find import described_runs
from lightning_resnet.runs.labels import is_label


def only_run(root=Path("runs")):
    """Return the one run directory below `root`."""
    (run,) = described_runs(Path(root), "*/*")
    return run.path


def unlabelled(paths):
    """Return the paths that lead through no readable link, which would name a run again."""
    return [path for path in sorted(paths) if not any(map(is_label, (path, *path.parents)))]


def rows(run):
    """Return the rows of metrics.jsonl, without a last one that was cut off."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def history(root, key):
    """Return the values of one metric of the only run below `root`."""
    return [row[key] for row in rows(only_run(root)) if key in row]


def attempt(number=1, root="runs"):
    """Return the record of one attempt of the only run below `root`."""
    return json.loads((only_run(root) / f"attempts/{number}.json").read_text())


def edit(file, **values):
    """Replace values in a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def weights(run, prefix=""):
    """Return the tensors of last.ckpt whose names begin with `prefix`, under their
    names after it.
    """
    state = load_checkpoint(run / "checkpoints/last.ckpt")["state_dict"]
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def same_weights(a, b):
    """Return whether two dicts hold bitwise the same tensors under the same names."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rank_logs():
    """Return what the ranks in the current folder have printed."""
    return "".join(path.read_text() for path in sorted(Path().glob("log*.txt")))
