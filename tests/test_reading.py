"""YAML and JSON of others: what PyYAML takes wrongly is refused with its line, and nothing grows
out of proportion.
"""

import pytest
import yaml

from lightning_resnet import reading
from lightning_resnet.cli.main import main
from lightning_resnet.credentials import refuse_secret_flags
from lightning_resnet.errors import UserError
from lightning_resnet.reading import DEEPEST, line_of, parse_json, parse_yaml, read_yaml


def powers(first, each):
    """Nine levels of ten aliases each: a billion items."""
    letters = "abcdefghij"
    lines = [
        f"{b}: &{b} {each.format(','.join([f'*{a}'] * 10))}"
        for a, b in zip(letters, letters[1:], strict=False)
    ]
    return "\n".join([f"a: &a {first}", *lines])


REFUSED = {
    "key twice": (
        "model:\n  lr: 1\n  x: 2\n  lr: 3\n",
        "line 4: lr is there twice, first in line 2",
    ),
    "block twice": (
        "model: {a: 1}\ndata: {}\nmodel: {b: 2}\n",
        "line 3: model is there twice, first in line 1",
    ),
    "merged twice": ("a: &a {b: 1}\nc: {<<: *a, <<: *a}", "line 2: << is there twice"),
    "key read as true": (
        "a: 1\non: 1\n",
        "line 2: the key on is read as true or false: write it in quotes",
    ),
    "key read as null": ("~: 1\n", "read as null"),
    "key read as a number": ("1.5: 1\n", "read as a number"),
    "list as key": ("? [1, 2]\n: 3\n", "line 1: a key is a list"),
    "billion laughs": (powers("[x,x,x,x,x,x,x,x,x,x]", "[{}]"), "repeat more than"),
    "billion merges": (powers("{x: 1, y: 2}", "{{<<: [{}]}}"), "repeat more than"),
    "long text repeated": (f"a: &a {'x' * 1000}\nb: [{'*a,' * 2000}]", "repeat more than"),
    "within itself": ("a: &a [*a]", "stands within what it names"),
    "deep lists": ("[" * 1_000_000, f"more than {DEEPEST}"),
    "deep blocks": ("- " * 1_000_000, f"more than {DEEPEST}"),
    "deep mappings": ("{a: " * 1_000_000, f"more than {DEEPEST}"),
    "digits": (f"a: {'1' * 1_000_000}", "a number of 1,000,000 digits"),
    "base 60": (f"a: {':'.join(['59'] * 300_000)}", "a number of"),
    "hexadecimal": (f"a: 0x{'f' * 1_000_000}", "a number of"),
    "code": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "two documents": ("a: 1\n---\nb: 2", "a single document"),
    "NUL": ("a: \x00", "control characters"),
    "no anchor": ("a: *b", "undefined alias"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_yaml_that_would_be_taken_wrongly_is_refused(text, message):
    with pytest.raises(UserError, match=message) as e:
        parse_yaml(text)
    assert len(str(e.value)) < 300


def test_other_yaml_is_as_pyyaml_reads_it():
    text = "a: &d {b: 1, 'on': 2}\nc:\n  <<: *d\n  b: 3\n7: [x, {y: ~}]\nlong: " + "x" * 10_000
    assert parse_yaml(text) == yaml.safe_load(text)


def test_a_file_is_named_and_has_a_limit(tmp_path, monkeypatch):
    file = tmp_path / "r.yaml"
    monkeypatch.setattr(reading, "LARGEST", 100)
    for content, message in (
        (b"a: 1\na: 2", "r.yaml: line 2: a is there twice"),
        (b"a: \xff", "r.yaml is no text in UTF-8"),
        (b"a: " + b"x" * 100, "r.yaml is larger than"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_yaml(file)
    with pytest.raises(UserError, match="cannot read"):
        read_yaml(tmp_path / "absent.yaml")
    file.write_bytes("\ufeffa: é".encode())
    assert read_yaml(file) == {"a": "é"}


@pytest.mark.parametrize("text", ["[" * 1_000_000, '{"a":' * 100_000, "1" * 1_000_000, "", "{"])
def test_json_that_is_none_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("model:\n  optimizer:\n    init_args:\n      lr: 3\n", "model.optimizer.lr", 4),
        ("model:\n  net.depth: 3\n", "model.net.depth", 2),
        ("wandb: {mode: off}", "wandb.mode", 1),
        ("a: 1", "b.c", None),
        ("- a", "a", None),
    ],
)
def test_line_of_a_key(text, key, line):
    assert line_of(text, key) == line


@pytest.mark.parametrize("verb", ["fit", "sweep", "inspect gradients"])
def test_every_verb_refuses_a_key_that_is_there_twice(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("method: grid\nmethod: random\n")
    config = ["--config"] if "fit" in verb else []
    assert main([*verb.split(), *config, "r.yaml"]) == 2
    out, err = capsys.readouterr()
    assert "r.yaml: line 2: method is there twice, first in line 1" in err and err.count("\n") == 1


def test_a_file_that_a_flag_names_is_read_as_strictly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trainer.yaml").write_text("max_epochs: 3\nmax_epochs: 4\n")
    (tmp_path / "r.yaml").write_text(
        "model: {net: {class_path: CifarResNet, init_args: {depth: 8}}}\ndata: {source: Digits}\n"
    )
    assert main(["fit", "--config", "r.yaml", "--trainer", "trainer.yaml"]) == 2
    assert "line 2: max_epochs is there twice, first in line 1" in capsys.readouterr().err


def test_a_recipe_of_merges_takes_no_time_before_the_parser_refuses_it(
    tmp_path, monkeypatch, capsys
):
    """Each `<<` of nine would make nine times as many keys: the search for secrets reads as
    strictly as the parser.
    """
    monkeypatch.chdir(tmp_path)
    lines = [
        "a0: &a0 {x: 1}",
        *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 16)),
    ]
    (tmp_path / "r.yaml").write_text("\n".join(lines))
    assert main(["fit", "--config", "r.yaml"]) == 2
    assert "aliases such as" in capsys.readouterr().err


@pytest.mark.parametrize("value", [":".join(["59"] * 10_000), "[" * 100_000, "1" * 5_000])
def test_a_flag_of_any_value_is_searched_for_secrets(value):
    refuse_secret_flags(["fit", "--run.name", value])


@pytest.mark.parametrize(
    ("text", "number"), [("0100", 64), ("1:30", 90), ("-017", -15), ("1:30.5", 90.5)]
)
def test_numbers_that_yaml_reads_by_another_base_are_refused(text, number):
    with pytest.raises(
        UserError, match=f"{text} is read as the number {number}: write {number}, or quote it"
    ):
        parse_yaml(f"a: {text}")
    assert parse_yaml(f"a: '{text}'") == {"a": text}


@pytest.mark.parametrize(
    "text", ["0", "00", "0.1", "-0", "0x1F", "08:30:00x", "12 30", "1e-3", "0_0"]
)
def test_other_numbers_and_words_are_not(text):
    assert list(parse_yaml(f"a: {text}")) == ["a"]


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("trainer:\n\tmax_epochs: 1\n", "line 2 begins with a tab: indent with spaces"),
        ("trainer:\n  max_epochs:1\n  devices: 1\n", "line 2: a space belongs after the colon"),
        ("trainer:\n  max_epochs: 1\n    devices: 1\n", "line 3 is indented further than line 2"),
    ],
)
def test_usual_mistakes_of_yaml_are_told_by_their_cure(text, cure):
    with pytest.raises(UserError, match=cure):
        parse_yaml(text)
