"""Weights out of a checkpoint into a task, or one line that names the first tensor that does not fit."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_resnet.errors import UserError
from lightning_resnet.runs.identity import flatten, read_recipe

EMA = "ema."  # a checkpoint's averaged weights; the trained ones are under `net.`


def differing(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
    """Of the first tensor that is missing, unknown or of another shape: what it is there and here; else empty."""
    for name in [*ours, *theirs]:
        here, there = (_form(d.get(name)) for d in (ours, theirs))
        if here != there:
            return f"{name} is {there} there and {here} here"
    return ""


def _form(value: Any) -> str:
    """`(10, 64)`, or what it is instead of a tensor."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return "absent" if value is None else f"a {type(value).__name__}"


def check_same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor], flags: str = "") -> None:
    """Raise UserError naming the first tensor that is missing, unknown or of another shape, and the `flags` to give."""
    if found := differing(ours, theirs):
        if found.startswith(EMA):
            raise UserError(
                f"of the checkpoint and the task one has a moving average and the other has none ({found}): give or "
                "drop --model.ema, in Python ema=Averaging()"
            )
        cure = flags or "the --model.net options it was trained with"
        raise UserError(f"the checkpoint is of another net: {found}; give {cure}")


def net_flags(checkpoint: dict[str, Any], recipe: str) -> str:
    """`--model.net.depth 18`: what the checkpoint's recipe says of its net, and `recipe` does not; often nothing.

    The number of classes is left out: it comes from the data.
    """
    theirs = _net_options(checkpoint.get("run", {}).get("config"))
    ours = _net_options(recipe)
    return " ".join(
        f"--model.net{k} {v}" for k, v in theirs.items() if v is not None and v != ours.get(k)
    )


def _net_options(recipe: str | None) -> dict[str, Any]:
    try:
        model = read_recipe(recipe, Path("checkpoint")).get("model")
    except UserError:  # none, or of no form: it only serves for a hint
        return {}
    net = model.get("net") if isinstance(model, dict) else None
    if not isinstance(net, dict):
        return {}
    given = net.get("init_args")
    options = flatten(given) if isinstance(given, dict) else {}
    options = {f".{k}": v for k, v in options.items() if k != "num_classes"}
    return {"": net.get("class_path")} | options


def load_weights(
    task: nn.Module, state: dict[str, Tensor], fresh_average: bool = False, flags: str = ""
) -> None:
    """Load a checkpoint's `state_dict`; raise UserError naming the first tensor that does not fit.

    Args:
        task: to load into; without an average, it leaves the checkpoint's.
        state: of the checkpoint.
        fresh_average: the task's average begins at these weights, as it must where the checkpoint has none.
        flags: that would make the task's net the checkpoint's.
    """
    averaged = any(name.startswith(EMA) for name in task.state_dict())
    if fresh_average or not averaged or not any(name.startswith(EMA) for name in state):
        state = {name: tensor for name, tensor in state.items() if not name.startswith(EMA)}
        if averaged:
            state |= {
                EMA + n.removeprefix("net."): t for n, t in state.items() if n.startswith("net.")
            }
    check_same_tensors(task.state_dict(), state, flags)
    task.load_state_dict(state)
