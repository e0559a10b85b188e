"""Run directories made by hand."""

import json
import time


def make_run(
    path, *, depth=20, shortcut="A", seed=0, errors=(50, 10), reason="finished", rows=None, **other
):
    """A run directory as `fit` leaves it; `errors` in percent per epoch of 10 steps, or `rows` as
    they are.

    `other`: net (class_path), net_args, batch_size, sha, seconds, heartbeat, attempts (several, in
    full).
    """
    net_args = other.get("net_args", {"depth": depth, "shortcut": shortcut, "width": 16})
    config = {
        "seed_everything": seed,
        "trainer": {"max_epochs": 3, "devices": 1, "callbacks": None},
        "model": {
            "net": {
                "class_path": other.get("net", "lightning_resnet.models.CifarResNet"),
                "init_args": net_args,
            },
            "optimizer": {
                "class_path": "torch.optim.SGD",
                "init_args": {"lr": 0.02, "betas": [0.9, 0.99]},
            },
        },
        "data": {
            "source": {
                "class_path": "lightning_resnet.data.sources.digits.Digits",
                "init_args": {"root": f"{path}/data"},
            },
            "batch_size": other.get("batch_size", 64),
            "workers": seed,
        },
        "run": {"root": "runs", "name": path.parent.name, "point": str(path)},
    }
    meta = {
        **{
            "run_id": path.name,
            "git_sha": other.get("sha", "a" * 40),
            "git_dirty": False,
            "params": 272_474 + depth,
        },
        **{
            "versions": {"torch": "2.13.0", "lightning_resnet": "0.1.0"},
            "hardware": {"cpu": "x", "gpu": None},
        },
        **{"macs": 10, "steps_per_epoch": 10, "train_samples": 1437, "val_samples": 360},
    }
    if rows is None:
        rows = [row for epoch, error in enumerate(errors) for row in epoch_rows(epoch, error)]
    last = {
        "reason": reason,
        "seconds": other.get("seconds", 30.0),
        "heartbeat": other.get("heartbeat", time.time()),
    }
    attempts = other.get("attempts", [{"attempt": 1, "error": None, **last}])
    (path / "attempts").mkdir(parents=True)
    (path / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    (path / "meta.json").write_text(json.dumps(meta))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i, attempt in enumerate(attempts, 1):
        (path / "attempts" / f"{i}.json").write_text(json.dumps(attempt))
    return path


def epoch_rows(epoch, error, attempt=1):
    """A train row in the middle of an epoch of 10 steps and the validation row at its end; training
    error is half.
    """
    train = {
        "step": 10 * epoch + 5,
        "epoch": epoch,
        "attempt": attempt,
        "time": 0.0,
        "train/loss": 1.0,
        "lr": 0.02,
    }
    val = (
        {"val/loss": 1.0, "val/acc1": 1 - error / 100, "train_eval/acc1": 1 - error / 200}
        if error
        else {}
    )
    val = val or {"val/loss": None, "val/acc1": None, "train_eval/acc1": None}
    return [
        train,
        {"step": 10 * epoch + 10, "epoch": epoch, "attempt": attempt, "time": 0.0, **val},
    ]
