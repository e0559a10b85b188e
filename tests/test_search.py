"""An adaptive sweep runs without a server: its points, its workers, and runs that end early."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers.command_line import DIGITS, REPOSITORY, TINY, verb
from helpers.made_runs import make_run
from helpers.run_dir import only_run
from helpers.searching import LR, METRIC, SPACE, accuracy, bayes, begin, end, work

from lightning_resnet.cli import sweep as sweep_verb
from lightning_resnet.engine import loop
from lightning_resnet.engine.halving import Hyperband, threshold
from lightning_resnet.errors import UserError
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.status import HALVED, process_name
from lightning_resnet.sweeps import search
from lightning_resnet.sweeps.points import read
from lightning_resnet.sweeps.requeue import folders
from lightning_resnet.sweeps.search import journal_file, refresh, take
from lightning_resnet.sweeps.slurm import slots_to_submit
from lightning_resnet.sweeps.state import best
from lightning_resnet.tracking.mirror import Mirror, WandbOptions

main = verb(sweep_verb)
HERE = Path("runs")


def found(file):
    """All points that a search has found so far."""
    sweep = read(file)
    refresh(sweep, HERE)
    return sweep.points


def test_points_follow_the_distributions_of_the_file(sweep_file):
    space = {
        "lr": LR,
        "n": {"min": 2, "max": 4},
        "q": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25},
        "kind": {"values": ["a", None, [1, 2]]},
        "often": {"values": [1, 2], "probabilities": [0.9, 0.1]},
        "fixed": {"value": {"x": 1}},
        "alone": {"values": [7]},
    }
    sweep = read(bayes(sweep_file, space))
    assert sweep.search.free == ["kind", "lr", "n", "often", "q"] and sweep.size == 12
    low = {"kind": 0, "lr": 0.0, "n": 0.0, "often": 0.0, "q": 0.0}
    high = {"kind": 2, "lr": 1.0, "n": 1.0, "often": 1.0, "q": 1.0}
    fixed = {"fixed": {"x": 1}, "alone": 7}
    ends = {"kind": "a", "lr": 1e-5, "n": 2, "often": 1, "q": 0.0}
    assert sweep.search.point(low).parameters == ends | fixed
    ends = {"kind": [1, 2], "lr": 1.0, "n": 4, "often": 2, "q": 1.0}
    assert sweep.search.point(high).parameters == ends | fixed
    assert sweep.search.point(high | {"often": 0.89}).parameters["often"] == 1
    assert {json.dumps(p.parameters["kind"]) for p in sweep.samples} == {'"a"', "null", "[1, 2]"}


def test_one_worker_finds_the_same_points_however_often_it_stops(sweep_file):
    file = bayes(sweep_file)
    at_once = work(file, root="other")
    assert work(file, 3) + work(file, 8) + work(file) == at_once and len(at_once) == 12
    assert len({json.dumps(p) for p in at_once}) == 12
    assert work(bayes(sweep_file, run_cap=13)) and len(found(file)) == 13  # a higher cap adds
    assert work(bayes(sweep_file, name="t"), 12) != at_once  # the name is the seed


def test_the_search_closes_in_on_the_best(sweep_file):
    values = [accuracy(p) for p in work(bayes(sweep_file, run_cap=30))]
    assert sum(values[20:]) / 10 > sum(values[:10]) / 10 + 0.1


def test_without_its_journal_a_search_finds_the_runs_that_there_are(sweep_file):
    file = bayes(sweep_file)
    points = work(file)
    journal_file(read(file), HERE).unlink()
    assert work(file) == [] and [p.parameters for p in found(file)] == points


def test_without_its_journal_a_search_leaves_running_and_tried_points_alone(sweep_file):
    file = bayes(sweep_file)
    first, second = (take(read(file), HERE)[1] for _ in range(2))
    begin(first)  # goes on
    end(begin(second), 0.5, "preempted")
    journal_file(read(file), HERE).unlink()
    third = take(read(file), HERE, tried=[second.key])[1]
    assert third.key not in (first.key, second.key)
    assert take(read(file), HERE)[1].key == second.key


def test_a_repeated_point_of_a_killed_worker_is_left_out(sweep_file):
    file = bayes(sweep_file)
    work(file, 2)
    study = search._study(read(file), HERE)
    last = study.get_trials()[-1]
    study.enqueue_trial(last.params)
    study.ask(last.distributions)  # the worker was killed before it saw that the point is there
    assert len(found(file)) == 2
    work(file)
    assert len(found(file)) == 12
    trials = search._study(read(file), HERE).get_trials()
    assert trials[2].params == last.params and trials[2].state.name == "FAIL"


def test_a_lost_lock_is_no_error(sweep_file):
    file = bayes(sweep_file)
    work(file, 1)
    folder = journal_file(read(file), HERE).parent
    with search._locked(folder):
        (folder / "take.lock").unlink()  # another worker has waited too long
    work(file, 1)


def test_a_run_that_cannot_be_read_is_told_later(sweep_file):
    file = bayes(sweep_file)
    key = take(read(file), HERE)[1].key
    rows = end(begin(found(file)[0]), 0.5) / "metrics.jsonl"
    content = rows.read_text()
    rows.unlink()
    os.mkfifo(rows)
    assert take(read(file), HERE)[1].key != key
    assert search._study(read(file), HERE).get_trials()[0].state.name == "RUNNING"
    sweep = read(file)
    refresh(sweep, HERE)
    assert best(sweep, 3) == []
    rows.unlink()
    rows.write_text(content)
    take(read(file), HERE)
    assert search._study(read(file), HERE).get_trials()[0].value == 0.5


def test_a_search_whose_folder_cannot_be_written(sweep_file):
    with pytest.raises(UserError, match="cannot read and write .*set --root to a folder where you"):
        take(read(bayes(sweep_file)), Path("/proc/1/nowhere"))


def test_a_point_comes_once_where_the_space_is_small(sweep_file):
    file = bayes(sweep_file, {"kind": {"values": ["a", "b", "c"]}, "lr": {"value": 0.01}})
    assert sorted(p["kind"] for p in work(file)) == ["a", "b", "c"]
    assert len(found(file)) == 3
    size = journal_file(read(file), HERE).stat().st_size
    for _ in range(3):
        assert take(read(file), HERE) is None
    assert journal_file(read(file), HERE).stat().st_size == size


@pytest.mark.parametrize("missing", [0, 1])
def test_each_point_of_a_space_that_can_be_listed_is_found(sweep_file, monkeypatch, missing):
    space = {
        "kind": {"values": ["a", "b", "a"]},
        "often": {"values": [1, 2], "probabilities": [0.9, 0.1]},
        "lr": {"min": 3, "max": 5},
        "q": {"distribution": "q_uniform", "min": 0.0, "max": 0.25, "q": 0.25},
    }
    monkeypatch.setattr(search, "MOST_TWICE_LISTED", 2)
    monkeypatch.setattr(search, "RANDOM", 1000)  # takes less time
    file = bayes(sweep_file, space, run_cap=24 - missing)
    assert len({json.dumps(p) for p in work(file)}) == 24 - missing
    sweep = read(bayes(sweep_file, space, run_cap=100))
    assert sweep.size == 24


def test_spaces_that_cannot_be_listed_have_run_cap_points(sweep_file):
    for spec in (LR, {"mu": 0, "sigma": 1, "distribution": "q_normal"}, {"min": 0, "max": 10**6}):
        assert read(bayes(sweep_file, {"lr": spec, "kind": {"values": [1, 2]}})).size == 12
    many = {f"x{i}": {"min": 0, "max": 999} for i in range(2)}
    assert read(bayes(sweep_file, many)).size == 12


Q_LOG = {"distribution": "q_log_uniform_values", "min": 1e-6, "max": 100.0, "q": 1}
Q_COARSE = {"distribution": "q_uniform", "min": 1e6, "max": 1000100.0, "q": 100 / 7}


@pytest.mark.parametrize(
    "spec, values",
    [
        ({"values": ["a", "b"], "probabilities": [0.99, 0.01]}, ["a", "b"]),
        ({"values": ["a", "b", "a"], "probabilities": [1e-9, 1 - 1e-9, 0]}, ["a", "b"]),
        ({"values": ["a", "b", "c"], "probabilities": [0.999, 0.001, 0]}, ["a", "b"]),
        ({"values": ["a", "b", "c"], "probabilities": [0.9999998, 1e-6, 0]}, ["a", "b"]),
        (Q_LOG, [*range(101)]),
        (Q_LOG | {"min": 1e-12, "max": 999.5}, [*range(1000)]),
        (Q_COARSE, [1e6, 1000010.0, *(1e6 + 10 * i for i in (3, 4, 6, 7, 9, 10))]),
        ({"min": -3, "max": 9996}, [*range(-3, 9997)]),
    ],
)
def test_improbable_values_are_listed(sweep_file, spec, values):
    sweep = read(bayes(sweep_file, {"x": spec}, run_cap=20_000))
    listed = [sweep.search.point(numbers).parameters["x"] for numbers in sweep.search.listed]
    assert sorted(listed) == values and sweep.size == len(values)


@pytest.mark.parametrize(
    "spec, count",
    [({"values": ["a", "b"], "probabilities": [0.99, 0.01]}, 2), (Q_LOG | {"max": 20.0}, 21)],
)
def test_improbable_values_are_found(sweep_file, monkeypatch, spec, count):
    monkeypatch.setattr(search, "MOST_TWICE_LISTED", 2)
    monkeypatch.setattr(search, "RANDOM", 1000)  # takes less time
    file = bayes(sweep_file, {"kind": spec, "lr": {"value": 0.01}}, run_cap=50)
    assert len({p["kind"] for p in work(file)}) == count


def test_no_axis_is_listed_where_the_points_are_too_many(sweep_file, monkeypatch):
    monkeypatch.setattr("lightning_resnet.sweeps.points.numbers_of", None)  # a call is an error
    many = {f"x{i}": {"min": 0, "max": 100} for i in range(2)}
    assert read(bayes(sweep_file, many)).size == 12


def test_a_space_smaller_than_run_cap_is_told_once(sweep_file, capsys):
    file = bayes(sweep_file, {"data.pad": {"values": [1, 2, 3]}})
    assert main([file, "--list"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "note: the parameters make 3 points, fewer than run_cap"
    assert "s: 3 points, 0 finished, 3 to be found" in out


def test_a_killed_workers_point_is_continued_and_none_comes_twice(sweep_file):
    file = bayes(sweep_file)
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests"}
    victim = subprocess.Popen(
        [sys.executable, "-m", "helpers.searching", file, "4"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with victim:
        key = victim.stdout.readline().split()[0]
        assert take(read(file), HERE)[1].key != key  # its owner is at work
        victim.send_signal(signal.SIGKILL)
    assert Run(HERE / "s" / key).status() == "dead"
    _, point = take(read(file), HERE, tried=[found(file)[-1].key])
    assert point.key == key and point.run == HERE / "s" / key
    end(begin(point), 0.5)
    end(begin(found(file)[-1]), 0.5)
    work(file)
    keys = [p.key for p in found(file)]
    assert len(keys) == 12 == len({*keys}) and {p.state for p in found(file)} == {"finished"}


def test_a_point_is_held_until_its_worker_is_gone(sweep_file, monkeypatch):
    sweep = read(bayes(sweep_file))
    _, first = take(sweep, HERE)
    monkeypatch.setattr(search, "has_ended", lambda process: False)  # as on another machine
    assert take(sweep, HERE)[1].key != first.key
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + search.CLAIM_S - 60)  # may still copy data
    assert take(sweep, HERE)[1].key != first.key
    monkeypatch.setattr(time, "time", lambda: now + search.CLAIM_S + 1)  # and never began
    assert take(sweep, HERE)[1].key == first.key
    end(begin(first), 0.5, "preempted")
    assert take(sweep, HERE)[1].key == first.key  # ended since it was taken


def test_failed_points_come_last_and_diverged_ones_are_results(sweep_file):
    sweep = read(bayes(sweep_file, run_cap=3))
    reasons = iter(["failed", "diverged", "finished"])
    tried = set()
    for reason in reasons:
        _, point = take(sweep, HERE, tried=tried)
        tried.add(point.key)
        end(begin(point), 0.5, reason)
    assert take(sweep, HERE, tried=tried) is None
    assert take(sweep, HERE)[1].state == "failed"
    study = search._study(sweep, HERE)
    assert [t.value for t in study.get_trials()] == [None, -float("inf"), 0.5]
    assert [t.state.name for t in study.get_trials()] == ["RUNNING", "COMPLETE", "COMPLETE"]


def test_a_halved_run_is_told_as_pruned(sweep_file):
    sweep = read(bayes(sweep_file, early_terminate={"type": "hyperband", "min_iter": 2}))
    _, point = take(sweep, HERE)
    end(begin(point), 0.25, HALVED, evaluations=2)
    assert take(sweep, HERE)[1].key != point.key
    trial = search._study(sweep, HERE).get_trials()[0]
    assert (trial.state.name, trial.value, trial.last_step) == ("PRUNED", 0.25, 2)


def test_a_point_that_was_done_can_be_taken_again(sweep_file):
    file = bayes(sweep_file, early_terminate={"type": "hyperband", "min_iter": 1})
    halved, removed = (take(read(file), HERE)[1] for _ in range(2))
    end(begin(halved), 0.25, HALVED)
    end(begin(removed), 0.75)
    assert work(file, 1)  # both results are told
    shutil.rmtree(HERE / "s" / removed.key)
    assert take(read(file), HERE)[1].key == removed.key
    assert take(read(file), HERE)[1].key != removed.key  # this process has it
    bayes(sweep_file)  # without early_terminate the halved run is to go on
    assert take(read(file), HERE)[1].key == halved.key
    for point in (halved, removed):
        end(begin(point), 0.5)
    work(file)
    keys = [p.key for p in found(file)]
    assert len(keys) == 12 == len({*keys}) and keys[:2] == [halved.key, removed.key]
    trials = search._study(read(file), HERE).get_trials()
    assert [t.value for t in trials[:2]] == [0.25, 0.75]
    assert [t.value for t in trials if t.params == trials[1].params] == [0.75, 0.5]


def test_a_slot_takes_its_point_again_whose_run_was_removed(sweep_file):
    file = bayes(sweep_file)
    point = take(read(file), HERE, "1.0")[1]
    end(begin(point), 0.5)
    assert take(read(file), HERE, "1.0") is None
    shutil.rmtree(HERE / "s" / point.key)
    assert take(read(file), HERE, "1.0")[1].key == point.key
    assert [p.place for p in found(file)] == ["1.0"]


def test_a_lock_of_a_killed_worker_is_broken_at_once(sweep_file, monkeypatch, capsys):
    file = bayes(sweep_file)
    take(read(file), HERE)
    folder = journal_file(read(file), HERE).parent
    ended = subprocess.Popen(["true"])
    ended.wait()
    (folder / "take.lock").write_text(json.dumps(process_name() | {"pid": ended.pid}))
    (folder / "journal.log.lock").touch()
    slept = []
    monkeypatch.setattr(search.time, "sleep", slept.append)
    take(read(file), HERE)
    assert len(slept) == 1 and not [*folder.glob("*.lock")]
    assert capsys.readouterr().out == ""


def test_a_worker_tells_for_whom_it_waits(sweep_file, monkeypatch, capsys):
    file = bayes(sweep_file)
    take(read(file), HERE)
    lock = journal_file(read(file), HERE).parent / "take.lock"
    lock.write_text(json.dumps({"pid": 7, "where": "elsewhere", "start": "1", "host": "node3"}))
    clock = [0.0]
    monkeypatch.setattr(search.time, "monotonic", lambda: clock[0])

    def sleep(seconds):
        clock[0] += seconds
        if clock[0] > 3:
            lock.unlink(missing_ok=True)

    monkeypatch.setattr(search.time, "sleep", sleep)
    take(read(file), HERE)
    assert capsys.readouterr().out == (
        f"waiting for process 7 on node3, which takes a point of this sweep ({lock})\n"
    )
    lock.write_text("")  # as a worker on another machine left it, in the middle of making it
    monkeypatch.setattr(
        search.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    )
    before = clock[0]
    take(read(file), HERE)
    assert search.LOCK_S < clock[0] - before < search.LOCK_S + 1


def test_a_live_workers_lock_is_not_broken_for_a_dead_one(tmp_path):
    lock = tmp_path / "take.lock"
    lock.write_text("live")
    search._break(lock, "dead")  # what this waiter had read, before another broke it
    assert lock.read_text() == "live"
    lock.unlink()
    with search._locked(tmp_path):
        lock.write_text("another's, which has waited too long")
    assert lock.exists()


def test_a_damaged_last_line_of_a_journal_is_told(sweep_file):
    file = bayes(sweep_file)
    work(file, 2)
    journal = journal_file(read(file), HERE)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:-1], lines[-1].replace('"', "'", 1)]))
    with pytest.raises(UserError, match=r"journal.log is damaged: remove it, and the search begin"):
        take(read(file), HERE)


def test_a_torn_journal_is_healed(sweep_file):
    file = bayes(sweep_file)
    points = work(file, 2)
    journal = journal_file(read(file), HERE)
    with journal.open("a") as lines:  # a worker was killed while it asked for a point
        asked = {"op_code": 4, "worker_id": "x", "study_id": 0}
        lines.write(json.dumps(asked | {"datetime_start": "2026-11-28T16:36:05"}) + "\n")
        lines.write('{"op_code": 5, "wor')
    assert [p.parameters for p in found(file)] == points
    work(file)
    assert len(found(file)) == 12
    journal.write_text("{}\n[]\n")
    with pytest.raises(UserError, match="is damaged: remove it"):
        take(read(file), HERE)


def test_an_edited_space_begins_another_search_and_says_so(sweep_file, capsys):
    file = bayes(sweep_file)
    first = work(file, 2)
    assert "another space" not in capsys.readouterr().out
    bayes(sweep_file, SPACE | {"lr": LR | {"max": 0.1}})
    assert found(file) == []
    assert capsys.readouterr().out.count("was searched with another space") == 1
    work(file, 1)
    assert len(found(file)) == 1
    bayes(sweep_file)
    assert [p.parameters for p in found(file)] == first


def test_a_slot_takes_one_point_and_the_same_again(sweep_file):
    file = bayes(sweep_file)
    _, first = take(read(file), HERE, "1.0")
    assert take(read(file), HERE, "1.0")[1].key == first.key  # another rank, or requeued
    assert take(read(file), HERE, "1.1")[1].key != first.key
    end(begin(first), 0.5)
    assert take(read(file), HERE, "1.0") is None
    assert [p.place for p in found(file)] == ["1.0", "1.1"]


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ({"run_cap": None}, "method bayes needs run_cap: how many points to try"),
        ({"metric": None}, "needs the metric that decides: write metric: {name: val/acc1"),
        ({"metric": {"name": "val/ac1"}}, None),
        ({"metric": {"name": "acc"}}, "metric acc is of no evaluation of a run"),
        ({"metric": METRIC | {"goal": "more"}}, "must be minimize or maximize, got more"),
        ({"metric": {"name": "val/acc1"}}, "val/acc1 is an accuracy, of which less is worse"),
        ({"metric": METRIC | {"target": 1}}, "metric has a key target that is not known here"),
        ({"parameters": {"a": {"value": 1}}}, "method bayes has nothing to search"),
        ({"early_terminate": 3}, "early_terminate is not a mapping: write early_terminate: {"),
        ({"early_terminate": {"min_iter": 1}}, "early_terminate has no type but hyperband"),
        ({"early_terminate": {"type": "envelope"}}, "no type but hyperband"),
        ({"early_terminate": {"miniter": 1}}, "no key miniter; did you mean min_iter?"),
        ({"early_terminate": {"type": "hyperband"}}, "needs either min_iter"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 1, "max_iter": 2}},
            "needs either min_iter",
        ),
        ({"early_terminate": {"type": "hyperband", "max_iter": 9}}, "max_iter of .* needs s"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 0}}, "min_iter of .* is 0, not a"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}},
            "eta of early_terminate is 1, not a number above 1",
        ),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 1, "strict": 1}},
            "strict of early_terminate is 1, not true or false",
        ),
        (
            {"early_terminate": {"type": "hyperband", "max_iter": 2, "s": 1, "eta": 3}},
            "max_iter 2 of early_terminate leaves no bracket at eta 3",
        ),
    ],
)
def test_faults_are_named_in_one_line(sweep_file, top, message):
    if message is None:
        read(bayes(sweep_file, metric=METRIC | {"name": "val/extra"}))  # a user's own
        return
    file = bayes(sweep_file, top.pop("parameters", None), **top)
    with pytest.raises(UserError, match=message) as e:
        read(file)
    assert "\n" not in str(e.value)


def test_without_optuna_the_error_says_how_to_install_it(sweep_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    file = bayes(sweep_file)
    with pytest.raises(UserError, match=re.escape("pip install 'optuna>=5,<6'")):
        take(read(file), HERE)
    bayes(sweep_file, {"data.pad": {"min": 0, "max": 9}}, name="t")
    for flag in ("--local", "--submit", "--next"):
        with pytest.raises(UserError, match="method bayes needs optuna"):
            main([file, flag])
    assert not Path("runs/t").exists()
    assert found(file) == []  # and listing an unbegun sweep does without


def test_next_is_for_searches_alone(sweep_file):
    with pytest.raises(UserError, match="-j is for --local; --throttle N"):
        main(["any.yaml", "--submit", "-j", "2"])
    with pytest.raises(UserError, match="--next is for method bayes"):
        main([sweep_file(), "--next"])
    with pytest.raises(UserError, match="leave one of the two out"):
        main([bayes(sweep_file), "--next", "--json"])
    with pytest.raises(UserError, match="--retry-failed is for listed points"):
        space = {"model.optimizer.lr": LR}
        main([bayes(sweep_file, space), "--retry-failed"])


@pytest.mark.parametrize(
    ("options", "brackets"),
    [
        ({"min_iter": 3}, [3, 9, 27, 81]),  # the examples of W&B's documentation
        ({"max_iter": 27, "s": 2}, [3, 9]),
        ({"max_iter": 9, "eta": 3, "s": 2}, [1, 3]),
        ({"max_iter": 5, "eta": 2, "s": 2}, [1, 2]),  # of W&B's source, rounded down
        ({"max_iter": 9, "s": 100}, [1, 3]),
        ({"min_iter": 2, "eta": 1.5}, [2, 3, 4, 6]),
    ],
)
def test_brackets_are_those_of_wandb(sweep_file, options, brackets):
    early = {"type": "hyperband", **options}
    for method in ("grid", "bayes"):
        hyperband = read(
            bayes(sweep_file, {"a": {"values": [1, 2]}}, method=method, early_terminate=early)
        ).hyperband
        assert hyperband.brackets[: len(brackets)] == brackets
        assert "min_iter" in options or len(hyperband.brackets) == len(brackets)
        assert hyperband.eta == options.get("eta", 3) and hyperband.goal == "maximize"


def test_the_best_of_a_bracket_go_on():
    less = Hyperband("val/loss", "minimize", [1], eta=3)
    assert threshold([1.0], less) == 1.0  # the first goes on
    assert threshold([2.0, 1.0], less) == 1.0
    assert threshold([3.0, 1.0, 2.0], less) == 2.0  # as in W&B: the value at int(n / eta)
    strict = Hyperband("val/loss", "minimize", [1], eta=3, strict=True)
    assert threshold([3.0, 1.0, 2.0], strict) == 1.0
    more = Hyperband("val/acc1", "maximize", [1], eta=2)
    assert threshold([0.1, 0.2, 0.3, 0.4], more) == 0.2


TRAIN = ["fit", *TINY, "--trainer.max_epochs", "3", "--run.name", "s", "--run.point", "x"]
HYPERBAND = json.dumps({"metric": "val/acc1", "goal": "maximize", "brackets": [1, 2], "eta": 2})


@pytest.fixture
def rivals(cli):
    """Make a folder of two runs that are far better after their first epoch."""
    for seed in range(2):
        make_run(HERE / "s" / f"rival{seed}", seed=seed, errors=(1, 1, 1))
        meta = HERE / "s" / f"rival{seed}" / "meta.json"
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"point": f"p{seed}"}))
    return cli


def mine():
    runs = [path for path in (HERE / "s").iterdir() if re.fullmatch("[0-9a-f]{10}", path.name)]
    assert len(runs) == 1
    return Run(runs[0])


def test_a_run_behind_its_rivals_ends_early_and_can_be_continued(rivals, tmp_path):
    code, out, err = rivals(*TRAIN, "--run.hyperband", HYPERBAND)
    assert code == 0, err
    assert f"{HALVED}, after step 22: val/acc1 is" in out and "of 3 runs those go on" in out
    run = mine()
    attempt = json.loads((run.path / "attempts/1.json").read_text())
    assert attempt["reason"] == HALVED and attempt["last_step"] == 22 and attempt["error"] is None
    assert run.status() == HALVED and run.steps() == (22, 66)
    code, out, _ = rivals(*TRAIN, "--run.hyperband", HYPERBAND)
    assert code == 0 and f"is {HALVED}; nothing to do" in out and "--run.hyperband null" in out
    code, out, _ = rivals("runs", "runs/s")
    assert HALVED in out
    code, out, _ = rivals("compare", "runs/s", "--out", "report")
    assert code == 0 and f"1 {HALVED}" in out
    # without hyperband it goes on, and its weights are those of one training
    code, _, err = rivals(*TRAIN, "--run.hyperband", "null")
    assert code == 0 and run.status() == "finished", err
    assert [attempt["start_step"] for attempt in run.attempts()] == [0, 22]
    assert rivals(*TRAIN, "--run.root", "alone")[0] == 0
    weights = load_checkpoint(run.candidates()[0])["state_dict"]
    alone = load_checkpoint(only_run(Path("alone")) / "checkpoints/last.ckpt")["state_dict"]
    assert all((weights[key] == alone[key]).all() for key in alone)


def test_a_run_killed_before_its_decision_decides_when_it_is_continued(rivals, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "verdict", die)
        assert rivals(*TRAIN, "--run.hyperband", HYPERBAND)[0] == 130
    assert mine().status() == "interrupted"
    code, out, err = rivals(*TRAIN, "--run.hyperband", HYPERBAND)
    assert code == 0 and f"{HALVED}, after step 22" in out, err
    assert mine().status() == HALVED and len(mine().attempts()) == 2


def test_a_run_killed_after_its_decision_is_not_compared_again(rivals, monkeypatch):
    """There may be more rivals by then."""

    def die(self):
        if halve(self) or self.trainer.global_step == 22:
            raise KeyboardInterrupt
        return False

    halve = loop.FitLoop._halve
    best = HYPERBAND.replace("maximize", "minimize").replace("[1, 2]", "[1]")
    with monkeypatch.context() as patch:
        patch.setattr(loop.FitLoop, "_halve", die)
        assert rivals(*TRAIN, "--run.hyperband", best)[0] == 130
    assert mine().last_attempt()["compared_step"] == 22
    worst = best.replace("minimize", "maximize")  # as if the rivals were others
    code, out, err = rivals(*TRAIN, "--run.hyperband", worst)
    assert code == 0 and mine().status() == "finished", err
    assert "continued from last.ckpt at step 22" in out


def test_the_best_run_of_a_bracket_goes_on(rivals):
    code, out, err = rivals(*TRAIN, "--run.hyperband", HYPERBAND.replace("maximize", "minimize"))
    assert code == 0 and HALVED not in out and mine().status() == "finished", err


@pytest.mark.parametrize("keep", ["weights", "none"])
def test_a_run_that_ended_early_keeps_what_its_continuation_needs(rivals, keep):
    words = [*TRAIN, "--run.keep", keep]
    assert rivals(*words, "--run.hyperband", HYPERBAND)[0] == 0
    code, out, err = rivals(*words, "--run.hyperband", "null")
    assert code == 0 and "continued from last.ckpt at step 22" in out, err
    assert mine().status() == "finished"
    assert bool(mine().candidates()) == (keep == "weights")


def test_a_rival_that_cannot_be_read_is_left_out(rivals):
    for name, kind in (("pipe", os.mkfifo), ("folder", os.mkdir)):
        rival = make_run(HERE / "s" / name, errors=(1, 1, 1))
        meta = json.loads((rival / "meta.json").read_text())
        (rival / "meta.json").write_text(json.dumps(meta | {"point": name}))
        (rival / "metrics.jsonl").unlink()
        kind(rival / "metrics.jsonl")
    code, out, err = rivals(*TRAIN, "--run.hyperband", HYPERBAND)
    assert code == 0 and "of 3 runs those go on" in out, err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 0}, "--run.hyperband.eta must be a number above 1 to 1,000,000; got 0"),
        ({"eta": 0.5}, "--run.hyperband.eta must be a number above 1 to 1,000,000; got 0.5"),
        ({"brackets": [0]}, "--run.hyperband.brackets must be "),
    ],
)
def test_numbers_of_hyperband_are_checked_before_training(rivals, options, message):
    code, _, err = rivals(*TRAIN, "--run.hyperband", json.dumps(json.loads(HYPERBAND) | options))
    assert code == 2 and message in err and "\n" not in err.strip()


def test_a_halved_point_is_done_for_its_sweep_and_not_for_others(sweep_file):
    early = {"type": "hyperband", "min_iter": 1}
    space = {"data.pad": {"values": [1, 2]}}
    file = sweep_file(space, metric=METRIC, early_terminate=early)
    point = read(file).points[0]
    end(begin(point), 0.5, HALVED)
    sweep = read(file)
    refresh(sweep, HERE)
    assert [sweep.is_done(p) for p in sweep.points] == [True, False]
    assert main([file, "--list"]) == 0
    sweep = read(sweep_file(space))
    refresh(sweep, HERE)
    assert not any(map(sweep.is_done, sweep.points)) and sweep.points[0].state == HALVED


def test_status_counts_what_ended_early(sweep_file, capsys):
    file = bayes(
        sweep_file,
        {"data.pad": {"min": 0, "max": 90}},
        early_terminate={"type": "hyperband", "min_iter": 1},
    )
    for reason in ("finished", HALVED):
        end(begin(take(read(file), HERE)[1]), 0.5, reason)
    capsys.readouterr()
    assert main([file, "--list"]) == 0
    out = capsys.readouterr().out
    assert f"2   {HALVED} at step 1" in out or f"2  {HALVED} at step 1" in out
    assert f"12 points, 1 finished, 1 {HALVED}, 10 to be found" in out
    assert main([file, "--status"]) == 0
    assert f"s: 1 finished, 1 {HALVED}" in capsys.readouterr().out


def test_best_lists_the_best_points(sweep_file, capsys):
    file = bayes(sweep_file, {"data.pad": {"min": 0, "max": 90}})
    assert main([file, "--best", "3"]) == 0
    assert "s: no point has a result in val/acc1 yet\n" in capsys.readouterr().out
    for value, reason in ((0.5, "finished"), (0.75, HALVED), (0.9, "diverged"), (0.25, "failed")):
        tried = [p.key for p in found(file)]
        end(begin(take(read(file), HERE, tried=tried)[1]), value, reason)
    capsys.readouterr()
    assert main([file, "--best", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.split("  +", line)[1] for line in lines] == ["val/acc1 0.75", "val/acc1 0.5"]
    args = sweep_verb.make_parser().read([file, "--best", "3", "--json"])
    assert sweep_verb.run(args) == 0
    assert [p["result"] for p in args.document["points"]] == [0.75, 0.5, 0.25]
    assert args.document["metric"] == "val/acc1"


def test_best_refuses_a_metric_that_is_none(sweep_file, capsys):
    space = {"data.pad": {"values": [1, 2]}}
    file = sweep_file(space, metric={"name": "val/lss", "goal": "minimise"})
    end(begin(read(file).points[0]), 0.5)
    assert main([file, "--list"]) == 0  # which needs none
    with pytest.raises(UserError, match="sweep s.yaml: goal of metric must be minimize or max"):
        main([file, "--best", "1"])
    with pytest.raises(UserError, match="metric accuracy is of no evaluation of a run"):
        main([sweep_file(space, metric={"name": "accuracy"}), "--best", "1", "--json"])
    file = sweep_file(space, metric={"name": "val/lss"})
    capsys.readouterr()
    assert main([file, "--best", "1"]) == 0
    hint = "s: no point has a result in val/lss yet; did you mean val/loss?"
    assert hint in capsys.readouterr().out
    assert main([sweep_file(space), "--best", "1"]) == 0
    assert "1  val/acc1 0.5" in capsys.readouterr().out


def test_next_without_a_slot_leaves_the_threads_to_fit(sweep_file, monkeypatch):
    called = []
    monkeypatch.setattr(
        "lightning_resnet.cli.main.shielded", lambda words: called.append(words) or 0
    )
    monkeypatch.setenv("THREADS", "2")  # of somebody's shell
    command = ["resnet-cli", "fit", "--config", DIGITS, "--config", "${args_json_file}"]
    assert main([bayes(sweep_file, {"model.optimizer.lr": LR}, command=command), "--next"]) == 0
    assert len(called) == 1 and "--run.threads" not in called[0]


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_training_ends_next_in_order(cli, sweep_file, monkeypatch, signum):
    def ask(*_):
        os.kill(os.getpid(), signum)
        time.sleep(5)

    monkeypatch.setattr(search, "_ask", ask)
    command = ["resnet-cli", "fit", "--config", DIGITS, "--config", "${args_json_file}"]
    file = bayes(sweep_file, {"model.optimizer.lr": LR}, command=command)
    former = signal.getsignal(signum)
    code, _, err = cli("sweep", file, "--next")
    assert code == (130 if signum == signal.SIGINT else 143)
    assert f"by {signum.name}, nothing new to save; the same command continues" in err
    assert signal.getsignal(signum) is former and not [*HERE.glob("s/search/*.lock")]


def test_a_task_that_died_before_its_run_began_is_submitted_by_its_name(sweep_file, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(search, "has_ended", lambda process: False)  # on another machine
    file = bayes(sweep_file, run_cap=3)
    first = take(read(file), HERE, "1.0")[1]
    end(begin(take(read(file), HERE, "1.1")[1]), 0.5)
    sweep = read(file)
    refresh(sweep, HERE)
    home = HERE / "s" / "submitted"
    (home / "1").mkdir(parents=True)
    slots = slots_to_submit(sweep, home)
    assert slots == ["1.0", "2.0"]
    assert take(read(file), HERE, slots[0])[1].key == first.key


def test_the_tasks_of_an_array_take_points(sweep_file, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    command = ["resnet-cli", "fit", "--config", DIGITS, "--config", "${args_json_file}"]
    space = {"model.optimizer.lr": LR}
    file = bayes(sweep_file, space, command=command, run_cap=3)
    end(begin(take(read(file), HERE)[1]), 0.5)
    assert main([file, "--submit"]) == 1
    out = capsys.readouterr().out
    assert "2 of 3 points, in runs/s/submitted/1/table.txt" in out
    assert "warning: 2 tasks may start together" in out
    table = Path("runs/s/submitted/1/table.txt")
    line = table.read_text().splitlines()[1]
    assert line.startswith(
        "resnet-cli sweep runs/s/submitted/1/s.yaml --root runs --next 1.1 -- --run.root runs "
    )
    assert folders(["table", str(table)]) == {HERE / "s"}
    called = []
    monkeypatch.setattr(
        "lightning_resnet.cli.main.shielded", lambda words: called.append(words) or 0
    )
    monkeypatch.setenv("THREADS", "2")
    assert main([*line.split()[2:], "--data.stage", "x"]) == 0
    words = " ".join(called[0])
    assert words.startswith(f"fit --config {DIGITS} --config runs/s/points/")
    assert "--run.threads 2" in words and words.endswith("--data.stage x")
    point = found(file)[1]
    assert point.slot == "1.1" and f"--run.point {point.key}" in words
    end(begin(point), 0.5)
    assert main(line.split()[2:]) == 0
    assert "no point is left to take of 3" in capsys.readouterr().out
    end(begin(take(read(file), HERE)[1]), 0.5)
    assert main([file, "--submit"]) == 0
    assert "3 of 3 done, 0 queued: nothing to do" in capsys.readouterr().out


class Sent:
    """Stands in for a run of wandb."""

    def __init__(self):
        self.tags = ("depth=8",)
        self.summary = {}
        self.calls = []

    def mark_preempting(self):
        self.calls.append("preempting")

    def finish(self, exit_code):
        self.calls.append(exit_code)


def test_wandb_gets_the_tag_of_a_run_that_ended_early():
    sent = Sent()
    mirror = Mirror(WandbOptions())
    mirror.run = sent
    mirror.close(HALVED)
    assert sent.tags == ("depth=8", HALVED) and sent.summary == {"stopped": HALVED}
    mirror.run = sent
    mirror.close(HALVED)
    assert sent.tags == ("depth=8", HALVED)
    mirror.run = sent
    mirror.close("finished")  # continued without hyperband
    assert sent.tags == ("depth=8",) and sent.summary == {} and sent.calls == [0, 0, 0]


@pytest.mark.slow
def test_two_sweeps_on_one_folder_run_each_point_once_though_one_is_killed(sweep_file):
    command = [
        *("${env}", "resnet-cli", "fit", *TINY, "--trainer.max_epochs=2"),
        *("--config", "${args_json_file}"),
    ]
    space = {"model.optimizer.lr": LR}
    file = bayes(sweep_file, space, command=command, run_cap=8)
    words = [sys.executable, "-m", "lightning_resnet", "sweep", file, "--local"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    workers = [subprocess.Popen(words, env=environment) for _ in range(2)]
    try:
        deadline = time.monotonic() + 300
        while sum(p.state == "finished" for p in found(file)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        workers[0].kill()
        workers[0].wait()
        assert workers[1].wait(timeout=300) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    subprocess.run(words, env=environment, check=True, timeout=100)  # what was still being saved
    points = found(file)
    assert len(points) == 8 and {p.state for p in points} == {"finished"}
    assert Counter(p.key for p in points).most_common(1)[0][1] == 1
    assert len([*HERE.glob("s/*/attempts")]) == 8 + len([*HERE.glob("s/lr*")])
    for point in points:
        rows = [row["step"] for row in Run(point.run).rows().rows if row["kind"] == "val"]
        assert rows == sorted({*rows})  # no step twice
