"""Start a new run from the weights of a checkpoint (`--run.init_from`)."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_resnet.config.summary import say
from lightning_resnet.runs.checkpoint import classes_in
from lightning_resnet.training.state_dict import load_weights, net_flags
from lightning_resnet.weights.classes import differ
from lightning_resnet.weights.trained import read_weights


def init_from(
    task: nn.Module, path: str, classes: Sequence[str], recipe: str = ""
) -> dict[str, Any]:
    """Load a checkpoint's weights into a task; a head for other classes keeps its initial weights.

    Args:
        task: the task that gets the weights.
        path: path of the checkpoint, or a name of weights on a hub.
        classes: classes of the data.
        recipe: the task's recipe as YAML; an error names the flags in which it differs from the
            checkpoint's recipe.

    Returns:
        What meta.json records of weights on a hub, under `init_from`: name, url, sha256. Empty for
        a file, whose content is part of the run's id.

    Raises:
        UserError: the checkpoint cannot be read, or is of another net.
    """
    _, checkpoint = read_weights(path)
    origin = checkpoint.get("run", {}).get("origin")
    if not is_origin(origin):
        origin = None
    if origin:
        say(f"weights of {path}: {origin['url']}, SHA-256 {origin['sha256'][:16]}")
    ours = task.state_dict()
    theirs = checkpoint["state_dict"]
    known = classes_in(checkpoint)
    head = [name for name, module in task.net.named_modules() if isinstance(module, nn.Linear)][-1:]
    for name in [f"net.{h}.{kind}" for h in head for kind in ("weight", "bias")]:
        if name not in theirs or name not in ours:
            continue
        if theirs[name].shape != ours[name].shape:
            shapes = f"{tuple(ours[name].shape)}, {tuple(theirs[name].shape)} in {path}"
            say(f"{name} is new: {shapes}; the head starts from its initial weights")
        elif differ(known, classes):
            others = ", ".join(known[:3])
            say(
                f"{name} is new: {path} is of other classes, {others}, ...; the head starts from "
                "its initial weights"
            )
        else:
            doubt = ""
            if list(known) != list(classes):
                doubt = (
                    f": {path} does not name its classes so, and its head goes on as if they were "
                    "the data's, by number"
                )
            say(f"{name} is kept{doubt}")
            continue
        theirs[name] = ours[name]
    load_weights(task, theirs, fresh_average=True, flags=net_flags(checkpoint, recipe))
    return {"init_from": origin} if origin else {}


def is_origin(found: Any) -> bool:
    """Tell whether a checkpoint's record of its hub has the url and the digest that are shown."""
    return isinstance(found, dict) and all(
        isinstance(found.get(key), str) for key in ("url", "sha256")
    )
