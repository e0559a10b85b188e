"""Workers of a search whose runs are made by hand, in place of trainings."""

import math
import os
import sys
import time
from pathlib import Path

from helpers.stand_in import write
from lightning_resnet.runs.status import process_name
from lightning_resnet.sweeps.points import read
from lightning_resnet.sweeps.search import take

LR = {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0}
SPACE = {"lr": LR, "kind": {"values": ["a", "b"]}, "wd": {"value": 0.1}}
METRIC = {"name": "val/acc1", "goal": "maximize"}


def bayes(sweep_file, parameters=None, **top):
    """A sweep of 12 points by bayes."""
    given = {"method": "bayes", "run_cap": 12, "metric": METRIC} | top
    return sweep_file(parameters or SPACE, **given)


def accuracy(parameters):
    """The best rate is 0.01, and b is worse."""
    return 0.9 - 0.1 * abs(math.log10(parameters["lr"]) + 2) - 0.2 * (parameters["kind"] == "b")


def begin(point, root="runs", name="s"):
    """Write what a run that has just begun has."""
    run = Path(root, name, point.key)
    (run / "attempts").mkdir(parents=True, exist_ok=True)
    write(run / "meta.json", {"point": point.key})
    number = 1 + len([*run.glob("attempts/*.json")])
    attempt = {"reason": "running", "heartbeat": time.time(), "process": process_name()}
    write(run / f"attempts/{number}.json", attempt)
    return run


def end(run, value, reason="finished", evaluations=1):
    """Write what a run that is over has, and return its folder."""
    rows = [f'{{"step": {n + 1}, "val/acc1": {value}}}\n' for n in range(evaluations)]
    (run / "metrics.jsonl").write_text("".join(rows))
    number = len([*run.glob("attempts/*.json")])
    write(run / f"attempts/{number}.json", {"reason": reason, "last_step": evaluations})
    return run


def work(file, most=sys.maxsize, root="runs"):
    """Take points and run them, each by a new reader; return their parameters in order."""
    done = []
    while len(done) < most and (taken := take(read(file), Path(root))):
        point = taken[1]
        end(begin(point, root, read(file).name), accuracy(point.parameters))
        done.append(point.parameters)
    return done


if __name__ == "__main__":  # a worker that is killed in the middle of its last point
    file, most = sys.argv[1:]
    work(file, int(most))
    taken = take(read(file), Path("runs"))
    begin(taken[1])
    print(taken[1].key, os.getpid(), flush=True)
    time.sleep(60)
