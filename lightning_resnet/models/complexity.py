"""Count the outputs and multiply-adds of a net."""

import inspect
import math
import weakref
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lightning_resnet.errors import UserError, one_line
from lightning_resnet.models.activations import eval_mode

IMAGENET_STRIDE = 32  # by which nets for ImageNet shrink an image: to 7x7 at 224 pixels
SPATIAL = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


class PeakMemory(TorchDispatchMode):
    """Context that measures how many bytes of tensors are alive at once, without parameters.

    Attributes:
        alive: bytes of the tensors that operations made and that are not released yet.
        peak: the largest `alive` so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count the storages that it made."""
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        place = storage.data_ptr()
        if place in self._known or not place:
            return
        self._known.add(place)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._release, place, storage.nbytes())

    def _release(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.alive -= size


def check_logits(net: nn.Module, found: Any, images: int) -> None:
    """Check that a net gives one row of class scores per image.

    Args:
        net: the net that gave `found`.
        found: output of the net.
        images: number of images in the batch.

    Raises:
        UserError: the output is something else, as that of a net with auxiliary heads.
    """
    name = type(net).__name__
    if isinstance(found, torch.Tensor):
        if found.ndim == 2 and len(found) == images:
            return
        batch = "1 image" if images == 1 else f"{images} images"
        raise UserError(
            f"{name} gives outputs of shape {tuple(found.shape)} for {batch}, not one row of class "
            "scores each: use a net that classifies images"
        )
    cure = "a net whose forward returns these alone"
    if "aux_logits" in inspect.signature(type(net)).parameters:
        cure = "--model.net.aux_logits false"
    raise UserError(
        f"{name} gives a {type(found).__name__} in training, not one tensor of class scores (as "
        f"nets with auxiliary heads do): use {cure}"
    )


def count_macs(net: nn.Module, input_size: tuple[int, int, int]) -> tuple[int, int]:
    """Count the outputs of a net, and the multiply-adds of convolutions and linear layers.

    Args:
        net: any net; the modes of its modules are restored.
        input_size: size of one image: channels, height, width.

    Returns:
        The number of outputs and the number of multiply-adds for one image.

    Raises:
        UserError: the net has no parameters, or cannot take images of this size.
    """
    with FlopCounterMode(display=False) as counter:
        outputs = count_outputs(net, input_size)
    return outputs, counter.get_total_flops() // 2


def count_outputs(net: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Count the outputs of a net by one black image.

    Args:
        net: any net; the modes of its modules are restored.
        input_size: size of one image: channels, height, width.

    Raises:
        UserError: the net has no parameters, or cannot take images of this size.
    """
    name = type(net).__name__
    parameter = next(net.parameters(), None)
    if parameter is None:
        raise UserError(f"{name} has no parameters to train: choose another --model.net")
    try:
        with eval_mode(net), torch.no_grad():
            image = torch.zeros(1, *input_size, dtype=parameter.dtype, device=parameter.device)
            logits = net(image)
    except MemoryError:
        raise
    except Exception as e:  # a user's own net may raise anything
        if "view size is not compatible" in str(e):
            raise UserError(
                f"{name} takes a `view` of images whose channels lie together in memory: use "
                "flatten(1) or reshape there, or add --model.channels_last false"
            ) from e
        if not isinstance(e, RuntimeError | ValueError):  # torch raises these two for wrong sizes
            raise UserError(
                f"{name} fails on images of {input_size} ({type(e).__name__}: {one_line(e)}): "
                "correct its forward"
            ) from e
        raise UserError(
            f"{name} cannot take images of {input_size} ({one_line(e)}): set --data.size"
        ) from e
    check_logits(net, logits, 1)
    return logits.shape[1]


def stem_warning(net: nn.Module, input_size: tuple[int, int, int]) -> str:
    """Return a warning if a net for ImageNet leaves one position of small images.

    Such a net begins with a strided convolution and shrinks an image 32 times before it takes the
    mean over positions. Images of up to 32 pixels are then one position in the last stage, where
    3x3 kernels see padding only; from 33 pixels on they are 2x2 or more.

    Args:
        net: any net that takes images of this size; the modes of its modules are restored.
        input_size: size of one image: channels, height, width.

    Returns:
        What is wrong and, after the last colon, its cure; empty for other nets and sizes.
    """
    first_stride = 0
    stride = 1
    last_map: tuple[int, ...] = ()

    def watch(module: nn.Module, _: Any, found: torch.Tensor) -> None:
        nonlocal first_stride, stride, last_map
        own_stride = _pair(module.stride)
        if isinstance(module, nn.Conv2d):
            first_stride = first_stride or min(own_stride)
            # 1x1 kernels are shortcuts, or see the mean over positions (squeeze and excitation)
            if max(module.kernel_size) == 1:
                return
            last_map = tuple(found.shape[-2:])
        stride *= min(own_stride)

    modules = [m for m in net.modules() if isinstance(m, SPATIAL)]
    handles = [m.register_forward_hook(watch) for m in modules]
    try:
        count_outputs(net, input_size)
    finally:
        for handle in handles:
            handle.remove()
    if first_stride < 2 or stride < IMAGENET_STRIDE or math.prod(last_map) != 1:
        return ""
    height, width = input_size[1:]
    return (
        f"the stem of {type(net).__name__} is made for ImageNet: its last stage sees images of "
        f"{height}x{width} as 1x1, which costs accuracy: --data.size {2 * IMAGENET_STRIDE} or "
        "more, or a net for small images, as --model.net CifarResNet --model.net.depth 20"
    )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return the stride of a layer for both sides."""
    return (value, value) if isinstance(value, int) else value
