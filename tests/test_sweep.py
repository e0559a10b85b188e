"""A sweep is a readable list of runs: expanded as W&B does, run once, continued, reported."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from lightning_resnet.errors import UserError
from lightning_resnet.runtime import pool
from lightning_resnet.runtime.status import final_row, status
from lightning_resnet.sweep import find_runs, forecast, listing, main, read

COMMAND = ["${env}", "resnet-cli", "fit", "--config", "recipe.yaml", "--config", "${args_json_file}"]


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    """Write a sweep's YAML into an empty folder that holds a recipe."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("seed_everything: 0\n")

    def write(parameters=None, **top):
        content = {"method": "grid", "command": COMMAND, "parameters": parameters or {"a": {"values": [1, 2]}}} | top
        Path("s.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
        return "s.yaml"

    return write


def points(file):
    return [p.parameters for p in read(file).points]


def test_grid_is_the_product_in_order_of_name_last_fastest(sweep_file):
    file = sweep_file({"b": {"values": [None, True]}, "a": {"min": 1, "max": 2}, "c": {"value": [1, {"d": "x"}]}})
    expected = [{"a": a, "b": b, "c": [1, {"d": "x"}]} for a in (1, 2) for b in (None, True)]
    assert points(file) == expected


def test_nested_parameters_become_dotted_keys(sweep_file):
    nested = {"model": {"parameters": {"net": {"parameters": {"depth": {"values": [20]}}}}}, "x": {"value": 1}}
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
    assert [round(p["lr"], 6) for p in drawn[:3]] == [0.052289, 0.0001, 0.069528]
    column = {k: [p[k] for p in drawn] for k in parameters}
    assert sum(v < 0.01 for v in column["lr"]) == pytest.approx(1000, abs=110)
    assert [column["n"].count(i) for i in range(10)] == pytest.approx([200] * 10, abs=70)
    assert sum(column["x"]) / 2000 == pytest.approx(1.0, abs=0.07) and max(column["x"]) < 2
    assert column["c"].count("a") == pytest.approx(1800, abs=70)
    assert sum(column["g"]) / 2000 == pytest.approx(3, abs=0.2)
    assert set(column["q"]) == {0, 0.25, 0.5, 0.75, 1.0} and set(column["k"]) == {7}


@pytest.mark.parametrize(
    ("parameters", "top", "message"),
    [
        ({"a": {"vals": [1]}}, {}, "parameter a has no key vals; did you mean values?"),
        ({"a": 3}, {}, "parameter a must say value, values or min and max"),
        ({"a": {"min": 1, "max": 2.5}}, {}, "both int or both float"),
        ({"a": {"min": 0.0, "max": 2.5}}, {}, "no finite list of values for a grid"),
        ({"a": {"values": []}}, {}, "has no points"),
        ({"a": {"distribution": "beta"}}, {"method": "random", "run_cap": 1}, "distribution beta is not known here"),
        ({"a": {"distribution": "uniform"}}, {"method": "random", "run_cap": 1}, "cannot be drawn from"),
        (None, {"method": "bayes"}, "needs the W&B server"),
        (None, {"method": "gird"}, "got gird; did you mean grid?"),
        (None, {"method": "random"}, "needs run_cap"),
        (None, {"paramters": {}}, "no key paramters; did you mean parameters?"),
        (None, {"command": None}, "needs a command"),
        (None, {"command": [*COMMAND[:4], "absent.yaml"]}, "names recipe absent.yaml, which is not there"),
        ({k: {"min": 1, "max": 500} for k in "ab"}, {}, "has 250,000 points; add --yes"),
    ],
)
def test_faults_are_named_in_one_line(sweep_file, parameters, top, message):
    file = sweep_file(parameters, **top)
    with pytest.raises(UserError, match=message.replace("?", r"\?").replace("(", r"\(")) as e:
        read(file)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "message"), [("- a", "not a mapping"), ("a: [", "is not YAML"), (None, "cannot read")]
)
def test_files_that_are_no_sweep(sweep_file, text, message):
    if text:
        Path("s.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read("s.yaml")
    with pytest.raises(UserError, match="-j 0: at least one"):
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
    Path("recipe.yaml").write_text("seed_everything: 1\n")
    assert not first & keys()


def train(arguments):
    """Stands in for the command line: a run of one row, or a failure, as its parameters say."""
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    parameters = json.loads(Path(arguments[arguments.index("recipe.yaml") + 2]).read_text())
    print("parameters", parameters, "threads", options["--run.threads"], flush=True)
    if parameters["a"] == "fails":
        print("error: no luck")
        return 2
    if parameters["a"] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    run = Path(options["--run.root"], options["--run.name"], f"run{parameters['a']}")
    (run / "attempts").mkdir(parents=True)
    attempt = {"reason": "running", "attempt": 1, "last_step": 9, "seconds": 30.0, "heartbeat": time.time()}
    write(run / "meta.json", {"point": options["--run.point"]})
    write(run / "attempts/1.json", attempt)
    if parameters["a"] == "waits":
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            write(run / "attempts/1.json", attempt | {"reason": "interrupted"})
            return 130
    (run / "metrics.jsonl").write_text('{"val/acc1": 0.5}\n{"val/acc1": 0.75}\n{"train/loss": 1}\n{"val/a')
    write(run / "attempts/1.json", attempt | {"reason": "finished"})
    return 0


def write(path, content):
    path.write_text(json.dumps(content))


@pytest.fixture
def light(monkeypatch):
    monkeypatch.setattr(pool, "PRELOAD", [])


def run(file, jobs=2):
    sweep = read(file)
    find_runs(sweep, "runs")
    return pool.run_points(sweep, Path("runs"), jobs, main=train)


def test_local_runs_each_point_once_and_adds_new_ones(sweep_file, light, capfd):
    file = sweep_file({"a": {"values": [1, 2]}, "nothing": {"value": None}})
    assert run(file) == 0
    out = capfd.readouterr().out
    assert "2 finished, 0 not, 0 finished before" in out and out.count("val error 25.00 %") == 2
    assert "next: resnet-cli compare runs/s" in out
    logs = [p.read_text() for p in Path("runs/s/points").glob("*.log")]
    assert any("{'a': 1, 'nothing': None} threads" in text for text in logs)
    sweep_file({"a": {"values": [1, 2, 3]}, "nothing": {"value": None}})
    assert run(file) == 0
    assert "1 finished, 0 not, 2 finished before" in capfd.readouterr().out
    sweep = read(file)
    find_runs(sweep, "runs")
    assert "3 points, 3 finished" in listing(sweep) and "finished, val error 25.00 %" in listing(sweep)


def test_forecast_goes_by_finished_runs(sweep_file, light):
    file = sweep_file({"a": {"values": [1]}})
    assert "no finished run yet" in forecast(read(file))
    run(file)
    sweep = read(sweep_file({"a": {"values": [1, 2, 3]}}))
    find_runs(sweep, "runs")
    assert forecast(sweep) == "about 1.0 minutes of run time left, by 1 finished"


def test_failures_are_told_and_do_not_stop_the_others(sweep_file, light, capfd):
    assert run(sweep_file({"a": {"values": ["fails", "dies", 1]}})) == 1
    out = capfd.readouterr().out
    assert "a=fails  failed: no luck (log: runs/s/points/" in out
    assert "a=dies  killed by SIGKILL" in out and "1 finished, 2 not" in out


def test_ctrl_c_stops_the_runs_and_says_how_to_go_on(sweep_file, light, capfd):
    file = sweep_file({"a": {"values": ["waits", 1]}})
    runs = Path("runs/s")

    def interrupt():
        deadline = time.monotonic() + 60
        while not (runs / "runwaits/attempts/1.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)  # the pool treats both alike

    threading.Thread(target=interrupt).start()
    assert run(file, jobs=1) == 130
    assert "the same command continues" in capfd.readouterr().err
    assert status(runs / "runwaits") == "interrupted"
    assert not (runs / "run1").exists()


def test_list_needs_no_torch(sweep_file):
    sweep_file()
    code = "import sys; from lightning_resnet.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", "s.yaml", "--list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False" and "2 points, 0 finished" in done.stdout


@pytest.mark.parametrize("file", sorted((REPOSITORY / "configs/sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_sweeps_expand(file, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    sweep = read(file)
    assert sweep.name == file.stem and len(sweep.points) >= 12
    assert file.read_text().startswith(f"# resnet-cli sweep configs/sweeps/{file.name} --local")


def test_final_row_of_nothing():
    assert final_row(Path("nowhere"), "val/acc1") is None
