"""Which process is which rank: started by srun, by torchrun, or by this file, one process per device of this machine.

`local` has a parent that trains nothing: it starts the ranks, passes signals on to each once, and when one fails ends
the others, so that nobody waits for the dead. Ranks whose parent is gone end too.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning_resnet.errors import UserError
from lightning_resnet.reading import read_yaml
from lightning_resnet.runtime.preemption import SIGNALS

MOST_RANKS = 256  # on a node: more are surely a mistake
Launcher = Literal["auto", "slurm", "torchrun", "local"]
GRACE_S = 10.0  # for the other ranks to end by themselves once one has failed
SAVE_S = 320.0  # once one has stopped: the first may still be writing the checkpoint, for at most 300 s
LIFELINE = "LIGHTNING_RESNET_LIFELINE"  # read end of a pipe that the parent never writes to: it ends with the parent


class Place(NamedTuple):
    """This process among all."""

    local_rank: int
    local_size: int
    node: int
    nodes: int

    @property
    def rank(self) -> int:
        """Among all."""
        return self.node * self.local_size + self.local_rank


def resolve(launcher: Launcher, env: Mapping[str, str]) -> Launcher:
    """What started this process.

    Raises:
        UserError: not what was asked for.
    """
    step = "SLURM_STEP_ID" in env and "SLURM_PROCID" in env and "SLURM_STEP_NUM_TASKS" in env
    step = step and env["SLURM_STEP_ID"].isdigit() and int(env["SLURM_STEP_ID"]) < 0xFFFFFFF0  # not the batch script
    torchrun = "TORCHELASTIC_RUN_ID" in env
    if launcher == "auto":
        return "torchrun" if torchrun else "slurm" if step and LIFELINE not in env else "local"
    if launcher == "slurm" and not step:
        raise UserError("--launcher slurm: this process was not started by srun; put srun before the command")
    if launcher == "torchrun" and not torchrun:
        raise UserError("--launcher torchrun: this process was not started by torchrun; use --launcher local")
    return launcher


def place(launcher: Launcher, env: Mapping[str, str]) -> Place | None:
    """This process's place, from the launcher's variables; None: the parent of local ranks, still to be started.

    Raises:
        UserError: nodes with different numbers of tasks.
    """
    if launcher == "torchrun":
        local, size = int(env["LOCAL_WORLD_SIZE"]), int(env["WORLD_SIZE"])
        return Place(int(env["LOCAL_RANK"]), local, int(env["GROUP_RANK"]), size // local)
    if launcher == "slurm":
        return _slurm_place(env)
    if "LOCAL_RANK" not in env:
        return None
    local = int(env["LOCAL_WORLD_SIZE"])
    return Place(int(env["LOCAL_RANK"]), local, int(env.get("NODE_RANK", 0)), int(env["WORLD_SIZE"]) // local)


def _slurm_place(env: Mapping[str, str]) -> Place:
    tasks, nodes = int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_STEP_NUM_NODES"])
    here = Place(int(env["SLURM_LOCALID"]), tasks // nodes, int(env["SLURM_NODEID"]), nodes)
    if tasks % nodes or here.rank != int(env["SLURM_PROCID"]):
        raise UserError(f"srun runs {tasks} tasks unevenly on {nodes} nodes: give --ntasks-per-node, not --ntasks")
    return here


def meeting_point(launcher: Launcher, env: Mapping[str, str]) -> dict[str, str]:
    """Address and port of the first rank, as variables, where the launcher did not set them."""
    if launcher != "slurm":
        return {}
    # several steps may share a node: a port of its own for each, below those that the system hands out
    port = 20_000 + (int(env["SLURM_JOB_ID"]) * 31 + int(env["SLURM_STEP_ID"])) % 12_000
    address = env.get("MASTER_ADDR") or first_host(env["SLURM_STEP_NODELIST"])
    return {"MASTER_ADDR": address, "MASTER_PORT": env.get("MASTER_PORT") or str(port)}


def first_host(nodes: str) -> str:
    """The first of a SLURM node list: `gpu[07-09,12],login` -> `gpu07`."""
    prefix, bracket, rest = re.match(r"([^\[,]*)(\[?)(.*)", nodes).groups()
    if not bracket:
        return prefix
    inside, _, suffix = rest.partition("]")
    return prefix + re.split("[-,]", inside)[0] + suffix.partition(",")[0]


def plainly_asked(argv: list[str]) -> tuple[int, int] | None:
    """(ranks per node, nodes) where the command line or its recipes give more than one rank as a number.

    Then the ranks are started before anything slow is imported. None: the whole configuration must be parsed to know.
    """
    if resolve("auto", os.environ) != "local" or "LOCAL_RANK" in os.environ or any("--run.new" in a for a in argv):
        return None
    found: dict[str, Any] = {}
    words = [w for a in argv for w in (a.split("=", 1) if a.startswith("--") else [a])]
    for flag, value in zip(words, words[1:], strict=False):
        if flag in ("-c", "--config"):
            try:
                found |= read_yaml(Path(value))["trainer"]
            except (UserError, LookupError, TypeError):
                continue
    pairs = {flag: value for flag, value in zip(words, words[1:], strict=False) if flag.startswith("--")}
    asked = [pairs.get(f"--trainer.{key}", found.get(key, "1")) for key in ("devices", "num_nodes")]
    if pairs.get("--launcher", "local") not in ("auto", "local") or not all(
        re.fullmatch(r"\d{1,4}", str(x)) for x in asked
    ):
        return None
    size, nodes = map(int, asked)
    if size > MOST_RANKS:  # the configuration refuses that, once it is parsed
        return None
    return (size, nodes) if size * nodes > 1 else None


def supervise(argv: list[str], size: int, nodes: int = 1) -> int:
    """Run `resnet-cli ARGV` in `size` processes, the ranks of this node; returns their exit status.

    On several nodes without SLURM the user starts one such parent per node, with NODE_RANK, MASTER_ADDR and
    MASTER_PORT set.
    """
    env = os.environ | {"LOCAL_WORLD_SIZE": str(size), "WORLD_SIZE": str(size * nodes)}
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"} | env
    lifeline, held = os.pipe()
    command = [sys.executable, "-m", "lightning_resnet.cli", *argv]
    ranks: list[subprocess.Popen] = []
    former = {s: signal.signal(s, lambda signum, _: _pass_on(ranks, signum)) for s in SIGNALS}
    try:
        for k in range(size):  # sessions of their own: Ctrl-C in a terminal comes through us, once
            own = {"LOCAL_RANK": str(k), LIFELINE: str(lifeline)}
            ranks.append(subprocess.Popen(command, env=env | own, start_new_session=True, pass_fds=(lifeline,)))
        return _wait(ranks)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
                rank.wait()
        for s, handler in former.items():
            signal.signal(s, handler)
        os.close(lifeline)
        os.close(held)


def end_with_parent() -> None:
    """In a rank that `supervise` started: end at once when the parent has gone, however it went."""
    if LIFELINE not in os.environ:
        return
    pipe = int(os.environ[LIFELINE])
    threading.Thread(target=lambda: (os.read(pipe, 1), os._exit(1)), daemon=True).start()


def _pass_on(ranks: list[subprocess.Popen], signum: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(signum)


def _wait(ranks: list[subprocess.Popen]) -> int:
    """Until all have ended; the first exit status that is not 0 counts, and its rank's fellows get `GRACE_S`."""
    status, deadline = 0, None
    while None in (codes := [rank.poll() for rank in ranks]):
        if deadline is None and any(codes):
            status = next(filter(None, codes))
            deadline = time.monotonic() + (SAVE_S if status in (130, 143) else GRACE_S)
        if deadline and time.monotonic() > deadline:
            _pass_on(ranks, signal.SIGKILL)
        time.sleep(0.05)
    status = status or next(filter(None, codes), 0)
    return 128 - status if status < 0 else status


def free_port() -> int:
    """A TCP port of this machine that nobody uses now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
