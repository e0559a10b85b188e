"""The verbs that run a net: fit, validate, test, predict.

resnet-cli fit --config configs/digits.yaml --model.net.depth 56 --model.net.shortcut none
"""

import csv
import json
import logging
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning.utilities import rank_zero_only
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_resnet.config import ResNetCLI
from lightning_resnet.errors import Diverged, UserError, one_line
from lightning_resnet.runtime.checkpoint import AtomicCheckpointIO, Checkpoints, load_checkpoint
from lightning_resnet.runtime.progress import Progress
from lightning_resnet.runtime.provenance import code, hardware, versions
from lightning_resnet.runtime.recorder import Recorder
from lightning_resnet.runtime.rundir import RunDir, decisive, differences, run_id, write_json
from lightning_resnet.runtime.status import cores, read_json, status
from lightning_resnet.task import check_same_tensors


class _Finished(Exception):
    """The run is done already."""


class _CLI(ResNetCLI):
    """Finds the run directory as soon as the configuration is known: before anything heavy is built."""

    def before_instantiate_classes(self) -> None:
        run = self.config.run
        config = yaml.safe_load(self.resolved)
        path = Path(run.root, run.name, run_id(config))
        if run.new and self.verb == "fit":
            k = 2
            while path.with_name(f"{path.name}-{k}").exists():
                k += 1
            path = path.with_name(f"{path.name}-{k}")
        self.rundir = RunDir(path)
        stored = read_json(path / "meta.json") or {}
        if self.verb == "fit":
            if stored and run.point and run.point != stored.get("point"):  # the sweep was edited without effect on it
                rank_zero_only(write_json)(path / "meta.json", stored | {"point": run.point})
            self._check_stored(config)
        run.threads = run.threads or stored.get("threads") or cores()
        if run.threads < 1:
            raise UserError(f"--run.threads {run.threads}: at least one")
        torch.set_num_threads(run.threads)

    def _check_stored(self, config: dict[str, Any]) -> None:
        path = self.rundir.path
        if status(path) == "finished":
            raise _Finished(path)
        if (path / "config.yaml").exists():
            stored = yaml.safe_load((path / "config.yaml").read_text())
            if differing := differences(decisive(stored), decisive(config)):
                raise UserError(
                    f"{path}/config.yaml is not this run's any more ({'; '.join(differing)}): "
                    "restore it, or add --run.new for a new run"
                )


say = rank_zero_only(partial(print, flush=True))


def main(argv: list[str]) -> int:
    """Run `argv` = [verb, options...]; returns the exit status."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)  # their greetings say nothing about the run
    # Lightning 2.6 calls torch's older name; nothing a user can do
    warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated")
    try:
        cli = _CLI(argv[0], argv[1:])
    except _Finished as e:
        print(f"run {e} is finished; nothing to do (--run.new trains a replicate)")
        return 0
    cli.trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    if cli.verb == "fit":
        return _fit(cli, argv)
    return _evaluate(cli)


def _fit(cli: _CLI, argv: list[str]) -> int:
    trainer, task, data, rundir = cli.trainer, cli.model, cli.datamodule, cli.rundir
    data.trainer = trainer
    try:
        data.setup("fit")
        facts = _describe(cli)
    except (ValueError, ZeroDivisionError) as e:  # what an optimizer or a source refuses
        raise UserError(one_line(e)) from e
    if cli.config.run.init_from:
        _init_from(task, cli.config.run.init_from)
    resume = _newest_good(rundir)
    progress = Progress()
    if trainer.is_global_zero:
        _open_rundir(cli, facts, argv)
    trainer.callbacks += [
        Recorder(rundir, progress),
        Checkpoints(rundir.checkpoints, {"id": rundir.path.name, "config": cli.resolved}),
    ]
    say(f"run {rundir.path}" + (f", continued from {resume.name}" if resume else ""))
    reason, error = "failed", None
    try:
        trainer.fit(task, datamodule=data, ckpt_path=resume)
        if "test" in data.splits:
            trainer.test(task, datamodule=data, verbose=False)
        reason = "finished"
    except SystemExit:  # how Lightning ends on Ctrl-C
        reason = "interrupted"
        raise KeyboardInterrupt from None
    except BaseException as e:
        reason, error = "diverged" if isinstance(e, Diverged) else "failed", one_line(e)
        raise
    finally:
        progress.stop()
        if trainer.is_global_zero:
            rundir.end(trainer.global_step, reason, error)
    say(_text(progress.metrics))
    return 0


def _newest_good(rundir: RunDir) -> Path | None:
    """The checkpoint to continue from; a damaged one is told and passed over."""
    for path in rundir.candidates():
        try:
            load_checkpoint(path)
            return path
        except UserError as e:
            say(f"{e}; looking for the one before it")
    return None


def _open_rundir(cli: _CLI, facts: dict[str, Any], argv: list[str]) -> None:
    rundir = cli.rundir
    rundir.claim()
    (rundir.path / "config.yaml").write_text(cli.resolved)
    if (rundir.path / "meta.json").exists():
        return
    run = cli.config.run
    meta = {"run_id": rundir.path.name, "name": run.name, "point": run.point, "threads": run.threads}
    meta |= code() | {"versions": versions(), "hardware": hardware(), "command": ["resnet-cli", *argv]}
    meta |= {"created": rundir.attempt["start"], **facts}
    write_json(rundir.path / "meta.json", meta)


def _describe(cli: _CLI) -> dict[str, Any]:
    """Check that net and data fit, and print what follows from the configuration."""
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    micro, n = data.micro_batch, len(data.splits["train"])
    outputs, macs = measure(task.net, data.input_size)
    if outputs < data.num_classes:
        raise UserError(
            f"the data has {data.num_classes} classes (labels 0 to {data.num_classes - 1}), the net {outputs} outputs: "
            f"add --model.net.num_classes {data.num_classes}"
        )
    params = sum(p.numel() for p in task.net.parameters())
    steps = n // data.batch_size
    options = cli.config.model.net.get("init_args", {})
    text = " ".join(f"{k}={options[k]}" for k in ("depth", "shortcut", "block", "norm", "init") if k in options)
    name = type(task.net).__name__
    say(f"{name} {text}: {params:,} parameters, {macs / 1e6:,.1f} M multiply-adds at {data.input_size}")
    say(
        f"{n:,} training images, {steps} steps per epoch; batch {data.batch_size} = {trainer.world_size} ranks x "
        f"{trainer.accumulate_grad_batches} accumulated x {micro}"
    )
    if micro < 16 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in task.net.modules()):
        say(f"careful: batch norm sees {micro} images per rank; below 16 its statistics are noisy")
    for group in task.configure_optimizers().param_groups:
        numel = sum(p.numel() for p in group["params"])
        say(f"weight decay {group.get('weight_decay', 0):g}: {len(group['params'])} tensors, {numel:,} parameters")
    return {
        "net": name,
        "params": params,
        "macs": macs,
        "input_size": list(data.input_size),
        "steps_per_epoch": steps,
        "epochs": trainer.max_epochs,
        "train_samples": n,
        "val_samples": len(data.splits["val"]),
        "source": type(data.source).__name__,
    }


def measure(net: nn.Module, input_size: tuple[int, int, int]) -> tuple[int, int]:
    """(number of outputs, multiply-adds of convolutions and linear layers) for one image.

    Raises:
        UserError: the net cannot take images of this size.
    """
    training = net.training
    parameter = next(net.parameters())
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            logits = net.eval()(torch.zeros(1, *input_size, dtype=parameter.dtype, device=parameter.device))
    except (RuntimeError, ValueError) as e:
        raise UserError(
            f"{type(net).__name__} cannot take images of {input_size} ({one_line(e)}): set --data.size"
        ) from e
    finally:
        net.train(training)
    return logits.shape[1], counter.get_total_flops() // 2


def _init_from(task: nn.Module, path: str) -> None:
    """Take the weights; a head for other classes stays new."""
    theirs, ours = load_checkpoint(path)["state_dict"], task.state_dict()
    head = [n for n, m in task.net.named_modules() if isinstance(m, nn.Linear)][-1:]
    for name in [f"net.{h}.{kind}" for h in head for kind in ("weight", "bias")]:
        if name in theirs and name in ours and theirs[name].shape != ours[name].shape:
            say(f"{name} is new: {tuple(ours[name].shape)}, {tuple(theirs[name].shape)} in {path}")
            theirs[name] = ours[name]
    _load(task, theirs)


def _load(task: nn.Module, state: dict[str, torch.Tensor]) -> None:
    check_same_tensors(task.state_dict(), state)
    task.load_state_dict(state)


def _evaluate(cli: _CLI) -> int:
    path = cli.config.ckpt_path or _newest_good(cli.rundir)
    if path is None:
        raise UserError(f"run {cli.rundir.path} has no checkpoint: train it with `resnet-cli fit`, or give --ckpt_path")
    _load(cli.model, load_checkpoint(path)["state_dict"])
    if cli.verb == "predict":
        return _predict(cli)
    evaluate = cli.trainer.validate if cli.verb == "validate" else cli.trainer.test
    evaluate(cli.model, datamodule=cli.datamodule, verbose=False)
    say(json.dumps({"checkpoint": str(path), **cli.model.metrics}, indent=1))
    return 0


def _predict(cli: _CLI) -> int:
    if cli.trainer.world_size > 1:
        raise UserError("predict runs on one device: add --trainer.devices 1")
    batches = cli.trainer.predict(cli.model, datamodule=cli.datamodule)
    images, classes = cli.datamodule.splits["val"], cli.datamodule.source.classes
    probability, predicted = torch.cat(batches)[:, : len(classes)].max(1)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["sample", "label", "predicted", "probability"])
    for row in zip(images.ids, images.labels, predicted.tolist(), probability.tolist(), strict=False):
        writer.writerow([row[0], classes[row[1]], classes[row[2]], f"{row[3]:.4f}"])
    return 0


def _text(metrics: dict[str, float]) -> str:
    return "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k.split("/")[0] in ("val", "train_eval", "test"))
