"""What lies in an object store or on a web server is copied once, checked, and then read here."""

import hashlib
import io
import signal
import threading
import time
from urllib.parse import quote

import fsspec
import numpy as np
import pytest
import yaml
from helpers.command_line import REPOSITORY
from PIL import Image

from lightning_resnet.bench.layouts import MAKERS, Contents, shard
from lightning_resnet.bench.store import serving
from lightning_resnet.config.recipe import parse
from lightning_resnet.data import remote
from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.images import Images
from lightning_resnet.data.module import ImageData
from lightning_resnet.data.sources import BetonFiles, ImageNet, Subset
from lightning_resnet.errors import UserError
from lightning_resnet.runs.identity import run_id

WNIDS = ["n02119789", "n01440764", "n01443537"]


def jpeg(i):
    file = io.BytesIO()
    colours = np.random.default_rng(i).integers(0, 255, (3, 4, 3), np.uint8)
    Image.fromarray(colours).resize((20 + i, 24)).save(file, "JPEG")
    return file.getvalue()


TRAIN = {f"{WNIDS[i % 3]}_{i}": jpeg(i) for i in range(9)}
VAL = {f"ILSVRC2012_val_{i:08}": jpeg(50 + i) for i in range(1, 7)}
TRUTH = {name: WNIDS[i % 3] for i, name in enumerate(VAL)}
ALL = Contents(TRAIN, VAL, TRUTH, WNIDS)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    monkeypatch.setattr(remote, "SILENCE_S", 5)


@pytest.fixture
def stage(tmp_path):
    folder = tmp_path / "stage"
    folder.mkdir()
    return folder


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()


def files_in(folder, front=""):
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[f"{front}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    return found


def rows(n=6):
    return [(f"image{i}", jpeg(i), i % 3) for i in range(n)]


def betons(folder, name="t", n=12):
    pixels = np.random.default_rng(0).integers(0, 255, (n, 8, 8, 3), np.uint8)
    images = Images(np.arange(n), np.arange(n) % 3, pixels)
    out = folder / f"{name}.beton"
    return write_beton(images, out, classes=list("abc"), workers=1, progress=False)


@pytest.mark.parametrize("layout", MAKERS)
def test_each_layout_makes_the_same_beton_from_a_store(tmp_path, stage, memory, layout):
    pytest.importorskip("pyarrow")
    MAKERS[layout](tmp_path / "local", ALL)
    for path, content in files_in(tmp_path / "local", "/bucket/i n").items():
        memory.pipe_file(path, content)
    sums = set()
    for root in (str(tmp_path / "local"), "memory://bucket/i n"):
        source = ImageNet(root, expect=False)
        source.stage = str(stage)
        images = source.splits()["train"]
        out = tmp_path / "x.beton"
        write_beton(images, out, classes=source.classes, workers=1, progress=False)
        sums.add(hashlib.sha256(out.read_bytes()).hexdigest())
        out.unlink()
    assert len(sums) == 1
    assert not list(stage.rglob("*.part"))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("by", ["listing", "numbers", "one"])
def test_shards_come_from_a_web_server(tmp_path, stage, cli, monkeypatch, ranges, by):
    monkeypatch.setattr(remote, "BLOCK", 1000)
    files = {f"/s/x-train-{i:04}.tar": shard(rows(), str) for i in range(3)}
    root = {"listing": "/s", "numbers": "/s/x-train-{0000..0002}.tar", "one": "/s/x-train-0001.tar"}
    with serving(files, lists=by == "listing", ranges=ranges) as store:
        out = tmp_path / "t.beton"
        write = ["data", "write", "webdataset", "--root", store.url + root[by], "--stage", stage]
        code, _, err = cli(*write, "--out", out, "--workers", 1)
        assert code == 0, err
        assert len(Beton(out)) == (5 if by == "one" else 15)  # a fifth validates
        sent = store.sent
        assert cli(*write, "--split", "val", "--out", tmp_path / "v.beton", "--workers", 1)[0] == 0
        assert store.sent - sent < 1000  # a listing; no shard came again


def test_folders_of_classes_come_from_a_web_server(tmp_path, stage, cli):
    MAKERS["folders"](tmp_path / "local", ALL)
    files = files_in(tmp_path / "local", "/f")
    files["/f/train/notes.html"] = b"<html>"
    with serving(files) as store:
        store.extra_links = ("../../../etc/x.jpg", "%2e%2e/y.jpg", "?C=N;O=D", "http://a/x.jpg")
        store.extra_links += (f"{quote(str(tmp_path / 'out/z.jpg'), safe='')}", "a%00.jpg")
        flags = ["--root", f"{store.url}/f", "--stage", stage, "--workers", 1]
        code, out, err = cli("data", "write", "image_folder", *flags, "--out", tmp_path / "t.beton")
        assert code == 0, err
        assert len(Beton(tmp_path / "t.beton")) == 9
        assert not [path for _, path, _ in store.asked if "etc" in path]
    assert not list(tmp_path.glob("**/[yz].jpg")) and not list(stage.rglob("*.html"))


def test_a_cut_connection_continues_and_a_dead_one_is_one_line(tmp_path, stage, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 4000)
    path = betons(tmp_path)
    files = {"/t.beton": path.read_bytes()[:20_000], "/x": b""}
    with serving(files) as store:
        store.cut["/t.beton"] = 3000
        with pytest.raises(UserError, match="cannot be read .* 3 tries.*: the same command") as e:
            remote.copied(f"{store.url}/t.beton", str(stage))
        assert "\n" not in str(e.value)
        store.cut["/t.beton"] = 4000
        stopped = [0]
        former = remote._read

        def stops(stream):
            stopped[0] += 1
            if stopped[0] == 3:
                raise KeyboardInterrupt
            return former(stream)

        monkeypatch.setattr(remote, "_read", stops)
        with pytest.raises(KeyboardInterrupt):
            remote.copied(f"{store.url}/t.beton", str(stage))
        store.sent = 0
        copy = remote.copied(f"{store.url}/t.beton", str(stage))
        assert copy.read_bytes() == files["/t.beton"] and store.sent == 12_000
        store.status["/t.beton.json"] = 503
        with pytest.raises(UserError, match="503"):  # a copy without its manifest is not checked
            remote.copied(f"{store.url}/t.beton", str(stage))


def copies_of(url, stage, **options):
    """Copy, and return the path of the copy and how many bytes came."""
    store = options.pop("store")
    sent = store.sent
    return remote.copied(url, str(stage), **options), store.sent - sent


@pytest.mark.parametrize("described", [True, False])
def test_a_file_without_size_and_version_is_copied_once(stage, monkeypatch, capsys, described):
    files = {"/s/x.tar": bytes(5000), "/s/y.tar": bytes(10)}
    with serving(files, described=described) as store:
        for url, size in ((f"{store.url}/s/x.tar", 5000), (f"{store.url}/s", 5010)):
            found = [copies_of(url, stage, suffixes=(".tar",), store=store) for _ in range(2)]
            assert found[0][1] >= size
            # nothing but a listing; without sizes fsspec begins to read each file to learn them
            assert found[1][1] < (1000 if described else found[0][1] / 2)
        assert "neither size nor version" not in capsys.readouterr().out
        monkeypatch.setattr(remote, "OLD_S", -1)
        copy, _ = copies_of(f"{store.url}/s/x.tar", stage, store=store)
        told = "tells neither size nor version" in capsys.readouterr().out
        assert copy.read_bytes() == files["/s/x.tar"] and told is not described


def test_two_sources_of_one_address_keep_their_copies(stage):
    files = {"/s/x.tar": b"tar", "/s/a.jpg": b"jpg"}
    with serving(files) as store:
        for _ in range(2):
            tars = remote.copied(f"{store.url}/s", str(stage), (".tar",))
            images = remote.copied(f"{store.url}/s", str(stage), (".jpg",))
            assert (tars / "x.tar").read_bytes() == b"tar"
            assert (images / "a.jpg").read_bytes() == b"jpg"
        assert [path for _, path, _ in store.asked].count("/s/x.tar") <= 5  # 2 lists and 1 copy


@pytest.mark.parametrize("stopped_by", ["error", "ctrl-c"])
def test_an_error_or_ctrl_c_does_not_wait_for_a_silent_server(stage, monkeypatch, stopped_by):
    monkeypatch.setattr(remote, "SILENCE_S", 60)
    files = {f"/s/x-{i}.tar": bytes(100) for i in range(20)}
    with serving(files) as store:
        store.silent |= {f"/s/x-{i}.tar" for i in range(1, 20)}
        if stopped_by == "error":
            store.status["/s/x-0.tar"] = 200
            monkeypatch.setattr(remote, "_status", lambda e: 404)
            store.cut["/s/x-0.tar"] = 10
        else:
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 1.5)
        start = time.monotonic()
        with pytest.raises((UserError, KeyboardInterrupt)) as e:
            remote.copied(f"{store.url}/s/x-{{0..19}}.tar", str(stage))
        assert time.monotonic() - start < 20
        assert (e.type is KeyboardInterrupt) == (stopped_by == "ctrl-c")
        alive = [thread for thread in threading.enumerate() if thread.name.startswith("copy")]
        assert all(thread.daemon for thread in alive), "the interpreter's end does not wait"


def test_a_signed_address_that_has_expired_says_so_and_the_next_one_continues(stage):
    with serving({"/t.tar": bytes(100)}) as store:
        first = remote.copied(f"{store.url}/t.tar?X-Amz-Signature=aaaa&versionId=3", str(stage))
        again = remote.copied(f"{store.url}/t.tar?versionId=3&X-Amz-Signature=bbbb", str(stage))
        other = remote.copied(f"{store.url}/t.tar?versionId=4&X-Amz-Signature=bbbb", str(stage))
        assert first == again != other
        for query in (
            "X-Amz-Signature=a&X-Amz-Expires=9",
            "sig=b&se=2026",
            "Signature=x&Expires=1",
        ):
            for number in (400, 403):
                store.status["/t.tar"] = number
                with pytest.raises(UserError, match="has expired.*: get a new signed address") as e:
                    remote.copied(f"{store.url}/t.tar?{query}", str(stage))
                assert "\n" not in str(e.value) and f"({number})" in str(e.value)


def test_a_submission_looks_at_remote_data_and_copies_none(tmp_path, monkeypatch, cli):
    for name in ("sbatch", "squeue"):
        tmp_path.joinpath(name).write_text("#!/bin/sh\n[ $0 = squeue ] || echo 7\n")
        tmp_path.joinpath(name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    files = {f"/d/{name}": path.read_bytes() for name, path in (("t.beton", betons(tmp_path)),)}
    stage = tmp_path / "only/on/nodes"
    with serving(files) as store:
        sweep = {
            "name": "s",
            "method": "grid",
            "command": ["resnet-cli", "fit", "--config", "digits", "--config", "${args_json_file}"],
            "parameters": {
                "data.source": {"value": "BetonFiles"},
                "data.source.train": {"value": f"{store.url}/d/t.beton"},
                "data.source.val": {"value": f"{store.url}/d/t.beton"},
                "data.stage": {"value": str(stage)},
                "seed_everything": {"values": [0, 1]},
            },
        }
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(sweep))
        code, out, err = cli("sweep", "s.yaml", "--submit")
        assert code == 0 and "submitted as job" in out, err
        assert not stage.exists() and store.sent < 100_000
        del files["/d/t.beton"]
        code, _, err = cli("sweep", "s.yaml", "--submit", "--root", "other")
        assert code == 2 and "t.beton (404)" in err and "--yes submits it" in err, err
        assert not (tmp_path / "other").exists()


def test_a_beton_is_staged_by_name_only(tmp_path, stage, cli, memory):
    train = betons(tmp_path)
    for name in ("t.beton", "t.beton.json"):
        memory.pipe_file(f"/b/{name}", (tmp_path / name).read_bytes())
    urls = ("memory://b/t.beton", "memory://b/t.beton")
    source = Subset(BetonFiles(*urls), holdout=3)
    with pytest.raises(UserError, match="t.beton is on a network, .* add --data.stage DIR"):
        ImageData(source, batch_size=4).setup("fit")
    data = ImageData(source, batch_size=4, stage=str(stage))
    data.setup("fit")
    copy = data.splits["train"].file.path
    assert stage in copy.parents and copy.read_bytes() == train.read_bytes()
    assert len(list(stage.rglob("*.beton"))) == 1 and len(data.splits["val"]) == 3
    before = copy.stat().st_ino
    ImageData(source, batch_size=4, stage=str(stage)).setup("fit")
    assert copy.stat().st_ino == before
    memory.pipe_file("/b/t.beton", train.read_bytes())  # a new time of change
    ImageData(source, batch_size=4, stage=str(stage)).setup("fit")
    assert copy.stat().st_ino != before
    damaged = bytearray(train.read_bytes())
    damaged[int(Beton(train).images["data_ptr"][5]) + 3] ^= 255
    memory.pipe_file("/b/t.beton", bytes(damaged))
    with pytest.raises(UserError, match="is not what its manifest says: the same command copies"):
        ImageData(source, batch_size=4, stage=str(stage)).setup("fit")
    for verb in ("info", "verify"):
        code, _, err = cli("data", verb, "memory://b/t.beton")
        assert code == 2 and "no .beton is read" in err and err.count("\n") == 1


def test_an_id_does_not_depend_on_the_store():
    ids = set()
    for where in (
        "/x/t.beton",
        "s3://bucket/t.beton",
        "https://host/y/t.beton",
        "https://h/t.beton?v=2",
    ):
        flags = ["--data.source", "BetonFiles", "--data.source.train", where]
        flags += ["--data.source.val", where, "--data.stage", "/scratch"]
        config = parse("fit", ["--config", str(REPOSITORY / "configs/digits.yaml"), *flags])
        ids.add(run_id(yaml.safe_load(config.resolved)))
    assert len(ids) == 1


def test_what_is_missing_is_one_line_with_a_cure(tmp_path, stage, cli, monkeypatch, memory):
    def fails(root, *words, source="webdataset", staged=True):
        flags = ["--root", root, "--out", tmp_path / "o.beton"]
        code, _, err = cli("data", "write", source, *flags, *(["--stage", stage] * staged))
        assert code == 2 and err.count("\n") == 1, err
        for word in words:
            assert word in err
        assert not (tmp_path / "o.beton").exists()

    monkeypatch.setattr(remote, "url_to_fs", _without("s3fs"))
    fails("s3://bucket/x", "needs s3fs: pip install s3fs")
    monkeypatch.undo()
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    fails("memory://b", "add --stage DIR", staged=False)
    fails("memory://b/none", "no files of .tar in memory://b/none: give the address")
    fails("memory://b/none-train-{0..2}.tar", "(404): look at the spelling of the address")
    for i in (0, 1, 3):
        memory.pipe_file(f"/shards/x-train-000{i}.tar", b"x")
    fails("memory://shards/x-train-{0000..0003}.tar", "no memory:///shards/x-train-0002.tar (404)")
    memory.pipe_file("/b/readme.txt", b"")
    fails("memory://b", "no files of .tar")
    fails("nonsense://b", "fsspec knows no nonsense://")
    fails("memory://b/{5..3}.tar", "give the lower number first")
    with serving({"/a/x-train-0.tar": b"x"}, lists=False) as store:
        fails(f"{store.url}/a", "NAME-train-{0000..1023}.tar", "need not list")
        fails(f"{store.url}/a/y-train-0.tar", "(404): look at the spelling")
        store.status["/a/x-train-0.tar"] = 403
        fails(f"{store.url}/a/x-train-0.tar", "(403)", "credentials", "signed address")
        store.status["/a/x-train-0.tar"] = 503
        fails(f"{store.url}/a/x-train-0.tar", "503", "the same command continues")
        gone = store.url
    fails(f"{gone}/a/x-train-0.tar", "cannot be read")
    code, _, err = cli("data", "write", "digits", "--out", "s3://b/o.beton")
    assert code == 2 and "write it here, and then copy it there" in err


def _without(package):
    def refuse(*args, **kwargs):
        raise ImportError(f"Install {package} to access S3")

    return refuse


def test_credentials_that_are_missing_are_one_line():
    class NoCredentialsError(Exception):
        pass

    error = remote._refusal("s3://b/x", NoCredentialsError("Unable to locate credentials"))
    assert "aws configure" in str(error) and "FSSPEC_S3" in str(error)
    error = remote._refusal("gs://b/x", PermissionError("Forbidden"))
    assert "gcloud auth" in str(error)


def test_the_benchmark_reads_shards_in_each_way(cli):
    code, out, err = cli("bench", "remote", "--images", 16, "--latency-ms", 1, "--repeat", 1)
    assert code == 0, err
    assert len([line for line in out.splitlines() if line.startswith("| ")]) == 5


def test_shards_that_would_all_have_one_name_are_refused():
    with pytest.raises(UserError, match=r"all files have one name: give the folder above"):
        remote._listed("https://host.invalid/{0..3}/train.tar", None, (".tar",))
