"""Runs that only W&B wrote: offline files by W&B's own reader, projects from a server that stands
in for W&B's.
"""

import math

import pytest
from helpers.wandb_runs import META, mirror, new_run, row

from lightning_resnet.analysis import load_runs
from lightning_resnet.analysis.compare.report import report
from lightning_resnet.errors import UserError
from lightning_resnet.tracking import wandb_online
from lightning_resnet.tracking import wandb_rows as foreign

wandb = pytest.importorskip("wandb")
pytestmark = pytest.mark.usefixtures("home")


def log(rows, run_id="theirs", code=0, folder=".", mode="offline"):
    """One attempt of someone else's training."""
    config = {"model": {"net": {"init_args": {"depth": 20}}}, "lr": 0.1, "l": [1]}
    kwargs = {"id": run_id, "dir": folder, "project": "p", "config": config, "resume": "allow"}
    with wandb.init(
        **kwargs, settings=wandb.Settings(mode=mode, silent=True, console="off")
    ) as run:
        for each in rows:
            run.log(each)
        run.finish(exit_code=code)


def step(number, **metrics):
    return {
        "trainer/global_step": number,
        **{name.replace("_", "/"): value for name, value in metrics.items()},
    }


def test_offline_attempts_are_one_run_and_the_newest_wins():
    log([step(s, val_acc1=0.1 * s) for s in (1, 2, 3)], code=1)
    log([step(2, val_acc1=0.9), step(3, train_loss=float("nan"), text="x")])
    runs, history = load_runs(".")
    (run,) = runs.to_dict("records")
    facts = {
        "run_id": "theirs",
        "name": "p",
        "status": "finished",
        "attempts": 2,
        "steps": 3,
        "depth": 20,
    }
    assert {key: run[key] for key in facts} == facts
    assert list(history["step"]) == [1, 2, 3] and list(history["val/acc1"][:2]) == [0.1, 0.9]
    assert history["kind"].tolist() == ["val", "val", "train"] and math.isnan(
        history["train/loss"][2]
    )


def test_a_torn_file_gives_what_is_intact_and_damage_is_told(tmp_path):
    log([step(s, val_acc1=0.5) for s in range(1, 400)])
    wandb.teardown()  # its process may still write to the file
    (file,) = tmp_path.glob("wandb/offline-*/*.wandb")
    complete = file.read_bytes()
    file.write_bytes(complete[: len(complete) // 2])
    runs, history = load_runs("wandb")
    assert runs["status"].tolist() == ["running"] and 100 < len(history) < 300
    file.write_bytes(b"no such thing")
    with pytest.raises(UserError, match="no runs under wandb"):
        load_runs("wandb")


def test_a_mirror_inside_a_run_directory_is_not_read_twice():
    mirror(new_run("abcdef0123"), [row(1), row(2)], "finished", mode="offline")
    log([step(1, val_acc1=0.5)])
    assert sorted(load_runs(".").runs["run_id"]) == ["abcdef0123", "theirs"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_project_is_read_from_the_server_once(server, cache, tmp_path):
    mirror(new_run("abcdef0123"), [row(1, val_loss=0.5, val_acc1=0.9), row(2)], "finished")
    theirs = [step(s, train_loss=1.0 / s) for s in (10, 20, 30)]
    log([*theirs, step(20, train_loss=7.0), step(40, train_loss=8.0)], mode="online")
    runs, history = load_runs("wandb://me/p")
    runs = runs.set_index("run_id")
    assert runs["status"].to_dict() == {"abcdef0123": "finished", "theirs": "finished"}
    assert runs["name"].to_dict() == {"abcdef0123": "study", "theirs": "p"}
    assert runs["depth"].tolist() == [20, 20] and runs["git_sha"]["abcdef0123"] == META["git_sha"]
    history = history.set_index("run_id")
    assert history.loc["theirs", "train/loss"].tolist() == [0.1, 7.0, 8.0]
    assert history.loc["abcdef0123", "step"].tolist() == [1, 2]
    asked = sum(b"HistoryPage" in body for body in server.bodies)
    assert asked == 2 and len(load_runs("wandb://me/p/").history) == 5
    assert sum(b"HistoryPage" in body for body in server.bodies) == 2
    assert report(["wandb://me/p"], tmp_path / "out").files[-1].exists()
    server.runs["theirs"]["jobType"] = "compare"  # as what `compare --wandb` publishes
    assert load_runs("wandb://me/p").runs["run_id"].tolist() == ["abcdef0123"]


def test_rows_of_any_content_make_no_run_unreadable(server, cache):
    theirs = [
        *(step(10, train_loss=0.5), step(20, train_loss=0.4, attempt="second")),
        {"global_step": "NaN", "step": "Infinity", "trainer/global_step": 30, "train/loss": 0.1},
    ]
    log(theirs, mode="online")
    runs, history = load_runs("wandb://me/p")
    assert runs["status"].tolist() == ["finished"] and runs["attempts"].tolist() == [1]
    assert history["step"].tolist() == [10, 20, 30]


def test_a_run_of_the_server_that_cannot_be_read_hides_no_other(server, cache, monkeypatch):
    mirror(new_run("abcdef0123"), [row(1, val_acc1=0.9)], "finished")
    log([step(1, val_acc1=0.5)], mode="online")

    def rows(items):
        assert "attempt" in items[0]
        return []

    monkeypatch.setattr(wandb_online, "_rows", rows)
    runs = load_runs("wandb://me/p").runs.set_index("run_id")
    assert runs["status"].to_dict() == {"abcdef0123": "finished", "theirs": "unreadable"}


def test_a_busy_server_and_a_torn_cache_are_no_obstacle(server, cache, tmp_path):
    mirror(new_run("abcdef0123"), [row(1, val_acc1=0.9)], "finished")
    server.busy = 2
    assert len(load_runs("wandb://me/p").history) == 1 and server.busy == 0
    (kept,) = (tmp_path / "cache").rglob("abcdef0123.json")
    kept.write_text(kept.read_text()[:40])
    assert len(load_runs("wandb://me/p").history) == 1


def test_too_many_requests_are_asked_again_ever_later(monkeypatch):
    waited, answers = (
        [],
        iter([ValueError("HTTP 429 encountered"), RuntimeError("Rate limit exceeded"), 7]),
    )
    monkeypatch.setattr(foreign.time, "sleep", waited.append)

    def request():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert foreign.patiently(request) == 7 and waited == [1, 2]
    answers = iter([ValueError("429")] * 9)
    with pytest.raises(UserError, match="Weights & Biases: 429"):
        foreign.patiently(request)
    assert len(waited) == 2 + foreign.TRIES - 1
    answers = iter([ValueError("project not found")])
    with pytest.raises(UserError, match="project not found"):
        foreign.patiently(request)


def test_addresses_that_are_none(server, cache):
    for address in ("wandb://me", "wandb://", "wandb://me/p/q"):
        with pytest.raises(UserError, match="write wandb://entity/project"):
            load_runs(address)
    with pytest.raises(UserError, match="wandb://me/p has no runs"):
        load_runs("wandb://me/p")


def test_without_wandb(monkeypatch):
    log([step(1, val_acc1=0.5)])
    monkeypatch.setattr(foreign, "is_installed", lambda name: None)
    with pytest.raises(UserError, match="needs wandb: pip install"):
        load_runs(".")
