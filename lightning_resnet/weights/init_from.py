"""Start a new run from the weights of a checkpoint (`--run.init_from`)."""

from collections.abc import Sequence

from torch import nn

from lightning_resnet.config.summary import say
from lightning_resnet.runs.checkpoint import classes_in, load_checkpoint
from lightning_resnet.training.state_dict import load_weights, net_flags
from lightning_resnet.weights.classes import differ


def init_from(task: nn.Module, path: str, classes: Sequence[str], recipe: str = "") -> None:
    """Take a checkpoint's weights; a head for other classes stays new.

    Args:
        task: to take them.
        path: of the checkpoint.
        classes: of the data.
        recipe: the task's, as YAML, to tell what is otherwise in the checkpoint's.

    Raises:
        UserError: it cannot be read, or is of another net.
    """
    checkpoint, ours = load_checkpoint(path), task.state_dict()
    theirs, known = checkpoint["state_dict"], classes_in(checkpoint)
    head = [n for n, m in task.net.named_modules() if isinstance(m, nn.Linear)][-1:]
    for name in [f"net.{h}.{kind}" for h in head for kind in ("weight", "bias")]:
        if name not in theirs or name not in ours:
            continue
        if theirs[name].shape != ours[name].shape:
            say(f"{name} is new: {tuple(ours[name].shape)}, {tuple(theirs[name].shape)} in {path}")
        elif differ(known, classes):
            say(f"{name} is new: {path} is of other classes, {', '.join(known[:3])}, ...")
        else:
            say(f"{name} is kept{'' if list(known) == list(classes) else f': {path} does not name its classes so'}")
            continue
        theirs[name] = ours[name]
    load_weights(task, theirs, fresh_average=True, flags=net_flags(checkpoint, recipe))
