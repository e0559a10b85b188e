"""Steps that are captured and replayed train exactly as steps that run one operation at a time.

A CPU has no CUDA graphs. A stand-in captures a function without executing it, as torch.cuda.graph
does, and replays it on the tensors of the capture alone; everything else is the real code. The same
comparison on a GPU is a part of benchmarks/gpu/run.py.
"""

import signal
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.command_line import TINY
from helpers.run_dir import only_run, rows, weights
from pytorch_lightning.callbacks import BaseFinetuning, Callback
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_resnet.engine import loop
from lightning_resnet.engine.graph import WARM, WARM_DISTRIBUTED, Graphs, capture_cuda
from lightning_resnet.engine.signals import request
from lightning_resnet.models import CifarResNet
from lightning_resnet.training.hooks import TrainingHooks
from lightning_resnet.training.task import ClassificationTask

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
    "images": ["--model.hooks", "test_graph.OwnImages"],
    "unfrozen": ["--trainer.callbacks+=test_graph.Unfreeze", "--model.graph", "true"],
}


class Twice(Callback):
    """A callback of a user that could change anything."""

    def on_train_epoch_start(self, trainer, pl_module):
        pass


class OwnLoss(TrainingHooks):
    """A loss of a user."""

    def loss(self, logits, targets):
        return nn.functional.cross_entropy(logits, targets)


class OwnImages(TrainingHooks):
    """An augmentation of a user, which runs before the graph."""

    def augment(self, images, labels):
        return (images if torch.rand(()) < 0.5 else images.flip(3)), labels


REFUSED = {
    "callback Looking looks into every step": [
        *["--trainer.callbacks+=test_graph.Looking", "--model.graph", "true"],
    ],
    "callback Twice may change what a step computes": ["--trainer.callbacks+=test_graph.Twice"],
    "Noisy may compute other operations in each step": ["--model.net", "test_graph.Noisy"],
    "the loss of OwnLoss may differ from step to step": ["--model.hooks", "test_graph.OwnLoss"],
    "a profiler measures each part": ["--trainer.profiler", "simple"],
    "needs Lightning's own step": ["--trainer.precision", "64-true"],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_steps_that_a_graph_could_change_are_not_captured(cli, monkeypatch, reason):
    monkeypatch.setattr(loop, "Graphs", StandIn)
    _, _, said = trained(cli, "runs", REFUSED[reason])
    assert StandIn.newest.captures == 0
    assert said.count("graph: off") == 1 and reason in said


def test_graph_false_captures_nothing_and_says_nothing(cli, monkeypatch):
    monkeypatch.setattr(loop, "Graphs", StandIn)
    _, _, said = trained(cli, "runs", ["--model.graph", "false"])
    assert StandIn.newest.captures == 0 and "graph" not in said


def test_graph_true_on_a_cpu_says_that_it_has_no_effect(cli):
    _, _, said = trained(cli, "runs", ["--model.graph", "true"])
    assert "warning: --model.graph true has no effect" in said


class Failing(StandIn):
    """Graphs whose capture fails."""

    def _capture(self, function, pool):
        self.captures += 1
        raise RuntimeError("operation not permitted when stream is capturing")


def test_a_capture_that_fails_leaves_the_training_as_it_is(cli, monkeypatch):
    expected = trained(cli, "eager", [])
    monkeypatch.setattr(loop, "Graphs", Failing)
    found = trained(cli, "graph", [])
    assert StandIn.newest.captures == 1
    assert "it cannot be captured (operation not permitted" in found[2]
    assert all(torch.equal(t, found[0][k]) for k, t in expected[0].items())
    assert expected[1] == found[1]


def test_a_stopped_training_continues_bitwise(cli, monkeypatch):
    monkeypatch.setattr(loop, "Graphs", StandIn)
    expected = trained(cli, "once", [])
    parts = ["fit", *TINY, *EPOCHS, *LIMIT, "--run.root", "parts"]
    step = ClassificationTask.count
    calls = []

    def stop(self, *args):
        calls.append(1)
        if len(calls) == 17:
            request.signum = signal.SIGTERM
        step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "count", stop)
        assert cli(*parts)[0] == 128 + signal.SIGTERM
    assert cli(*parts)[0] == 0
    found = weights(only_run(Path("parts")))
    assert all(torch.equal(t, found[k]) for k, t in expected[0].items())


def test_images_of_two_sizes_have_two_graphs(monkeypatch):
    graphs = Graphs(lambda function, pool: (lambda: None, function()))
    task = nn.Linear(3, 3)
    task.net = task
    optimizer = torch.optim.SGD(task.parameters(), 0.1)
    graphs._rates = [torch.zeros(())]
    for size in (4, 5, 4, 5, 4, 5, 4, 5, 4, 5):
        images = torch.ones(size)
        (result,) = graphs.step((True, True), lambda x: (2 * x,), (images,), task, optimizer)
        assert torch.equal(result, 2 * images)
    assert len(graphs._graphs) == 2


def stand_in(parameter):
    """Return a capture for one parameter, which leaves it and its gradient as they were."""

    def capture(function, pool):
        before = None if parameter.grad is None else parameter.grad.clone()
        outputs = tuple(t.clone() for t in function())
        made = parameter.grad
        if before is not None:
            made.copy_(before)

        def replay():
            for own, value in zip(outputs, function(), strict=True):
                own.copy_(value)
            if parameter.grad is not made:
                parameter.grad = made.copy_(parameter.grad)

        return replay, outputs

    return capture


def test_micro_batches_of_two_shapes_add_to_one_gradient():
    """The gradient of sum(w x) is the sum of x over both micro-batches, whatever their shapes."""
    task = nn.Module()
    task.net = task
    task.w = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD(task.parameters(), 0.1)
    graphs = Graphs(stand_in(task.w))
    graphs._rates = [torch.zeros(())]

    def passes(first, images):
        if first:
            task.w.grad = None
        loss = (task.w * images).sum()
        loss.backward()
        return (loss.detach(),)

    for turn in range(12):
        sizes = ((4, 4), (4, 5), (5, 5), (5, 4))[turn % 4]
        expected = 0.0
        for first, size in zip((True, False), sizes, strict=True):
            images = torch.full((size,), float(turn + 1))
            expected += float(images.sum())
            graphs.step((first, not first), partial(passes, first), (images,), task, optimizer)
        assert float(task.w.grad) == expected, turn
    assert len(graphs._graphs) > 3


def test_a_later_part_that_cannot_be_captured_keeps_the_gradient_of_the_first():
    task = nn.Module()
    task.net = task
    task.w = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD(task.parameters(), 0.1)
    works = stand_in(task.w)

    def capture(function, pool):
        if not function.args[0]:
            raise RuntimeError("not this one")
        return works(function, pool)

    graphs = Graphs(capture)
    graphs._rates = [torch.zeros(())]

    def passes(first, images):
        if first:
            task.w.grad = None
        (task.w * images).sum().backward()
        return (images,)

    for _ in range(WARM + 2):
        for first in (True, False):
            images = torch.ones(3)
            graphs.step((first, not first), partial(passes, first), (images,), task, optimizer)
        assert float(task.w.grad) == 6
    assert "not this one" in graphs.off


def test_a_training_leaves_no_graphs_on_the_task(cli, monkeypatch):
    monkeypatch.setattr(loop, "Graphs", StandIn)
    trained(cli, "runs", [])
    assert StandIn.newest.trainer.lightning_module.graphs is None
    assert not StandIn.newest._graphs


def test_epochs_of_two_steps_are_captured_too(cli, monkeypatch):
    monkeypatch.setattr(loop, "Graphs", StandIn)
    trained(cli, "runs", ["--trainer.limit_train_batches", "2", "--trainer.max_epochs", "6"])
    graphs = StandIn.newest
    assert graphs.replays > 6 and graphs.captures < 8


# -- what is for GPUs alone, by stand-ins ----------------------------------------------------------


def test_a_step_that_reads_from_the_gpu_is_not_captured(monkeypatch, capsys):
    modes = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def reading(images):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("Synchronization debug mode is a prototype", stacklevel=1)
        warnings.warn("of the user", stacklevel=1)
        return (images,)

    task = nn.Linear(3, 3)
    task.net = task
    optimizer = torch.optim.SGD(task.parameters(), 0.1)
    graphs = Graphs()
    with FakeTensorMode(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = torch.ones(3, device="cuda")
        for _ in range(WARM):
            assert graphs.step((True, True), reading, (images,), task, optimizer) == (images,)
        graphs.off = None
        assert graphs.evaluate("net", lambda x: reading(x)[0], images) is images
    # The last step and the batch were looked at; of their warnings only the user's are left.
    assert len([w for w in caught if str(w.message) == "of the user"]) == WARM + 1
    assert len(caught) == 3 * (WARM - 1) + 2
    said = capsys.readouterr().out
    assert "graph: off" in said and "waits for the GPU" in said and "test_graph.py" in said
    assert not graphs._evaluates
    assert modes == ["warn", 0] * 2


def test_a_failed_capture_gives_the_generator_back(monkeypatch):
    class Generator:
        def __init__(self, device=None):
            self.state = "broken"

        def get_state(self):
            return "state before"

        def set_state(self, state):
            self.state = state

        def graphsafe_set_state(self, other):
            self.state = other.state

    generator = Generator()
    monkeypatch.setattr(torch.cuda, "default_generators", [generator])
    monkeypatch.setattr(torch, "Generator", Generator)
    graphs = Failing()
    with FakeTensorMode():
        images = torch.ones(3, device="cuda:0")
        with pytest.raises(RuntimeError):
            graphs._make("key", lambda x: (x,), (images,), [])
    assert generator.state == "state before"


def test_a_capture_uses_the_shared_pool_and_lets_loader_threads_work(monkeypatch):
    entered = []

    class CudaGraph:
        def replay(self):
            entered.append("replayed")

    @contextmanager
    def graph(made, pool, capture_error_mode):
        entered.append((type(made), pool, capture_error_mode))
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", CudaGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    replay, outputs = capture_cuda(lambda: ("result",), "pool")
    replay()
    assert outputs == ("result",)
    assert entered == [(CudaGraph, "pool", "thread_local"), "replayed"]


def test_graphs_of_a_gpu_share_a_pool_and_wait_longer_for_ddp(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    task = SimpleNamespace(graph=None, compiled="reduce-overhead")
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0), model="wrapped")
    graphs = Graphs()
    graphs.setup(SimpleNamespace(lightning_module=task, strategy=strategy), None)
    assert graphs.off is None and graphs._pool == "pool" and graphs._warm == WARM_DISTRIBUTED
    graphs.refuse("a reason")
    assert "a reason; --model.graph false lets --model.compile" in capsys.readouterr().out


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
