"""Text of others in every output: nothing in it acts on a terminal, a page, a table, TeX or a
spreadsheet.
"""

import csv
import json
import re
import sys
from html.parser import HTMLParser
from io import BytesIO, TextIOWrapper
from xml.etree import ElementTree

import pytest
from helpers.browser import CHROMIUM, chromium
from helpers.made_runs import make_run

from lightning_resnet.analysis.compare.page import SCRIPTS
from lightning_resnet.cli.main import main
from lightning_resnet.errors import LONGEST, printable, tell

PAYLOADS = {
    "script": "<script>document.title = 'ran'</script>",
    "swallowed script": "<!--<script>",
    "comment": "<!-- -->",
    "end of script": "</script><script>document.title = 'ran'</script>",
    "image": "<img src=x onerror=\"document.title = 'ran'\">",
    "attribute": '" onmouseover="document.title = \'ran\'" x="',
    "quote": 'it\'s "so"',
    "template": "{{ 7 * 7 }} {% raw %} ${7 * 7} %s {0}",
    "mathtext": r"$\frac{1$",
    "one dollar": "costs 5 $",
    "complete mathtext": r"$x^2$",
    "TeX": r"\input{/etc/passwd} \write18{id} ^^41 % # & _ ~ {",
    "TeX row": r"[5cm] \\ \hline",
    "star": "*",
    "formula": "=cmd|' /C calc'!A0",
    "formula plus": "+1+cmd",
    "formula at": "@SUM(1)",
    "formula minus": "-2+3+cmd",
    "formula after a tab": "\t=1+1",
    "escape codes": "\x1b[2J\x1b]0;title\x07red",
    "C1 escape codes": "\x9b2J",
    "newline": "one\ntwo\r\nthree\u2028four",
    "NUL": "before\x00after",
    "bidi": "safe\u202etxt.exe",
    "invisible": "a\u200b\ufeffb",
    "surrogate": "half \udc80",
    "link": "[here](javascript:alert(1)) ![x](http://localhost/x)",
    "table": "a | b \\| c",
    "long": "x" * 10_000,
    "underscore": "_hidden",
    "emoji": "résumé 漢字 😀",
}
ALL = pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)


def assert_harmless(shown):
    """What is printed: no control character but newlines and tabs, no mark that turns
    the writing.
    """
    assert all(line.isprintable() for line in shown.replace("\t", " ").split("\n")), ascii(shown)


@ALL
def test_foreign_text_is_one_line_that_can_be_seen(payload):
    shown = printable(payload)
    assert_harmless(shown)
    assert "\n" not in shown and len(shown) < LONGEST + 100
    if payload.isprintable() and len(payload) <= LONGEST:
        assert shown == payload


@ALL
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_of_any_encoding_takes_any_text(payload, encoding, monkeypatch):
    stream = TextIOWrapper(BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    tell("±", payload)
    stream.seek(0)
    assert_harmless(stream.read())


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The report of runs whose setting, commit, machine and title are payloads, and what is
    printed.
    """
    root = tmp_path_factory.mktemp("hostile") / "runs"
    for number, payload in enumerate(PAYLOADS.values()):
        run = make_run(
            root / "s" / f"r{number:02}", net_args={"depth": 20, "shortcut": payload}, sha=payload
        )
        meta = json.loads((run / "meta.json").read_text())
        (run / "meta.json").write_text(
            json.dumps(meta | {"hardware": {"cpu": payload, "gpu": None}})
        )
    titles = [payload for payload in PAYLOADS.values() if "\0" not in payload]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root.parent / "cache"))
        stream = TextIOWrapper(BytesIO(), encoding="utf-8")
        patch.setattr(sys, "stdout", stream)
        flags = ["--rows", "shortcut", "--title", " ".join(titles), "--out", str(root.parent)]
        assert main(["compare", str(root), *flags]) == 0
        stream.seek(0)
        printed = stream.read()
    return root.parent, printed


def test_compare_prints_nothing_that_acts(compared):
    assert_harmless(compared[1])


class Tags(HTMLParser):
    """All tags, attributes and scripts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)


def test_the_page_holds_no_markup_but_ours(compared):
    text = (compared[0] / "index.html").read_text()
    found = Tags(text)
    assert found.tags.count("script") == 1 + len(SCRIPTS) and "img" not in found.tags
    assert not any(name.startswith("on") for name in found.attributes)
    assert "<" not in found.scripts[0]
    rows = json.loads(found.scripts[0])["colours"]
    assert any("<!--<script>" in row for row in rows) and len(rows) > len(PAYLOADS) - 5
    assert_harmless(text)


@pytest.mark.skipif(not CHROMIUM, reason="no chromium")
def test_a_browser_draws_the_curves_and_runs_nothing(compared, tmp_path):
    with chromium(tmp_path) as browser:
        browser.open((compared[0] / "index.html").as_uri())
        browser.evaluate("explorer.data.columns.forEach(c => explorer.columns.add(c.name))")
        browser.evaluate("explorer.update()")
        assert browser.evaluate("document.title") != "ran" and browser.problems == []
        assert browser.evaluate("explorer.charts[0].chart.lines.length") >= len(PAYLOADS) - 5


def test_tables_hold_a_row_for_each_and_no_command(compared):
    lines = (compared[0] / "table.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert not re.search(r"(?<!\\)<|\]\(", "\n".join(lines))
    with (compared[0] / "table.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if re.match(r"[=+@\t]|-(?![\d.]+$)", cell)]
    tex = (compared[0] / "table.tex").read_text()
    assert len(tex.splitlines()) == len(rows) - 1 + 5  # its rows, begin, three rules and end
    names = "begin|end|toprule|midrule|bottomrule|textbackslash|textasciitilde|textasciicircum|pm"
    ours = rf"\\({names}|[&%$#_{{}}\\])"
    assert not re.search(r"\\", re.sub(ours, "", tex)) and "^" not in tex
    assert not re.search(r"\\\\\s*[\[*]", tex)


def test_figures_are_drawn(compared):
    assert ElementTree.parse(compared[0] / "curves.svg").getroot().tag.endswith("svg")
    assert (compared[0] / "curves.png").stat().st_size > 1000


@ALL
def test_a_sweep_of_any_name_and_value_is_listed(payload, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep = {
        "name": payload,
        "method": "grid",
        "command": [
            "${env}",
            "resnet-cli",
            "fit",
            "--config",
            "r.yaml",
            "--config",
            "${args_json_file}",
        ],
        "parameters": {
            "model.net.shortcut": {"values": [payload, 1]},
            f"model.{payload}": {"value": 1},
        },
    }
    (tmp_path / "r.yaml").write_text("data: {}\n")
    (tmp_path / "s.yaml").write_text(json.dumps(sweep))
    assert main(["sweep", "s.yaml", "--list"]) in (0, 2)
    shown = "".join(capsys.readouterr())
    assert_harmless(shown)
    assert len(shown.splitlines()) <= 3


@ALL
@pytest.mark.parametrize(
    "verb", ["fit --config", "compare", "sweep", "data info", "convert --out x.ckpt", "sync"]
)
def test_every_verb_names_a_file_that_is_not_there_harmlessly(
    verb, payload, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main([*verb.split(), f"./{payload}"]) in (1, 2)
    err = capsys.readouterr().err
    assert_harmless(err)
    assert err.count("\n") == 1 and len(err) < 2 * LONGEST + 500
