"""Command line `resnet-cli VERB ...`: the table of verbs, and how a verb runs and ends.

Each verb imports only the modules it needs, because torch is slow to import.
"""

# These imports are few: a Ctrl-C during them, before `main` sets its handler, ends in a traceback.
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module


class Verb:
    """Verb of the command line.

    Args:
        help: what the verb does, for the table of verbs.
        module: module of `lightning_resnet.cli` with `make_parser()` and `run(args)`; empty: it has
            the verb's name.
        armed: whether signals leave a mark or raise `Stopped`, so that the verb can end in order.
        ranked: whether the verb may run as several processes.
    """

    def __init__(
        self, help: str, module: str = "", armed: bool = False, ranked: bool = False
    ) -> None:
        self.help = help
        self.module = module
        self.armed = armed
        self.ranked = ranked


VERBS = {
    "fit": Verb("train a net by a recipe, or continue", armed=True, ranked=True),
    "validate": Verb(
        "validation metrics of a trained run or checkpoint", "fit", armed=True, ranked=True
    ),
    "test": Verb("test metrics", "fit", armed=True, ranked=True),
    "evaluate": Verb("error by crops, resolution, norm statistics, weights"),
    "predict": Verb("the most probable classes of images, or of the validation images", armed=True),
    "sweep": Verb("list or run the points of a sweep"),
    "recipes": Verb("recipes, sweeps and measured runs that come with the package"),
    "runs": Verb("list runs: what differs, state, steps, error, when, size"),
    "rm": Verb("remove runs, after a question"),
    "export": Verb("put a run into one archive: recipe, metrics, weights"),
    "requeue": Verb("at the end of a SLURM job: requeue it, or not"),
    "completion": Verb("a script that completes verbs, keys and recipes in your shell"),
    "sync": Verb("upload runs to Weights & Biases, from where it can be reached"),
    "compare": Verb("tables and figures from runs"),
    "inspect": Verb("gradients, responses, lesions, ... of a net, block by block"),
    "deepen": Verb("add blocks to a trained net, as identity or at random"),
    "convert": Verb("weights of torchvision, timm, ... into ours; ours into ONNX, ..."),
    "data": Verb("get a data set; write, check and describe .beton files"),
    "doctor": Verb("will training run here? each problem with its cure"),
    "bench": Verb("measure our parts against their peers"),
}


WITH_VERBS = ("data", "inspect", "bench")  # verbs that another word of what to do follows
DATA = "data"  # folder of the sets that `data get` fetches, unless a recipe gives another
# source -> what to say of its folder or file that is not there
MISSING = {
    "ImageFolder": "image folder {0} does not exist (seen from {1}): give one with --data FOLDER",
    "ImageNet": "folder {0} does not exist (seen from {1}): --data.source.root DIR gives another",
    "BetonFiles": "{0} does not exist (seen from {1}): resnet-cli data write imagenet --root "
    "FOLDER --out {0} writes it (docs/recipes.md), or --data FOLDER and --data.source ImageNet "
    "--data.source.root FOLDER read images themselves",
    "CIFAR10": "CIFAR10 not found in folder {0} (seen from {1}): run `resnet-cli data get cifar10`",
    "CIFAR100": "CIFAR100 not found in folder {0} (seen from {1}): run `resnet-cli data get "
    "cifar100`",
    "FashionMNIST": "Fashion-MNIST not found in folder {0} (seen from {1}): run `resnet-cli data "
    "get fashion_mnist`",
}


def _unknown_verb(argv: list[str]) -> str:
    """Return the message for a command line that begins with no verb."""
    import re
    import shlex

    from lightning_resnet import words as tables
    from lightning_resnet.errors import most_similar, printable
    from lightning_resnet.shipped import recipes, sweeps

    word = argv[0]
    if not word:
        return "the verb is empty; resnet-cli --help lists them"
    shown = printable(word, 60)
    at = next((i for i, other in enumerate(argv) if other in VERBS), 0)
    if word.startswith("-") and (at or word in ("-c", "--config")):
        verb = argv[at] if at else "fit"
        rest = [*argv[:at], *argv[at + 1 :]] if at else argv
        return f"the verb comes first: resnet-cli {shlex.join([verb, *rest])}"
    if " " in word and word.split()[0] in VERBS:
        return f"unknown verb {word!r}: leave the quotes out: resnet-cli {word}"
    plain = word.lower().lstrip("-").replace("-", "_")
    meanings = tables.by_word(tables.VERBS)
    known = {name: name for name in VERBS} | meanings
    if word in ("--h", "-help"):
        return f"unknown option {word}; did you mean --help?"
    if near := most_similar(word, ("--version", "--help"), 0.8):
        return f"unknown option {word}; did you mean {near}?"
    if word.startswith("-"):
        told = f": {meanings[plain]}" if " " in meanings.get(plain, "") else ""
        told = told or "; the verb comes first, and resnet-cli --help lists them"
        return f"unknown option {shown}{told}"
    if plain in tables.BEFORE.split() and at:
        rightly = shlex.join([*argv[:at], "resnet-cli", *argv[at:]])
        return f"unknown verb {shown}: {word} comes first: {rightly}"
    if plain == "wandb" and argv[1:2] and argv[1] in tables.OF_WANDB.split():
        return f"{shown} is a command of its own: leave resnet-cli out: {shlex.join(argv)}"
    if plain in ("python", "python3") and any(other.endswith(".py") for other in argv):
        return f"{shown} is a command of its own: leave resnet-cli out: {shlex.join(argv)}"
    if plain in tables.STARTERS.split() and at:
        rightly = shlex.join(["resnet-cli", *argv[at:]])
        return f"unknown verb {shown}: fit starts the ranks itself, with --devices N: {rightly}"
    if plain == "info" and argv[1:]:
        verb = "data info" if argv[1].endswith(".beton") else "runs"
        return f"unknown verb {shown}; did you mean resnet-cli {verb} {shlex.join(argv[1:])}?"
    meant = known.get(plain)
    for parent in () if meant else WITH_VERBS:
        below = _below(parent)
        sub = plain.removeprefix(f"{parent}_")
        meaning = tables.by_word(tables.FLAGS[parent]).get(sub, sub)
        if meaning in below and (sub != plain or sub in below):
            rightly = shlex.join([parent, meaning, *argv[1:]])
            return f"unknown verb {shown}; did you mean resnet-cli {rightly}?"
    meant = meant or most_similar(plain, VERBS, 0.85)
    if not meant and at:
        rightly = shlex.join(["resnet-cli", *argv[at:]])
        return f"unknown verb {shown}; did you mean {rightly}?"
    joined = re.fullmatch(rf"({'|'.join(VERBS)})(--.*)", word)
    if not meant and (word in recipes() or word.endswith((".yaml", ".yml"))):
        return f"unknown verb {shown}; did you mean resnet-cli fit --config {shlex.join(argv)}?"
    if word in sweeps():
        return f"unknown verb {shown}; did you mean resnet-cli sweep {shlex.join(argv)}?"
    if joined:
        rightly = shlex.join([*joined.groups(), *argv[1:]])
        return f"unknown verb {shown}; did you mean resnet-cli {rightly}?"
    meant = meant or known.get(most_similar(plain, known))
    if not meant:
        return f"unknown verb {shown}; resnet-cli --help lists them"
    is_verb = meant.split()[0] in VERBS and len(meant.split()) <= 3
    return f"unknown verb {shown}; did you mean {meant}?" if is_verb else f"{shown}: {meant}"


def _below(verb: str) -> list[str]:
    """Return the words that may follow a verb of several, such as `get` after `data`."""
    parser = import_module(f"lightning_resnet.cli.{verb}").make_parser()
    return [str(word) for word in next(a.choices for a in parser._actions if a.choices)]


def continues(argv: list[str]) -> bool:
    """Tell whether the same command continues where it was interrupted."""
    if argv[:1] == ["data"]:
        return argv[1:2] in (["get"], ["write"])
    return argv[:1] in (["fit"], ["sweep"], ["sync"])


def main(argv: list[str] | None = None) -> int:
    """Run the verb that the command line names.

    Args:
        argv: the command line; default: that of this process.

    Returns:
        Exit status: 0 done, 1 not all done, 2 an error that the user can cure, 129, 130 or 143
        stopped by a signal, 141 the reader of stdout has left.
    """
    if argv is not None:
        return _guarded(argv)
    # A background job of a shell ignores SIGINT. Otherwise set a handler before the imports: they
    # take long enough for a Ctrl-C, and a KeyboardInterrupt during an import is a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave_at_once)
    from lightning_resnet.console import open_closed_streams, tell_of_torch
    from lightning_resnet.engine.signals import STATUSES, leave, leave_with

    open_closed_streams()
    argv = sys.argv[1:]
    tell_of_torch(argv, os.environ)
    status = shielded(argv)
    leave_with(status)  # once torch is imported, the interpreter's own end takes a second
    if status in STATUSES.values() and not continues(argv):
        leave(status)
    return status


def shielded(argv: list[str]) -> int:
    """Run one verb in a process of its own; print a traceback with its secrets masked."""
    try:
        return _guarded(argv)
    except Exception as e:
        from traceback import format_exception

        from lightning_resnet.masking import mask

        print(mask("".join(format_exception(e))), end="", file=sys.stderr)
        return 1


def _interrupted(argv: list[str]) -> str:
    """Return the line that an interrupted verb prints."""
    how = "continues" if continues(argv) else "starts over"
    return f"interrupted; the same command {how}"


def _leave_at_once(signum: int, frame: object) -> None:
    """Handle SIGINT before the verb has its own handler: print a line and exit."""
    line = "\r\x1b[K" if os.isatty(2) else ""  # takes away what is imported just now
    os.write(2, f"{line}{_interrupted(sys.argv[1:])}\n".encode())
    os._exit(128 + signum)


def _guarded(argv: list[str]) -> int:
    """Run one verb with guarded standard streams, and quietly where -q asks for it."""
    from lightning_resnet.console import QUIET, OutputLost, guarded, is_quiet

    argv, asked = _without_quiet(argv)
    begins = asked and not is_quiet()
    if begins:
        os.environ[QUIET] = "1"  # for the ranks too
    try:
        with guarded():
            return _run(argv)
    except OutputLost as e:
        return e.exit_status
    finally:
        if begins:
            del os.environ[QUIET]


def _without_quiet(argv: list[str]) -> tuple[list[str], bool]:
    """Return a command line without -q of the verbs that take it, and whether -q was there.

    What follows `--` are words for sbatch, which has a -q of its own.
    """
    if argv[:1] not in (["fit"], ["sweep"]):
        return argv, False
    end = argv.index("--") if "--" in argv else len(argv)
    kept = [word for word in argv[:end] if word not in ("-q", "--quiet")]
    return [*kept, *argv[end:]], len(kept) < end


def _run(argv: list[str]) -> int:
    """Run one verb, and print the errors that a user can cure as one line."""
    from lightning_resnet.cli.pages import answer

    if argv[-1:] == ["help"] and argv[0] in VERBS and len(argv) < 4:
        argv = [*argv[:-1], "--help"]
    if argv[:1] == ["help"] and len(argv) > 1:
        asked = argv[1:3] if argv[1] in ("data", "bench") else argv[1:2]
        key = "".join(argv[2:3]) if argv[1] in ("fit", "validate", "test") else ""
        argv = [*asked, *([f"--{key.lstrip('-')}.help"] if key else []), "--help"]
    text = answer(argv, {name: verb.help for name, verb in VERBS.items()})
    if text is not None:
        print(text)
        return 0 if argv else 2
    import shlex
    from contextlib import nullcontext

    from lightning_resnet.arguments import before_command, check_shell_words
    from lightning_resnet.credentials import refuse_secret_flags
    from lightning_resnet.engine.launch import forget_strays, says_first
    from lightning_resnet.engine.signals import Stopped, insisting
    from lightning_resnet.errors import UserError, one_line, printable, tell
    from lightning_resnet.runs.names import check_texts
    from lightning_resnet.ulimits import limit_met

    try:
        if argv[0] not in VERBS:
            raise UserError(_unknown_verb(argv))
        if argv[1:2] == argv[:1] and argv[0] != "runs" and not _is_there(argv[1]):
            raise UserError(f"{argv[0]} is there twice: resnet-cli {shlex.join(argv[1:])}")
        check_texts({"the command line": argv})
        # of the command that follows requeue, fit has answered the same already
        check_shell_words(before_command(argv[1:]) if argv[0] == "requeue" else argv[1:])
        refuse_secret_flags(argv[1:])
        _find_own_modules()
        argv = _understood(argv)
        alone = forget_strays(argv, os.environ)
        if not VERBS[argv[0]].armed and not _takes_a_point(argv):
            if signal.getsignal(signal.SIGINT) is _leave_at_once:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            with nullcontext() if continues(argv) else insisting(False):
                return _load(argv)()
        return _armed(argv, alone)
    except Stopped as e:
        print(e, file=sys.stderr)
        return e.exit_status
    except UserError as e:
        told = f"error: {printable(one_line(e))}"
        if says_first(told, os.environ):
            print(told, file=sys.stderr)
        return 2
    except (OSError, ImportError, MemoryError, RuntimeError) as e:
        limit = limit_met(e)
        if not limit and not isinstance(e, OSError):
            raise
        told = limit or f"{printable(e.strerror or e)}: {printable(e.filename or '')}"
        if says_first(told, os.environ):
            tell(f"error: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(_interrupted(argv), file=sys.stderr)
        signal.signal(signal.SIGINT, handler)
        return 130


def _is_there(word: str) -> bool:
    """Tell whether a word names a file or folder, here or in the folder of all runs."""
    return os.path.exists(word) or os.path.exists(os.path.join("runs", word))


def _takes_a_point(argv: list[str]) -> bool:
    """Tell whether a command line is `sweep --next`, which becomes a training."""
    return argv[0] == "sweep" and any(word.partition("=")[0] == "--next" for word in argv)


def _armed(argv: list[str], alone: bool) -> int:
    """Run a verb that handles signals, as one process or as several ranks.

    Args:
        argv: the command line.
        alone: whether this process is not a rank that another process has started.
    """
    from lightning_resnet.engine.launch import (
        plainly_asked,
        refuse_copies,
        refuse_missing_accelerator,
        supervise,
        waited_for,
    )
    from lightning_resnet.engine.signals import armed, importing

    refuse_missing_accelerator(argv)
    if VERBS[argv[0]].ranked:
        if alone:
            refuse_copies(argv, os.environ)
        if ranks := plainly_asked(argv):
            return supervise(argv, *ranks)
    # No rank waits for one that has yet to take its point; for that of its training, fit decides.
    is_waited_for = not alone and argv[0] != "sweep" and waited_for(argv, os.environ)
    with armed(continues(argv), deferred=is_waited_for):
        with importing():  # takes seconds
            run = _load(argv)
        return run()


def _load(argv: list[str]) -> Callable[[], int]:
    """Import the module of a verb, and return a function that runs the verb."""
    from lightning_resnet.console import now
    from lightning_resnet.printing import only_json

    module = import_module(f"lightning_resnet.cli.{_module(argv)}")
    now("preparing")

    def run() -> int:
        args = module.make_parser().read(argv[1:])
        args.verb = argv[0]
        with only_json(getattr(args, "as_json", False) is True, args.document):
            return module.run(args)

    return run


def _module(argv: list[str]) -> str:
    """Return the name of the module that runs a command line.

    `predict` without images and without a flag for them takes a recipe or a run, and so is run by
    the module of `fit`.
    """
    from lightning_resnet.arguments import free_words, with_run

    name = VERBS[argv[0]].module or argv[0]
    asks_for_help = "--help" in argv or "-h" in argv
    if name == "predict" and not asks_for_help and not free_words(with_run(argv[1:])):
        from lightning_resnet.cli.predict import make_parser
        from lightning_resnet.words import FLAGS, by_word

        flags = [word.partition("=")[0] for word in argv[1:]]
        plain = [flag.lstrip("-").replace("-", "_") for flag in flags if flag[:1] == "-"]
        own = {*make_parser()._option_string_actions} - {"--ckpt_path", "--trust", "--weights"}
        if not own & {*flags} and not {*by_word(FLAGS["predict"])} & {*plain}:
            return "fit"
    return name


def _understood(argv: list[str]) -> list[str]:
    """Write out the short names of a command line that is all keys of a recipe, and check them.

    Other verbs do so when they read their own flags (`arguments.Parser.read`). The run that
    `validate`, `test` or `predict` takes as a word becomes the value of `--ckpt_path`.
    """
    from lightning_resnet.aliases import understood
    from lightning_resnet.arguments import free_words, value_of, with_ckpt_path, with_run
    from lightning_resnet.cli.predict import check_words
    from lightning_resnet.errors import UserError
    from lightning_resnet.flags import check, refuse_training
    from lightning_resnet.runs.find import check_no_folder, check_weights

    verb, *words = argv
    if verb == "predict":
        words = with_ckpt_path(words)
    root = value_of("--run.root", words) or "runs"
    for flag in ("--config", "-c"):
        check_no_folder(value_of(flag, words) or "", flag, root)
    for at in free_words(words) if verb == "fit" else []:
        check_no_folder(words[at], root=root)
    takes_keys = _module([verb, *words]) == "fit"
    if takes_keys:
        words = understood(words, verb)
    given = value_of("--ckpt_path", words)
    if given and verb in ("validate", "test") and free_words(words):
        raise UserError(
            f"{words[free_words(words)[0]]} and --ckpt_path both say which weights: give one, such "
            f"as resnet-cli {verb} {given}"
        )
    if verb in ("validate", "test", "predict"):
        words = with_run(words)
    if takes_keys:
        checked = check(words, verb)
        if checked and verb == "fit":
            checked.parts()
            _check_files(checked)
        run = value_of("--ckpt_path", words)
        root = value_of("--run.root", words) or "runs"
        if run and verb != "fit" and not {"--config", "-c"} & {*words}:
            refuse_training(words, verb)
        if run and verb == "predict":
            check_words(run, [], root)
        elif run and verb != "fit":
            check_weights(run, root)
    return [verb, *words]


def _check_files(checked: object) -> None:
    """Refuse weights and images that are not there, before torch is imported.

    A run that is there already may be finished, and then needs no images any more.

    Args:
        checked: the keys and their values, from `flags.check`.

    Raises:
        UserError: there is no such run, or no such folder of images.
    """
    import re
    from pathlib import Path

    from lightning_resnet.errors import UserError
    from lightning_resnet.meant import check_named, flat_folder, has_debians, no_folder
    from lightning_resnet.runs.find import described_runs, weights_of
    from lightning_resnet.runs.identity import flatten
    from lightning_resnet.runs.names import is_hub_name

    root = str(checked.last("run.root") or "runs")
    if os.path.isfile(root):
        raise UserError(f"--run.root {root} is a file: give the folder of all runs")
    weights = checked.last("run.init_from")
    if isinstance(weights, str) and is_hub_name(weights):
        check_named(weights)
    elif isinstance(weights, str) and not weights_of(weights, root).exists():
        raise UserError(f"cannot read --run.init_from {weights}: there is none in {os.getcwd()}")
    source = checked.chosen["data.source"]
    if isinstance(checked.last("data.source"), dict):  # which tells the folder, too
        return
    arguments = ("train", "val") if source == "BetonFiles" else ("root",)
    for argument in arguments if source in MISSING else ():
        given = checked.last(f"data.source.{argument}")
        images = given or DATA
        if not isinstance(images, str) or re.search("://|[{*\0]", images):
            continue
        if source == "ImageFolder" and os.path.isdir(images):
            has_folders = any(path.is_dir() for path in Path(images).iterdir())
            if told := "" if has_folders else flat_folder(Path(images)):
                raise UserError(told)
        if os.path.isfile(images) and source != "BetonFiles":
            if told := no_folder(Path(images), source):
                raise UserError(f"--data.source.root: {told}")
        if os.path.exists(images) or (not given and has_debians(source)):
            continue
        known = []  # a finished run needs no images
        for run in described_runs(Path(root), "*/*"):
            told = flatten(run.config_if_good()[0])
            known.append(told.get(f"data.source.init_args.{argument}"))
        if images not in known:
            problem = MISSING[source].format(images, os.getcwd())
            if images == "data/photos":
                problem += ", or make it: resnet-cli data get photos"
            raise UserError(problem)


def _find_own_modules() -> None:
    """Append the working directory to sys.path, so that a user's own net or source is found.

    The working directory comes last, so that a numpy.py or yaml.py in it never replaces the
    library, also in the processes that this one starts (ranks, workers, a sweep's runs).
    """
    from lightning_resnet.errors import UserError

    # Without the variable `python -c` and `python -m` search the working directory first.
    os.environ["PYTHONSAFEPATH"] = "1"
    # An editable installation would otherwise be found after all folders of sys.path.
    package = os.path.dirname(os.path.dirname(__file__))
    try:
        here = os.getcwd()
    except FileNotFoundError as e:
        raise UserError("the folder that you are in has been removed: cd to another") from e
    for folder in (os.path.dirname(package), here):
        if folder not in sys.path:
            sys.path.append(folder)
