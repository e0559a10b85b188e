"""Attempts at a run as real processes, one per rank, forked from a server that has imported torch already."""

import os
import signal
import socket
import time
from multiprocessing import connection, get_context
from pathlib import Path

import numbered

from lightning_resnet.runtime.checkpoint import load_checkpoint


class Ranks:
    """One attempt at a run: real processes, forked from one that has imported torch."""

    def __init__(self, arguments, world, **env):
        context = get_context("forkserver")
        context.set_forkserver_preload(["lightning_resnet.fit"])
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = str(s.getsockname()[1])
        ranks = [{"LOCAL_RANK": str(r), "LOCAL_WORLD_SIZE": str(world), "WORLD_SIZE": str(world)} for r in range(world)]
        ranks = [env | r | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} for r in ranks] if world > 1 else [env]
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
        while (alive := [p.sentinel for p in self.processes if p.is_alive()]) and time.monotonic() < deadline:
            connection.wait(alive, 0.2)
        codes = [p.exitcode for p in self.processes]
        self.send(signal.SIGKILL)
        for p in self.processes:
            p.join(5)
        return codes


def wait_for(happened, ranks, seconds=60):
    deadline = time.monotonic() + seconds
    while not happened() and ranks.alive and time.monotonic() < deadline:
        time.sleep(0.0005)


def the_run(root):
    (path,) = (p.parent for p in Path(root).glob("*/*/meta.json"))
    return path


def weights(root):
    return load_checkpoint(the_run(root) / "checkpoints/last.ckpt")["state_dict"]
