"""Every command that README and recipes show is one that the program understands."""

import re
import shlex

import pytest
from conftest import REPOSITORY

from lightning_resnet import bench
from lightning_resnet.arguments import split
from lightning_resnet.cli import compare, convert, deepen, doctor, evaluate, inspect, predict, sweep, sync
from lightning_resnet.cli.data import make_parser
from lightning_resnet.cli.main import VERBS, main
from lightning_resnet.config.recipe import ResNetCLI
from lightning_resnet.sweeps.points import read

PAGES = ("README", "docs/science", "docs/recipes", "docs/cluster", "benchmarks/gpu")
DOCS = [REPOSITORY / f"{page}.md" for page in PAGES]
TEXTS = [*DOCS, *sorted(REPOSITORY.glob("configs/**/*.yaml"))]
COMMANDS = [c.strip() for t in TEXTS for c in re.findall(r"^(?: {4}|# ?)(resnet-cli [^\n#(]+)", t.read_text(), re.M)]


class Parsed(ResNetCLI):
    """Goes no further than the configuration."""

    def before_instantiate_classes(self):
        pass

    instantiate_classes = before_instantiate_classes


@pytest.mark.parametrize("command", [part for c in COMMANDS for part in c.split(" && ")])
def test_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.syspath_prepend(REPOSITORY / "tests")  # gated.py
    program, verb, *args = shlex.split(command)
    assert program == "resnet-cli" and verb in VERBS
    if verb == "sweep":
        sweep.make_parser().parse_args(args[: args.index("--")] if "--" in args else args)
        assert read(args[0]).points
    elif verb == "sync":
        sync.make_parser().parse_args(args)
    elif verb == "compare":
        compare.make_parser().parse_args(args)
    elif verb == "data":
        make_parser().parse_args(args)
    elif verb == "bench":
        bench.make_parser().parse_args(args)
    elif verb == "deepen":
        deepen.make_parser().parse_args(args)
    elif verb == "evaluate":
        evaluate.make_parser().parse_args(split(args)[0])
    elif verb == "doctor":
        own, recipe = split(args)
        assert doctor.make_parser().parse_args(own) and (not recipe or Parsed("fit", recipe))
    elif verb == "convert":
        convert.make_parser().parse_args(args)
    elif verb == "predict" and not args[0].startswith("-"):
        predict.make_parser().parse_args(split(args)[0])
    elif verb == "inspect":
        ours, recipe = split(args)
        targets = inspect.make_parser().parse_args(ours).targets
        recipes = [target for target in targets if target.endswith(".yaml") and "sweeps" not in target]
        assert recipes or not recipe
        for target in recipes:
            Parsed("fit", ["--config", target, *recipe])
    else:
        Parsed(verb, args)


def test_there_are_commands():
    assert len(COMMANDS) > 10 and {c.split()[1] for c in COMMANDS} >= {"fit", "validate", "sweep", "compare", "data"}


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_answers(verb, capsys):
    with pytest.raises(SystemExit) if verb else pytest.MonkeyPatch.context() as stop:
        assert main([verb, "--help"] if verb else ["--help"]) == 0
    assert not verb or stop.value.code == 0
    assert "usage: resnet-cli" in capsys.readouterr().out
