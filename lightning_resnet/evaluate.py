"""The verbs that use a trained net: validate, test, predict.

resnet-cli validate --config configs/digits.yaml --ckpt_path runs/digits/0123456789/checkpoints/best.ckpt
"""

import csv
import json
import sys

import torch

from lightning_resnet.config import ResNetCLI
from lightning_resnet.describe import say
from lightning_resnet.errors import UserError
from lightning_resnet.runtime.checkpoint import load_checkpoint, newest_good
from lightning_resnet.runtime.loop import install_evaluation
from lightning_resnet.runtime.rundir import RunDir
from lightning_resnet.weights import load_weights


def evaluate(cli: ResNetCLI, rundir: RunDir) -> int:
    """Run the verb on the given checkpoint, or the run's newest."""
    path = cli.config.ckpt_path or newest_good(rundir.candidates(), say)
    if path is None:
        raise UserError(f"run {rundir.path} has no checkpoint: train it with `resnet-cli fit`, or give --ckpt_path")
    load_weights(cli.model, load_checkpoint(path)["state_dict"])
    install_evaluation(cli.trainer)
    if cli.verb == "predict":
        return _predict(cli)
    run = cli.trainer.validate if cli.verb == "validate" else cli.trainer.test
    run(cli.model, datamodule=cli.datamodule, verbose=False)
    say(json.dumps({"checkpoint": str(path), **cli.model.metrics}, indent=1))
    return 0


def _predict(cli: ResNetCLI) -> int:
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
