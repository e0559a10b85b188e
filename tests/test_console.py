"""A command survives, or tells, a closed pipe, a full disk, a limit of the shell, and a signal at
any time.
"""

import errno
import io
import os
import resource
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from helpers import ranks
from helpers.command_line import TINY
from helpers.run_dir import only_run

from lightning_resnet import console
from lightning_resnet.cli import main as command_line
from lightning_resnet.console import guarded, now, tell_of_torch, torch_begins
from lightning_resnet.engine import signals as preemption
from lightning_resnet.engine.launch import MEETING
from lightning_resnet.engine.signals import Stopped, armed, request
from lightning_resnet.files import write_atomic
from lightning_resnet.runs.reader import Run
from lightning_resnet.training.task import ClassificationTask
from lightning_resnet.ulimits import limit_met

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="Linux has a device that is always full")


def start(arguments, out):
    context = get_context("forkserver")
    context.set_forkserver_preload(["lightning_resnet.cli.fit"])
    process = context.Process(target=ranks.started, args=(arguments, str(out)))
    process.start()
    return process


def end_of(process):
    process.join(100)
    assert process.exitcode is not None
    return process.exitcode, Path("err.txt").read_text()


def test_the_first_line_comes_before_torch_is_imported(here):
    command = [sys.executable, "-m", "lightning_resnet", "fit", *TINY]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        first = process.stderr.readline()
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        process.kill()
        assert (
            first == b"reading the recipe, importing torch ...\n" and process.stdout.read() == b""
        )
    assert "libtorch" not in maps


def test_the_parent_of_ranks_says_the_first_line_for_them(monkeypatch, capsys):
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    tell_of_torch(["fit"], {})
    torch_begins()
    torch_begins()
    assert capsys.readouterr() == ("", "reading the recipe, importing torch ...\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_what_is_imported_until_something_is_printed(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(console, "MOVES_S", 0.01)
    with guarded():
        tell_of_torch(["fit"], {})
        hook = sys.meta_path[0]
        for name in ("torch", "torchvision.ops"):
            assert hook.find_spec(name) is None
            while f"importing {name.partition('.')[0]}, 0 s" not in terminal.getvalue():
                time.sleep(0.01)
        now("preparing")
        while "preparing, 0 s" not in terminal.getvalue():
            time.sleep(0.01)
        print("error: x", file=sys.stderr)
        assert hook not in sys.meta_path
        time.sleep(0.05)
        print("end", file=sys.stderr)
    assert terminal.getvalue().startswith("reading the recipe, importing torch ...\n\r\x1b[K")
    assert terminal.getvalue().endswith("\r\x1b[Kerror: x\nend\n")


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (["fit", "-q"], {}),
        (["fit"], {"RANK": "1"}),
        (["fit"], {"SLURM_PROCID": "3"}),
        (["fit"], {MEETING: "/tmp/x", "LOCAL_RANK": "0"}),
    ],
)
def test_no_first_line_of_a_quiet_verb_or_of_another_rank(argv, env):
    before = list(sys.meta_path)
    tell_of_torch(argv, env)
    assert sys.meta_path == before


@needs_full
def test_a_training_goes_on_without_its_stdout(here):
    code, err = end_of(start(["fit", *TINY, "--trainer.max_epochs", "1"], FULL))
    assert (
        err == "warning: stdout cannot be written (No space left on device): the work goes on "
        "without it\n"
    )
    assert code == 0 and Run(only_run()).status() == "finished"


@pytest.mark.parametrize("lines", [0, 4])
def test_a_training_goes_on_when_the_reader_of_its_stdout_leaves(here, lines):
    os.mkfifo("pipe")
    process = start(["fit", *TINY, "--trainer.max_epochs", "1"], "pipe")
    with open("pipe") as reader:
        for _ in range(lines):
            reader.readline()
    code, err = end_of(process)
    assert err == "warning: stdout cannot be written (Broken pipe): the work goes on without it\n"
    assert code == 0 and Run(only_run()).status() == "finished"


def test_a_verb_whose_result_is_not_read_ends_quietly(here):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lightning_resnet", "fit", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=100)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@needs_full
@pytest.mark.parametrize("arguments", [[], ["--help"], ["data", "--help"], ["compare", "--help"]])
def test_a_result_that_cannot_be_printed_is_told(here, monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "stdout", FULL.open("w"))
    assert command_line.main(arguments) == 2
    assert capsys.readouterr().err == "error: stdout cannot be written: No space left on device\n"
    sys.stdout.close()  # nothing is left in it to fail again


def test_streams_that_are_closed_at_the_start_swallow_no_file(here):
    code = (
        "import sys; from lightning_resnet.cli.main import main; sys.argv = ['resnet-cli', "
        "'--help']; sys.exit(main())"
    )
    shell = f'{sys.executable} -c "{code}" >&-'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (
        2,
        "error: stdout cannot be written: Bad file descriptor\n",
    )


# -- limits of the shell ---------------------------------------------------------------------------

MAP = ImportError("libtorch_cuda.so: failed to map segment from shared object")


@pytest.mark.parametrize(
    ("error", "limited", "told"),
    [
        (MAP, "RLIMIT_AS", "limit of address space (ulimit -v 3)"),
        (MemoryError(), "RLIMIT_DATA", "limit of memory (ulimit -d 3)"),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "RLIMIT_NOFILE",
            "limit of open files (ulimit -n 3072)",
        ),
        (
            RuntimeError("can't start new thread"),
            "RLIMIT_NPROC",
            "limit of processes and threads (ulimit -u 3072)",
        ),
        (
            OSError(errno.EFBIG, "File too large", "last.ckpt"),
            "RLIMIT_FSIZE",
            "limit of file size (ulimit -f 3)",
        ),
        (MAP, None, None),
        (ImportError("no module"), "RLIMIT_AS", None),
        (RuntimeError("shapes"), "RLIMIT_AS", None),
    ],
)
def test_the_limit_that_an_error_comes_from_is_named(monkeypatch, error, limited, told):
    free = resource.RLIM_INFINITY
    limits = {getattr(resource, limited): 3072} if limited else {}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits.get(which, free), free))
    found = limit_met(error)
    assert told in found if told else found is None


def test_a_limit_that_the_imports_meet_is_one_line(cli, monkeypatch):
    def import_module(name):
        raise MAP

    monkeypatch.setattr(command_line, "import_module", import_module)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (3072, 3072))
    code, _, err = cli("fit", *TINY)
    assert code == 2 and err.startswith(
        "error: this shell's limit of address space (ulimit -v 3) is too low"
    )
    assert len(err.splitlines()) == 1


# -- signals ---------------------------------------------------------------------------------------


def test_two_sigints_in_the_first_imports_leave_no_traceback():
    code = """
import os, signal, sys
from lightning_resnet.cli import main as cli
sys.argv = ["resnet-cli", "fit"]
def import_slowly(argv):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
cli.shielded = import_slowly
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (130, "interrupted; the same command continues\n")


@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_saves_and_ends_a_training_unless_nohup_started_it(
    cli, monkeypatch, nohup
):
    original = ClassificationTask.training_step

    def step(self, batch, batch_idx):
        if self.global_step == 3:
            os.kill(os.getpid(), signal.SIGHUP)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", step)
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    try:
        code, _, err = cli("fit", *TINY, "--trainer.max_epochs", "1")
    finally:
        signal.signal(signal.SIGHUP, former)
    attempt = Run(only_run()).last_attempt()
    if nohup:
        assert code == 0 and attempt["reason"] == "finished"
        return
    assert code == 129 and "stopped by SIGHUP, saved; the same command continues" in err
    assert (attempt["reason"], attempt["signal"], attempt["last_step"]) == (
        "preempted",
        "SIGHUP",
        4,
    )


def test_a_signal_in_a_finalizer_is_not_lost():
    class Closes:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)  # the handler runs here

    with pytest.raises(Stopped), armed():
        closes = Closes()
        del closes
        time.sleep(60)


def test_sigint_twice_at_once_is_one_wish_to_stop(monkeypatch):
    with armed(deferred=True):
        request.joined = True
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)  # the second would end this process
        assert request.signum == signal.SIGINT


def test_a_rank_that_others_wait_for_takes_a_signal_along(monkeypatch):
    with armed(deferred=True), preemption.importing():
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.signum == signal.SIGTERM and request.patience_s == preemption.JOIN_S


def test_what_is_recorded_of_an_attempt_is_written_whatever_signal_comes_at_its_end(
    cli, monkeypatch
):
    from lightning_resnet.runs.directory import RunDir

    original = RunDir.end

    def end(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args, **kwargs)

    monkeypatch.setattr(RunDir, "end", end)
    assert cli("fit", *TINY, "--trainer.max_epochs", "1")[0] == 0
    assert Run(only_run()).status() == "finished"


@pytest.mark.parametrize("out", ["pipe", ".", ""])
def test_no_output_takes_the_place_of_a_device_or_a_pipe(cli, out):
    """One of them is /dev/null, which every program of the machine needs, and which root could
    replace.
    """
    os.mkfifo("pipe")
    code, _, err = cli("data", "write", "digits", "--out", out)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert sorted(os.listdir()) == ["pipe"] and not Path("pipe").is_file()
    with pytest.raises(OSError):
        write_atomic(Path("pipe"), "x")
    assert sorted(os.listdir()) == ["pipe"]
