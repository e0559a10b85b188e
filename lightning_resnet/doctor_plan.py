"""What a recipe asks of this machine: checked, and its time forecast from 20 steps."""

import time
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch.nn import functional as F

from lightning_resnet.config import ResNetCLI
from lightning_resnet.data import machine
from lightning_resnet.describe import measure
from lightning_resnet.doctor import GB, Finding
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.models.ghost import batch_norms
from lightning_resnet.options import local_devices
from lightning_resnet.runtime.status import cores
from lightning_resnet.trained import build, hush

WARM, STEPS, LIMIT_S = 3, 20, 60.0


class _Configured(ResNetCLI):
    """Goes no further than the configuration."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass


def plan(recipe: list[str]) -> Iterator[Finding]:
    """Data, net, batches, memory and time of a recipe; the first that fails ends it."""
    hush()
    try:
        config = _Configured("fit", recipe).config
        ranks = local_devices(config.trainer) * config.trainer.num_nodes
        cli = build(recipe)
        cli.datamodule.trainer = cli.trainer
        cli.datamodule.setup("fit")
        for finding in chain(_data(cli), _net(cli), _batches(cli, ranks), _time(cli, ranks)):
            yield finding
            if finding.level == "fails":
                return
    except (UserError, ValueError, ZeroDivisionError) as e:
        yield Finding("fails", "recipe", *_halves(one_line(e)))


def _halves(message: str) -> tuple[str, str]:
    """What, and the cure after its colon."""
    what, _, cure = message.rpartition(": ")
    return (what, cure) if what else (message, "")


def _data(cli: ResNetCLI) -> Iterator[Finding]:
    data = cli.datamodule
    counts = ", ".join(f"{len(images):,} {name}" for name, images in data.splits.items() if name != "train_eval")
    yield Finding("ok", "recipe's data", f"{type(data.source).__name__}: {counts} images, {data.num_classes} classes")
    able = machine.workers(1)
    if isinstance(data.workers, int) and data.workers > able:
        text = f"--data.workers {data.workers}, but {able} cores for them"
        yield Finding("careful", "workers", text, "leave it at auto, or ask for more cores")
    if files := {images.file.path: images.file.size for images in data.splits.values() if images.file}:
        size, room = sum(files.values()), machine.memory()
        text = f"{size / GB:.2f} GB of {room / GB:.1f} GB memory"
        late = "every epoch reads the disk: --data.order pages, --data.stage DIR, or more memory"
        yield Finding("careful" if size > room else "ok", ".beton files", text, late * (size > room))


def _net(cli: ResNetCLI) -> Iterator[Finding]:
    data, net = cli.datamodule, cli.model.net
    outputs, macs = measure(net, data.input_size)
    params = sum(p.numel() for p in net.parameters())
    text = f"{type(net).__name__}, {params:,} parameters, {macs / 1e6:,.1f} M multiply-adds at {data.input_size}"
    if outputs < data.num_classes:
        cure = f"--model.net.num_classes {data.num_classes}"
        yield Finding("fails", "net", f"{text}; {outputs} outputs for {data.num_classes} classes", cure)
    else:
        yield Finding("ok", "net", text)


def _batches(cli: ResNetCLI, ranks: int) -> Iterator[Finding]:
    data, trainer, task = cli.datamodule, cli.trainer, cli.model
    accumulated, epochs = trainer.accumulate_grad_batches, trainer.max_epochs
    micro, rest = divmod(data.batch_size, ranks * accumulated)
    text = f"{data.batch_size} = {ranks} ranks x {accumulated} accumulated x {micro}"
    if rest or not micro:
        yield Finding("fails", "batch", text, f"a multiple of {ranks * accumulated}: --data.batch_size")
        return
    steps = len(data.splits["train"]) // data.batch_size
    yield Finding("ok" if steps else "fails", "steps", f"{steps:,} per epoch, {steps * epochs:,} in {epochs} epochs")
    if batch_norms(task.net):
        seen = task.bn_batch or micro
        cure = "a larger --data.batch_size, --trainer.sync_batchnorm true, or fewer ranks" if seen < 16 else ""
        yield Finding("careful" if cure else "ok", "batch norm", f"sees {seen} images at a time; batch {text}", cure)


def _time(cli: ResNetCLI, ranks: int) -> Iterator[Finding]:
    """Epochs and device-hours from a trial of one rank's work."""
    data, trainer = cli.datamodule, cli.trainer
    device = "cuda" if torch.cuda.is_available() and cli.config.trainer.accelerator != "cpu" else "cpu"
    seconds, evaluation, peak = trial(cli, ranks, device)
    steps, epochs = len(data.splits["train"]) // data.batch_size, trainer.max_epochs
    epoch = steps * trainer.accumulate_grad_batches * seconds + evaluation
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    micro = data.batch_size // ranks // trainer.accumulate_grad_batches
    yield Finding("ok", "trial", f"{micro / seconds:,.0f} images/s with batches of {micro} on one {name}; {peak}")
    hours = epoch * epochs * ranks / 3600
    unit = "GPU-hours" if device == "cuda" else "rank-hours on this CPU"
    text = f"{epoch:,.1f} s an epoch, {epoch * epochs / 3600:.2f} h for {epochs} epochs, {hours:.2f} {unit}"
    yield Finding("ok", "forecast", text + (f" on {ranks} ranks, if they do not wait for one another" * (ranks > 1)))


def trial(cli: ResNetCLI, ranks: int, device: str) -> tuple[float, float, str]:
    """Seconds of a forward and backward pass with its batch, of an evaluation, and what memory they took."""
    data, task = cli.datamodule, cli.model.to(device).train()
    torch.set_num_threads(cli.config.run.threads or cores())
    for ours, its in ((task.mean, data.source.mean), (task.std, data.source.std)):
        ours.copy_(torch.tensor(its).view(3, 1, 1) * 255)
    whole, data.batch_size = data.batch_size, data.batch_size // ranks
    try:
        optimizer = task.configure_optimizers()
        batches = iter(data.train_dataloader())
        marks = [time.perf_counter()]
        for images, labels in islice(batches, WARM + STEPS):
            loss = F.cross_entropy(task(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            _wait(device)
            marks.append(time.perf_counter())
            if marks[-1] - marks[0] > LIMIT_S:
                break
        batches.close()
        laps = [b - a for a, b in zip(marks, marks[1:], strict=False)]
        counted = laps[WARM:] or laps
        return sum(counted) / len(counted), _evaluation(data, task.eval(), device) / ranks, _peak(device)
    finally:
        data.batch_size = whole


def _evaluation(data: Any, task: Any, device: str) -> float:
    """Seconds for the validation and clean training images, from a few batches."""
    total = 0.0
    for name, loader in zip(data.eval_names, data.val_dataloader(), strict=True):
        seen, batches, start = 0, iter(loader), time.perf_counter()
        with torch.inference_mode():
            for images, _ in islice(batches, 5):
                task(images.to(device))
                seen += len(images)
        _wait(device)
        batches.close()
        total += (time.perf_counter() - start) * len(data.splits[name]) / seen
    return total


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak(device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.max_memory_allocated() / GB:.2f} GB of the GPU's memory"
    import resource

    return f"the process took {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
