"""What the tests of jobs share: submit, look at the one run there is, compare weights."""

import json
import shlex
from pathlib import Path

from helpers.run_dir import unlabelled
from helpers.wandb_runs import leet

from lightning_resnet.runs.metrics import merge, read_rows, row_of

SHAPES = {
    "2 nodes x 1 task": "--nodes=2 --ntasks-per-node=1",
    "1 node x 2 tasks": "--nodes=1 --ntasks-per-node=2",
}
NET = "--config configs/digits.yaml --model.net.depth 8 --model.net.width 4 --run.threads 1"
SHORT = f"{NET} --trainer.max_epochs 2"
LONG = f"{NET} --trainer.max_epochs 15 --trainer.check_val_every_n_epoch 5"  # 330 steps
ENDLESS = LONG.replace("epochs 15", "epochs 300")
# a callback may change the result, so it is part of the run id
SLOWLY = "--trainer.callbacks+=slow.Slow"
SLOW = """
import time
from pytorch_lightning.callbacks import Callback

class Slow(Callback):
    def on_train_batch_end(self, *args):
        time.sleep(0.03)
"""


def submit(slurm, shape, fit, options=""):
    command = f"sbatch --parsable --output=log-%j.txt {shape} {options} slurm/fit.sbatch {fit}"
    return slurm.run(command).strip()


def the_run(root="runs"):
    """None before it begins."""
    return next((path.parent for path in unlabelled(Path(root).glob("*/*/meta.json"))), None)


def step(root="runs"):
    """Optimizer steps of the newest row."""
    run = the_run(root)
    lines = (
        (run / "metrics.jsonl").read_text().splitlines()
        if run and (run / "metrics.jsonl").exists()
        else []
    )
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def attempts(root="runs"):
    files = (the_run(root) / "attempts").glob("*.json")
    return [json.loads(file.read_text()) for file in sorted(files, key=lambda file: int(file.stem))]


def histories():
    """(step, kind) of the rows that hold: of metrics.jsonl, and of what W&B wrote, whose attempts
    are one run.
    """
    run = the_run()
    rows = merge(read_rows(run / "metrics.jsonl")[0])
    records = [record for file in run.glob("wandb/offline-run-*/*.wandb") for record in leet(file)]
    ids = {record["run"]["run_id"] for record in records if record["type"] == "run"}
    assert ids == {json.loads((run / "meta.json").read_text())["wandb_id"]}
    items = [
        json.dumps(record["history"]["item"]) for record in records if record["type"] == "history"
    ]
    mirrored = merge(sorted(map(row_of, items), key=lambda row: row["attempt"]))
    return [[(row["step"], row["kind"]) for row in some] for some in (rows, mirrored)]


def log(job):
    return Path(f"log-{job}.txt").read_text()


def local(slurm, fit, root, ranks=2):
    """The same training without Slurm."""
    slurm.run(
        f"resnet-cli fit {fit} --trainer.devices {ranks} --run.root {shlex.quote(str(root))}",
        timeout=240,
    )
    return root
