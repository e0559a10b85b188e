"""The plane in which a training moved most: principal components of the weights of kept epochs.

`resnet-cli inspect landscape RUN --trajectory`

Li et al. 2018 (arXiv 1712.09913), sec. 7: the components are those of the differences between the
weights of kept epochs and the last ones. Biases and the parameters of norms stay, as in a landscape
along random directions.
"""

from argparse import Namespace
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_resnet.analysis.inspection.subjects import Subject, again
from lightning_resnet.errors import UserError
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.runs.reader import Run
from lightning_resnet.weights.trained import take_weights

FEWEST = 3  # nets, the last one included, of which a plane can be made
MARGIN = 0.2  # of the path's extent, on each side of it


class Trajectory(NamedTuple):
    """A plane and the way of a training in it, with the last net at (0, 0).

    Attributes:
        plane: the two components, each a tensor for each parameter; together of norm 1.
        epochs: number of epochs after which each net was kept; 0: before training. The last net
            is not among them.
        places: of each net, [n, 2].
        explained: shares of the weights' variance that the two components hold.
    """

    plane: tuple[list[Tensor], list[Tensor]]
    epochs: list[int]
    places: Tensor
    explained: tuple[float, float]

    def axes(self, points: int) -> tuple[list[float], list[float]]:
        """Return the x and the y of a grid around the path, of which one point is the last net."""
        found = []
        for of_axis in self.places.T:
            low = min(of_axis.min().item(), 0.0)
            high = max(of_axis.max().item(), 0.0)
            margin = MARGIN * (high - low)
            step = (high - low + 2 * margin) / (points - 1)
            before = round((margin - low) / step)
            found.append([step * (i - before) for i in range(points)])
        return found[0], found[1]


def trajectory(net: nn.Module, kept: dict[int, list[Tensor]]) -> Trajectory:
    """Return the plane of the first two principal components of the weights, centred.

    Args:
        net: the last net.
        kept: number of epochs -> the net's parameters then, in the order of `net.parameters()`.

    Raises:
        UserError: there are too few nets that differ.
    """
    last = _flat(list(net.parameters()))
    rows = {}
    for epoch, parameters in kept.items():
        row = _flat(parameters) - last
        if row.any():  # else this is the last net once more
            rows[epoch] = row
    away = torch.stack([*rows.values(), torch.zeros_like(last)])
    centred = away - away.mean(0)
    gram = centred @ centred.T
    values, vectors = torch.linalg.eigh(gram)
    first_two = values.flip(0)[:2]
    if len(away) < FEWEST or not first_two[-1] > 1e-9 * first_two[0]:
        raise UserError(
            "a plane needs the weights of two epochs or more before the last: fit with "
            "--run.keep_epochs 1"
        )
    components = vectors.flip(1)[:, :2].T @ centred / first_two.sqrt()[:, None]
    explained = (first_two / values.sum()).tolist()
    return Trajectory(
        (_shaped(components[0], net), _shaped(components[1], net)),
        list(rows),
        away[:-1] @ components.T,
        (explained[0], explained[1]),
    )


def _flat(parameters: list[Tensor]) -> Tensor:
    """Return weights of two dimensions or more as one vector, on the CPU in float64."""
    return torch.cat([p.detach().flatten().cpu().double() for p in parameters if p.dim() > 1])


def _shaped(vector: Tensor, net: nn.Module) -> list[Tensor]:
    """Return a vector as a tensor for each parameter; zeros for biases and norms."""
    found = []
    for parameter in net.parameters():
        if parameter.dim() < 2:
            found.append(torch.zeros_like(parameter))
            continue
        part = vector[: parameter.numel()]
        vector = vector[parameter.numel() :]
        found.append(part.view(parameter.shape).to(parameter))
    return found


def kept_nets(subject: Subject, args: Namespace) -> Iterator[tuple[int, nn.Module]]:
    """Yield the net before training and after each kept epoch, on the device, in eval mode.

    The net is one and the same, with other weights each time.

    Raises:
        UserError: the subject is no run with kept epochs.
    """
    run = Run(subject.path)
    files = run.kept_epochs()
    if not files:
        raise UserError(
            f"{subject.path} is no run with kept epochs: --trajectory needs a run of fit with "
            "--run.keep_epochs 1"
        )
    moving = again(subject, args.recipe_keys or [])
    if not begins_elsewhere(subject):
        yield 0, moving.net
    for epoch, file in files.items():
        take_weights(moving.experiment.task, load_checkpoint(file)["state_dict"])
        yield epoch, moving.net


def begins_elsewhere(subject: Subject) -> bool:
    """Tell whether a run began with the weights of another net, and not with those of its seed."""
    recipe = subject.foreign.told if subject.foreign else {}
    options = recipe.get("run")
    return isinstance(options, dict) and bool(options.get("init_from"))
