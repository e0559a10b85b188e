"""Several ranks train and measure as one, stop together, and never wait for a dead one (gloo, real
processes).
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import waiting
from helpers.command_line import TINY
from helpers.ranks import Ranks, children, recipe, wait_for
from helpers.run_dir import attempt, history, only_run, rank_logs, weights

from lightning_resnet.engine import launch
from lightning_resnet.engine import watchdog as crash
from lightning_resnet.engine.launch import (
    MEETING,
    Place,
    first_host,
    forget_strays,
    idle_tasks,
    place,
    plainly_asked,
    refuse_copies,
    resolve,
    waited_for,
)
from lightning_resnet.engine.rendezvous import meeting_point
from lightning_resnet.errors import UserError
from lightning_resnet.runs.directory import RunDir

LONG = [*TINY, "--trainer.max_epochs", "500"]


def test_two_ranks_train_as_one(here):
    """The net has no norm, which would see the rank's own images; float64, so that rounding
    does not hide a difference.
    """
    args = [
        "fit",
        *TINY,
        "--trainer.max_epochs",
        "3",
        "--trainer.max_steps",
        "50",
        "--trainer.log_every_n_steps",
        "1",
    ]
    args += [
        "--model.net.norm",
        "none",
        "--model.optimizer.lr",
        "0.01",
        "--trainer.precision",
        "64-true",
    ]
    for world in (1, 2):
        assert Ranks([*args, "--run.root", f"w{world}"], world).wait(100) == [0] * world, (
            rank_logs()
        )
    one, two = history("w1", "train/loss"), history("w2", "train/loss")
    assert len(one) == 50 and one == pytest.approx(two, abs=1e-9)


@pytest.mark.parametrize("source", ["Digits", "helpers.numbered.Few"])
def test_every_number_of_ranks_measures_the_same(here, source):
    assert Ranks(["fit", *TINY, "--trainer.max_epochs", "1"], 1).wait(100) == [0], rank_logs()
    checkpoint = str(only_run("runs") / "checkpoints/last.ckpt")
    found = []
    for world in (1, 2, 3):
        Path("log0.txt").unlink()
        args = [
            "validate",
            *TINY,
            "--data.source",
            source,
            "--ckpt_path",
            checkpoint,
            "--data.batch_size",
            "48",
        ]
        assert Ranks(args, world).wait(100) == [0] * world, rank_logs()
        found.append(json.loads(Path("log0.txt").read_text()))
    for other in found[1:]:
        assert (
            other["val/acc1"] == found[0]["val/acc1"] and other["val/acc5"] == found[0]["val/acc5"]
        )
        assert other["val/loss"] == pytest.approx(found[0]["val/loss"], abs=1e-6)


def test_ghost_batches_follow_the_recipe_of_two_ranks(here):
    args = ["fit", *TINY, "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"]
    args += ["--trainer.precision", "64-true", "--model.bn_batch", "32"]
    for world in (1, 2):
        assert Ranks([*args, "--run.root", f"w{world}"], world).wait(100) == [0] * world, (
            rank_logs()
        )
    assert history("w1", "train/loss") == pytest.approx(history("w2", "train/loss"), abs=1e-9)
    assert history("w1", "val/loss") == pytest.approx(history("w2", "val/loss"), abs=1e-9)


@pytest.mark.slow
def test_precise_statistics_are_those_of_one_rank_with_ghost_batches(here):
    """They agree to 1e-9 in float64: later norms see what earlier ones make of their own batch,
    here of 32 images either way.
    """
    args = ["fit", *TINY, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "6"]
    args += ["--trainer.precision", "64-true", "--model.bn_batch", "32", "--model.precise_bn", "4"]
    for world in (1, 2):
        assert Ranks([*args, "--run.root", f"w{world}"], world).wait(100) == [0] * world, (
            rank_logs()
        )
    one, two = weights(only_run("w1")), weights(only_run("w2"))
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-9) for name in one)
    assert history("w1", "val/loss") == pytest.approx(history("w2", "val/loss"), abs=1e-9)


@pytest.mark.parametrize(
    "how",
    ["SIGTERM to one rank", "SIGHUP to one rank", "SIGUSR1 to both, 3 s apart", "SIGINT to both"],
)
def test_signals_stop_all_ranks_at_the_same_step(here, how):
    ranks = Ranks(["fit", *LONG], 2)
    wait_for(lambda: list(Path("runs").rglob("prev.ckpt")), ranks)
    start = time.monotonic()
    if "USR1" in how:
        ranks.send(signal.SIGUSR1, [1])
        time.sleep(3)
        ranks.send(signal.SIGUSR1, [0])
    else:
        ranks.send(signal.Signals[how.split()[0]], [1] if "one" in how else None)
    codes = ranks.wait(20)
    # the second signal of a pair may find its rank on the way out already, where signals have their
    # usual effect
    status = {"SIGINT": 130, "SIGHUP": 129}.get(how.split()[0], 143)
    assert codes[1] == status and codes[0] in (status, -signal.SIGUSR1), (codes, rank_logs())
    assert time.monotonic() - start < 20
    assert attempt()["reason"] == ("interrupted" if "INT" in how else "preempted")
    assert attempt()["signal"] == how.split()[0]
    saved = torch.load(only_run("runs") / "checkpoints/last.ckpt", weights_only=True)
    assert (
        saved["global_step"] == attempt()["last_step"] > 0
        and "saved; the same command continues" in rank_logs()
    )


@pytest.mark.slow
def test_three_ranks_continue_as_if_never_stopped(here):
    """The order in which a gradient is summed depends, from three ranks on, on its place in
    DDP's buckets.
    """
    args = ["fit", *TINY, "--trainer.max_epochs", "30", "--data.batch_size", "66"]
    assert Ranks([*args, "--run.root", "complete"], 3).wait(100) == [0] * 3, rank_logs()
    ranks = Ranks(args, 3)
    wait_for(lambda: list(Path("runs").rglob("prev.ckpt")), ranks)
    ranks.send(signal.SIGTERM)
    assert ranks.wait(20) == [143] * 3, rank_logs()
    assert Ranks(args, 3).wait(100) == [0] * 3, rank_logs()
    complete, cut = weights(only_run("complete")), weights(only_run("runs"))
    assert all(torch.equal(complete[name], cut[name]) for name in complete)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seconds", [0.9, 1.0, 1.1, 1.5]
)  # at about 1 s, torch's C code imports numpy
def test_a_signal_before_the_training_starts_ends_at_once(here, seconds):
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_resnet", "fit", *LONG], stderr=subprocess.PIPE
    )
    time.sleep(seconds)  # in the imports
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143 and b"nothing new to save" in err and not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["Raises", "Dies", "Hangs"])
def test_the_fault_of_one_rank_ends_all_and_is_told(here, fault):
    Path("fault.yaml").write_text(
        yaml.safe_dump(
            {
                "trainer": {
                    "callbacks": [
                        {
                            "class_path": f"helpers.faults.{fault}",
                            "init_args": {"rank": 1, "step": 30},
                        }
                    ]
                }
            }
        )
    )
    args = [*LONG, "--config", "fault.yaml", "--trainer.devices", "2", "--run.hang_s", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "lightning_resnet", "fit", *args],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == {"Raises": 1, "Dies": 17, "Hangs": 1}[fault], done.stderr
    assert done.stderr.count("Traceback") == (fault == "Raises") and attempt()["reason"] == "failed"
    text = "".join(p.read_text() for p in (only_run("runs") / "attempts").glob("1.rank1.txt"))
    if fault == "Raises":
        assert "rank 1 failed after step 30" in text and "torch 2" in text
        assert "rank 1 failed: RuntimeError: a fault of this rank alone" in attempt()["error"]
    elif fault == "Hangs":
        assert "in act" in text and "Timeout" in text
    else:
        assert "another rank ended without a word" in attempt()["error"]
    assert Ranks(
        ["fit", *TINY, "--trainer.max_epochs", "500", "--trainer.max_steps", "40"], 2
    ).wait(60) == [0, 0], rank_logs()


def test_a_rank_that_no_other_reaches_says_where(tmp_path, monkeypatch):
    monkeypatch.setattr(crash, "WRITE_S", 0)
    words = (
        "The client socket has timed out after 61000ms while trying to connect to (10.0.0.1, "
        "29500)."
    )
    error = torch.distributed.DistNetworkError(f"{words}\nException raised from throwTimeoutError")
    assert crash.is_consequence(error) and f"out of reach ({words} " in crash.cause(
        RunDir(tmp_path), 2, error
    )


def _train_until_over(folder):
    """Stand for a training: its watchdog ends it after 3 s without a step."""
    watchdog = crash.Watchdog(RunDir(folder), 3.0)
    watchdog.on_train_start(SimpleNamespace(is_global_zero=False, global_rank=0, world_size=1))
    while not (folder / "over").exists():
        (folder / "steps").open("a").write("x")
        watchdog.alive()
        time.sleep(0.05)
    watchdog.close()
    assert signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL


def test_a_training_that_was_stopped_for_long_goes_on(tmp_path):
    """Ctrl-Z sends SIGTSTP, and so does Slurm before it suspends a job."""
    (tmp_path / "attempts").mkdir()
    steps = tmp_path / "steps"
    training = get_context("fork").Process(target=_train_until_over, args=(tmp_path,))
    training.start()
    waiting.wait_for(lambda: steps.exists() and steps.stat().st_size > 3)
    os.kill(training.pid, signal.SIGTSTP)
    stat = Path(f"/proc/{training.pid}/stat")
    waiting.wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    done = steps.stat().st_size
    time.sleep(3.5)
    assert steps.stat().st_size == done
    os.kill(training.pid, signal.SIGCONT)
    waiting.wait_for(lambda: steps.stat().st_size > done + 3 or not training.is_alive())
    (tmp_path / "over").touch()
    training.join(20)
    assert training.exitcode == 0


def test_a_rank_that_sees_a_former_attempt_only_leaves_that_ones_report(tmp_path, monkeypatch):
    """A network file system may show a new file some seconds late."""
    monkeypatch.setattr(crash, "WRITE_S", 0)
    folder = tmp_path / "attempts"
    folder.mkdir()
    (folder / "1.json").write_text('{"attempt": 1}')
    (folder / "1.rank1.txt").write_text("ValueError: of the first attempt")
    rundir = RunDir(tmp_path)
    rundir.number = 2
    watchdog = crash.Watchdog(rundir, 60.0)
    watchdog.on_train_start(SimpleNamespace(is_global_zero=False, global_rank=1, world_size=2))
    watchdog.close()
    crash.write_crash_report(rundir, 1, 7, ValueError("of the second attempt"))
    assert "of the first" in (folder / "1.rank1.txt").read_text()
    assert "of the second attempt" in (folder / "2.rank1.txt").read_text()
    lost = torch.distributed.DistNetworkError("reset")
    assert "of the second attempt" in crash.cause(rundir, 2, lost)


@pytest.mark.slow
def test_ranks_end_with_their_parent(here):
    command = [sys.executable, "-m", "lightning_resnet", "fit", *LONG, "--trainer.devices", "2"]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(Path("runs").rglob("prev.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = children(parent.pid)
    assert len(ranks) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(running(pid) for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(running(pid) for pid in ranks)


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_another_number_of_ranks_continues_the_same_batches(here):
    from helpers import numbered

    args = [*recipe(here / "r.yaml", "torch"), "--trainer.max_epochs", "6"]
    assert Ranks([*args, "--run.root", "complete"], 1).wait(60) == [0], rank_logs()
    complete = numbered.read("ids", 1)
    Path("ids").rename("complete_ids")
    ranks = Ranks(args, 2)
    file = Path("ids/rank1-of-2.jsonl")
    wait_for(lambda: file.exists() and len(file.read_text().splitlines()) > 13, ranks)
    ranks.send(signal.SIGTERM)
    assert ranks.wait(20) == [143, 143], rank_logs()
    stopped = attempt()["last_step"]  # in nine of ten runs within an epoch
    assert stopped < 60 and Ranks(args, 1).wait(60) == [0], rank_logs()
    steps = numbered.read("ids", 2) | numbered.read("ids", 1)
    assert min(numbered.read("ids", 1)) == stopped + 1
    assert steps == complete
    assert weights(only_run("runs")).keys() == weights(only_run("complete")).keys()


def listening(pid):
    """Addresses at which a process listens for TCP, in the kernel's hexadecimal."""
    inodes = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    lines = [
        line.split()
        for kind in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]
    ]
    return [
        fields[1].partition(":")[0]
        for fields in lines
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes
    ]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells who listens")
@pytest.mark.parametrize("srun", [False, True])
def test_ranks_of_one_machine_listen_on_the_loopback_interface_only(here, srun):
    """Also where the environment asks for an interface of the network, as a cluster's does."""
    ranks = Ranks(["fit", *LONG], 2, srun, GLOO_SOCKET_IFNAME="eth0", NCCL_SOCKET_IFNAME="eth0")
    wait_for(lambda: list(Path("runs").rglob("last.ckpt")), ranks)
    found = [address for p in ranks.processes for address in listening(p.pid)]
    ranks.send(signal.SIGTERM)
    assert ranks.wait(100) == [143, 143], rank_logs()
    assert len(found) >= 2 and set(found) == {"0100007F"}, found


def test_ranks_are_waited_for_as_long_as_a_step(tmp_path, monkeypatch):
    """Not for the 5 minutes that are the default of the store in a file."""
    monkeypatch.setenv(MEETING, str(tmp_path))
    assert meeting_point(Place(1, 2, 0, 1), timedelta(seconds=661)).timeout == timedelta(
        seconds=661
    )


@pytest.mark.slow
def test_a_trial_tells_which_rank_failed(here, tmp_path):
    Path("mine.py").write_text(
        "from pytorch_lightning.callbacks import Callback\n"
        "class Boom(Callback):\n"
        "    def on_train_batch_end(self, trainer, *args):\n"
        "        if trainer.global_rank == 1: raise RuntimeError('boom')\n"
    )
    command = [sys.executable, "-m", "lightning_resnet", "fit", *TINY, "--trainer.devices", "2"]
    command += [
        "--trainer.fast_dev_run",
        "1",
        "--trainer.callbacks",
        "mine.Boom",
        "--trainer.accelerator",
        "cpu",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode and "error: rank 1 failed: RuntimeError: boom" in done.stderr
    assert not Path("runs").exists()


# -- who is which rank -----------------------------------------------------------------------------

STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
}
STEP |= {"SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "WORLD_SIZE": "8",
    "GROUP_RANK": "1",
}


def test_places():
    assert (
        resolve("auto", STEP) == "slurm"
        and place("slurm", STEP) == Place(1, 4, 1, 2)
        and Place(1, 4, 1, 2).rank == 5
    )
    assert resolve("auto", TORCHRUN) == "torchrun" and place("torchrun", TORCHRUN) == Place(
        1, 4, 1, 2
    )
    assert resolve("auto", {}) == "local" and place("local", {}) is None
    assert (
        resolve("auto", STEP | {"SLURM_STEP_ID": "4294967291"}) == "local"
    )  # the batch script itself
    assert (
        resolve("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == "local"
    )  # in salloc, without srun
    with pytest.raises(UserError, match="was not started by srun"):
        resolve("slurm", {})
    with pytest.raises(UserError, match="give --ntasks-per-node"):
        place("slurm", STEP | {"SLURM_STEP_NUM_TASKS": "7"})


SET = {
    "LOCAL_RANK": "0",
    "RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29511",
}


@pytest.mark.parametrize(
    "left",
    [
        {"LOCAL_RANK": "0"},
        {"RANK": "3"},
        {"RANK": "abc"},
        {"LOCAL_RANK": ""},
        {"JSM_NAMESPACE_RANK": "x"},
        {"SLURM_PROCID": "1", "SLURM_JOB_ID": "7", "SLURM_LOCALID": "1", "SLURM_NTASKS": "2"},
        SET,
        SET | {"LOCAL_WORLD_SIZE": "2"},
    ],
)
def test_variables_that_were_left_in_a_shell_have_no_effect(left):
    env = dict(left)
    assert forget_strays(["fit"], env) and place(resolve("auto", env), env) is None
    assert not {"RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"} & env.keys()


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"TORCHELASTIC_RUN_ID": "x"}, "LOCAL_WORLD_SIZE is not set"),
        (
            TORCHRUN | {"LOCAL_RANK": "abc"},
            "LOCAL_RANK is 'abc', not a whole number from 0 on: start it by torchrun",
        ),
        (TORCHRUN | {"LOCAL_RANK": ""}, "LOCAL_RANK is ''"),
        (TORCHRUN | {"LOCAL_RANK": "4"}, "fit no rank"),
        (TORCHRUN | {"WORLD_SIZE": "6"}, "fit no rank"),
        (STEP | {"SLURM_PROCID": "abc"}, "SLURM_PROCID is 'abc'"),
        (STEP | {"SLURM_STEP_NUM_NODES": "0"}, "SLURM_STEP_NUM_NODES is '0'"),
    ],
)
def test_a_launcher_s_variables_that_make_no_sense_are_refused(env, told):
    with pytest.raises(UserError, match=re.escape(told)):
        waited_for(["fit"], env)
    assert not waited_for(["fit", "--launcher", "local"], env)


def test_one_process_in_a_job_for_several_is_warned():
    assert "this job has 2 tasks" in idle_tasks({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"})
    assert not idle_tasks({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"})
    assert not idle_tasks({"SLURM_NTASKS": "2"})


def test_tasks_of_a_step_are_known_below_a_shell_of_their_own(monkeypatch):
    name, parent = launch._name_and_parent(os.getpid())
    assert name and parent == os.getppid() and launch._name_and_parent(2**30) == ("", 0)
    assert launch._step_daemon() == os.getppid(), "there is no Slurm"
    tree = {7: ("bash", 5), 8: ("bash", 5), 5: ("slurmstepd", 1)}  # as slurm/sweep.sbatch starts it
    monkeypatch.setattr(launch, "_name_and_parent", tree.get)
    for shell in (7, 8, 5):
        monkeypatch.setattr(os, "getppid", lambda shell=shell: shell)
        assert launch._step_daemon() == 5


def test_tasks_of_srun_say_a_line_once(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "gettempdir", lambda: str(tmp_path))
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    first = step | {"SLURM_PROCID": "0"}
    second = step | {"SLURM_PROCID": "1"}
    assert launch.says_first("error: no", first) and not launch.says_first("error: no", second)
    assert launch.says_first("error: other", second)
    assert launch.says_first("error: no", first | {"SLURM_STEP_ID": "1"})


def test_copies_that_mpirun_starts_are_refused():
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE"):
        with pytest.raises(UserError, match=f"{name}=2: this is one of 2 copies"):
            refuse_copies(["fit"], {name: "2"})
        refuse_copies(["fit", "--launcher=local"], {name: "2"})
        refuse_copies(["fit"], {name: "1"})
        refuse_copies(["fit"], {name: "abc"})


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({}, "NODE_RANK is not set: start this command once on each node"),
        (
            {"NODE_RANK": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
            "NODE_RANK is '2', not a number from 0 to 1",
        ),
        ({"NODE_RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
    ],
)
def test_a_parent_on_several_nodes_needs_to_know_the_first(cli, monkeypatch, env, told):
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    code, _, err = cli("fit", *TINY, "--trainer.num_nodes", "2")
    assert code == 2 and told in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu[07-09,12],login", "gpu07"),
        ("a,b", "a"),
        ("127.0.0.[1-2]", "127.0.0.1"),
        ("n[3]x", "n3x"),
    ],
)
def test_first_host(nodes, first):
    assert first_host(nodes) == first


def test_a_requeued_job_takes_over_from_itself(cli, monkeypatch):
    cli("fit", *TINY, "--trainer.max_epochs", "1")
    path = next(Path("runs/digits").iterdir()) / "attempts/1.json"
    live = json.loads(path.read_text()) | {"reason": "running", "job_id": "77", "restart_count": 0}
    path.write_text(json.dumps(live))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert cli("fit", *TINY, "--trainer.max_epochs", "1")[0] == 2
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert cli("fit", *TINY, "--trainer.max_epochs", "1")[0] == 0
    assert json.loads(path.with_name("2.json").read_text())["restart_count"] == 1


def test_an_older_attempt_that_sees_a_newer_one_stops_and_writes_no_more(cli, monkeypatch):
    from lightning_resnet.runs import directory as rundir
    from lightning_resnet.training.task import ClassificationTask

    monkeypatch.setattr(rundir, "HEARTBEAT_S", 0.01)
    original = ClassificationTask.training_step

    def step(self, batch, batch_idx):
        if self.global_step == 30:
            path = next(Path("runs/digits").iterdir()) / "attempts/2.json"
            path.write_text(
                json.dumps({"attempt": 2, "reason": "running", "heartbeat": time.time()})
            )
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", step)
    code, _, err = cli("fit", *LONG)
    assert code == 2 and "was taken over by a newer attempt" in err
    run = next(Path("runs/digits").iterdir())
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 22
    assert json.loads((run / "attempts/2.json").read_text())["reason"] == "running"
    assert os.path.getmtime(run / "attempts/2.json") >= os.path.getmtime(
        run / "checkpoints/last.ckpt"
    )


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        ("--trainer.devices 2", (2, 1)),
        ("--trainer.devices=4 --trainer.num_nodes 2", (4, 2)),
        ("--config two.yaml", (2, 1)),
        ("--config two.yaml --trainer.devices 1", None),
        ("--trainer.devices auto", None),
        ("--trainer.devices 2 --launcher torchrun", None),
        ("--config absent.yaml", None),
        ("--config odd.yaml", None),
        ("--run.new --trainer.devices 2", None),
    ],
)
def test_ranks_that_are_plainly_asked_for_need_no_imports(args, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("two.yaml").write_text("trainer: {devices: 2}")
    Path("odd.yaml").write_text("trainer: [devices]")
    assert plainly_asked(["fit", *args.split()]) == asked


@pytest.mark.slow
def test_a_rank_that_waits_for_others_before_the_training_hears_a_signal(here):
    """It waits in C code, where Python's handlers do not run; without a parent that would tell the
    others.
    """
    ranks = Ranks(["fit", *LONG], 2)
    ranks.send(signal.SIGKILL, [0])
    # the helper of ranks would not wait once one is dead, and a fresh fork server imports for long
    waiting.wait_for(lambda: Path("log1.txt").exists())
    time.sleep(4)
    ranks.send(signal.SIGTERM, [1])
    assert ranks.wait(100)[1] == 143, rank_logs()
