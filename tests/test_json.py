"""`--json`: one document alone on stdout, from every verb that prints a table."""

import json
import math
import os

import numpy as np
import pytest
from helpers.command_line import TINY
from helpers.made_runs import make_run

from lightning_resnet.errors import UserError
from lightning_resnet.printing import as_json, fitted, only_json

SMALL = [
    *TINY,
    "--trainer.max_epochs",
    1,
    "--data.batch_size",
    128,
    "--trainer.limit_train_batches",
    2,
]


@pytest.fixture
def document(cli):
    """Run a verb with --json; returns the exit status and what stdout holds."""

    def run(*args):
        code, out, err = cli(*args, "--json")
        assert out, err
        return code, json.loads(out)

    return run


def test_compare(sweep, document, tmp_path):
    code, found = document("compare", sweep, "--baseline", "shortcut=none")
    assert code == 0 and set(found) == {"rows", "pairs", "notes", "warnings", "files"}
    row = found["rows"][0]
    assert (row["depth"], row["shortcut"], row["n"]) == (20, "none", 3)
    assert row["val_err_final_mean"] == pytest.approx(5) and row["macs"] == 10
    assert found["pairs"][0]["difference"] == pytest.approx(-2) and found["pairs"][0]["p"] is None
    one = make_run(tmp_path / "runs" / "one" / "a")
    assert document("compare", one)[1]["rows"][0]["val_err_final_std"] is None
    differing = document("compare", "--diff", sweep / "20A0", sweep / "56A0")[1]["differences"]
    assert differing["model.net.init_args.depth"] == [20, 56]


def test_verbs_of_a_run(cli, document):
    assert cli("fit", *SMALL)[0] == 0
    code, found = document("validate", *SMALL)
    assert code == 0 and found["checkpoint"].endswith("last.ckpt") and 0 <= found["val/acc1"] <= 1
    assert cli("fit", *SMALL, "--json")[0] == 2
    run = found["checkpoint"].rpartition("/checkpoints")[0]
    code, found = document("evaluate", run, "--per-class")
    row = found["rows"][0]
    assert code == 0 and (found["split"], found["source"], row["n"]) == ("val", "Digits", 360)
    assert row["top1_low"] <= row["top1"] <= row["top1_high"] and len(found["classes"]) == 10
    assert row["top1_error"] == pytest.approx(100 - row["top1"])
    code, found = document("export", run, "--out", "run.tar.gz")
    assert code == 0 and found["file"] == "run.tar.gz" and found["bytes"] > 0
    assert any(member.endswith("config.yaml") for member in found["members"])
    code, found = document("convert", run, "--out", "net.pth")
    assert (code, found["file"], found["net"]) == (0, "net.pth", "CifarResNet")
    code, found = document("inspect", "gradients", run, "--batches", 1)
    assert code == 0 and found["title"] == "gradients, after training, n = 1, Digits"
    assert {"net", "seed", "first_last"} <= set(found["rows"][0]) and len(found["files"]) == 5
    code, found = document("rm", run, "--yes")
    assert code == 0 and found["removed"] == [run] and found["bytes"] > 0


def test_verbs_without_a_run(document, sweep_file, cli):
    code, found = document("doctor", "--quick")
    assert code in (0, 1)
    assert all(set(one) == {"level", "what", "found", "cure"} for one in found["findings"])
    file = sweep_file({"seed_everything": {"values": [1, 2]}})
    code, found = document("sweep", file)
    assert code == 0 and [point["state"] for point in found["points"]] == ["new", "new"]
    assert found["points"][0]["parameters"] == {"seed_everything": 1}
    code, _, err = cli("sweep", file, "--local", "--json")
    assert code == 2 and "--list and --status" in err
    assert cli("data", "write", "digits", "--out", "d.beton", "--workers", 1)[0] == 0
    code, found = document("data", "info", "d.beton")
    assert code == 0 and found["samples"] == 1437 and found["height"] == [8, 8]
    assert document("data", "verify", "d.beton") == (
        0,
        {"file": "d.beton", "problems": [], "has_manifest": True},
    )


def test_bench_tells_its_tables(document):
    code, found = document("bench", "compare", "--runs", "13", "--rows", "100", "--repeat", "1")
    assert code == 0 and found["what"] == "compare" and len(found["tables"][0]) == 2


def test_errors_leave_stdout_empty(cli):
    code, out, err = cli("compare", "nowhere", "--json")
    assert (code, out) == (2, "") and err.startswith("error: ")


def test_numbers_that_are_not_finite_are_null():
    document = {"a": math.nan, "b": [np.float32(1.5), np.int64(2), math.inf], 3: ("x", None)}
    assert json.loads(as_json(document)) == {"a": None, "b": [1.5, 2, None], "3": ["x", None]}


def test_what_children_print_goes_to_stderr(capfd):
    with only_json(True, {"a": 1}):
        os.system("echo child")
        print("parent")
    out, err = capfd.readouterr()
    assert json.loads(out) == {"a": 1} and "child" in err and "parent" in err
    with pytest.raises(UserError), only_json(True, {}):
        raise UserError("told")
    assert capfd.readouterr().out == ""


def test_tables_fit_the_terminal(monkeypatch):
    rows = [
        ["setting", "error, %", "seconds"],
        ["a long name of a setting, in words", "1.00", "2.0"],
    ]
    monkeypatch.setenv("COLUMNS", "80")
    assert "seconds" in fitted(rows, 1, ["seconds"]).splitlines()[0]
    for columns in (52, 40, 30):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = fitted(rows, 1, ["seconds"])
        assert max(map(len, text.splitlines()[:-1])) <= columns and "1.00" in text
        assert "seconds" not in text.splitlines()[0] and "Left out to fit" in text
