"""Capture the step of a training in CUDA graphs and replay them.

A step of a small net is several hundred short kernels, and a processor launches them more slowly
than a GPU computes them. A CUDA graph launches all kernels of a step at once. The first steps of
each shape run as they are: they are part of the training, and in them libraries choose their
kernels and the optimizer makes its state. Then the same function is captured, without being
executed, and from then on replayed.

In a replay every tensor has the address that it had in the capture. Batches and draws are therefore
copied into tensors of the graph, the learning rate is a tensor that is filled before a replay, and
results are copied before they are kept. What else Python code does in a step is not repeated:
`step.why_not` looks for parts of a step that are not known to compute the same in each step.

Source: the pages on CUDA graphs of PyTorch ("CUDA semantics") and NVIDIA ("CUDA Graph Best Practice
for PyTorch").
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from lightning_resnet.errors import one_line, tell
from lightning_resnet.training.task import WITHOUT_GRAPHS

Function = Callable[..., tuple[Tensor, ...]]
# Steps of a shape that run as they are before the step is captured.
WARM = 3
# The same where DistributedDataParallel reduces gradients, as PyTorch's documentation asks for.
WARM_DISTRIBUTED = 11


class Graph:
    """A captured function of tensors.

    Args:
        function: function of tensors that returns tensors.
        inputs: its arguments.
        capture: see `Graphs`.
        pool: memory that graphs share.
        parameters: parameters whose gradients the function makes.
    """

    def __init__(
        self,
        function: Function,
        inputs: tuple[Tensor, ...],
        capture: Callable[..., tuple[Callable[[], None], tuple[Tensor, ...]]],
        pool: Any,
        parameters: list[Tensor],
    ) -> None:
        self.inputs = tuple(t.clone() for t in inputs)
        self.replay, self.outputs = capture(partial(function, *self.inputs), pool)
        # The gradients lie in the graph's memory, which must not be used for anything else.
        self.gradients = [(p, p.grad) for p in parameters if p.grad is not None]

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Compute the function of tensors of the same shapes; return copies of the results."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.replay()
        return tuple(t.clone() for t in self.outputs)

    def show_gradients(self) -> None:
        """Let the parameters have the gradients that the graph makes."""
        if self.gradients and self.gradients[0][0].grad is not self.gradients[0][1]:
            for p, gradient in self.gradients:
                p.grad = gradient


def capture_cuda(
    function: Callable[[], tuple[Tensor, ...]], pool: Any
) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """Capture a function in a CUDA graph, without executing it.

    Returns:
        (function that replays the graph, tensors that hold the results after a replay).
    """
    graph = torch.cuda.CUDAGraph()
    # Loader threads may pin memory during the capture.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        outputs = function()
    return graph.replay, outputs


class Graphs:
    """All graphs of a training, one for each set of shapes and each part of a step.

    Args:
        capture: makes a function that replays another one; a test without a GPU gives its own.

    Attributes:
        off: why nothing is captured; None if steps are captured.
        updates: whether graphs contain the update of the weights.
    """

    def __init__(
        self,
        capture: Callable[..., tuple[Callable[[], None], tuple[Tensor, ...]]] = capture_cuda,
    ) -> None:
        self.capture = capture
        self.off: str | None = None
        self.updates = False
        self._warm = WARM
        self._pool: Any = None
        self._seen: Counter[Any] = Counter()
        self._graphs: dict[Any, Graph] = {}
        # What the graphs depend on besides their inputs.
        self._state: Any = None
        # Learning rates of the parameter groups, on the device, and the numbers they hold.
        self._rates: list[Tensor] = []
        self._filled: list[float] = []
        # Shapes of the current step's first micro-batch, and whether it was replayed.
        self._first: Any = None
        self._replaying = False
        # Whether evaluations are captured too.
        self._evaluates = True
        # What a refusal adds where torch.compile's own graphs were left out for ours.
        self._hint = ""

    def setup(self, trainer: pl.Trainer, why: str | None) -> None:
        """Prepare to capture the steps of a training.

        Args:
            trainer: trainer whose strategy is set up.
            why: why these steps cannot be captured; None if they can.
        """
        task = trainer.lightning_module
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if task.graph is False or (not on_gpu and self.capture is capture_cuda):
            self.off = "it is not asked for" if on_gpu else "it is for GPUs"
            if task.graph:
                rank_zero_only(tell)(f"warning: --model.graph true has no effect: {self.off}")
            return
        if task.compiled in WITHOUT_GRAPHS:
            self._hint = f"; --model.graph false lets --model.compile {task.compiled} make its own"
        if trainer.strategy.model is not task:
            self._warm = WARM_DISTRIBUTED
        if on_gpu:
            self._pool = torch.cuda.graph_pool_handle()
        if why is not None:
            self.refuse(why)

    def refuse(self, why: str) -> None:
        """Capture nothing from now on, and say why."""
        if self.off is None:
            self.off = why
            self.clear()
            rank_zero_only(tell)(
                f"graph: off, steps launch one kernel after the other: {why}{self._hint}"
            )

    def clear(self) -> None:
        """Drop all graphs, and copy the gradients out of their memory."""
        for graph in self._graphs.values():
            for p, gradient in graph.gradients:
                if p.grad is gradient:
                    p.grad = gradient.clone()
        self._graphs.clear()
        self._seen.clear()

    def begin(self, task: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Drop the graphs if a hook has changed what they depend on since they were captured."""
        if self.off is not None:
            return
        groups = optimizer.param_groups
        self.updates = all(group.get("fused") for group in groups)
        state = _state(task, optimizer)
        if self._state is not None and self._state != state:
            self.clear()
        self._state = state
        if len(self._rates) != len(groups):
            self._rates = [torch.zeros((), device=task.device) for _ in groups]
            self._filled = []

    def step(
        self,
        part: tuple[bool, bool],
        function: Function,
        inputs: tuple[Tensor, ...],
        task: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> tuple[Tensor, ...]:
        """Compute a micro-batch of an optimizer step: as it is, or by a graph.

        Args:
            part: whether the micro-batch is the first, and whether it is the last of its step.
            function: passes of the micro-batch, and after the last one the update.
            inputs: arguments of the function.
            task: the task that trains.
            optimizer: the task's optimizer.

        Returns:
            What the function returns.
        """
        if self.off is not None:
            return function(*inputs)
        shapes = tuple(map(_signature, inputs))
        if part[0]:
            self._first = shapes
        # A later micro-batch adds to the gradients of the first, which lie in the first's graph.
        key = (part, self._first, shapes)
        self._seen[key] += 1
        if part[0]:
            self._replaying = self._seen[key] > self._warm
        if not self._replaying:
            if self._seen[key] != self._warm:
                return function(*inputs)
            results, place = _run_and_look(function, inputs)
            if place:
                self.refuse(f"the step waits for the GPU, to read a number from it ({place})")
            return results
        rates = [group["lr"] for group in optimizer.param_groups]
        if rates != self._filled:
            for tensor, rate in zip(self._rates, rates, strict=True):
                tensor.fill_(rate)
            self._filled = rates
        graph = self._graphs.get(key)
        if graph is None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            try:
                with _with_rates(optimizer, self._rates):
                    graph = self._make(key, function, inputs, parameters)
            except Exception as e:  # noqa: BLE001 -- compilers wrap what CUDA raises
                self.refuse(f"it cannot be captured ({one_line(e)[:160]})")
                return function(*inputs)
            self._state = _state(task, optimizer)
        graph.show_gradients()
        return graph(inputs)

    def evaluate(self, key: Any, function: Function, *inputs: Tensor) -> Tensor:
        """Compute a batch of an evaluation during the training: as it is, or by a graph.

        Args:
            key: tells this function from others.
            function: function of the inputs that returns one tensor.
            *inputs: images and labels.
        """
        if self.off is not None or not self._evaluates or torch.is_inference_mode_enabled():
            return function(*inputs)
        key = (key, *map(_signature, inputs))
        self._seen[key] += 1
        graph = self._graphs.get(key)
        if graph is None and self._seen[key] == 1:
            result, place = _run_and_look(function, inputs)
            self._evaluates = not place
            return result
        if graph is None:
            try:
                graph = self._make(key, lambda *tensors: (function(*tensors),), inputs, [])
            except Exception:  # noqa: BLE001 -- evaluations run as they are, as without graphs
                self._evaluates = False
                return function(*inputs)
        return graph(inputs)[0]

    def _make(
        self, key: Any, function: Function, inputs: tuple[Tensor, ...], parameters: list[Tensor]
    ) -> Graph:
        """Capture a function, without executing it; an error leaves everything as it was."""
        device = inputs[0].device
        generator = torch.cuda.default_generators[device.index] if device.type == "cuda" else None
        state = None if generator is None else generator.get_state()
        gradients = [p.grad for p in parameters]
        try:
            self._graphs[key] = Graph(function, inputs, self.capture, self._pool, parameters)
        except Exception:
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient
            if generator is not None:
                # The failed capture left the generator in a mode in which it cannot draw.
                fresh = torch.Generator(device)
                fresh.set_state(state)
                generator.graphsafe_set_state(fresh)
            raise
        return self._graphs[key]


def _run_and_look(
    function: Callable[..., Any], inputs: tuple[Tensor, ...]
) -> tuple[Any, str | None]:
    """Run a function as it is, and look whether it reads from the GPU.

    A capture of such a function would fail, and leave the random generator unusable.

    Returns:
        (what the function returns, file and line of the first read or None).
    """
    if inputs[0].device.type != "cuda":
        return function(*inputs), None
    former = torch.cuda.get_sync_debug_mode()
    place = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            torch.cuda.set_sync_debug_mode("warn")
            results = function(*inputs)
        finally:
            torch.cuda.set_sync_debug_mode(former)
    for warning in caught:
        text = str(warning.message)
        if "synchronizing CUDA operation" in text:
            place = place or f"{Path(warning.filename).name}:{warning.lineno}"
        elif "Synchronization debug mode" not in text:  # torch calls the mode a prototype
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return results, place


def _signature(tensor: Tensor) -> tuple[Any, ...]:
    """Return what a graph's input must have in common with the tensor of its capture."""
    return tensor.shape, tensor.stride(), tensor.dtype


def _state(task: pl.LightningModule, optimizer: torch.optim.Optimizer) -> tuple[Any, ...]:
    """Return what the graphs of a step depend on besides their inputs.

    These are the addresses of weights, buffers and the optimizer's state, which parameters learn,
    the modes of the modules, and the options of the optimizer without the learning rate.
    """
    tensors = [*task.parameters(), *task.buffers()]
    state = [v for values in optimizer.state.values() for v in values.values()]
    tensors += [v for v in state if isinstance(v, Tensor)]
    modes = [(m.training, getattr(m, "track_running_stats", None)) for m in task.net.modules()]
    options = [
        (len(g["params"]), {k: v for k, v in g.items() if k not in ("params", "lr")})
        for g in optimizer.param_groups
    ]
    learns = [p.requires_grad for p in task.parameters()]
    return [t.data_ptr() for t in tensors], learns, modes, options


@contextmanager
def _with_rates(optimizer: torch.optim.Optimizer, rates: list[Tensor]) -> Iterator[None]:
    """Give the optimizer its learning rates as tensors, for the time of a capture."""
    former = [(g, g["lr"], g.get("capturable")) for g in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
        if "capturable" in group and rate.is_cuda:
            group["capturable"] = True
    try:
        yield
    finally:
        for group, rate, capturable in former:
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = capturable
