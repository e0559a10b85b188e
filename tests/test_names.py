"""What becomes a folder, a line of a table or a word of a command may not be just any text."""

import shlex
from pathlib import Path

import pytest
import yaml
from helpers.command_line import REPOSITORY, TINY
from helpers.run_dir import only_run

from lightning_resnet.errors import UserError
from lightning_resnet.runs.names import check_name, check_texts

SHORT = [
    *TINY,
    "--trainer.max_epochs",
    "1",
    "--trainer.limit_train_batches",
    "1",
    "--trainer.limit_val_batches",
    "1",
]
WRONG = {
    "../../x": "leads out of",
    "..": "leads out of",
    "a/../../b": "leads out of",
    "/abs": "leads out of",
    ".shared": "is kept for the points that sweeps share",
    "a\nb": "line break",
    "a\r": "line break",
    "a\x1b[2J": "control character",
    "a\u2028b": "line break",
    "a\x85b": "line break",
    "half \udc80": "control character",
    "n" * 300: "has 300 bytes, and a folder's name at most 255",
    "я" * 128: "has 256 bytes",
    "a/" + "n" * 256: "has 256 bytes",
}
RIGHT = [
    "plain",
    "with space",
    "a/b",
    "Ж",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "*",
    "~",
    ".",
    "-x",
    "2026",
    "",
]
RIGHT += ["n" * 255, "100%", "$HOME", "a;b", "'", "..x", "a..b", "..."]


@pytest.mark.parametrize("name", WRONG, ids=[*map(str, range(len(WRONG)))])
def test_a_name_that_is_refused(cli, name):
    code, out, err = cli("fit", *SHORT, f"--run.name={name}")
    assert (
        code == 2
        and WRONG[name] in err
        and err.endswith("with --run.name\n")
        and err.count("\n") == 1
    )
    assert not list(Path().iterdir()) and not list(Path("..").glob("x*"))
    if "\udc80" in name:  # which YAML cannot hold
        return
    Path("s.yaml").write_text(yaml.safe_dump({"name": name}))
    for how in ("--list", "--local", "--submit"):
        code, out, err = cli("sweep", "s.yaml", how)
        assert (
            code == 2 and WRONG[name] in err and "give another one with `name:` in its YAML" in err
        )
    assert [p.name for p in Path().iterdir()] == ["s.yaml"]


@pytest.mark.parametrize("name", RIGHT, ids=[*map(str, range(len(RIGHT)))])
def test_a_name_that_may_be(name):
    check_name(name, "--run.name")


@pytest.mark.parametrize("name", ["", "a/b", ".x", "-x"])
def test_a_sweep_has_one_folder_which_no_program_takes_for_a_flag(name):
    with pytest.raises(UserError, match="is empty, holds a /, or begins with"):
        check_name(name, "name:", single=True)


def test_a_name_in_a_folder_stays_in_the_root(cli):
    assert cli("fit", *SHORT, "--run.name", "a/b c")[0] == 0
    assert only_run(Path("runs/a")).parent == Path("runs/a/b c")


@pytest.mark.parametrize(
    "recipe",
    [
        {"run": {"root": "a\0b"}},
        {"data": {"source": {"class_path": "ImageFolder", "init_args": {"root": "a\0b"}}}},
        {"run": {"init_from": "a\0b"}},
        {"run": {"point": "a\0b"}},
        {"wandb": {"project": "a\0b"}},
    ],
)
def test_a_nul_byte_in_a_recipe(cli, recipe):
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = cli("fit", *SHORT, "--config", "r.yaml")
    assert code == 2 and "holds a NUL byte" in err and err.count("\n") == 1
    assert [p.name for p in Path().iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    "argv",
    [["fit", "--config", "a\0b"], ["compare", "a\0b"], ["sweep", "a\0b"], ["data", "info", "\0"]],
)
def test_a_nul_byte_on_the_command_line(cli, argv):
    code, _, err = cli(*argv)
    assert code == 2 and "holds a NUL byte" in err and err.count("\n") == 1


def test_a_nul_byte_in_a_name(cli):
    with pytest.raises(
        UserError, match="the name .* holds a line break or another control character"
    ):
        check_name("a\0b", "--run.name")


def test_texts_without_a_fault_pass():
    check_texts({"a": [1, None, {"b": "x"}, ("y", 2.0)], 3: "c"})


SWEEP = {
    "method": "grid",
    "command": [
        "resnet-cli",
        "fit",
        "--config",
        f"{REPOSITORY}/configs/digits.yaml",
        "--config",
        "${args_json_file}",
    ],
    "parameters": {"seed_everything": {"values": [0, 1]}},
}


@pytest.mark.parametrize(
    "word", ["--trainer.max_epochs=1\n", "--run.keep=all\nrm -rf x", "--run.keep=all\u2028x"]
)
def test_a_line_break_in_a_sweeps_command_makes_no_second_line(cli, word):
    command = [*SWEEP["command"][:2], word, *SWEEP["command"][2:]]
    Path("s.yaml").write_text(yaml.safe_dump(SWEEP | {"command": command}))
    code, _, err = cli("sweep", "s.yaml", "--submit")
    assert code == 2 and err.count("\n") == 1 and not Path("runs").exists()


def test_a_root_with_a_line_break(cli):
    Path("s.yaml").write_text(yaml.safe_dump(SWEEP))
    code, _, err = cli("sweep", "s.yaml", "--submit", "--root", "a\nb")
    assert (
        code == 2 and "has a line break" in err and [p.name for p in Path().iterdir()] == ["s.yaml"]
    )


@pytest.mark.parametrize(
    "name",
    ["a b", "a;echo $HOME", "it's", '"', "100%", "$(touch x)", "`touch x`", "my THREADS", "*"],
)
def test_every_name_of_a_sweep_is_one_word_of_its_table(cli, name):
    Path("s.yaml").write_text(yaml.safe_dump(SWEEP | {"name": name}))
    assert cli("sweep", "s.yaml", "--submit")[0] == 1  # there is no sbatch
    (table,) = Path("runs").rglob("table.txt")
    lines = table.read_text().splitlines()
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line)
        assert words[words.index("--run.name") + 1] == name
        assert (
            line.count("$THREADS") == 1
            and line.endswith("--run.threads $THREADS")
            or "--run.code" in line
        )
