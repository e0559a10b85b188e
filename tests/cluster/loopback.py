"""A real Slurm on loopback: slurmctld and two slurmd from Debian's packages, unpacked and never
installed.

Everything lies in one folder and is stopped by the pids that the daemons wrote. Nodes are named
127.0.0.1 and 127.0.0.2, so that the first one's name is an address where ranks can meet.
"""

import fcntl
import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins")
NODES = 2
RENAMED = ["unshare", "--uts", "sh", "-c", 'hostname localhost && exec "$@"', "sh"]
TEMPLATE = Path(__file__).with_name("slurm.conf")


class NoSlurm(Exception):
    """It cannot be had here; the message says why."""


def unpack(folder):
    """Download and unpack the packages once, also when two test processes ask for them."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _unpack(folder)


def _unpack(folder):
    if (folder / "complete").exists():
        return
    if not shutil.which("apt-get"):
        raise NoSlurm("Slurm's packages come from Debian, and there is no apt-get here")
    debs = folder / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "download", "-q", *PACKAGES]
    done = _run(download, cwd=debs)
    if done.returncode and os.getuid() == 0:  # lists may be missing in a fresh container
        _run(["apt-get", "update", "-qq"])
        done = _run(download, cwd=debs)
    if done.returncode:
        raise NoSlurm(
            "Slurm's packages cannot be downloaded: "
            f"{(done.stderr.strip().splitlines() or ['?'])[-1]}"
        )
    for deb in debs.glob("*.deb"):
        subprocess.run(["dpkg", "-x", deb, folder], check=True, timeout=60)
    for name in ("slurmctld", "slurmd", "slurmstepd"):  # an installation makes these links
        (folder / f"usr/sbin/{name}").symlink_to(f"{name}-wlm")
    (folder / "complete").touch()


class Cluster:
    """Up after `start`, gone after `stop`; commands see it through `env`.

    Args:
        packages: folder where they are unpacked.
        root: a short path: unix sockets' end at 107 bytes.
    """

    def __init__(self, packages, root):
        self.packages, self.root = packages, root
        self.plugins = packages / "usr/lib/x86_64-linux-gnu/slurm-wlm"
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "WANDB"))
        }
        path = f"{packages}/usr/bin:{packages}/usr/sbin:{os.environ['PATH']}:/usr/sbin:/sbin"
        self.env = clean | {
            "SLURM_CONF": f"{root}/slurm.conf",
            "LD_LIBRARY_PATH": str(self.plugins),
            "PATH": path,
        }

    def start(self):
        host, port = _host_name(), _free_ports(NODES + 1)
        facts = {
            "plugins": self.plugins,
            "host": host,
            "user": getpass.getuser(),
            "root": self.root,
            "nodes": NODES,
        }
        facts |= {"port": port, "first": port + 1, "last": port + NODES}
        (self.root / "state").mkdir(parents=True)
        (self.root / "slurm.conf").write_text(TEMPLATE.read_text().format(words="words", **facts))
        self.prefix = RENAMED if host == "localhost" else []
        self._daemon(["slurmctld", "-c"])
        for node in self.nodes:
            self.start_node(node)
        self.until(lambda: self.run("sinfo -h -N -p low -o %T").split() == ["idle"] * NODES, 120)

    @property
    def nodes(self):
        return [f"127.0.0.{i}" for i in range(1, NODES + 1)]

    def start_node(self, node):
        (self.root / "spool" / node).mkdir(parents=True, exist_ok=True)
        self._daemon(["slurmd", "-d", self.packages / "usr/sbin/slurmstepd", "-c", "-N", node])

    def _daemon(self, command):
        done = _run([*self.prefix, *command], env=self.env, cwd=self.root, timeout=120)
        if done.returncode:
            raise NoSlurm(
                f"{command[0]} does not start: {done.stderr.strip() or done.stdout.strip()}"
            )

    def run(self, command, timeout=120, **kwargs):
        """Standard output of a shell command, which must succeed."""
        done = _run(["bash", "-c", command], env=self.env, timeout=timeout, **kwargs)
        assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def state(self, job):
        """`RUNNING`, `COMPLETED`, ..."""
        return self.show(job)["JobState"]

    def show(self, job):
        words = self.run(f"scontrol show job {job}").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job, *states, timeout=400):
        """Wait until the job is in one of these states, and return the state."""
        return self.until(
            lambda: (state := self.state(job)) in states and state, timeout, lambda: self.state(job)
        )

    def until(self, condition, timeout=240, told=str):
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < deadline, f"not within {timeout} s: {told()}"
            time.sleep(0.2)
        return value

    def clear(self):
        """Cancel all jobs; until none is left."""
        _run(["bash", "-c", "squeue -h -o %A | sort -u | xargs -r scancel"], env=self.env)
        self.until(lambda: not self.run("squeue -h"), 60)

    def stop(self):
        """End the daemons by their pids, and what is left of this cluster's jobs."""
        pids = [
            int(file.read_text()) for file in self.root.glob("*.pid") if file.read_text().strip()
        ]
        if pids:
            try:
                self.clear()
            except AssertionError:
                pass  # the daemons may be what is broken
        ours = [
            pid for pid in pids if _read(pid, "comm").startswith(b"slurm")
        ]  # a pid may be another's by now
        for signum in (15, 9):
            for pid in [*ours, *self._left()]:
                if _alive(pid):
                    os.kill(pid, signum)
            deadline = time.monotonic() + 10
            while any(map(_alive, ours)) and time.monotonic() < deadline:
                time.sleep(0.1)
        shutil.rmtree(self.root, ignore_errors=True)

    def _left(self):
        """Job steps and their processes: their environment names our configuration."""
        mark, pids = (
            f"SLURM_CONF={self.root}/slurm.conf".encode(),
            [p for p in os.listdir("/proc") if p.isdigit()],
        )
        environments = {int(pid): _read(pid, "environ").split(b"\0") for pid in pids}
        return [
            pid
            for pid, env in environments.items()
            if mark in env and any(e[:13] == b"SLURM_JOB_ID=" for e in env)
        ]


def _run(command, timeout=120, **kwargs):
    kwargs = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL} | kwargs
    return subprocess.run(list(map(str, command)), timeout=timeout, **kwargs)


def _free_ports(count):
    """The first of so many neighbours."""
    for first in range(21_000 + os.getpid() % 4_000, 32_000, count):
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
            return first
        except OSError:
            continue
    raise NoSlurm("no free ports")


def _host_name():
    """The daemons listen where this machine's name points to; elsewhere root may give them another
    name.
    """
    host = socket.gethostname().partition(".")[0]
    try:
        loopback = socket.gethostbyname(host).startswith("127.")
    except OSError:
        loopback = False
    if loopback:
        return host
    if os.getuid() == 0 and _run([*RENAMED, "true"]).returncode == 0:
        return "localhost"
    raise NoSlurm(f"Slurm would not stay on loopback: add `127.0.0.1 {host}` to /etc/hosts")


def _read(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _alive(pid):
    return (stat := _read(pid, "stat").rpartition(b") ")[2]) != b"" and stat[:1] not in b"ZX"
