"""What happens on a GPU, shown on the CPU: with fake tensors and stand-ins for torch.cuda."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from helpers.command_line import REPOSITORY, TINY
from helpers.fake_cuda import FUNCTIONS, Event, fake_cuda, real
from helpers.markdown import rows_of
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from lightning_resnet.bench import bare, evaluation_peer, our_loaders, step
from lightning_resnet.bench.stock import Timeline
from lightning_resnet.data.augment.crops import Augment
from lightning_resnet.data.images import Images
from lightning_resnet.data.shard import Shard
from lightning_resnet.engine.checkpoints import Checkpoints
from lightning_resnet.engine.loop import FitLoop
from lightning_resnet.engine.trainer import Trainer
from lightning_resnet.training.evaluation import Evaluated
from lightning_resnet.training.task import ClassificationTask

GPU = torch.device("cuda", 0)


@pytest.fixture
def flags(monkeypatch):
    """Bring back torch's own flags after a test that sets them."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def one_gpu(monkeypatch):
    for name in ("is_available", "device_count"):
        monkeypatch.setattr(torch.cuda, name, FUNCTIONS[name])


@pytest.fixture
def trained(monkeypatch):
    """List of the nets that are made, whose parameters get gradients under `fake_cuda`."""
    nets = []
    made = nn.Module.train

    def train(self, mode=True):
        if self not in nets:
            nets.append(self)
        return made(self, mode)

    monkeypatch.setattr(nn.Module, "train", train)
    return lambda: [p for net in nets for p in net.parameters()]


# -- what the trainer sets


@pytest.mark.parametrize(
    ("options", "benchmark", "precision"),
    [
        ({}, True, "high"),
        ({"deterministic": True}, False, "high"),
        ({"deterministic": "warn"}, False, "high"),
        ({"benchmark": False}, False, "high"),
        ({"matmul_precision": "highest"}, True, "highest"),
    ],
)
def test_cudnn_measures_its_algorithms_and_products_are_tf32_on_a_gpu(
    flags, one_gpu, options, benchmark, precision
):
    Trainer(accelerator="gpu", devices=1, logger=False, **options)
    assert torch.backends.cudnn.benchmark is benchmark
    assert torch.get_float32_matmul_precision() == precision


def test_a_training_on_the_cpu_leaves_both_as_they_are(flags):
    Trainer(accelerator="cpu", logger=False)
    assert not torch.backends.cudnn.benchmark
    assert torch.get_float32_matmul_precision() == "highest"
    Trainer(accelerator="cpu", logger=False, matmul_precision="medium")  # asked for
    assert torch.get_float32_matmul_precision() == "medium"


def test_micro_batches_and_graphs_of_the_compiler_exclude_each_other(cli, one_gpu):
    flags = "--model.compile reduce-overhead --model.graph false "
    flags += "--trainer.accumulate_grad_batches 2"
    code, _, err = cli("fit", *TINY, *flags.split(), "--trainer.accelerator=auto")
    assert code == 2 and "--model.compile true" in err, err


# -- gradients in the memory of a CUDA graph


class Overwritten(torch.Tensor):
    """A gradient in a graph's memory after a later replay: torch refuses to read it."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("__get__", "__set__"):
            return super().__torch_function__(function, types, args, kwargs or {})
        raise RuntimeError("accessing tensor output of CUDAGraphs that has been overwritten")


class Replays(Callback):
    """Stand-in of a graph: after each step the gradients are as `reduce-overhead` leaves them."""

    def __init__(self, stop: bool = False) -> None:
        self.stop = stop

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for p in pl_module.parameters():
            if p.grad is not None:
                p.grad = p.grad.as_subclass(Overwritten)
        if self.stop and batch_idx == 3:
            raise RuntimeError("something else")


@pytest.mark.parametrize("validation", ["1.0", "0"])
def test_a_run_ends_although_its_gradients_lie_in_a_graph_s_memory(cli, validation):
    """Cases: with evaluations in the middle and without; with checkpoints between epochs and
    within.
    """
    words = "--trainer.max_epochs 2 --trainer.limit_train_batches 4 --run.save_minutes 0".split()
    words += ["--trainer.limit_val_batches", validation]
    code, _, err = cli("fit", *TINY, *words, "--trainer.callbacks+=test_gpu.Replays")
    assert code == 0, err


def test_an_error_is_told_although_gradients_lie_in_a_graph_s_memory(cli):
    words = ["--trainer.callbacks+=test_gpu.Replays", "--trainer.callbacks.stop=true"]
    with pytest.raises(RuntimeError, match="something else"):
        cli("fit", *TINY, *words)


# -- benchmarks: no branch that a test does not enter


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_bench_step_measures_on_a_gpu(cli, monkeypatch, trained, precision):
    words = "--net cifar-8 --size 16 --batch 2 --steps 1 --repeat 2 --threads 1 --vs script".split()
    # It has a device of its own without memory.
    monkeypatch.setattr(step, "step_traffic", lambda *_: 1000)
    with fake_cuda(monkeypatch, trained):
        words += ["--device", "cuda", "--precision", precision]
        code, out, err = cli("bench", "step", *words)
    assert code == 0, err
    rows = rows_of(out)
    assert "a GPU that is not there" in out and [row[0] for row in rows[1:3]] == ["ours", "script"]
    assert all(float(row[-1]) >= 0 for row in rows[1:3])  # gigabytes, measured


def test_the_bare_loop_measures_on_a_gpu(monkeypatch, trained, capsys):
    with fake_cuda(monkeypatch, trained):
        bare.main("CifarResNet", {"depth": 8}, size=8, batch=2, steps=5, gpu=True)
    assert json.loads(capsys.readouterr().out)["steps_per_s"] > 0


def test_the_timeline_goes_by_the_device_s_clock(monkeypatch):
    for name in ("Event", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, FUNCTIONS[name])

    class Gpu:
        strategy = type("", (), {"root_device": torch.device("cuda", 0)})
        fit_loop = type("", (), {"waits": {"read": 0.0, "data": 0.0}})
        datamodule = type("", (), {"batch_size": 4})
        is_global_zero = True
        accumulate_grad_batches = 1

    timeline = Timeline()
    for _ in range(12):
        timeline.on_train_batch_start(Gpu)
    assert isinstance(timeline.marks[0][0], Event)
    printed = io.StringIO()
    monkeypatch.setattr("builtins.print", lambda text, **_: printed.write(text))
    timeline.on_train_epoch_end(Gpu)
    assert json.loads(printed.getvalue())["steps_per_s"] > 0


def test_the_device_loader_is_measured_on_a_gpu(monkeypatch, capsys):
    pixels = np.zeros((300, 8, 8, 3), np.uint8)
    waited = []
    monkeypatch.setattr(our_loaders, "open_beton", lambda file: None)
    images = Images(np.arange(300), np.arange(300) % 10, pixels)
    monkeypatch.setattr(our_loaders, "images_of", lambda _: images)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with fake_cuda(monkeypatch):
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
        make = our_loaders.in_memory("", Augment("pad", flip=True))
        monkeypatch.setattr(our_loaders, "make_of", lambda *_: make)
        our_loaders.main("device-raw", "", "8", "1")
        (images, labels), *_ = make()
        assert images.device.type == labels.device.type == "cuda"
    assert waited and json.loads(capsys.readouterr().out.splitlines()[-1])["rate"] > 0


def test_the_peer_s_evaluation_is_measured_on_a_gpu(monkeypatch, capsys):
    batch = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    monkeypatch.setattr(evaluation_peer.torchvision.datasets, "ImageFolder", lambda *_, **__: None)
    monkeypatch.setattr(torch.utils.data, "DataLoader", lambda *_, **__: [batch])
    with fake_cuda(monkeypatch):
        monkeypatch.setattr(torch.Tensor, "__float__", lambda self: 0.0)
        monkeypatch.setattr(torch.Tensor, "__int__", lambda self: 0)
        evaluation_peer.main("", "18", "32", "1", "cuda")
    assert json.loads(capsys.readouterr().out)["seconds"] > 0


# -- a step asks the host for nothing


class Traced(Exception):
    """Ends a training once its steps are done; what follows needs values."""


@pytest.fixture
def on_fake_gpu(monkeypatch):
    """Let a training's steps run on a GPU that is not there; all before the first is real.

    Returns:
        An object with `copies`, `on_gpu` and `captures` of `Kernels`, filled after the steps.
    """
    run = FitLoop.run
    seen = SimpleNamespace(copies=set(), on_gpu=set(), captures=0)

    def run_on_gpu(self):
        trainer = self.trainer
        task = trainer.lightning_module
        with fake_cuda(monkeypatch, lambda: list(task.parameters())) as kernels:
            task.to(GPU)
            trainer.strategy._root_device = GPU
            trainer.datamodule.shard = Shard.of(trainer)
            trainer.precision_plugin.device = "cuda"
            if any(isinstance(callback, Scaled) for callback in trainer.callbacks):
                trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cuda")
            trainer.strategy.setup_optimizers(trainer)
            if trainer.datamodule.loader != "device":
                with unset_fake_temporarily():
                    self.setup_data()
                self.loader.batches = read_for_real(self.loader.batches)
            kernels.copies.clear()
            kernels.on_gpu.clear()
            run(self)
            seen.copies.update(kernels.copies)
            seen.on_gpu.update(kernels.on_gpu)
            seen.captures = kernels.captures
        raise Traced(trainer.global_step)

    monkeypatch.setattr(FitLoop, "run", run_on_gpu)
    monkeypatch.setattr(Trainer, "_teardown", lambda self: None)
    # the row of metrics at an epoch's end reads its sums
    monkeypatch.setattr(Evaluated, "_reduce", real(lambda self, sums: torch.ones(len(sums))))
    # the first step alone shows its loss
    monkeypatch.setattr(ClassificationTask, "peek_train_metrics", lambda task: {})
    # the one value that a step reads back, with a scaler alone: whether a gradient is infinite
    monkeypatch.setattr(
        torch.amp.GradScaler, "_maybe_opt_step", lambda _, optimizer, *__: optimizer.step()
    )
    for hook in ("save", "on_train_start", "on_train_epoch_end"):
        monkeypatch.setattr(Checkpoints, hook, lambda *_, **__: True)
    return seen


class Scaled(Callback):
    """Asks for `--trainer.precision 16-mixed`, which a trainer for the CPU would refuse."""


def read_for_real(batches):
    """Let a loader, which works on the CPU, compute values."""

    def read(*args):
        with unset_fake_temporarily():
            reader = batches(*args)
        while True:
            with unset_fake_temporarily():
                batch = next(reader, None)
            if batch is None:
                return
            yield batch

    return read


RECIPES = [
    str(path.relative_to(REPOSITORY))
    for path in sorted((REPOSITORY / "configs").rglob("*.yaml"))
    if "sweeps" not in path.parts
]
MORE = [  # what no recipe has
    "configs/digits.yaml --trainer.gradient_clip_val 1 --trainer.accumulate_grad_batches 2 "
    "--trainer.limit_train_batches 10",
    "configs/digits.yaml --model.ema {decay: 0.9} --model.mix {mixup: 0.2, cutmix: 1.0}",
    "configs/digits.yaml --model.bn_batch 4 --model.loss bce --model.label_smoothing 0.1",
    "configs/digits.yaml --data.loader torch --data.policy RandAugment --data.erase 0.5",
    "configs/digits.yaml --trainer.callbacks+=test_gpu.Scaled",
    "configs/digits.yaml --trainer.callbacks+=test_gpu.Scaled --trainer.gradient_clip_val 1 "
    "--trainer.accumulate_grad_batches 2",
]
STEPS = (
    "--data.workers 0 --trainer.max_epochs 1 --trainer.limit_train_batches 6 --data.batch_size 8 "
    "--trainer.limit_val_batches 0 --trainer.log_every_n_steps 1000 --trainer.accelerator cpu "
    "--trainer.devices 1 --run.threads 1 --wandb.mode disabled --model.compile false "
    "--model.net.num_classes 10 --data.source Synthetic --data.source.n 64 --data.source.n_val 8"
).split()
# Operations that torch.use_deterministic_algorithms refuses on CUDA, or whose gradient it refuses.
REFUSED = set(
    "avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d "
    "fractional_max_pool2d fractional_max_pool3d max_unpool2d max_unpool3d upsample_linear1d "
    "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d reflection_pad1d reflection_pad2d "
    "reflection_pad3d nll_loss2d_forward _ctc_loss _embedding_bag put_ histc bincount median "
    "grid_sampler_2d grid_sampler_3d cumsum scatter_reduce kthvalue".split()
)
# Copies from the host in a step. What the mixtures copy is small and not pinned.
FROM_THE_HOST = {"engine/transfer.py", "data/loaders/device_loader.py", "training/task.py"}


@pytest.mark.parametrize("command", [*RECIPES, *MORE])
def test_a_step_reads_nothing_back_and_mixes_no_devices(cli, on_fake_gpu, command):
    recipe, *flags = command.split(" --")
    path = REPOSITORY / recipe
    content = yaml.safe_load(path.read_text())
    is_small = content["model"]["net"]["class_path"] == "CifarResNet"
    words = [*STEPS, "--data.source.size", "32" if is_small else "64"]
    words += ["--data.loader", "device" if is_small else "torch"]
    words += [] if is_small else ["--data.size", "64"]
    if "progressive" in content["data"]:
        words += ["--data.progressive", "{low: 32, high: 64}"]
    if "holdout" in str(content["data"]["source"]):
        words += ["--data.source.holdout", "null"]  # of more images than the small source has
    if "init_from" in content.get("run", {}):
        words += ["--run.init_from", "null"]  # would be fetched
    for flag in flags:
        words += f"--{flag}".split(" ", 1)
    with pytest.raises(Traced):
        print(*cli("fit", "--config", path, *words))
    assert {name.split()[0] for name in on_fake_gpu.copies} <= FROM_THE_HOST
    assert on_fake_gpu.on_gpu > {"convolution", "argmax"} and not on_fake_gpu.on_gpu & REFUSED
    # LAMB is not torch's, and a scaler reads back: Lightning's own code runs these steps.
    assert (on_fake_gpu.captures > 0) == ("a3" not in command and "callbacks" not in command)


class Reads(Callback):
    """What a step on a GPU must not do, one after the other."""

    def __init__(self, what: str = "item") -> None:
        self.what = what

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        images, labels = batch
        if self.what == "item":
            labels.sum().item()
        elif self.what == "mask":
            images[labels > 3]
        else:
            labels + torch.arange(len(labels))


@pytest.mark.parametrize("what", ["item", "mask", "devices"])
def test_the_trace_finds_what_a_step_must_not_do(cli, on_fake_gpu, what):
    flags = ["--data.loader", "device", "--trainer.callbacks+=test_gpu.Reads"]
    with pytest.raises(Exception, match="_local_scalar_dense|nonzero|two (different )?devices"):
        cli("fit", *TINY, *STEPS, *flags, f"--trainer.callbacks.what={what}")
