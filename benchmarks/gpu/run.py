#!/usr/bin/env python3
r"""Show on a machine with a GPU what cannot be shown without one: results, speed, trainings.

python benchmarks/gpu/run.py --data FOLDER --out FOLDER --minutes 9
python benchmarks/gpu/run.py --data FOLDER --out FOLDER --parts checks,small

The folder of the data holds cifar_train.beton and cifar_val.beton. `make gpu-kit CIFAR=FOLDER`
packs them with this script and with what a bare machine lacks; `env.sh` of the kit sets the paths.
The parts run in order of value. Each has a limit, and its rows are written to OUT/rows.jsonl as
they come. Another call with the same OUT goes on from there. `--cpu` rehearses all of it with small
nets: nothing is captured there, and no row of it is a measurement.
"""

import argparse
import contextlib
import faulthandler
import fcntl
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
sys.path.insert(0, str(PROJECT))
PARTS = ("checks", "small", "compile", "compiled", "packed", "large", "fed", "paper")
# Keys of rows that tell of something that was not measured.
UNDONE = {"failed", "reason", "ended"}
# Seconds after which a part is ended.
LIMITS = {
    "checks": 150,
    "small": 120,
    "compile": 85,
    "compiled": 45,
    "packed": 60,
    "large": 120,
    "fed": 60,
    "paper": 540,
}


class Bench:
    """What all parts share: the options, and where rows go."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.out = Path(args.out).resolve()
        self.work = self.out / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.rows = self.out / "rows.jsonl"
        self.begin = time.monotonic()

    def write(self, part: str, name: str, **values: object) -> None:
        """Append a row to the file, and print the row."""
        row = {"part": part, "name": name, "cpu": self.args.cpu, **values}
        with self.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shown = ", ".join(f"{key} {value}" for key, value in values.items())
        print(f"[{time.monotonic() - self.begin:6.1f}] {part} {name}: {shown}", flush=True)

    def written(self) -> set[tuple[str, str]]:
        """Return part and name of the measurements of earlier calls."""
        if not self.rows.exists():
            return set()
        rows = map(json.loads, self.rows.read_text().splitlines())
        return {(row["part"], row["name"]) for row in rows if not UNDONE & row.keys()}

    def left(self) -> float:
        """Return the seconds that are left of `--minutes`."""
        return 60 * self.args.minutes - (time.monotonic() - self.begin)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other parts that measure off the GPU."""
        with (self.out / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # -- trainings -----------------------------------------------------------------------------

    def common(self) -> list[str]:
        """Return the options of all trainings here."""
        accelerator = "cpu" if self.args.cpu else "gpu"
        return ["--trainer.accelerator", accelerator, "--wandb.mode", "disabled"]

    def cifar(self, *options: str) -> list[str]:
        """Return a command that trains on the CIFAR images of the kit."""
        data = Path(self.args.data).resolve()
        source = [
            *("--data.source", "BetonFiles"),
            *("--data.source.train", str(data / "cifar_train.beton")),
            *("--data.source.val", str(data / "cifar_val.beton")),
        ]
        recipe = ["--config", str(PROJECT / "configs/cifar10.yaml"), "--data.loader", "device"]
        return ["fit", *recipe, *source, *self.common(), *options]

    def compiled(self) -> list[str]:
        """Return the names of the compiled trainings; a rehearsal has one, uncompiled."""
        return [*COMPILED][: 1 if self.args.cpu else None]

    def depth(self, layers: str) -> list[str]:
        """Return the option for a net of so many layers; a rehearsal has 8."""
        return ["--model.net.depth", "8" if self.args.cpu else layers]

    def steps(self, n: int) -> list[str]:
        """Return the options of a training of one epoch of `n` steps, a few for a rehearsal."""
        n = 8 if self.args.cpu else n
        batch = ["--data.batch_size", "16"] if self.args.cpu else []
        return [
            *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", str(n)),
            *("--trainer.limit_val_batches", "2", "--data.train_eval_samples", "256", *batch),
        ]

    def fit(self, name: str, command: list[str]) -> tuple[Path, str]:
        """Train in this process; return the run directory and what the training printed.

        Raises:
            RuntimeError: the training failed.
        """
        from lightning_resnet.cli.main import main

        root = self.work / name
        shutil.rmtree(root, ignore_errors=True)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main([*command, "--run.root", str(root)])
        runs = runs_in(root, "*/*")
        if code or not runs:
            raise RuntimeError(f"exit {code}: {said.getvalue()[-400:]}")
        return runs[0], said.getvalue()


def runs_in(folder: Path, pattern: str) -> list[Path]:
    """Return the run directories that match; readable links to them are skipped."""
    found = [meta.parent for meta in sorted(folder.glob(f"{pattern}/meta.json"))]
    return [run for run in found if not run.is_symlink()]


def rates(run: Path) -> list[float]:
    """Return images/s of each log interval of a run, without those before the steps are captured.

    The first intervals compile, choose kernels and capture.
    """
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found = [row["perf/images_per_s"] for row in rows if "perf/images_per_s" in row]
    return found[len(found) // 3 :]


def weights(run: Path) -> dict:
    """Return the weights of a run's newest checkpoint."""
    import torch

    file = run / "checkpoints/last.ckpt"
    return torch.load(file, map_location="cpu", weights_only=False)["state_dict"]


def graph_line(said: str) -> str:
    """Return what a training said about its graph."""
    return next((line for line in said.splitlines() if line.startswith("graph:")), "")


# -- checks ------------------------------------------------------------------------------------

# 164 epochs are the paper's 64,000 steps.
PAPER = "A-20-164;none-20-164;A-56-164;none-56-164"
BF16 = ["--trainer.precision", "bf16-mixed"]
CASES = {
    "plain": [],
    "bf16": BF16,
    "accumulated": ["--trainer.accumulate_grad_batches", "4"],
    "average": ["--model.ema", "{decay: 0.9, every: 2, start: 0.2}"],
    "clipped": ["--trainer.gradient_clip_val", "0.1"],
    "mixed": ["--model.mix", "{mixup: 0.2, cutmix: 1.0}", "--model.label_smoothing", "0.1"],
    "bce": ["--model.loss", "bce", "--model.mix", "{mixup: 0.5}"],
    "norms": ["--model.precise_bn", "2", "--model.bn_batch", "32"],
    "adamw": ["--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "0.01"],
    "rmsprop": ["--model.optimizer", "torch.optim.RMSprop", "--model.optimizer.lr", "0.01"],
    "watched": ["--trainer.callbacks+=GradientNorms", "--trainer.log_every_n_steps", "7"],
    "threads": ["--data.loader", "ffcv", "--data.workers", "4"],
    "dropout": ["--model.net", "gpu_nets.Noisy", "--model.graph", "true"],
    "compiled": ["--model.compile", "true", "--trainer.precision", "bf16-mixed"],
    "blocks": ["--model.compile", "blocks", "--trainer.precision", "bf16-mixed"],
    "ddp": ["--trainer.strategy", "ddp", "--trainer.devices", "1", "--model.graph", "true"],
}


def checks(bench: Bench, only: str) -> None:
    """Compare captured with eager trainings, bitwise, under deterministic algorithms."""
    import torch

    done = bench.written()
    sys.path.insert(0, str(HERE))
    base = [*bench.steps(40), "--trainer.deterministic", "true"]
    for i, (case, options) in enumerate(CASES.items()):
        if i % 4 != int(only) or ("checks", case) in done or (bench.args.cpu and i > 3):
            continue
        if case != "dropout":
            options = [*bench.depth("20"), *options]
        try:
            run, said = bench.fit(f"{case}-graph", bench.cifar(*base, *options))
            line = graph_line(said)
            eager = [*options, "--model.graph", "false"]
            other, _ = bench.fit(f"{case}-eager", bench.cifar(*base, *eager))
            ours = weights(run)
            theirs = weights(other)
            equal = all(torch.equal(ours[k], theirs[k]) for k in theirs)
            gap = max((ours[k].double() - theirs[k].double()).abs().max().item() for k in theirs)
            bench.write("checks", case, bitwise=equal, gap=gap, graph=line or "on")
        except Exception as e:  # noqa: BLE001 -- the other cases are worth a row too
            bench.write("checks", case, failed=repr(e)[-500:])


def check_others(bench: Bench) -> None:
    """Try what is not a comparison: nets that cannot be captured, modes that failed, a stop."""
    import torch

    sys.path.insert(0, str(HERE))
    others = {
        "reads the device": ["--model.net", "gpu_nets.Reading", "--model.graph", "true"],
        "reduce-overhead": ["--model.compile", "reduce-overhead", *bench.depth("20")],
        "reduce-overhead alone": [
            *("--model.compile", "reduce-overhead", "--model.graph", "false"),
            *("--model.net.depth", "8"),
        ],
        "fp16": ["--trainer.precision", "16-mixed", "--model.net.depth", "8"],
        "profiler": ["--trainer.profiler", "simple", "--model.net.depth", "8"],
    }
    for name, options in others.items():
        try:
            run, said = bench.fit("other", bench.cifar(*bench.steps(40), *options))
            finite = all(t.isfinite().all() for t in weights(run).values() if t.is_floating_point())
            bench.write("checks", name, ended="well", finite=finite, graph=graph_line(said) or "on")
        except Exception as e:  # noqa: BLE001 -- as above
            bench.write("checks", name, failed=repr(e)[-500:])
        if bench.args.cpu:
            break
    if not bench.args.cpu:
        _check_stop(bench)
    torch.cuda.empty_cache()


def _check_stop(bench: Bench) -> None:
    """Stop a training by a signal, continue it, and compare with one that was not stopped."""
    import torch

    command = bench.cifar(*bench.depth("20"), "--trainer.deterministic", "true")
    command += ["--trainer.max_epochs", "3", "--data.train_eval_samples", "256"]
    run, _ = bench.fit("stop-none", command)
    root = bench.work / "stop"
    start = [sys.executable, "-m", "lightning_resnet", *command, "--run.root", str(root)]
    process = subprocess.Popen(
        start, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    for _ in range(300):
        time.sleep(0.1)
        found = [*root.glob("*/*/metrics.jsonl")]
        if found and '"step": 500' in found[0].read_text():
            break
    process.send_signal(signal.SIGTERM)
    try:
        first = process.wait(60)
    finally:
        process.kill()
    second = subprocess.run(start, cwd=PROJECT, capture_output=True, timeout=90).returncode
    [stopped] = runs_in(root, "*/*")
    ours = weights(stopped)
    equal = all(torch.equal(t, ours[k]) for k, t in weights(run).items())
    attempts = len([*(stopped / "attempts").glob("*.json")])
    bench.write("checks", "stop", bitwise=equal, codes=[first, second], attempts=attempts)


# -- speed -------------------------------------------------------------------------------------

SPEEDS = {
    "20 fp32 eager": ["20", "--model.graph", "false"],
    "20 fp32": ["20"],
    "20 bf16": ["20", *BF16],
    "56 fp32 eager": ["56", "--model.graph", "false"],
    "56 fp32": ["56"],
    "110 fp32 eager": ["110", "--model.graph", "false"],
    "110 fp32": ["110"],
}
# What is compiled first, all at the same time, so that the measured trainings find it on the disk.
COMPILED = {
    "20 bf16 compiled": ["20", *BF16, "--model.compile", "true"],
    "56 bf16 compiled": ["56", *BF16, "--model.compile", "true"],
    "56 bf16 blocks": ["56", *BF16, "--model.compile", "blocks"],
    "110 bf16 blocks": ["110", *BF16, "--model.compile", "blocks"],
}


def speed(bench: Bench, name: str, options: list[str], steps: int) -> None:
    """Measure a training of a CIFAR net, batch 128."""
    depth, *options = options
    options += [*bench.depth(depth), "--trainer.log_every_n_steps", "20"]
    if bench.args.cpu:
        options += ["--model.compile", "false"]
    try:
        with bench.alone() if steps > 60 else contextlib.nullcontext():
            start = time.monotonic()
            folder = f"speed-{name.replace(' ', '-')}"
            run, said = bench.fit(folder, bench.cifar(*bench.steps(steps), *options))
            seconds = time.monotonic() - start
        found = rates(run)
        bench.write(
            *("small" if steps > 60 else "compile", name),
            images_per_s=round(statistics.median(found)),
            lowest=round(min(found)),
            highest=round(max(found)),
            n=len(found),
            seconds=round(seconds, 1),
            graph=graph_line(said) or "on",
        )
    except Exception as e:  # noqa: BLE001 -- the other trainings are worth a row too
        bench.write("small" if steps > 60 else "compile", name, failed=repr(e)[-500:])


def small(bench: Bench) -> None:
    """Measure trainings of the CIFAR nets, eager and captured."""
    done = bench.written()
    for name, options in SPEEDS.items():
        if ("small", name) not in done:
            speed(bench, name, options, steps=120 if "eager" in name else 380)
        if bench.args.cpu:
            break


def compile_one(bench: Bench, name: str) -> None:
    """Compile a net and train a few steps, for the cache of the compiler."""
    speed(bench, name, COMPILED[name], steps=60)


def compiled_one(bench: Bench, name: str) -> None:
    """Measure a training of a compiled net, which an earlier part has compiled."""
    if ("small", name) not in bench.written():
        speed(bench, name, COMPILED[name], steps=380)


def packed(bench: Bench) -> None:
    """Measure four trainings at a time on one GPU; their rates add up."""
    count = 2 if bench.args.cpu else 4
    options = [*bench.depth("20"), "--trainer.log_every_n_steps", "20"]
    options += [*bench.steps(380), "--trainer.max_epochs", "1" if bench.args.cpu else "4"]
    processes = []
    for i in range(count):
        root = bench.work / f"packed-{i}"
        shutil.rmtree(root, ignore_errors=True)
        command = bench.cifar(*options, "--run.root", str(root))
        start = [sys.executable, "-m", "lightning_resnet", *command]
        processes.append(subprocess.Popen(start, cwd=PROJECT, stdout=subprocess.DEVNULL))
    codes = [process.wait() for process in processes]
    medians = []
    for run in runs_in(bench.work, "packed-*/*/*"):
        medians.append(statistics.median(rates(run)))
    bench.write(
        *("packed", f"{count} x 20 fp32"),
        total_images_per_s=round(sum(medians)),
        each=[round(m) for m in medians],
        codes=codes,
    )


def large(bench: Bench, again: bool) -> None:
    """Measure ResNet-50 at 224 pixels in bf16, and how long its blocks take to compile."""
    import torch
    import torchvision

    from lightning_resnet import ImageNetResNet
    from lightning_resnet.bench.step import Arm

    cpu = bench.args.cpu
    device = torch.device("cpu" if cpu else "cuda")
    torch.backends.cudnn.benchmark = True
    size, batch, steps, turns = (32, 4, 1, 1) if cpu else (224, 256, 10, 2 if again else 5)
    layers = 18 if cpu else 50
    nets = {
        "ours": (ImageNetResNet(layers), None),
        "torchvision": (getattr(torchvision.models, f"resnet{layers}")(), None),
        "ours, blocks compiled": (ImageNetResNet(layers), None if cpu else "blocks"),
    }
    arms = {}
    for name, (net, mode) in nets.items():
        start = time.monotonic()
        with contextlib.nullcontext() if mode else bench.alone():
            arms[name] = Arm(net, size, batch, device, "bf16", mode)
        first = round(time.monotonic() - start, 1)
        if mode:
            cache = "disk" if again else "none"
            bench.write("large", f"first steps, cache {cache}", seconds=first)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    with bench.alone():
        for turn in range(turns):
            for name in list(arms) if turn % 2 else reversed(arms):
                seconds[name].append(arms[name].run(steps))
    for name, values in seconds.items():
        bench.write(
            *("large", f"{name}, call {2 if again else 1}"),
            images_per_s=round(batch / statistics.median(values)),
            lowest=round(batch / max(values)),
            highest=round(batch / min(values)),
            n=len(values),
            peak_gb=round(arms[name].peak / 1e9, 2),
        )


def fed(bench: Bench) -> None:
    """Measure a training of ResNet-50 at 224 pixels that reads JPEGs of 32 pixels from a file."""
    cpu = bench.args.cpu
    options = ["--model.net", "ImageNetResNet", "--model.net.depth", "18" if cpu else "50", *BF16]
    options += ["--model.compile", "false" if cpu else "blocks", "--data.loader", "ffcv"]
    options += ["--data.crop", "resized", "--data.size", "32" if cpu else "224"]
    options += ["--data.workers", "2" if cpu else "14", "--trainer.log_every_n_steps", "10"]
    options += [*bench.steps(120), "--data.batch_size", "8" if cpu else "256"]
    try:
        run, said = bench.fit("fed", bench.cifar(*options))
        found = rates(run)
        bench.write(
            *("fed", "ResNet-50, 224 px, blocks compiled"),
            images_per_s=round(statistics.median(found)),
            n=len(found),
            graph=graph_line(said) or "on",
        )
    except Exception as e:  # noqa: BLE001 -- a row tells
        bench.write("fed", "ResNet-50", failed=repr(e)[-500:])


def paper(bench: Bench) -> None:
    """Train the paper's nets on the CIFAR images, groups one after the other.

    A training that the limit ends has saved a checkpoint, and the next call continues it if it
    finds the folder of the runs.
    """
    for group in bench.args.paper.split(";"):
        processes = {}
        begin = time.monotonic()
        for item in group.split(","):
            shortcut, depth, epochs = item.split("-")
            mode = "true" if depth == "20" else "blocks"
            options = [*bench.depth(depth), "--model.net.shortcut", shortcut, *BF16]
            options += ["--trainer.max_epochs", epochs, "--model.compile", mode]
            options += ["--run.root", str(bench.work / "paper")]
            options += ["--run.name", f"{shortcut}-{depth}-{epochs}"]
            if bench.args.cpu:
                options += [*bench.steps(8), "--model.compile", "false"]
            start = [sys.executable, "-m", "lightning_resnet", *bench.cifar(*options)]
            log = (bench.out / f"log-paper-{item}.txt").open("w")
            processes[item] = subprocess.Popen(
                start, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT
            )
        # Leave the processes some seconds to save.
        end = begin + max(5, bench.left() - 12)
        while time.monotonic() < end and any(p.poll() is None for p in processes.values()):
            time.sleep(0.2)
        for process in processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for item, process in processes.items():
            try:
                code = process.wait(30)
                about_run(bench, item, code, time.monotonic() - begin, len(processes))
            except Exception as e:  # noqa: BLE001 -- the other trainings are worth a row too
                process.kill()
                bench.write("paper", item, failed=repr(e)[-500:])


def about_run(bench: Bench, item: str, code: int, seconds: float, at_once: int) -> None:
    """Write the row of one training of the paper's nets."""
    [run] = runs_in(bench.work / "paper", f"{item}/*")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    evaluated = [row for row in rows if "val/acc1" in row]
    found = rates(run)
    bench.write(
        *("paper", item),
        ended=code,
        steps=rows[-1]["step"],
        test_error=round(100 * (1 - evaluated[-1]["val/acc1"]), 2),
        training_error=round(100 * (1 - evaluated[-1]["train_eval/acc1"]), 2),
        images_per_s=round(statistics.median(found)),
        from_first_row_s=round(rows[-1]["time"] - rows[0]["time"], 1),
        first_row_step=rows[0]["step"],
        seconds=round(seconds, 1),
        at_once=at_once,
    )


def child(bench: Bench, part: str) -> list[list[str]]:
    """Return the commands of the processes of a part, which run at the same time."""
    me = [sys.executable, str(HERE / "run.py"), "--data", bench.args.data, "--out", str(bench.out)]
    me += ["--paper", bench.args.paper, "--minutes", str(bench.left() / 60)]
    me += ["--cpu"] if bench.args.cpu else []
    pieces = {
        "checks": [f"checks:{i}" for i in (0, 1, 2, 3, "others")],
        "compile": [f"compile:{name}" for name in bench.compiled()],
    }
    found = [piece for one in part.split("+") for piece in pieces.get(one, [one])]
    return [[*me, "--child", piece] for piece in found]


def run_part(bench: Bench, part: str) -> None:
    """Run a part in processes of its own, and end them at its limit."""
    if part in ("packed", "large", "fed") and any(part == done for done, _ in bench.written()):
        return
    # A rehearsal shows that a part works, on a CPU as slow or as busy as it may be.
    patience = 5 if bench.args.cpu else 1
    limit = min(patience * LIMITS[part.partition("+")[0].partition(":")[0]], bench.left())
    if limit < 5:
        bench.write(part, "not run", reason="no time left")
        return
    threads = "1" if bench.args.cpu else "4"
    env = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    processes = []
    logs = []
    for i, command in enumerate(child(bench, part)):
        log = (bench.out / f"log-{part}-{i}.txt".replace(" ", "-")).open("w")
        logs.append(log)
        processes.append(
            subprocess.Popen(
                command, env=env, cwd=PROJECT, stderr=log, stdout=None, start_new_session=True
            )
        )
    end = time.monotonic() + limit
    for process in processes:
        try:
            code = process.wait(max(1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGUSR2)
            time.sleep(1)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = "limit"
        if code:
            bench.write(part, "process", ended=code)
    for log in logs:
        log.close()


def info(bench: Bench) -> None:
    """Write hardware and versions."""
    import numpy
    import pytorch_lightning
    import torch

    from lightning_resnet.data.beton import decode

    cuda = torch.cuda.is_available()
    bench.write(
        *("info", "versions"),
        gpu=torch.cuda.get_device_name() if cuda else "none",
        torch=torch.__version__,
        cudnn=torch.backends.cudnn.version() if cuda else None,
        lightning=pytorch_lightning.__version__,
        numpy=numpy.__version__,
        python=sys.version.split()[0],
        cores=os.cpu_count(),
        decoder=decode.library() is not None,
        code=os.environ.get("CODE", "unknown"),
    )


def main() -> None:
    """Run the parts, or one part's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", required=True, help="folder of cifar_train.beton and cifar_val.beton"
    )
    parser.add_argument("--out", required=True, help="folder of rows.jsonl and of the runs")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="parts with a plus between run at the same time"
    )
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument(
        "--paper",
        default=PAPER,
        help="trainings SHORTCUT-DEPTH-EPOCHS: those with a comma between at once",
    )
    parser.add_argument("--cpu", action="store_true", help="rehearse in small, without a GPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    bench = Bench(args)
    if args.child is None:
        me = [sys.executable, str(HERE / "run.py"), "--data", args.data, "--out", args.out]
        about = subprocess.Popen([*me, "--child", "info", *(["--cpu"] if args.cpu else [])])
        for part in args.parts.split(","):
            pieces = {
                "compiled": [f"compiled:{name}" for name in bench.compiled()],
                "large": ["large", "large:again"],
            }
            for piece in pieces.get(part, [part]):
                run_part(bench, piece)
        about.wait(60)
        return
    # If a process has to be ended, its log tells what it did.
    faulthandler.register(signal.SIGUSR2, file=sys.__stderr__, all_threads=True)
    part, _, rest = args.child.partition(":")
    if rest == "others":
        check_others(bench)
    elif part == "checks":
        checks(bench, rest)
    elif part == "compile":
        compile_one(bench, rest)
    elif part == "compiled":
        compiled_one(bench, rest)
    elif part == "large":
        large(bench, again=bool(rest))
    else:
        globals()[part](bench)


if __name__ == "__main__":
    main()
