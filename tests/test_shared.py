"""A point that two sweeps share is trained once, and both show it."""

import json
import shutil
from pathlib import Path
from threading import Barrier, Thread

from helpers.command_line import TINY, verb
from helpers.run_dir import unlabelled
from helpers.stand_in import write
from helpers.sweeping import run_sweep

from lightning_resnet.analysis import load_runs
from lightning_resnet.cli import fit
from lightning_resnet.cli import sweep as command
from lightning_resnet.runs.shared import share
from lightning_resnet.sweeps import check
from lightning_resnet.sweeps.points import read
from lightning_resnet.sweeps.state import assign_runs, listing

main = verb(command)


def begin(root, name, run_id):
    (root / name / run_id / "attempts").mkdir(parents=True)
    write(root / name / run_id / "attempts/1.json", {"reason": "finished"})


def test_the_second_sweep_finds_the_run_of_the_first(cli):
    assert (
        cli("fit", *TINY, "--trainer.max_epochs", "1", "--run.name", "a", "--run.point", "one")[0]
        == 0
    )
    code, out, _ = cli(
        "fit", *TINY, "--trainer.max_epochs", "1", "--run.name", "b", "--run.point", "two"
    )
    assert code == 0 and "is finished; nothing to do" in out
    (link,) = Path("runs/b").iterdir()
    assert link.readlink() == Path("..", "a", link.name) and len(list(link.glob("attempts/*"))) == 1
    assert json.loads((link / "meta.json").read_text())["point"] == ["one", "two"]
    assert (
        load_runs("runs/b").runs["path"].tolist() == [str(link)]
        and len(load_runs("runs").runs) == 1
    )
    code, out, _ = cli(
        "fit", *TINY, "--trainer.max_epochs", "1", "--run.name", "c"
    )  # no sweep's: as it was
    assert code == 0 and not Path("runs/c", link.name).is_symlink()


def test_a_run_that_another_sweep_left_is_continued_with_its_threads(cli):
    flags = [*TINY, "--trainer.max_epochs", "1"]
    cli("fit", *flags, "--run.name", "a", "--run.point", "one")
    (path,) = unlabelled(Path("runs/a").iterdir())
    attempt = json.loads((path / "attempts/1.json").read_text())
    write(path / "attempts/1.json", attempt | {"reason": "preempted"})
    code, out, _ = cli("fit", *flags, "--run.threads", "2", "--run.name", "b", "--run.point", "two")
    assert code == 0 and f"run runs/b/{path.name} (" in out and ", continued from last.ckpt" in out
    assert (
        len(list(path.glob("attempts/*"))) == 2
        and "threads: 1" in (path / "config.yaml").read_text()
    )


def test_of_sweeps_that_begin_together_one_has_the_run(tmp_path):
    barrier, names = Barrier(4), "abcd"

    def sweep(name):
        for number in range(50):
            barrier.wait()
            if not share(tmp_path, name, f"run{number}"):
                (tmp_path / name / f"run{number}").mkdir(parents=True, exist_ok=True)

    threads = [Thread(target=sweep, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(50):
        runs = [tmp_path / name / f"run{number}" for name in names]
        assert (
            sum(run.is_symlink() for run in runs) == 3 and len({run.resolve() for run in runs}) == 1
        )


def test_runs_begun_before_are_found_and_lost_ones_start_over(tmp_path):
    begin(tmp_path, "b", "x")
    assert not share(tmp_path, "b", "x") and share(tmp_path, "a", "x")
    assert (tmp_path / "a/x/attempts/1.json").exists()
    shutil.rmtree(tmp_path / "b")
    assert (
        share(tmp_path, "a", "x")
        and (tmp_path / "b/x").is_dir()
        and not (tmp_path / "a/x/attempts").exists()
    )
    begin(tmp_path, "c", "x")  # both were trained, by an older version
    assert not share(tmp_path, "c", "x")


def test_where_there_are_no_links_a_run_is_the_sweeps_own(tmp_path):
    (tmp_path / ".shared").write_text("no folder")
    assert not share(tmp_path, "a", "x") and not (tmp_path / "a").exists()


def test_a_sweep_counts_and_shows_what_others_have_trained(sweep_file, light, capfd, monkeypatch):
    monkeypatch.setattr(check, "check_points", lambda *parts: None)  # the stand-in has other keys
    monkeypatch.setattr(command, "check_keys", lambda sweep: None)
    assert run_sweep(sweep_file({"a": {"values": [1, 2]}}, name="first")) == 0
    capfd.readouterr()
    file = sweep_file({"a": {"values": [2, 3]}}, name="second")
    sweep = read(file)
    assign_runs(sweep, "runs")
    assert "1  finished, val error 25.00 %  a=2" in listing(sweep) and "2  new" in listing(sweep)
    assert not Path("runs/second").exists()  # only looked at
    assert main([file, "--submit"]) == 1  # no sbatch
    assert "1 of 2 points" in capfd.readouterr().out
    assert Path("runs/second/run2").resolve() == Path("runs/first/run2").resolve()


def test_a_job_of_a_sweep_tells_when_other_code_runs(cli, monkeypatch):
    def tell(frozen, here, *flags):
        monkeypatch.setattr(fit, "code", lambda: {"git_sha": here, "git_dirty": False})
        short = (
            "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --trainer.limit_val_batches 1"
        ).split()
        flags = [*TINY, *short, "--run.new", "--run.code", frozen, *flags]
        code, out, _ = cli("fit", *flags)
        assert code == 0
        return [line for line in out.splitlines() if line.startswith("warning: the sweep")]

    assert tell("a" * 40, "b" * 40) == [
        f"warning: the sweep was submitted with code {'a' * 40}, but this is {'b' * 40}"
    ]
    (run,) = unlabelled(Path("runs/digits").iterdir())
    assert json.loads((run / "attempts/1.json").read_text())["code"] == "b" * 40
    assert (
        "code:" not in (run / "config.yaml").read_text()
    )  # the run again, by itself, is no sweep's
    assert not tell("a" * 40, "a" * 40) and not tell(
        "a" * 40, None
    )  # installed from wheels: unknown
    assert len(tell("a" * 40 + "+changes", "a" * 40)) == 1
