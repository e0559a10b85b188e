"""`resnet-cli runs`, `rm`, `export`, and how a word finds a run."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from helpers.command_line import TINY
from helpers.made_runs import make_run
from helpers.spies import spy
from helpers.typed import KNOWN
from PIL import Image

from lightning_resnet.analysis import load_runs
from lightning_resnet.cli import doctor, sync
from lightning_resnet.cli import runs as command
from lightning_resnet.errors import UserError
from lightning_resnet.runs import index
from lightning_resnet.runs.directory import RunDir
from lightning_resnet.runs.find import begun_runs, described_runs, find_run, find_runs
from lightning_resnet.runs.labels import labels_in, link_label
from lightning_resnet.runs.listing import _varying, describe, table
from lightning_resnet.runs.metrics import MOST_METRICS
from lightning_resnet.runs.shared import share
from lightning_resnet.sweeps import slurm

STEP = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1"]


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Make two runs, one of them with a readable name and in the middle of a training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    first = make_run(Path("runs/digits/aaaaaaaaa1"), depth=20, errors=(50, 2.5))
    second = make_run(Path("runs/digits/aaaaaaaab2"), depth=56, shortcut="none", reason="failed")
    attempt = json.loads((second / "attempts/1.json").read_text())
    attempt |= {"error": "loss is not finite from step 7 on", "last_step": 7}
    (second / "attempts/1.json").write_text(json.dumps(attempt))
    link_label(second, "depth56-none")
    return first, second


def test_runs_are_listed_with_what_differs_and_how_far_they_are(cli, two):
    code, out, _ = cli("runs")
    lines = out.splitlines()
    assert code == 0 and lines[0] == "runs/digits: 2 runs" and max(map(len, lines)) <= 80
    assert lines[1].split()[:3] == ["run", "what", "differs"] and "error, %" in lines[1]
    assert any(line.split()[:4] == ["aaaaaaaaa1", "depth20", "A", "finished"] for line in lines)
    assert any(line.startswith("depth56-none ") and "failed" in line for line in lines)
    assert lines[-2] == "depth56-none: failed: loss is not finite from step 7 on"
    assert lines[-1].startswith("best: ")


def test_runs_are_sorted_by_error_and_the_best_is_named(cli, two):
    for name, errors in {"ccccccccc3": (60, 1.25), "ddddddddd4": ()}.items():
        make_run(Path("runs/digits") / name, depth=20, errors=errors)
    code, out, _ = cli("runs", "--sort", "error")
    first, *rest = [line.split()[0] for line in out.splitlines()[2:6]]
    assert code == 0 and first == "ccccccccc3" and rest[-1] == "ddddddddd4"
    assert out.splitlines()[-1] == "best: ccccccccc3, error 1.25 %"
    listed = json.loads(cli("runs", "--sort", "size", "--json")[1])
    assert [run["bytes"] for run in listed] == sorted(run["bytes"] for run in listed)
    assert "did you mean runs --sort error?" in cli("best")[2]


def test_the_steps_of_a_limited_run_are_those_it_makes(cli):
    limit = ["--trainer.limit_train_batches", "3", "--trainer.max_epochs", "2", *STEP[2:]]
    assert cli("fit", *TINY, *limit)[0] == 0
    (run,) = json.loads(cli("runs", "--json")[1])
    assert (run["step"], run["steps"]) == (6, 6)


@pytest.mark.parametrize(
    ("last", "step"),
    [
        ({"reason": "preempted", "last_step": 60}, 60),
        ({"reason": "running", "last_step": 55}, 60),  # its rows are ahead of its heartbeats
        ({"reason": "failed", "last_step": 0}, 150),  # before it made a step
    ],
)
def test_what_a_later_attempt_hides_is_not_listed(tmp_path, last, step):
    """The later attempt continued from an older checkpoint than the first had reached."""
    first = {"attempt": 1, "reason": "failed", "last_step": 150}
    rows = [{"step": s, "epoch": 0, "attempt": 1, "val/acc1": s / 200} for s in (50, 100, 150)]
    if step == 60:
        rows.append({"step": 60, "epoch": 0, "attempt": 2, "time": 2.0, "train/loss": 1.0})
    run = make_run(tmp_path / "s/a", rows=rows, attempts=[first, {"attempt": 2, **last}])
    (found,) = describe([run])
    assert found["step"] == step
    assert found["val_error"] == pytest.approx(75 if step == 60 else 25)
    rows[0] |= {"val/acc1": None}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (describe([run])[0]["val_error"] is None) == (step == 60)
    many = {f"m{i}": 1.0 for i in range(MOST_METRICS - 5)}
    lines = (json.dumps(many | {"step": i, "epoch": 0, f"n{i}": 1.0}) for i in range(9))
    (run / "metrics.jsonl").write_text("\n".join(lines))
    assert describe([run])[0]["val_error"] is None


def test_runs_are_told_to_programs(cli, two):
    code, out, _ = cli("runs", "runs/digits", "--json")
    by_id = {run["run_id"]: run for run in json.loads(out)}
    assert code == 0 and by_id["aaaaaaaaa1"]["val_error"] == pytest.approx(2.5)
    failed = by_id["aaaaaaaab2"]
    assert failed["label"] == "depth56-none" and failed["path"] == "runs/digits/aaaaaaaab2"
    assert failed["differs"] == {"model.net.depth": 56, "model.net.shortcut": "none"}
    assert (failed["state"], failed["step"]) == ("failed", 7) and failed["bytes"] > 1000


def test_no_runs_are_no_error_but_no_folder_is(cli):
    assert cli("runs") == (0, "no runs here yet: resnet-cli fit --config digits begins one\n", "")
    assert cli("runs", "--json")[1] == "[]\n"
    code, _, err = cli("runs", "nothere")
    assert code == 2 and "run nothere does not exist" in err


def test_a_narrow_terminal_leaves_columns_out_and_cuts_texts(two, monkeypatch):
    for width in (200, 80, 60, 48):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = table(describe(find_runs([Path("runs")]))).splitlines()
        assert max(map(len, lines)) <= width, width
        assert "error, %" in lines[1]
    assert "size" not in lines[1]
    monkeypatch.delenv("COLUMNS")
    lines = table(describe(find_runs([Path("runs")]))).splitlines()
    assert "size" in lines[1] and "…" not in "".join(lines), "nothing is cut in a file"


def test_a_run_that_was_killed_is_dead_and_says_since_when(two):
    run = make_run(Path("runs/digits/dead"), reason="running", heartbeat=time.time() - 900)
    (described,) = describe([run])
    assert described["state"] == "dead" and "no heartbeat since" in described["reason"]


def test_hundreds_of_runs_are_listed_in_a_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = make_run(Path("runs/s/0"))
    for n in range(1, 200):
        shutil.copytree(first, f"runs/s/{n}")
    start = time.process_time()
    assert len(table(describe(find_runs([Path("runs")]))).splitlines()) == 203
    assert time.process_time() - start < 5  # 0.4 s on an idle machine


def test_watching_a_pipe_prints_each_change_once(two, monkeypatch, capsys):
    looks = iter([None, lambda: make_run(Path("runs/digits/new")), None])

    def sleep(seconds):
        try:
            change = next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None
        if change:
            change()

    monkeypatch.setattr(time, "sleep", sleep)
    assert command.run(command.make_parser().read(["--watch"])) == 0
    out = capsys.readouterr().out
    assert out.count("runs/digits: 2 runs") == out.count("runs/digits: 3 runs") == 1


def test_a_word_finds_a_run(two, capsys):
    first, second = two
    for word in ("aaaaaaaaa1", "aaaaaaaaa", "digits/aaaaaaaaa", str(first), first):
        assert find_run(word) == first, word
    for word in ("depth56-none", "depth5", "digits/depth56-none", second):
        assert find_run(word) == second, word
    assert find_run("runs/digits/depth56-none") == second, "the id, under which all is recorded"
    assert find_run("aaaaaaaaa1", Path("runs").absolute()).samefile(first)
    assert find_run("some.ckpt") == Path("some.ckpt")  # its reader says that it does not exist
    for word in ("aaaaaaaa", "runs", "digits", "runs/digits"):
        with pytest.raises(UserError, match=r"2 runs.*: give one of them, such as runs/digits/a"):
            find_run(word)
        listed = capsys.readouterr().err
        assert "runs/digits/depth56-none" in listed and "depth20 A" in listed
    for word in ("zzz", "../runs/digits/aaaa", "digits/zzz"):
        with pytest.raises(UserError, match="does not exist"):
            find_run(word)
    Path("empty").mkdir()
    with pytest.raises(UserError, match="is no run and holds none"):
        find_run("empty")


def test_a_list_of_many_runs_is_short(tmp_path, capsys):
    for n in range(15):
        make_run(tmp_path / "s" / f"{n:02}")
    with pytest.raises(UserError):
        find_run(tmp_path / "s")
    assert len(capsys.readouterr().err.splitlines()) == 11


def test_rm_asks_shows_and_removes_a_run_with_its_links(cli, two, monkeypatch):
    first, second = two
    code, _, err = cli("rm", "depth56-none")
    assert code == 2 and "add --yes" in err and second.exists()
    monkeypatch.setattr("sys.stdin", Answer("n"))
    code, out, _ = cli("rm", "depth56-none")
    assert code == 1 and "remove 1 run, " in out and "nothing is removed" in out
    assert second.exists() and out.count("runs/digits/depth56-none") == 1 and "link" not in out
    monkeypatch.setattr("sys.stdin", Answer("y"))
    assert cli("rm", "runs/digits/depth56-none", second)[0] == 0  # twice the same run
    assert [path.name for path in Path("runs/digits").iterdir()] == [first.name]


class Answer:
    """A terminal with an answer typed on it."""

    def __init__(self, text):
        self.text = text

    def isatty(self):
        return True

    def readline(self):
        return f"{self.text}\n"


def test_rm_refuses_what_is_live_and_what_is_no_run(cli, two):
    first, _ = two
    live = make_run(Path("runs/digits/live"), reason="running")
    make_run(Path("runs/other/one"))
    Path("runs/digits/points").mkdir()
    Path("notes").mkdir()
    Path("x.ckpt").write_text("")
    for words, told in (
        ([live], "is being trained by attempt 1"),
        (["runs/digits/points"], "is no run and holds none"),
        (["notes"], "is no run and holds none"),
        (["x.ckpt"], "is no run directory"),
        (["runs"], "runs holds 4 runs, in folders of their own: name those; resnet-cli runs runs"),
        (["reference:digits"], "comes with the package"),
        ([str(KNOWN.parent)], "comes with the package"),
        ([str(KNOWN)], "comes with the package"),
        (["digits"], "is being trained by attempt 1"),
        ([first, "nothere"], "does not exist"),
    ):
        before = sorted(Path("runs").rglob("*"))
        code, _, err = cli("rm", "--yes", *words)
        assert code == 2 and told in err and err.splitlines()[-1].startswith("error: "), words
        assert sorted(Path("runs").rglob("*")) == before


def test_rm_refuses_a_run_that_began_while_the_question_stood(cli, two, monkeypatch):
    first, second = two

    class Slow(Answer):
        def readline(self):
            RunDir(second).start_attempt()
            return super().readline()

    monkeypatch.setattr("sys.stdin", Slow("y"))
    code, _, err = cli("rm", first, second)
    assert code == 2 and "is being trained by attempt 2" in err
    assert first.exists() and second.exists()


def test_what_a_killed_rm_has_left_is_no_run_and_goes_with_the_next(cli, two):
    first, second = two
    leftover = first.with_name(".removed-abc-1")
    shutil.copytree(first, leftover)
    for found in (described_runs(first.parent), begun_runs(first.parent)):
        assert sorted(run.path for run in found) == sorted(two)
    assert len([*described_runs(Path("runs"), "*/*")]) == 2
    assert cli("rm", "--yes", first)[0] == 0
    assert not leftover.exists() and second.exists()
    shutil.copytree(second, leftover)
    assert cli("rm", "--yes", "runs/digits")[0] == 0 and not Path("runs/digits").exists()


def test_rm_of_a_sweep_looks_at_its_folder_once(cli, two, monkeypatch):
    for i in range(5):
        make_run(Path(f"runs/digits/bbbbbbbbb{i}"))
    lists = spy(monkeypatch, os, "listdir")
    saves = spy(monkeypatch, index._Folder, "save")
    Path("runs/digits/points").mkdir()
    assert cli("rm", "--yes", "runs/digits")[0] == 0
    looks = [call for call in lists if str(call.args[0]).endswith("digits")]
    assert len(saves) == 1 and len(looks) <= 4, looks


def test_rm_follows_no_link_out_and_leaves_a_shared_run(cli, two):
    first, second = two
    Path("away").mkdir()
    Path("away/precious").write_text("mine")
    (first / "link").symlink_to(Path("away").absolute())
    assert share(Path("runs"), "b", first.name)
    link_label(Path("runs/b") / first.name, "name")
    assert cli("rm", "--yes", f"runs/b/{first.name}")[0] == 0
    assert first.exists() and not any(Path("runs/b").iterdir())
    assert share(Path("runs"), "b", first.name)
    link_label(Path("runs/b") / first.name, "name")
    assert cli("rm", "--yes", first)[0] == 0
    assert not os.path.lexists(first) and not any(Path("runs/b").iterdir())
    assert not any(Path("runs/.shared").iterdir()) and Path("away/precious").exists()
    assert second.exists()


def test_rm_removes_a_sweep_with_all_that_is_its_own(cli, two, monkeypatch):
    first, second = two
    make_run(Path("runs/b/ccccccccc3"))
    assert share(Path("runs"), "digits", "ccccccccc3") and share(Path("runs"), "b", first.name)
    assert not share(Path("runs"), "digits", "dddddddd44")
    assert share(Path("runs"), "b", "dddddddd44"), "of a run that has not begun"
    for name in (
        "points/0123456789.json",
        "submitted/1/table.txt",
        "report/index.html",
        "search/journal.log",
    ):
        Path("runs/digits", name).parent.mkdir(parents=True)
        Path("runs/digits", name).touch()
    with monkeypatch.context() as patch:
        patch.setattr(slurm, "queued", lambda home: {"x": "PENDING"})
        code, _, err = cli("rm", "digits", "--yes")
        assert code == 2 and "has jobs in Slurm's queue, for points x: " in err and first.exists()
    code, out, err = cli("rm", "digits")
    assert code == 2 and "2 runs, " in err and "and the folder digits? No terminal" in err, err
    assert "(folder, with points, submitted, report, search)" in out and ".shared" not in out
    code, out, _ = cli("rm", "digits", "--yes", "--json")
    assert code == 0 and len(json.loads(out)["removed"]) == 3
    assert not Path("runs/digits").exists() and Path("runs/b/ccccccccc3/config.yaml").exists()
    assert sorted(os.listdir("runs/b")) == ["ccccccccc3"]
    assert [path.name for path in Path("runs/.shared").iterdir()] == ["ccccccccc3"]
    Path("runs/early/submitted/1").mkdir(parents=True)
    assert cli("rm", "runs/early", "--yes")[1].endswith("removed: the folder early\n")
    Path("runs/b/notes.txt").touch()
    code, out, _ = cli("rm", "runs/b", "--yes")
    assert code == 0 and "b stays: it holds notes.txt" in out and os.listdir("runs/b")


def test_rm_leaves_folders_of_others_that_have_the_names_of_ours(cli, two):
    mine = ("points/scan.ply", "report/thesis.tex", "submitted/1/paper.pdf")
    for name in mine:
        for folder in ("lidar", "runs/digits"):
            Path(folder, name).parent.mkdir(parents=True)
            Path(folder, name).touch()
    Path("lidar/search").mkdir()
    code, _, err = cli("rm", "--yes", "lidar")
    assert code == 2 and "lidar is no run and holds none" in err, err
    code, out, _ = cli("rm", "--yes", "runs/digits")
    assert code == 0 and "digits stays: it holds points, report, submitted" in out
    for name in mine:
        assert Path("lidar", name).exists() and Path("runs/digits", name).exists()


def test_rm_of_a_link_to_a_folder_of_runs_names_the_folder(cli, two):
    Path("runs/current").symlink_to("digits")
    Path("loop").symlink_to("loop")
    for word in ("runs/current", "current"):
        code, _, err = cli("rm", "--yes", word)
        target = Path("runs/digits").resolve()
        assert code == 2 and f"runs/current is a link to {target}, and rm follows none" in err
    for word in ("loop", Path("loop").absolute()):
        code, _, err = cli("rm", "--yes", word)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert all(run.exists() for run in two)


def test_rm_leaves_links_of_others(cli, two):
    Path("runs/other").mkdir()
    Path("runs/digits/notes.txt").touch()
    links = {
        "runs/digits/latest": "notes.txt",
        "runs/digits/plan": "plan-of-a-colleague",
        "runs/digits/images": "../photos/images",
        "runs/other/eeeeeeeee5": "../gone/eeeeeeeee5",
        "runs/other/images": "../photos/images",
    }
    ours = {"runs/digits/name": "fffffffff6", "runs/digits/fffffffff6": "../b/fffffffff6"}
    for link, target in (links | ours).items():
        Path(link).symlink_to(target)
    assert cli("rm", "--yes", "runs/digits")[0] == 0
    assert all(Path(link).is_symlink() for link in links)
    assert not any(Path(link).is_symlink() for link in ours)


def test_sweeps_and_names_are_taken_by_all_verbs_of_several_runs(cli, two, tmp_path, monkeypatch):
    first, second = two
    shutil.rmtree(first)
    make_run(first, depth=20, errors=(50, 2.5))
    make_run(Path("runs/b/ccccccccc3"))
    assert share(Path("runs"), "b", second.name)
    link_label(Path("runs/b", second.name), "deep")
    sent = []
    monkeypatch.setattr(sync, "is_installed", lambda name: True)
    monkeypatch.setattr(sync, "choose_mode", lambda *a, **k: ("online", ""))
    monkeypatch.setattr(sync.Uploader, "upload", lambda self, runs: sent.extend(runs))
    lines = cli("runs")[1].splitlines()
    assert [line for line in lines if line.endswith("2 runs")] == [
        "runs/b: 2 runs",
        "runs/digits: 2 runs",
    ], "a run that two sweeps share is in both"
    for word, runs in (
        ("digits", 2),
        ("runs/digits", 2),
        ("b", 2),
        ("depth56-none", 1),
        ("b/deep", 1),
        ("runs/digits/depth56-none", 1),
        (first.name[:-1], 1),
    ):
        assert len(json.loads(cli("runs", word, "--json")[1])) == runs, word
        assert len(load_runs(word).runs) == runs, word
        sent.clear()
        code, _, err = cli("sync", word)
        assert code == 0 and len(sent) == runs, err
    assert len(json.loads(cli("runs", "b", "digits", "--json")[1])) == 4
    for verb in (["runs"], ["compare"], ["sync"], ["rm", "--yes"], ["export"]):
        for word, told in (("nothere", "does not exist"), ("digitz", "did you mean digits?")):
            code, _, err = cli(*verb, word)
            assert code == 2 and told in err and err.count("\n") == 1, (verb, err)
    finished = make_run(Path("runs/done/ddddddddd4"))
    link_label(finished, "plain")
    assert cli("export", "done", first, "--reference", "mine")[0] == 0
    assert sorted(os.listdir("mine")) == [first.name, finished.name]


def test_verbs_of_several_runs_take_another_root(cli, two, monkeypatch):
    os.rename("runs", "elsewhere")
    assert len(json.loads(cli("runs", "--root", "elsewhere", "--json")[1])) == 2
    assert len(json.loads(cli("runs", "digits", "--root", "elsewhere", "--json")[1])) == 2
    sent = []
    monkeypatch.setattr(sync, "is_installed", lambda name: True)
    monkeypatch.setattr(sync, "choose_mode", lambda *a, **k: ("online", ""))
    monkeypatch.setattr(sync.Uploader, "upload", lambda self, runs: sent.extend(runs))
    assert cli("sync", "depth56-none", "--root", "elsewhere")[0] == 0 and len(sent) == 1
    code, out, err = cli("compare", "digits", "--root", "elsewhere")
    assert code == 0 and "elsewhere/digits/report/index.html" in out, err
    code, out, _ = cli("compare", "--diff", "aaaaaaaaa1", "depth56", "--root", "elsewhere")
    assert code == 0 and "model.net.init_args.depth: 20 -> 56" in out
    assert not Path("runs").exists()


def test_export_makes_no_folder_before_it_refuses(cli, two):
    first, second = two
    twin = Path(shutil.copytree(first, f"a/digits/{first.name}"))
    for run in (first, twin):
        (run / "checkpoints").mkdir()
        (run / "checkpoints/last.ckpt").touch()
    for words, told in (([second], "has no checkpoint"), ([first, twin], "would have one name")):
        code, _, err = cli("export", *words, "--out", "new/x.tar.gz")
        assert code == 2 and told in err and not Path("new").exists()


def test_an_exported_sweep_is_a_folder_of_runs_again(cli, trained):
    shutil.copytree(trained, "runs/digits/aaaaaaaaa1")
    code, out, err = cli("export", "digits")
    assert code == 0 and "digits.tar.gz" in out, err
    Path("away").mkdir()
    subprocess.run(["tar", "xf", Path("digits.tar.gz").absolute()], check=True, cwd="away")
    assert sorted(os.listdir("away/digits")) == sorted(["aaaaaaaaa1", trained.name, "tiny"])
    assert len([*find_runs([Path("away")])]) == 2
    code, _, err = cli("export", "digits", "x.tgz")
    assert code == 2 and "did you mean --out x.tgz?" in err


def test_an_exported_run_is_a_run_again(cli, tmp_path):
    code, out, _ = cli("fit", *TINY, *STEP)
    (run,) = find_runs([Path("runs")])
    assert code == 0 and out.splitlines()[-2].endswith(f"; next: resnet-cli evaluate {run}")
    (label,) = labels_in(run.parent).values()
    code, out, _ = cli("export", run.name[:5])
    archive = Path(f"digits-{label}.tar.gz")
    assert code == 0 and out.splitlines()[-2].startswith(str(archive))
    assert out.splitlines()[-1].endswith(f": resnet-cli predict {label} IMAGE...")
    assert "checkpoints/last.ckpt" in out and archive.stat().st_size < run_size(run)
    content = archive.read_bytes()
    assert cli("export", label, "-o", "again.tgz")[0] == 0
    assert Path("again.tgz").read_bytes() == content
    subprocess.run(["tar", "xf", archive], check=True)
    assert Path(label).resolve() == Path(run.name).resolve(), "it keeps its readable name"
    assert {path.name for path in Path(run.name).iterdir()} == {
        *("config.yaml", "meta.json", "metrics.jsonl", "attempts", "checkpoints")
    }
    ours = cli("evaluate", run.name, "--crops", "centre")[1]
    theirs = cli("evaluate", run, "--crops", "centre")[1]
    assert ours.replace(str(run), run.name) == theirs.replace(str(run), run.name)
    code, _, err = cli("export", "runs/digits/nothere")
    assert code == 2 and "does not exist" in err


def test_files_of_ours_without_weights_are_answered_by_their_end(cli):
    for name, told in (
        ("a net.onnx", "is for ONNX runtimes, and no verb reads it"),
        ("my run.tar.gz", "unpack it with `tar xf 'my run.tar.gz'`"),
        ("val.beton", "holds images, and no weights: resnet-cli data info val.beton"),
    ):
        Path(name).touch()
        for words in (["predict", name], ["evaluate", name], ["convert", name, "--out", "x.pth"]):
            code, _, err = cli(*words)
            assert code == 2 and told in err and err.count("\n") == 1, (words, err)
        code, _, err = cli("fit", *TINY, "--run.init_from", name)
        assert code == 2 and told in err, err


def run_size(run):
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file())


@pytest.fixture
def trained(cli):
    """Train a tiny net in one epoch; return its run."""
    assert cli("fit", *TINY, *STEP, "--run.label", "tiny")[0] == 0
    (run,) = find_runs([Path("runs")])
    return run


def test_a_run_is_the_first_word_of_every_verb(cli, trained):
    measured = json.loads(cli("validate", trained)[1])
    for words in (
        ["validate", "tiny"],
        ["validate", "--data.workers", 0, trained.name[:4]],
        ["validate", f"runs/digits/{trained.name}/checkpoints/last.ckpt"],
        ["validate", "--ckpt_path", "tiny"],
        ["validate", *TINY, "--ckpt_path", "runs/digits/tiny"],
    ):
        code, out, err = cli(*words)
        assert code == 0 and json.loads(out) == measured, (words, err)
    assert "test/acc1" in cli("test", "tiny")[1]
    for words in (
        ["evaluate", "tiny"],
        ["evaluate", "--crops", "centre", "--ckpt_path", "tiny"],
        ["convert", "tiny", "--out", "a.pth"],
        ["convert", "--out", "a.pth", "--ckpt_path", "tiny"],
        ["deepen", "--depth", 14, "--out", "deep.ckpt", "tiny"],
        ["inspect", "responses", "--batches", 1, "tiny", "--out", "o"],
        ["fit", *TINY, *STEP, "--run.init_from", trained, "--run.name", "fine"],
    ):
        code, _, err = cli(*words)
        assert code == 0, (words, err)
    assert {*labels_in(Path("runs/fine")).values()} == {
        f"depth8-max_epochs1-width4-limit_val_batches1-from-{trained.name}"[:60]
    }


def test_predict_takes_the_run_first_and_says_what_may_be_wrong(cli, trained):
    Path("images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (200, 100), "red").save(Path("images", name))
    flags = ["--data.size", 8, "--top", 1]
    code, out, err = cli("predict", "tiny", "images", *flags)
    assert code == 0 and [row.split()[1] for row in out.splitlines()[2:]] == ["a.png", "b.png"]
    assert err.count("\n") == 1 and "8x8 images of Digits, and images/a.png has 200x100" in err
    same = cli("predict", "--top", 1, "images/a.png", "--ckpt_path", "tiny", "images/b.png")
    assert same[1] == out, "the run knows the size"
    code, out, _ = cli("predict", "tiny")
    assert code == 0 and out.startswith("sample,label,predicted,probability,")
    code, _, err = cli("predict", "images")
    assert code == 2 and "the run comes first: resnet-cli predict RUN IMAGE" in err
    attempt = json.loads((trained / "attempts/1.json").read_text())
    (trained / "attempts/1.json").write_text(json.dumps(attempt | {"reason": "preempted"}))
    for words in (["predict", "tiny", "images", *flags], ["predict", "tiny"], ["validate", "tiny"]):
        err = cli(*words)[2]
        assert f"{trained} is not finished: stopped at step 22 of 22" in err, words


def test_doctor_takes_a_run(cli, trained, monkeypatch):
    monkeypatch.setattr(doctor, "_dry_run", lambda recipe, document: 0)
    code, out, err = cli("doctor", "tiny")
    assert code == 0 and "CifarResNet, 5,006 parameters" in out, err
    for words in (["nothere"], ["--config", "nothere.yaml"], ["runs/digits/nothere"]):
        code, out, err = cli("doctor", *words)
        assert code == 2 and not out and "nothere" in err, words
    Path("evil.py").write_text("raise SystemExit('it was imported')\n")
    config = (trained / "config.yaml").read_text()
    (trained / "config.yaml").write_text(
        config.replace("torch.optim.SGD", "evil.SGD").replace("lightning_resnet.Steps", "evil.S")
    )
    code, _, err = cli("doctor", "tiny")
    assert code == 2 and "--trust" in err, err


def test_what_differs_leaves_out_what_only_one_class_has():
    sgd = {"model.net.depth": 20, "model.optimizer": "SGD", "model.optimizer.momentum": 0.9}
    adam = {"model.net.depth": 56, "model.optimizer": "AdamW", "model.optimizer.betas": "[0.9]"}
    rates = [{"model.optimizer.lr": 0.1}, {"model.optimizer.lr": 0.2}]
    assert _varying([sgd | rates[0], adam | rates[1]]) == [
        "model.net.depth",
        "model.optimizer",
        "model.optimizer.lr",
    ]
