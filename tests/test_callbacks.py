"""Callbacks put what they measure into the training rows of the steps that are logged, and change
nothing.
"""

import json
from pathlib import Path

import pytest
import torch
from helpers.command_line import TINY
from helpers.run_dir import history, only_run
from pytorch_lightning.callbacks import Callback

from lightning_resnet.analysis.inspection.responses import responses, summarise
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.weights.trained import load

SHORT = [*TINY, "--trainer.max_epochs", "1"]
BOTH = ["--trainer.callbacks+=GradientNorms", "--trainer.callbacks+=ResponseStds"]


class Keep(Callback):
    """Stands in for the recorder: takes the values at the end of each step, and
    measures by hand.
    """

    taken, norms = {}, {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        grads = [p.grad.norm() for p in pl_module.net.layer2[0].parameters()]
        self.norms[trainer.global_step + 1] = torch.stack(grads).norm().item()

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.taken.setdefault(trainer.global_step, {}).update(
            getattr(pl_module, "extra_metrics", {})
        )
        pl_module.extra_metrics = {}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_values_of_logged_steps(cli, accumulate):
    args = [
        *SHORT,
        *BOTH,
        "--trainer.callbacks+=test_callbacks.Keep",
        "--trainer.accumulate_grad_batches",
        accumulate,
    ]
    Keep.taken.clear()
    code, _, err = cli("fit", *args)
    assert code == 0, err
    logged = {step: values for step, values in Keep.taken.items() if values}
    assert list(logged) == [11, 22]
    for step, values in logged.items():
        assert values["grad_norm/layer2.0"] == pytest.approx(Keep.norms[step], rel=1e-5)
        assert [k for k in values if k.startswith("grad_norm")] == [
            f"grad_norm/layer{i}.0" for i in (1, 2, 3)
        ]
        stds = {k: v for k, v in values.items() if k.startswith("response_std/")}
        assert len(stds) == 7 and stds["response_std/layer3.0.conv2"] == pytest.approx(1, abs=0.2)


def test_curvature_is_that_of_the_inspection_after_every_kth_epoch(cli):
    flags = [*TINY, "--trainer.callbacks+=Curvature", "--trainer.callbacks.images", 30]
    code, _, err = cli("fit", *flags, "--trainer.callbacks.every", 2, "--trainer.max_epochs", 2)
    assert code == 0, err
    rows = [json.loads(line) for line in (only_run() / "metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if "curvature/largest" in row]
    assert row["epoch"] == 1 and row["curvature/limit"] == pytest.approx(2 / row["lr"], rel=1e-5)
    flags = ["--images", 30, "--draws", 1, "--json"]
    code, out, err = cli("inspect", "curvature", only_run(), *flags)
    assert code == 0, err
    assert json.loads(out)["rows"][0]["largest"] == pytest.approx(
        row["curvature/largest"], rel=0.01
    )


def test_they_do_not_change_the_run(cli):
    observers = [*BOTH, "--trainer.callbacks+=Curvature"]
    cli("fit", *SHORT)
    weights = load_checkpoint(only_run() / "checkpoints/last.ckpt")["state_dict"]
    assert "is finished" in cli("fit", *SHORT, *observers)[1]  # the same run id
    cli("fit", *SHORT, *observers, "--run.new")
    (again,) = Path("runs/digits").glob("*-2")
    watched = load_checkpoint(again / "checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(weights[k], watched[k]) for k in weights)


def test_learned_scales_are_recorded_for_each_block_and_drawn(cli):
    args = [*TINY, "--model.net.norm", "none", "--model.net.branch_scale", "skip_init"]
    args += ["--model.optimizer.lr", "0.05", "--trainer.max_epochs", "2"]
    assert cli("fit", *args, "--trainer.log_every_n_steps", "11")[0] == 0
    scales = {f"layer{i}.0": history("runs", f"branch_scale/layer{i}.0") for i in (1, 2, 3)}
    assert all(len(values) == 4 and values[-1] != 0 for values in scales.values())
    net = load(only_run("runs")).task.net
    for name, values in scales.items():
        assert values[-1] == pytest.approx(net.get_submodule(name).scale.weight.item())
    table = responses(net, [(torch.randn(4, 3, 8, 8), torch.arange(4))])
    shown = table.dropna(subset="block").groupby("block")["scale"].first()
    assert shown.to_dict() == pytest.approx({name: values[-1] for name, values in scales.items()})
    assert "scale" in summarise(table)
    assert cli("compare", "runs/digits", "--panels", "branch_scale")[0] == 0
    assert "branch_scale" in Path("runs/digits/report/index.html").read_text()
