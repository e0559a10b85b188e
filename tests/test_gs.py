"""Images come from Google's object store as from others; a small part of its API is on loopback."""

import io
import os

import fsspec
import pytest
from fsspec.config import conf
from helpers import gcs
from PIL import Image

from lightning_resnet.bench.layouts import shard
from lightning_resnet.data import remote
from lightning_resnet.data.beton.format import Beton
from lightning_resnet.errors import UserError


@pytest.fixture
def bucket(monkeypatch):
    """Serve an empty bucket `b`, read without credentials."""
    # gcsfs would otherwise ask a second service, by gRPC, what kind of bucket it is
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip("gcsfs")
    monkeypatch.setitem(conf, "gs", {"token": "anon"})
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    with gcs.serving("b", {}, monkeypatch) as served:
        yield served
    fsspec.get_filesystem_class("gs").clear_instance_cache()


@pytest.mark.parametrize("root", ["gs://b/s", "gs://b/s/x-train-{0000..0002}.tar"])
def test_shards_come_from_a_bucket_once(cli, tmp_path, bucket, root):
    rows = [(f"image{i}", jpeg, i % 3) for i, jpeg in enumerate(jpegs(6))]
    bucket.objects |= {f"s/x-train-{i:04}.tar": shard(rows, str) for i in range(3)}
    stage = tmp_path / "stage"
    stage.mkdir()
    write = ["data", "write", "webdataset", "--root", root, "--stage", stage, "--workers", 1]
    code, _, err = cli(*write, "--out", tmp_path / "t.beton")
    assert code == 0 and len(Beton(tmp_path / "t.beton")) == 15, err  # a fifth validates
    sent = bucket.sent
    assert cli(*write, "--split", "val", "--out", tmp_path / "v.beton")[0] == 0
    assert bucket.sent == sent, "no shard came again"


def test_a_copy_from_a_bucket_continues_and_what_is_missing_is_one_line(
    tmp_path, bucket, monkeypatch
):
    monkeypatch.setattr(remote, "BLOCK", 4000)
    bucket.objects["d/a.tar"] = os.urandom(20_000)
    former = remote._read
    reads = []

    def stops(stream):
        reads.append(stream)
        if len(reads) == 3:
            raise KeyboardInterrupt
        return former(stream)

    monkeypatch.setattr(remote, "_read", stops)
    with pytest.raises(KeyboardInterrupt):
        remote.copied("gs://b/d/a.tar", str(tmp_path))
    bucket.sent = 0
    copy = remote.copied("gs://b/d/a.tar", str(tmp_path))
    assert copy.read_bytes() == bucket.objects["d/a.tar"] and bucket.sent == 12_000
    assert remote.look("gs://b/d/a.tar", "/not/here") is None and bucket.sent < 17_000
    for address, told in (
        ("gs://b/d/none.tar", r"there is no gs://b/d/none.tar \(404\)"),
        ("gs://b/none", "no files of .tar in gs://b/none"),
    ):
        with pytest.raises(UserError, match=told) as e:
            remote.copied(address, str(tmp_path), (".tar",))
        assert "\n" not in str(e.value)


def jpegs(n):
    """Return small images, as bytes."""
    found = []
    for i in range(n):
        file = io.BytesIO()
        Image.new("RGB", (20 + i, 24), (10 * i, 99, 5)).save(file, "JPEG")
        found.append(file.getvalue())
    return found
