"""resnet-cli: one table of verbs. Each imports only what it needs: torch is slow to import.

resnet-cli VERB --help
"""

# Few and quick imports up here: a Ctrl-C in them, before `main` has its handler, ends in a traceback.
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module


class Verb:
    """One verb of the command line.

    Args:
        help: what it does, for the table of verbs.
        module: of `lightning_resnet.cli`, with `make_parser()` and `run(args)`; empty: it has the verb's name.
        armed: signals leave a mark or raise `Stopped`, so that the verb can end in order.
        ranked: may run as several processes.
    """

    def __init__(self, help: str, module: str = "", armed: bool = False, ranked: bool = False) -> None:
        self.help = help
        self.module = module
        self.armed = armed
        self.ranked = ranked


VERBS = {
    "fit": Verb("train a net by a recipe, or continue", armed=True, ranked=True),
    "validate": Verb("validation metrics of a trained run or checkpoint", "fit", armed=True, ranked=True),
    "test": Verb("test metrics", "fit", armed=True, ranked=True),
    "evaluate": Verb("accuracy by crops, resolution, norm statistics, weights"),
    "predict": Verb("the most probable classes of images, or of the validation images", armed=True),
    "sweep": Verb("list or run the points of a sweep"),
    "requeue": Verb("at the end of a SLURM job: requeue it, or not"),
    "sync": Verb("upload runs to Weights & Biases, from where it can be reached"),
    "compare": Verb("tables and figures from runs"),
    "inspect": Verb("gradients, responses, lesions, ... of a net, block by block"),
    "deepen": Verb("add blocks to a trained net, as identity or at random"),
    "convert": Verb("weights of torchvision, timm, akamaster into ours; ours into ONNX, ..."),
    "data": Verb("get a data set; write, check and describe .beton files"),
    "doctor": Verb("will training run here? each problem with its cure"),
    "bench": Verb("measure our parts beside their peers"),
}


def usage() -> str:
    """Return the table of verbs."""
    lines = [f"  {name:<10}{verb.help}" for name, verb in VERBS.items()]
    return "\n".join(["usage: resnet-cli VERB [options]; resnet-cli VERB --help tells them", "", *lines])


def continues(argv: list[str]) -> bool:
    """Whether the same command goes on where it was interrupted."""
    return argv[:1] in (["fit"], ["sweep"], ["sync"]) or argv[:2] == ["data", "write"]


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 done, 1 not all, 2 an error the user can cure, 129, 130 or 143 stopped by a signal, 141 nobody reads stdout.
    """
    if argv is not None:
        return _guarded(argv)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores it
        # before all imports: they take long enough for a Ctrl-C, and a KeyboardInterrupt in them is a traceback
        signal.signal(signal.SIGINT, _leave_at_once)
    from lightning_resnet.console import open_closed_streams
    from lightning_resnet.engine.signals import STATUSES, leave, leave_with

    open_closed_streams()
    argv = sys.argv[1:]
    status = shielded(argv)
    leave_with(status)  # all is decided; the interpreter's own end takes a second once torch is there
    if status in STATUSES.values() and not continues(argv):
        leave(status)
    return status


def shielded(argv: list[str]) -> int:
    """Run one verb in a process of its own; a traceback is printed with the secrets in it masked."""
    try:
        return _guarded(argv)
    except Exception as e:
        from traceback import format_exception

        from lightning_resnet.masking import mask

        print(mask("".join(format_exception(e))), end="", file=sys.stderr)
        return 1


def _leave_at_once(signum: int, frame: object) -> None:
    how = "continues" if continues(sys.argv[1:]) else "begins anew"
    os.write(2, f"interrupted; the same command {how}\n".encode())
    os._exit(128 + signum)


def _guarded(argv: list[str]) -> int:
    from lightning_resnet.console import OutputLost, guarded

    try:
        with guarded():
            return _run(argv)
    except OutputLost as e:
        return e.exit_status


def _run(argv: list[str]) -> int:
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    import re
    from contextlib import nullcontext

    from lightning_resnet.credentials import refuse_secret_flags
    from lightning_resnet.engine.launch import forget_strays, says_first
    from lightning_resnet.engine.signals import Stopped, insisting
    from lightning_resnet.errors import UserError, nearest, one_line, printable, tell
    from lightning_resnet.runs.names import check_texts
    from lightning_resnet.ulimits import limit_met

    try:
        if argv[0] not in VERBS:
            raise UserError(f"unknown verb {argv[0]}{nearest(argv[0], VERBS)}; resnet-cli --help lists them")
        check_texts({"the command line": argv})
        if homeless := [word for word in argv if re.match(r"--?[\w.-]+=~(/|$)", word)]:
            flag, _, folder = homeless[0].partition("=")
            raise UserError(f"{homeless[0]}: the shell makes no home folder of ~ after =: write {flag} {folder}")
        refuse_secret_flags(argv[1:])
        _find_own_modules()
        alone = forget_strays(argv, os.environ)
        if not VERBS[argv[0]].armed:
            if signal.getsignal(signal.SIGINT) is _leave_at_once:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            with nullcontext() if continues(argv) else insisting(False):
                return _load(argv)()
        return _armed(argv, alone)
    except Stopped as e:
        print(e, file=sys.stderr)
        return e.exit_status
    except UserError as e:
        if debug:
            raise
        told = f"error: {printable(one_line(e))}"
        if says_first(told, os.environ):
            print(told, file=sys.stderr)
        return 2
    except (OSError, ImportError, MemoryError, RuntimeError) as e:
        limit = limit_met(e)
        if debug or not (limit or isinstance(e, OSError)):
            raise
        told = limit or f"{printable(e.strerror or e)}: {printable(e.filename or '')}"
        tell(f"error: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = signal.signal(signal.SIGINT, signal.SIG_IGN)
        how = "continues" if continues(argv) else "begins anew"
        print(f"interrupted; the same command {how}", file=sys.stderr)
        signal.signal(signal.SIGINT, again)
        return 130


def _armed(argv: list[str], alone: bool) -> int:
    """Run a verb that listens to signals, as one process or as ranks."""
    from lightning_resnet.engine.launch import plainly_asked, refuse_copies, supervise, waited_for
    from lightning_resnet.engine.signals import armed, importing

    if VERBS[argv[0]].ranked:
        if alone:
            refuse_copies(argv, os.environ)
        if ranks := plainly_asked(argv):
            return supervise(argv, *ranks)
    with armed(continues(argv), deferred=not alone and waited_for(argv, os.environ)):
        with importing():  # takes seconds
            run = _load(argv)
        return run()


def _load(argv: list[str]) -> Callable[[], int]:
    """Import the file of a verb, and return what runs it; `predict` without images takes a recipe, as `fit` does."""
    name = VERBS[argv[0]].module or argv[0]
    asks_for_help = "--help" in argv or "-h" in argv
    if name == "predict" and not asks_for_help and (len(argv) == 1 or argv[1].startswith("-")):
        name = "fit"
    module = import_module(f"lightning_resnet.cli.{name}")

    def run() -> int:
        args = module.make_parser().read(argv[1:])
        args.verb = argv[0]
        return module.run(args)

    return run


def _find_own_modules() -> None:
    """A user's own net or source is a file next to the recipe: it is found after all that is installed.

    A numpy.py or yaml.py that lies there never takes the place of the library, nor in the processes that start from
    this one (ranks, workers, a sweep's runs).
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # without it `python -c` and `python -m` look into the working directory first
    ours = os.path.dirname(
        os.path.dirname(os.path.dirname(__file__))
    )  # an editable installation is else found after all of sys.path
    for folder in (ours, os.getcwd()):
        if folder not in sys.path:
            sys.path.append(folder)
