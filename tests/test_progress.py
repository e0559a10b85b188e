"""Long work shows how far it is, and Ctrl-C ends it with a word on how to go on."""

import signal
import sys

import pytest
from tqdm import tqdm

from lightning_resnet.data import verify
from lightning_resnet.runtime import progress


def test_lines_in_a_log_file(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    assert list(progress.metered(iter("abc"), 3, "runs")) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == "" and [line.split("  ")[0] for line in err.splitlines()] == ["1 of 3 runs", "2 of 3 runs"]
    assert "/s  ETA 0.0 min" in err


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "BAR_S", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(progress, "tqdm", lambda *args, **kwargs: tqdm(*args, **kwargs, file=sys.stderr, mininterval=0))
    assert list(progress.metered(range(3), 3, "turns")) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err


def test_what_is_short_says_nothing(capsys):
    assert list(progress.metered(range(3), 3, "runs")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_an_interrupted_check_says_that_it_begins_anew(cli, source, monkeypatch):
    monkeypatch.setattr(verify, "_check", lambda *args: signal.raise_signal(signal.SIGINT))
    code, _, err = cli("data", "verify", source.files["train"])
    assert code == 130 and err == "interrupted; the same command begins anew\n"


@pytest.mark.parametrize(
    ("argv", "how"),
    [
        (["sweep", "s.yaml"], "continues"),
        (["data", "write", "digits"], "continues"),
        (["compare", "runs"], "begins anew"),
        (["inspect", "gradients"], "begins anew"),
        (["bench", "step"], "begins anew"),
    ],
)
def test_every_long_verb_ends_with_a_word(cli, monkeypatch, argv, how):
    class Verb:
        @staticmethod
        def main(args):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("lightning_resnet.cli.import_module", lambda name: Verb)
    code, _, err = cli(*argv)
    assert code == 130 and err == f"interrupted; the same command {how}\n"
