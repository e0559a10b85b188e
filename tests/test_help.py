"""What `resnet-cli` and `fit --help` say is short, true and immediate, and what -q leaves."""

import re
import shutil
import subprocess
import sys

import pytest
from helpers.command_line import TINY

from lightning_resnet import console
from lightning_resnet.cli import completion, pages
from lightning_resnet.cli.main import VERBS, main
from lightning_resnet.keys import keys


def test_the_start_groups_the_verbs_of_people(cli):
    code, out, _ = cli("--help")
    assert code == 0 and out == cli()[1]
    assert "resnet-cli fit --config digits" in out and "README.md" in out
    told = re.findall(r"^  (\w+) +\S", out, re.M)
    assert sorted(told) == sorted(set(VERBS) - {"requeue"})
    assert max(map(len, out.splitlines()[:-2])) <= 80  # the last lines have a path, and versions


def test_help_of_a_verb_is_that_of_its_flag(cli):
    assert cli("help", "fit")[1] == cli("fit", "--help")[1] == cli("fit", "-h")[1]
    with pytest.raises(SystemExit):
        cli("help", "data", "write")
    assert cli("help", "nothing")[0] == 2


def test_the_version_is_one_line(cli):
    assert cli("--version")[1] == cli("-V")[1]
    assert re.fullmatch(r"lightning_resnet \S+ \(torch \S+, .*Python [\d.]+\)\n", cli("-V")[1])


@pytest.mark.parametrize("verb", pages.RECIPE_VERBS)
def test_the_page_of_a_recipe_verb_is_one_screen(verb, cli):
    code, out, _ = cli(verb, "--help")
    lines = out.splitlines()
    assert code == 0 and 24 <= len(lines) <= 45 and max(map(len, lines)) <= 80
    assert out.startswith(f"usage: resnet-cli {verb} ") and "imagenet/ffcv" in out
    assert out.count(f"\n  resnet-cli {verb} ") == 3
    named = [flag for flag in re.findall(r"--([a-z_]+\.[\w.]+)", out) if not flag.endswith(".help")]
    for flag in named:
        known = flag in keys() or flag.rpartition(".")[0] in keys()
        assert known, flag


def test_the_short_names_on_the_page_stand_for_the_keys_next_to_them():
    understood = pytest.importorskip("lightning_resnet.aliases").understood
    lines = re.findall(r"^  (--[\w-]+) .*?--([\w.]+)$", pages.FIT, re.M)
    assert len(lines) > 12
    for short, key in lines:
        assert understood([short, "1"], "fit")[0].partition("=")[0] == f"--{key}"


def test_all_keys_are_listed_ours_first_and_without_classes_of_torch(cli):
    code, out, _ = cli("fit", "--help-all")
    told = re.findall(r"^  --(\S+)$", out, re.M)
    assert code == 0 and sorted(told) == sorted(set(keys()) - {"ckpt_path"})
    sections = list(dict.fromkeys(key.partition(".")[0] for key in told if "." in key))
    assert sections == ["run", "data", "model", "wandb", "trainer"]
    assert "torch.nn" not in out and len(out.splitlines()) < 500
    assert "--ckpt_path" in cli("validate", "--help-all")[1]


def test_help_of_a_key_without_a_class_lists_the_classes(cli):
    code, out, _ = cli("fit", "--model.schedule.help")
    assert code == 0 and "  Cosine: warmup, end" in out and "--model.schedule.help Steps" in out
    assert pages.answer(["fit", "--model.schedule.help", "Steps"], {}) is None
    assert pages.answer(["fit"], {}) is None
    assert "CifarResNet" in cli("fit", "--model.net.help", "--config", "digits")[1]


def test_help_of_a_section_lists_its_keys_alone(cli):
    code, out, _ = cli("fit", "--model.help")
    told = re.findall(r"^  --(\S+)$", out, re.M)
    assert code == 0 and told == [key for key in keys() if key.startswith("model.")]


def test_quiet_leaves_warnings_and_the_last_line(cli, monkeypatch):
    argv = [*TINY, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    code, out, _ = cli("fit", *argv, "--data.batch_size", "8", "-q")
    *warnings, last = out.splitlines()
    assert code == 0 and last.startswith("val loss ")
    assert warnings and all(line.startswith("warning:") for line in warnings)
    assert not console.is_quiet()
    code, out, _ = cli("sweep", "digits_gap", "--list", "--quiet")
    assert code == 0 and len(out.splitlines()) == 1 and "points" in out
    code, _, err = cli("fit", "--config", "nothing", "-q")
    assert code == 2 and err.startswith("error: ")


def test_a_dash_q_after_two_dashes_is_for_sbatch(monkeypatch):
    seen = []
    monkeypatch.setattr("lightning_resnet.cli.main._run", lambda argv: seen.append(argv) or 0)
    main(["sweep", "s", "--submit", "-q", "--", "-q", "long"])
    assert seen == [["sweep", "s", "--submit", "--", "-q", "long"]]


@pytest.fixture(scope="module")
def scripts():
    """Print the script of each shell."""
    found = {}
    for shell in completion.CALL:
        command = [sys.executable, "-m", "lightning_resnet", "completion", shell]
        found[shell] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return found


CASES = [
    ("fi", {"fit"}),
    ("fit --config di", {"digits"}),
    ("fit --config imagenet/f", {"imagenet/ffcv"}),
    ("fit --model.net.sho", {"--model.net.shortcut", "--model.net.shortcut_value"}),
    (
        "fit --model.net.shortcut ",
        {"none", "A", "B", "C", "scaled", "dropout", "gate", "exclusive_gate"},
    ),
    ("fit --batch", {"--batch-size"}),
    ("fit --config digits --model.schedule Co", {"Cosine"}),
    ("fit --run.new t", {"true"}),
    ("validate --ckpt", {"--ckpt_path"}),
    ("sweep digits_de", {"digits_deepen", "digits_degradation"}),
    ("sweep --sub", {"--submit"}),
    ("data wr", {"write"}),
    ("data write --sh", {"--short-side"}),
    ("inspect les", {"lesions"}),
    ("compare --x ", {"step", "epoch", "time", "gpu_h"}),
    ("completion f", {"fish"}),
    ("fit --config my", {"my.yaml"}),
]


def ask_bash(script, line):
    """Return what bash's completion gives at the end of a line."""
    words = ["resnet-cli", *line.split(" ")]
    quoted = " ".join(f"'{word}'" for word in words)
    asked = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _resnet_cli\n"
    return script + asked + 'printf "%s\\n" "${COMPREPLY[@]}"\n', ["bash", "--norc"]


def ask_zsh(script, line):
    """Return what zsh's completion function would add; `compadd` prints instead."""
    words = ["resnet-cli", *line.split(" ")]
    quoted = " ".join(f"'{word}'" for word in words)
    stand_ins = (
        "compdef() { : }\ncompset() { : }\n_files() { print -l -- *(N) }\n"
        'compadd() { shift; print -l -- "$@" }\n'
    )
    return stand_ins + script + f"words=({quoted}); CURRENT={len(words)}; _resnet_cli\n", [
        "zsh",
        "-f",
    ]


def ask_fish(script, line):
    """Return what fish completes."""
    return script + f"complete -C 'resnet-cli {line}'\n", ["fish", "--no-config"]


@pytest.mark.parametrize("shell", completion.CALL)
def test_a_tab_completes(shell, scripts, tmp_path):
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    (tmp_path / "my.yaml").touch()
    for line, wanted in CASES:
        text, command = globals()[f"ask_{shell}"](scripts[shell], line)
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=60
        )
        assert not done.stderr, done.stderr
        typed = line.split(" ")[-1]
        found = {word.split("\t")[0] for word in done.stdout.split("\n")}
        found = {word for word in found if word.startswith(typed) and word}
        assert found == wanted, line


def test_bash_completes_what_it_takes_for_several_words(scripts):
    def ask(words):
        quoted = " ".join(f"'{word}'" for word in words)
        asked = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _resnet_cli\n"
        text = scripts["bash"] + asked + 'printf "%s\\n" "${COMPREPLY[@]}"\n'
        done = subprocess.run(["bash", "--norc"], input=text, capture_output=True, text=True)
        return done.stdout.split()

    assert ask(["resnet-cli", "fit", "--data.source", "=", "Dig"]) == ["Digits"]
    assert ask(["resnet-cli", "compare", "runs", "reference", ":", "di"]) == ["digits"]
    assert "A" in ask(["resnet-cli", "fit", "--model.net.shortcut", "="])
