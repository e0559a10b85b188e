"""Text of others in every output: nothing in it acts on a terminal, a page, a table, TeX or a spreadsheet."""

import sys
from io import BytesIO, TextIOWrapper

import pytest

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
    "whole mathtext": r"$x^2$",
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
    """What is printed: no control character but newlines and tabs, no mark that turns the writing."""
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
