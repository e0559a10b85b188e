"""Two users of one machine share its folders: what one puts there, hostile or not, has no effect on
the other.
"""

import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

import lightning_resnet.credentials  # noqa: F401 -- a fork as another user cannot import it
from lightning_resnet import files
from lightning_resnet.data.beton import stage, write  # noqa: F401 -- the same
from lightning_resnet.data.beton.cache import as_beton
from lightning_resnet.data.beton.format import Beton, manifest_path
from lightning_resnet.data.beton.stage import staged
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.errors import UserError
from lightning_resnet.files import (
    cache_folder,
    cache_if_any,
    locked,
    open_own,
    private_compile_cache,
    private_folder,
)
from lightning_resnet.runs.shared import share

ALICE, BOB = 44_001, 44_002
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
SOURCE = Synthetic(12, 4, 16)


def as_user(uid, act, *args):
    """What `act` returns in a process of that user, with a time limit; a UserError's line begins
    with `error: `.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.umask(0o022)
            try:
                told = act(*args)
            except UserError as e:
                told = f"error: {e}"
            os.write(writing, json.dumps(told).encode())
            os._exit(0)
        except BaseException:
            os.write(writing, json.dumps(traceback.format_exc()).encode())
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, told
    return json.loads(told)


@pytest.fixture(params=[0o1777, 0o777], ids=["sticky", "open to all"])
def shared(request, monkeypatch):
    """A folder that all users may write to, such as a node's /scratch; in it also Alice's own with
    her thesis.
    """
    top = Path(tempfile.mkdtemp(prefix="users-", dir="/tmp"))
    top.chmod(0o755)
    (top / "shared").mkdir()
    (top / "shared").chmod(request.param)
    for uid, name in ((ALICE, "alice"), (BOB, "bob")):
        (top / name).mkdir(mode=0o755)
        os.chown(top / name, uid, uid)
    thesis = top / "alice/thesis.txt"
    thesis.write_text("all of it")
    os.chown(thesis, ALICE, ALICE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(top / "shared"))
    monkeypatch.setenv("HOME", str(top / "alice"))
    monkeypatch.chdir(top)
    yield top / "shared"
    shutil.rmtree(top)


@pytest.fixture
def beton(shared):
    """A file that both may read."""
    folder = shared.parent / "data"
    folder.mkdir()
    images = SOURCE.splits()["train"]
    return write_beton(
        images, folder / "train.beton", classes=SOURCE.classes, workers=1, progress=False
    )


def stage_it(path, where):
    """Stage and read as a training does."""
    began = time.monotonic()
    copy = Beton(staged(path, str(where)))
    return {
        "labels": copy.labels.tolist(),
        "uid": copy.path.stat().st_uid,
        "mode": stat.S_IMODE(copy.path.parent.stat().st_mode),
        "path": str(copy.path),
        "intact": copy.crcs is not None,
        "waited": time.monotonic() - began > 30,
    }


def squat(kind, where, victim, name):
    """Bob takes a name that Alice's programs would use, in the ways there are."""
    path = where / name
    if kind == "folder":
        path.mkdir()
        path.chmod(0o777)
    elif kind == "link to a folder":
        path.symlink_to(victim.parent)
    elif kind == "link to a file":
        path.symlink_to(victim)
    elif kind == "link to nothing":
        path.symlink_to(victim.with_name("new"))
    elif kind == "file":
        path.write_text("Bob's")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "hard link":
        os.link(victim, path)


def squat_all(kind, where, victim, names):
    for name in names:
        squat(kind, where, victim, name)


KINDS = ["folder", "link to a folder", "link to a file", "link to nothing", "file", "pipe"]


def test_both_stage_the_same_file(shared, beton):
    right = Beton(beton).labels.tolist()
    told = [as_user(uid, stage_it, beton, shared) for uid in (ALICE, BOB, ALICE)]
    assert [t["uid"] for t in told] == [ALICE, BOB, ALICE] and all(
        t["labels"] == right for t in told
    )
    assert (
        all(t["mode"] == 0o700 for t in told)
        and told[0]["path"] == told[2]["path"] != told[1]["path"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_takes_the_names_first_keeps_no_user_out(shared, beton, kind):
    thesis = shared.parent / "alice/thesis.txt"
    name = os.path.basename(as_user(BOB, stage_it, beton, shared)["path"]).removesuffix(".beton")
    names = [f"{name}{end}" for end in (".beton", ".beton.json", ".lock", ".half")]
    as_user(BOB, squat_all, kind, shared, thesis, [f"lightning_resnet-{ALICE}", *names])
    told = as_user(ALICE, stage_it, beton, shared)
    assert (
        told["labels"] == Beton(beton).labels.tolist() and told["uid"] == ALICE and told["intact"]
    )
    assert told["mode"] == 0o700 and not told["waited"]
    assert (
        as_user(ALICE, stage_it, beton, shared)["path"] == told["path"]
    )  # found again, not copied again
    assert thesis.read_text() == "all of it" and os.listdir(thesis.parent) == ["thesis.txt"]


def forge(path, where):
    """Bob puts a file with other labels, and its manifest, under the names, sizes and times that a
    copy would have.
    """
    images = SOURCE.splits()["train"]
    images.labels[:] = 0
    own = where / f"lightning_resnet-{ALICE}"
    own.mkdir()
    forged = write_beton(images, own / "x.beton", classes=SOURCE.classes, workers=1, progress=False)
    for name in (own, where):
        for end in ("", ".json"):
            copy = name / f"{stage.copy_name(path)}{end}"
            shutil.copy(f"{forged}{end}", copy)
            status = os.stat(f"{path}{end}")
            os.truncate(copy, status.st_size)
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.chmod(own, 0o777)


def test_forged_copies_are_not_taken(shared, beton):
    as_user(BOB, forge, beton, shared)
    told = as_user(ALICE, stage_it, beton, shared)
    assert told["labels"] == Beton(beton).labels.tolist() and told["uid"] == ALICE


def test_an_own_copy_with_another_manifest_is_made_again(shared, beton):
    path = Path(as_user(ALICE, stage_it, beton, shared)["path"])
    manifest, status = manifest_path(path), manifest_path(path).stat()
    manifest.write_bytes(manifest.read_bytes()[::-1])  # of the same size
    os.utime(manifest, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert as_user(ALICE, stage_it, beton, shared)["intact"]


def test_no_other_user_can_hold_the_lock(shared, beton):
    path = Path(as_user(ALICE, stage_it, beton, shared)["path"])

    def lock():
        try:
            return os.open(path.with_suffix(".lock"), os.O_RDONLY)
        except PermissionError:
            return "refused"

    assert as_user(BOB, lock) == "refused"


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_cache_folder(shared, kind):
    thesis = shared.parent / "alice/thesis.txt"
    as_user(BOB, squat_all, kind, shared, thesis, ["lightning_resnet"])

    def cached():
        private_compile_cache()
        images = as_beton(SOURCE.splits()["train"], SOURCE, "train")
        compiled = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        return [str(images.file.path), images.labels.tolist(), str(cache_if_any()), str(compiled)]

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = (
        f"{tempfile.gettempdir()}/torchinductor_root"  # as torch itself does
    )
    path, labels, folder, compiled = as_user(ALICE, cached)
    assert labels == SOURCE.splits()["train"].labels.tolist() and Path(path).stat().st_uid == ALICE
    assert (
        Path(path).parent == Path(folder) == Path(compiled).parent
        and Path(folder).stat().st_mode & 0o777 == 0o700
    )
    assert as_user(ALICE, cached) == [path, labels, folder, compiled]
    assert thesis.read_text() == "all of it" and os.listdir(thesis.parent) == ["thesis.txt"]


def write_it(out):
    images = SOURCE.splits()["train"]
    return str(write_beton(images, out, classes=SOURCE.classes, workers=1, progress=False))


@pytest.mark.parametrize("end", [".tmp", ".journal", ".json.tmp", ".json"])
@pytest.mark.parametrize("kind", [*KINDS, "hard link"])
def test_writing_into_a_shared_folder(shared, kind, end):
    thesis, out = shared.parent / "alice/thesis.txt", shared / "train.beton"
    if kind == "hard link" and Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1":
        os.link(thesis, out.with_name(out.name + end))  # as the system lets Bob where this is 0
    else:
        as_user(BOB, squat, kind, shared, thesis, out.name + end)
    told = as_user(ALICE, write_it, out)
    if end in (".tmp", ".journal"):
        assert (
            told.startswith("error: ")
            and "\n" not in told
            and (": remove it" in told or "another --out" in told)
        )
    assert thesis.read_text() == "all of it" and os.listdir(thesis.parent) == ["thesis.txt"]


def test_an_interrupted_write_goes_on(shared):
    """The files of this user's own are taken up again."""

    def begin():
        for end in (".tmp", ".journal"):
            os.close(open_own(shared / f"train.beton{end}"))
        return write_it(shared / "train.beton")

    assert as_user(ALICE, begin) == str(shared / "train.beton")


@pytest.mark.parametrize("text", ["../../alice", "..", "/tmp", ".", "", "a/b", "x\ny"])
def test_a_mark_of_shared_points_that_leads_elsewhere(shared, text):
    root = shared / "runs"
    (root / ".shared").mkdir(parents=True)
    if text:
        os.symlink(text, root / ".shared/0123456789")
    before = sorted(shared.parent.rglob("*"))
    linked = share(root, "sweep", "0123456789")
    assert not linked and not (root / "sweep/0123456789").is_symlink()
    assert {p for p in shared.parent.rglob("*")} - set(before) <= {root / ".shared/0123456789"}


def test_where_no_folder_can_be_private(shared, monkeypatch):
    """Some file systems have no owners."""
    monkeypatch.setattr(files, "_is_private", lambda folder: False)
    with pytest.raises(UserError, match="no folders that only their owner can write to"):
        private_folder(shared, "x")
    assert os.listdir(shared) == ["x"]
    with pytest.raises(UserError):
        cache_folder()
    assert cache_if_any() == Path(os.devnull)


def test_a_moved_cache_folder_is_followed(shared):
    """Where home has little space, its owner puts a link there."""
    target = shared.parent / "alice"
    os.symlink(target, shared / "lightning_resnet")
    os.chown(shared / "lightning_resnet", ALICE, ALICE, follow_symlinks=False)
    assert as_user(ALICE, lambda: str(cache_folder())) == str(target)


def test_a_lock_that_is_never_released(tmp_path, monkeypatch, capsys):
    """A stopped process of this user has it: a message, and an end."""
    monkeypatch.setattr(files, "SOON_S", 0.2)
    monkeypatch.setattr(files, "STUCK_S", 1.0)
    held = os.open(tmp_path / "a.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(UserError, match=r"has held .*a\.lock .*fuser .*, or use another"):
        with locked(tmp_path / "a.lock", tmp_path / "a.half", "use another"):
            pass
    assert "waiting for another process of yours" in capsys.readouterr().out
    os.close(held)
    with locked(tmp_path / "a.lock", tmp_path / "a.half", "use another"):
        with pytest.raises(BlockingIOError):
            fcntl.flock(os.open(tmp_path / "a.lock", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_system_errors_stay_what_they_are(tmp_path):
    with pytest.raises(OSError) as e:
        open_own(tmp_path / "none/x")
    assert e.value.errno == errno.ENOENT


def test_data_of_another_user_are_only_read(shared, beton):
    """Bob owns the file; Alice trains on it and leaves nothing next to it."""
    before = sorted(beton.parent.iterdir())
    assert (
        as_user(ALICE, lambda: np.asarray(Beton(beton).labels).tolist())
        == Beton(beton).labels.tolist()
    )
    assert sorted(beton.parent.iterdir()) == before
