"""Attempts at a run as real processes, one per rank, forked from a server that has imported torch
already.
"""

import os
import signal
import sys
import time
import traceback
from multiprocessing import connection, get_context
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import yaml

from helpers import numbered
from helpers.command_line import REPOSITORY

EPOCHS = 30


class Ranks:
    """One attempt at a run: real processes, forked from one that has imported torch."""

    def __init__(self, arguments, world, srun=False, **env):
        context = get_context("forkserver")
        context.set_forkserver_preload(["lightning_resnet.cli.fit"])
        ranks = [env]
        if world > 1:
            place = {"LOCAL_WORLD_SIZE": str(world), "WORLD_SIZE": str(world), "NODE_RANK": "0"}
            place["LIGHTNING_RESNET_MEETING"] = mkdtemp(dir=".")
            ranks = [env | place | {"LOCAL_RANK": str(r)} for r in range(world)]
        if srun:
            step = {
                "SLURM_STEP_ID": "0",
                "SLURM_STEP_NUM_NODES": "1",
                "SLURM_NODEID": "0",
                "SLURM_JOB_ID": str(os.getpid()),
            }
            step |= {"SLURM_STEP_NUM_TASKS": str(world), "SLURM_STEP_NODELIST": "elsewhere"}
            ranks = [
                env | step | {"SLURM_PROCID": str(r), "SLURM_LOCALID": str(r)} for r in range(world)
            ]
        self.processes = [context.Process(target=numbered.main, args=(arguments, r)) for r in ranks]
        for p in self.processes:
            p.start()

    @property
    def alive(self):
        return all(p.is_alive() for p in self.processes)

    def send(self, signum, ranks=None):
        for p in self.processes if ranks is None else [self.processes[r] for r in ranks]:
            if p.is_alive():
                os.kill(p.pid, signum)

    def wait(self, seconds):
        """Exit codes."""
        deadline = time.monotonic() + seconds
        while (
            alive := [p.sentinel for p in self.processes if p.is_alive()]
        ) and time.monotonic() < deadline:
            connection.wait(alive, 0.2)
        codes = [p.exitcode for p in self.processes]
        self.send(signal.SIGKILL)
        for p in self.processes:
            p.join(5)
        return codes


def recipe(path, loader):
    """Everything that has a state: momentum, averages, a schedule that watches, mixing, intervals
    across epochs.
    """
    config = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    config["trainer"] |= {"max_epochs": EPOCHS, "log_every_n_steps": 7}
    config["trainer"]["callbacks"] = [
        {"class_path": "helpers.numbered.LogIds", "init_args": {"folder": "ids"}}
    ]
    net = {"depth": 8, "width": 4, "num_classes": numbered.N}
    config["model"] |= {
        "net": {"class_path": "CifarResNet", "init_args": net},
        "schedule": "ErrorWarmup",
    }
    config["model"] |= {"ema": {"decay": 0.9}, "mix": {"mixup": 0.2, "cutmix": 1.0}}
    config["data"] = {
        "source": "helpers.numbered.Numbered",
        "batch_size": numbered.BATCH,
        "crop": "pad",
        "pad": 1,
    }
    config["data"] |= {"flip": True, "loader": loader, "train_eval_samples": 100}
    path.write_text(yaml.safe_dump(config))
    return ["fit", "--config", str(path), "--run.threads", "1", "--run.save_minutes", "0.005"]


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(happened, ranks, seconds=60):
    deadline = time.monotonic() + seconds
    while not happened() and ranks.alive and time.monotonic() < deadline:
        time.sleep(0.0005)


class Forked:
    """Stands for `subprocess.Popen` where `supervise` starts ranks: they are forked, with the
    imports done.
    """

    def __init__(self, command, env, **options):
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                status = numbered.run(command[command.index("lightning_resnet") + 1 :], env)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self):
        while self.poll() is None:
            time.sleep(0.01)

    def send_signal(self, signum):
        os.kill(self.pid, signum)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def supervised(arguments, env):
    """Run the command line, as the parent of two ranks, in a process of the fork server."""
    from lightning_resnet.engine import launch

    launch.subprocess = SimpleNamespace(Popen=Forked)
    raise SystemExit(numbered.run(arguments, env | {"LOCAL_RANK": "parent"}))


def started(arguments, out):
    """Run the command line as its own process has it, with a stdout of its own, in a process of
    the fork server.
    """
    from lightning_resnet.cli.main import main

    os.setsid()
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(os.open("err.txt", os.O_WRONLY | os.O_CREAT), 2)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", closefd=False)
    sys.argv = ["resnet-cli", *arguments]
    status = main()
    sys.stdout.flush()
    raise SystemExit(status)
