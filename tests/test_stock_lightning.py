"""Task and data in the programs of others (a stock Trainer, a stock LightningCLI, a bare loop), and
hooks.
"""

import sys

import pytest
import pytorch_lightning as pl
import torch
from helpers.command_line import TINY
from helpers.run_dir import only_run
from pytorch_lightning.cli import LightningCLI
from torch.nn import functional as F

from lightning_resnet import CifarResNet, ClassificationTask, Digits, ImageData, TrainingHooks
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.weights.trained import build_alone

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
MEASURED = {
    f"{split}/{name}" for split in ("val", "train_eval") for name in ("loss", "acc1", "acc5")
}
MEASURED |= {"train/loss", "train/acc1", "lr"}
SHORT = [
    *TINY,
    "--trainer.max_epochs",
    "1",
    "--trainer.limit_train_batches",
    "4",
    "--data.train_eval_samples",
    "8",
]


def stock(**options):
    """Train in a stock Trainer, its sanity check included; returns the metrics that it has."""
    torch.manual_seed(0)
    net = CifarResNet(8, width=4, norm="none")
    task = ClassificationTask(net, optimizer=lambda p: torch.optim.SGD(p, lr=0.01))
    data = ImageData(Digits(), batch_size=64, train_eval_samples=100)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        limit_train_batches=6,
        log_every_n_steps=3,
        **QUIET,
        **options,
    )
    trainer.fit(task, datamodule=data)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_a_stock_trainer_of_two_processes_measures_what_one_does():
    one = stock(devices=1)
    two = stock(devices=2, strategy="ddp_fork")
    assert MEASURED == one.keys() == two.keys()
    assert two == pytest.approx(one, rel=1e-3)


def test_a_stock_command_line(monkeypatch, tmp_path):
    net = ["--model.net=lightning_resnet.CifarResNet", "--model.net.depth=8", "--model.net.width=4"]
    data = [
        "--data.source=lightning_resnet.Digits",
        "--data.batch_size=64",
        "--data.train_eval_samples=100",
    ]
    quiet = [f"--trainer.{key}=false" for key in QUIET]
    limits = [
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=4",
        "--trainer.log_every_n_steps=2",
    ]
    place = ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"]
    monkeypatch.setattr(
        sys,
        "argv",
        ["train.py", "fit", "--seed_everything=0", *net, *data, *quiet, *limits, *place],
    )
    cli = LightningCLI(ClassificationTask, ImageData)
    assert type(cli.trainer) is pl.Trainer and cli.trainer.global_step == 4
    assert cli.trainer.callback_metrics.keys() >= MEASURED


class Hooks(TrainingHooks):
    """Writes down what it is given."""

    given = []

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def augment(self, images, labels):
        assert images.dtype == torch.uint8 and images.shape[1] == 3
        return images.flip(3), labels

    def loss(self, logits, targets):
        self.given.append(targets)
        return self.weight * F.cross_entropy(logits.float(), targets)


@pytest.fixture(autouse=True)
def forgotten():
    Hooks.given.clear()


def weights():
    return load_checkpoint(only_run() / "checkpoints/last.ckpt")["state_dict"]


@pytest.mark.parametrize(
    "mix", [[], ["--model.mix", "{mixup: 0.2, cutmix: 1.0}"]], ids=["plain", "mixed"]
)
def test_hooks_of_a_recipe(cli, mix):
    code, _, err = cli(
        "fit",
        *SHORT,
        *mix,
        "--model.hooks",
        "test_stock_lightning.Hooks",
        "--model.hooks.weight",
        "2",
    )
    assert code == 0, err
    assert len(Hooks.given) == 4
    for targets in Hooks.given:
        if mix:
            torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
        else:
            assert targets.dtype == torch.int64


class Soft(ClassificationTask):
    """Gives targets as probabilities; they say the same as the labels."""

    def augment(self, images, labels):
        assert self.training
        return images, F.one_hot(labels, 10).float()


@pytest.mark.parametrize("mix", [[], ["--model.mix", "{cutmix: 1.0}"]], ids=["plain", "mixed"])
def test_targets_of_a_subclass(mix):
    losses = []
    for kind in (ClassificationTask, Soft):
        parts = build_alone([*SHORT, *mix])
        parts.task.__class__ = kind
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            limit_train_batches=4,
            log_every_n_steps=4,
            num_sanity_val_steps=0,
            **QUIET,
        )
        trainer.fit(parts.task, datamodule=parts.data)
        losses.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


class Doubled(ClassificationTask):
    def loss(self, logits, targets):
        return 2 * super().loss(logits, targets)


def test_a_loss_of_a_subclass_is_trained_and_logged():
    first = []
    for kind in (ClassificationTask, Doubled):
        parts = build_alone(SHORT)
        parts.task.__class__ = kind
        trainer = pl.Trainer(
            max_steps=1,
            accelerator="cpu",
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            **QUIET,
        )
        trainer.fit(parts.task, datamodule=parts.data)
        first.append(float(trainer.callback_metrics["train/loss"]))
    assert first[1] == pytest.approx(2 * first[0])


def test_a_bare_loop_over_our_loaders():
    """It sees each global batch once, in an order that changes with the epoch, and learns."""
    torch.manual_seed(0)
    data = ImageData(Digits(), batch_size=64)
    data.setup("fit")
    loader = data.train_dataloader()
    net = CifarResNet(8, width=4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    first, losses = [], []
    for _ in range(2):
        for i, (images, labels) in enumerate(loader):
            assert images.dtype == torch.uint8 and images.shape == (64, 3, 8, 8)
            first += [labels.tolist()] if i == 0 else []
            loss = F.cross_entropy(net(images.float() / 255), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert len(losses) == 2 * len(loader) and first[0] != first[1]
    assert sum(losses[-5:]) < sum(losses[:5])
