"""The script for a machine with a GPU runs from end to end on a CPU, so that it does there."""

import json
import subprocess
import sys

import pytest
from helpers.command_line import REPOSITORY
from helpers.loaders import files_of

from lightning_resnet.data.sources.synthetic import Synthetic


@pytest.mark.slow
@pytest.mark.timeout(1000)  # a score of processes, each of which imports torch
def test_the_script_for_a_gpu_rehearses_all_its_parts(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    files = files_of(Synthetic(640, 64), data)
    for split, path in files.files.items():
        (data / f"cifar_{split}.beton").symlink_to(path)
    command = [sys.executable, REPOSITORY / "benchmarks/gpu/run.py", "--cpu", "--data", data]
    command += ["--out", tmp_path / "out", "--paper", "A-20-1,none-20-1", "--minutes", "14"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    assert not [row for row in found if "failed" in row or row["name"] in ("process", "not run")]
    assert all(row["cpu"] for row in found)
    parts = {row["part"] for row in found}
    assert parts == {"info", "checks", "small", "compile", "packed", "large", "fed", "paper"}
    assert all(row["bitwise"] for row in found if "bitwise" in row)
