"""A GPU that is not there: tensors without memory on `cuda:0`, and torch.cuda without a driver.

Under `fake_cuda` torch computes shapes, types and devices alone. What a step on a GPU must not do
is an error: to mix devices, to read a value back (`.item()`, `.tolist()`, `bool`), to index by a
mask, for whose length the host would wait. Autograd's engine needs a driver, so `backward` gives
each parameter a gradient of its shape instead.
"""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GB = 1 << 30


class Stream:
    """Stands for torch.cuda.Stream; counts what a side stream has to do with memory and events."""

    def __init__(self, device=None, **_):
        self.device = torch.device("cuda", 0)
        self.waited = []

    def record_event(self, event=None):
        return event or Event()

    def wait_event(self, event):
        self.waited.append(event)

    wait_stream = wait_event

    def synchronize(self):
        pass


class Event:
    """Stands for torch.cuda.Event."""

    def __init__(self, **_):
        pass

    def record(self, stream=None):
        pass

    def synchronize(self):
        pass

    def query(self):
        return True

    def elapsed_time(self, other):
        return 1.0


@contextmanager
def _within(stream):
    yield


MAIN = Stream()
MEMORY = {"now": 0}


def _memory(*_):
    MEMORY["now"] += 1000
    return MEMORY["now"]


FUNCTIONS = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "get_device_name": lambda device=None: "a GPU that is not there",
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_properties": lambda device=None: SimpleNamespace(
        name="a GPU that is not there", total_memory=80 * GB, major=9, minor=0
    ),
    "mem_get_info": lambda device=None: (70 * GB, 80 * GB),
    "memory_allocated": _memory,
    "max_memory_allocated": _memory,
    "max_memory_reserved": _memory,
    "reset_peak_memory_stats": lambda device=None: None,
    "empty_cache": lambda: None,
    "synchronize": lambda device=None: None,
    "is_bf16_supported": lambda including_emulation=True: True,
    "current_stream": lambda device=None: MAIN,
    "stream": _within,
    "Stream": Stream,
    "Event": Event,
    "default_generators": [
        SimpleNamespace(manual_seed=lambda seed: None, get_state=lambda: "state")
    ],
    "get_sync_debug_mode": lambda: 0,
    "set_sync_debug_mode": lambda mode: None,
    "graph_pool_handle": lambda: "pool",
    "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
    "manual_seed_all": lambda seed: None,
}


class FirstDevice(TorchFunctionMode):
    """Gives `cuda` the number 0, for which torch would ask the driver."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.device:
            return function(*args, **(kwargs or {}))
        args = [_numbered(value) for value in args]
        kwargs = {key: _numbered(value) for key, value in (kwargs or {}).items()}
        return function(*args, **kwargs)


class Kernels(TorchDispatchMode):
    """What fake tensors lack: copies of real tensors to the GPU, and fused optimizers.

    Torch has no shapes for fused optimizers; here all that they take must be on the GPU.

    Args:
        fake: the mode below this one.

    Attributes:
        copies: functions of the package that copied from the host, see `caller`.
        on_gpu: names of the operations that were computed on the GPU.
        captures: number of CUDA graphs that were captured.
    """

    def __init__(self, fake):
        super().__init__()
        self.fake = fake
        self.copies = []
        self.on_gpu = set()
        self.captures = 0

    @contextmanager
    def graph(self, made, pool, capture_error_mode):
        """Stand for torch.cuda.graph, in which nothing may be copied from the host."""
        before = len(self.copies)
        yield
        self.captures += 1
        assert len(self.copies) == before, self.copies[before:]

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if is_copy_from_host(function, args, kwargs):
            self.copies.append(caller())
        if any(
            isinstance(value, torch.Tensor) and value.device.type == "cuda"
            for value in tree_leaves(args)
        ):
            self.on_gpu.add(function.name().removeprefix("aten::").partition(".")[0])
        device = kwargs.get("device")
        if device is not None and device.type == "cuda" and args:
            args = tree_map_only(torch.Tensor, self._fake, args)
        if not function.name().startswith("aten::_fused_"):
            return function(*args, **kwargs)
        for value in tree_leaves((args, kwargs)):
            assert not isinstance(value, torch.Tensor) or value.device.type == "cuda", function

    def _fake(self, tensor):
        return tensor if isinstance(tensor, FakeTensor) else self.fake.from_tensor(tensor)


def is_copy_from_host(function, args, kwargs):
    """Tell whether an operation copies a tensor of the host to the GPU."""
    name = function.name()
    device = kwargs.get("device")
    if name == "aten::_to_copy" and device is not None:
        return device.type == "cuda" and args[0].device.type == "cpu"
    return name == "aten::copy_" and (args[0].device.type, args[1].device.type) == ("cuda", "cpu")


def caller():
    """Return the function of the package that runs now, such as `training/mixup.py own_parts`."""
    frame = sys._getframe()
    while frame and "/lightning_resnet/" not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        return "elsewhere"
    file = frame.f_code.co_filename.rpartition("/lightning_resnet/")[2]
    return f"{file} {frame.f_code.co_name}"


def _numbered(value):
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cuda", 0)
    return "cuda:0" if isinstance(value, str) and value == "cuda" else value


def _apply(self, fn, recurse=True):
    """Stands for nn.Module._apply, which cannot swap the insides of fake tensors."""
    for child in self.children() if recurse else ():
        child._apply(fn)
    for key, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                moved = fn(parameter.detach())
            if isinstance(moved, FakeTensor) != isinstance(parameter, FakeTensor) or (
                moved.device != parameter.device
            ):
                self._parameters[key] = nn.Parameter(moved, parameter.requires_grad)
            else:
                parameter.data = moved
    for key, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[key] = fn(buffer)
    return self


def _backward_of(parameters):
    def backward(self, *_, **__):
        assert self.requires_grad and self.ndim == 0
        for p in parameters():
            if p.requires_grad:
                grad = torch.zeros_like(p)
                p.grad = grad if p.grad is None else p.grad + grad

    return backward


@contextmanager
def fake_cuda(monkeypatch, parameters=list):
    """Make torch believe in one GPU, on which nothing is computed.

    Args:
        monkeypatch: pytest's.
        parameters: function that returns the tensors which `backward` gives gradients.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
    kernels = Kernels(fake)
    with fake, kernels, FirstDevice(), monkeypatch.context() as patch:
        # whatever `is_available` says below: the driver is not to be asked
        patch.setattr(FakeTensorMode, "avoid_device_init", True)
        for name, value in FUNCTIONS.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.cuda, "graph", kernels.graph)
        patch.setattr(torch.Tensor, "data_ptr", lambda self: id(self))
        patch.setattr(fake_tensor, "init_gpu_context", lambda *_: None)
        patch.setattr(nn.Module, "_apply", _apply)
        patch.setattr(torch.Tensor, "backward", _backward_of(parameters))
        patch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
        yield kernels


def real(function):
    """Return the function, made to compute real tensors on the CPU inside `fake_cuda` too."""

    def call(*args, **kwargs):
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return call
