"""The index of runs: the listing of many runs reads few files, and nothing is lost if it is."""

import json
import time
from pathlib import Path

import pytest
from helpers.made_runs import make_run
from helpers.searching import begin, end

from lightning_resnet.bench import many
from lightning_resnet.runs import index as module
from lightning_resnet.runs.index import Index
from lightning_resnet.runs.listing import describe
from lightning_resnet.sweeps.points import read
from lightning_resnet.sweeps.search import refresh
from lightning_resnet.sweeps.state import listing


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Make three runs, with a cache of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return [make_run(Path("runs/s", f"{seed:010x}"), seed=seed) for seed in range(3)]


@pytest.fixture
def reads(monkeypatch):
    """List the runs that are read, by name."""
    names = []
    former = module.read

    def spy(run, details):
        names.append(run.path.name)
        return former(run, details)

    monkeypatch.setattr(module, "read", spy)
    return names


def file():
    return next(Path("cache").glob("*/index/*.json"))


def test_runs_are_read_once(runs, reads):
    first = describe(runs)
    assert reads == [run.name for run in runs]
    assert describe(runs) == first and len(reads) == 3
    assert describe(runs[:1])[0]["val_error"] == pytest.approx(10) and len(reads) == 3
    assert first[1]["differs"] == {"seed_everything": 1} and first[0]["bytes"] > 100


def replace(path, content):
    path.with_suffix(".tmp").write_text(content)
    path.with_suffix(".tmp").replace(path)


def grow(run):
    with (run / "metrics.jsonl").open("a") as rows:
        rows.write(json.dumps({"step": 30, "val/acc1": 0.99}) + "\n")


CHANGES = {
    "rows": grow,
    "another attempt": lambda run: begin_again(run),
    "attempt in place": lambda run: (run / "attempts/1.json").write_text('{"reason": "failed"}'),
    "meta.json": lambda run: replace(run / "meta.json", '{"created": "2026-01-01T00:00:00"}'),
    "config.yaml": lambda run: replace(
        run / "config.yaml", (run / "config.yaml").read_text().replace("0.02", "0.5")
    ),
    "checkpoint": lambda run: (run / "checkpoints").mkdir(),
}


def begin_again(run):
    attempt = {"reason": "running", "heartbeat": time.time()}
    (run / "attempts/2.json").write_text(json.dumps(attempt))


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_read_again(runs, reads, change):
    describe(runs)
    reads.clear()
    CHANGES[change](runs[1])
    found = describe(runs)
    assert reads == [runs[1].name]
    file().unlink()
    assert describe(runs) == found  # as without an index


def test_a_run_in_training_is_always_read(runs, reads):
    begin_again(runs[2])
    assert describe(runs)[2]["state"] == "running"
    reads.clear()
    assert describe(runs)[2]["state"] == "running" and reads == [runs[2].name]


def test_a_run_that_was_killed_is_read_once_until_another_attempt_begins(runs, reads):
    write = (runs[2] / "attempts/2.json").write_text
    write(json.dumps({"reason": "running", "heartbeat": time.time() - 1000}))
    assert describe(runs)[2]["state"] == "dead"
    reads.clear()
    assert describe(runs)[2]["state"] == "dead" and not reads
    (runs[2] / "attempts/3.json").write_text(json.dumps({"reason": "running", "last_step": 3}))
    assert describe(runs)[2]["step"] == 3 and reads == [runs[2].name]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 0, "runs": 3}'])
def test_a_damaged_index_is_written_again(runs, reads, content):
    first = describe(runs)
    file().write_text(content)
    assert describe(runs) == first and len(reads) == 6
    assert describe(runs) == first and len(reads) == 6


def test_an_index_of_another_folder_or_version_is_not_used(runs, reads, monkeypatch):
    describe(runs)
    content = json.loads(file().read_text())
    file().write_text(json.dumps(content | {"folder": "/elsewhere"}))
    describe(runs)
    assert len(reads) == 6
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    describe(runs)
    assert len(reads) == 9


def test_without_a_cache_that_can_be_written_all_runs_are_read(runs, reads, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/1/nowhere")
    first = describe(runs)
    assert describe(runs) == first and len(reads) == 6


def test_runs_that_are_gone_leave_the_index(runs):
    describe(runs)
    for path in sorted(runs[0].rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    runs[0].rmdir()
    grow(runs[1])
    describe(runs[1:2])
    assert sorted(json.loads(file().read_text())["runs"]) == [runs[1].name, runs[2].name]


def test_settings_of_other_keys_and_types_are_kept(runs):
    config = json.loads((runs[0] / "config.yaml").read_text())
    config["model"]["net"]["init_args"] |= {"width": 16.0}
    del config["data"]["batch_size"]
    replace(runs[0] / "config.yaml", json.dumps(config))
    with Index() as index:
        before = [index.facts(run).settings for run in runs]
    with Index() as index:
        after = [index.facts(run).settings for run in runs]
    assert json.dumps(before) != json.dumps([before[1]] * 3)
    assert [sorted(map(repr, own.items())) for own in after] == [
        sorted(map(repr, own.items())) for own in before
    ]


def test_a_sweep_needs_no_settings_and_a_listing_adds_them(runs, reads, sweep_file):
    sweep = read(sweep_file({"data.pad": {"values": [1, 2]}}))
    for point in sweep.points:
        end(begin(point), 0.75)
    refresh(sweep, Path("runs"))
    assert "2 points, 2 finished" in listing(sweep)
    count = len(reads)
    refresh(sweep, Path("runs"))
    assert len(reads) == count and sweep.points[0].facts.settings is None
    begun = [point.run for point in sweep.points]
    assert [run["val_error"] for run in describe(begun)] == [25, 25] and len(reads) == count + 2
    refresh(sweep, Path("runs"))
    assert len(reads) == count + 2


def test_made_runs_are_points_of_their_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    many.make_runs(tmp_path, 8)
    sweep = read("many.yaml")
    refresh(sweep, Path("runs"))
    assert "8 points, 8 finished" in listing(sweep)
    found = describe([point.run for point in sweep.points])
    assert len({json.dumps(run["differs"]) for run in found}) == 8
