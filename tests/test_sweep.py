"""A sweep is a readable list of runs: expanded as W&B does, run once, continued, reported."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import date
from multiprocessing import forkserver
from pathlib import Path

import pytest
import yaml
from helpers.command_line import REPOSITORY, verb
from helpers.stand_in import write
from helpers.sweeping import COMMAND, run_sweep
from helpers.waiting import wait_for

from lightning_resnet.cli import sweep as sweep_verb
from lightning_resnet.engine.launch import SAVE_S
from lightning_resnet.errors import UserError
from lightning_resnet.runs.reader import Run
from lightning_resnet.sweeps import local as pool
from lightning_resnet.sweeps.points import read
from lightning_resnet.sweeps.state import assign_runs, forecast, listing, prepare_command

main = verb(sweep_verb)


def points(file):
    return [p.parameters for p in read(file).points]


def test_grid_is_the_product_in_order_of_name_last_fastest(sweep_file):
    file = sweep_file(
        {"b": {"values": [None, True]}, "a": {"min": 1, "max": 2}, "c": {"value": [1, {"d": "x"}]}}
    )
    expected = [{"a": a, "b": b, "c": [1, {"d": "x"}]} for a in (1, 2) for b in (None, True)]
    assert points(file) == expected


def test_nested_parameters_become_dotted_keys(sweep_file):
    nested = {
        "model": {"parameters": {"net": {"parameters": {"depth": {"values": [20]}}}}},
        "x": {"value": 1},
    }
    assert points(sweep_file(nested)) == [{"model.net.depth": 20, "x": 1}]


def test_random_points_are_the_same_every_time_and_follow_their_distribution(sweep_file):
    parameters = {
        "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0},
        "n": {"min": 0, "max": 9},
        "x": {"min": 0.0, "max": 2.0},
        "c": {"values": ["a", "b"], "probabilities": [0.9, 0.1]},
        "g": {"distribution": "normal", "mu": 3, "sigma": 2},
        "q": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25},
        "k": {"value": 7},
    }
    drawn = points(sweep_file(parameters, method="random", run_cap=2000, name="r"))
    assert drawn == points("s.yaml") and len(drawn) == 2000
    assert [p["lr"] for p in drawn[:3]] == [0.0522887, 0.000100054, 0.0695283]
    column = {k: [p[k] for p in drawn] for k in parameters}
    assert sum(v < 0.01 for v in column["lr"]) == pytest.approx(1000, abs=110)
    assert [column["n"].count(i) for i in range(10)] == pytest.approx([200] * 10, abs=70)
    assert sum(column["x"]) / 2000 == pytest.approx(1.0, abs=0.07) and max(column["x"]) < 2
    assert column["c"].count("a") == pytest.approx(1800, abs=70)
    assert sum(column["g"]) / 2000 == pytest.approx(3, abs=0.2)
    assert set(column["q"]) == {0, 0.25, 0.5, 0.75, 1.0} and set(column["k"]) == {7}


def test_a_higher_run_cap_only_adds_points_and_repetitions_are_drawn_again(sweep_file):
    small = {"a": {"values": [1, 2, 3]}, "b": {"values": [True, None]}}
    few = points(sweep_file(small, method="random", run_cap=3))
    assert points(sweep_file(small, method="random", run_cap=6))[:3] == few
    assert len({json.dumps(p) for p in points("s.yaml")}) == 6  # all there are
    assert len(points(sweep_file(small, run_cap=4))) == 4  # a grid's first


def test_numbers_as_people_write_them(sweep_file):
    text = (
        Path(sweep_file())
        .read_text()
        .replace("[1, 2]", "X")
        .replace("\n    - 1\n    - 2", " [1e-3, 2E+5, 1.5e2, 1e-3x]")
    )
    Path("s.yaml").write_text(text)
    assert [p["a"] for p in points("s.yaml")] == [1e-3, 2e5, 150.0, "1e-3x"]


def test_grid_steps(sweep_file):
    steps = {"distribution": "q_uniform", "min": 0.1, "max": 0.4, "q": 0.1}
    assert [p["a"] for p in points(sweep_file({"a": steps}))] == [
        0.1,
        0.2,
        0.3,
    ]  # W&B's leaves max out


@pytest.mark.parametrize(
    ("parameters", "top", "message"),
    [
        ({"a": {"vals": [1]}}, {}, "parameter a: unknown key vals; did you mean values?"),
        ({"a": 3}, {}, "parameter a is not a mapping: write a: {value: 3}"),
        ({"a": {}}, {}, "parameter a: give value, values, min and max"),
        ({"a": {"min": 1, "max": 2.5}}, {}, "min 1 and max 2.5 are an integer and a float"),
        ({"a": {"min": "x", "max": "y"}}, {}, "min is 'x', not a number"),
        ({"a": {"min": 3, "max": 2}}, {}, "min 3 is above max 2"),
        (
            {"a": {"min": 0.0, "max": 2.5}},
            {},
            "parameter a: a grid cannot list uniform: give values",
        ),
        ({"a": {"values": []}}, {}, "values is not a list of at least one"),
        ({"a": {"values": [date(2020, 1, 1)]}}, {}, "date is not JSON serializable; quote it"),
        ({"a": {"value": 1, "values": [2]}}, {}, "unknown key values"),
        (
            {"a": {"values": [1, 2], "probabilities": [0.5, 0.1]}},
            {},
            "one number per value that sum to 1",
        ),
        ({"a": {"distribution": "log_unifrm_values"}}, {}, "did you mean log_uniform_values?"),
        ({"a": {"distribution": "uniform", "max": 1}}, {}, "uniform needs min"),
        (
            {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}},
            {},
            "must be above 0, got 0",
        ),
        (
            {"a": {"parameters": {"b": {"value": 1}}, "value": 1}},
            {},
            "has nested parameters, so no other key",
        ),
        (
            {"a": {"parameters": {"b": {"value": 1}}}, "a.b": {"value": 1}},
            {},
            "parameter a.b is given twice",
        ),
        ({"a": {"parameters": {}}}, {}, "a.parameters has no points"),
        ([1], {}, "parameters has no points"),
        (None, {"method": "custom"}, "needs the W&B server"),
        (None, {"method": "gird"}, "got gird; did you mean grid?"),
        (None, {"method": "random"}, "needs run_cap"),
        (None, {"method": "random", "run_cap": 0}, "run_cap is 0, not a number of points"),
        (None, {"method": "random", "run_cap": 200_000}, "has 200,000 points; add --yes"),
        (None, {"name": "../a"}, "the name ../a leads out of"),
        (None, {"paramters": {}}, "no key paramters; did you mean parameters?"),
        (None, {"command": None}, "needs a command"),
        (
            None,
            {"command": [*COMMAND[:4], "absent.yaml", *COMMAND[5:]]},
            "cannot read absent.yaml: No such file",
        ),
        (None, {"command": COMMAND[:5]}, "command lacks the parameters"),
        (None, {"command": ["fit", *COMMAND[5:]]}, "command lacks a recipe"),
        (
            None,
            {"command": [*COMMAND, "${args_no_hyphens}"]},
            "${args_no_hyphens} does not work here",
        ),
        (
            None,
            {"command": [*COMMAND, "--a", 3]},
            "--a is in command and in parameters, and a flag wins",
        ),
        ({k: {"min": 1, "max": 500} for k in "ab"}, {}, "has 250,000 points; add --yes"),
        ({"a": {"min": 1, "max": 10**9}}, {}, "has more than 1,000,000 points: add run_cap"),
    ],
)
def test_faults_are_named_in_one_line(sweep_file, parameters, top, message):
    file = sweep_file(parameters, **top)
    with pytest.raises(UserError, match=re.escape(message)) as e:
        read(file)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a", "not a mapping"), ("a: [", "this is not YAML"), (None, "cannot read")],
)
def test_files_that_are_no_sweep(sweep_file, text, message):
    if text:
        Path("s.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read("s.yaml")
    with pytest.raises(UserError, match="-j must be a whole number, 1 or more; got 0"):
        main([sweep_file(), "--local", "-j", "0"])


def test_a_point_is_known_by_recipe_flags_and_parameters(sweep_file):
    def keys():
        return {p.key for p in read("s.yaml").points}

    sweep_file()
    first = keys()
    sweep_file({"a": {"values": [1, 2, 3]}})
    assert first < keys() and len(keys()) == 3
    sweep_file(command=[*COMMAND, "--data.batch_size", "8"])
    assert not first & keys()
    sweep_file()
    Path("recipe.yaml").write_text("# a comment changes nothing\nseed_everything: 0\n")
    assert keys() == first
    Path("recipe.yaml").write_text("seed_everything: 1\n")
    assert not first & keys()


def test_local_runs_each_point_once_and_adds_new_ones(sweep_file, light, capfd):
    file = sweep_file({"a": {"values": [1, 2]}, "nothing": {"value": None}})
    assert run_sweep(file) == 0
    out = capfd.readouterr().out
    assert "2 finished, 0 not, 0 finished before" in out and out.count("val error 25.00 %") == 2
    assert "next: resnet-cli compare runs/s" in out
    logs = [p.read_text() for p in Path("runs/s/points").glob("*.log")]
    assert any("{'a': 1, 'nothing': None} threads" in text for text in logs)
    assert all(
        "own session True" in text for text in logs
    )  # Ctrl-C in the terminal is the sweep's to handle
    sweep_file({"a": {"values": [1, 2, 3]}, "nothing": {"value": None}})
    assert run_sweep(file) == 0
    assert "1 finished, 0 not, 2 finished before" in capfd.readouterr().out
    sweep = read(file)
    assign_runs(sweep, "runs")
    assert "3 points, 3 finished" in listing(sweep) and "finished, val error 25.00 %" in listing(
        sweep
    )


def test_a_later_sweep_of_a_process_has_the_variables_of_its_own_time(sweep_file, monkeypatch):
    """The server that forks the runs lives on with the environment of the first sweep."""
    monkeypatch.setenv("CHANGED", "before")
    monkeypatch.setenv("REMOVED", "before")
    monkeypatch.setattr(pool, "PRELOAD", ["sets_a_variable"])
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    Path("sets_a_variable.py").write_text("import os; os.environ['IMPORTED'] = '1'")
    forkserver._forkserver._stop()  # an earlier test's
    assert run_sweep(sweep_file({"a": {"value": 1}})) == 0
    server = forkserver._forkserver._forkserver_pid
    monkeypatch.setenv("CHANGED", "after, with a secret")
    monkeypatch.setenv("ADDED", "a\n=\udcff")
    monkeypatch.delenv("REMOVED")
    assert run_sweep(sweep_file({"a": {"value": "environment"}})) == 0
    assert server == forkserver._forkserver._forkserver_pid
    assert (
        b"secret" not in Path(f"/proc/{server}/cmdline").read_bytes()
    )  # nor its forks': theirs is the same
    forkserver._forkserver._stop()  # later tests want one without this module
    seen = json.loads(Path("environment.json").read_text())
    assert seen == os.environ | {"IMPORTED": "1"}


def test_a_value_may_have_numbers_and_texts_for_keys(sweep_file):
    value = {1: "x", "b": {2: 3, "c": 4}}
    file = sweep_file({"a": {"value": value}, "seed_everything": {"values": [1, 2]}})
    Path("recipe.yaml").write_text("seed_everything: 0\nb: {1: x, y: z}\n")
    assert listing(read(file)).count("seed=") == 2
    assert [json.loads(point.texts()["a"]) for point in read(file).points] == [
        {"1": "x", "b": {"2": 3, "c": 4}}
    ] * 2
    search = {"a": {"values": [value, {1: "y", "c": 3}]}}
    file = sweep_file(
        search, method="bayes", run_cap=2, metric={"name": "val/loss", "goal": "minimize"}
    )
    assert len(read(file).search.listed) == 2


def test_parameters_that_decide_nothing_are_refused_or_told(sweep_file, capsys):
    for key in ("run.root", "run.name", "run.point", "run.label"):
        with pytest.raises(UserError, match=f"{key} is no parameter, .*: remove it; "):
            main([sweep_file({key: {"values": ["a", "b"]}})])
    shared = "warning: no result depends on trainer.devices, so that points that differ in nothing"
    devices = {"trainer.devices": {"values": [1, 2]}}
    seeds = {"seed_everything": {"values": [1, 2]}}
    roots = {"data.source.root": {"values": ["a", "b"]}}
    replicates = {"run.replicate": {"values": [1, 2]}}
    for parameters, told in (
        (devices, True),
        (devices | seeds, True),
        (seeds, False),
        (roots, False),
        (replicates, False),
        ({"trainer.devices": {"value": 2}} | seeds, False),
    ):
        main([sweep_file(parameters)])
        assert (shared in capsys.readouterr().out) == told, parameters


def test_commands_that_are_told_name_the_root_and_are_quoted(sweep_file, light, capfd):
    Path(sweep_file({"seed_everything": {"values": [1, 2]}})).rename("my sweep.yaml")
    assert main(["my sweep.yaml", "--root", "my runs"]) == 0
    told = "run them here: resnet-cli sweep 'my sweep.yaml' --local -j 2 --root 'my runs';"
    assert told in capfd.readouterr().out
    assert main(["my sweep.yaml"]) == 0
    assert "'my sweep.yaml' --local -j 2; on a cluster" in capfd.readouterr().out
    run_sweep("my sweep.yaml")
    assert "next: resnet-cli compare 'runs/my sweep'" in capfd.readouterr().out


def test_a_name_with_the_signs_of_a_pattern_finds_its_own_runs(sweep_file):
    sweep = read(sweep_file(name="net[1]*"))
    key = sweep.points[0].key
    for folder in ("net1x", "net[1]*"):
        Path("runs", folder, "run").mkdir(parents=True)
        write(Path("runs", folder, "run/meta.json"), {"point": [key]})
    assign_runs(sweep, "runs")
    assert sweep.points[0].run == Path("runs/net[1]*/run")


def test_the_list_is_aligned_and_tells_short_names_apart(sweep_file):
    file = sweep_file(
        {"a.lr": {"values": [1, 100]}, "b.lr": {"values": [None, "x"]}, "c.d": {"value": [1]}}
    )
    assert listing(read(file)).splitlines()[:3] == [
        "1  new  a.lr=1    b.lr=null",
        "2  new  a.lr=1    b.lr=x",
        "3  new  a.lr=100  b.lr=null",
    ]


def test_lines_tell_what_sets_a_point_apart_and_not_what_all_share(sweep_file, light, capfd):
    source = {"class_path": "Synthetic", "init_args": {"n": 1000}}
    file = sweep_file({"a": {"values": [1, 2]}, "data.source": {"value": source}})
    assert listing(read(file)).splitlines()[:2] == ["1  new  a=1", "2  new  a=2"]
    assert run_sweep(file) == 0
    out = capfd.readouterr().out
    assert "[1/2] a=1  started" in out and "Synthetic" not in out
    single = sweep_file({"a": {"value": 3}, "data.source": {"value": source}})
    assert listing(read(single)).startswith("1  new  a=3  source={")


def test_the_list_tells_how_far_unfinished_runs_are(sweep_file, light):
    file = sweep_file({"a": {"values": [1, 2]}})
    run_sweep(file)
    write(Path("runs/s/run2/meta.json"), read_meta(2) | {"steps_per_epoch": 6, "epochs": 3})
    attempt = json.loads(Path("runs/s/run2/attempts/1.json").read_text())
    write(Path("runs/s/run2/attempts/1.json"), attempt | {"reason": "interrupted"})
    write(Path("runs/s/run2/attempts/2.json"), attempt | {"reason": "failed", "last_step": 0})
    sweep = read(file)
    assign_runs(sweep, "runs")
    assert "2  failed at step 9/18, val error 25.00 %  a=2" in listing(sweep)
    assert forecast(sweep) == (15.0, 1)  # half of it is done


def read_meta(a):
    return json.loads(Path(f"runs/s/run{a}/meta.json").read_text())


def test_forecast_goes_by_finished_runs(sweep_file, light):
    file = sweep_file({"a": {"values": [1]}})
    assert "no finished run yet to forecast from" in listing(read(file))
    run_sweep(file)
    sweep = read(sweep_file({"a": {"values": [1, 2, 3]}}))
    assign_runs(sweep, "runs")
    assert forecast(sweep) == (
        60.0,
        1,
    ) and "about 1 min 00 s of run time left, by 1 finished" in listing(sweep)


def test_failures_are_told_and_do_not_stop_the_others(sweep_file, light, capfd):
    assert run_sweep(sweep_file({"a": {"values": ["fails", "dies", 1]}})) == 1
    out = capfd.readouterr().out
    assert "a=fails  failed: no luck (log: runs/s/points/" in out
    assert "a=dies  killed by SIGKILL" in out and "1 finished, 2 not" in out


def test_a_run_that_is_live_elsewhere_is_not_called_failed(sweep_file, light, capfd):
    file = sweep_file({"a": {"values": ["elsewhere"]}})
    attempt = {
        "reason": "running",
        "attempt": 1,
        "last_step": 9,
        "seconds": 30.0,
        "heartbeat": time.time(),
    }
    Path("runs/s/theirs/attempts").mkdir(parents=True)
    write(Path("runs/s/theirs/meta.json"), {"point": read(file).points[0].key})
    write(Path("runs/s/theirs/attempts/1.json"), attempt)
    assert run_sweep(file) == 1
    assert "a=elsewhere  running elsewhere (runs/s/theirs)" in capfd.readouterr().out


def test_a_continued_run_keeps_its_threads(sweep_file):
    sweep = read(sweep_file())
    assert "--run.threads" in prepare_command(sweep, sweep.points[0], Path("runs"), "2")[0]
    sweep.points[0].run = Path("runs/s/begun")
    assert "--run.threads" not in prepare_command(sweep, sweep.points[0], Path("runs"), "2")[0]


def test_exit_codes_are_never_mixed_up(sweep_file, light, capfd):
    """Runs that end while others start: from several threads, multiprocessing took some codes for
    255.
    """
    assert run_sweep(sweep_file({"a": {"min": 1, "max": 40}}), jobs=8) == 0
    assert "40 finished, 0 not" in capfd.readouterr().out


def test_a_folder_that_cannot_be_written(sweep_file):
    with pytest.raises(UserError, match="cannot write .*set --root to a folder you can write"):
        main([sweep_file(PADS), "--local", "--root", "/proc/1/nowhere"])


PADS = {"data.pad": {"values": [1, 2]}}
WAITS = {"a": {"value": "waits"}}
PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from lightning_resnet.sweeps import local as pool
from lightning_resnet.sweeps.points import read
from helpers.stand_in import train
pool.PRELOAD = sys.argv[1:]
print("ready", flush=True)
sys.exit(pool.run_points(read("s.yaml"), Path("runs"), 1, main=train))
"""


def start(*preload):
    Path("imports_slowly.py").write_text("import time; time.sleep(200)")
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests:{Path.cwd()}"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *preload],
        **{
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
            "env": environment,
        },
        start_new_session=True,
    )
    assert parent.stdout.readline() == "ready\n"
    return parent


def test_runs_end_when_the_sweep_is_killed(sweep_file):
    sweep_file(WAITS)
    with start() as parent:
        wait_for(lambda: Run(Path("runs/s/runwaits")).status() == "running")
        parent.kill()
    wait_for(lambda: Run(Path("runs/s/runwaits")).status() == "interrupted")


@pytest.mark.parametrize("group", [True, False])
def test_ctrl_c_during_the_first_imports_ends_at_once(sweep_file, group):
    """A Ctrl-C of the terminal reaches the importing server too; `kill` or `timeout` reaches
    the parent alone.
    """
    sweep_file(WAITS)
    with start("imports_slowly") as parent:
        time.sleep(1.5)
        (os.killpg if group else os.kill)(parent.pid, signal.SIGINT)
        assert parent.wait(100) == 130  # the imports take longer
        os.killpg(parent.pid, signal.SIGKILL)  # the server, which is still importing
        os.killpg(parent.pid, signal.SIGKILL)  # the importing server has stdout too
        assert "Traceback" not in parent.stdout.read()
    assert not Path("runs/s/runwaits").exists()


def test_ctrl_c_stops_the_runs_and_says_how_to_go_on(sweep_file, light, capfd):
    file = sweep_file({"a": {"values": ["waits", 1]}})
    runs = Path("runs/s")

    def interrupt():
        deadline = time.monotonic() + 60
        while not (runs / "runwaits/attempts/1.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    assert run_sweep(file, jobs=1) == 143
    told = capfd.readouterr().err
    assert told.index("stopping: the runs save first") < told.index("the same command continues")
    assert Run(runs / "runwaits").status() == "interrupted"
    assert not (runs / "run1").exists()


def test_a_run_of_a_sweep_has_as_long_to_save_as_a_rank(monkeypatch, capsys):
    class Saves:
        pid = -1
        waited = 0.0

        def is_alive(self):
            return self.waited < SAVE_S - 1

        def join(self, seconds):
            self.waited += seconds

    sent = []
    monkeypatch.setattr(pool.os, "kill", lambda pid, signum: sent.append(signum))
    pool._stop([Saves()])
    assert sent == [signal.SIGINT] and "Ctrl-C again does not wait" in capsys.readouterr().err


def test_list_needs_no_torch(sweep_file):
    sweep_file(PADS)
    code = (
        "import sys; from lightning_resnet.cli.main import main; main(sys.argv[1:]); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", "s.yaml", "--list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False" and "2 points, 0 finished" in done.stdout


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "configs/sweeps").glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_sweeps_expand(file, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    sweep = read(file)
    assert sweep.name == file.stem and len(sweep.points) >= 6
    assert file.read_text().startswith(f"# resnet-cli sweep {file.stem} --local")


def test_final_row_of_nothing():
    assert Run(Path("nowhere")).final_row("val/acc1") is None


def test_short_names_of_parameters_are_all_told_at_once(cli):
    command = ["resnet-cli", "fit", "--config", "digits", "--config", "${args_json_file}"]
    parameters = {"depth": {"values": [8, 14]}, "lr": {"value": 0.1}, "seed": {"values": [0, 1]}}
    content = {"method": "grid", "command": command, "parameters": parameters}
    Path("s.yaml").write_text(yaml.safe_dump(content))
    code, _, err = cli("sweep", "s.yaml", "--list")
    assert code == 2 and err.count("\n") == 1
    for full in ("model.net.depth", "model.optimizer.lr", "seed_everything"):
        assert full in err, err
