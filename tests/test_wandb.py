"""W&B mirrors a run, through the real client; its server is a stand-in on loopback, and never costs
a run anything.
"""

import errno
import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers.command_line import REPOSITORY, TINY, verb
from helpers.waiting import wait_for
from helpers.wandb_runs import (
    BIN,
    CONFIG,
    KEY,
    META,
    end_attempt,
    leet,
    mirror,
    new_run,
    row,
    write,
)

from lightning_resnet.analysis import load_runs
from lightning_resnet.cli import sync as command
from lightning_resnet.errors import UserError
from lightning_resnet.machine import is_installed
from lightning_resnet.reading import read_json
from lightning_resnet.tracking import mirror as mirrors
from lightning_resnet.tracking import mode as wandb_mode
from lightning_resnet.tracking import upload as uploads
from lightning_resnet.tracking.mirror import Mirror, WandbOptions, rows_until
from lightning_resnet.tracking.upload import Uploader
from lightning_resnet.tracking.wandb_rows import need_wandb

main = verb(command)
pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def run():
    return new_run("abcdef0123")


def test_an_offline_run_tells_what_it_was_and_nothing_private(run, monkeypatch, capfd):
    monkeypatch.setenv("SLURM_JOB_ACCOUNT", "astrophysics")
    said = []
    rows = [row(11), row(22, val_loss=0.4, val_acc1=0.9), row(33, val_loss=None, val_acc1=0.8)]
    mirror(run, rows, "finished", said, mode="offline")
    assert said == [f"W&B: offline; to upload it: resnet-cli sync {run}"]
    assert capfd.readouterr() == ("", "")
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    (told,) = leet(file.parent, "--summary")
    assert (told["run_id"], told["name"]) == ("abcdef0123", "depth=20 shortcut=none seed=3")
    assert (told["project"], told["state"], told["exit_code"]) == (
        "lightning_resnet",
        "finished",
        0,
    )
    assert sorted(told["tags"]) == ["data=Digits", "depth=20", "shortcut=none"]
    assert told["config"] == CONFIG | {"meta": {k: v for k, v in META.items() if k != "command"}}
    assert told["summary"]["val/loss"] == {"min": 0.4} and told["summary"]["val/acc1"] == {
        "last": 0.8,
        "max": 0.9,
    }
    record = next(r["run"] for r in leet(file) if r["type"] == "run")
    assert (record["run_group"], record["job_type"], record["git"]["commit"]) == (
        "study",
        "fit",
        META["git_sha"],
    )
    assert record["host"] == "private"
    everything = b"".join(path.read_bytes() for path in run.glob("wandb/**/*") if path.is_file())
    for private in ("astrophysics", "typed", "github.com", "pytest==", sys.executable):
        assert private.encode() not in everything
    history = [r["history"]["item"] for r in leet(file) if r["type"] == "history"]
    assert [h["step"] for h in history] == [11, 22, 33] and "val/loss" not in history[2]


ENDLESS = """
import json, sys, time
from pathlib import Path
from lightning_resnet.tracking.mirror import Mirror, WandbOptions
run, meta, config = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
mirror = Mirror(WandbOptions("offline"))
mirror.start(run, meta, config)
for step in range(1, 10_000):
    mirror.record({"step": step, "time": time.time(), "train/loss": 1 / step})
    print(step, flush=True)
    time.sleep(0.02)
"""


@pytest.mark.slow
def test_a_killed_run_is_readable_up_to_the_last_flush(run):
    command = [sys.executable, "-c", ENDLESS, str(run), json.dumps(META), json.dumps(CONFIG)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        process.stdout.readline()  # said by the mirror
        start = time.monotonic()
        for line in process.stdout:
            last = int(line)
            if time.monotonic() - start > 12:
                break
        (core,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[:1]
        os.kill(int(core), signal.SIGKILL)
        process.kill()
    history = [
        r["history"]["item"]["step"]
        for r in leet(run / "wandb/latest-run")
        if r["type"] == "history"
    ]
    assert (
        history == list(range(1, len(history) + 1)) and last - len(history) < 6 / 0.02
    )  # of 12 s; a flush each second


def test_online_all_attempts_are_one_run_with_every_step_once(server, run):
    said = []
    mirror(run, [row(11), row(22), row(22, val_loss=0.5), row(33)], "preempted", said)
    assert server.runs["abcdef0123"]["exitcode"] == 1 and server.runs["abcdef0123"]["preempting"]
    write(run, row(44, 2))  # by an attempt that could not reach W&B
    mirror(run, [row(33, 3), row(44, 3), row(55, 3)], "finished", said)
    assert said == [f"W&B: online, {server.url}/me/lightning_resnet/runs/abcdef0123"] * 2
    rows = server.rows("abcdef0123")
    assert [(r["step"], "val/loss" in r) for r in rows] == [
        *((11, False), (22, False), (22, True), (33, False), (44, False), (55, False)),
    ]
    sent = server.runs.pop("abcdef0123")
    assert not server.runs and sent["exitcode"] == 0 and sent["commit"] == META["git_sha"]
    assert sent["config"]["data"]["value"] == CONFIG["data"] and sent["groupName"] == "study"


def test_rows_of_a_node_whose_clock_is_late_are_sent(server, run):
    """Rows that the server lacks are told by their place in metrics.jsonl, not by clocks."""
    early = [row(11) | {"time": 2000.0}, row(22) | {"time": 2600.0}]
    mirror(run, early, "preempted")
    write(run, row(33, 2) | {"time": 2100.0})  # by an attempt that could not reach W&B
    mirror(run, [row(44, 3) | {"time": 2200.0}], "finished")
    assert [r["step"] for r in server.rows("abcdef0123")] == [11, 22, 33, 44]


@pytest.mark.parametrize(
    ("newest", "sent"),
    [
        ({"attempt": None, "step": None, "time": None}, 0),
        ({"attempt": 1, "step": 22, "time": 9.0}, 2),
        ({"attempt": 1, "step": 22, "time": 8.0}, 3),  # that row is not in the file
        ({"attempt": 2, "step": 11, "time": 3.0}, 4),
    ],
)
def test_what_comes_no_later_than_the_servers_newest_row(newest, sent):
    rows = [
        *({"step": 11, "attempt": 1, "time": 7.0}, {"step": 22, "attempt": 1, "time": 9.0}),
        *({"step": 22, "attempt": 1, "val/loss": 1.0}, {"step": 11, "attempt": 2, "time": 3.0}),
        {"step": 22, "attempt": 2, "time": 4.0},
    ]
    assert rows_until(rows, newest) == rows[:sent]


def test_the_key_is_in_no_file(server, run):
    Path("home").mkdir()
    Path("home/.netrc").write_text(
        f"machine {server.url.removeprefix('http://')} login user password {KEY}\n"
    )
    mirror(run, [row(1)], "finished", mode="online", details=True)
    mirror(run, [row(2)], "finished", mode="offline", details=True)
    files = [path for path in Path("runs").rglob("*") if path.is_file()]
    assert len(files) > 10 and not any(KEY.encode() in path.read_bytes() for path in files)
    assert not any(KEY.encode() in body for body in server.bodies)


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_run_that_holds_the_key_is_not_sent(server, run, mode):
    """A caller with a configuration of its own, or an older version, may have made the run."""
    said = []
    each = Mirror(WandbOptions(mode=mode), said.append)
    each.start(run, META | {"hardware": {"node": KEY.upper()}}, CONFIG)
    each.record(row(1))
    each.finish("finished")
    assert len(said) == 1 and said[0].startswith(
        "W&B: disabled (what W&B is sent sets config.meta.hardware.node"
    )
    assert not server.runs and not list(run.rglob("*.wandb")) and KEY.upper() not in said[0]


def test_details_only_where_asked(server, run, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ACCOUNT", "astrophysics")
    monkeypatch.setattr("sys.argv", ["fit", "as-typed"])
    mirror(run, [row(1)], "finished", details=True)
    assert not any(b"astrophysics" in body or b"as-typed" in body for body in server.bodies)
    sent = server.runs["abcdef0123"]
    assert (
        sent["host"] == socket.gethostname()
        and sent["config"]["meta"]["value"]["command"] == META["command"]
    )


@pytest.fixture
def deaf(monkeypatch):
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_a_server_that_does_not_answer_costs_seconds(deaf, run, mode, monkeypatch):
    monkeypatch.setattr(mirrors, "START_S", 2.0)
    falls_back(run, mode, "context deadline exceeded")


class Timed(Mirror):
    """Remembers when it opened what, and how long that might take."""

    def open(self, mode, *args, **settings):
        self.opened = [
            *getattr(self, "opened", []),
            (mode, time.monotonic(), settings["init_timeout"]),
        ]
        return super().open(mode, *args, **settings)


def falls_back(run, mode, why):
    """Assert that a mirror falls back to offline, with one line that says why; return what was
    opened, after how many seconds, for how many.
    """
    said, start = [], time.monotonic()
    mirror = Timed(WandbOptions(mode=mode), said.append)
    mirror.start(run, META, CONFIG)
    mirror.record(row(1))
    mirror.finish("finished")
    assert (
        len(said) == 1
        and said[0].startswith("W&B: offline (")
        and why in said[0]
        and "\n" not in said[0]
    )
    assert leet(run / "wandb/latest-run", "--summary")[0]["summary"]["step"] == 1
    return [(mode, moment - start, patience) for mode, moment, patience in mirror.opened]


def test_fit_says_one_line_and_trains(deaf, cli, monkeypatch):
    monkeypatch.setattr(mirrors, "START_S", 2.0)
    code, out, err = cli("fit", *TINY, "--trainer.max_epochs", "1", "--wandb.mode", "online")
    (said,) = [line for line in (out + err).splitlines() if "W&B" in line or "wandb" in line]
    assert code == 0 and said.startswith("W&B: offline (") and "val error" in out
    meta = read_json(next(Path("runs").glob("*/*/meta.json")))
    assert re.fullmatch(rf"{meta['run_id']}-[0-9a-f]{{6}}", meta["wandb_id"])
    assert any(Path("runs").rglob(f"run-{meta['wandb_id']}.wandb"))


def test_where_nothing_listens_nothing_is_waited_for(run, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert [mode for mode, _, _ in falls_back(run, "auto", "does not answer)")] == ["offline"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "online"])
@pytest.mark.parametrize("fault", [{"late": 12.0}, {"broken": True}], ids=str)
def test_a_server_that_takes_no_runs_costs_less_than_ten_seconds(server, run, mode, fault):
    vars(server).update(fault)
    (_, begun, patience), (_, offline, _) = falls_back(run, mode, "deadline exceeded")
    server.late = 0.0
    assert patience <= 6.6  # of which a slow import takes its part
    assert offline < begun + patience + 60  # wandb kept to it, on a slow machine too


@pytest.mark.slow
def test_a_server_that_is_slow_is_waited_for(server, run):
    server.late = 2.0  # seconds for each answer, of which there are three
    said = []
    mirror(run, [row(1)], "finished", said)
    assert len(said) == 1 and said[0].startswith("W&B: online, ")


def test_without_key_or_wandb_training_goes_on(run, monkeypatch):
    said = []
    mirror(run, [row(1)], "finished", said)
    assert said == [] and not Path(run, "wandb").exists()
    monkeypatch.setenv("WANDB_MODE", "offline")
    mirror(run, [row(1)], "finished", said)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    mirror(run, [row(1)], "finished", said)
    assert said == [f"W&B: offline; to upload it: resnet-cli sync {run}"] * 2
    monkeypatch.delenv("SLURM_JOB_ID")
    mirror(run, [row(1)], "finished", said, mode="online")
    assert said.pop().startswith("W&B: offline (no key: wandb login); ")
    said.pop()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    mirror(run, [row(1)], "finished", said)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb_mode, "is_installed", lambda name: None)
    mirror(run, [row(1)], "finished", said)
    assert len(said) == 1
    mirror(run, [row(1)], "finished", said, mode="online")
    assert said[1] == "W&B: disabled (not installed: pip install 'wandb>=0.31,<0.32')"
    monkeypatch.setenv("WANDB_MODE", "offline")
    mirror(run, [row(1)], "finished", said, mode="disabled")
    assert said[2] == (
        "W&B: disabled (wandb.mode says so, not WANDB_MODE=offline: --wandb.mode offline)"
    )


def test_runs_of_one_id_are_several_on_the_server(server, monkeypatch, tmp_path, capsys):
    """Users may train the same in their folders; runs of older versions keep their id on W&B."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("old", "mine", "theirs"):
        made = new_run("abcdef0123", "finished")
        meta = META | {"name": name, "run_id": "abcdef0123"}
        if name != "old":
            meta["wandb_id"] = f"abcdef0123-{name}"
        (made / "meta.json").write_text(json.dumps(meta))
        write(made, row(1, val_acc1=0.5))
        made.parent.rename(Path("runs", name))
    assert main(["runs"]) == 0
    assert set(server.runs) == {"abcdef0123", "abcdef0123-mine", "abcdef0123-theirs"}
    runs, history = load_runs("wandb://me/lightning_resnet")
    assert set(runs["run_id"]) == set(history["run_id"]) == {"abcdef0123"}
    assert sorted(runs["name"]) == ["mine", "old", "theirs"] and history["path"].nunique() == 3


def test_a_run_that_was_deleted_on_the_server_is_sent_as_another(server, capsys, monkeypatch):
    monkeypatch.setitem(uploads.PATIENT, "init_timeout", 4.0)  # the client asks again until then
    made = new_run("abcdef0123", "finished")
    write(made, row(1))
    assert main(["runs"]) == 0
    (made / "wandb/sent.json").unlink()
    server.deleted = ["abcdef0123"]
    capsys.readouterr()
    assert main(["runs"]) == 1
    told = capsys.readouterr().out
    assert "not uploaded (it was deleted on W&B: restore it there, or send it as " in told
    subprocess.run(told.split("`")[1], shell=True, check=True)
    assert main(["runs"]) == 0 and len(server.rows("abcdef0123-again")) == 1


def test_name_and_tags_that_were_changed_on_the_server_stay(server, run):
    mirror(run, [row(1)], "preempted")
    sent = server.runs["abcdef0123"]
    assert sent["displayName"] == "depth=20 shortcut=none seed=3"
    assert sorted(sent["tags"]) == ["data=Digits", "depth=20", "shortcut=none"]
    sent |= {"displayName": "for the paper", "tags": ["keep", "depth=20"]}
    mirror(run, [row(2)], "finished")
    assert len(server.rows("abcdef0123")) == 2
    assert (sent["displayName"], sent["tags"]) == ("for the paper", ["keep", "depth=20"])


def test_a_run_whose_mirror_stopped_is_sent_while_it_runs(server, run, capsys, monkeypatch):
    write(run, row(1))
    each = Mirror(WandbOptions(), lambda line: None)
    each.start(run, META, CONFIG)
    assert main(["runs"]) == 0 and "sends its rows itself" in capsys.readouterr().out
    opened = each.run
    monkeypatch.setattr(each, "_log", lambda row: 1 / 0)
    monkeypatch.setattr(mirrors, "_forget", lambda: None)
    each.record(row(2))
    opened.finish()  # as the end of the process does
    assert main(["runs"]) == 0
    assert f"rows sent to {server.url}/me/lightning_resnet/" in capsys.readouterr().out


def test_empty_variables_are_missing_and_a_mistyped_mode_is_refused(server, run, monkeypatch):
    said = []
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("WANDB_PROJECT", " ")
    mirror(run, [row(1)], "finished", said)
    assert said == [f"W&B: online, {server.url}/me/lightning_resnet/runs/abcdef0123"]
    monkeypatch.setenv("WANDB_MODE", "ofline")
    mirror(run, [row(2)], "finished", said)
    refusal = "WANDB_MODE=ofline is no mode: set it to online, offline or disabled, or unset it"
    assert said[1] == f"W&B: disabled ({refusal})"
    for verb_of_wandb in (lambda: main(["runs"]), lambda: need_wandb("wandb://me/p")):
        with pytest.raises(UserError, match=f"^{refusal}$"):
            verb_of_wandb()


def test_a_folder_named_like_a_package_is_no_package(run, monkeypatch):
    Path("nopackage").mkdir()
    monkeypatch.syspath_prepend(Path.cwd())
    assert find_spec("nopackage") and not is_installed("nopackage") and is_installed("wandb")


def test_the_death_of_wandbs_process_is_told_once(run):
    said = []
    dying = Mirror(WandbOptions("offline"), said.append)
    dying.start(run, META, CONFIG)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (core,) = [
        pid for pid in children if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(int(core), signal.SIGTERM)  # SLURM signals all processes of a job
    time.sleep(0.5)
    for step in range(1, 6):
        dying.record(row(step))
    dying.finish("preempted")
    for process in gc.get_objects():
        if type(process) is subprocess.Popen:
            process.wait(10)  # wandb does not
    assert len(said) == 2 and said[1].startswith("W&B stopped (")


def test_sync_uploads_each_step_once_and_again_nothing(server, run, capsys):
    mirror(run, [row(11), row(22), row(33)], "preempted", mode="offline")
    mirror(run, [row(22, 2), row(33, 2), row(44, 2)], "failed", mode="offline")
    end_attempt(run, 2, "failed")
    files = {path for path in run.rglob("*") if path.is_file()}
    other = new_run("finished01", "finished")
    write(other, row(5))
    new_run("private001", "finished", wandb={"mode": "disabled"})
    new_run("broken0001").joinpath("config.yaml").write_text("a: [")
    assert main(["runs"]) == 1
    out = capsys.readouterr().out
    assert f"{run}: 4 rows sent to {server.url}/me/lightning_resnet/runs/abcdef0123" in out
    assert "broken0001: not uploaded (" in out and "private001: wandb.mode is disabled" in out
    assert set(server.runs) == {"abcdef0123", "finished01"}
    assert [(r["step"], r["attempt"]) for r in server.rows("abcdef0123")] == [
        (11, 1),
        (22, 2),
        (33, 2),
        (44, 2),
    ]
    assert [server.runs[name]["exitcode"] for name in ("abcdef0123", "finished01")] == [1, 0]
    assert files < set(run.rglob("*")) and len(list(run.rglob("*.synced"))) == 2
    write(other, row(6))
    shutil.rmtree("runs/study/broken0001")
    requests = len(server.bodies)
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "have not changed since: 1" in out and "abcdef0123" not in out
    assert [r["step"] for r in server.rows("finished01")] == [5, 6]
    assert len(server.rows("abcdef0123")) == 4
    assert not any(b"abcdef0123" in body for body in server.bodies[requests:])


def test_sync_sends_a_run_that_may_not_be_written(server, run, monkeypatch, capsys):
    def touch(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    mirror(run, [row(1)], "finished", mode="offline")
    end_attempt(run, 1, "finished")
    monkeypatch.setattr(Path, "touch", touch)
    assert main(["runs"]) == 0 and "1 rows sent to " in capsys.readouterr().out


def test_sync_sends_a_run_again_where_it_was_not_sent(server, run, capsys, monkeypatch):
    write(run, row(1))
    end_attempt(run, 1, "finished")
    assert main(["runs"]) == 0
    assert f"1 rows sent to {server.url}/me/lightning_resnet/" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_PROJECT", "second")
    assert main(["runs"]) == 0
    assert f"rows sent to {server.url}/me/second/" in capsys.readouterr().out
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "have not changed since: 1 (" in out and "remove wandb/sent.json in its folder" in out
    (run / "wandb/sent.json").unlink()
    assert main(["runs"]) == 0
    assert f"rows sent to {server.url}/me/second/" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["variable", "netrc", "token"])
def test_sync_sends_a_run_again_with_the_key_of_another_account(
    server, run, monkeypatch, tmp_path, place
):
    """The file that tells what was sent has a part of the key's hash, and never the key."""

    def log_in(key):
        if place == "variable":
            monkeypatch.setenv("WANDB_API_KEY", key)
        elif place == "token":
            monkeypatch.delenv("WANDB_API_KEY", raising=False)
            monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", key)
        else:
            monkeypatch.delenv("WANDB_API_KEY", raising=False)
            netrc = tmp_path / "netrc"
            netrc.write_text(f"machine {urlsplit(server.url).netloc} login user password {key}\n")
            monkeypatch.setenv("NETRC", str(netrc))

    def send(*args):
        sends.append(args)
        return 1, server.url

    sends = []
    monkeypatch.setattr(Uploader, "_send", send)
    end_attempt(run, 1, "finished")
    for key, expected in ((KEY, 1), (KEY, 1), (KEY[::-1], 2), (KEY[::-1], 2)):
        log_in(key)
        assert Uploader(tmp_path).upload([run]) == 0 and len(sends) == expected
        assert key not in (run / "wandb/sent.json").read_text()


def test_a_run_whose_upload_failed_is_closed_told_once_and_sent_later(
    server, run, capsys, monkeypatch, tmp_path
):
    write(run, row(1))
    uploader = Uploader(tmp_path, every=1.0)
    with monkeypatch.context() as failing:
        failing.setattr(Mirror, "catch_up", lambda *_: 1 / 0)
        assert [uploader.upload([run]) for _ in range(2)] == [1, 1]
    assert capsys.readouterr().out.count("not uploaded (division by zero)") == 1
    assert server.runs["abcdef0123"]["exitcode"] is not None and not uploader.open
    assert uploader.upload([run]) == 0
    uploader.close()
    assert [r["step"] for r in server.rows("abcdef0123")] == [1]


@pytest.mark.slow
def test_sync_watch_follows_growing_and_killed_runs(server, run):
    write(run, row(1), row(2))
    command = [BIN / "resnet-cli", "sync", "--watch", "--every", "1", "runs"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watch:
        try:
            wait_for(lambda: "abcdef0123" in server.runs and len(server.rows("abcdef0123")) == 2)
            write(run, row(3))
            with (run / "metrics.jsonl").open("a") as file:
                file.write('{"step": 4, "tr')  # killed here
            other = new_run("begun00001")
            write(other, row(7))
            wait_for(
                lambda: (
                    len(server.rows("abcdef0123")) == 3
                    and server.runs.get("begun00001", {}).get("history")
                )
            )
            write(run, {}, row(3, 2), row(4, 2))
            end_attempt(run, 2, "finished")
            wait_for(lambda: server.runs["abcdef0123"]["exitcode"] == 0)
            assert server.runs["begun00001"]["exitcode"] is None
        finally:
            watch.send_signal(signal.SIGINT)
        assert watch.wait(100) == 130
    assert [r["step"] for r in server.rows("abcdef0123")] == [1, 2, 3, 4]
    assert server.runs["begun00001"]["preempting"]


def test_sync_says_what_it_needs(deaf, run, monkeypatch):
    with pytest.raises(UserError, match="^run nothere does not exist"):
        main(["runs", "nothere"])
    monkeypatch.setattr(wandb_mode, "PATIENCE_S", 0.5)
    with pytest.raises(UserError, match="W&B cannot be reached: .* does not answer"):
        main(["runs"])
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match="W&B cannot be reached: no key for .*: wandb login"):
        main(["runs"])
