"""The verbs that use a trained net: validate, test, predict.

resnet-cli validate RUN
resnet-cli validate --config configs/digits.yaml --ckpt_path runs/digits/RUN/checkpoints/best.ckpt
"""

import csv
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lightning_resnet.arguments import value_of
from lightning_resnet.config.recipe import Config, Experiment, parse
from lightning_resnet.config.summary import say
from lightning_resnet.config.trust import Foreign
from lightning_resnet.errors import UserError, csv_cell
from lightning_resnet.printing import as_json
from lightning_resnet.progress import Meter
from lightning_resnet.runs.checkpoint import classes_in, newest_good
from lightning_resnet.runs.directory import RunDir
from lightning_resnet.runs.identity import read_recipe
from lightning_resnet.runs.listing import unfinished
from lightning_resnet.runs.names import is_hub_name
from lightning_resnet.training.state_dict import load_weights, net_flags
from lightning_resnet.weights.classes import align
from lightning_resnet.weights.trained import config_in, read_weights, tell_apart


def parse_of_run(verb: str, words: list[str]) -> Config | None:
    """Parse a command line that names a run or checkpoint, and no recipe: the run has one.

    Args:
        verb: validate | test | predict, or another.
        words: the command line after the verb, with the run as value of `--ckpt_path`.

    Returns:
        The configuration; None if the command line itself tells the recipe.

    Raises:
        UserError: the word names no run, or the recipe names code of others.
    """
    word = value_of("--ckpt_path", words)
    flags = [flag.partition("=")[0] for flag in words]
    if verb == "fit" or not word or {"--config", "-c", "--model", "--model.net"} & {*flags}:
        return None
    try:
        path, checkpoint = read_weights(word, value_of("--run.root", words) or "runs")
    except UserError as e:
        cure = "; the run comes first: resnet-cli predict RUN IMAGE..." if verb == "predict" else ""
        raise UserError(f"{e}{cure}") from e
    told = read_recipe(config_in(checkpoint, path), path)
    foreign = Foreign(told, path, trust="--trust" in words)
    own = [flag for flag in words if flag != "--trust"]
    weights = word if is_hub_name(word) else path  # a hub's file does not tell the net by itself
    return parse(verb, [*own, f"--ckpt_path={weights}"], foreign)


def validate(experiment: Experiment, rundir: RunDir) -> int:
    """Run the verb on the given checkpoint, or the run's newest; return the exit status.

    Raises:
        UserError: there is no checkpoint, or its weights are of another net.
    """
    config = experiment.config
    task = experiment.task
    data = experiment.data
    path = config.values.ckpt_path
    if path:
        path, checkpoint = read_weights(path, config.run.root)
    else:
        # the standard output is for the result
        warn = partial(say, file=sys.stderr)
        path, checkpoint = newest_good(
            rundir.candidates(), warn, "restore one, or give --ckpt_path"
        )
    if path is None:
        if rundir.path.exists():
            raise UserError(
                f"run {rundir.path} has no checkpoint: train it with `resnet-cli fit`, or give "
                "--ckpt_path"
            )
        raise UserError(
            f"there is no run {rundir.path}, so it has no checkpoint: give the flags of the fit "
            "that you mean, --run.name and --run.replicate too, or its --ckpt_path"
        )
    load_weights(task, checkpoint["state_dict"], flags=net_flags(checkpoint, config.resolved))
    told = (checkpoint.get("run") or {}).get("config")
    if told:
        tell_apart(experiment, read_recipe(told, Path(path)))
    data.setup()
    names = align(data, task.net, classes_in(checkpoint))
    experiment.trainer.weights_step = checkpoint.get("global_step", 0)
    if told := unfinished(Path(path)):
        say(told, file=sys.stderr)
    if config.verb == "predict":
        return _predict(experiment, names)
    trainer = experiment.trainer
    run = trainer.validate if config.verb == "validate" else trainer.test
    run(task, datamodule=data, verbose=False)
    split = "test" if config.verb == "test" and "test" in data.splits else "val"
    say(as_json({"checkpoint": path, "n": len(data.splits[split]), **task.metrics}))
    return 0


def _predict(experiment: Experiment, names: list[str]) -> int:
    """Print the predictions of the validation images as CSV; return the exit status.

    Args:
        experiment: the experiment, with the weights of a checkpoint.
        names: names of the net's outputs.
    """
    trainer = experiment.trainer
    if trainer.world_size > 1:
        raise UserError("predict runs on one device: add --trainer.devices 1")
    trainer.callbacks.append(_Rows(names))
    trainer.predict(experiment.task, datamodule=experiment.data, return_predictions=False)
    return 0


class _Rows(Callback):
    """Writer of the predictions as CSV, batch by batch: an interruption loses nothing.

    Args:
        names: names of the net's outputs.
    """

    meter: Meter | None = None

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the header; a terminal shows the rows as progress."""
        images = trainer.datamodule.splits["val"]
        self.classes = trainer.datamodule.source.classes
        self.images = zip(images.ids, images.labels, images.files(), strict=True)
        self.meter = Meter(
            sum(trainer.num_predict_batches), "batches", show=not sys.stdout.isatty()
        )
        self.writer = csv.writer(sys.stdout, lineterminator="\n")
        self.writer.writerow(["sample", "label", "predicted", "probability", "picture"])

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Tensor, *_: Any
    ) -> None:
        """Write a row for each image of the batch."""
        probability, predicted = outputs.max(1)
        for label, value in zip(predicted.tolist(), probability.tolist(), strict=True):
            sample, truth, file = next(self.images)
            names = map(csv_cell, (self.classes[truth], self.names[label]))
            self.writer.writerow([sample, *names, f"{value:.4f}", csv_cell(file)])
        sys.stdout.flush()
        self.meter.update(1)

    def on_predict_end(self, *args: Any) -> None:
        """Close the progress line."""
        if self.meter:
            self.meter.close()

    on_exception = on_predict_end
