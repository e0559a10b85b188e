"""resnet-cli sweep --submit on a real Slurm: every point runs once, whatever happens to its job."""

import json
import re
from pathlib import Path

import pytest
import yaml
from helpers.command_line import REPOSITORY
from helpers.run_dir import unlabelled

from cluster.jobs import SLOW
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.runs.find import described_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
TINY = "--model.net.width=4 --trainer.max_epochs=4 --trainer.callbacks+=slow.Slow".split()


@pytest.fixture
def sweep():
    """The shipped degradation sweep, its nets made small and its steps slow."""
    Path("slow.py").write_text(SLOW)
    content = yaml.safe_load((REPOSITORY / "configs/sweeps/digits_degradation.yaml").read_text())

    def write(seeds, depths=(8, 14), epochs=4):
        content["parameters"]["model.net.depth"] = {"values": list(depths)}
        content["parameters"]["seed_everything"] = {"values": seeds}
        literal = [*TINY[:1], f"--trainer.max_epochs={epochs}", *TINY[2:]]
        content["command"] = [*content["command"][:3], *literal, *content["command"][3:]]
        Path("s.yaml").write_text(yaml.safe_dump(content))
        content["command"] = [token for token in content["command"] if token not in literal]

    return write


RUNS = Path("runs/digits_degradation")


def states():
    return sorted(run.status() for run in described_runs(RUNS))


def test_an_array_runs_every_point_once_and_only_new_ones_later(slurm, sweep):
    sweep([0])
    out = slurm.run("resnet-cli sweep s.yaml --submit --throttle 2", timeout=240)
    assert "4 of 4 points" in out and "--array=0-3%2" in out and "submitted as job" in out
    again = slurm.run("resnet-cli sweep s.yaml --submit", timeout=240)
    assert "nothing to submit" in again
    told = set()

    def finished():
        text = slurm.run("resnet-cli sweep s.yaml --status", timeout=240)
        running = len(slurm.run("squeue -h -r -t RUNNING").splitlines())
        assert running <= 2 and len(re.findall(r"^\d+  running at step", text, re.M)) <= 2
        told.add(text.splitlines()[-1])
        return states() == ["finished"] * 4

    slurm.until(finished, 240, lambda: f"{told}")
    assert any("running" in line and "waiting" in line for line in told)
    slurm.until(lambda: not slurm.run("squeue -h"), 60)
    assert (
        slurm.run("resnet-cli sweep s.yaml --status").splitlines()[-1]
        == "digits_degradation: 4 finished"
    )
    assert "nothing to submit" in slurm.run("resnet-cli sweep s.yaml --submit")

    sweep([0, 1], depths=[8])
    out = slurm.run("resnet-cli sweep s.yaml --submit", timeout=240)
    assert "2 of 4 points" in out and "of run time left, by 2 finished" in out
    slurm.until(lambda: states() == ["finished"] * 6, 200)
    assert all(len(list(run.glob("*"))) == 1 for run in unlabelled(RUNS.glob("*/attempts")))
    slurm.run("resnet-cli compare runs/digits_degradation", timeout=240)
    assert (RUNS / "report/curves.png").exists()


def test_packed_runs_share_a_task_and_a_chain_continues_them(slurm, sweep, tmp_path):
    """--chain 2 with requeueing off and no scontrol to be seen."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/srun").symlink_to(slurm.packages / "usr/bin/srun")
    path = ":".join(
        p for p in slurm.env["PATH"].split(":") if not p.startswith(str(slurm.packages))
    )
    sweep([0, 1], depths=[8], epochs=10)
    options = f"--no-requeue --cpus-per-task=2 --export=ALL,PATH={tmp_path}/bin:{path}"
    out = slurm.run(
        f"resnet-cli sweep s.yaml --submit --pack 2 --chain 2 -- {options}", timeout=240
    )
    assert "--array=0-1 " in out and "--dependency=afterany:" in out
    about = json.loads((RUNS / "submitted/1/about.json").read_text())
    slurm.until(lambda: len(unlabelled(RUNS.glob("*/metrics.jsonl"))) == 4, 120)
    slurm.run(f"scancel -s USR1 {about['jobs'][0]}")
    slurm.until(lambda: states() == ["finished"] * 4, 240, lambda: f"{states()}")
    attempts = [
        sorted(file.stem for file in run.glob("*.json"))
        for run in unlabelled(RUNS.glob("*/attempts"))
    ]
    assert ["1", "2"] in attempts and max(map(len, attempts)) == 2
    slurm.until(lambda: not slurm.run("squeue -h"), 60)
    undisturbed(slurm)


def undisturbed(slurm):
    """Each run ends with the weights that the same command gives here."""
    for run in unlabelled(RUNS.glob("*/config.yaml"))[:2]:
        slurm.run(f"resnet-cli fit --config {run} --run.root here --run.threads 1", timeout=240)
        here = load_checkpoint(
            Path("here") / run.parent.relative_to("runs") / "checkpoints/last.ckpt"
        )["state_dict"]
        there = load_checkpoint(run.parent / "checkpoints/last.ckpt")["state_dict"]
        assert all((here[key] == there[key]).all() for key in there)


def test_cancel_and_retry(slurm, sweep):
    sweep([0], depths=[8], epochs=30)
    slurm.run("resnet-cli sweep s.yaml --submit", timeout=240)
    slurm.until(lambda: len(unlabelled(RUNS.glob("*/metrics.jsonl"))) == 2, 120)
    slurm.run("resnet-cli sweep s.yaml --cancel")
    slurm.until(lambda: not slurm.run("squeue -h"), 60)
    assert states() == ["preempted"] * 2
    assert "2 of 2 points" in slurm.run("resnet-cli sweep s.yaml --retry-failed", timeout=240)
    slurm.until(lambda: states() == ["finished"] * 2, 200)


def test_an_array_takes_its_points_while_it_runs_and_continues_a_killed_one(slurm, sweep):
    sweep([0])
    content = yaml.safe_load(Path("s.yaml").read_text())
    rate = {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}
    content |= {"method": "bayes", "run_cap": 4, "metric": {"name": "val/acc1", "goal": "maximize"}}
    content["parameters"] = {"model.net.depth": {"value": 8}, "model.optimizer.lr": rate}
    Path("s.yaml").write_text(yaml.safe_dump(content))
    out = slurm.run("resnet-cli sweep s.yaml --submit --throttle 2", timeout=240)
    assert "4 of 4 points" in out and "--array=0-3%2" in out
    slurm.until(lambda: "running" in states(), 200)
    assert "0 queued" not in slurm.run("resnet-cli sweep s.yaml --submit", timeout=240)
    job = slurm.run("squeue -h -r -t RUNNING -o '%F_%K'").split()[0]
    slurm.run(f"scontrol requeue {job}")
    slurm.until(lambda: states() == ["finished"] * 4, 300, lambda: f"{states()}")
    slurm.until(lambda: not slurm.run("squeue -h"), 60)
    runs = [*unlabelled(RUNS.glob("*/attempts"))]
    assert len(runs) == 4
    out = slurm.run("resnet-cli sweep s.yaml --status")
    assert out.splitlines()[-1] == "digits_degradation: 4 finished"
    assert "nothing to do" in slurm.run("resnet-cli sweep s.yaml --submit", timeout=240)
