"""Steps that are captured and replayed train exactly as steps that run one operation at a time.

A CPU has no CUDA graphs. A stand-in captures a function without executing it, as torch.cuda.graph
does, and replays it on the tensors of the capture alone; everything else is the real code. The same
comparison on a GPU is a part of benchmarks/gpu/run.py.
"""

from pathlib import Path

import pytest
import torch
from helpers.command_line import TINY
from helpers.run_dir import only_run, rows, weights
from pytorch_lightning.callbacks import BaseFinetuning, Callback
from torch import nn

from lightning_resnet.engine import loop
from lightning_resnet.engine.graph import Graphs
from lightning_resnet.models import CifarResNet

EPOCHS = ["--trainer.max_epochs", "2", "--data.train_eval_samples", "64"]
LIMIT = ["--trainer.limit_train_batches", "12"]


class StandIn(Graphs):
    """Graphs for the CPU, which note what they replay."""

    newest = None

    def __init__(self):
        super().__init__(self._capture)
        StandIn.newest = self
        self.captures = 0
        self.replays = 0
        self.addresses = []

    def setup(self, trainer, why):
        self.trainer = trainer
        super().setup(trainer, why)

    def _tensors(self):
        task = self.trainer.lightning_module
        optimizer = self.trainer.optimizers[0]
        found = [*task.state_dict().values()]
        found += [v for values in optimizer.state.values() for v in values.values()]
        return [t for t in found if isinstance(t, torch.Tensor)]

    def _gradients(self):
        return {p: p.grad for p in self.trainer.lightning_module.parameters()}

    def _capture(self, function, pool):
        self.captures += 1
        seed = torch.get_rng_state()
        before = [t.clone() for t in self._tensors()]
        gradients = {p: None if g is None else g.clone() for p, g in self._gradients().items()}
        outputs = tuple(t.clone() for t in function())
        made = self._gradients()
        with torch.no_grad():
            for tensor, value in zip(self._tensors(), before, strict=True):
                tensor.copy_(value)
            for p, value in gradients.items():
                if value is not None and made[p] is not None:
                    made[p].copy_(value)
        torch.set_rng_state(seed)

        def replay():
            self.replays += 1
            self.addresses.append([t.data_ptr() for t in self._tensors()])
            results = function()
            with torch.no_grad():
                for own, value in zip(outputs, results, strict=True):
                    own.copy_(value)
                for p, gradient in made.items():
                    if gradient is not None and p.grad is not gradient:
                        p.grad = gradient.copy_(p.grad)

        return replay, outputs


class Noisy(nn.Module):
    """A net that draws in training."""

    def __init__(self):
        super().__init__()
        self.net = CifarResNet(8, width=4)
        self.net.fc = nn.Sequential(nn.Dropout(0.3), self.net.fc)

    def forward(self, x):
        return self.net(x)


class Unfreeze(BaseFinetuning):
    """A callback that lets the first layers learn from the second epoch on."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net.conv1)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net.conv1, optimizer)


class Looking(Callback):
    """A callback with a hook inside of each step."""

    def on_after_backward(self, trainer, pl_module):
        pass


def trained(cli, name, args):
    """Train; return the weights of the run and its rows without those about speed."""
    code, out, err = cli("fit", *TINY, *EPOCHS, *LIMIT, "--run.root", name, *args)
    assert code == 0, err
    run = only_run(Path(name))
    kept = [{k: v for k, v in row.items() if k[:5] != "perf/" and k != "time"} for row in rows(run)]
    return weights(run), kept, out + err


CASES = {
    "plain": [],
    "updates": ["--model.optimizer.fused", "true", "--trainer.gradient_clip_val", "0.1"],
    "updates-accumulated": [
        *["--model.optimizer.fused", "true", "--trainer.accumulate_grad_batches", "4"],
    ],
    "accumulated": ["--trainer.accumulate_grad_batches", "4"],
    "average": ["--model.ema", "{decay: 0.9, every: 2, start: 0.2}"],
    "clipped": ["--trainer.gradient_clip_val", "0.1"],
    "mixed": ["--model.mix", "{mixup: 0.2, cutmix: 1.0}", "--model.label_smoothing", "0.1"],
    "bce": ["--model.loss", "bce", "--model.bce_threshold", "0.2", "--model.mix", "{mixup: 0.5}"],
    "norms": ["--model.precise_bn", "2", "--model.bn_batch", "16"],
    "adamw": ["--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "0.01"],
    "watched": ["--trainer.callbacks+=GradientNorms", "--trainer.callbacks+=ResponseStds"],
    "loader": ["--data.loader", "torch", "--data.workers", "0"],
    "dropout": ["--model.net", "test_graph.Noisy", "--model.graph", "true"],
    "unfrozen": ["--trainer.callbacks+=test_graph.Unfreeze", "--model.graph", "true"],
}


@pytest.mark.parametrize("case", CASES)
def test_replayed_steps_train_bitwise_as_others(cli, monkeypatch, case):
    args = CASES[case]
    expected = trained(cli, "eager", args)
    monkeypatch.setattr(loop, "Graphs", StandIn)
    found = trained(cli, "graph", args)
    graphs = StandIn.newest
    assert graphs.off is None and graphs.replays > 10
    assert graphs.updates == case.startswith("updates")
    for name, tensor in expected[0].items():
        assert torch.equal(tensor, found[0][name]), name
    assert expected[1] == found[1]
    if case != "unfrozen":
        assert all(a == graphs.addresses[0] for a in graphs.addresses)
