"""Tables of others that are too long, too wide, too deep or full of odd numbers: bounded memory and
time, one line.
"""

import json
import math

import pytest
from helpers.made_runs import epoch_rows, make_run

from lightning_resnet.analysis import load_runs
from lightning_resnet.analysis.compare import load as runs
from lightning_resnet.cli.main import main
from lightning_resnet.runs import metrics as rows
from lightning_resnet.runs.reader import Run

ROWS = [row for epoch in range(2) for row in epoch_rows(epoch, 50)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "line",
    [
        "x" * 50_000_000,
        '{"step": 1' + "0" * 400 + "}",
        '{"step": 5, "val/acc1": ' + "1" * 5000 + "}",
        '{"step": 5, "val/acc1": "half"}',
        '{"a":' * 100_000,
        "[" * 900_000,
        json.dumps({"step": 5} | {f"m{i}": 1 for i in range(20_000)}),
        "\0" * 1000,
    ],
    ids=["50 MB", "huge step", "digits", "text", "deep", "deeper", "wide", "NUL"],
)
def test_a_line_that_is_no_row_is_counted_and_left_out(tmp_path, line):
    run = make_run(tmp_path / "s" / "a", rows=ROWS)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line + "\n" + json.dumps(epoch_rows(2, 50)[-1]) + "\n")
    found = load_runs(tmp_path / "s")
    assert found.runs["status"].tolist() == ["finished"] and len(found.history) == len(ROWS) + 1
    assert found.runs["unreadable_lines"].tolist() == [1]
    assert Run(run).rows().bad_lines == 1 and Run(run).final_row("val/acc1")["epoch"] == 2


def test_steps_and_values_at_their_limits_make_a_report(tmp_path):
    odd = [row | {"step": 10**9 + i, "val/loss": math.inf} for i, row in enumerate(ROWS)]
    make_run(tmp_path / "s" / "a", rows=odd)
    assert main(["compare", str(tmp_path / "s"), "--out", str(tmp_path / "o")]) == 0


def test_a_run_of_too_many_metrics_is_unreadable(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MOST_METRICS", 50)
    make_run(tmp_path / "s" / "a")
    wide = [row | {f"m{n}_{i}": i for i in range(20)} for n, row in enumerate(ROWS)]
    make_run(tmp_path / "s" / "b", rows=wide)
    found = load_runs(tmp_path / "s").runs.set_index("run_id")
    assert found["status"].to_dict() == {"a": "finished", "b": "unreadable"}
    assert "more than 50 different metrics" in found["error"]["b"]


def test_a_table_that_memory_cannot_hold_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "MOST_CELLS", 20)
    make_run(tmp_path / "s" / "a")
    assert main(["compare", str(tmp_path / "s")]) == 2
    assert "compare fewer of them" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["meta.json", "config.yaml", "attempts/1.json"])
@pytest.mark.parametrize(
    "content",
    [
        "[" * 1_000_000,
        '{"a":' * 1_000_000,
        "1" * 1_000_000,
        '{"seconds": NaN, "params": 1e999, "step": ' + "9" * 400 + "}",
    ],
    ids=["deep list", "deep mapping", "digits", "odd numbers"],
)
def test_a_file_of_a_run_that_is_none_ends_nothing(tmp_path, file, content, capsys):
    make_run(tmp_path / "s" / "a")
    bad = make_run(tmp_path / "s" / "b")
    (bad / file).write_text(content)
    assert main(["compare", str(tmp_path / "s"), "--out", str(tmp_path / "o")]) == 0
    assert "1 finished" in capsys.readouterr().out or file == "meta.json"


def sweep(tmp_path, parameters, **other):
    (tmp_path / "r.yaml").write_text("data: {}\n")
    command = ["${env}", "resnet-cli", "fit", "--config", "r.yaml", "--config", "${args_json_file}"]
    content = {"method": "grid", "command": command, "parameters": parameters, **other}
    (tmp_path / "s.yaml").write_text(json.dumps(content))
    return ["sweep", "s.yaml", "--list", "--yes"]


RANGE = {"min": 0, "max": 10**6 - 1}


@pytest.mark.parametrize(
    ("parameters", "other", "line"),
    [
        ({"a": RANGE, "b": RANGE}, {}, "has more than 1,000,000 points"),
        ({f"p{i}": RANGE for i in range(1000)}, {}, "has more than 1,000,000 points"),
        ({"a": RANGE}, {"method": "random", "run_cap": 10**12}, "has more than 1,000,000 points"),
        ({"a": {"min": 0, "max": 10**30}}, {}, "max must be between"),
        (
            {"a": {"min": 0.0, "max": 1.0, "q": 1e-300, "distribution": "q_uniform"}},
            {},
            "makes more than",
        ),
        (
            {"a": {"mu": 1e6, "distribution": "log_normal"}},
            {"method": "random", "run_cap": 2},
            "draws a number that is too large",
        ),
        ({"a": {"min": 0.0, "max": math.inf}}, {}, "not a number"),
    ],
)
def test_a_sweep_of_too_many_points_is_refused_before_any_is_made(
    tmp_path, parameters, other, line, capsys
):
    assert main(sweep(tmp_path, parameters, **other)) == 2
    err = capsys.readouterr().err
    assert line in err and err.count("\n") == 1 and len(err) < 400


def test_the_first_points_of_a_huge_grid_are_listed(tmp_path, capsys):
    assert (
        main(sweep(tmp_path, {"seed_everything": RANGE, "trainer.max_steps": RANGE}, run_cap=3))
        == 0
    )
    assert "3 points" in capsys.readouterr().out
    values = {"values": list(range(2000)), "probabilities": [1 / 2000] * 2000}
    assert main(sweep(tmp_path, {"seed_everything": values}, method="random", run_cap=300)) == 0
