"""Find what a word is meant for that names no recipe, class, weights or number.

Nothing is imported here: modules are looked for, and files of classes are only read.
"""

import ast
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from lightning_resnet import shipped
from lightning_resnet import words as tables
from lightning_resnet.errors import UserError, nearest, printable
from lightning_resnet.files import IMAGES
from lightning_resnet.keys import is_current, keys, weights_of_torchvision
from lightning_resnet.machine import is_installed
from lightning_resnet.words import by_word

SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
TIMES = {"k": 1e3, "m": 1e6, "g": 1e9, "%": 0.01}
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
# Source -> ending of a file that may stand for its folder.
SINGLE_FILES = {"ImageNet": ".zip", "WebDataset": ".tar", "Parquet": ".parquet"}
# Folder of Debian's package dataset-fashion-mnist.
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
OF_YOUR_OWN = "your own images are --config photos --data FOLDER, and resnet-cli recipes lists ours"


# -- recipes ---------------------------------------------------------------------------------------


def recipe(word: str) -> str:
    """Return the end of a message for a word that names no recipe: what is meant, or a way on."""
    name = re.sub(r"\.(yaml|yml|json)$", "", os.path.normpath(word))
    name = name.removeprefix("configs/").lower().replace("-", "_")
    known = shipped.recipes()
    told = by_word(tables.RECIPES).get(name, "")
    if " " in told:
        return f": {told}"
    name = told or name
    inside = [each for each in known if each.startswith(f"{name.strip('/')}/")]
    if inside:
        return f": {name} is a folder of recipes: {', '.join(inside)}"
    last = name.rpartition("/")[2]
    for each in known:
        if last.replace("_", "") in (each, each.rpartition("/")[2]) or last == each:
            return f"; did you mean {each}?"
    if re.fullmatch(r"(res|plain|preres)_?(net)?_?\d+", last):
        net = last.replace("_", "")
        folder = name.rpartition(last)[0]
        own = [each for each in known if folder and each.startswith(f"{folder}resnet")]
        example = f"--config {[*own, 'digits'][0]} --arch {net}"
        return f": {net} is a net, which a recipe may train: {example}"
    sources = {cls.lower(): cls for cls in keys()["data.source"].classes}
    if last in sources:
        cls = sources[last]
        return f": {cls} is a set of images, for a recipe: --config cifar10 --data {cls}"
    return nearest(name, known) or f": {OF_YOUR_OWN}"


# -- numbers and lists -----------------------------------------------------------------------------


def number(text: str, fits: Callable[[int | float], bool], unit: str = "") -> str:
    """Return the number that a text is meant for; empty: none that would be taken.

    Args:
        text: such as 1k, "30", 10%, 224x224, 5min, 64.0, 1,000, 1/10, 10^-3 or resnet56.
        fits: whether a number would be taken.
        unit: the unit of time that the number has, s or min; empty: none.
    """
    plain = text.strip(" '\"=;:`").lower().replace("--", "-")
    plain = re.sub("[\u2013\u2212]", "-", plain)  # other dashes, for minus
    plain = plain.strip("[]()").rstrip(",")
    found: list[float] = []
    if re.fullmatch(r"\d{1,3}(,\d{2}0)+", plain):  # 64,128 are two numbers
        found.append(float(plain.replace(",", "")))
    if re.fullmatch(r"\d+,\d+", plain):
        found.append(float(plain.replace(",", ".")))
    if re.fullmatch(NUMBER, plain):
        found.append(float(plain))
    if square := re.fullmatch(r"(\d+)\s?[x*,]\s?\1", plain):
        found.insert(0, float(square[1]))
    if scaled := re.fullmatch(rf"({NUMBER})\s?([a-z%]+)", plain):
        own = SECONDS.get(unit)
        seconds = SECONDS.get(scaled[2][:3]) or SECONDS.get(scaled[2][:1])
        if own and seconds:
            found.append(float(scaled[1]) * seconds / own)
        elif scaled[2] in TIMES:
            found.append(float(scaled[1]) * TIMES[scaled[2]])
            if scaled[2] == "%" and not fits(0.5):
                found.append(float(scaled[1]))
        else:
            found.append(float(scaled[1]))
    ratio = re.fullmatch(rf"({NUMBER})/({NUMBER})", plain)
    if ratio and float(ratio[2]):
        found.append(float(ratio[1]) / float(ratio[2]))
    if power := re.fullmatch(r"(10|2)(?:\^|\*\*)([-+]?\d{1,2})", plain):
        found.append(float(power[1]) ** int(power[2]))
    if re.fullmatch(r"e[-+]?\d+", plain):
        found.append(float(f"1{plain}"))
    if named := re.fullmatch(r"[a-z_-]*[a-z_](\d+)", plain):
        found.append(float(named[1]))
    if plain in tables.NUMERALS:
        found.append(float(tables.NUMERALS.index(plain)))
    for value in found:
        found_number = int(value) if value.is_integer() else value
        if fits(found_number):
            return f"{found_number:.6g}" if isinstance(found_number, float) else str(found_number)
    return ""


def numbers(words: Iterable[str]) -> str:
    """Return words of numbers as a list of YAML; empty where a word is no number."""
    parts = [part for word in words for part in re.split(r"[,\s]+", word.strip("[]() "))]
    parts = [part for part in parts if part]
    if not parts or not all(re.fullmatch(NUMBER, part.lower()) for part in parts):
        return ""
    return f"[{','.join(parts)}]"


# -- classes ---------------------------------------------------------------------------------------


def missing_class(path: str) -> str:
    """Return why a class that is given by its path cannot be found; empty: it may be there.

    Args:
        path: such as `mine.Net`, `torchvision.models.vgg16`, `./mine.py` or `mine.py:Net`.
    """
    if in_file := re.fullmatch(r"(?:\./)?([\w./-]*\w\.py)(?:[:.](\w+))?", path):
        return _in_file(Path(in_file[1]), in_file[2] or "")
    if not re.fullmatch(r"\w+(\.\w+)+", path):
        return ""
    package, _, name = path.rpartition(".")
    listed = _listed(package)
    if listed:
        missing = name not in listed
        return f"{package} has no {name}{nearest(name, listed)}" if missing else ""
    if path in ("torchvision." + name, "timm." + name) and name in nets_of(package):
        return f"{package} has no {name}; did you mean {package}.models.{name}?"
    is_net = re.fullmatch(r"[a-z_]+\d[a-z0-9_]*", name) is not None  # not a class or a module
    if package == "torchvision.models" and is_current() and is_net:
        nets = nets_of("torchvision")
        return f"torchvision has no net {name}{nearest(name, nets)}" if name not in nets else ""
    if package == "timm.models" and is_net and nets_of("timm") and name not in nets_of("timm"):
        return f"timm has no net {name}{nearest(name, nets_of('timm'))}"
    top = path.partition(".")[0]
    file = Path(f"{top}.py")
    if file.is_file() and package == top:
        names, is_all = _names_in(file)
        if is_all and name not in names:
            hint = nearest(name, names) or f"; there are {', '.join(_classes(names)) or 'none'}"
            return f"{top} has no {name}{hint}"
    if file.is_file() or Path(top).is_dir() or top in sys.modules or find_spec(top):
        return ""
    hint = nearest(top, [other.stem for other in Path().glob("*.py")])
    hint = hint or f": pip install {top}, or, if it is a file of yours, start where it lies"
    return f"no module named {top}{hint}"


def _in_file(file: Path, name: str) -> str:
    """Return how to give a class of a file, by the file's path."""
    if not file.is_file():
        return f"file {file} does not exist (seen from {Path.cwd()}); a class is module.Class"
    names, _ = _names_in(file)
    found = [name] if name else _classes(names)
    shown = [".".join([*file.with_suffix("").parts, each]) for each in found or ["Class"]]
    return f"a class in {file} is given as {' or '.join(shown)}"


def _classes(names: Iterable[str]) -> list[str]:
    """Return those of some names that classes usually have."""
    return [name for name in names if name[:1].isupper()]


def _names_in(file: Path) -> tuple[list[str], bool]:
    """Return the names that a file has, and whether no other way can give it more."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError, OSError):
        return [], False
    names = []
    is_all = True
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            targets = [target for target in node.targets if isinstance(target, ast.Name)]
            names += [target.id for target in targets]
            is_all = is_all and len(targets) == len(node.targets)
        else:
            is_all = is_all and isinstance(node, ast.Expr)
    is_all = is_all and not {"*", "__getattr__"} & {*names}
    return names, is_all


def _listed(package: str) -> Sequence[str]:
    """Return the classes of a package whose table is complete; empty for any other."""
    if package == "torch.optim":
        return [*keys()["model.optimizer"].classes, "lr_scheduler", "Optimizer", "swa_utils"]
    if package == "pytorch_lightning.callbacks":
        return [*keys()["trainer.callbacks"].classes, "Callback"]
    return []


@cache
def nets_of(package: str) -> Sequence[str]:
    """Return the names of the nets of torchvision or timm; empty without timm."""
    if package == "torchvision":
        return [*weights_of_torchvision()]
    return re.findall(r"@register_model\s+def (\w+)\(", _text_of_timm())


@cache
def _text_of_timm() -> str:
    """Return the text of timm's nets, whose import would import torch; empty without timm."""
    if not is_installed("timm"):
        return ""
    folder = Path(find_spec("timm").origin).with_name("models")
    return "".join(file.read_text(errors="replace") for file in sorted(folder.glob("*.py")))


# -- weights by name -------------------------------------------------------------------------------


def check_named(word: str) -> None:
    """Refuse a name of weights that no hub has, where this can be told without a hub.

    Args:
        word: a name for which `runs.names.is_hub_name` is true.

    Raises:
        UserError: the name is incomplete, or torchvision or timm have no such net or weights.
    """
    hub, _, rest = word.partition(":")
    if hub == "torchvision" and is_current():
        model, _, tag = rest.partition(".")
        model = model.removesuffix("_Weights").lower()
        refuse_unknown(hub, model, tag, weights_of_torchvision())
    elif hub == "timm":
        if not is_installed("timm"):
            raise UserError(f"{word} needs timm: pip install timm")
        model, _, tag = rest.partition(".")
        found = re.findall(rf"['\"]{re.escape(model)}\.(\w+)['\"]\s*:", _text_of_timm())
        # without any, timm makes the names of the weights, and only timm knows them
        refuse_unknown(hub, model, tag, dict.fromkeys(nets_of("timm"), found or [tag]))
    elif hub == "hf" and "/" not in rest.strip("/"):
        raise UserError(f"{printable(word)}: write hf:ORG/REPO or hf:ORG/REPO/FILE")
    elif page := re.fullmatch(r"https?://huggingface\.co/([\w.-]+/[\w.-]+)/?", word):
        raise UserError(f"{word} is a page, no file; did you mean hf:{page[1]}?")


def refuse_unknown(hub: str, model: str, tag: str, weights: Mapping[str, Sequence[str]]) -> None:
    """Refuse a net that a hub does not have, and a net without the name of its weights.

    Args:
        hub: torchvision | timm.
        model: name of the net; empty: none is given.
        tag: name of the weights; empty: none is given.
        weights: names of the weights of each net.

    Raises:
        UserError: the message names what there is.
    """
    example = {"torchvision": "resnet50.IMAGENET1K_V2"}.get(hub, "resnet50.a1_in1k")
    if not model:
        raise UserError(f"{hub}: needs the name of a net and its weights: {hub}:{example}")
    if model not in weights:
        raise UserError(f"{hub} has no net {printable(model)}{nearest(model, weights)}")
    there = ", ".join(f"{hub}:{model}.{name}" for name in weights[model])
    if tag not in weights[model]:
        shown = printable(f"{hub}:{model}.{tag}".rstrip("."))
        raise UserError(f"{shown}: say which weights; there are {there or f'none of {model}'}")


def hub_name(word: str) -> str:
    """Return the name of weights on a hub that a word may be meant for; empty: none.

    A net of torchvision without the name of its weights gets the last one that there is.
    """
    if other := re.fullmatch(r"(?:hf[-_]hub|huggingface|hf)[:/]+(.+)", word):
        word = other[1]
        return hub_name(word) or f"hf:{word}"
    if other := re.fullmatch(r"(torchvision|timm)(?:\.models\.|[./:])(\w+(?:\.\w+)?)", word):
        full = hub_name(other[2]) if other[1] == "torchvision" else ""
        return full or f"{other[1]}:{other[2]}"
    net, _, tag = word.partition(".")
    net_of_torchvision = net.removesuffix("_Weights").lower()
    weights = weights_of_torchvision().get(net_of_torchvision, [])
    if weights and (not tag or tag.isupper() or tag[:8] == "IMAGENET"):
        return f"torchvision:{net_of_torchvision}.{tag or weights[-1]}"
    if tag and re.fullmatch(r"[a-z][a-z0-9_]+\.[a-z0-9_]+", word):
        return f"timm:{word}"
    owner, _, _ = word.partition("/")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", word) and owner.lower() in tables.OWNERS.split():
        return f"hf:{word}"
    return ""


# -- folders of images -----------------------------------------------------------------------------


def has_debians(source: str) -> bool:
    """Tell whether a source finds its images in the package of Debian, without a folder of them."""
    return source == "FashionMNIST" and DEBIAN_FASHION.is_dir()


def no_folder(path: Path, source: str = "") -> str:
    """Return why a path is no folder of images, with a cure; empty: it is one, or a file that does.

    Args:
        path: what is given for the folder.
        source: the source that would read it, such as ImageNet.
    """
    ending = SINGLE_FILES.get(source, "")
    if path.is_dir() or (ending and path.is_file() and path.name.endswith(ending)):
        return ""
    shown = printable(path, 60)
    name = path.name.lower()
    if not path.exists():
        return f"image folder {shown} does not exist (seen from {Path.cwd()})"
    if name.endswith(".beton"):
        return (
            f"{shown} is a .beton file, and no folder: --data.source BetonFiles "
            f"--data.source.train {shown} --data.source.val VAL.beton"
        )
    if ending:
        return (
            f"{shown} is a file: give the folder that it is in, or one file that ends in {ending}"
        )
    if name.endswith((".zip", ".7z", ".rar")):
        return f"{shown} is an archive: unpack it, and give the folder with one folder per class"
    if re.search(r"\.(tar|tgz|tbz2?|txz)(\.\w+)?$", name):
        unpack = f"tar -xf {shlex.quote(str(path))}"
        return f"{shown} is an archive: unpack it ({unpack}), and give the folder"
    if name.endswith(IMAGES):
        return f"{shown} is one image: give a folder with one folder of images per class"
    return f"{shown} is a file: give a folder with one folder of images per class"


def flat_folder(folder: Path) -> str:
    """Return what to do with a folder whose images lie in no folders of classes.

    Args:
        folder: the folder.

    Returns:
        A message; empty where no images lie in the folder itself.
    """
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    images = [name for name in names if name.lower().endswith(IMAGES)]
    if not images:
        return ""
    told = (
        f"{len(images):,} images lie in {folder} itself, and each class needs a folder of its own"
    )
    tables = sorted(name for name in names if name.lower().endswith(".csv"))
    if not tables:
        return f"{told}: make one for each class, and move its images there"
    table = shlex.quote(str(folder / tables[0]))
    place = shlex.quote(str(folder))
    return (
        f"{told}; from a table of file,class this makes them: tail -n +2 {table} | tr -d '\\r' | "
        f'while IFS=, read -r f c; do mkdir -p "sorted/$c"; cp {place}/"$f" "sorted/$c"; done'
    )
