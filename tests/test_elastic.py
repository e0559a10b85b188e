"""A run goes on with another number of ranks: the same images, draws and rates, and gradients that
differ by the order of a sum only.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers import numbered, waiting
from helpers.command_line import DIGITS, REPOSITORY, TINY
from helpers.ranks import Ranks, children, wait_for
from helpers.run_dir import attempt, edit, only_run, rank_logs

from lightning_resnet.bounds import world_sizes
from lightning_resnet.cli import fit
from lightning_resnet.config.recipe import build, parse
from lightning_resnet.engine.launch import Place, free_port
from lightning_resnet.runs import directory
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.runs.directory import RunDir
from lightning_resnet.runs.metrics import merge
from lightning_resnet.runs.reader import Run
from lightning_resnet.sweeps import requeue

BATCH = 24  # of 4, 2, 1 and 3 ranks
STEPS = 2 * (numbered.N // BATCH)


def recipe(path, parts=1, epochs=2):
    """A recipe with everything that has draws or a state; parts: micro-batches of a step."""
    config = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    config["trainer"] |= {
        "max_epochs": epochs,
        "log_every_n_steps": 7,
        "precision": "64-true",
        "accumulate_grad_batches": parts,
        "callbacks": [{"class_path": "helpers.numbered.LogDraws"}],
    }
    net = {"depth": 8, "width": 4, "num_classes": numbered.N}
    net |= {"stochastic_depth": 0.7, "stochastic_depth_per": "image"}
    config["model"] |= {
        "net": {"class_path": "CifarResNet", "init_args": net},
        "schedule": "Cosine",
        "bn_batch": 2,
        "ema": {"decay": 0.9},
        "mix": {"mixup": 0.2, "cutmix": 1.0},
    }
    config["data"] = {
        "source": "helpers.numbered.Numbered",
        "batch_size": BATCH,
        "crop": "pad",
        "pad": 1,
        "flip": True,
        "train_eval_samples": 100,
    }
    path.write_text(yaml.safe_dump(config))
    return ["fit", "--config", str(path), "--run.threads", "1"]


def difference(a, b):
    """The largest difference of two states' tensors, relative to the tensor's norm."""
    pairs = [(a["state_dict"][name], b["state_dict"][name]) for name in b["state_dict"]]
    a, b = (state["optimizer_states"][0]["state"] for state in (a, b))
    pairs += [(a[i]["momentum_buffer"], b[i]["momentum_buffer"]) for i in b]
    return max(
        float((x - y).double().norm() / y.double().norm().clamp(min=1e-300)) for x, y in pairs
    )


def last(root):
    return load_checkpoint(only_run(root) / "checkpoints/last.ckpt")


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_goes_on_with_other_numbers_of_ranks(here, parts):
    args = recipe(here / "r.yaml", parts)
    assert Ranks([*args, "--run.root", "complete"], 1).wait(60) == [0], rank_logs()
    Path("draws").rename("complete_draws")
    worlds = {4: 7, 2: 15, 1: 20, 3: STEPS} if parts == 1 else {2: 7, 1: 15, 3: STEPS}
    for world, stop in worlds.items():
        status = 0 if stop == STEPS else 143
        end = {} if stop == STEPS else {"STOP_AT": str(stop)}
        assert Ranks(args, world, **end).wait(60) == [status] * world, rank_logs()
        saved = last("runs")
        sums = saved["train_sums"]
        finite = sums[2] if sums is not None else 0
        assert finite == (saved["global_step"] - saved["last_taken"]) * parts
    steps = numbered.read_draws("draws")
    assert len(steps) == STEPS and steps == numbered.read_draws("complete_draws")
    assert difference(last("runs"), last("complete")) < 1e-12
    assert [attempt(i + 1)["ranks"] for i in range(len(worlds))] == [*worlds]


def results(root):
    """(step, metric) and value of the rows that hold, without those of time."""
    rows = merge(Run(only_run(root)).rows().rows)
    found = [
        ((row["step"], key), value)
        for row in rows
        for key, value in row.items()
        if key.partition("/")[0] in ("train", "train_eval", "val", "val_ema", "lr")
    ]
    assert len(dict(found)) == len(found)  # no step is told twice
    return dict(found)


def written():
    """When the newest checkpoint was written, in ns; 0 without one."""
    times = [0]
    for file in Path("runs").glob("*/*/checkpoints/*.ckpt"):
        with suppress(FileNotFoundError):  # it was replaced
            times.append(file.stat().st_mtime_ns)
    return max(times)


def saved():
    """The steps of the newest checkpoint; 0 without one."""
    files = [*Path("runs").glob("*/*/checkpoints/last.ckpt")]
    files += Path("runs").glob("*/*/checkpoints/prev.ckpt")
    return max((load_checkpoint(file)["global_step"] for file in files), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_chain_of_kills_ends_as_the_run_that_was_never_stopped(here, seed):
    """One rank, or all of them, are killed at random instants."""
    args = recipe(here / "r.yaml", epochs=4)
    assert Ranks([*args, "--run.root", "complete"], 1).wait(100) == [0], rank_logs()
    Path("draws").rename("complete_draws")
    draw = random.Random(seed)
    args += ["--run.save_minutes", "0.003"]
    advanced = set()  # numbers of ranks that came further before they were killed
    for world in [4, 2, 1, 3] * 3:
        before, steps = written(), saved()
        ranks = Ranks(args, world, PAUSE="0.15")
        wait_for(lambda before=before: written() > before, ranks)
        end = time.monotonic() + draw.uniform(0, 1.5)
        wait_for(lambda end=end: time.monotonic() > end, ranks)
        victims = draw.choice([None, [draw.randrange(world)]])
        ranks.send(signal.SIGKILL, victims)
        if ranks.wait(15) == [0] * world:
            break
        if saved() > steps:
            advanced.add(world)
    assert len(advanced) >= 3, rank_logs()
    assert Ranks(args, 2).wait(100) == [0, 0], rank_logs()
    assert numbered.read_draws("draws") == numbered.read_draws("complete_draws")
    assert difference(last("runs"), last("complete")) < 1e-12
    assert results("runs") == pytest.approx(results("complete"), rel=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux tells the children")
@pytest.mark.timeout(600)
def test_torchrun_goes_on_without_a_node_that_was_lost(here, monkeypatch):
    """Agents stand for nodes; one is killed with its rank."""
    args = recipe(here / "r.yaml", epochs=4)
    assert Ranks([*args, "--run.root", "complete"], 1).wait(100) == [0], rank_logs()
    Path("draws").rename("complete_draws")
    monkeypatch.setenv("PAUSE", "0.2")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2", "--max-restarts"]
    command += ["3", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "elastic"]
    port = free_port()
    command += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"]
    command += ["--rdzv-conf", "last_call_timeout=20"]  # both agents end the wait for others
    command += ["-m", "lightning_resnet", *args, "--run.save_minutes", "0.01"]
    command += ["--run.elastic", "true"]
    agents = []

    def start():
        with Path(f"agent{len(agents)}.txt").open("w") as log:
            agents.append(subprocess.Popen(command, stdout=log, stderr=log))

    try:
        start()  # the first agent has the store, without which none goes on
        with socket.socket() as probe:
            waiting.wait_for(lambda: not probe.connect_ex(("127.0.0.1", port)))
        start()
        waiting.wait_for(lambda: [*Path("runs").rglob("prev.ckpt")])
        for pid in (*children(agents[1].pid), agents[1].pid):
            os.kill(pid, signal.SIGKILL)
        assert agents[0].wait(200) == 0, Path("agent0.txt").read_text()
    finally:
        for agent in agents:
            agent.terminate()
            agent.wait(60)
    ended = [(attempt(n)["ranks"], attempt(n)["reason"]) for n in (1, 2)]
    assert ended == [(2, "failed"), (1, "finished")]
    assert numbered.read_draws("draws") == numbered.read_draws("complete_draws")
    assert difference(last("runs"), last("complete")) < 1e-12
    assert results("runs") == pytest.approx(results("complete"), rel=1e-12)


def told(cli, *args):
    """The lines of `doctor --elastic`, by what was looked at: (level, text)."""
    code, out, _ = cli("doctor", "--elastic", "--json", *args)
    document = json.loads(out)
    assert code == any(f["level"] == "fails" for f in document["findings"])
    return {f["what"]: (f["level"], f["found"] + " " + f["cure"]) for f in document["findings"]}


def test_the_doctor_tells_what_stays_the_same(cli):
    args = [*TINY, "--trainer.max_epochs", "1", "--data.batch_size", "24"]
    assert cli("fit", *args, "--data.flip", "true")[0] == 0
    path = only_run()
    found = told(cli, path, "--devices", "3")
    text = "now 1, then 24 = 3 ranks x 1 accumulated x 8; possible is a world size of 1, 2, 3, 4, "
    text += "6, 8, 12 or 24 "
    assert found["ranks"] == ("ok", text)
    assert "the same global batches" in found["images"][1] and "of flips:" in found["draws"][1]
    assert found["rate"] == ("ok", "the same: Steps goes by the step alone ")
    level, text = found["batch norm"]
    assert level == "warning" and "of 8 images in place of 24" in text and "bn_batch 8" in text
    assert found["gradients"][0] == "warning" and "because of batch norm" in found["gradients"][1]
    assert found["evaluation"][0] == "ok" and not {"generators", "losses", "callbacks"} & {*found}
    assert "as many ranks continue bitwise" in told(cli, path)["results"][1]
    edit(path / "attempts/1.json", ranks=0)  # as older versions left it
    fixed = told(cli, path, "--trainer.devices", "2", "--model.bn_batch", "4")
    assert fixed["ranks"][1].startswith("now 1, then 24 = 2 ranks")
    assert fixed["batch norm"][0] == "ok" and "the same parts of 4 images" in fixed["batch norm"][1]
    assert "about 1e-6 of a step in precision 32-true" in fixed["gradients"][1]
    synced = [path, "--trainer.devices", "2", "--trainer.sync_batchnorm", "true"]
    assert told(cli, *synced)["batch norm"][0] == "ok"
    accumulated = told(cli, *synced, "--trainer.accumulate_grad_batches", "2")
    assert "others together, for they are accumulated" in accumulated["batch norm"][1]
    level, text = told(cli, path, "--trainer.devices", "5")["ranks"]
    assert level == "fails" and "not divisible by 5 ranks" in text
    assert "try a world size of 1, 2, 3, 4 or 6, or --data.batch_size" in text
    assert "run" in fixed and fixed["run"][0] == "warning" and "another run" in fixed["run"][1]
    assert "run" not in found


def test_the_doctor_names_what_draws_by_rank_and_what_counts_by_rank(cli):
    args = [*TINY, "--trainer.max_epochs", "1", "--data.batch_size", "24"]
    assert cli("fit", *args)[0] == 0
    asked = ["--trainer.devices", "2", "--model.net.norm", "none", "--data.on_bad", "count"]
    asked += ["--model.net.shortcut", "dropout", "--model.schedule", "ErrorWarmup"]
    asked += ["--model.hooks", "helpers.elastic.Noise", "--trainer.limit_val_batches", "1"]
    asked += ["--trainer.callbacks+=ResponseStds", "--trainer.callbacks+=helpers.elastic.Draws"]
    found = told(cli, only_run(), *asked)
    assert {what for what, (level, _) in found.items() if level == "warning"} == {
        "run",
        "generators",
        "losses",
        "rate",
        "gradients",
        "evaluation",
        "callbacks",
    }
    assert "the net (dropout), Noise, Draws may draw other" in found["generators"][1]
    assert found["batch norm"] == ("ok", "there is none ")
    assert "because of generators and losses" in found["gradients"][1]
    assert "augmentation (none)" in found["draws"][1]
    kept = told(cli, only_run(), *asked[:4], "--model.net.stochastic_depth", "0.8")
    assert "dropped branches" in kept["draws"][1] and kept["gradients"][0] == "ok"


@pytest.mark.parametrize(
    ("batch", "shared", "near", "said"),
    [(24, 2, 5, "1, 2, 3, 4 or 6"), (24, 24, 9, "1"), (24, 5, 2, None), (24, 1, 99, "12 or 24")],
)
def test_world_sizes_that_divide_are_named(batch, shared, near, said):
    found = world_sizes(batch, shared, near)
    assert found.endswith(said) and found.startswith("a world size of") if said else found == ""


def test_a_part_of_batch_norm_that_does_not_divide_names_the_world_sizes(cli):
    args = [*TINY, "--epochs", "1", "--data.batch_size", "24", "--model.bn_batch", "16"]
    code, _, err = cli("fit", *args)
    assert code == 2 and "choose a divisor, or null\n" in err and not Path("runs").exists()
    code, _, err = cli("fit", *args, "--data.batch_size", "96", "--model.mix", "{mixup: 0.2}")
    assert code == 0, err
    level, text = told(cli, only_run(), "--trainer.devices", "4")["ranks"]
    assert level == "fails" and "does not divide the 24 images" in text
    assert "or a world size of 1, 2, 3 or 6" in text


def test_the_doctor_asks_for_a_run(cli):
    for args in (["--elastic"], ["--elastic", DIGITS], ["--elastic", "--quick", "runs"]):
        code, _, err = cli("doctor", *args)
        assert code == 2 and "resnet-cli doctor --elastic RUN --trainer.devices N" in err


def test_ranks_have_no_more_threads_than_cores_when_their_number_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "cores", lambda: 8)
    unset = SimpleNamespace(run=SimpleNamespace(threads=None))
    run = RunDir(tmp_path)
    assert fit._threads(unset, run, Place(0, 1, 0, 1)) == 8
    run.meta_file.write_text('{"threads": 6}')
    assert fit._threads(unset, run, Place(0, 4, 0, 1)) == 6  # as older versions left it
    run.start_attempt(ranks=1)
    assert fit._threads(unset, run, Place(0, 1, 0, 1)) == 6
    assert fit._threads(unset, run, Place(0, 4, 0, 1)) == 2
    given = SimpleNamespace(run=SimpleNamespace(threads=5))
    assert fit._threads(given, run, Place(0, 4, 0, 1)) == 5


@pytest.fixture
def owned(cli):
    """A run that an attempt on another machine owns: the file of that attempt, and the command."""
    args = ["fit", *TINY, "--trainer.max_epochs", "1"]
    assert cli(*args)[0] == 0
    file = only_run() / "attempts/1.json"
    elsewhere = json.loads(file.read_text())["process"] | {"where": "elsewhere"}
    edit(file, reason="running", host="node7", process=elsewhere, heartbeat=time.time())
    return file, args


def test_an_elastic_run_waits_until_the_attempt_of_a_lost_node_counts_as_dead(
    cli, owned, monkeypatch
):
    _, args = owned
    assert cli(*args)[0] == 2
    asked = []

    def status(self):
        asked.append(self)
        return "running" if len(asked) < 6 else "dead"

    monkeypatch.setattr(directory, "POLL_S", 0)
    monkeypatch.setattr(RunDir, "status", status)
    code, out, err = cli(*args, "--run.elastic", "true")
    assert code == 0, err
    assert out.count("attempt 1 on node7 has not ended: waiting for up to 240 s") == 1


@pytest.mark.parametrize(("elastic", "seconds"), [("true", 300), ("false", 65)])
def test_ranks_wait_for_the_first_rank_as_long_as_it_waits(here, monkeypatch, elastic, seconds):
    ranks = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", "NODE_RANK": "0"}
    for name, value in (ranks | {"LIGHTNING_RESNET_MEETING": "."}).items():
        monkeypatch.setenv(name, value)
    config = parse("fit", [*TINY, "--run.hang_s", "5", "--run.elastic", elastic])
    assert build(config).trainer.strategy._timeout.total_seconds() == seconds


def test_a_run_of_older_code_tells_of_the_new_rule_for_running_statistics(cli):
    args = [*TINY, "--trainer.max_epochs", "1", "--model.bn_batch", "8", "--data.batch_size", "32"]
    args += ["--trainer.accumulate_grad_batches", "2"]
    assert cli("fit", *args)[0] == 0
    told = "this run was begun by older code, where each micro-batch updated batch norm's running"
    file = only_run() / "attempts/1.json"
    edit(file, reason="failed")
    assert told not in cli("fit", *args)[1]
    (file.parent / "2.json").unlink()
    edit(file, ranks=0)  # as older versions left it
    assert told in cli("fit", *args)[1]


def test_an_elastic_run_is_refused_where_the_other_attempt_is_alive(cli, owned, monkeypatch):
    file, args = owned
    original = RunDir.status

    def status(self):
        edit(file, heartbeat=time.time())
        return original(self)

    monkeypatch.setattr(directory, "POLL_S", 0)
    monkeypatch.setattr(RunDir, "status", status)
    code, _, err = cli(*args, "--run.elastic", "true")
    assert code == 2 and "is being trained by attempt 1 on node7" in err


def test_a_run_that_goes_on_with_other_ranks_says_so(cli, owned):
    file, args = owned
    edit(file, reason="preempted", ranks=1)
    code, out, err = cli(*args)
    assert code == 0 and "in place of" not in out, err
    edit(file.with_name("2.json"), reason="preempted", ranks=2)
    code, out, err = cli(*args)
    assert code == 0 and "ranks: 1 in place of 2; images, draws and rates stay, bits do not" in out


def test_an_elastic_run_that_was_finished_while_it_waited_is_left_alone(cli, owned, monkeypatch):
    file, args = owned
    original = RunDir.status
    asked = []

    def status(self):
        asked.append(self)
        if len(asked) == 5:
            edit(file, reason="finished")
        return original(self)

    monkeypatch.setattr(directory, "POLL_S", 0)
    monkeypatch.setattr(RunDir, "status", status)
    code, _, err = cli(*args, "--run.elastic", "true")
    assert code == 2 and "has just been finished by another process" in err
    assert len([*file.parent.glob("*.json")]) == 1


def test_a_checkpoint_that_the_owner_wrote_at_its_end_is_continued(cli, owned, monkeypatch):
    """The owner is preempted while the new attempt waits: its checkpoint is newer than those read
    before.
    """
    file, args = owned
    folder = file.parent.parent / "checkpoints"
    folder.rename("aside")
    original = RunDir.wait_for_owner

    def wait(self):
        shutil.rmtree(folder)
        Path("aside").rename(folder)
        edit(file, reason="preempted")
        original(self)

    folder.mkdir()
    monkeypatch.setattr(RunDir, "wait_for_owner", wait)
    code, out, err = cli(*args, "--run.elastic", "true")
    assert code == 0, err
    step = load_checkpoint(folder / "last.ckpt")["global_step"]
    assert f"continued from last.ckpt at step {step}" in out
    assert attempt(2)["last_step"] == step and not Path(folder, "prev.ckpt").exists()


def test_an_elastic_run_without_an_owner_does_not_wait(cli, owned):
    file, args = owned
    edit(file, reason="failed")
    code, out, _ = cli(*args, "--run.elastic", "true")
    assert code == 0 and "waiting" not in out


# -- slurm/fit.sbatch ------------------------------------------------------------------------------


@pytest.fixture
def job(cli, tmp_path, monkeypatch):
    """A job whose last attempt ended as told; the answers of squeue, one for each question."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(requeue, "POLL_S", 0)
    Path("bin").mkdir()

    def make(answers, **ended):
        attempt = {"job_id": "7", "restart_count": 0, "reason": "running", "last_step": 5}
        attempt |= {"ranks": 12, "nodes": 6}
        Path("runs/run/x/attempts").mkdir(parents=True, exist_ok=True)
        Path("runs/run/x/attempts/1.json").write_text(json.dumps(attempt | ended))
        Path("answers").write_text("".join(f"{answer}\n" for answer in answers))
        script = "head -n 1 answers; sed -i 1d answers"
        for name, text in (("squeue", script), ("scontrol", "echo SlurmdTimeout = 30 sec")):
            Path(f"bin/{name}").write_text(f"#!/bin/sh\n{text}\n")
            Path(f"bin/{name}").chmod(0o755)

    return make


LOST = ["requeue", "--status", "2", "--left", "4", "fit", "--run.elastic", "true"]


def test_a_step_that_has_lost_a_node_goes_on_with_the_others(cli, job):
    job(["4", "4", "3"])
    code, out, err = cli(*LOST)
    assert (code, out) == (0, "3\n") and "waiting for up to 90 s for Slurm" in err
    job(["2"], reason="failed", error="another rank ended without a word, as when it is killed")
    assert cli(*LOST)[:2] == (0, "2\n")
    job(["1"], reason="failed", error="killed")
    assert cli("requeue", "--status", "137", *LOST[3:])[:2] == (0, "1\n")


def test_a_step_that_has_lost_no_node_does_not_go_on(cli, job, monkeypatch):
    job(["3"], reason="failed", error="the loss is not finite")
    assert cli(*LOST) == (1, "", "")
    job(["3"])
    for told in ([], ["--run.elastic", "false"]):
        assert cli(*LOST[:6], *told) == (1, "", "")
    job([], reason="running")
    monkeypatch.setattr(requeue, "LATE_S", -29.5)
    code, out, err = cli(*LOST)
    assert (code, out) == (1, "") and "a rank was lost" in err
    Path("bin/scontrol").unlink()
    monkeypatch.setattr(requeue, "SLURMD_TIMEOUT_S", 30.0)
    assert cli(*LOST)[0] == 1
    monkeypatch.setenv("PATH", "")
    code, out, err = cli(*LOST)
    assert (code, out) == (1, "") and "without squeue it is not known" in err


@pytest.mark.parametrize(
    ("model", "left", "kept"),
    [
        ("{bn_batch: null, mix: null}", 3, 3),
        ("{bn_batch: 4, mix: null}", 3, 3),
        ("{bn_batch: 12, mix: null}", 3, 2),
        ("{bn_batch: null, mix: {mixup: 0.2}}", 5, 4),
        ("{bn_batch: 5, mix: null}", 3, 3),  # which the training refuses
        ("{}", 3, 3),
        ("5", 3, 3),
    ],
)
def test_nodes_among_which_the_batch_does_not_divide_stay_idle(cli, job, model, left, kept):
    job([left])
    recipe = "trainer: {accumulate_grad_batches: 1}\ndata: {batch_size: 48}\nmodel: "
    Path("runs/run/x/config.yaml").write_text(recipe + model)
    assert cli("requeue", "--status", "137", "--left", "6", *LOST[5:])[:2] == (0, f"{kept}\n")


def test_a_step_that_died_before_its_attempt_began_goes_on_too(cli, job):
    job(["2"], ranks=32, nodes=4)  # the attempt of the step before, on a node more
    recipe = "trainer: {accumulate_grad_batches: 1}\ndata: {batch_size: 120}\n"
    Path("runs/run/x/config.yaml").write_text(recipe + "model: {bn_batch: 3, mix: null}")
    assert cli("requeue", "--status", "137", "--left", "3", *LOST[5:])[:2] == (0, "1\n")


def test_a_step_that_a_signal_has_ended_does_not_go_on(cli, job):
    job(["3"], signal="SIGUSR1", reason="preempted")
    assert cli("requeue", "--status", "137", *LOST[3:]) == (1, "", "")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["fit", "--run.elastic"], True),
        (["fit", "--run.elastic", "--epochs", "3"], True),
        (["fit", "--run.elastic=true"], True),
        (["fit", "--config", "elastic.yaml"], True),
        (["fit", "--config", "elastic.yaml", "--run.elastic", "false"], False),
        (["fit", "--config", "below/file.yaml"], True),
        (["fit", "--run", "{elastic: true}"], True),
        (["fit", "--run={elastic: true}", "--run.elastic", "False"], False),
        (["fit", "--config", "nowhere.yaml"], False),
        (["fit", "--run.elastic", "yes"], True),
        *((["fit", "--run.elastic", word], False) for word in ("no", "off", "0", "null", "{")),
        (["fit", "--config", "null.yaml"], False),
        (["fit"], False),
    ],
)
def test_elastic_is_read_from_flags_and_recipes(argv, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("elastic.yaml").write_text("run: {elastic: true}")
    Path("null.yaml").write_text("run: {elastic: null}")
    Path("below").mkdir()
    Path("below/file.yaml").write_text("run: run.yaml")
    Path("below/run.yaml").write_text("elastic: true")
    assert requeue.is_elastic(argv) is expected
