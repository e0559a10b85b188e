"""Find out which rank this process is, or start the ranks of this node.

Ranks are started by srun, by torchrun, or by this module: one process per device of this machine.
The address and the port at which the ranks of a Slurm step meet are chosen here too; what happens
there is in rendezvous.py.

Launcher `local` has a parent process that does not train. The parent starts the ranks, passes each
signal on to each rank once, and ends the other ranks when one fails, so that none waits for a rank
that is gone. Ranks also end when their parent is gone.

Variables of launchers count in complete sets only: those of srun in a job step, those of torchrun
together with TORCHELASTIC_RUN_ID, and NODE_RANK, MASTER_ADDR and MASTER_PORT together with
`--trainer.num_nodes`. Other variables that were left in a shell have no effect.
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
from tempfile import gettempdir, mkdtemp
from typing import Any, Literal, NamedTuple, get_args

from lightning_resnet.bounds import MOST_RANKS, names_gpus
from lightning_resnet.console import SUPERVISED, torch_begins
from lightning_resnet.engine.signals import SIGNALS, STATUSES, heeded, request
from lightning_resnet.errors import UserError, printable
from lightning_resnet.machine import missing_accelerator
from lightning_resnet.reading import read_yaml
from lightning_resnet.shipped import recipe_file

Launcher = Literal["auto", "slurm", "torchrun", "local"]
GRACE_S = 10.0  # seconds that the other ranks have to end by themselves once one has failed
# Seconds that the first rank, or a run of a sweep, has to end once it was asked to, or once others
# have stopped in order: it may still write or upload.
SAVE_S = 320.0
# Variable with the read end of a pipe that the parent never writes to; the pipe closes when the
# parent ends.
LIFELINE = "LIGHTNING_RESNET_LIFELINE"
# Variable that `supervise` sets in the ranks: folder where the ranks meet; empty: they meet by TCP.
MEETING = SUPERVISED
RANKED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
# Variables from each of which libraries conclude that the process is a rank.
STRAYS = (*RANKED, "SLURM_PROCID", "SLURM_LOCALID", "JSM_NAMESPACE_RANK")
# Variables with the world size, which mpirun and similar launchers set.
COPIES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE")


class Place(NamedTuple):
    """Position of this process among all ranks.

    Attributes:
        local_rank: number of this rank on its node.
        local_size: number of ranks per node.
        node: number of this node.
        nodes: number of nodes.
    """

    local_rank: int
    local_size: int
    node: int
    nodes: int

    @property
    def rank(self) -> int:
        """Global rank of this process."""
        return self.node * self.local_size + self.local_rank


def resolve(launcher: Launcher, env: Mapping[str, str]) -> Launcher:
    """Return the launcher that started this process; local: `supervise`, or none.

    Args:
        launcher: launcher that the user asked for; auto: find out.
        env: environment of the process.

    Raises:
        UserError: the launcher that was asked for did not start this process.
    """
    step = "SLURM_STEP_ID" in env and "SLURM_PROCID" in env and "SLURM_STEP_NUM_TASKS" in env
    # A batch script is a step, too; its number is one of the highest.
    step = step and env["SLURM_STEP_ID"].isdigit() and int(env["SLURM_STEP_ID"]) < 0xFFFFFFF0
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
    """Read this process's position among the ranks from the launcher's variables.

    Returns:
        The position; None if this process is to start local ranks itself.

    Raises:
        UserError: the nodes have different numbers of tasks, or the variables contradict each
            other.
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
    """Read this process's position from the variables of a Slurm job step.

    Raises:
        UserError: the nodes have different numbers of tasks, or a variable is missing.
    """
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
            f"srun runs {tasks} tasks unevenly on {nodes} nodes: give --ntasks-per-node, not "
            "--ntasks"
        )
    return here


def _number(env: Mapping[str, str], name: str, launcher: Launcher, least: int = 0) -> int:
    """Return the value of a launcher's variable.

    Args:
        env: environment of the process.
        name: name of the variable.
        launcher: launcher that sets the variable, for the message.
        least: smallest value that makes sense.

    Raises:
        UserError: the variable is missing, not a number, or less than `least`.
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
    """Tell what to do about variables of a launcher that make no sense."""
    marks = {"slurm": "SLURM_STEP_ID", "torchrun": "TORCHELASTIC_RUN_ID", "local": MEETING}
    other = ", or add --launcher local" if launcher != "local" else ""
    return (
        f"start it by {launcher}, or unset {marks[launcher]} where it was only left in the shell"
        f"{other}"
    )


def idle_tasks(env: Mapping[str, str]) -> str:
    """Return a warning if this is one process in a job for several, such as a script without srun.

    Args:
        env: environment of a training that is one process, which no launcher has started.
    """
    tasks = env.get("SLURM_NTASKS", "")
    if "SLURM_JOB_ID" not in env or not tasks.isdecimal() or int(tasks) < 2:
        return ""
    return (
        f"warning: this job has {tasks} tasks, and one process trains: put srun before resnet-cli, "
        "or submit slurm/fit.sbatch, which does"
    )


def forget_strays(argv: list[str], env: MutableMapping[str, str]) -> bool:
    """Remove the variables of ranks from the environment of a process that no launcher started.

    Lightning takes a process for a rank if one of these variables is set.

    Returns:
        Whether no launcher started this process, or the command line says so.
    """
    alone = MEETING not in env and (_asked_for(argv) == "local" or resolve("auto", env) == "local")
    for name in STRAYS if alone else ():
        env.pop(name, None)
    return alone


def refuse_copies(argv: list[str], env: Mapping[str, str]) -> None:
    """Refuse to run as one of several copies, each of which would train the same run.

    Such copies are started by mpirun and similar launchers, which this package does not support.

    Raises:
        UserError: this process is such a copy, and the command line lacks `--launcher local`.
    """
    if _asked_for(argv) == "local":
        return
    for name in COPIES:
        if (size := env.get(name, "")).isdecimal() and int(size) > 1:
            raise UserError(
                f"{name}={size}: this is one of {size} copies, and each would train all of the "
                "run: start it once with --trainer.devices N, or by srun or torchrun; --launcher "
                "local means that each is a run of its own"
            )


def pairs(argv: list[str]) -> list[tuple[str, str]]:
    """Return each word of a command line with its next word; `--flag=value` counts as two words."""
    words = [w for a in argv for w in (a.split("=", 1) if a.startswith("--") else [a])]
    return list(zip(words, words[1:], strict=False))


def _asked_for(argv: list[str]) -> str:
    """Return the value of the last `--launcher` of a command line, else auto."""
    return next((b for a, b in reversed(pairs(argv)) if a == "--launcher"), "auto")


def waited_for(argv: list[str], env: Mapping[str, str]) -> bool:
    """Tell whether other ranks wait for this process, and `supervise` did not start them.

    Such ranks have no parent of this package that passes signals on to all of them.

    Raises:
        UserError: the launcher's variables contradict each other.
    """
    if LIFELINE in env:
        return False
    asked = _asked_for(argv)
    here = place(resolve(asked if asked in get_args(Launcher) else "auto", env), env)
    return here is not None and here.local_size * here.nodes > 1


def master_address(launcher: Launcher, env: Mapping[str, str]) -> dict[str, str]:
    """Return MASTER_ADDR and MASTER_PORT, the address of the first rank, in a Slurm job step.

    Returns:
        The two variables; empty for other launchers, which set the variables themselves.

    Raises:
        UserError: a variable of the launcher is missing or makes no sense.
    """
    if launcher == "torchrun":
        _number(env, "MASTER_PORT", launcher, 1)
    if launcher != "slurm":
        return {}
    # Several steps can share a node, so each gets a port of its own, below the ports that the
    # system assigns.
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
    """Return the first host of a Slurm node list: `gpu[07-09,12],login` -> `gpu07`."""
    prefix, bracket, rest = re.match(r"([^\[,]*)(\[?)(.*)", nodes).groups()
    if not bracket:
        return prefix
    inside, _, suffix = rest.partition("]")
    return prefix + re.split("[-,]", inside)[0] + suffix.partition(",")[0]


def refuse_missing_accelerator(argv: list[str]) -> None:
    """Refuse an accelerator that this machine lacks, before slow imports and before ranks start.

    Raises:
        UserError: the command line or a recipe names the accelerator, or one of several GPUs.
    """
    trainer = _trainer_options(argv)
    name = trainer.get("accelerator", "auto")
    if isinstance(name, str) and (problem := missing_accelerator(name)):
        raise UserError(f"--trainer.accelerator {name}: {problem}")
    if name == "cpu" or (name == "auto" and missing_accelerator("gpu")):
        refuse_gpus(trainer.get("devices"), resolve("auto", os.environ) != "local")


def refuse_gpus(devices: Any, is_placed: bool) -> None:
    """Refuse a choice of GPUs for a training on the CPU.

    Lightning's own message has no option in it.

    Args:
        devices: value of the trainer's option; None: it is not given.
        is_placed: whether a launcher has told how many ranks there are; then -1 stands for these.

    Raises:
        UserError: the devices are a list, or all GPUs.
    """
    is_all = str(devices) == "-1" and not is_placed
    if names_gpus(devices) or is_all:
        raise UserError(
            f"--trainer.devices {devices} tells which GPUs to use, and this training runs on the "
            "CPU: give a number of processes, such as 1, or leave it out"
        )


def _trainer_options(argv: list[str]) -> dict[str, Any]:
    """Return the trainer's plain options of the recipes and the command line, without parsing."""
    found: dict[str, Any] = {}
    for flag, value in pairs(argv):
        if flag in ("-c", "--config"):
            try:
                found |= read_yaml(recipe_file(value))["trainer"]
            except (UserError, LookupError, TypeError, ValueError):
                continue
    prefix = "--trainer."
    return found | {
        flag.removeprefix(prefix): value for flag, value in pairs(argv) if flag.startswith(prefix)
    }


def plainly_asked(argv: list[str]) -> tuple[int, int] | None:
    """Read the number of ranks from the command line or its recipes, before slow imports.

    Returns:
        (ranks per node, nodes) if plain numbers ask for more than one rank; None if there is one
        rank, a launcher started this process, or only the parsed configuration can tell.
    """
    if (
        resolve("auto", os.environ) != "local"
        or MEETING in os.environ
        or any("--run.new" in a for a in argv)
    ):
        return None

    trainer = _trainer_options(argv)
    asked = [trainer.get(key, "1") for key in ("devices", "num_nodes")]
    if _asked_for(argv) not in ("auto", "local") or not all(
        re.fullmatch(r"\d{1,4}", str(x)) for x in asked
    ):
        return None
    size, nodes = map(int, asked)
    if size > MOST_RANKS:  # the parser of the configuration reports this error
        return None
    return (size, nodes) if size * nodes > 1 else None


def supervise(argv: list[str], size: int, nodes: int = 1) -> int:
    """Run `resnet-cli ARGV` in `size` processes, the ranks of this node; return the exit status.

    On several nodes without Slurm the user starts one such parent per node, with NODE_RANK,
    MASTER_ADDR and MASTER_PORT set. On one node the ranks meet in a folder that other users cannot
    enter, so no port is open for the rendezvous.

    Args:
        argv: arguments of the command line, the verb first.
        size: number of ranks on this node.
        nodes: number of nodes.

    Raises:
        UserError: on several nodes, a variable is missing or makes no sense.
    """
    if nodes > 1:
        _check_meeting(nodes)
    torch_begins()
    heard: list[int] = []
    former = {s: signal.signal(s, lambda signum, _: heard.append(signum)) for s in heeded()}
    request.joined = True  # the parent waits for its ranks, which may be saving
    env = os.environ | {"LOCAL_WORLD_SIZE": str(size), "WORLD_SIZE": str(size * nodes)}
    folder = mkdtemp(prefix="resnet-ranks-") if nodes == 1 else ""
    env[MEETING] = folder
    if nodes == 1:
        env["NODE_RANK"] = "0"
        env.pop("MASTER_ADDR", None)
        env.pop("MASTER_PORT", None)
    lifeline, held = os.pipe()
    # Option -P keeps Python from importing modules of the working directory.
    command = [sys.executable, "-P", "-m", "lightning_resnet", *argv]
    ranks: list[subprocess.Popen] = []
    try:
        # The ranks inherit the blocked signals, and unblock them once their handlers are set.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            # Each rank has a session of its own, so that a Ctrl-C in the terminal reaches only this
            # process, which passes it on once.
            for k in range(size):
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
    """Check the variables by which the parents on several nodes find the first node.

    Raises:
        UserError: a variable is missing, not a number or too large.
    """
    env = os.environ
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    cure = (
        "start this command once on each node with NODE_RANK, MASTER_ADDR and MASTER_PORT set, or "
        "by srun"
    )
    if missing:
        raise UserError(f"--trainer.num_nodes {nodes}, but {missing[0]} is not set: {cure}")
    for name, last in (("NODE_RANK", nodes - 1), ("MASTER_PORT", 65535)):
        if not env[name].isdecimal() or int(env[name]) > last:
            raise UserError(
                f"{name} is {printable(env[name])!r}, not a number from 0 to {last}: {cure}"
            )


def says_first(line: str, env: Mapping[str, str]) -> bool:
    """Tell whether this process is the first of its ranks to print this line.

    All ranks refuse a wrong option with the same message, which is to be printed once.

    Args:
        line: line of an error message.
        env: environment of the process.

    Returns:
        Whether no other rank on this node has printed the line, of those that `supervise` or srun
        started; always true in other processes.
    """
    name = hashlib.blake2b(line.encode(), digest_size=8).hexdigest()
    if env.get(MEETING):
        file = Path(env[MEETING], f"said-{name}")
    elif resolve("auto", env) == "slurm" and env["SLURM_STEP_NUM_TASKS"] != "1":
        # The empty file stays in the node's folder for temporary files, because no rank knows when
        # the others have ended.
        step = f"{env.get('SLURM_JOB_ID')}-{env['SLURM_STEP_ID']}-{_step_daemon()}-{name}"
        file = Path(gettempdir(), f"resnet-said-{os.getuid()}-{step}".replace("/", "_"))
    else:
        return True
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # without the folder, better print the line twice than never
        return True
    return True


def end_with_parent() -> None:
    """End this rank at once, in a thread, when the parent that started it is gone."""
    if LIFELINE not in os.environ:
        return
    threading.Thread(
        target=_end_with_parent, args=(int(os.environ[LIFELINE]),), daemon=True
    ).start()


def _end_with_parent(pipe: int) -> None:
    """Wait for the end of the parent, remove the meeting folder, and end this process."""
    os.read(pipe, 1)
    if folder := os.environ.get(MEETING):
        shutil.rmtree(folder, ignore_errors=True)  # the parent may have been killed before it could
    os._exit(1)


def _wait(ranks: list[subprocess.Popen], heard: list[int]) -> int:
    """Wait until all ranks have ended, and return the exit status of the first that failed, else 0.

    Once a rank has failed, the others are killed after GRACE_S seconds. If a signal stopped the
    rank and this process got no signal, the others get SIGTERM, and the first rank has SAVE_S
    seconds to save.

    Args:
        ranks: processes of the ranks, in the order of their local ranks.
        heard: signals that this process has received; its handler appends to the list.
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
            if stopped and not heard:  # a signal was sent to one rank alone
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
    """Return the exit status as a shell would, and report a rank that a signal killed.

    Args:
        rank: local rank of the process.
        status: return code of `subprocess`: negative for a signal.
    """
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
        "the same command continues from the last checkpoint, or starts over where there is none"
    )
    print(f"error: rank {rank} was killed by {name}{why}; {again}", file=sys.stderr, flush=True)
    return 128 - status


def _pass_on(ranks: list[subprocess.Popen], signum: int) -> None:
    """Send a signal to all ranks that still run."""
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(signum)


def free_port() -> int:
    """Return a TCP port of this machine that is not in use now."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _step_daemon() -> int:
    """Return the number of the process that has started all tasks of this step on this node.

    A shell may stand between, as that of slurm/sweep.sbatch does; without Slurm's process it is
    this process's parent.
    """
    pid = os.getppid()
    while pid > 1:
        name, parent = _name_and_parent(pid)
        if name == "slurmstepd":
            return pid
        pid = parent
    return os.getppid()


def _name_and_parent(pid: int) -> tuple[str, int]:
    """Return the name of a process and the number of its parent; 0 where that cannot be read."""
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return "", 0
    return before.partition("(")[2], int(after.split()[1])
