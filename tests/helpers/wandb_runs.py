"""Runs that W&B mirrors."""

import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

from lightning_resnet.tracking.mirror import Mirror, WandbOptions

KEY = "0123456789abcdef0123456789abcdef01234567"
META = {
    "name": "study",
    "git_sha": "f" * 40,
    "source": "Digits",
    "net": "CifarResNet",
    "epochs": 2,
    "params": 10,
    "command": ["resnet-cli", "fit", "typed"],
}
CONFIG = {"seed_everything": 3, "data": {"size": None, "mean": [0.5, 0.5]}}
CONFIG |= {
    "model": {"net": {"class_path": "CifarResNet", "init_args": {"depth": 20, "shortcut": "none"}}}
}
BIN = Path(sys.executable).parent


def new_run(name, reason="running", **config):
    run = Path("runs/study", name)
    (run / "attempts").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG | config))
    (run / "meta.json").write_text(json.dumps(META))
    end_attempt(run, 1, reason)
    return run


def end_attempt(run, number, reason):
    content = {"attempt": number, "reason": reason, "heartbeat": time.time()}
    (run / f"attempts/{number}.json").write_text(json.dumps(content))


def row(step, attempt=1, **metrics):
    row.time += 1
    metrics = {
        name.replace("_", "/"): value
        for name, value in (metrics or {"train_loss": 1 / step}).items()
    }
    return {"step": step, "epoch": 0, "attempt": attempt, "time": row.time, **metrics}


row.time = time.time()


def write(run, *rows):
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def mirror(run, rows, reason, said=None, **options):
    """One attempt."""
    mirror = Mirror(WandbOptions(**options), (said if said is not None else []).append)
    mirror.start(run, META, CONFIG)
    for each in rows:
        write(run, each)
        mirror.record(each)
    mirror.finish(reason)


def leet(folder, *options):
    command = [BIN / "wandb", "leet", "inspect", *options, "--json", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = [done.stdout] if "--summary" in options else done.stdout.splitlines()
    return [json.loads(line) for line in lines]
