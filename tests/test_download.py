"""`resnet-cli data get` from hosts that are slow, silent, cut off or wrong, and from copies."""

import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import re
import sys
import tarfile
import threading
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from lightning_resnet import CIFAR10, FashionMNIST
from lightning_resnet.data import download, published
from lightning_resnet.data.download import Limits
from lightning_resnet.data.published import DataSet, Layout, RemoteFile
from lightning_resnet.errors import UserError

TAR = "cifar-10-python.tar.gz"
ROWS = 20  # images of each of the six files
QUICK = Limits(silence_s=1, floor=1e6, window_s=0.3, tries=3, pause_s=0.01)


def md5(content):
    return hashlib.md5(content).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def tar_of(files, compression="gz"):
    """Pack (member, content) pairs; a member is a name or a TarInfo.

    The bytes hold no time: names of tests contain their digest, and all processes of one run
    must collect the same names.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for member, content in files:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    compress = {"gz": partial(gzip.compress, mtime=0), "xz": lzma.compress, "": bytes}[compression]
    return compress(packed.getvalue())


class Cifar:
    """A small CIFAR-10 in its three forms: files for Python, for C, and Hugging Face's parquet."""

    def __init__(self):
        rng = np.random.default_rng(0)
        names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        self.python = {}
        self.binary = {}
        self.rows = {}
        for name in names:
            pixels = rng.integers(0, 256, (ROWS, 3 * 32 * 32), np.uint8)
            labels = rng.integers(0, 10, ROWS).tolist()
            self.python[name] = pickle.dumps({"data": pixels, "labels": labels})
            self.binary[f"{name}.bin"] = b"".join(
                bytes([y]) + x.tobytes() for x, y in zip(pixels, labels, strict=True)
            )
            self.rows[name] = (pixels, labels)
        classes = "airplane automobile bird cat deer dog frog horse ship truck".split()
        self.python["batches.meta"] = pickle.dumps({"label_names": classes})
        self.python_layout = Layout(
            "cifar-10-batches-py", {name: md5(c) for name, c in self.python.items()}
        )
        self.binary_layout = Layout(
            "cifar-10-batches-bin", {name: sha256(c) for name, c in self.binary.items()}
        )
        folder = tarfile.TarInfo("cifar-10-batches-py")
        folder.type = tarfile.DIRTYPE
        order = ["data_batch_4", "test_batch", "data_batch_3", "batches.meta", "data_batch_2"]
        order += ["data_batch_5", "data_batch_1"]  # as in the published archive
        self.members = [(f"cifar-10-batches-py/{name}", self.python[name]) for name in order]
        readme = ("cifar-10-batches-py/readme.html", b"<html>")
        self.tar = tar_of([(folder, b""), readme, *self.members])

    def parquet(self, names):
        """Rows in the order of the files given."""
        import pyarrow
        import pyarrow.parquet

        images = []
        labels = []
        for name in names:
            for x, y in zip(*self.rows[name], strict=True):
                png = io.BytesIO()
                Image.fromarray(x.reshape(3, 32, 32).transpose(1, 2, 0)).save(png, "PNG")
                images.append({"bytes": png.getvalue(), "path": None})
                labels.append(y)
        out = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({"img": images, "label": labels}), out)
        return out.getvalue()

    def expected(self):
        """Pixels of the training images as `CIFAR10` returns them."""
        train = [self.rows[f"data_batch_{i}"][0] for i in range(1, 6)]
        return np.concatenate(train).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


SMALL = Cifar()


class Host(BaseHTTPRequestHandler):
    """Loopback host: /MANNER/FILE is answered in that manner."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):  # noqa: N802
        with suppress(ConnectionError):
            self.server.asked.append((self.path, self.headers.get("Range")))
            _, manner, name = self.path.rsplit("/", 2)
            getattr(self, f"be_{manner}")(self.server.files.get(name))

    def head(self, status=200, length=None, **fields):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for field, value in fields.items():
            self.send_header(field.replace("_", "-"), value)
        self.end_headers()

    def be_good(self, content, until=None):
        """Answer ranges; `until`: bytes after which the connection is closed."""
        start = 0
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range", '"v1"') == '"v1"':
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        rest = len(content) - start
        if start:
            last = len(content) - 1
            extent = f"bytes {start}-{last}/{len(content)}"
            self.head(206, rest, ETag='"v1"', Content_Range=extent)
        else:
            self.head(200, rest, ETag='"v1"')
        self.wfile.write(content[start:][:until])
        if until:
            self.close_connection = True

    be_parquet = be_good

    def be_cut(self, content):
        self.be_good(content, until=len(content) // 3)

    def be_dead(self, content):
        self.head(200, len(content))
        self.close_connection = True

    def be_plain(self, content):
        """Know no ranges."""
        self.head(200, len(content))
        self.wfile.write(content)

    def be_open(self, content):
        """Tell no length."""
        self.head(200)
        self.wfile.write(content)
        self.close_connection = True

    def be_slow(self, content):
        self.head(200, len(content), ETag='"v0"')
        for i in range(0, len(content), 10_000):
            self.wfile.write(content[i : i + 10_000])
            if self.server.ended.wait(0.05):
                return

    def be_silent(self, content):
        self.head(200, len(content))
        self.wfile.write(content[:1000])
        self.server.ended.wait(20)

    def be_mute(self, content):
        self.server.ended.wait(20)

    def be_dripping(self, content):
        """Send a header without an end."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Pad: ")
        while not self.server.ended.wait(0.05):
            self.wfile.write(b".")

    def be_wrong(self, content):
        self.be_plain(bytes(len(content)))

    def be_login(self, content):
        page = b"<html>Please log in</html>"
        self.head(200, len(page), Content_Type="text/html")
        self.wfile.write(page)

    def be_longer(self, content):
        self.be_open(content + b"more")

    def be_elsewhere(self, content):
        """Send another part than asked for."""
        if not self.headers.get("Range"):
            return self.be_good(content)
        self.head(206, 10, Content_Range=f"bytes 0-9/{len(content)}")
        self.wfile.write(content[:10])

    def be_moved(self, content):
        self.head(302, 0, Location=self.path.replace("/moved/", "/good/"))

    def be_round(self, content):
        self.head(302, 0, Location=self.path)

    def be_file(self, content):
        self.head(302, 0, Location="file:///etc/hostname")

    def be_missing(self, content):
        self.head(404, 0)

    def be_forbidden(self, content):
        self.head(403, 0)

    def be_broken(self, content):
        self.head(500, 0)


@pytest.fixture
def host(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.daemon_threads = True
    server.asked = []
    server.ended = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.files = {
        TAR: SMALL.tar,
        "train.parquet": SMALL.parquet([f"data_batch_{i}" for i in (4, 3, 2, 5, 1)]),
        "test.parquet": SMALL.parquet(["test_batch"]),
    }
    thread = threading.Thread(target=partial(server.serve_forever, 0.02), daemon=True)
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def small(host, monkeypatch):
    """Make `data get cifar10` mean the small one, on hosts of the manners given."""

    def make(*manners):
        hosts = []
        for manner in manners:
            base = f"{host.url}/{manner}/"
            archive = RemoteFile(base + TAR, len(SMALL.tar), md5(SMALL.tar))
            train = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
            parquet = (
                RemoteFile(f"{base}train.parquet", fills=train),
                RemoteFile(f"{base}test.parquet", fills=("test_batch.bin",)),
            )
            hosts.append(parquet if manner.startswith("parquet") else (archive,))
        layouts = (SMALL.python_layout, SMALL.binary_layout)
        made = DataSet(layouts, tuple(hosts), 32, ("img", "label"))
        monkeypatch.setitem(published.SETS, "cifar10", made)

    make("good")
    digests = SMALL.python_layout.digests
    batches = [[f"data_batch_{i}", digests[f"data_batch_{i}"]] for i in range(1, 6)]
    reader = torchvision.datasets.CIFAR10
    monkeypatch.setattr(reader, "train_list", batches)
    monkeypatch.setattr(reader, "test_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setitem(reader.meta, "md5", digests["batches.meta"])
    monkeypatch.setattr(CIFAR10, "binary", SMALL.binary_layout)
    return make


def check(root):
    """Read what was got, and look for what was left."""
    source = CIFAR10(str(root))
    splits = source.splits()
    assert np.array_equal(splits["train"].pixels, SMALL.expected())
    assert splits["train"].labels.tolist() == sum(
        (SMALL.rows[f"data_batch_{i}"][1] for i in range(1, 6)), []
    )
    assert splits["val"].labels.tolist() == SMALL.rows["test_batch"][1]
    assert source.classes[3] == "cat"
    assert {p.name for p in root.iterdir()} <= {"cifar-10-batches-py", "cifar-10-batches-bin", TAR}
    assert not [p for p in root.rglob("*") if p.name.endswith(".tmp")]


def test_the_layout_of_the_published_archive_is_read(cli, small, host, tmp_path):
    code, out, _ = cli("data", "get", "CIFAR-10", "--root", "d")
    assert code == 0
    flags = "--data.source CIFAR10 --data.source.root d"
    assert out.endswith(
        f"cifar10 is in d, from {published.SETS['cifar10'].hosts[0][0].host}: {flags}\n"
    )
    check(tmp_path / "d")
    assert "there already" in cli("data", "get", "cifar10", "--root", "d")[1]
    assert len(host.asked) == 1


@pytest.mark.parametrize(
    ("first", "line"),
    [
        ("slow", r"slow: \d+ kB/s over 0.3 s, less than 1000"),
        ("silent", "silent for 1 s"),
        ("mute", "no answer within 1 s"),
        ("dripping", "no answer within 1 s"),
        ("wrong", f"wrong bytes: MD5 [0-9a-f]+ is not the published {md5(SMALL.tar)}"),
        ("login", r"answers with 26 bytes of text/html, the file has [\d,]+ \(a login page, or"),
        ("longer", "sends more than the"),
        ("dead", r"cut off at 0 of [\d,]+ bytes; given up after 3 tries"),
        ("round", "redirects in a circle, or not to http"),
        ("file", "redirects in a circle, or not to http"),
        ("missing", "answers 404 Not Found"),
        ("forbidden", "answers 403 Forbidden"),
        ("broken", "answers 500 Internal Server Error; given up after 3 tries"),
    ],
)
def test_a_bad_host_is_left_for_the_next_one(small, host, tmp_path, capsys, first, line):
    small(first, "good")
    assert published.get("cifar10", tmp_path / "d", limits=QUICK) == f"from {host.url[7:]}"
    lines = capsys.readouterr().out.splitlines()
    name = host.url[7:]
    assert [words for words in lines if words.startswith("getting")] == [
        f"getting cifar10 from {name}"
    ] * 2
    assert re.search(f"^{name}: {line}", "\n".join(lines), re.M), lines
    check(tmp_path / "d")
    if first in ("slow", "silent"):  # the second host continues what the first one began
        assert host.asked[-1][1].startswith("bytes=")


@pytest.mark.parametrize("manner", ["cut", "moved", "plain", "open", "good"])
def test_a_host_that_has_its_own_ways_is_enough(small, host, tmp_path, capsys, manner):
    small(manner)
    published.get("cifar10", tmp_path / "d", limits=QUICK)
    check(tmp_path / "d")
    if manner == "cut":
        third = len(SMALL.tar) // 3
        assert host.asked[:2] == [(f"/cut/{TAR}", None), (f"/cut/{TAR}", f"bytes={third}-")]
        assert f"cut off at {third:,} of {len(SMALL.tar):,} bytes" in capsys.readouterr().out


def without_bytes(value):
    """Return the name of a parameter: an archive holds the time, so each process has another."""
    return "archive" if isinstance(value, bytes) else None


@pytest.mark.parametrize(
    ("begun", "manner", "ranges"),
    [
        (SMALL.tar[:5000], "good", ["bytes=5000-"]),
        (SMALL.tar, "good", []),
        (SMALL.tar[:5000], "plain", ["bytes=5000-"]),
        (SMALL.tar[:5000], "elsewhere", ["bytes=5000-", None]),
        (bytes(5000), "good", ["bytes=5000-", None]),  # wrong bytes, perhaps of another host
        (bytes(len(SMALL.tar) + 1), "good", [None]),
    ],
    ids=without_bytes,
)
def test_a_part_is_continued_or_refused(small, host, tmp_path, begun, manner, ranges):
    small(manner)
    part = tmp_path / "d" / "cifar10.part" / TAR
    part.parent.mkdir(parents=True)
    part.write_bytes(begun)
    published.get("cifar10", tmp_path / "d", limits=QUICK)
    check(tmp_path / "d")
    assert [asked[1] for asked in host.asked] == ranges


def test_a_file_that_has_changed_on_its_host_starts_again(host, tmp_path):
    part = tmp_path / "f"
    part.write_bytes(b"old")
    url = f"{host.url}/good/{TAR}"
    part.with_name("f.json").write_text(json.dumps({"url": url, "validator": '"v0"'}))
    download.download(url, part, limits=QUICK)
    assert part.read_bytes() == SMALL.tar
    download.download(url, part, limits=QUICK)  # nothing is left to send
    part.with_name("f.json").write_text(json.dumps({"url": "http://other", "validator": '"v1"'}))
    download.download(url, part, limits=QUICK)
    assert part.read_bytes() == SMALL.tar


def test_slow_hosts_are_used_if_no_other_one_answers(small, host, tmp_path, capsys):
    small("slow", "missing")
    published.get("cifar10", tmp_path / "d", limits=QUICK)
    check(tmp_path / "d")
    assert [path for path, _ in host.asked] == [f"/{m}/{TAR}" for m in ("slow", "missing", "slow")]


def test_all_hosts_failed_is_one_line_with_a_cure(cli, small, host, tmp_path):
    small("missing", "wrong")
    code, out, err = cli("data", "get", "cifar10", "--root", "d")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("error: could not get cifar10 from 2 hosts, for the reasons above: set ")
    assert f"get {host.url}/missing/{TAR} elsewhere, and add --from PATH" in err
    assert out.count("\n") == 4
    assert not list((tmp_path / "d").iterdir())


def test_parquet_becomes_files_whose_order_is_proven(small, host, tmp_path, capsys):
    small("missing", "parquet")
    published.get("cifar10", tmp_path / "d", limits=QUICK)
    check(tmp_path / "d")
    folder = tmp_path / "d" / "cifar-10-batches-bin"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == SMALL.binary
    host.files["train.parquet"] = SMALL.parquet([f"data_batch_{i}" for i in (4, 3, 2, 5, 5)])
    with pytest.raises(UserError, match="could not get cifar10"):
        published.get("cifar10", tmp_path / "e", limits=QUICK)
    assert "the rows of train.parquet are not those of data_batch_1.bin" in capsys.readouterr().out
    host.files["train.parquet"] = b"PAR1 no parquet"
    with pytest.raises(UserError, match="could not get cifar10"):
        published.get("cifar10", tmp_path / "f", limits=QUICK)
    assert "train.parquet cannot be read" in capsys.readouterr().out
    assert not list((tmp_path / "f").iterdir())


def test_parquet_needs_pyarrow_and_the_host_before_is_then_the_last(
    small, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    small("slow", "parquet")
    published.get("cifar10", tmp_path / "d", limits=QUICK)
    check(tmp_path / "d")
    out = capsys.readouterr().out
    assert "pip install 'lightning_resnet[parquet]'" in out and "slow:" not in out


def link_to(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


OTHER = [(name, content) for name, content in SMALL.members if "test_batch" not in name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_of([("../evil", b"x"), *SMALL.members]), r"\.\./evil leads out of the folder"),
        (tar_of([("/tmp/evil", b"x"), *SMALL.members]), "/tmp/evil leads out of the folder"),
        (
            tar_of([(link_to("cifar-10-batches-py", "/tmp"), b""), *SMALL.members]),
            "cifar-10-batches-py is a link or a device",
        ),
        (
            tar_of([*OTHER, (link_to("cifar-10-batches-py/test_batch", "/dev/zero"), b"")]),
            "test_batch is a link or a device",
        ),
        (tar_of(OTHER), "lacks test_batch"),
        (
            tar_of([*OTHER, ("cifar-10-batches-py/test_batch", b"swapped")]),
            "test_batch is damaged or another: MD5 [0-9a-f]+, not",
        ),
        (SMALL.tar[: len(SMALL.tar) // 2], "the archive is damaged"),
        (SMALL.tar[:150_000] + bytes(100) + SMALL.tar[150_100:], "damaged"),
        (tar_of([("x", b"")]), "no folder cifar-10-batches-py nor cifar-10-batches-bin"),
        (b"no archive", "the archive is damaged, or no tar archive"),
        (b"", "the archive is damaged, or no tar archive"),
    ],
)
@pytest.mark.parametrize("by", ["path", "address"])
def test_a_bad_copy_is_refused(cli, small, host, tmp_path, content, message, by):
    copy = tmp_path / "mine" / TAR
    copy.parent.mkdir()
    copy.write_bytes(content)
    host.files[TAR] = content
    given = copy if by == "path" else f"{host.url}/good/{TAR}"
    code, _, err = cli("data", "get", "cifar10", "--root", "d", "--from", given)
    assert code == 2 and err.count("\n") == 1
    assert re.search(message, err), err
    assert f"wanted is the file {TAR}, or its address" in err
    assert not (tmp_path / "d" / "cifar10.part").exists()
    assert not (tmp_path / "evil").exists()
    with pytest.raises(UserError):
        CIFAR10("d").splits()


@pytest.mark.parametrize("form", ["gz", "xz", "", "folder", "above", "address", "base", "parquet"])
def test_a_copy_of_ones_own_is_taken_in_any_form(cli, small, host, tmp_path, form):
    mine = tmp_path / "mine"
    mine.mkdir()
    given = mine / TAR
    if form in ("gz", "xz", ""):
        packed = tar_of([(f"./data/{name}", content) for name, content in SMALL.members], form)
        given.write_bytes(packed)
    elif form in ("folder", "above"):
        folder = mine / "cifar-10-batches-py"
        folder.mkdir()
        for name, content in SMALL.python.items():
            (folder / name).write_bytes(content)
        given = folder if form == "folder" else mine
    elif form == "parquet":
        small("missing", "parquet")
        for name in ("train.parquet", "test.parquet"):
            (mine / name).write_bytes(host.files[name])
        given = mine / "train.parquet"
    else:
        given = f"{host.url}/good/" + (TAR if form == "address" else "")
    code, out, err = cli("data", "get", "cifar10", "--root", "d", "--from", given)
    assert (code, err) == (0, ""), err
    check(tmp_path / "d")
    assert f"from {given}" in out


def test_an_archive_in_the_folder_is_used_without_a_network(small, host, tmp_path):
    root = tmp_path / "d"
    root.mkdir()
    (root / TAR).write_bytes(SMALL.tar)
    assert published.get("cifar10", root) == f"from what lay in {root}"
    check(root)
    assert not host.asked and (root / TAR).exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.tar.gz", "does not exist"),
        ("s3://bucket/x.tar.gz", "http and https are taken"),
    ],
)
def test_what_cannot_be_a_copy_is_said(cli, small, given, message):
    code, _, err = cli("data", "get", "cifar10", "--root", "d", "--from", given)
    assert code == 2 and message in err


def test_a_folder_of_images_is_trained_on_as_it_is(cli, small, tmp_path):
    (tmp_path / "my images" / "cat").mkdir(parents=True)
    (tmp_path / "my images" / "cat" / "1.png").touch()
    folder = tmp_path / "my images"
    code, _, err = cli("data", "get", "cifar10", "--root", "d", "--from", folder)
    assert code == 2 and f"fit --config RECIPE --data '{folder}' trains on" in err


def test_a_folder_that_cannot_be_read_in_the_root_is_not_looked_at(small, tmp_path, monkeypatch):
    (tmp_path / "d" / "lost+found").mkdir(parents=True)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert published.get("cifar10", tmp_path / "d").startswith("from 127.0.0.1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wrong.zip", b"PK", "the archive is damaged, or no tar archive"),
        ("cifar.tar.gz", b"<html>moved</html>", "the archive is damaged, or no tar archive"),
        ("pipe.tar.gz", None, "it is no plain file but a pipe or a device"),
        ("data_batch_1", None, "it is no plain file, or the other files"),
        ("data_batch_1", b"alone", "or the other files of the data set are not with it"),
    ],
)
def test_the_file_that_is_given_is_judged_itself(cli, small, tmp_path, name, content, message):
    (tmp_path / "photo.png").touch()
    path = tmp_path / name
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    code, _, err = cli("data", "get", "cifar10", "--root", "d", "--from", path)
    assert code == 2 and message in err and "images" not in err, err


def test_a_copy_with_one_wrong_file_leaves_nothing(cli, small, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in SMALL.python.items():
        (folder / name).write_bytes(content)
    (folder / "test_batch").write_bytes(b"swapped")
    code, _, err = cli("data", "get", "cifar10", "--root", "d", "--from", folder)
    assert code == 2 and "test_batch is damaged or another" in err
    assert not any(path.is_file() for path in (tmp_path / "d").rglob("*"))


def test_a_header_of_a_huge_image_in_parquet_is_one_line(cli, small, host, tmp_path, monkeypatch):
    small("missing", "parquet")
    for name in ("train.parquet", "test.parquet"):
        (tmp_path / name).write_bytes(host.files[name])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "train.parquet"
    code, _, err = cli("data", "get", "cifar10", "--root", "d", "--from", path)
    assert code == 2 and err.count("\n") == 1 and "decompression bomb" in err


def test_two_processes_at_once_download_once(small, host, tmp_path):
    found = []
    work = [
        threading.Thread(target=lambda: found.append(published.get("cifar10", tmp_path / "d")))
        for _ in range(3)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join(60)
    assert len(found) == 3 and len(host.asked) == 1
    check(tmp_path / "d")


def test_an_interrupted_download_continues(cli, small, host, tmp_path, monkeypatch):
    small("slow", "good")
    update = download.Meter.update
    calls = []

    def interrupt(meter, n):
        update(meter, n)
        calls.append(n)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(download.Meter, "update", interrupt)
    code, _, err = cli("data", "get", "cifar10", "--root", "d")
    assert code == 130 and "the same command continues" in err
    part = tmp_path / "d" / "cifar10.part" / TAR
    assert part.stat().st_size == sum(calls)
    monkeypatch.setattr(download.Meter, "update", update)
    small("good")
    assert cli("data", "get", "cifar10", "--root", "d")[0] == 0
    assert host.asked[-1][1] == f"bytes={sum(calls)}-"
    check(tmp_path / "d")


def test_a_folder_that_cannot_be_written_is_said(cli, small, tmp_path):
    (tmp_path / "f").write_text("")
    code, _, err = cli("data", "get", "cifar10", "--root", "f")
    assert code == 2 and "cannot write cifar10 to f (Not a directory): make room, or give" in err


def test_proxies_of_the_environment_are_used(small, host, tmp_path, monkeypatch):
    small("good")
    made = published.SETS["cifar10"]
    far = RemoteFile(f"http://far.invalid/good/{TAR}", len(SMALL.tar), md5(SMALL.tar))
    monkeypatch.setitem(
        published.SETS, "cifar10", DataSet(made.layouts, ((far,),), 32, made.columns)
    )
    with pytest.raises(UserError, match="set https_proxy"):
        published.get("cifar10", tmp_path / "d", limits=QUICK)
    monkeypatch.setenv("http_proxy", host.url)
    published.get("cifar10", tmp_path / "d", limits=QUICK)
    check(tmp_path / "d")
    assert host.asked == [(far.url, None)]


@pytest.mark.parametrize("manner", ["good", "parquet"])
def test_fashion_mnist_comes_as_four_files_or_as_parquet(host, tmp_path, monkeypatch, manner):
    import pyarrow
    import pyarrow.parquet

    raw = {}
    for split, n in (("train", 6), ("t10k", 4)):
        pixels = np.random.default_rng(n).integers(0, 256, (n, 28, 28), np.uint8)
        labels = np.arange(n, dtype=np.uint8)
        sizes = np.array([0x803, n, 28, 28], ">u4").tobytes()
        raw[f"{split}-images-idx3-ubyte"] = sizes + pixels.tobytes()
        raw[f"{split}-labels-idx1-ubyte"] = np.array([0x801, n], ">u4").tobytes() + labels.tobytes()
        images = []
        for image in pixels:
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            images.append({"bytes": png.getvalue(), "path": None})
        out = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": labels}), out)
        host.files[f"{split}.parquet"] = out.getvalue()
    for name, content in raw.items():
        host.files[f"{name}.gz"] = gzip.compress(content)
    if manner == "good":
        files = tuple(
            RemoteFile(
                f"{host.url}/good/{name}.gz",
                len(host.files[f"{name}.gz"]),
                md5(host.files[f"{name}.gz"]),
            )
            for name in raw
        )
    else:
        files = tuple(
            RemoteFile(f"{host.url}/good/{s}.parquet", fills=tuple(n for n in raw if s in n))
            for s in ("train", "t10k")
        )
    layout = Layout("FashionMNIST/raw", {name: sha256(content) for name, content in raw.items()})
    made = DataSet((layout,), (files,), 28, ("image", "label"), idx=True)
    monkeypatch.setitem(published.SETS, "fashion_mnist", made)
    published.get("fashion_mnist", tmp_path, limits=QUICK)
    folder = tmp_path / "FashionMNIST" / "raw"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == raw
    assert len(FashionMNIST(str(tmp_path)).splits()["train"]) == 6
    assert [p.name for p in tmp_path.iterdir()] == ["FashionMNIST"]
    given = f"{host.url}/good/" if manner == "good" else None
    if given:
        published.get("fashion_mnist", tmp_path / "again", given, QUICK)
        assert len(FashionMNIST(str(tmp_path / "again")).splits()["val"]) == 4


def test_imagenet_says_where_it_is_given_out(cli):
    code, _, err = cli("data", "get", "imagenet")
    assert code == 2 and err.count("\n") == 1 and "data write imagenet --root FOLDER" in err


def test_progress_has_rate_and_remaining_time(small, host, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lightning_resnet.progress.LINE_S", 0.05)
    small("slow")
    published.get("cifar10", tmp_path / "d", limits=QUICK)
    assert re.search(r"0 of 0 MB  [\d,]+ kB/s  ETA 0:00:0\d", capsys.readouterr().err)


def test_the_table_agrees_with_torchvision():
    for name, data_set in published.SETS.items():
        ours = {f.name: f.digest for f in data_set.hosts[0]}
        assert all(f.digest for f in data_set.hosts[1]), name
        assert {f.name: f.digest for f in data_set.hosts[1]} == ours
        for files in data_set.hosts:
            fills = [n for f in files for n in f.fills]
            assert not fills or sorted(fills) == sorted(data_set.layouts[-1].digests)
    for name, reader in (
        ("cifar10", torchvision.datasets.CIFAR10),
        ("cifar100", torchvision.datasets.CIFAR100),
    ):
        listed = dict([*reader.train_list, *reader.test_list])
        listed[reader.meta["filename"]] = reader.meta["md5"]
        layout = published.SETS[name].layouts[0]
        assert (layout.folder, layout.digests) == (reader.base_folder, listed)
        archive = published.SETS[name].hosts[0][0]
        assert (archive.url, archive.digest) == (reader.url, reader.tgz_md5)
    fashion = torchvision.datasets.FashionMNIST
    assert {f.name: f.digest for f in published.SETS["fashion_mnist"].hosts[0]} == dict(
        fashion.resources
    )
    assert published.FASHION[0] in fashion.mirrors
