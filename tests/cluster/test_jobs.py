"""slurm/fit.sbatch on a real Slurm: whatever happens to a job, the run ends with the weights of an
undisturbed one.
"""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.run_dir import same_weights, weights

from cluster.jobs import (
    ENDLESS,
    LONG,
    NET,
    SHAPES,
    SHORT,
    SLOW,
    SLOWLY,
    attempts,
    histories,
    local,
    log,
    step,
    submit,
    the_run,
)
from lightning_resnet.runs.metrics import merge, read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory):
    """Weights after LONG, by 2 local ranks."""
    root = tmp_path_factory.mktemp("undisturbed")
    os.chdir(Path(__file__).parents[2])
    return weights(the_run(local(slurm, LONG, root)))


def begin(slurm, options="", shape=SHAPES["2 nodes x 1 task"], fit=LONG):
    """Submit LONG; it has trained a while."""
    Path("slow.py").write_text(SLOW)
    job = submit(slurm, shape, f"{fit} {SLOWLY}", options)
    slurm.until(
        lambda: step() > 40,
        300,
        lambda: f"{slurm.state(job)} {log(job) if Path(f'log-{job}.txt').exists() else ''}",
    )
    return job


def end(slurm, job, undisturbed, reasons):
    """The job completes; its run is one, and what it would have been."""
    assert slurm.wait(job, "COMPLETED", "FAILED", "TIMEOUT", timeout=300) == "COMPLETED", log(job)
    assert [attempt["reason"] for attempt in attempts()] == reasons
    assert same_weights(weights(the_run()), undisturbed)


@pytest.mark.parametrize("shape", SHAPES)
def test_ends_with_the_weights_of_two_local_ranks(slurm, shape):
    job = submit(slurm, SHAPES[shape], SHORT)
    assert slurm.wait(job, "COMPLETED", "FAILED") == "COMPLETED", log(job)
    assert same_weights(weights(the_run()), weights(the_run(local(slurm, SHORT, "local"))))
    assert "batch 64 = 2 ranks x 1 accumulated x 32" in log(job)


def test_the_time_limits_signal_requeues(slurm, undisturbed):
    job = begin(slurm, fit=f"{LONG} --wandb.mode offline")
    slurm.run(f"scancel -s USR1 {job}")  # as --signal does, to the tasks of all steps
    end(slurm, job, undisturbed, ["preempted", "finished"])
    first, second = attempts()
    assert (first["signal"], second["restart_count"], first["job_id"]) == (
        "SIGUSR1",
        1,
        second["job_id"],
    )
    assert (
        f"step 0 to {first['last_step']}; asking Slurm to requeue this job (1 of 20 times)"
        in log(job)
    )
    rows, mirrored = histories()
    assert [step for step, kind in rows if kind == "train"] == list(range(11, 331, 11))
    assert (
        mirrored == rows
    )  # after SIGTERM, which ends W&B's process too, the last 2 s may lack; sync sends them


@pytest.mark.all  # waits for the minute that is the shortest limit
def test_a_real_time_limit(slurm):
    """Slurm looks every 30 s who is near the limit."""
    job = begin(slurm, "--time=3 --signal=USR1@60", fit=ENDLESS)
    slurm.until(lambda: slurm.show(job)["Restarts"] == "1", 180, lambda: log(job))
    assert attempts()[0][
        "reason"
    ] == "preempted" and "asking Slurm to requeue this job (1 of 20 times)" in log(job)


def test_a_short_time_limit_is_told_at_the_start(slurm):
    job = submit(slurm, SHAPES["1 node x 2 tasks"], f"{NET} --run.dry", "--time=2")
    slurm.until(lambda: Path(f"log-{job}.txt").exists() and "0 s to train; ask for" in log(job), 60)
    assert "warning: this job ends in 1" in log(job)


def test_a_job_of_higher_priority_preempts(slurm, undisturbed):
    job = begin(slurm, "--partition=low --exclusive")
    higher = slurm.run(
        "sbatch --parsable --partition=high --nodes=2 --exclusive --wrap 'sleep 1'"
    ).strip()
    slurm.wait(higher, "COMPLETED")
    end(slurm, job, undisturbed, ["preempted", "finished"])
    assert attempts()[0]["signal"] in ("SIGTERM", "SIGUSR1")


def test_scontrol_requeue(slurm, undisturbed):
    job = begin(slurm)
    slurm.run(f"scontrol requeue {job}")
    slurm.until(lambda: slurm.show(job)["Restarts"] == "1")
    end(slurm, job, undisturbed, ["preempted", "finished"])


def test_a_task_that_is_killed(slurm, undisturbed):
    job = begin(slurm)
    rank = [
        pid
        for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
        if rank_of(pid, slurm) == "1"
    ]
    os.kill(rank[0], signal.SIGKILL)
    slurm.until(lambda: slurm.show(job)["Restarts"] == "1", 90, lambda: log(job))
    assert slurm.wait(job, "COMPLETED", timeout=300) and same_weights(
        weights(the_run()), undisturbed
    )


def rank_of(pid, slurm):
    """SLURM_PROCID of a training of this cluster."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    env = dict(entry.decode(errors="replace").split("=", 1) for entry in environ if b"=" in entry)
    ours = env.get("SLURM_CONF") == slurm.env["SLURM_CONF"] and b"resnet-cli\0fit" in command
    return env.get("SLURM_PROCID") if ours and env.get("SLURM_STEP_ID", "").isdigit() else None


@contextmanager
def lost_node(slurm):
    """The second node is lost, and comes back at the end, whether or not the test fails."""
    slurm.run("scontrol update NodeName=127.0.0.2 State=DOWN Reason=lost")
    try:
        yield
    finally:  # it may have come back by itself
        slurm.run("scontrol update NodeName=127.0.0.2 State=RESUME || true")


@pytest.mark.all  # waits until Slurm gives the node up
def test_a_lost_node(slurm, undisturbed):
    job = begin(slurm)
    with lost_node(slurm):
        slurm.until(lambda: slurm.state(job) == "PENDING", 90)
    assert slurm.wait(job, "COMPLETED", timeout=300) and same_weights(
        weights(the_run()), undisturbed
    )


def test_an_elastic_job_goes_on_with_the_node_that_is_left(slurm):
    job = begin(slurm, "--no-kill", fit=f"{LONG} --run.elastic true --run.save_minutes 0.02")
    with lost_node(slurm):
        assert slurm.wait(job, "COMPLETED", "FAILED", timeout=300) == "COMPLETED", log(job)
    assert slurm.show(job)["Restarts"] == "0" and "going on with 1 of 2 nodes" in log(job)
    first, second = attempts()
    assert (first["ranks"], second["ranks"], second["reason"]) == (2, 1, "finished")
    rows = merge(read_rows(the_run() / "metrics.jsonl").rows)
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == 330


def test_a_cancelled_job_stays_cancelled_and_one_submitted_by_hand_continues(slurm, undisturbed):
    job = begin(slurm)
    slurm.run(f"scancel {job}")
    slurm.wait(job, "CANCELLED")
    assert attempts()[0]["reason"] == "preempted" and attempts()[0]["last_step"] > 40
    time.sleep(8)  # a requeued job would be back
    assert slurm.state(job) == "CANCELLED"
    again = submit(slurm, SHAPES["1 node x 2 tasks"], f"{LONG} {SLOWLY}")
    end(slurm, again, undisturbed, ["preempted", "finished"])
    third = submit(slurm, SHAPES["1 node x 2 tasks"], f"{LONG} {SLOWLY}")
    assert slurm.wait(
        third, "COMPLETED", "FAILED"
    ) == "COMPLETED" and "is finished; nothing to do" in log(third)


def test_of_two_identical_submissions_one_trains(slurm):
    job = begin(slurm, shape=SHAPES["1 node x 2 tasks"], fit=ENDLESS)
    twin = submit(slurm, SHAPES["1 node x 2 tasks"], f"{ENDLESS} {SLOWLY}")
    assert slurm.wait(twin, "COMPLETED", "FAILED", timeout=300) == "FAILED"
    assert f"error: run {the_run()} is being trained by attempt 1" in log(twin)
    assert len(attempts()) == 1 and slurm.state(job) == "RUNNING"


@pytest.fixture
def no_scontrol(slurm, monkeypatch, tmp_path):
    """Jobs do not see scontrol; what they need of Slurm they do."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/srun").symlink_to(slurm.packages / "usr/bin/srun")
    path = ":".join(
        p for p in slurm.env["PATH"].split(":") if not p.startswith(str(slurm.packages))
    )
    return f"--export=ALL,PATH={tmp_path}/bin:{path}"


def test_without_scontrol_the_sites_exit_code_requeues(slurm, undisturbed, no_scontrol):
    job = begin(slurm, f"{no_scontrol},REQUEUE_EXIT=99")
    slurm.run(f"scancel -s USR1 {job}")
    slurm.until(lambda: slurm.show(job)["Restarts"] == "1", 90, lambda: log(job))
    end(slurm, job, undisturbed, ["preempted", "finished"])


def test_a_job_that_fails_does_not_come_back(slurm):
    job = submit(slurm, "--nodes=1 --ntasks-per-node=2", f"{SHORT} --model.net.depht 8")
    assert slurm.wait(job, "COMPLETED", "FAILED") == "FAILED"
    assert (
        "unknown option" in log(job)
        and "did you mean" in log(job)
        and slurm.show(job)["Restarts"] == "0"
    )
