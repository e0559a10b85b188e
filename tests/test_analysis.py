"""Analysis: run directories (made by hand here) -> DataFrames -> table, figure, page."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.command_line import verb
from helpers.made_runs import epoch_rows, make_run

from lightning_resnet.analysis import load_runs
from lightning_resnet.analysis.compare import load
from lightning_resnet.analysis.compare.figures import caption, curves, error_by_step
from lightning_resnet.analysis.compare.report import report
from lightning_resnet.analysis.compare.tables import summary, to_csv, to_markdown
from lightning_resnet.cli import compare as command
from lightning_resnet.errors import UserError

main = verb(command)

HEADER = (
    "depth,shortcut,n,val_err_final_mean,val_err_final_std,val_err_best_mean,train_err_mean,"
    "gap_points,params,macs,seconds"
)


def test_table_of_the_demo(sweep):
    header, *lines = to_csv(summary(load_runs(sweep))).splitlines()
    assert header == HEADER
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert [row["depth"] + row["shortcut"] for row in rows] == ["20none", "20A", "56none", "56A"]
    assert [row["n"] for row in rows] == ["3"] * 4
    assert [float(row["val_err_final_mean"]) for row in rows] == [
        5,
        3,
        41,
        2,
    ]  # mean of e, e+1, e+2
    assert [float(row["val_err_final_std"]) for row in rows] == [
        1
    ] * 4  # sample std of three seeds one apart
    assert [float(row["val_err_best_mean"]) for row in rows] == [3.5, 1.5, 39.5, 0.5]
    assert [float(row["train_err_mean"]) for row in rows] == [2.5, 1.5, 20.5, 1]
    assert [float(row["gap_points"]) for row in rows] == [
        0,
        0,
        36,
        -1,
    ]  # deeper minus shallower, per shortcut
    assert [row["params"] for row in rows] == ["272494", "272494", "272530", "272530"]
    assert [float(row["seconds"]) for row in rows] == [30] * 4


def test_one_seed_has_no_std_and_one_depth_no_gap(tmp_path):
    make_run(tmp_path / "d" / "a", shortcut="A")
    make_run(tmp_path / "d" / "b", shortcut="none")
    header, first, second = to_csv(summary(load_runs(tmp_path))).splitlines()
    assert header.startswith("shortcut,n,")
    assert first.startswith("none,1,10.0000,,10.0000,5.0000,,") and second.startswith(
        "A,1,10.0000,,"
    )


def test_a_run_on_its_own_has_a_table(tmp_path):
    table = summary(load_runs(make_run(tmp_path / "d" / "a")))
    assert to_csv(table).splitlines() == [
        HEADER,
        "20,A,1,10.0000,,10.0000,5.0000,,272494,10,30.0",
    ]  # one depth: no gap


def test_later_attempt_hides_older_rows_from_its_first_step_on(tmp_path):
    """Killed after epoch 2, resumed from the checkpoint of epoch 1; the last line torn; the test
    comes alone.
    """
    old = [*epoch_rows(0, 50), *epoch_rows(1, 30), *epoch_rows(2, 99)]
    new = [*epoch_rows(1, 31, 2), *epoch_rows(2, 10, 2)]
    test = {"step": 30, "epoch": 3, "attempt": 3, "time": 0.0, "test/acc1": 0.8}
    attempts = [{"seconds": 10.0, "reason": "preempted"}, {"seconds": 5.0, "reason": "running"}]
    attempts += [{"seconds": 1.0, "reason": "finished"}]
    path = make_run(tmp_path / "d" / "a", rows=[*old, *new, test], attempts=attempts)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "epo')
    runs, history = load_runs(path)
    val = history[history["kind"] == "val"]
    assert val[["step", "attempt"]].to_numpy().tolist() == [[10, 1], [20, 2], [30, 2]]
    assert (100 * (1 - val["val/acc1"])).round(6).tolist() == [50, 31, 10]
    assert history["kind"].value_counts().to_dict() == {"train": 3, "val": 3, "test": 1}
    run = runs.iloc[0]
    assert (run["status"], run["attempts"], run["seconds"], run["steps"]) == (
        "finished",
        3,
        16.0,
        30,
    )
    assert (
        run["unreadable_lines"] == 1 and not summary(load_runs(path)).flags
    )  # one torn line per kill is no surprise
    with (path / "metrics.jsonl").open("a") as file:
        file.write("\n[]\nnull\n{}\n")
    assert "4 torn lines" in summary(load_runs(path)).flags[0]


def test_unfinished_runs_are_counted_and_not_averaged(sweep):
    for i, (reason, heartbeat) in enumerate(
        [("failed", 0), ("diverged", 0), ("running", time.time()), ("running", 1)]
    ):
        make_run(sweep / f"x{i}", seed=9 + i, errors=(90, 90), reason=reason, heartbeat=heartbeat)
    make_run(sweep / "x4", seed=13, attempts=[])
    make_run(sweep / "x5", depth=110, reason="interrupted")
    table = summary(load_runs(sweep))
    assert table.frame["n"].tolist() == [3, 3, 3, 3, 0]
    assert table.frame["val_err_final_mean"].tolist()[:4] == pytest.approx([5, 3, 41, 2])
    assert (
        table.notes[0]
        == "18 runs: 12 finished, 1 failed, 1 diverged, 1 running, 1 dead, 1 new, 1 interrupted."
    )
    assert table.notes[1] == (
        "Not averaged, depth 20, residual (A): 1 failed, 1 diverged, 1 running, 1 dead, 1 new "
        "(x0, x1, x2, x3, x4)."
    )
    assert table.notes[2] == "Not averaged, depth 110, residual (A): 1 interrupted (x5)."
    assert to_csv(table).splitlines()[-1] == "110,A,0,,,,,,,,"
    assert table.notes[1] in to_markdown(table)
    assert (
        table.notes[-1]
        == "Made with: code aaaaaaaaaa, torch 2.13.0, lightning_resnet 0.1.0, hardware x."
    )


def test_broken_runs_are_named_and_not_fatal(sweep):
    (make_run(sweep / "torn") / "config.yaml").write_text("model: [1,")
    (make_run(sweep / "list") / "meta.json").write_text("[]")
    (make_run(sweep / "bare") / "config.yaml").unlink()
    (sweep / "notes").mkdir()  # foreign: no run
    (sweep / "20A0" / "wandb").mkdir()  # what lies inside a run is not another one
    (sweep / "20A0" / "wandb" / "metrics.jsonl").touch()
    (sweep / "loop").symlink_to(sweep)
    runs, _ = load_runs([sweep, sweep.parent])  # paths may overlap
    assert runs["status"].value_counts().to_dict() == {"finished": 12, "unreadable": 3}
    table = summary(load_runs(sweep))
    assert table.notes[0] == "15 runs: 12 finished, 3 unreadable."
    assert f"Unreadable: {sweep / 'bare'} (no config.yaml)." in table.notes
    assert to_csv(table).splitlines()[0] == HEADER


def test_no_runs_is_one_line(tmp_path):
    for paths in (tmp_path, tmp_path / "nowhere", [make_run(tmp_path / "d" / "a") / "config.yaml"]):
        with pytest.raises(UserError) as error:
            load_runs(paths) if paths != tmp_path else load_runs(make_empty(tmp_path / "empty"))
        assert "\n" not in str(error.value)
    (make_run(tmp_path / "e" / "a") / "config.yaml").write_text("a: [\n")
    with pytest.raises(UserError, match=r"no runs under .*while parsing"):
        load_runs(tmp_path / "e")


def make_empty(path: Path) -> Path:
    path.mkdir()
    return path


def test_rows_come_from_what_decides_the_result(sweep):
    for seed in range(2):  # workers, run.point and seed vary too, and make no rows
        make_run(sweep / f"big{seed}", seed=seed, batch_size=128)
    table = summary(load_runs(sweep))
    assert list(table.frame)[:3] == ["depth", "shortcut", "data.batch_size"]
    by_hand = summary(load_runs(sweep), ["shortcut", "model.net.init_args.depth"])
    assert list(by_hand.frame)[:2] == ["shortcut", "model.net.init_args.depth"]
    with pytest.raises(UserError, match="did you mean shortcut"):
        summary(load_runs(sweep), ["shortcuts"])


def test_what_cannot_change_a_result_makes_no_rows(sweep):
    for n, run in enumerate(sorted(sweep.iterdir())):
        config = json.loads((run / "config.yaml").read_text())
        config["model"]["graph"] = bool(n % 2)
        config["trainer"]["log_every_n_steps"] = 10
        (run / "config.yaml").write_text(json.dumps(config))
    assert list(summary(load_runs(sweep)).frame)[:3] == ["depth", "shortcut", "n"]


def test_groups_that_mix_protocols_or_code_are_flagged(sweep):
    make_run(sweep / "big", seed=3, batch_size=128)
    make_run(sweep / "new", seed=2, sha="b" * 40)
    flags = summary(load_runs(sweep), ["depth", "shortcut"]).flags
    assert flags == [
        "depth 20, residual (A) mixes batch_size: 64 (4 runs), 128 (1 run)",
        "depth 20, residual (A) mixes code: aaaaaaaaaa (4 runs), bbbbbbbbbb (1 run)",
        "depth 20, residual (A) counts seed 2 2 times: runs of one seed are not independent",
    ]
    assert not summary(load_runs(sweep / "20A0")).flags


def test_rows_of_different_code_are_flagged(tmp_path):
    make_run(tmp_path / "d" / "a", depth=20)
    make_run(tmp_path / "d" / "b", depth=56, sha="b" * 40)
    assert summary(load_runs(tmp_path)).flags == [
        "rows differ in code: aaaaaaaaaa (1 run), bbbbbbbbbb (1 run)"
    ]


def test_a_reference_set_is_of_other_code_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "REFERENCE", tmp_path / "reference")
    make_run(tmp_path / "reference/d/a", depth=20)
    make_run(tmp_path / "d/b", depth=20, seed=1, sha="b" * 40)
    make_run(tmp_path / "d/c", depth=56, seed=1, sha="b" * 40)
    table = summary(load_runs([tmp_path / "reference", tmp_path / "d"]), ["depth"])
    assert not table.flags and any("code aaaaaaaaaa and bbbbbbbbbb" in n for n in table.notes)
    make_run(tmp_path / "d/d", depth=56, seed=2, sha="c" * 40)
    table = summary(load_runs([tmp_path / "reference", tmp_path / "d"]), ["depth"])
    assert table.flags == ["depth 56 mixes code: bbbbbbbbbb (1 run), cccccccccc (1 run)"]


def test_a_net_of_the_users_own_is_a_row(sweep):
    for n in (3, 4):
        make_run(
            sweep / f"mine{n}", net="my.nets.Tiny", net_args={"n": n, "act": "a|b", "status": 1}
        )
    table = summary(load_runs(sweep))
    assert list(table.frame)[:4] == [
        "net",
        "depth",
        "shortcut",
        "model.net.init_args.n",
    ]  # `n` is a statistic
    rows = [line.split(",")[:5] for line in to_csv(table).splitlines()[1:]]
    assert rows[0] == ["CifarResNet", "20", "none", "", "3"] and rows[-1] == [
        "Tiny",
        "",
        "",
        "4",
        "1",
    ]
    assert "a\\|b" in to_markdown(summary(load_runs(sweep), ["net", "act"]))


def test_null_metrics_leave_a_gap_and_are_named(tmp_path):
    make_run(tmp_path / "d" / "a", seed=0, errors=(50, None))  # the last epoch, not the last number
    make_run(tmp_path / "d" / "b", seed=1, errors=(50, 10))
    runs = load_runs(tmp_path)
    assert runs.history["val/acc1"].isna().sum() == 5  # four train rows and the null
    table = summary(runs)
    assert table.frame["n"][0] == 2 and math.isnan(table.frame["val_err_final_mean"][0])
    assert table.frame["val_err_best_mean"][0] == pytest.approx(30)
    assert table.flags == ["depth 20, residual (A) has no final validation error in run a"]


def test_figure_has_a_panel_per_shortcut_as_in_the_paper(sweep):
    runs, history = load_runs(sweep)
    figure = curves(runs, history, ["depth", "shortcut"])
    assert [ax.get_title() for ax in figure.axes] == ["plain", "residual (A)"]
    for ax in figure.axes:
        assert [line.get_linestyle() for line in ax.get_lines()] == ["--", "-", "--", "-"]
    solid = figure.axes[0].get_lines()[1]
    assert solid.get_xdata().tolist() == [10, 20, 30] and solid.get_ydata()[-1] == pytest.approx(5)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("depth 20, plain", "depth 56, plain", "depth 20, residual (A)", "depth 56, residual (A)"),
        *("", "validation", "training"),
    ]
    assert figure.axes[0].get_yscale() == "symlog"  # 2 to 41 %: a linear axis would hide the low
    assert (
        len(curves(runs, history, ["depth"]).axes)
        == len(curves(runs, history, ["net", "depth"]).axes)
        == 1
    )


def test_runs_that_have_not_finished_are_drawn_pale_and_named(sweep):
    for seed, reason in ((7, "interrupted"), (8, "running"), (9, "new")):
        errors = () if reason == "new" else (80, 70)
        make_run(sweep / f"u{seed}", depth=56, seed=seed, errors=errors, reason=reason)
    runs, history = load_runs(sweep)
    figure = curves(runs, history, ["depth", "shortcut"])
    plain, residual = (ax.get_lines() for ax in figure.axes)
    assert len(plain) == 4 and len(residual) == 8
    pale = [line for line in residual if line.get_alpha()]
    assert [line.get_linestyle() for line in pale] == ["--", "-"] * 2
    assert all(line.get_xdata().tolist() == [10, 20] for line in pale)
    assert {line.get_color() for line in pale} == {residual[3].get_color()}
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[-1] == "not finished"
    words = caption(runs, history, ["depth", "shortcut"])
    assert "n = 3 seeds per setting" in words and "(1 interrupted, 1 running)" in words


def test_mean_is_over_steps_every_run_has(tmp_path):
    make_run(tmp_path / "d" / "a", seed=0, errors=(50, 40, 30))
    make_run(tmp_path / "d" / "b", seed=1, errors=(50, 20))
    error = error_by_step(load_runs(tmp_path).history, "val/acc1")
    assert error.index.tolist() == [10, 20] and error.mean(axis=1).tolist() == pytest.approx(
        [50, 30]
    )


def test_caption_says_what_is_true_of_these_runs(sweep):
    runs, history = load_runs(sweep)
    words = caption(runs, history, ["depth", "shortcut"])
    assert (
        "n = 3 seeds per setting" in words and "30 steps on Digits" in words and "64,000" in words
    )
    one_plain_depth = runs[(runs["shortcut"] == "A") | (runs["depth"] == 20)]
    words = caption(one_plain_depth, history, ["depth", "shortcut"], "time")
    assert "plain" not in words and words.startswith("Error against seconds")


def test_report_writes_a_page_that_needs_nothing_else(sweep, capsys):
    main([str(sweep), "--title", "A & B"])
    out = sweep / "report"
    names = ["curves.png", "curves.svg", "index.html", "table.csv", "table.md", "table.tex"]
    assert sorted(file.name for file in out.iterdir()) == names
    assert str(out / "index.html") in capsys.readouterr().out
    page = (out / "index.html").read_text()
    assert (
        "<h1>A &amp; B</h1>" in page
        and "Content-Security-Policy" in page
        and "12 runs: 12 finished." in page
    )
    assert f"resnet-cli compare {sweep} --title" in page and 'src="http' not in page
    before = {name: (out / name).read_bytes() for name in names}
    main([str(sweep), "--title", "A & B"])  # its own report is no run; same runs, same bytes
    assert {name: (out / name).read_bytes() for name in names} == before


def test_report_of_several_folders_lies_next_to_them_or_here(sweep, tmp_path, monkeypatch):
    make_run(tmp_path / "runs" / "other" / "a")
    monkeypatch.chdir(tmp_path)
    assert report(["runs"]).files[-1] == Path("runs/report/index.html")
    assert report([sweep, "reference:digits"]).files[-1] == Path("runs/digits/report/index.html")
    assert report(["reference:digits"]).files[-1] == Path("report/index.html")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert report([tmp_path / "runs"]).files[-1] == Path("report/index.html")
    assert report([sweep], tmp_path / "both").files[-1] == tmp_path / "both" / "index.html"
    with pytest.raises(UserError, match="cannot write"):
        report([sweep], sweep / "20A0" / "config.yaml")


def test_report_before_anything_has_finished(tmp_path):
    made = report([make_run(tmp_path / "d" / "a", reason="running")])
    assert (
        made.table.frame["n"].tolist() == [0]
        and "No run has finished yet" in made.files[-1].read_text()
    )


def test_help_is_immediate_and_nothing_imports_torch(sweep):
    code = (
        "import sys\n"
        "from lightning_resnet.cli.main import main\n"
        "try: main(['compare', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'pandas', 'matplotlib', 'torch'} & set(sys.modules)\n"
        f"main(['compare', {str(sweep)!r}])\n"
        "assert not {'torch', 'pytorch_lightning', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
