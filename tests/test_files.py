"""Files are written completely or not at all, and what hinders that is told in the
system's words.
"""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from lightning_resnet import files, provenance
from lightning_resnet.errors import UserError
from lightning_resnet.files import (
    check_writable,
    link,
    private_compile_cache,
    remove_unfinished,
    replacing,
    sync_folder,
    write_atomic,
    write_json,
    write_new,
)
from lightning_resnet.provenance import code


def test_a_file_is_on_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    happened = []
    monkeypatch.setattr(os, "fsync", lambda fd: happened.append(os.readlink(f"/proc/self/fd/{fd}")))
    path = tmp_path / "config.yaml"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["config.yaml"]
    assert happened[0].startswith(f"{path}.") and happened[1] == str(tmp_path)


def test_the_unfinished_file_is_the_users_own_and_follows_no_link(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0")
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    (tmp_path / "a.json.0.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "a.json", {})
    assert victim.read_text() == "theirs"


def test_an_error_leaves_the_old_file_and_nothing_next_to_it(tmp_path):
    path = tmp_path / "a"
    write_atomic(path, "old")
    for error in (RuntimeError("own"), UserError("user's")):
        with pytest.raises(type(error)), replacing(path) as file:
            file.write(b"new")
            raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_the_systems_error_comes_out_of_a_librarys(tmp_path):
    path = tmp_path / "a.ckpt"
    with pytest.raises(OSError) as caught, replacing(path):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as e:
            raise RuntimeError(
                "[enforce fail at inline_container.cc:672] . unexpected pos 480512 vs 480408"
            ) from e
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    with pytest.raises(RuntimeError, match="this one"):
        try:
            raise OSError(errno.EIO, "of something before")
        except OSError:
            with replacing(path):
                raise RuntimeError("this one") from None


def test_permissions_are_those_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_make_a_file_one_does(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *args: os.symlink("", ""))  # raises an OSError
    path = tmp_path / "1.json"
    write_new(path, "first")
    with pytest.raises(FileExistsError):
        write_new(path, "second")
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["1.json"]


@pytest.mark.parametrize("links", [True, False])
def test_one_more_name_for_a_file_comes_at_once_and_is_on_disk(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *args: os.symlink("", ""))  # raises an OSError
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    source, target = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    source.write_text("good")
    target.write_text("old")
    link(source, target)
    link(source, target)  # both are names of the same file now
    assert target.read_text() == "good" and target.samefile(source) == links
    assert sorted(os.listdir(tmp_path)) == ["best.ckpt", "last.ckpt"] and synced[-1] == str(
        tmp_path
    )
    assert links or synced[0].startswith(f"{target}.")


def test_a_place_is_tried_before_the_work_and_left_as_it_was(tmp_path):
    (tmp_path / "old").write_text("old")
    for name in ("old", "new"):
        check_writable(tmp_path / name)
    assert (tmp_path / "old").read_text() == "old" and os.listdir(tmp_path) == ["old"]
    with pytest.raises(FileNotFoundError) as e:
        check_writable(tmp_path / "none/new")
    assert e.value.filename == str(tmp_path / "none/new")


def test_a_home_without_a_cache_folder_does_not_keep_from_compiling(tmp_path, monkeypatch):
    (tmp_path / "home").touch()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home/cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{tmp_path}/tmp/torchinductor_me")
    private_compile_cache()
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent
    assert folder.parent == tmp_path / "tmp" and folder.stat().st_mode & 0o777 == 0o700


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / "a.json.12ab.tmp").touch()
    (tmp_path / "b.tmp").mkdir()
    (tmp_path / "a.json").touch()
    remove_unfinished(tmp_path)
    remove_unfinished(tmp_path / "none")
    sync_folder(tmp_path / "none")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.tmp"]


def test_the_code_is_looked_up_without_a_lock_that_a_kill_would_leave(monkeypatch):
    called = []

    def run(command, **options):
        called.append(command)
        return subprocess.CompletedProcess(command, 0, "0123\n", "")

    monkeypatch.setattr(provenance.subprocess, "run", run)
    assert code() == {"git_sha": "0123", "git_dirty": True}
    assert all(command[:2] == ["git", "--no-optional-locks"] for command in called) and called


def test_the_repository_around_an_environment_is_not_our_code(tmp_path, monkeypatch):
    package = tmp_path / ".venv/lightning_resnet"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / ".gitignore").write_text(".venv\n")
    commit = "git init -q && git add . && git -c user.name=a -c user.email=a@b commit -qm a"
    subprocess.run(commit, shell=True, cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert code() == {"git_sha": None, "git_dirty": None}
    subprocess.run("git add -f .venv", shell=True, cwd=tmp_path, check=True)
    assert len(code()["git_sha"]) == 40 and code()["git_dirty"]


def test_a_lock_sees_the_files_of_a_folder_grow(tmp_path):
    folder = tmp_path / "parts"
    assert files._bytes_of(folder) == -1
    folder.mkdir()
    empty = files._bytes_of(folder)
    (folder / "a").write_bytes(b"12")
    first = files._bytes_of(folder)
    (folder / "b").write_bytes(b"3")
    assert empty < first < files._bytes_of(folder)
    assert files._bytes_of(folder / "a") == 2
