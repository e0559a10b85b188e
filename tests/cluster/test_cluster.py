"""The cluster itself: what the other tests rely on."""

import sys

import pytest

pytestmark = pytest.mark.slow

ALL_REDUCE = """
import os, torch, torch.distributed as dist
rank, world = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
dist.init_process_group("gloo", rank=rank, world_size=world)
x = torch.ones(1)
dist.all_reduce(x)
print(int(x))
dist.destroy_process_group()
"""


def test_a_job_says_hello(slurm, folder):
    job = slurm.run(
        "sbatch --parsable --output=out --wrap 'echo hello from $SLURMD_NODENAME'"
    ).strip()
    slurm.wait(job, "COMPLETED")
    assert (folder / "out").read_text() == "hello from 127.0.0.1\n"


@pytest.mark.parametrize(
    "shape", ["--nodes=2 --ntasks-per-node=1", "--nodes=1 --ntasks-per-node=2"]
)
def test_tasks_meet(slurm, folder, shape):
    (folder / "sum.py").write_text(ALL_REDUCE)
    out = slurm.run(
        f"MASTER_ADDR=127.0.0.1 MASTER_PORT=20001 srun {shape} {sys.executable} sum.py", timeout=240
    )
    assert out.split() == ["2", "2"]


def test_a_requeued_job_goes_on_in_its_log(slurm, folder):
    script = (
        "echo restarts ${SLURM_RESTART_COUNT:-0}; [ ${SLURM_RESTART_COUNT:-0} = 1 ] || sleep 60"
    )
    job = slurm.run(
        f"sbatch --parsable --requeue --open-mode=append --output=out --wrap '{script}'"
    ).strip()
    slurm.until(lambda: (folder / "out").exists() and (folder / "out").read_text())
    slurm.run(f"scontrol requeue {job}")
    slurm.wait(job, "COMPLETED")
    assert (folder / "out").read_text().count("restarts") == 2
