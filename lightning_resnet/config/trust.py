"""Check what recipes may name, so that no recipe runs code that the user does not know of.

A recipe of this command line (flags, `--config`) may name any code, which is called only where a
class of its kind belongs: `model.optimizer: {class_path: os.system, ...}` is refused. A foreign
recipe comes out of a checkpoint or a run directory. Only its net and its data are taken, and
nothing is imported but our nets and data, torchvision's models, and what this command line names;
`--trust` lifts that.
"""

import copy
import inspect
import re
import typing
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union

from jsonargparse import ArgumentParser, Namespace, _common, set_parsing_settings
from torchvision.models import get_model_builder, list_models

from lightning_resnet.config.values import OF_THAT_KIND
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.runs.identity import OBSERVERS, resolve_class

# packages whose nets and data a foreign recipe may name
OURS = ("lightning_resnet", "torchvision.models")
# options of a foreign recipe that are taken, with those of its data
KEPT = {
    "model": ("net", "bn_batch"),
    "trainer": ("max_epochs", "max_steps", "accumulate_grad_batches"),
    "run": ("threads",),
}
AWAY = {"data": ("stage",), "wandb": ("project", "entity")}  # where files and metrics go
OF_A_MACHINE = ("workers", "cache", "stage")  # options of data that are left out
# keys at which a name alone stands for a class
CLASSES = ("model.net", "data.source", "data.policy")
DOWNLOADS = ("weights", "pretrained")  # torchvision's options that fetch a file begin so
THREADS = 1024
# a choice, such as ddp or 16-mixed, or a metric
WORD = re.compile(r"((val|val_ema|train_eval|test)/)?[\w,:+-]*")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")

# In all recipes jsonargparse refuses modules that run commands, open files or load code (its own
# list); it opens files of this machine only, and makes an object only where a parameter has a type.
set_parsing_settings(
    import_path_denylist=[],
    config_read_mode_fsspec_enabled=False,
    instantiate_subclass_spec_in_any=False,
)


# -- types -----------------------------------------------------------------------------------------


def check_classes(parser: ArgumentParser, config: Namespace, prefix: str = "") -> None:
    """Refuse each class_path of a parsed configuration that is not of its parameter's type.

    Nothing is called. jsonargparse compares where a class is expected, but not where a callable is,
    nor where anything is.

    Args:
        parser: parser whose arguments have the types.
        config: configuration that the parser returned.
        prefix: prefix of the keys in messages.

    Raises:
        UserError: the key, the class_path, and what belongs there.
    """
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        if hint is not None:
            _check(config.get(action.dest), hint, f"{prefix}{action.dest}")


def _check(value: Any, hint: Any, key: str) -> None:
    if isinstance(value, list | tuple | set):
        for each in value:
            _check(each, hint, key)
        return
    content = _mapping(value)
    if content is None:
        return
    path = content.get("class_path")
    if not isinstance(path, str):
        for each in content.values():
            _check(each, hint, key)
        return
    target = _resolve(path, key)
    if not _check_target(target, path, hint, key):
        return
    inside = content.get("init_args") or {}
    if _has_class(inside):
        parser = ArgumentParser(exit_on_error=False)
        add = (
            parser.add_class_arguments if inspect.isclass(target) else parser.add_function_arguments
        )
        add(target, fail_untyped=False)
        check_classes(parser, Namespace(_mapping(inside)), f"{key}.")


def _check_target(target: Any, path: str, hint: Any, key: str) -> bool:
    """Return whether an object is made of a class_path; a mapping may have that key too.

    Args:
        target: class or function that `path` names.
        path: the class_path.
        hint: type of the parameter.
        key: key of the option.

    Raises:
        UserError: the target is not of the parameter's type.
    """
    members = list(_members(hint))
    # jsonargparse's own objects stand for annotations that are missing or cannot be read
    is_anything = any(
        one in (Any, object) or type(one).__module__.startswith("jsonargparse") for one in members
    )
    kinds = [one for one in members if inspect.isclass(one) and one not in (Any, object)]
    makers = [
        one
        for one in members
        if typing.get_origin(one) is Callable or one in (Callable, typing.Callable)
    ]
    makes = [typing.get_args(one)[-1] for one in makers if typing.get_args(one)]
    made = [
        one
        for each in makes
        for one in _members(each)
        if inspect.isclass(one) and one not in (Any, object)
    ]
    if dict in members and not kinds and not makers:
        return False  # a mapping, and it stays one
    if is_anything and not kinds and not makers:
        raise UserError(
            f"--{key}: nothing is made of {path}, because that parameter does not say what belongs "
            "there: give it a type"
        )
    if inspect.isclass(target):
        fits = _is_one(target, [*kinds, *made]) or (bool(makers) and not made and _has_call(target))
        # a type that is not understood here; jsonargparse has compared it
        fits = fits or not (kinds or makers)
    else:
        result = _returned(target)
        fits = _is_one(result, kinds) or (bool(makers) and _is_callable_type(result))
    if fits:
        return True
    wanted = " or ".join(kind.__name__ for kind in [*kinds, *made])
    wanted = wanted or "class whose objects can be called"
    raise UserError(f"--{key}: {path} is no {wanted}, and is not called: {OF_THAT_KIND}")


def _members(hint: Any) -> Iterator[Any]:
    """Yield the types in unions, lists and other containers; for a mapping also `dict` itself."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (Union, UnionType):
        for one in arguments:
            yield from _members(one)
    elif origin is Annotated:
        yield from _members(arguments[0])
    elif origin is type or hint in (None, type(None), bool, int, float, complex, str, bytes, ...):
        return
    elif origin is Callable:
        yield hint
    elif origin is not None:
        if issubclass(origin, Mapping):
            yield dict
        for one in arguments:
            yield from _members(one)
    elif inspect.isclass(hint) and issubclass(hint, Mapping):
        yield dict
    else:
        yield hint


def _is_one(target: Any, kinds: Sequence[type]) -> bool:
    if not inspect.isclass(target):
        return False
    for kind in kinds:
        try:
            if issubclass(target, kind):
                return True
        except TypeError:  # a protocol with attributes; jsonargparse has compared it
            return True
    return False


def _has_call(kind: type) -> bool:
    return any("__call__" in vars(base) for base in kind.__mro__)


def _is_callable_type(hint: Any) -> bool:
    return (
        hint is Callable
        or typing.get_origin(hint) is Callable
        or (inspect.isclass(hint) and _has_call(hint))
    )


def _returned(function: Any) -> Any:
    """Return the annotation of what a function returns; None without one."""
    try:
        return typing.get_type_hints(function).get("return")
    except (TypeError, NameError, AttributeError):  # no function, or its annotations cannot be read
        return None


def _resolve(path: str, key: str) -> Any:
    try:
        return resolve_class(path)
    except (ValueError, ImportError, AttributeError) as e:
        raise UserError(f"--{key} {path}: {one_line(e)}") from e


def _mapping(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Namespace):
        return vars(value)
    return dict(value) if isinstance(value, Mapping) else None


def _has_class(value: Any) -> bool:
    if isinstance(value, list | tuple | set):
        return any(map(_has_class, value))
    content = _mapping(value)
    return content is not None and (
        "class_path" in content or any(map(_has_class, content.values()))
    )


# -- foreign recipes -------------------------------------------------------------------------------


class Foreign(NamedTuple):
    """A recipe out of a checkpoint or a run directory.

    Attributes:
        told: content of the recipe.
        path: file of the recipe.
        trust: whether the recipe may name any code.
        has_weights: whether the net's weights come from a checkpoint, so that none are downloaded.
        takes_flags: whether the verb has flags for the keys of a recipe.
    """

    told: dict[str, Any]
    path: Path
    trust: bool = False
    has_weights: bool = True
    takes_flags: bool = True

    def kept(self) -> dict[str, Any]:
        """Return the part of the recipe that is taken."""
        parts = {name: self._part(name) for name in ("model", "data", "trainer", "run")}
        recipe = {
            name: {k: parts[name][k] for k in keys if k in parts[name]}
            for name, keys in KEPT.items()
        }
        limits = {k: v for k, v in recipe["trainer"].items() if type(v) is int}
        recipe["trainer"] = {"max_epochs": 1} | limits
        threads = recipe["run"].pop("threads", None)
        if type(threads) is int and 1 <= threads <= THREADS:
            recipe["run"]["threads"] = threads
        recipe["data"] = {k: v for k, v in parts["data"].items() if k not in OF_A_MACHINE}
        seed = self.told.get("seed_everything")
        recipe["seed_everything"] = seed if type(seed) is int and seed >= 0 else 0
        return recipe

    def to_train(self) -> tuple[dict[str, Any], list[str]]:
        """Return the recipe's training options, and the keys that are left out.

        Options that may name other people's code are left out. Net and data are not among the
        options: these are taken as parsed.
        """
        if self.trust:
            return copy.deepcopy({k: v for k, v in self.told.items() if k != "run"}), []
        recipe: dict[str, Any] = {"trainer": {}, "model": {}}
        left = []
        for part, options in recipe.items():
            for key, value in self._part(part).items():
                if key == "callbacks" and isinstance(value, list):
                    options[key] = [one for one in value if _is_observer(one)]
                    is_complete = len(options[key]) == len(value)
                else:
                    is_complete = _is_harmless(value)
                    if is_complete:
                        options[key] = copy.deepcopy(value)
                if not is_complete and value is not None:
                    left.append(f"{part}.{key}")
        for part, keys in AWAY.items():
            left += [f"{part}.{key}" for key in keys if self._part(part).get(key) is not None]
        return recipe, left

    def _part(self, name: str) -> dict[str, Any]:
        """Return a section of the recipe; empty if the recipe has none."""
        part = self.told.get(name) or {}
        if not isinstance(part, dict) or not all(
            isinstance(key, str) and key.isidentifier() for key in part
        ):
            raise UserError(
                f"the recipe of {self.path} has a part `{name}` that `fit` does not write"
            )
        return part

    def parse(self, parser: ArgumentParser, args: Sequence[str]) -> Namespace:
        """Parse what is kept of the recipe, and import nothing that the recipe may not name.

        Args:
            parser: parser of recipes.
            args: the command line, which is parsed on top of this recipe.

        Raises:
            UserError: the recipe names a class that it may not name, or one of another type.
        """
        recipe = self.kept()
        named = set() if self.trust else names_in(args)
        if not self.trust:
            self._give_way(recipe, named, args)
            for key, name in _named(recipe):
                if not _is_allowed(name, named):
                    raise self._refusal(key, name)
        used = [name for _, name in _named(recipe) if name in named]
        try:
            with nullcontext() if self.trust else _only(named, used), _without_files(parser):
                config = parser.parse_object(recipe)
        except ArgumentError as e:
            denied = re.search(
                r"Importing '([^']+)' is not allowed, denied by the '\*' entry", str(e)
            )
            if denied:
                raise self._refusal("", denied[1]) from e
            raise
        check_classes(parser, config)
        if not self.trust:
            self._forget_downloads(config)
        return config

    def _give_way(self, recipe: dict[str, Any], named: set[str], args: Sequence[str]) -> None:
        """Replace each class that the recipe may not name if a flag names another one."""
        for key in CLASSES:
            part, _, option = key.partition(".")
            names = [name for at, name in _named(recipe) if at == key]
            name = names[0] if names else None
            flags = _flags(args, key)
            other = flags.pop("", None) or flags.pop("class_path", None)
            if name and other and not _is_allowed(name, named):
                options = {flag.removeprefix("init_args."): value for flag, value in flags.items()}
                recipe[part][option] = (
                    None if other == "null" else {"class_path": other, "init_args": options}
                )

    def _refusal(self, key: str, name: str) -> UserError:
        """Return the error for a class that the recipe may not name."""
        flag = f"--{key.replace('.init_args', '')} {name}" if key else f"the flag that names {name}"
        cure = f"add {flag}, or --trust" if self.takes_flags else "add --trust"
        cure += " (from Python: trust=True)"
        at = f" as {key}" if key else ""
        return UserError(
            f"the recipe of {self.path} names {name}{at}, which is neither ours nor torchvision's, "
            "and nothing of it was imported: if you know that code and where the file is from, "
            f"{cure}"
        )

    def _forget_downloads(self, config: Namespace) -> None:
        """Turn off downloads of weights by torchvision's models.

        Raises:
            UserError: the recipe names another function of torchvision's than a model, or begins
                with weights to download.
        """
        for key, spec in _specs(config.model.net, "model.net"):
            target = _resolve(spec["class_path"], key)
            if inspect.isclass(target) or not spec["class_path"].startswith("torchvision."):
                continue
            name = getattr(target, "__name__", "")
            if name not in list_models() or get_model_builder(name) is not target:
                raise UserError(
                    f"the recipe of {self.path} names {spec['class_path']}, which is none of "
                    "torchvision's models: it is not called"
                )
            for part in ("init_args", "dict_kwargs"):
                options = _mapping(spec.get(part)) or {}
                fetched = [k for k in options if k.startswith(DOWNLOADS)]
                asked = [k for k in fetched if options[k] not in (None, False)]
                if asked and not self.has_weights:
                    raise UserError(
                        f"the recipe of {self.path} begins with weights that {name} would "
                        f"download: add --trust, or --{key}.{asked[0]} null for new ones"
                    )
                for k in fetched:
                    spec[part][k] = None


def _is_observer(callback: Any) -> bool:
    """Return whether a callback is one of ours that only watch the training."""
    name = callback.get("class_path") if isinstance(callback, dict) else None
    return isinstance(name, str) and name in OBSERVERS


def _is_harmless(value: Any) -> bool:
    """Return whether a value names no foreign code, and no file that would be read as a recipe.

    Our own code and torch's optimizers are harmless.
    """
    if isinstance(value, str):
        return bool(WORD.fullmatch(value)) and not Path(value).exists()
    if isinstance(value, list):
        return all(map(_is_harmless, value))
    if not isinstance(value, dict):
        return True
    name = value.get("class_path", "")
    is_ours = isinstance(name, str) and (
        _is_allowed(name, set()) or name.startswith("torch.optim.")
    )
    return is_ours and all(_is_harmless(one) for key, one in value.items() if key != "class_path")


def _flags(args: Sequence[str], key: str) -> dict[str, str]:
    """Return the values that flags give to a class, under an empty name, and to its arguments."""
    found = {}
    for word, following in zip(args, [*args[1:], ""], strict=False):
        flag, is_joined, value = word.partition("=")
        if f"{flag}.".startswith(f"--{key}."):
            name = flag.removeprefix(f"--{key}").removeprefix(".")
            found[name] = value if is_joined else following
    return found


def names_in(args: Sequence[str]) -> set[str]:
    """Return the dotted names in the values of a command line's flags and in its recipes."""
    values = [a.partition("=")[2] if a.startswith("--") else a for a in args]
    recipes = [b for a, b in zip(args, args[1:], strict=False) if a in ("-c", "--config")]
    values += [Path(recipe).read_text() for recipe in recipes]
    found = {name for value in values for name in NAME.findall(value)}
    # jsonargparse's own names would change these rules
    return {name for name in found if name.partition(".")[0] != "jsonargparse"}


def _is_allowed(name: str, named: set[str]) -> bool:
    """Return whether a recipe may name a class.

    A word alone is a class of ours, or is refused when it is looked up.
    """
    return (
        "." not in name
        or name in named
        or name.startswith(tuple(f"{package}." for package in OURS))
    )


def _named(recipe: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the key and name of each class in a recipe."""
    for key in CLASSES:
        part, _, option = key.partition(".")
        value = recipe.get(part, {}).get(option)
        if isinstance(value, str):
            yield key, value
    for key, spec in _specs(recipe, ""):
        yield key, spec["class_path"]


def _specs(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield each mapping with a class_path, and its key."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _specs(each, key)
    content = _mapping(value)
    if content is None:
        return
    if isinstance(content.get("class_path"), str):
        yield key, value
    for name, each in content.items():
        yield from _specs(each, f"{key}.{name}" if key else str(name))


@contextmanager
def _only(named: set[str], used: Sequence[str]) -> Iterator[None]:
    """Let jsonargparse import our code, torch's optimizers and what the command line names only.

    Args:
        named: names on the command line.
        used: names that the recipe has too; their module may be another than the one named.
    """
    found = [_resolve(name, "class_path") for name in used]
    homes = [
        f"{target.__module__}.{target.__qualname__}"
        for target in found
        if hasattr(target, "__qualname__")
    ]
    before = _common.parsing_settings["import_path_verdicts"]
    allowed = [*OURS, "torch.optim", *named, *(home for home in homes if NAME.fullmatch(home))]
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
    try:
        yield
    finally:
        _common.parsing_settings["import_path_verdicts"] = before


@contextmanager
def _without_files(parser: ArgumentParser) -> Iterator[None]:
    """Let a text in a recipe never be the name of a further recipe to open."""
    actions = [action for action in parser._actions if hasattr(action, "_enable_path")]
    before = [(action, action._enable_path, action.sub_add_kwargs) for action in actions]
    for action in actions:
        action._enable_path = False
        action.sub_add_kwargs = action.sub_add_kwargs | {"sub_configs": False}
    try:
        yield
    finally:
        for action, enabled, options in before:
            action._enable_path = enabled
            action.sub_add_kwargs = options
