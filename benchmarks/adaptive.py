"""Points found by bayes against points drawn at random, and the steps that hyperband saves.

python benchmarks/adaptive.py FOLDER [SEEDS]

Each sweep has 40 points and runs as two processes, each on a core of its own. Of a sweep by bayes
one process is killed (SIGKILL) once 12 points are done, and started again. FOLDER gets the runs;
a second call continues.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from lightning_resnet.sweeps.points import read
from lightning_resnet.sweeps.search import refresh
from lightning_resnet.sweeps.state import best

POINTS = 40
KILLED_AFTER = 12  # points
RESULTS = Path("results.jsonl")
DECAYS = {"distribution": "log_uniform_values", "min": 1e-6, "max": 0.1}
SPACE = {
    "model.optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0},
    "model.optimizer.momentum": {"min": 0.0, "max": 0.99},
    "model.optimizer.weight_decay": DECAYS,
}


def sweep(name: str, seed: int, epochs: int, **top: object) -> Path:
    """Write a sweep's YAML, and return its path."""
    flags = [f"--trainer.max_epochs={epochs}", "--model.net.depth=8", "--run.keep=none"]
    content = {
        "name": name,
        "run_cap": POINTS,
        "metric": {"name": "val/loss", "goal": "minimize"},
        "command": ["resnet-cli", "fit", "--config", "digits", *flags],
        "parameters": SPACE | {"seed_everything": {"value": seed}},
        **top,
    }
    content["command"] += ["--config", "${args_json_file}"]
    file = Path(f"{name}.yaml")
    file.write_text(yaml.safe_dump(content))
    return file


def states(file: Path, root: str) -> list[str]:
    """Return the states of the points that there are."""
    found = read(file)
    refresh(found, Path(root))
    return [point.state for point in found.points]


def run(file: Path, root: str, is_killed: bool = False) -> None:
    """Run a sweep as two processes on a core each."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    command = [sys.executable, "-m", "lightning_resnet", "sweep", str(file), "--local"]
    command += ["--root", root]
    with open(f"{file.stem}.log", "a") as log:
        workers = [start(command, core, log) for core in cores]
        if is_killed and states(file, root).count("finished") < KILLED_AFTER:
            while states(file, root).count("finished") < KILLED_AFTER:
                if all(worker.poll() is not None for worker in workers):
                    sys.exit(f"both workers have ended early: see {file.stem}.log")
                time.sleep(0.5)
            workers[0].kill()
            workers[0].wait()
            workers.append(start(command, cores[0], log))
        for worker in workers:
            worker.wait()
        subprocess.run(command, stdout=log, stderr=log, check=True)  # what was left, if anything


def start(command: list[str], core: int, log: object) -> subprocess.Popen:
    """Start a worker that uses one core."""
    return subprocess.Popen(["taskset", "-c", str(core), *command], stdout=log, stderr=log)


def result(file: Path, root: str, seed: int, kind: str) -> dict[str, object]:
    """Return what came out of a sweep."""
    found = read(file)
    refresh(found, Path(root))
    ranked = best(found, POINTS)
    top, loss = ranked[0]
    rows = [value for _, value in ranked]
    steps = [step_of(point.run) for point in found.points]
    keys = {point.key for point in found.points}
    folders = [path for path in Path(root, found.name).glob("*/attempts")]
    runs = {path.parent.resolve() for path in folders}
    return {
        "kind": kind,
        "seed": seed,
        "loss": loss,
        "error": min(error_of(point.run) for point in found.points),
        "lr": top.parameters["model.optimizer.lr"],
        "within_twice": sum(value <= 2 * loss for value in rows),
        "median": sorted(rows)[len(rows) // 2],
        "steps": sum(steps),
        "points": len(keys),
        "runs": len(runs),
    }


def step_of(run: Path) -> int:
    """Return the optimizer steps of a run."""
    return max(json.loads(f.read_text())["last_step"] for f in run.glob("attempts/*.json"))


def error_of(run: Path) -> float:
    """Return the last validation error (%) of a run, 100 where there is none."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [row["val/acc1"] for row in rows if row.get("val/acc1") is not None]
    return 100 * (1 - found[-1]) if found else 100.0


def main() -> None:
    """Run what is not finished, and append a row of results per sweep to results.jsonl."""
    os.chdir(sys.argv[1])
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    recorded = {(row["kind"], row["seed"]) for row in map(json.loads, lines)}
    seeds = range(int(sys.argv[2]) if len(sys.argv) > 2 else 5)
    early = {"type": "hyperband", "min_iter": 1, "eta": 3}
    for seed in seeds:
        for kind in ("bayes", "random"):
            if (kind, seed) in recorded:
                continue
            file = sweep(f"{kind}{seed}", seed, 2, method=kind)
            run(file, "runs", kind == "bayes")
            append(result(file, "runs", seed, kind))
    for seed in seeds:
        for kind, more in (("full", {}), ("hyperband", {"early_terminate": early})):
            if (kind, seed) in recorded:
                continue
            file = sweep(f"long{seed}", seed, 9, method="random", **more)
            run(file, kind)
            append(result(file, kind, seed, kind))


def append(row: dict[str, object]) -> None:
    """Append a row to results.jsonl, and print it."""
    line = json.dumps(row)
    print(line, flush=True)
    with RESULTS.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
