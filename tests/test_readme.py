"""Every command that README and recipes show is one that the program understands."""

import re
import shlex
from importlib import import_module

import pytest
from helpers.command_line import REPOSITORY

from lightning_resnet.arguments import with_run
from lightning_resnet.cli import fit
from lightning_resnet.cli.main import VERBS, main
from lightning_resnet.config.recipe import parse
from lightning_resnet.sweeps.points import read

PAGES = ("README", "docs/science", "docs/recipes", "docs/cluster", "docs/gpu", "docs/data")
DOCS = [REPOSITORY / f"{page}.md" for page in PAGES]
TEXTS = [*DOCS, *sorted(REPOSITORY.glob("configs/**/*.yaml"))]
COMMANDS = [
    c.strip()
    for t in TEXTS
    for c in re.findall(r"^(?: {4}|# ?)(resnet-cli [^\n#(]+)", t.read_text(), re.M)
]


@pytest.mark.parametrize("command", [part for c in COMMANDS for part in c.split(" && ")])
def test_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.syspath_prepend(REPOSITORY / "tests/helpers")  # gated.py
    program, verb, *args = shlex.split(command)
    assert program == "resnet-cli" and verb in VERBS
    module = import_module(f"lightning_resnet.cli.{VERBS[verb].module or verb}")
    if module is fit or (verb == "predict" and args[0].startswith("-")):
        parse(verb, args)
        return
    parsed = module.make_parser().read(with_run(args) if verb == "predict" else args)
    if verb == "sweep":
        assert read(args[0]).points
    elif verb == "doctor":
        assert not parsed.recipe_keys or parse("fit", parsed.recipe_keys)
    elif verb == "inspect":
        recipes = [
            target
            for target in parsed.targets
            if target.endswith(".yaml") and "sweeps" not in target
        ]
        assert recipes or not parsed.recipe_keys
        for target in recipes:
            parse("fit", ["--config", target, *parsed.recipe_keys])


def test_there_are_commands():
    assert len(COMMANDS) > 10 and {c.split()[1] for c in COMMANDS} >= {
        "fit",
        "validate",
        "sweep",
        "compare",
        "data",
    }


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_answers(verb, capsys):
    try:
        status = main([verb, "--help"] if verb else ["--help"])
    except SystemExit as e:  # argparse leaves so
        status = e.code
    assert status == 0
    assert "usage: resnet-cli" in capsys.readouterr().out
