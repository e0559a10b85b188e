"""Loading of a checkpoint's weights into a task; errors name the first tensor that does not fit."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_resnet.errors import UserError
from lightning_resnet.runs.identity import flatten, read_recipe

# Prefix of the moving average's tensors in a checkpoint; those of the trained net have `net.`.
EMA = "ema."


def differing(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
    """Describe the first tensor that is missing, unexpected or of another shape.

    Args:
        ours: state dict of the task or net.
        theirs: state dict of the checkpoint.

    Returns:
        The tensor's name and its form "there" (`theirs`) and "here" (`ours`); empty if all match.
    """
    for name in [*ours, *theirs]:
        here, there = (_form(d.get(name)) for d in (ours, theirs))
        if here != there:
            return f"{name} is {there} there and {here} here"
    return ""


def _form(value: Any) -> str:
    """Return a tensor's shape, as `(10, 64)`; "absent" for None; else the type's name."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return "absent" if value is None else f"a {type(value).__name__}"


def check_same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor], flags: str = "") -> None:
    """Check that a checkpoint's tensors have the names and shapes of the task's.

    Args:
        ours: state dict of the task.
        theirs: state dict of the checkpoint.
        flags: flags that would make the task's net the checkpoint's, for the error; may be empty.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; the error names the first.
    """
    if found := differing(ours, theirs):
        if found.startswith(EMA):
            raise UserError(
                "of the checkpoint and the task one has a moving average and the other has none "
                f"({found}): give or drop --model.ema, in Python ema=Averaging()"
            )
        cure = flags or "the --model.net options it was trained with"
        raise UserError(f"the checkpoint is of another net: {found}; give {cure}")


def net_flags(checkpoint: dict[str, Any], recipe: str) -> str:
    """Return the flags that turn a recipe's net into the checkpoint's, for an error message.

    The number of classes is left out, because it comes from the data.

    Args:
        checkpoint: the loaded checkpoint.
        recipe: the recipe's text, in YAML.

    Returns:
        Flags such as `--model.net.depth 18`; empty if the options agree or are not known.
    """
    theirs = _net_options(checkpoint.get("run", {}).get("config"))
    ours = _net_options(recipe)
    return " ".join(
        f"--model.net{k} {v}" for k, v in theirs.items() if v is not None and v != ours.get(k)
    )


def _net_options(recipe: str | None) -> dict[str, Any]:
    try:
        model = read_recipe(recipe, Path("checkpoint")).get("model")
    except UserError:
        # The recipe is missing or malformed; it only serves for a hint.
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
    """Load a checkpoint's weights into a task.

    Args:
        task: task to load into. If the task has no moving average, the checkpoint's is ignored.
        state: `state_dict` of the checkpoint.
        fresh_average: whether the task's moving average begins at the checkpoint's trained weights;
            it always does if the checkpoint has no average.
        flags: flags that would make the task's net the checkpoint's, for the error; may be empty.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; the error names the first.
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
