"""Sweeps and jobs on SLURM, as far as no Slurm is needed; tests/cluster/ has a real one."""

import json
import re
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest
from helpers.command_line import REPOSITORY, verb

from lightning_resnet.cli import sweep as command
from lightning_resnet.errors import UserError
from lightning_resnet.provenance import code_name
from lightning_resnet.sweeps import slurm as submit
from lightning_resnet.sweeps.points import read
from lightning_resnet.sweeps.requeue import decide, folders, of_this_job

main = verb(command)

SWEEP = """
name: s
method: grid
command: ["${env}", resnet-cli, fit, --config, configs/digits.yaml, --config, "${args_json_file}"]
parameters:
  model.net.depth: {values: [8, 20]}
  %s: {values: [0, 1]}
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Write the sweep into a folder that holds the recipes; there is no Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    Path("configs").symlink_to(REPOSITORY / "configs")

    def write(key="seed_everything"):
        Path("s.yaml").write_text(SWEEP % key)
        return "s.yaml"

    return write


def test_without_sbatch_the_commands_are_printed(sweep, capsys):
    assert main([sweep(), "--submit"]) == 1
    out = capsys.readouterr().out
    assert "4 of 4 points, in runs/s/submitted/1/table.txt" in out
    assert "there is no sbatch here, so nothing was submitted" in out
    table = Path("runs/s/submitted/1/table.txt").read_text().splitlines()
    assert out.splitlines()[-4:] == [line.replace(" --run.threads $THREADS", "") for line in table]
    about = json.loads(Path("runs/s/submitted/1/about.json").read_text())
    read_sweep = read("s.yaml")
    point = read_sweep.points[0]
    assert table[0] == (
        f"resnet-cli fit --config configs/digits.yaml --config runs/s/points/{point.key}.json "
        "--run.root runs "
        f"--run.name s --run.point {point.key} "
        f"--run.label {read_sweep.label(point)} --run.threads $THREADS "
        f"--run.code {code_name(about)}"
    )
    assert len(about["git_sha"]) == 40 and about["points"] == [p.key for p in read("s.yaml").points]


def test_wrong_keys_and_values_are_found_before_anything_is_queued(sweep):
    with pytest.raises(
        UserError, match="point depht=0 depth=8: unknown option .*depht of .*; did you mean .*depth"
    ):
        main([sweep("model.net.depht"), "--submit"])
    Path("s.yaml").write_text((SWEEP % "seed_everything").replace("[0, 1]", "[0, -1]"))
    with pytest.raises(UserError, match="seed=-1: --seed_everything must be a whole number from 0"):
        main(["s.yaml", "--submit"])
    Path("s.yaml").write_text((SWEEP % "seed_everything").replace("[8, 20]", "[8, 9]"))
    with pytest.raises(UserError, match="point depth=9 seed=0: depth of a CIFAR net"):
        main(["s.yaml", "--submit"])
    assert not Path("runs").exists()


def test_a_site_file_with_a_key_is_refused(sweep, monkeypatch):
    Path("slurm").mkdir()
    Path("slurm/site.env").write_text("export WANDB_API_KEY=abc\n")
    with pytest.raises(UserError, match="slurm/site.env sets WANDB_API_KEY"):
        submit._sbatch(["true"])
    Path("slurm/site.env").write_text("export SBATCH_ACCOUNT=physics\n")
    assert submit._sbatch(["bash", "-c", "test $SBATCH_ACCOUNT = physics && echo 17"]) == "17"
    assert (
        submit._sbatch(["bash", "-c", "echo Welcome.; echo '18;cluster'; echo bye"]) == "18"
    )  # a site's own words
    for words in ("true", "printf '\\377\\n'"):
        with pytest.raises(UserError, match="did not tell the job's number"):
            submit._sbatch(["bash", "-c", words])
    with pytest.raises(UserError, match="sbatch: no such partition"):
        submit._sbatch(["bash", "-c", "echo no such partition >&2; exit 1"])


def make_run(point, reason, last_step=120, job="1", error=None, age=0):
    run = Path("runs/s", point.key)
    (run / "attempts").mkdir(parents=True, exist_ok=True)
    (run / "meta.json").write_text(
        json.dumps({"point": point.key, "steps_per_epoch": 22, "epochs": 15})
    )
    attempt = {
        "attempt": 1,
        "reason": reason,
        "last_step": last_step,
        "seconds": 60.0,
        "heartbeat": time.time() - age,
    }
    (run / "attempts/1.json").write_text(
        json.dumps(
            attempt
            | {"job_id": job, "restart_count": 0, "error": error, "host": "node3"}
            | {"signal": "SIGTERM" if reason == "preempted" else None}
        )
    )
    (run / "metrics.jsonl").write_text('{"step": 100, "val/acc1": 0.75}\n')


def test_status_and_what_is_submitted_again(sweep, capsys, monkeypatch):
    points = read(sweep()).points
    for point, reason in zip(points, ("finished", "running", "preempted"), strict=False):
        make_run(point, reason)
    monkeypatch.setattr(
        submit, "queued", lambda home: {points[2].key: "PENDING", points[3].key: "PENDING"}
    )
    assert main(["s.yaml", "--status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1  finished, val error 25.00 % ")
    assert lines[1].startswith("2  running at step 120/330, val error 25.00 % ")
    assert lines[2].startswith(
        "3  stopped at step 120/330, val error 25.00 %, SIGTERM (cancelled or preempted), waits in "
        "the queue"
    )
    assert (
        lines[3].startswith("4  waiting ")
        and lines[-1] == "s: 1 finished, 1 running, 1 stopped, 1 waiting"
    )
    assert main(["s.yaml", "--submit"]) == 0 and "nothing to submit" in capsys.readouterr().out
    make_run(points[1], "failed")
    monkeypatch.setattr(submit, "queued", lambda home: {})
    assert main(["s.yaml", "--retry-failed", "--", "--nodes", "2", "--gpus-per-node=4"]) == 1
    out = capsys.readouterr().out
    assert "2 of 4 points" in out and "by 1 finished: 0.3 GPU-hours on 8 per run" in out
    assert (
        "--run.threads" not in Path("runs/s/submitted/1/table.txt").read_text()
    )  # begun runs go on with theirs
    main(["s.yaml", "--submit"])
    assert "3 of 4 points" in capsys.readouterr().out


def test_a_task_that_runs_before_its_run_begins_is_starting(sweep, capsys, monkeypatch):
    points = read(sweep()).points
    make_run(points[2], "preempted")
    states = ("RUNNING", "PENDING", "RUNNING", "COMPLETING")
    queue = {point.place: state for point, state in zip(points, states, strict=True)}
    monkeypatch.setattr(submit, "queued", lambda home: queue)
    assert main(["s.yaml", "--status"]) == 0
    first, second, third, fourth, _, last = capsys.readouterr().out.splitlines()
    assert first.startswith("1  starting ") and second.startswith("2  waiting ")
    assert "(cancelled or preempted), its task runs " in third
    assert fourth.startswith("4  ending ")
    assert last == "s: 1 starting, 1 waiting, 1 stopped, 1 ending"


STATES = {  # reason of an attempt, error, job: state and reason that each verb tells
    "failed": ("failed", "out of memory", "7", "failed", "out of memory"),
    "diverged": ("diverged", "the loss is not finite", "7", "diverged", "the loss is not finite"),
    "cancelled": ("preempted", None, "7", "stopped", "SIGTERM (cancelled or preempted)"),
    "killed by hand": ("preempted", None, None, "stopped", "SIGTERM"),
    "lost": ("running", None, "7", "dead", "no heartbeat since 20"),
}


@pytest.mark.parametrize("way", STATES)
def test_status_runs_and_best_have_the_same_words(sweep, cli, way):
    reason, error, job, state, why = STATES[way]
    point = read(sweep()).points[0]
    make_run(point, reason, job=job, error=error, age=1e6 if way == "lost" else 0)
    status = cli("sweep", "s.yaml", "--status")[1].splitlines()
    assert status[0].startswith(f"1  {state} at step 120/330, val error 25.00 %, {why}")
    assert status[-1] == f"s: 1 {state}, 3 not submitted"
    listed = cli("runs")[1].splitlines()
    assert f" {state} " in listed[2] and listed[3].startswith(f"{point.key}: {state}: {why}")
    if state != "diverged":  # whose result counts for nothing
        assert f"  {state}, {why}" in cli("sweep", "s.yaml", "--best", "1")[1]


@pytest.mark.parametrize(
    ("words", "last"),
    [("--submit --time 1:00:00", "--time 1:00:00"), ("--submit -p=gpu -N 2", "-p=gpu")],
)
def test_an_option_of_sbatch_in_the_wrong_place_is_shown_the_right_one(sweep, words, last):
    with pytest.raises(UserError, match=f"option of sbatch: .* sweep FILE --submit -- {last}$"):
        main([sweep(), *words.split()])


def test_only_gpus_that_are_asked_for_make_gpu_hours(sweep, capsys):
    make_run(read(sweep()).points[0], "finished")
    main(["s.yaml", "--submit"])
    assert "of run time left, by 1 finished\n" in capsys.readouterr().out
    Path("slurm").mkdir()
    Path("slurm/site.env").write_text("export SBATCH_GPUS_PER_NODE=a100:2\n")
    main(["s.yaml", "--submit"])
    assert "GPU-hours on 2 per run" in capsys.readouterr().out


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """Put sbatch, squeue and scancel of one line of shell each on the path.

    Job 7 is what sbatch answers; the file `queue` is what squeue prints.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, line in (
        ("sbatch", "[ ! -e refuse ] || { cat refuse >&2; exit 1; }; echo 7"),
        ("squeue", "cat queue 2>/dev/null; true"),
        ("scancel", 'echo "$@" >> cancelled'),
    ):
        program = programs / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")


def test_a_job_that_fails_before_its_run_begins_is_told_and_retried(sweep, fake_slurm, capsys):
    file = sweep()
    assert main([file, "--submit", "--root", "my runs", "--throttle", "2"]) == 0
    assert f"watch: resnet-cli sweep {file} --status --root 'my runs'" in capsys.readouterr().out
    assert main([file, "--submit"]) == 0
    folder = Path("runs/s/submitted/1")
    exited = "srun: error: n1: task 0: Exited with exit code 2\n"
    log = "reading\nerror: CIFAR10 not found in data\n"
    folder.joinpath("0.log").write_text(log + exited)
    folder.joinpath("1.log").write_text("run runs/s/1 (depth8-seed1)\nerror: later\n")
    capsys.readouterr()
    assert main([file, "--status"]) == 0
    first, second, *_, last = capsys.readouterr().out.splitlines()
    cause = f"failed before it began, {folder}/0.log: error: CIFAR10 not found in data"
    assert first.startswith(f"1  {cause}") and second.startswith("2  not submitted")
    assert last == "s: 1 failed before it began, 3 not submitted"
    ended = "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-28 DUE TO TIME LIMIT ***\n"
    folder.joinpath("0.log").write_text(ended + exited)
    assert main([file, "--status"]) == 0
    assert "DUE TO TIME LIMIT" in capsys.readouterr().out
    _, early = decide([], 143, 0, 20)
    folder.joinpath("0.log").write_text(f"{exited}{early}\n{ended}")
    assert main([file, "--status"]) == 0
    assert f"0.log: {early} " in capsys.readouterr().out
    Path("queue").write_text("7 0 COMPLETING\n")
    assert main([file, "--retry-failed"]) == 0
    told = capsys.readouterr().out
    assert "nothing to submit; in the queue: 1 COMPLETING; Slurm is still ending jobs" in told
    Path("queue").unlink()
    assert main([file, "--retry-failed"]) == 0
    out = capsys.readouterr().out
    assert "1 of 4 points" in out and "the last submission was: sbatch --parsable --array" in out


def test_cancel_names_only_jobs_that_are_alive(sweep, fake_slurm, capsys):
    file = sweep()
    assert main([file, "--submit"]) == 0
    assert main([file, "--cancel"]) == 0
    assert "nothing of runs/s is queued or running" in capsys.readouterr().out
    Path("queue").write_text("7 1 RUNNING\n8 0 RUNNING\n")
    assert main([file, "--cancel"]) == 0
    assert "cancelled 7;" in capsys.readouterr().out and Path("cancelled").read_text() == "7\n"


def test_a_refusal_names_the_site_file_and_leaves_nothing(sweep, fake_slurm):
    file = sweep()
    Path("refuse").write_text("sbatch: error: no such partition\nsbatch: error: failed\n")
    Path("slurm").mkdir()
    Path("slurm/site.env").write_text(f"export PATH={Path('bin').resolve()}:/usr/bin:/bin\n")
    cause = r"sbatch: no such partition; failed \(slurm/site.env sets options too\)"
    with pytest.raises(UserError, match=cause):
        main([file, "--submit"])
    assert not list(Path("runs/s/submitted").iterdir())


def test_a_failed_point_says_why_and_where_its_log_is(sweep, fake_slurm, capsys):
    points = read(sweep()).points
    assert main(["s.yaml", "--submit", "--pack", "2"]) == 0
    log = Path("runs/s/submitted/1/table.0.1.log")
    log.write_text("run runs/s/1\nerror: out of memory\n")
    make_run(points[0], "failed", error="out of memory")
    make_run(points[1], "diverged")
    capsys.readouterr()
    assert main(["s.yaml", "--status"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    cause = f"out of memory (log: {log})"
    assert first.startswith(f"1  failed at step 120/330, val error 25.00 %, {cause}")
    assert main(["s.yaml", "--retry-failed"]) == 0
    assert "note: 1 of these diverged, as the same code will again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ("--time 2", 0),
        ("--time=0:04:10", 40),
        ("-t 4:59", 89),
        ("--time 1:30 --signal=USR1@20", 40),
        ("--time 5:01", None),
        ("--time 1-0", None),
        ("--time 2:00:00", None),
        ("--time UNLIMITED", None),
        ("--time 0", None),
        ("", None),
    ],
)
def test_a_time_limit_that_leaves_nothing_to_train_is_told(sweep, fake_slurm, cli, options, left):
    words = ["--", *options.split()] if options else []
    code, out, _ = cli("sweep", sweep(), "--submit", *words)
    warned = f"leaves {left} s to train, because Slurm asks a job to save"
    assert code == 0 and (warned in out if left is not None else "to train" not in out), out


def test_a_short_time_limit_of_the_site_is_told(sweep, fake_slurm, cli):
    Path("slurm").mkdir()
    site = f"export PATH={Path('bin').resolve()}:/usr/bin:/bin SBATCH_TIMELIMIT=3"
    Path("slurm/site.env").write_text(site)
    file = sweep()
    assert "warning: a time limit of 3 leaves 0 s" in cli("sweep", file, "--submit")[1]
    Path("slurm/site.env").write_text(f"{site} SBATCH_SIGNAL=USR1@30")
    assert "to train" not in cli("sweep", file, "--submit")[1]


def test_missing_data_are_found_before_anything_is_queued(sweep, fake_slurm):
    Path(sweep()).write_text((SWEEP % "seed_everything").replace("digits.yaml", "cifar10.yaml"))
    with pytest.raises(UserError, match="depth=8 seed=0: CIFAR10 not found .* --yes submits"):
        main(["s.yaml", "--submit"])
    assert not Path("runs").exists()
    assert main(["s.yaml", "--submit", "--yes"]) == 0


def test_cancel_needs_a_submission(sweep):
    with pytest.raises(UserError, match="from runs/s: --submit does it, and where that had --root"):
        main([sweep(), "--cancel"])
    with pytest.raises(UserError, match="--pack must be a whole number, 1 or more; got 0"):
        main(["s.yaml", "--pack", "0"])


@pytest.fixture(params=["fit.sbatch --config digits", "sweep.sbatch table.txt 1"])
def script(request, sweep, fake_slurm, monkeypatch):
    """Run a batch script, whose srun does nothing; return what it prints."""
    for name in ("srun", "resnet-cli"):
        Path("bin", name).write_text("#!/bin/sh\n")
        Path("bin", name).chmod(0o755)
    Path("bin/squeue").write_text('#!/bin/sh\necho "$@" > asked\ncat queue\n')
    Path("table.txt").write_text("true\n")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    for name, value in {"JOB_ID": "9", "ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)

    def run():
        words = [REPOSITORY / "slurm" / request.param.split()[0], *request.param.split()[1:]]
        done = subprocess.run(["bash", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stderr == ""
        return done.stdout

    return run


def test_a_job_that_soon_ends_says_so(script, monkeypatch):
    def end(seconds):
        return datetime.fromtimestamp(time.time() + seconds).strftime("%Y-%m-%dT%H:%M:%S\n")

    Path("queue").write_text(end(125))
    told = script()
    assert told.startswith("warning: this job ends in 12") and ": 0 s to train; ask for" in told
    assert Path("asked").read_text() == "-h -j 7_0 -o %e\n"
    Path("queue").write_text(end(285))
    assert re.search(r"ends in 28\d s, .*: 7\d s to train; ask for more --time", script())
    monkeypatch.setenv("SLURM_JOB_END_TIME", f"{time.time() + 3600:.0f}")  # newer than 22.05
    assert script() == ""


@pytest.mark.parametrize("answer", ["", "N/A\n", "2097-01-01T00:00:00\n", None])
def test_a_job_without_a_near_end_says_nothing(script, answer):
    if answer is None:
        Path("bin/squeue").write_text("#!/bin/sh\necho down >&2\nexit 1\n")
    else:
        Path("queue").write_text(answer)
    assert script() == ""


def attempt(signal=None, last_step=100, reason="preempted"):
    return {"signal": signal, "last_step": last_step, "reason": reason}


@pytest.mark.parametrize(
    ("made", "status", "restarts", "expected", "why"),
    [
        (
            [(attempt("SIGUSR1"), 0)],
            143,
            0,
            "requeue",
            "step 0 to 100; asking Slurm to requeue this job (1 of 20 times)",
        ),
        ([(attempt("SIGUSR1"), 100)], 143, 0, "end", "it came no further (step 100 to 100)"),
        ([(attempt("SIGUSR1"), 100)], 143, 0, "end", "too short: more --time, or sbatch --signal"),
        ([], 143, 0, "stay", "time limit was too short: more --time"),
        ([(attempt("SIGUSR1"), 0)], 143, 20, "end", "20 times is the limit"),
        (
            [(attempt("SIGTERM"), 0)],
            143,
            0,
            "stay",
            "SIGTERM: this job was cancelled, or preempted",
        ),
        ([], 143, 0, "stay", "stopped before training began"),
        ([], 128 + signal.SIGUSR1, 0, "stay", "stopped before training began"),
        ([], 128 + signal.SIGXCPU, 0, "stay", "stopped before training began"),
        ([], 137, 0, "end", ""),
        (
            [(attempt(reason="running"), 50)],
            1,
            3,
            "requeue",
            "step 50 to 100",
        ),  # killed without a word
        (
            [(attempt(reason="failed"), 0)],
            137,
            0,
            "requeue",
            "step 0 to 100",
        ),  # its peer was killed
        ([(attempt(reason="failed"), 0)], 1, 0, "end", ""),
        ([(attempt(reason="finished"), 0)], 0, 0, "end", ""),
        (
            [(attempt("SIGUSR1"), 100), (attempt("SIGUSR1", 120), 90)],
            143,
            0,
            "requeue",
            "step 90 to 120",
        ),  # packed
    ],
)
def test_a_job_requeues_itself_only_for_progress(made, status, restarts, expected, why):
    what, text = decide(made, status, restarts, 20)
    assert what == expected and why in text


def test_attempts_of_a_job_are_found_where_its_command_says(sweep):
    sweep()
    assert folders(["fit", "--config", "configs/digits.yaml"]) == {Path("runs/digits")}
    assert folders(["fit", "-c", "configs/digits.yaml", "--run.root=a", "--run.name", "b"]) == {
        Path("a/b")
    }
    Path("table.txt").write_text("resnet-cli fit --config configs/digits.yaml --run.name s\n" * 2)
    assert folders(["table", "table.txt"]) == {Path("runs/s")}
    points = read("s.yaml").points
    make_run(points[0], "preempted", job="7")
    make_run(points[1], "preempted", job="8")
    ((found, before),) = of_this_job(Path("runs/s"), {"SLURM_JOB_ID": "7"})
    assert (found["last_step"], before) == (120, 0)
    assert not list(of_this_job(Path("runs/s"), {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}))


@pytest.mark.parametrize(
    ("attempts", "before"),
    [
        (["running 0 150", "preempted 100 140"], 100),  # killed after its checkpoint of step 100
        (["running 0 150", "running 100 140"], 100),
        (["running 0 150", "running 100 140", "running 100 130"], 140),  # nothing was saved
        (["running 0 150", "running 100 145", "preempted 100 130"], 100),
        (["preempted 0 150", "preempted 0 150"], 150),  # the disk is full
        (["running -1 150", "running -1 0"], 150),  # killed before it began
        (["preempted -1 150", "preempted 150 160"], 150),
    ],
)
def test_progress_counts_from_where_an_attempt_began(sweep, attempts, before):
    point = read(sweep()).points[0]
    make_run(point, "preempted", job="7")
    folder = Path("runs/s") / point.key / "attempts"
    found = json.loads((folder / "1.json").read_text())
    for number, text in enumerate(attempts, 1):
        reason, start, last = text.split()
        told = {"reason": reason, "start_step": int(start), "last_step": int(last)}
        (folder / f"{number}.json").write_text(json.dumps(found | told))
    ((_, done),) = of_this_job(Path("runs/s"), {"SLURM_JOB_ID": "7"})
    assert done == before
