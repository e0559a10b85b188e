"""Load a trained net from a checkpoint or run, with its class names, but without its data."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lightning_resnet.arguments import value_of
from lightning_resnet.config.recipe import Experiment, build, parse
from lightning_resnet.config.trust import Foreign
from lightning_resnet.engine.silence import silence_lightning
from lightning_resnet.errors import UserError
from lightning_resnet.runs.checkpoint import classes_in, load_checkpoint, newest_in
from lightning_resnet.runs.find import find_run
from lightning_resnet.runs.identity import flatten, read_recipe
from lightning_resnet.runs.names import is_hub_name
from lightning_resnet.training.state_dict import EMA, check_same_tensors
from lightning_resnet.training.task import ClassificationTask
from lightning_resnet.weights import pixels
from lightning_resnet.weights.classes import in_words
from lightning_resnet.weights.convert import taken
from lightning_resnet.weights.hubs import read_named

if TYPE_CHECKING:
    import pandas as pd

BATCH = 32  # images per forward pass of `predict`
Item = TypeVar("Item")
ALONE = "--trainer.devices 1 --trainer.num_nodes 1 --trainer.strategy auto".split()
ALONE += "--trainer.logger false --trainer.profiler null".split()
Weights = Literal["net", "ema"]
OF_OTHERS = (".pth", ".pt", ".th", ".bin", ".safetensors")  # endings of files of weights alone


@dataclass(repr=False)
class Trained:
    """A net with the weights of a checkpoint.

    Attributes:
        path: path of the checkpoint.
        experiment: experiment that the checkpoint's recipe describes, with the weights.
        classes: class names in order of label; empty for checkpoints without names.
        input_size: (channels, height, width) that the net was trained at; None where the
            checkpoint does not tell.
    """

    path: Path
    experiment: Experiment
    classes: list[str]
    input_size: tuple[int, int, int] | None = None

    @property
    def task(self) -> ClassificationTask:
        """The task in eval mode, on the CPU."""
        return self.experiment.task.eval()

    @property
    def net(self) -> nn.Module:
        """The net alone, in eval mode; it takes normalised images [N, 3, H, W]."""
        return self.task.net

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.net.parameters())
        return (
            f"{type(self.net).__name__} of {self.path}: {size:,} parameters, "
            f"{len(self.classes) or 'no'} class names; .predict(images), .net, .classes"
        )

    def probabilities(self, images: pixels.Images, device: str | None = None) -> Tensor:
        """Return the probability of each class.

        Args:
            images: files, folders, Pillow images, arrays or tensors, or a list of these. Pixels
                are uint8 from 0 to 255, or floats from 0 to 1; channels first or last.
            device: cpu | cuda; default: a GPU if there is one.

        Returns:
            float32 [N, classes] on the CPU.

        Raises:
            UserError: an image cannot be read, or range, layout or size may mean two things.
        """
        return self._probabilities(images, device)[1]

    def predict(
        self, images: pixels.Images, top: int = 1, device: str | None = None
    ) -> "pd.DataFrame":
        """Return the most probable classes of images.

        Args:
            images: see `probabilities`.
            top: number of classes of each image.
            device: see `probabilities`.

        Returns:
            A row for each image and rank, with the columns `image` (path or number), `rank`,
            `label`, `class` and `probability`; and `words` where classes are WordNet ids.

        Raises:
            UserError: see `probabilities`.
        """
        import pandas as pd

        names, found = self._probabilities(images, device)
        best = found.topk(min(top, found.shape[1]))
        known = self.class_names()
        classes = [*known, *map(str, range(len(known), found.shape[1]))]
        rows = []
        for name, values, labels in zip(
            names, best.values.tolist(), best.indices.tolist(), strict=True
        ):
            for rank, (value, label) in enumerate(zip(values, labels, strict=True), 1):
                rows.append((name, rank, label, classes[label], value))
        table = pd.DataFrame(rows, columns=["image", "rank", "label", "class", "probability"])
        words = in_words(classes)
        if words != classes:
            table["words"] = [words[label] for label in table["label"]]
        return table

    def _probabilities(self, images: pixels.Images, device: str | None) -> tuple[list[str], Tensor]:
        """Return the name of each image, and the probabilities [N, classes]."""
        augment = self.experiment.data.eval_augment
        side = (augment.size, augment.size) if augment.size else self.side()
        task = self.task.to(device_for(device))
        names: list[str] = []
        found: list[Tensor] = []
        for batch in batched(pixels.read(images, augment, side), BATCH):
            names += [name for name, _ in batch]
            stack = np.stack([pixels for _, pixels in batch])
            tensor = torch.from_numpy(stack).permute(0, 3, 1, 2)
            with torch.inference_mode():
                found.append(task(tensor.to(task.mean.device)).softmax(1).float().cpu())
        if not found:
            raise UserError("no images to predict: the list is empty")
        return names, torch.cat(found)

    def side(self) -> tuple[int, int] | None:
        """Return the height and width that the net was trained at; None where nothing tells."""
        if self.input_size:
            return self.input_size[1:]
        with suppress(UserError):
            return next(iter(self.experiment.data.source.splits().values())).shape
        return None

    def class_names(self) -> list[str]:
        """Return the names in the checkpoint, else in its source; empty if neither has any.

        The source may be read for the names.
        """
        source = self.experiment.data.source
        if not self.classes and not hasattr(source, "classes"):
            with suppress(UserError):
                source.splits()
        return self.classes or list(getattr(source, "classes", []))

    @property
    def class_path(self) -> str:
        """Class of the net in the recipe, or the function that makes the net."""
        return self.experiment.config.values.model.net.class_path

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the net in the recipe."""
        return dict(self.experiment.config.values.model.net.get("init_args") or {})


def device_for(asked: str | None) -> str:
    """Return the device that `--device` names; without the flag a GPU if there is one.

    Raises:
        UserError: the device is not there.
    """
    found = torch.cuda.is_available()
    if not asked:
        return "cuda" if found else "cpu"
    if asked.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"--device {asked}: say cpu or cuda")
    if asked.startswith("cuda") and not found:
        raise UserError(f"--device {asked}: no NVIDIA GPU with a driver: drop --device, or say cpu")
    return asked


def build_alone(
    arguments: Sequence[str],
    accelerator: str | None = "cpu",
    foreign: Foreign | None = None,
    callbacks: bool = False,
) -> Experiment:
    """Build the experiment of a recipe for this process alone; no data are read.

    Args:
        arguments: arguments of `fit`.
        accelerator: accelerator in place of the recipe's; None: the recipe's.
        foreign: recipe of a checkpoint or run, which `arguments` override.
        callbacks: whether the recipe's callbacks are built too.
    """
    silence_lightning()
    device = [f"--trainer.accelerator={accelerator}"] if accelerator else []
    without = [] if callbacks else ["--trainer.callbacks=null"]
    return build(parse("fit", [*arguments, *ALONE, *without, *device], foreign))


def tell_apart(experiment: Experiment, told: dict[str, Any]) -> None:
    """Let all images validate that are not those which the checkpoint's recipe names.

    Where the recipe's folder is not to be found from here, the images may be those of the training,
    and no more validate than in the training.

    Args:
        experiment: experiment whose data are not set up yet.
        told: content of the checkpoint's recipe.
    """
    keys = flatten(told)
    name = keys.get("data.source.class_path", keys.get("data.source"))
    root = keys.get("data.source.init_args.root")
    source = experiment.data.source
    if given := getattr(source, "root", None):
        same_kind = str(name).rpartition(".")[2] == type(source).__name__
        unknown = same_kind and not os.path.exists(str(root))
        differs = os.path.realpath(given) != os.path.realpath(str(root))
        source.all_validate = differs and not unknown


def batched(items: Iterable[Item], n: int) -> Iterator[list[Item]]:
    """Yield lists of n items, the last of which may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, n)):
        yield batch


def load(
    path: str | Path, flags: Sequence[str] = (), weights: Weights = "net", trust: bool = False
) -> Trained:
    """Return the net of a checkpoint, of a run's last, or of a hub; see `read_weights`."""
    file, checkpoint = read_weights(path, value_of("--run.root", flags) or "runs")
    return restore(checkpoint, file, flags, weights, trust)


def read_weights(word: str | Path, root: str = "runs") -> tuple[Path, dict[str, Any]]:
    """Read what a word of the command line names: a checkpoint, a run's last, or one of a hub.

    Args:
        word: path of a checkpoint, or of weights in another layout that `convert` takes; a run, as
            `find_run` finds it; or a name of weights on a hub, such as `timm:resnet18.a1_in1k`.
        root: folder of all runs.

    Returns:
        The path of the file, and the checkpoint.

    Raises:
        UserError: there is no such checkpoint, or it cannot be read.
    """
    if is_hub_name(str(word)):
        return read_named(str(word))
    path = find_run(word, root)
    if path.is_dir():
        return newest_in(path)
    if path.suffix in OF_OTHERS and path.exists():
        return path, taken(path)
    return path, load_checkpoint(path)


def restore(
    checkpoint: dict[str, Any],
    path: Path,
    flags: Sequence[str] | None = (),
    weights: Weights = "net",
    trust: bool = False,
) -> Trained:
    """Return the net of a checkpoint, built by the recipe in the checkpoint.

    Args:
        checkpoint: content of the checkpoint.
        path: path of the checkpoint.
        flags: keys of a recipe that override the checkpoint's; None: the verb has no such flags.
        weights: weights as trained, or their moving average.
        trust: whether the recipe may name any code, which is run.

    Raises:
        UserError: the checkpoint has no recipe, weights of another net than its recipe's, no
            moving average, or names foreign code.
    """
    told = read_recipe(config_in(checkpoint, path), path)
    foreign = Foreign(told, path, trust, takes_flags=flags is not None)
    arguments = list(flags or [])
    if not foreign.kept()["data"].get("size"):
        # images are taken uncropped, also at the size that a flag asks for
        arguments.insert(0, "--data.eval_share=1")
    experiment = build_alone(arguments, foreign=foreign)
    take_weights(experiment.task, checkpoint["state_dict"], weights)
    return Trained(path, experiment, classes_in(checkpoint), _input_size(checkpoint))


def _input_size(checkpoint: dict[str, Any]) -> tuple[int, int, int] | None:
    """Return what size of images a checkpoint says it is of."""
    told = checkpoint.get("run", {}).get("input_size")
    is_size = isinstance(told, list) and len(told) == 3 and all(type(n) is int for n in told)
    return tuple(told) if is_size else None


def config_in(checkpoint: dict[str, Any], path: Path) -> str:
    """Return the resolved configuration, as YAML, that a checkpoint was made with."""
    config = (checkpoint.get("run") or {}).get("config")
    if not isinstance(config, str):
        raise UserError(
            f"{path} does not tell what net it is of: give a checkpoint that `resnet-cli fit` or "
            "`convert` wrote"
        )
    return config


def take_weights(
    task: ClassificationTask, state: dict[str, torch.Tensor], weights: Weights = "net"
) -> None:
    """Load a checkpoint's net, raw or averaged, and its normalisation.

    Args:
        task: task that gets the weights.
        state: tensors of the checkpoint, names with their prefixes `net.` and `ema.`.
        weights: weights as trained, or their moving average.

    Raises:
        UserError: there is no moving average, or the tensors are another net's.
    """
    prefix = EMA if weights == "ema" else "net."
    net = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
    if weights == "ema" and not net:
        raise UserError(
            "the checkpoint holds no averaged weights (ema): the run had none; leave --weights out"
        )
    check_same_tensors(task.net.state_dict(), net)
    normalisation = {name: getattr(task, name) for name in ("mean", "std")}
    check_same_tensors(
        normalisation, {name: state[name] for name in normalisation if name in state}
    )
    task.net.load_state_dict(net)
    for name, tensor in normalisation.items():
        tensor.copy_(state[name])
