"""What the job has of the machine, and how files are read there."""

import gc
import os
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.loaders import copies, data_of, same
from helpers.spies import spy

from lightning_resnet import machine
from lightning_resnet.bench.inputs import IMAGENET, make_tables
from lightning_resnet.data.augment.crops import Augment
from lightning_resnet.data.beton import stage
from lightning_resnet.data.beton.format import Beton, manifest_path
from lightning_resnet.data.beton.stage import staged
from lightning_resnet.data.loaders import read_ahead as ahead
from lightning_resnet.data.loaders.beton_loader import FFCVLoader
from lightning_resnet.data.order import page_order, permutation, train_batches
from lightning_resnet.data.sources.beton_files import images_of
from lightning_resnet.doctor import checks
from lightning_resnet.errors import UserError

MEMINFO = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4000 kB\n"}
TWO = {
    "proc/self/cgroup": "0::/job/step\n",
    "cg/job/step/cpu.max": "max 100000",
    "cg/job/cpu.max": "350000 100000",
}
ONE = {
    "proc/self/cgroup": "5:cpu,cpuacct:/d/e\n4:memory:/d/e\n",
    "cg/cpu/cpu.cfs_quota_us": "200000",
}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Files of /proc and /sys/fs/cgroup, cores and SLURM's variables."""

    def make(files, cores=8, **slurm):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
        monkeypatch.setattr(machine, "CGROUP", tmp_path / "cg")
        monkeypatch.setattr(machine, "cores", lambda: cores)
        for name in ("CPUS_PER_TASK", "STEP_TASKS_PER_NODE"):
            monkeypatch.delenv(f"SLURM_{name}", raising=False)
        for name, value in slurm.items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    return make


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, machine.NO_LIMIT),
        (MEMINFO, 4_096_000),
        (MEMINFO | TWO | {"cg/job/memory.max": "5000", "cg/job/step/memory.max": "max"}, 5000),
        (
            MEMINFO | ONE | {"cg/memory/memory.limit_in_bytes": "7000"},
            7000,
        ),  # the path is the host's
        (MEMINFO | ONE | {"cg/memory/d/e/memory.limit_in_bytes": "9223372036854771712"}, 4_096_000),
    ],
)
def test_memory_is_the_smallest_limit_or_what_is_left(fake, files, expected):
    fake(files)
    assert machine.memory() == expected


@pytest.mark.parametrize(
    ("files", "processes", "slurm", "expected"),
    [
        ({}, 1, {}, 8),
        ({}, 3, {}, 2),
        ({}, 99, {}, 1),
        (TWO, 1, {}, 3),
        (ONE | {"cg/cpu/cpu.cfs_period_us": "100000"}, 1, {}, 2),
        ({}, 4, {"CPUS_PER_TASK": "6", "STEP_TASKS_PER_NODE": "4(x2)"}, 6),
        ({}, 4, {"CPUS_PER_TASK": "8", "STEP_TASKS_PER_NODE": "1"}, 2),
        ({}, 1, {"CPUS_PER_TASK": "64"}, 8),
        ({}, 0, {"CPUS_PER_TASK": "?", "STEP_TASKS_PER_NODE": ""}, 8),
    ],
)
def test_workers_are_the_cores_that_this_process_has(fake, files, processes, slurm, expected):
    fake(files, **slurm)
    assert machine.workers(processes) == expected


def test_a_busy_machine_is_told_where_no_threads_are_given(cli, monkeypatch):
    few = "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --model.net.depth 8".split()
    few = ["fit", "--config", "digits", *few, "--trainer.limit_val_batches", "1"]
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr("lightning_resnet.cli.fit.cores", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (9.2, 9.0, 9.0))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    told = (
        "load 9 on 2 cores: threads that wait for one another are slow there; try --run.threads 1"
    )
    assert f"warning: {told}\n" in cli(*few)[2]
    assert "load 9" not in cli(*few, "--run.threads", "1", "--seed", "2")[2]
    assert [f.cure for f in checks.processor() if f.what == "load"] == ["try --run.threads 1"]


def test_torchs_threads_are_left_alone(paged):
    before = torch.get_num_threads()
    for workers in ("auto", 2, 64):
        assert len(copies(data_of(paged, size=16, workers=workers).train_dataloader())) == 6
    assert torch.get_num_threads() == before


# -- the page cache --------------------------------------------------------------------------------


def test_who_looks_after_pages_follows_from_size_and_memory(monkeypatch, capsys):
    monkeypatch.setattr(ahead, "memory", lambda: 100)
    chosen = [ahead.by_process("auto", size, "pages") for size in (80, 81)]
    assert chosen == [False, True] and capsys.readouterr().out == ""
    assert not ahead.by_process("auto", 81, "global")
    assert (
        "warning: the training file has" in (out := capsys.readouterr().out)
        and out.count("\n") == 1
    )
    assert ahead.by_process("process", 1, "pages") and not ahead.by_process("os", 999, "pages")
    with pytest.raises(UserError, match="add --data.order pages"):
        ahead.by_process("process", 1, "global")


def test_pages_are_read_early_once_and_dropped_when_done(paged, monkeypatch):
    log, options = [], {"size": 16, "order": "pages", "batch_size": 8}
    monkeypatch.setattr(
        os, "posix_fadvise", lambda fd, at, n, advice: log.append((advice, at // n))
    )
    monkeypatch.setattr(ahead, "AHEAD", 2)
    monkeypatch.setattr(page_order, "__defaults__", (2,))
    plain = data_of(paged, cache="os", **options)
    images, loader = plain.splits["train"], plain.train_dataloader()
    expected = copies(loader)
    assert not log
    assert same(expected, copies(data_of(paged, cache="process", **options).train_dataloader()))
    log.clear()
    held, most = set(), 0
    for visits in ahead.read_ahead(images, loader.plan(1)):
        for advice, page in log:
            (held.add if advice == os.POSIX_FADV_WILLNEED else held.remove)(page)
        log.clear()
        used = set(
            (
                images.file.images["data_ptr"][images.positions[visits]] // images.file.page_size
            ).tolist()
        )
        assert used <= held
        most = max(most, len(held))
    pages = 192 // 10 + 1  # 768 bytes each
    assert 3 <= most <= 8 < pages


# -- a copy on the node ----------------------------------------------------------------------------


@pytest.fixture
def original(paged, tmp_path):
    """(file, folder to stage to)."""
    path = tmp_path / "far" / "train.beton"
    path.parent.mkdir()
    source = paged.files["train"]
    shutil.copy(source, path)
    shutil.copy(f"{source}.json", manifest_path(path))
    (tmp_path / "near").mkdir()
    return path, tmp_path / "near"


def names(folder):
    return sorted(p.suffix for p in folder.iterdir())


def test_a_file_is_copied_once_and_used_again(original, monkeypatch):
    path, near = original
    monkeypatch.setenv("NEAR", str(near))
    copy = staged(path, "$NEAR")
    own = copy.parent
    assert (
        own == near / f"lightning_resnet-{os.geteuid()}" and copy.read_bytes() == path.read_bytes()
    )
    assert Beton(copy).crcs is not None and names(own) == [".beton", ".json", ".lock"]
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_copy", None)
        assert staged(path, str(near)) == copy
    (copy.with_suffix(".half")).write_text("of a process that was killed")
    os.utime(path)
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(stage, "_copy", None)
        staged(path, str(near))  # the original is another one now
    assert staged(path, str(near)) == copy and names(own) == [".beton", ".json", ".lock"]
    manifest_path(path).unlink()
    assert Beton(staged(path, str(near))).crcs is None


def test_a_copy_is_on_disk_with_its_time_before_it_takes_its_name(original, monkeypatch):
    path, near = original
    os.utime(path, ns=(10**18, 10**18))
    synced = []

    def fsync(fd):
        file = os.readlink(f"/proc/self/fd/{fd}")
        synced.append(
            (Path(file).suffix, os.stat(fd).st_mtime_ns, [p.suffix for p in near.rglob("*.beton")])
        )

    monkeypatch.setattr(os, "fsync", fsync)
    copy = staged(path, str(near))
    assert copy.stat().st_mtime_ns == 10**18
    assert [s[1:] for s in synced if s[0] == ".half"] == [(10**18, [])]
    suffix, _, there = synced[-1]
    assert suffix == copy.parent.suffix and there == [
        ".beton"
    ]  # then the folder, with the name in it


def test_processes_of_a_node_copy_once(original, monkeypatch):
    path, near = original
    copies = spy(monkeypatch, stage, "_copy")
    threads = [threading.Thread(target=staged, args=(path, str(near))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(copies) == 1


def full(*args):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path, near, patch: near.rmdir(), "is no folder on .*: make it"),
        (
            lambda path, near, patch: patch.setattr(
                stage.shutil, "disk_usage", lambda p: SimpleNamespace(free=9)
            ),
            "has 0.00 GB left, .*train.beton takes",
        ),
        (
            lambda path, near, patch: patch.setattr(stage.os, "fsync", full),
            "No space left on device; give another",
        ),
        (
            lambda path, near, patch: path.write_bytes(path.read_bytes()[:-1] + b"?"),
            "not what was written",
        ),
        (lambda path, near, patch: path.unlink(), "cannot copy .*train.beton to .*: No such file"),
    ],
)
def test_a_copy_that_cannot_be_made_is_one_line_and_leaves_nothing(
    original, monkeypatch, change, message
):
    change(*original, monkeypatch)
    with pytest.raises(UserError, match=message) as e:
        staged(original[0], str(original[1]))
    assert "\n" not in str(e.value) and not [
        *original[1].rglob("*.beton"),
        *original[1].rglob("*.half"),
    ]


def test_training_reads_the_copy(paged, tmp_path):
    data = data_of(paged, size=16, stage=str(tmp_path))
    assert {s.file.path.parents[1] for s in data.splits.values()} == {tmp_path}
    assert same(copies(data.train_dataloader()), copies(data_of(paged, size=16).train_dataloader()))


def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def loader_of(path):
    images, augment = images_of(Beton(path)), Augment("resized", 32)

    def batches(epoch):
        return train_batches(permutation(0, epoch, len(images)), 64)

    return FFCVLoader(images, lambda epoch: augment, 0, batches, len(images) // 64, on_bad="count")


def memory_of_a_loader(folder):
    """Bytes that a loader of ImageNet's size takes, in a process where nothing was freed before."""
    for n in (2000, IMAGENET):  # the small one loads libraries
        make_tables(folder / f"{n}", n)
        gc.collect()
        before = rss()
        loader = loader_of(folder / f"{n}")
        begun = iter(loader)
        assert len(next(begun)[0]) == 64 and len(loader) == n // 64
        used = rss() - before
        begun.close()
    return used


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc"
)
def test_a_loader_of_imagenets_size_takes_100_mb(tmp_path):
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        used = pool.submit(memory_of_a_loader, tmp_path).result(200)
    assert 30e6 < used < 100e6
