"""What `compare` can be asked: selections, columns, twins, effects, differences, and a page that
reacts.
"""

import base64
import json
import random
import re
import shutil
import sys
import time
import zlib
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.command_line import verb
from helpers.made_runs import epoch_rows, make_run
from scipy import stats

from lightning_resnet.analysis import load_runs
from lightning_resnet.analysis.compare import explorer
from lightning_resnet.analysis.compare import load as loading
from lightning_resnet.analysis.compare.callback_metrics import logged
from lightning_resnet.analysis.compare.effects import effects, gaps
from lightning_resnet.analysis.compare.export import diff
from lightning_resnet.analysis.compare.extra_columns import add_metric, pivot
from lightning_resnet.analysis.compare.figures import curves, palette
from lightning_resnet.analysis.compare.importance import importances
from lightning_resnet.analysis.compare.load import JOINED_LATER, Runs
from lightning_resnet.analysis.compare.pairs import paired
from lightning_resnet.analysis.compare.report import View, report, select
from lightning_resnet.analysis.compare.tables import choose_rows, summary, to_latex
from lightning_resnet.cli import bench
from lightning_resnet.cli import compare as command
from lightning_resnet.data.module import ImageData
from lightning_resnet.errors import UserError
from lightning_resnet.training.task import ClassificationTask

main = verb(command)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_where_selects_runs(sweep):
    runs = select(load_runs(sweep), "depth == 56 and shortcut != 'none'")
    assert len(runs.runs) == 3 and set(runs.history["path"]) == set(runs.runs["path"])
    for where, message in (
        ("depth = 56", "write it as in"),
        ("depht == 56", "did you mean depth"),
        ("depth == 57", "no run is"),
        ("shortcut == a and depth == 56", "--where \"shortcut == 'A' and depth == 56\""),
        ("`dpth` == 56", "no such setting as dpth"),
        ("depth == `model.net.depth`", "it cannot be used as a condition"),
        ("shortcut in (A, other)", "--where \"shortcut in ('A', 'other')\""),
        ("depth == none", "no such setting as none; there are depth, shortcut"),
        ("model.net.dpth == 56", "did you mean model.net.depth"),
        ("depth", "this is no condition"),
        ("shortcut < 3", "; write it as in"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            select(load_runs(sweep), where)


@pytest.mark.parametrize("name", ["model.net.depth", "net.depth", "model.net.init_args.depth"])
def test_settings_have_the_names_of_flags_too(sweep, name):
    runs = select(load_runs(sweep), f"{name} == 56 and shortcut == 'A'")
    assert runs.runs["depth"].tolist() == [56] * 3
    assert summary(load_runs(sweep), [name]).keys == ["model.net.init_args.depth"]


def test_unknown_settings_and_metrics_of_a_report(sweep):
    for view, message in (
        (View(rows=["dpeth"]), "--rows dpeth: .*; did you mean depth"),
        (View(rows=["val/acc1"]), "a metric is a column: --metric val/acc1"),
        (View(over=["seed", "shortct"]), "--over shortct: .*; did you mean shortcut"),
        (View(cols="shortct"), "--cols shortct is none of the rows: .*; did you mean shortcut"),
        (View(metrics=["accuracy"]), "--metric accuracy: .*; did you mean val/acc1"),
    ):
        with pytest.raises(UserError, match=message):
            report([sweep], view=view)


def test_settings_that_are_asked_for_are_rows_even_the_seed(sweep):
    assert summary(load_runs(sweep), ["depth", "seed"]).keys == ["depth", "seed"]


def test_averages_over_more_than_seeds_and_side_by_side(sweep, capsys):
    made = report([sweep], view=View(over=["shortcut"]))
    assert made.table.frame["n"].tolist() == [6, 6] and "mixes shortcut" in made.table.flags[0]
    main([str(sweep), "--cols", "shortcut"])
    assert "41.00 ± 1.00 (n = 3)" in capsys.readouterr().out
    table = summary(load_runs(sweep)).frame
    assert pivot(table, ["depth", "shortcut"], "shortcut") == [
        ["depth", "plain", "residual (A)"],
        ["20", "5.00 ± 1.00 (n = 3)", "3.00 ± 1.00 (n = 3)"],
        ["56", "41.00 ± 1.00 (n = 3)", "2.00 ± 1.00 (n = 3)"],
    ]
    with pytest.raises(UserError, match="--cols width is none of the rows"):
        report([sweep], view=View(cols="width"))


def test_any_metric_last_or_at_the_best_epoch(tmp_path):
    rows = [row for epoch, error in enumerate((50, 10, 30)) for row in epoch_rows(epoch, error)]
    rows[3] |= {"val/loss": 0.5}
    rows[5] |= {"val/loss": 0.7}
    make_run(tmp_path / "d" / "a", rows=rows)
    runs = load_runs(tmp_path)
    table = summary(runs).frame
    assert add_metric(table, runs, ["depth"], "val/loss@best")["val/loss@best"].tolist() == [
        "0.5 (n = 1)"
    ]
    assert add_metric(table, runs, ["depth"], "val/loss")["val/loss@last"].tolist() == [
        "0.7 (n = 1)"
    ]
    error = add_metric(table, runs, ["depth"], "train_eval/acc1@best")
    assert error["train_eval/acc1@best error"].tolist() == ["5 (n = 1)"]
    for metric, message in (
        ("val/los", "did you mean val/loss"),
        ("val/loss@first", "METRIC@best"),
        ("kind", "METRIC is one of"),
        ("run_id@best", "METRIC is one of"),
    ):
        with pytest.raises(UserError, match=message):
            add_metric(table, runs, ["depth"], metric)


def data_of(made):
    """Data of the page's charts, with the curves as the browser unpacks them."""
    found = re.search(r'application/json">(.*?)</script>', made.files[-1].read_text())
    data = json.loads(found[1])
    data["series"] = json.loads(zlib.decompress(base64.b64decode(data["series"])))
    for rows in (rows for run in data["series"] for rows in run):
        for name in ("step", "time"):
            rows[name] = np.cumsum(rows[name]).tolist()
        for name, values in rows["values"].items():
            if not isinstance(values, list):
                rows["values"][name] = [values] * len(rows["step"])
    return data


def timed(attempts=(1, 1)):
    """Two epochs; a row a second from the second 100 on."""
    both = zip(range(2), attempts, strict=True)
    return [
        row | {"time": 100.0 + row["step"], "attempt": a}
        for epoch, a in both
        for row in epoch_rows(epoch, 50)
    ]


@pytest.mark.parametrize("x", ["step", "epoch", "time"])
def test_axis_of_the_figure(tmp_path, x):
    make_run(tmp_path / "d" / "a", rows=timed())
    for _ in range(2):  # the second time from the cache
        data = data_of(report([tmp_path / "d"], view=View(x=x)))
        val, train = data["series"][0]
        assert data["x"] == x and val["step"] == [10, 20] and train["step"] == [5, 15]
        assert val["epoch"] == [1, 2] and val["time"] == [50, 150]  # in tenths of a second
        assert val["values"]["val/acc1"] == [50, 50] and train["values"]["train/loss"] == [1, 1]
        assert val["values"]["train_eval/acc1"] == [25, 25]


def test_gpu_hours_count_all_attempts_and_no_pause(tmp_path, capsys):
    first = {
        "attempt": 1,
        "start": "1970-01-01T00:01:40+00:00",
        "seconds": 18.0,
        "gpus": 2,
        "reason": "preempted",
    }
    second = {
        "attempt": 2,
        "start": "1970-01-01T00:01:56+00:00",
        "seconds": 5.0,
        "gpus": 8,
        "reason": "finished",
    }
    make_run(tmp_path / "d" / "a", rows=timed((1, 2)), attempts=[first, second])
    make_run(tmp_path / "d" / "b", seed=1, rows=timed())  # tells of no GPU
    with pytest.raises(UserError, match="1 of the finished runs used no GPU"):
        report([tmp_path / "d"], view=View(x="gpu_h"))
    for _ in range(2):
        made = report([tmp_path / "d"], view=View(x="gpu_h", where="gpu_h > 0"))
        ((val, _),) = data_of(made)["series"]
        assert [3600 * x for x in val["gpu_h"]] == pytest.approx([10 * 2, 18 * 2 + 4 * 8], rel=1e-3)
    assert made.runs.runs["gpu_h"].tolist() == pytest.approx([(36 + 40) / 3600])
    main([str(tmp_path / "d"), "--x", "gpu_h", "--where", "gpu_h > 0"])
    assert "index.html" in capsys.readouterr().out


def test_steps_to_an_error(tmp_path):
    for seed, errors in enumerate([(50, 10, 4), (4, 3, 10), (50, 40, 30)]):
        make_run(tmp_path / "d" / str(seed), seed=seed, errors=errors)
    make_run(tmp_path / "d" / "deep", depth=56, errors=(90, 80, 70))
    runs = load_runs(tmp_path)
    table = summary(runs).frame
    for metric, cells in (
        ("steps_to:4", ["20 ± 14 (2 of 3)", "never (0 of 1)"]),
        ("train_steps_to:20", None),
    ):
        found = add_metric(table, runs, ["depth"], metric)[metric].tolist()
        assert found == (cells or ["17 ± 6 (3 of 3)", "never (0 of 1)"])
    with pytest.raises(UserError, match="write an error in percent, as in steps_to:5"):
        add_metric(table, runs, ["depth"], "steps_to:few")
    with pytest.raises(
        UserError, match="one of lr, train/loss, train_eval/acc1, val/acc1, val/loss"
    ):
        add_metric(table, runs, ["depth"], "accuracy")


def test_panels_of_what_callbacks_logged(tmp_path):
    for seed in range(2):
        rows = [row for epoch in range(2) for row in epoch_rows(epoch, 50)]
        for row in rows[::2]:  # of training
            row |= {f"grad_norm/layer1.{i}": 10.0**i * row["step"] * (seed + 1) for i in (0, 10, 2)}
        make_run(tmp_path / "d" / str(seed), seed=seed, rows=rows)
    frame = logged(load_runs(tmp_path), ["depth"], "grad_norm")
    end = frame[frame["run"].str.endswith("d/1")].dropna(subset="index")
    assert end["block"].tolist() == ["layer1.0", "layer1.2", "layer1.10"]
    assert end["value"].tolist() == [30, 3000, 30e10]  # the last fifth of two rows: one
    made = report([tmp_path / "d"], view=View(panels=["grad_norm"]))
    assert {"grad_norm.png", "grad_norm.svg", "grad_norm.csv"} <= {file.name for file in made.files}
    assert made.files[-1].read_text().count("<figure>") == 1
    with pytest.raises(UserError, match="callbacks\\+=ResponseStds"):
        report([tmp_path / "d"], view=View(panels=["response_std"]))


def test_parquet(sweep, capsys, monkeypatch):
    main([str(sweep), "--parquet"])
    complete, kept = (
        load_runs(sweep),
        [pd.read_parquet(sweep / f"report/{name}.parquet") for name in Runs._fields],
    )
    assert kept[0]["run_id"].tolist() == complete.runs["run_id"].tolist() and len(kept[1]) == len(
        complete.history
    )
    assert kept[1]["val/acc1"].equals(complete.history["val/acc1"])

    def refuse(*args):
        raise ImportError

    monkeypatch.setattr(pd.DataFrame, "to_parquet", refuse)
    with pytest.raises(UserError, match="--parquet needs pyarrow: pip install"):
        main([str(sweep), "--parquet"])


def test_twins_are_paired_by_seed(tmp_path):
    plain, residual = [10, 12, 17], [9, 10, 13]
    for seed in range(3):
        make_run(tmp_path / "d" / f"p{seed}", shortcut="none", seed=seed, errors=(50, plain[seed]))
        make_run(tmp_path / "d" / f"r{seed}", shortcut="A", seed=seed, errors=(50, residual[seed]))
    make_run(tmp_path / "d" / "alone", shortcut="A", seed=7)
    (line,) = paired(load_runs(tmp_path), "shortcut=none").to_dict("records")
    test = stats.ttest_rel(residual, plain)
    assert (line["setting"], line["baseline"], line["n"]) == ("residual (A)", "plain", 3)
    assert line["difference"] == pytest.approx(-7 / 3) and line["p"] == pytest.approx(test.pvalue)
    assert (line["low"], line["high"]) == pytest.approx(tuple(test.confidence_interval()))


def test_one_run_is_called_one_run(tmp_path, capsys):
    make_run(tmp_path / "d" / "a", shortcut="A")
    make_run(tmp_path / "d" / "b", shortcut="none", errors=(50, 12))
    main([str(tmp_path), "--baseline", "shortcut=none"])
    assert re.search(r"\| +1 \| +-2.00 \| +one run \| one run \|", capsys.readouterr().out)
    for baseline, message in (
        ("shortcut=B", "no finished run has that"),
        ("depth=20", "no run has a twin"),
    ):
        with pytest.raises(UserError, match=message):
            report([tmp_path], view=View(baseline=baseline))


def test_effects_without_a_shallower_twin_are_refused(tmp_path):
    make_run(tmp_path / "d/a", net_args={"depth": 20, "shortcut": "A"})
    make_run(tmp_path / "d/b", net_args={"depth": 56, "shortcut": "none"})
    with pytest.raises(UserError, match="no run that has finished has a shallower twin"):
        effects(load_runs(tmp_path))


def test_a_shallow_net_at_chance_has_no_gap_over_chance(tmp_path):
    for name, depth, errors in (("a", 20, (90, 90)), ("b", 56, (90, 80))):
        make_run(tmp_path / "d" / name, errors=errors, net_args={"depth": depth, "shortcut": "A"})
    frame, _ = gaps(load_runs(tmp_path))
    assert frame["points"].tolist() == pytest.approx([-10]) and frame["chance"].isna().all()


def test_effects_are_recovered(tmp_path):
    """Runs made of known effects: gap = 6 + 2 classes - 3 width + 1 classes x width, in points,
    from low to high.
    """
    for i, (classes, width, depth, seed) in enumerate(np.ndindex(2, 2, 2, 3)):
        a, b = 2 * classes - 1, 2 * width - 1
        error = 10 + (6 + a - 1.5 * b + 0.5 * a * b + 0.01 * (seed - 1)) * depth
        net_args = {
            "depth": (20, 56)[depth],
            "shortcut": "A",
            "width": (8, 16)[width],
            "num_classes": (5, 10)[classes],
        }
        make_run(tmp_path / "d" / str(i), seed=seed, errors=(50, error), net_args=net_args)
    runs = load_runs(tmp_path)
    frame, factors = gaps(runs)
    assert len(frame) == 12 and sorted(factors) == ["num_classes", "width"]
    found = effects(runs).set_index("effect")
    assert found["points"].round(4).to_dict() == {
        "mean": 6,
        "num_classes": 2,
        "width": -3,
        "width x num_classes": 1,
    }
    assert (found["points_low"] < found["points"]).all() and (
        found["points_high"] - found["points"] < 0.05
    ).all()
    assert found.loc["mean", "relative"] == pytest.approx(0.6) and found.loc[
        "mean", "chance"
    ] == pytest.approx(np.mean([6 / 70, 6 / 80]), abs=0.01)
    with pytest.raises(UserError, match="two depths"):
        gaps(select(runs, "depth == 56"))


def test_diff_of_two_configurations(sweep):
    found = diff(sweep / "20A0", sweep / "56A0")
    assert found["model.net.init_args.depth"] == (20, 56) and "shortcut" not in str(found)
    assert diff(sweep / "20A0", sweep / "20A0") == {}
    with pytest.raises(UserError, match="--diff takes two run directories"):
        diff(sweep, sweep)


def test_latex(sweep):
    text = to_latex(summary(load_runs(sweep)))
    assert r"depth & shortcut & error, \% & best" in text and text.count(r"\\") == 5
    assert r"56 & plain & 41.00 $\pm$ 1.00 & 39.50" in text


def test_training_rows_can_be_left_out(sweep):
    complete, part = load_runs(sweep), load_runs(sweep, train=False)
    assert (part.history["kind"] == "val").all() and len(part.history) == (
        complete.history["kind"] == "val"
    ).sum()
    assert part.runs["steps"].tolist() == complete.runs["steps"].tolist()
    assert (
        summary(part).frame.equals(summary(complete).frame)
        and summary(part)[1:] == summary(complete)[1:]
    )


def test_finished_runs_are_read_once(sweep, monkeypatch):
    first = load_runs(sweep, train=False)
    monkeypatch.setattr(loading, "_history", lambda *a: pytest.fail("read again"))
    again = load_runs(sweep, train=False)
    pd.testing.assert_frame_equal(first.history, again.history)
    pd.testing.assert_frame_equal(first.runs, again.runs)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(sweep / "other"))
    with (sweep / "20A0" / "metrics.jsonl").open("a") as file:
        file.write(
            json.dumps({"step": 40, "epoch": 3, "attempt": 1, "time": 0.0, "val/acc1": 0.5}) + "\n"
        )
    assert load_runs(sweep, train=False).runs["steps"].max() == 40


@pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
def test_reference_runs_are_found_by_name(name):
    runs = load_runs(f"reference:{name}").runs
    assert (runs["status"] == "finished").all() and runs.groupby(
        ["depth", "shortcut"]
    ).size().tolist() == [3] * 4
    with pytest.raises(UserError, match="there are reference:digits, reference:fashion_mnist"):
        load_runs("reference:nothing")


def test_own_runs_next_to_ours_that_older_code_made(tmp_path):
    (theirs,) = load_runs("reference:digits").runs.query(
        "depth == 20 and shortcut == 'A' and seed == 0"
    )["path"]
    own = shutil.copytree(theirs, tmp_path / "mine" / "abc")
    config = yaml.safe_load((own / "config.yaml").read_text())
    assert "loss" not in config["model"] and "order" not in config["data"]
    config["model"] |= {"loss": "cross_entropy", "precise_bn": 0, "compile": False}
    config["data"] |= {"erase": 0.0, "order": "global", "repeats": 3}
    (own / "config.yaml").write_text(yaml.safe_dump(config))
    table = summary(load_runs([tmp_path / "mine", "reference:digits"]))
    assert list(table.frame)[:4] == ["name", "depth", "shortcut", "n"] and len(table.frame) == 5
    assert sorted(set(table.frame["name"])) == ["mine", "reference:digits"]
    changed = load_runs([tmp_path / "mine", "reference:digits"]).runs
    changed.loc[changed["name"] == "mine", "model.loss"] = "bce"
    assert "model.loss" in choose_rows(changed)


def unlike(path, **settings):
    """Make a run of a recipe of its own: six settings differ."""
    make_run(path, depth=18, batch_size=settings.pop("batch_size"))
    config = json.loads((path / "config.yaml").read_text())
    config["model"]["optimizer"]["init_args"] |= settings
    config["data"] |= {"flip": settings["lr"] > 0.1, "size": int(1000 * settings["lr"])}
    (path / "config.yaml").write_text(json.dumps(config))


def test_unlike_recipes_are_told_by_name_and_what_differs_is_folded(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unlike(tmp_path / "runs/photos/a", batch_size=64, lr=0.1, momentum=0.9, weight_decay=1e-4)
    unlike(tmp_path / "runs/other/b", batch_size=32, lr=0.2, momentum=0.8, weight_decay=2e-4)
    main(["runs/photos", "runs/other"])
    head, _, first, second = capsys.readouterr().out.splitlines()[:4]
    assert [cell.strip() for cell in head.split("|")[1:4]] == ["name", "error, %", "best"]
    assert first.startswith("| other ") and second.startswith("| photos ") and len(head) <= 80
    page = (tmp_path / "runs/report/index.html").read_text()
    folded = re.search("<details>.*?</details>", page, re.S)[0]
    assert "What differs: 6 settings" in folded and ">optimizer.weight_decay<" in folded
    assert "init_args" not in re.sub(r"(?s)<figure>.*?</figure>|<script.*", "", page)
    header = (tmp_path / "runs/report/table.csv").read_text().splitlines()[0]
    assert header.startswith("name,lr,") and "model.optimizer.init_args.weight_decay" in header
    assert choose_rows(load_runs("runs").runs, ["optimizer.weight_decay"]) == [
        "model.optimizer.init_args.weight_decay"
    ]


def test_a_reference_has_panels_of_its_own_in_the_same_colours(sweep):
    runs, history = load_runs([sweep, "reference:digits"])
    figure = curves(runs, history, ["name", "depth", "shortcut"])
    assert [ax.get_title() for ax in figure.axes] == [
        *("digits, plain", "digits, residual (A)"),
        *("reference:digits, plain", "reference:digits, residual (A)"),
    ]
    colours = [[line.get_color() for line in ax.get_lines()] for ax in figure.axes]
    assert colours[0] == colours[2] and colours[1] == colours[3] and colours[0] != colours[1]
    assert len(figure.legends[0].get_texts()) == 4 + 3


def test_a_net_has_one_colour_wherever_it_stands():
    every = palette(["depth 20, plain", "depth 20, residual (A)", "depth 56, residual (A)"])
    assert len(set(every.values())) == 3
    for labels in (["depth 56, residual (A)"], ["reference:digits, depth 56, residual (A)"]):
        assert [*palette(labels).values()] == [every["depth 56, residual (A)"]]
    with_theory = palette(["norm a", "norm b", "norm b, theory"])
    assert with_theory == palette(["norm a", "norm b"]) | {"norm b, theory": with_theory["norm b"]}
    two = palette(["a, depth 20, plain", "b, depth 20, plain"])  # of one page: told apart
    assert len(set(two.values())) == 2


def test_older_runs_did_what_the_options_that_joined_do_by_default():
    given = {"model": signature(ClassificationTask), "data": signature(ImageData)}
    for key, value in JOINED_LATER.items():
        section, _, name = key.partition(".")
        assert given[section].parameters[name].default == value, key


def test_a_page_of_many_values_leaves_out_some_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, "MOST_VALUES", 12)
    make_run(tmp_path / "d" / "a", errors=range(99, 89, -1))
    data = data_of(report([tmp_path / "d"]))
    ((val, train),) = data["series"]
    assert val["step"] == [10, 40, 70, 100] and train["step"] == [15, 35, 55, 75, 95]
    assert data["note"] == "Drawn is one of 3 evaluations and one of 2 training rows that were read"


def test_nan_and_half_finished_runs_have_a_page(tmp_path):
    make_run(tmp_path / "d" / "a", seed=0, errors=(50, None))
    make_run(tmp_path / "d" / "b", seed=1, reason="running", heartbeat=time.time())
    make_run(tmp_path / "d" / "c", seed=2, rows=[])
    data = data_of(report([tmp_path / "d"], view=View(x="epoch")))
    curves = [run[0]["values"]["val/acc1"] for run in data["series"] if run]
    assert curves == [[50, None], [50, 10]] and len(data["series"]) == 3


def test_the_benchmark_measures(capsys):
    assert verb(bench)(["compare", "--runs", "13", "--rows", "200", "--repeat", "1"]) == 0
    out = capsys.readouterr().out
    assert "13 runs of 200 rows, 100 of them evaluations." in out
    assert (
        re.search(r"\| first +\| +\d+\.\d \| +\d+\.\d \| +\d+\.\d\d \|", out)
        and out.count("| again ") == 1
    )


def test_the_setting_that_decides_is_the_most_important(tmp_path, cli):
    """Runs whose error follows the depth, a little the width, and not the seed."""
    folder = tmp_path / "runs" / "s"
    draw = random.Random(0)
    for seed in range(40):
        depth = draw.choice([8, 20, 56, 110])
        width = draw.choice([4, 16, 64])
        error = {8: 40, 20: 30, 56: 20, 110: 10}[depth] + {4: 3, 16: 1.5, 64: 0}[width]
        net = {"depth": depth, "width": width, "shortcut": "A"}
        make_run(folder / str(seed), net_args=net, seed=seed, errors=(50, error))
    make_run(folder / "failed", depth=8, seed=99, errors=(50, 0), reason="failed")
    found = importances(load_runs(folder)).set_index("setting")
    assert [*found.index[:2]] == ["depth", "width"] and found["importance"].sum() == pytest.approx(
        1
    )
    assert found.loc["depth", "importance"] > 0.8 and found.loc["seed", "importance"] < 0.05
    assert found.loc["depth", "best"] == "110" and set(found["n"]) == {40}
    code, out, err = cli("compare", folder, "--importance", "--out", "report")
    assert code == 0 and re.search(r"depth +\| +0\.[89]", out) and "fANOVA" in out, err
    assert "fANOVA" in Path("report/index.html").read_text()


def test_importance_needs_runs_that_differ(tmp_path, cli, monkeypatch):
    for seed in range(9):
        make_run(tmp_path / "runs/s" / str(seed), seed=seed if seed < 4 else 0)
    code, _, err = cli("compare", "runs/s/0", "--importance")
    assert code == 2 and "--importance needs 8 finished runs or more" in err
    code, _, err = cli("compare", "runs/s", "--importance")
    assert code == 2 and "all runs have the same error, which no setting decides" in err
    make_run(tmp_path / "runs/s/other", seed=9, errors=(50, 7))
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = cli("compare", "runs/s", "--importance")
    assert code == 2 and "--importance needs optuna: pip install 'optuna>=5,<6'" in err
