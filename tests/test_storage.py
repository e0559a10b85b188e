"""What the job may use, copies on a local disk, and pages read ahead in bounded memory."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_data import data_of
from test_order import paged  # noqa: F401 -- a fixture

from lightning_resnet.data import limits, storage
from lightning_resnet.data.beton import Beton
from lightning_resnet.data.order import by_pages, train_batches
from lightning_resnet.data.sources import BetonFiles, Digits, images_of
from lightning_resnet.errors import UserError


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 16 cores and 64 GB with these files under /."""
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.setattr(limits, "cores", lambda: 16)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)

    def make(**files):
        for name, text in ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   64000000 kB\n"} | files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return make


V1 = "4:memory:/slurm/job_7\n3:cpuset:/\n1:cpu,cpuacct:/slurm/job_7\n0::/\n"


@pytest.mark.parametrize(
    ("files", "slurm", "threads", "memory"),
    [
        ({}, None, 16, 64_000_000 * 1024),
        ({}, "4", 4, 64_000_000 * 1024),
        ({}, "64", 16, 64_000_000 * 1024),
        ({}, "4(x2)", 16, 64_000_000 * 1024),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "350000 100000\n"}, None, 3, 64_000_000 * 1024),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, "4", 1, 64_000_000 * 1024),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "5000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            },
            None,
            16,
            5000,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes": "6000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/slurm/job_7/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/slurm/job_7/cpu.cfs_period_us": "100000\n",
            },
            None,
            2,
            6000,
        ),
    ],
)
def test_limits_of_affinity_slurm_and_control_groups(machine, monkeypatch, files, slurm, threads, memory):
    machine(**files)
    if slurm:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert (limits.threads(), limits.memory()) == (threads, memory)


def test_processes_share_the_machine_and_one_core_is_enough(machine, monkeypatch):
    assert limits.threads(4) == 4 and limits.threads(100) == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    assert limits.threads(4) == 8  # one process's already


def test_loaders_take_their_threads_from_there_and_leave_torchs_alone(paged, machine):  # noqa: F811
    before = torch.get_num_threads()
    loader = data_of(paged, batch_size=16).train_dataloader()
    assert loader.workers == 16
    list(loader)
    assert torch.get_num_threads() == before


def test_pages_are_read_ahead_and_dropped_in_bounded_memory(paged, monkeypatch):  # noqa: F811
    monkeypatch.setattr(storage, "WINDOW", 4)
    monkeypatch.setattr(storage, "LAG", 2)
    images = images_of(Beton(paged.files["train"]))
    held, peak = set(), 0

    def advise(fd, start, length, advice):
        assert fd == images.file.fd and length == images.file.page_size and start % length == 0
        (held.add if advice == os.POSIX_FADV_WILLNEED else held.remove)(start // length)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    plan = list(train_batches(by_pages(0, 1, images.pages, 4), 4))
    for at, positions in zip(plan, storage.read_ahead(images, plan), strict=True):
        assert np.array_equal(at, positions) and set(images.pages[at]) <= held
        peak = max(peak, len(held))
    assert not held and peak <= 11 < len(set(images.pages)) == 32


def test_auto_reads_ahead_a_file_larger_than_the_jobs_memory(paged, monkeypatch):  # noqa: F811
    images = images_of(Beton(paged.files["train"]))
    monkeypatch.setattr(storage, "memory", lambda: images.file.size)
    assert not storage.reads_ahead("auto", images, "pages") and storage.reads_ahead("process", images, "pages")
    monkeypatch.setattr(storage, "memory", lambda: images.file.size - 1)
    assert storage.reads_ahead("auto", images, "pages") and not storage.reads_ahead("os", images, "pages")
    assert not storage.reads_ahead("auto", images, "global")
    batches = [
        [x.clone() for x, _ in data_of(paged, batch_size=16, order="pages", cache=c).train_dataloader()]
        for c in ("os", "auto")
    ]
    assert all(torch.equal(x, y) for x, y in zip(*batches, strict=True))


# -- stage -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(paged, tmp_path):  # noqa: F811
    (tmp_path / "far").mkdir()
    for path in paged.files.values():
        for file in (path, path + ".json"):
            shutil.copy(file, tmp_path / "far")
    return BetonFiles(*(str(tmp_path / "far" / f"{name}.beton") for name in ("train", "val")))


def staged(folder):
    return {p.name: p.stat().st_ino for p in folder.glob("*.beton")}


def test_files_are_staged_once_and_used_again(source, tmp_path, monkeypatch):
    near = tmp_path / "near"
    near.mkdir()
    monkeypatch.setenv("NEAR", str(near))
    for _ in range(2):
        data = data_of(source, batch_size=16, stage="$NEAR")
        assert all(images.file.path.parent == near for images in data.splits.values())
        assert data.splits["train"].file.crcs is not None
        copies = staged(near)
        assert len(copies) == 2 and not [*near.glob("*.part")]
    assert len(list(data.train_dataloader())) == 10
    with open(source.files["train"], "ab") as file:  # another version
        file.write(bytes(24))
    shutil.copy(source.files["val"], tmp_path / "other.beton")
    os.utime(source.files["val"])
    data_of(BetonFiles(source.files["val"], source.files["val"]), batch_size=16, stage=str(near))
    assert copies.items() < staged(near).items()


def test_a_half_copy_is_made_anew(source, tmp_path):
    copy = storage.stage(Beton(source.files["train"]), str(tmp_path)).path
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1000])
    copy.with_suffix(".part").write_bytes(whole[:500])
    assert storage.stage(Beton(source.files["train"]), str(tmp_path)).path == copy
    assert copy.read_bytes() == whole and not copy.with_suffix(".part").exists()


def test_ranks_that_start_together_make_one_copy(source, tmp_path, monkeypatch):
    copies, copy = [], storage._copy
    monkeypatch.setattr(storage, "_copy", lambda *args: (copies.append(args), time.sleep(0.1), copy(*args)))
    with ThreadPoolExecutor(3) as pool:  # each opens the lock for itself, as processes do
        list(pool.map(lambda _: storage.stage(Beton(source.files["train"]), str(tmp_path)), range(3)))
    assert len(copies) == 1


def test_staging_that_fails_is_one_line_and_leaves_nothing(source, tmp_path, monkeypatch):
    near = tmp_path / "near"
    with pytest.raises(UserError, match="no folder .*near to stage .* set --data.stage"):
        data_of(source, batch_size=16, stage=str(near))
    near.mkdir()
    with pytest.raises(UserError, match="stage copies .beton files, of which Digits has none"):
        data_of(Digits(), stage=str(near))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
        with pytest.raises(UserError, match=r"cannot stage .* GB\) in .*near: no space left .*; make room or drop"):
            data_of(source, batch_size=16, stage=str(near))
    with open(source.files["train"], "r+b") as file:
        file.seek(-3000, os.SEEK_END)
        file.write(b"damage")
    with pytest.raises(UserError, match="train.beton is damaged: `resnet-cli data verify"):
        data_of(source, batch_size=16, stage=str(near))
    assert not staged(near) and not [*near.glob("*.part")]
