"""Which process is which rank: started by srun, by torchrun, or by this file, one process per device of this machine.

`local` has a parent that trains nothing: it starts the ranks, passes signals on to each once, and when one fails ends
the others, so that nobody waits for the dead. Ranks whose parent is gone end too.
Variables of launchers mean something in complete sets only: srun's in a job step, torchrun's beside
TORCHELASTIC_RUN_ID, and NODE_RANK, MASTER_ADDR, MASTER_PORT beside `--trainer.num_nodes`. What else was left in a shell
has no effect.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal, NamedTuple, get_args

from lightning_resnet.engine.signals import SIGNALS, STATUSES, heeded, request
from lightning_resnet.errors import UserError, printable
from lightning_resnet.reading import read_yaml

MOST_RANKS = 256  # on a node: more are surely a mistake
Launcher = Literal["auto", "slurm", "torchrun", "local"]
GRACE_S = 10.0  # for the other ranks to end by themselves once one has failed
SAVE_S = (
    320.0  # for the first, once others have stopped in order: it may still be uploading, or writing
)
LIFELINE = "LIGHTNING_RESNET_LIFELINE"  # read end of a pipe that the parent never writes to: it ends with the parent
MEETING = "LIGHTNING_RESNET_MEETING"  # in a rank that `supervise` started: folder where the ranks meet; empty: by TCP
RANKED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
STRAYS = (
    *RANKED,
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "JSM_NAMESPACE_RANK",
)  # libraries take each for a rank
COPIES = (
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "JSM_NAMESPACE_SIZE",
)  # set by mpirun and its kin


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
    step = (
        step and env["SLURM_STEP_ID"].isdigit() and int(env["SLURM_STEP_ID"]) < 0xFFFFFFF0
    )  # not the batch script
    torchrun = "TORCHELASTIC_RUN_ID" in env
    if launcher == "auto" and MEETING in env:
        return "local"
    if launcher == "auto" and torchrun:
        return "torchrun"
    if launcher == "auto":
        return "slurm" if step else "local"
    if launcher == "slurm" and not step:
        raise UserError(
            "--launcher slurm: this process was not started by srun; put srun before the command"
        )
    if launcher == "torchrun" and not torchrun:
        raise UserError(
            "--launcher torchrun: this process was not started by torchrun; use --launcher local"
        )
    return launcher


def place(launcher: Launcher, env: Mapping[str, str]) -> Place | None:
    """This process's place, from the launcher's variables; None: the parent of local ranks, still to be started.

    Raises:
        UserError: nodes with different numbers of tasks, or variables that make no sense.
    """
    if launcher == "slurm":
        return _slurm_place(env)
    if launcher == "local" and MEETING not in env:
        return None
    node = "GROUP_RANK" if launcher == "torchrun" else "NODE_RANK"
    local = _number(env, "LOCAL_WORLD_SIZE", launcher, 1)
    size = _number(env, "WORLD_SIZE", launcher, local)
    here = Place(
        _number(env, "LOCAL_RANK", launcher), local, _number(env, node, launcher), size // local
    )
    if size % local or here.local_rank >= local or here.node >= here.nodes:
        found = " ".join(
            f"{name}={env[name]}" for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", node)
        )
        raise UserError(f"{found} fit no rank: {_cure(launcher)}")
    return here


def _slurm_place(env: Mapping[str, str]) -> Place:
    tasks = _number(env, "SLURM_STEP_NUM_TASKS", "slurm", 1)
    nodes = _number(env, "SLURM_STEP_NUM_NODES", "slurm", 1)
    here = Place(
        _number(env, "SLURM_LOCALID", "slurm"),
        tasks // nodes,
        _number(env, "SLURM_NODEID", "slurm"),
        nodes,
    )
    if tasks % nodes or here.rank != _number(env, "SLURM_PROCID", "slurm"):
        raise UserError(
            f"srun runs {tasks} tasks unevenly on {nodes} nodes: give --ntasks-per-node, not --ntasks"
        )
    return here


def _number(env: Mapping[str, str], name: str, launcher: Launcher, least: int = 0) -> int:
    """The value of a launcher's variable.

    Raises:
        UserError: it is no number, too small or missing.
    """
    text = env.get(name)
    if text is None:
        raise UserError(
            f"{name} is not set, which belongs to {launcher}'s variables: {_cure(launcher)}"
        )
    if not text.isdecimal() or int(text) < least:
        raise UserError(
            f"{name} is {printable(text)!r}, not a whole number from {least} on: {_cure(launcher)}"
        )
    return int(text)


def _cure(launcher: Launcher) -> str:
    marks = {"slurm": "SLURM_STEP_ID", "torchrun": "TORCHELASTIC_RUN_ID", "local": MEETING}
    other = ", or add --launcher local" if launcher != "local" else ""
    return f"start it by {launcher}, or unset {marks[launcher]} where it was only left in the shell{other}"


def forget_strays(argv: list[str], env: MutableMapping[str, str]) -> bool:
    """Drop the rank's variables from a process that no launcher started: Lightning takes each alone for a rank.

    Returns:
        Whether no launcher started this process, or the command line says so.
    """
    alone = MEETING not in env and (_asked_for(argv) == "local" or resolve("auto", env) == "local")
    for name in STRAYS if alone else ():
        env.pop(name, None)
    return alone


def refuse_copies(argv: list[str], env: Mapping[str, str]) -> None:
    """Refuse to be one of several copies that mpirun or its kin started: each would train the whole run.

    Raises:
        UserError: this is one.
    """
    if _asked_for(argv) == "local":
        return
    for name in COPIES:
        if (size := env.get(name, "")).isdecimal() and int(size) > 1:
            raise UserError(
                f"{name}={size}: this is one of {size} copies, and each would train the whole run: start it once with "
                "--trainer.devices N, or by srun or torchrun; --launcher local means that each is a run of its own"
            )


def pairs(argv: list[str]) -> list[tuple[str, str]]:
    """Each flag of a command line with what follows it, also after `=`."""
    words = [w for a in argv for w in (a.split("=", 1) if a.startswith("--") else [a])]
    return list(zip(words, words[1:], strict=False))


def _asked_for(argv: list[str]) -> str:
    return next((b for a, b in reversed(pairs(argv)) if a == "--launcher"), "auto")


def waited_for(argv: list[str], env: Mapping[str, str]) -> bool:
    """Whether other ranks wait for this process, and there is no parent of ours to pass signals on to them.

    Raises:
        UserError: variables that make no sense.
    """
    if LIFELINE in env:
        return False
    asked = _asked_for(argv)
    here = place(resolve(asked if asked in get_args(Launcher) else "auto", env), env)
    return here is not None and here.local_size * here.nodes > 1


def meeting_point(launcher: Launcher, env: Mapping[str, str]) -> dict[str, str]:
    """Address and port of the first rank, as variables, where the launcher did not set them."""
    if launcher == "torchrun":
        _number(env, "MASTER_PORT", launcher, 1)
    if launcher != "slurm":
        return {}
    # several steps may share a node: a port of its own for each, below those that the system hands out
    job = _number(env, "SLURM_JOB_ID", "slurm")
    port = 20_000 + (job * 31 + _number(env, "SLURM_STEP_ID", "slurm")) % 12_000
    if "MASTER_ADDR" not in env and not env.get("SLURM_STEP_NODELIST"):
        raise UserError(
            f"SLURM_STEP_NODELIST is not set, which belongs to slurm's variables: {_cure('slurm')}"
        )
    if env.get("MASTER_PORT"):
        port = _number(env, "MASTER_PORT", "slurm", 1)
    address = env.get("MASTER_ADDR") or first_host(env["SLURM_STEP_NODELIST"])
    return {"MASTER_ADDR": address, "MASTER_PORT": str(port)}


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
    if (
        resolve("auto", os.environ) != "local"
        or MEETING in os.environ
        or any("--run.new" in a for a in argv)
    ):
        return None

    found: dict[str, Any] = {}
    for flag, value in pairs(argv):
        if flag in ("-c", "--config"):
            try:
                found |= read_yaml(Path(value))["trainer"]
            except (UserError, LookupError, TypeError, ValueError):
                continue
    given = {flag: value for flag, value in pairs(argv) if flag.startswith("--")}
    asked = [given.get(f"--trainer.{key}", found.get(key, "1")) for key in ("devices", "num_nodes")]
    if given.get("--launcher", "local") not in ("auto", "local") or not all(
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
    MASTER_PORT set. On one node the ranks meet in a folder that no other user can enter: no port is open.
    """
    if nodes > 1:
        _check_meeting(nodes)
    heard: list[int] = []
    former = {s: signal.signal(s, lambda signum, _: heard.append(signum)) for s in heeded()}
    request.joined = True  # a rank may be saving: the parent waits for it
    env = os.environ | {"LOCAL_WORLD_SIZE": str(size), "WORLD_SIZE": str(size * nodes)}
    folder = mkdtemp(prefix="resnet-ranks-") if nodes == 1 else ""
    env[MEETING] = folder
    if nodes == 1:
        env["NODE_RANK"] = "0"
        env.pop("MASTER_ADDR", None)
        env.pop("MASTER_PORT", None)
    lifeline, held = os.pipe()
    command = [
        sys.executable,
        "-P",
        "-m",
        "lightning_resnet",
        *argv,
    ]  # -P: not out of the working directory
    ranks: list[subprocess.Popen] = []
    try:
        blocked = signal.pthread_sigmask(
            signal.SIG_BLOCK, SIGNALS
        )  # a rank hears nothing until it listens
        try:
            for k in range(
                size
            ):  # sessions of their own: Ctrl-C in a terminal comes through us, once
                own = {"LOCAL_RANK": str(k), LIFELINE: str(lifeline)}
                ranks.append(
                    subprocess.Popen(
                        command, env=env | own, start_new_session=True, pass_fds=(lifeline,)
                    )
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return _wait(ranks, heard)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
                rank.wait()
        for s, handler in former.items():
            signal.signal(s, handler)
        os.close(lifeline)
        os.close(held)
        shutil.rmtree(folder, ignore_errors=True)


def _check_meeting(nodes: int) -> None:
    """Of the parents on several nodes.

    Raises:
        UserError: this one cannot find the first.
    """
    env = os.environ
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    cure = "start this command once on each node with NODE_RANK, MASTER_ADDR and MASTER_PORT set, or by srun"
    if missing:
        raise UserError(f"--trainer.num_nodes {nodes}, but {missing[0]} is not set: {cure}")
    for name, last in (("NODE_RANK", nodes - 1), ("MASTER_PORT", 65535)):
        if not env[name].isdecimal() or int(env[name]) > last:
            raise UserError(
                f"{name} is {printable(env[name])!r}, not a number from 0 to {last}: {cure}"
            )


def says_first(line: str, env: Mapping[str, str]) -> bool:
    """Tell whether no other rank of ours has said this line: all refuse a wrong option in the same words.

    Args:
        line: of an error.
        env: of the process.
    """
    if not env.get(MEETING):
        return True
    name = hashlib.blake2b(line.encode(), digest_size=8).hexdigest()
    try:
        Path(env[MEETING], f"said-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # the folder is gone: said twice is better than never
        return True
    return True


def end_with_parent() -> None:
    """In a rank that `supervise` started: end at once when the parent has gone, however it went."""
    if LIFELINE not in os.environ:
        return
    threading.Thread(
        target=_end_with_parent, args=(int(os.environ[LIFELINE]),), daemon=True
    ).start()


def _end_with_parent(pipe: int) -> None:
    os.read(pipe, 1)
    if folder := os.environ.get(MEETING):
        shutil.rmtree(folder, ignore_errors=True)  # the parent could not
    os._exit(1)


def _wait(ranks: list[subprocess.Popen], heard: list[int]) -> int:
    """Until all have ended; the first exit status that is not 0 counts, and its rank's fellows hear of it.

    Args:
        ranks: that were started, the first first.
        heard: signals that this process has got, filled by its handler.
    """
    rank = 0
    status = 0
    deadlines: list[float] = []
    passed_on = 0
    while None in (codes := [process.poll() for process in ranks]):
        while passed_on < len(heard):
            _pass_on(ranks, heard[passed_on])
            passed_on += 1
        if not deadlines and any(codes):
            rank, status = next((k, code) for k, code in enumerate(codes) if code)
            stopped = status in STATUSES.values() or -status in SIGNALS
            if stopped and not heard:  # a signal to one rank alone
                _pass_on(ranks, signal.SIGTERM)
            now = time.monotonic()
            deadlines = [
                now + (SAVE_S if stopped and k == 0 else GRACE_S) for k in range(len(ranks))
            ]
        for process, deadline in zip(ranks, deadlines, strict=False):
            if process.poll() is None and time.monotonic() > deadline:
                process.kill()
        time.sleep(0.05)
    if not status:
        rank, status = next(((k, code) for k, code in enumerate(codes) if code), (0, 0))
    return _exit_status(rank, status)


def _exit_status(rank: int, status: int) -> int:
    """As a shell gives it; a rank that a signal killed is told, as it could not tell itself."""
    if status >= 0:
        return status
    if -status in SIGNALS:
        return STATUSES[signal.Signals(-status)]
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    why = ", as the system does for want of memory" if -status == signal.SIGKILL else ""
    again = (
        "the same command continues from the last checkpoint, or begins anew where there is none"
    )
    print(f"error: rank {rank} was killed by {name}{why}; {again}", file=sys.stderr, flush=True)
    return 128 - status


def _pass_on(ranks: list[subprocess.Popen], signum: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(signum)


def free_port() -> int:
    """A TCP port of this machine that nobody uses now."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
