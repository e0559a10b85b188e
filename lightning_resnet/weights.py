"""Weights out of a checkpoint into a task, or one line that names the first tensor that does not fit."""

from torch import Tensor, nn

from lightning_resnet.errors import UserError

EMA = "ema."  # a checkpoint's averaged weights; the trained ones are under `net.`


def differing(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
    """Of the first tensor that is missing, unknown or of another shape: what it is there and here; else empty."""
    for name in [*ours, *theirs]:
        here, there = (tuple(d[name].shape) if name in d else "absent" for d in (ours, theirs))
        if here != there:
            return f"{name} is {there} there and {here} here"
    return ""


def check_same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Raise UserError naming the first tensor that is missing, unknown or of another shape."""
    if found := differing(ours, theirs):
        raise UserError(f"the checkpoint is of another net: {found}; give the --model.net options it was trained with")


def load_weights(task: nn.Module, state: dict[str, Tensor], fresh_average: bool = False) -> None:
    """Load a checkpoint's `state_dict`; raise UserError naming the first tensor that does not fit.

    Args:
        task: to load into; without an average, it leaves the checkpoint's.
        state: of the checkpoint.
        fresh_average: the task's average begins at these weights, as it must where the checkpoint has none.
    """
    averaged = any(name.startswith(EMA) for name in task.state_dict())
    if fresh_average or not averaged or not any(name.startswith(EMA) for name in state):
        state = {name: tensor for name, tensor in state.items() if not name.startswith(EMA)}
        if averaged:
            state |= {EMA + n.removeprefix("net."): t for n, t in state.items() if n.startswith("net.")}
    check_same_tensors(task.state_dict(), state)
    task.load_state_dict(state)
