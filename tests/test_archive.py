"""A checkpoint's archive is what torch wrote, or it is refused in one line before memory is taken
for it.
"""

import struct
import zipfile
from pathlib import Path

import pytest
import torch

from lightning_resnet.errors import UserError
from lightning_resnet.runs.checkpoint import check_plain, load_checkpoint, write_checkpoint
from lightning_resnet.weights.layouts import unwrap

CONTENT = {
    "state_dict": {"weight": torch.arange(5.0), "num_batches_tracked": torch.tensor(88)},
    "epoch": 1,
}


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.ckpt"
    write_checkpoint(CONTENT, path)
    return path


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def again(path, parts, compression=zipfile.ZIP_STORED):
    """Write an archive by Python, whose members have no attributes, as torch's have none."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts:
            info = zipfile.ZipInfo(name)
            info.create_system = info.external_attr = 0
            info.compress_type = compression
            archive.writestr(info, data)
            info.external_attr = 0
    return path


def refusal(path):
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def as_before(path):
    """Whether what is read is bitwise what was written; also if nothing is."""
    try:
        found = load_checkpoint(path)
    except UserError:
        return True
    same = [torch.equal(found["state_dict"][k], v) for k, v in CONTENT["state_dict"].items()]
    return list(found) == list(CONTENT) and found["epoch"] == 1 and all(same)


def test_an_archive_by_another_hand_is_read_if_it_is_plain(small, tmp_path):
    assert as_before(again(tmp_path / "b.ckpt", members(small).items()))
    assert "epoch" in load_checkpoint(tmp_path / "b.ckpt")


def test_compressed_members_are_refused_before_they_are_unpacked(small, tmp_path, monkeypatch):
    """Four megabytes that would be eight gigabytes."""
    parts = members(small)
    name = next(name for name in parts if name.endswith("data/0"))
    parts[name] = bytes(64 << 20)
    bomb = again(tmp_path / "bomb.ckpt", parts.items(), zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *args: pytest.fail("it was unpacked"))
    assert bomb.stat().st_size < 1 << 20 and "is compressed" in refusal(bomb)


def test_names_twice_or_outside_and_added_bytes_are_refused(small, tmp_path):
    parts = [*members(small).items()]
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = again(tmp_path / "twice.ckpt", [*parts, parts[0]])
    assert "twice" in refusal(twice)
    for name in ("../../x", "/etc/x", "a/../../x", "a\\..\\x"):
        assert "leads out of it" in refusal(again(tmp_path / "out.ckpt", [*parts, (name, b"")]))
    for end in (b"x", bytes(22), small.read_bytes()[-22:], bytes(70_000)):
        added = tmp_path / "added.ckpt"
        added.write_bytes(small.read_bytes() + end)
        refusal(added)
    commented = tmp_path / "comment.ckpt"
    commented.write_bytes(small.read_bytes())
    with zipfile.ZipFile(commented, "a") as archive:
        archive.comment = b"PK\5\6" + bytes(18)
    refusal(commented)


def test_sizes_that_the_file_does_not_hold_are_refused(small, tmp_path):
    data = bytearray(small.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    for claimed in (1 << 31, 0xFFFFFFFF):
        struct.pack_into("<2L", data, at + 20, claimed, claimed)
        (tmp_path / "claims.ckpt").write_bytes(data)
        refusal(tmp_path / "claims.ckpt")


def test_a_tensor_larger_than_its_memory_is_refused(tmp_path):
    path = tmp_path / "view.ckpt"
    write_checkpoint({"state_dict": {"w": torch.zeros(1).expand(1 << 40)}}, path)
    assert "w is larger than what the file holds of it" in refusal(path)


def flips(path, start, end):
    """The same file with one bit changed, for each bit of a part."""
    good, changed = path.read_bytes(), path.with_name("changed.ckpt")
    for at in range(start, end):
        for bit in range(8):
            data = bytearray(good)
            data[at] ^= 1 << bit
            changed.write_bytes(data)
            yield changed, (at, bit)


def test_a_changed_attribute_is_refused(small):
    """Torch takes a member with bit 4 of its attributes for a folder, and its tensor from whatever
    memory it gets.
    """
    data = Path(small).read_bytes()
    with zipfile.ZipFile(small) as archive:
        at = archive.start_dir
    while data[at : at + 4] == b"PK\x01\x02":
        for changed, where in flips(small, at + 38, at + 42):
            assert "marked as torch marks nothing" in refusal(changed), where
        at += 46 + sum(struct.unpack_from("<3H", data, at + 28))


@pytest.mark.slow
def test_each_bit_of_the_directory(small):
    """Whatever is changed there: refused, or the same content."""
    with zipfile.ZipFile(small) as archive:
        start = archive.start_dir
    wrong = [
        where
        for changed, where in flips(small, start, small.stat().st_size)
        if not as_before(changed)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({5: torch.zeros(1)}, "goes by 5, which is no name"),
        ({"w": torch.zeros(1, device="meta")}, "a tensor of meta"),
        ({"w": torch.zeros(2, 2).to_sparse()}, "a tensor of sparse_coo"),
        ({"w": torch.zeros(1, dtype=torch.complex64)}, "a tensor of complex64"),
        ({"w": torch.zeros(1).to(torch.float8_e4m3fn)}, "a tensor of float8_e4m3fn"),
    ],
)
def test_tensors_that_are_no_weights_are_named(state, said):
    with pytest.raises(UserError, match=said):
        check_plain(state)
    with pytest.raises(UserError, match=said):
        unwrap({"model": state})
