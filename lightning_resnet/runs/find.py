"""Find run directories in folders."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning_resnet.errors import UserError, nearest, printable, tell
from lightning_resnet.files import IMAGES
from lightning_resnet.meant import check_named, hub_name
from lightning_resnet.runs.labels import is_label, labels_in
from lightning_resnet.runs.listing import describe, named
from lightning_resnet.runs.names import check_texts, is_hub_name
from lightning_resnet.runs.reader import Run
from lightning_resnet.shipped import recipe_file, references

# Endings of files with weights, of which a missing one is no name of a run.
FILES = (".ckpt", ".pth", ".pt", ".th", ".bin", ".safetensors", ".onnx", ".yaml")
MOST_FOLDERS = 10_000  # that are searched for runs
MOST_SHOWN = 20  # runs that are listed where one is meant
# files that our verbs write and none reads -> what to do
PACKED = "is an archive: unpack it with `tar xf {}`, and name the run in it"
NO_WEIGHTS = {
    ".onnx": "is for ONNX runtimes, and no verb reads it: name the run or file that it was made of",
    ".tar.gz": PACKED,
    ".tgz": PACKED,
    ".jsonl": "holds what was measured, and no weights: the run is the folder that it lies in",
    ".yaml": "is a recipe, and holds no weights",
    ".yml": "is a recipe, and holds no weights",
    ".beton": "holds images, and no weights: resnet-cli data info {} tells which",
}
NAMES_OF_HUBS = {"torchvision": "torchvision", "timm": "timm", "hf": "Hugging Face"}
LOOKS = (*IMAGES, ".gif", ".ppm")  # ends of names of images, also of those that are not read


def locate(path: str | os.PathLike[str]) -> Path:
    """Return the path of a folder; `reference:digits` is one that comes with the package.

    Raises:
        UserError: no runs of this name come with the package.
    """
    kind, colon, name = str(path).partition(":")
    if kind != "reference" or (not colon and Path(path).exists()):
        return Path(path)
    first, *rest = name.strip("/").split("/")
    known = references()
    listed = ", ".join(f"reference:{each}" for each in known)
    if not first:
        raise UserError(f"{path} needs the name of a set of measured runs; there are {listed}")
    if first not in known:
        raise UserError(f"there is no {path}{nearest(first, known)}; there are {listed}")
    return known[first].joinpath(*rest)


def find_runs(paths: Iterable[Path], shared: bool = False) -> Iterator[Path]:
    """Yield each run directory once.

    A folder that may not be opened is yielded too, so that its reader reports it as unreadable.

    Args:
        paths: run directories, or folders that hold run directories at any depth.
        shared: yield a run that several sweeps share below each of them.

    Raises:
        UserError: a path is no folder, or holds too many folders that are no runs.
    """
    paths = list(paths)
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"{path} is not a folder; give a run, a sweep or the folder that holds them"
            )
    others = 0  # folders that are no runs
    seen: set[str] = set()  # real paths, because links may lead in circles and paths may overlap
    parents: dict[str, str] = {}  # real paths of folders, by path
    for path in paths:
        unreadable: list[Path] = []

        def note(error: OSError, unreadable: list[Path] = unreadable) -> None:
            unreadable.append(Path(error.filename))

        for folder, inside, files in os.walk(path, followlinks=True, onerror=note):
            has_recipe = "config.yaml" in files and "meta.json" in files
            is_run = "metrics.jsonl" in files or "attempts" in inside or has_recipe
            inside_of, name = os.path.split(os.path.abspath(folder))
            if inside_of not in parents:
                parents[inside_of] = os.path.realpath(inside_of)
            real_path = os.path.join(parents[inside_of], name)
            # a sweep's link to the run of another is a place of its own for `shared`
            if os.path.islink(folder) and not (is_run and shared):
                real_path = os.path.realpath(folder)
            is_new = real_path not in seen
            seen.add(real_path)
            others += not is_run
            if others > MOST_FOLDERS:
                raise UserError(
                    f"{path} has more than {MOST_FOLDERS:,} folders that are no runs: give the "
                    "folder of the runs"
                )
            if is_run and is_new:
                yield Path(folder)
            if is_run or not is_new:
                inside.clear()
            else:
                inside[:] = sorted(
                    name
                    for name in inside
                    if name[0] != "." and not is_label(os.path.join(folder, name))
                )
        yield from unreadable


def folder_of(word: str | os.PathLike[str], root: str | os.PathLike[str] = "runs") -> Path:
    """Return the folder that a word names, for verbs that take several runs.

    Args:
        word: a folder, `reference:NAME`, or below the root: the name of a sweep, or a run by its
            name or id, as `find_run` finds one.
        root: folder of all runs.

    Raises:
        UserError: the word names nothing, several runs, or a file.
    """
    path = sweep_folder(word, root)
    if path.is_dir():
        return path.with_name(os.readlink(path)) if is_label(path) else path
    found = find_run(word, root)
    if not found.is_dir():
        raise UserError(
            f"{printable(found)} is not a folder; give a run, a sweep or the folder that holds them"
        )
    return found


def sweep_folder(word: str | os.PathLike[str], root: str | os.PathLike[str] = "runs") -> Path:
    """Return the folder of a sweep that a word names below the root; any other word as a path.

    Raises:
        UserError: no runs of this name come with the package.
    """
    path = locate(word)
    below = Path(root, path)
    is_name = path.name and ".." not in path.parts and not path.is_dir()
    return below if is_name and below.is_dir() and not is_run(below) else path


def find_run(word: str | os.PathLike[str], root: str | os.PathLike[str] = "runs") -> Path:
    """Return the run directory or the file that a word of the command line names.

    Args:
        word: a run directory, a readable link to one, a folder that holds one run, a file, or below
            the root: a run's id, the beginning of an id or of a readable name that no other run
            has, with or without the folder of the run before it.
        root: folder of all runs.

    Raises:
        UserError: the word names no run, or several, which are listed on stderr.
    """
    check_texts({"the name of a run": str(word)})
    path = locate(word)
    if re.search(r"[*?]", str(word)) and not path.exists():
        raise UserError(no_match(path))
    if path.is_dir():
        if is_run(path):
            return path.with_name(os.readlink(path)) if is_label(path) else path
        inside = [*find_runs([path])]
        if not inside:
            raise UserError(no_run(path))
        return _only(inside, f"{path} holds {len(inside)} runs")
    is_file = path.suffix in FILES or (
        len(path.parts) > 1 and path.parent.is_dir() and re.fullmatch(r"\.[a-z]{2,11}", path.suffix)
    )
    if path.exists() or is_file or path.is_absolute():
        return path  # a reader of files says what is wrong with it
    below = Path(root, path)
    if below.is_dir() and path.name and ".." not in path.parts:
        return find_run(below)
    names = _names(Path(root), str(word))
    name = str(word).rpartition("/")[2]
    found = [run for run, own in names.items() if name in own]
    found = found or [run for run, own in names.items() if any(n.startswith(name) for n in own)]
    found = _without_links(found)
    if not found:
        known = [label for own in names.values() for label in own]
        known += [run.parent.name for run in names]
        begins = [label for label in known if nearest(name, [label[: len(name)]])]
        hint = nearest(name, known)
        if Path(f"{path}.ckpt").is_file():
            hint = f"; did you mean {path}.ckpt?"
        if not hint and (weights := hub_name(str(word))):
            hint = f"; weights of {NAMES_OF_HUBS[weights.partition(':')[0]]} are {weights}"
        if begins and not hint:
            hint = f"; did you mean {begins[-1]}?"
        hint = hint or ": resnet-cli runs lists them"
        raise UserError(
            f"run {printable(word)} does not exist, and no run below {root} has a name or id that "
            f"begins so{hint}"
        )
    return _only(found, f"{printable(word)} may be one of {len(found)} runs below {root}")


def no_match(pattern: Path) -> str:
    """Return the message for a pattern of names that the shell has left as it is."""
    return (
        f"{printable(pattern)}: the shell found no file for this pattern, or quotes kept it from "
        "looking: resnet-cli runs lists the runs"
    )


def check_no_folder(word: str, flag: str = "", root: str | os.PathLike[str] = "runs") -> None:
    """Refuse a folder, another file of a run, or the name of a run where a recipe is meant.

    Args:
        word: what is given for the recipe, or next to it.
        flag: the flag that the word follows; empty: none.
        root: folder of all runs.

    Raises:
        UserError: the word is a folder: a run, a folder of runs, or another one; or a run's file.
    """
    folder = Path(word)
    own = [Run(place).config_file for place in folder.parents[:2] if is_run(place)]
    if own and folder.suffix in (".json", ".jsonl") and folder.is_file():
        raise UserError(
            f"{flag} {printable(word, 60)} is no recipe, but {own[0].name} lies next to it: "
            f"--config {quote(own[0])}".strip()
        )
    if not word or recipe_file(word).is_file():
        return
    if not folder.exists():
        found = [run for run, names in _names(Path(root), word).items() if folder.name in names]
        folder = found[0] if len(found) == 1 else folder
    if not folder.is_dir():
        return
    recipes = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if is_run(folder):
        recipe = Run(folder).config_file
        told = (
            f"a run: the command that began it continues it, and so does --config {quote(recipe)}; "
        )
        told += "with --run.new it is repeated"
    elif any(True for _ in find_runs([folder])):
        told = f"a folder of runs: resnet-cli runs {quote(folder)} lists them, and the command "
        told += "that began a run continues it"
    elif recipes:
        told = f"a folder; did you mean --config {quote(recipes[0])}?"
    elif has_images(folder):
        told = f"a folder: to train on images in it, --config photos --data {quote(folder)}"
    else:
        told = "a folder without a recipe or images; resnet-cli recipes lists ours"
    raise UserError(f"{flag} {printable(word, 60)} is {told}".strip())


def quote(path: Path) -> str:
    """Return a path as a command line takes it."""
    return shlex.quote(str(path))


def no_run(folder: Path) -> str:
    """Return the message for a folder without runs where a run is meant."""
    if has_images(folder):
        return (
            f"{folder} is a folder of images and no run: resnet-cli runs lists runs; "
            f"resnet-cli fit --config photos --data {quote(folder)} trains on one folder per "
            "class"
        )
    return (
        f"{folder} is no run and holds none: give what `resnet-cli fit` has written, as "
        "resnet-cli runs lists it"
    )


def has_images(folder: Path) -> bool:
    """Tell whether images lie in a folder, or in the folders in it, of which it looks at a few."""
    for _, folders, files in os.walk(folder):
        folders[:] = sorted(folders)[:10]
        if any(name.lower().endswith(LOOKS) for name in files):
            return True
    return False


def check_weights(
    word: str, root: str | os.PathLike[str] = "runs", is_trained: bool = True
) -> None:
    """Refuse a word that names no weights, before torch is imported.

    Args:
        word: a run, as `find_run` finds it, a checkpoint, or a name of weights on a hub.
        root: folder of all runs.
        is_trained: whether a run must have a checkpoint.

    Raises:
        UserError: there is no such run or file, or there are several runs.
    """
    if is_hub_name(word):
        check_named(word)
        return
    path = find_run(word, root)
    if not path.exists():
        raise UserError(f"checkpoint {path} does not exist{_similar(path)}")
    _refuse_others(path)
    if path.is_dir() and is_trained:
        weights_of(str(path), root)


def check_target(word: str, one: bool = False, is_trained: bool = True) -> None:
    """Refuse a word that names neither runs nor weights nor a recipe, before torch is imported.

    Args:
        word: as in `check_weights`, a folder of runs, a recipe or a sweep.
        one: refuse a folder of several runs.
        is_trained: whether a run must have a checkpoint.

    Raises:
        UserError: there is nothing of that name, or there are several runs.
    """
    if recipe_file(word).suffix == ".yaml":
        return
    path = sweep_folder(word)
    if one or not path.is_dir() or is_run(path):
        check_weights(word, is_trained=is_trained)
    elif not any(True for _ in find_runs([path])):
        raise UserError(no_run(path))


def _refuse_others(path: Path) -> None:
    """Refuse an image, and a file that a verb of ours wrote without weights that can be read."""
    if path.suffix.lower() in LOOKS:
        raise UserError(f"{path} is an image, and no run or checkpoint: resnet-cli runs lists runs")
    for ending, why in NO_WEIGHTS.items():
        if path.name.lower().endswith(ending):
            raise UserError(f"{path} {why.format(quote(path))}")


def _similar(path: Path) -> str:
    """Return a suggestion for a file that does not exist: another one in its folder."""
    others = [file.name for file in path.parent.glob("*") if file.suffix in FILES]
    others = [name for name in others if not name.endswith((*NO_WEIGHTS, ".yaml"))]
    if path.parent.name == "checkpoints" and len(others) == 1:
        return f"; there is {others[0]}"
    names = "resnet-cli runs lists runs"
    if path.suffix != ".ckpt":
        names = "weights by name are torchvision:NAME, timm:NAME and hf:ORG/REPO"
    return nearest(path.name, others) or f" (seen from {Path.cwd()}): {names}"


def weights_of(word: str, root: str | os.PathLike[str] = "runs") -> Path:
    """Return the checkpoint that a word names: a file, or the last of a run; see `find_run`.

    Raises:
        UserError: the word names no run or several, or the run has no checkpoint.
    """
    path = find_run(word, root)
    if not path.is_dir():
        _refuse_others(path)
        return path
    files = [file for file in Run(path).candidates() if file.exists()]
    if not files:
        raise UserError(f"run {path} has no checkpoint: train it with `resnet-cli fit`")
    return files[0]


def is_run(path: Path) -> bool:
    """Tell whether a path is a run directory."""
    return Run(path).has_begun() or Run(path).checkpoints.is_dir()


def _names(root: Path, word: str) -> dict[Path, list[str]]:
    """Return the runs below a root that a word may name, each with its id and readable name."""
    folder, _, name = word.rpartition("/")
    if not name or ".." in folder.split("/"):
        return {}
    names: dict[Path, list[str]] = {}
    labels: dict[Path, dict[str, str]] = {}
    for run in find_runs([root], shared=True) if root.is_dir() else ():
        if not folder or run.parent == root / folder:
            if run.parent not in labels:
                labels[run.parent] = labels_in(run.parent)
            names[run] = [run.name, labels[run.parent].get(run.name, run.name)]
    return names


def _without_links(runs: list[Path]) -> list[Path]:
    """Return each of several runs once: in place of sweeps' links to a run, the run itself."""
    own = {run.resolve(): run for run in sorted(runs, key=lambda run: not run.is_symlink())}
    return [run for run in runs if own[run.resolve()] == run]


def _only(runs: list[Path], several: str) -> Path:
    """Return the only run; list several on stderr.

    Raises:
        UserError: there are several runs.
    """
    if len(runs) > 1:
        tell(named(describe(runs[:MOST_SHOWN])), file=sys.stderr)
        if len(runs) > MOST_SHOWN:
            tell(f"... and {len(runs) - MOST_SHOWN} more", file=sys.stderr)
        name = labels_in(runs[0].parent).get(runs[0].name, runs[0].name)
        raise UserError(f"{several}: give one of them, such as {runs[0].with_name(name)}")
    return runs[0]


def described_runs(folder: Path, pattern: str = "*") -> Iterator[Run]:
    """Yield the runs below a folder that have a meta.json.

    Args:
        folder: folder of runs of one name, or with another pattern, the root.
        pattern: run directories as seen from the folder, for `Path.glob`.
    """
    for file in folder.glob(f"{pattern}/meta.json"):
        if _is_visible(file.parent, folder) and not is_label(file.parent):
            yield Run(file.parent)


def begun_runs(folder: Path) -> Iterator[Run]:
    """Yield the runs in a folder that have begun."""
    for attempts in folder.glob("*/attempts"):
        if _is_visible(attempts.parent, folder) and not is_label(attempts.parent):
            yield Run(attempts.parent)


def _is_visible(path: Path, folder: Path) -> bool:
    """Tell whether no name below a folder is hidden, as what a killed `rm` leaves is."""
    return not any(name.startswith(".") for name in path.relative_to(folder).parts)
