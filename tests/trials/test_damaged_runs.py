"""Files of a run directory damaged at random: no reader ends in a traceback, and the run goes on or
tells why not.

DAMAGES=2000 pytest -m all tests/trials/test_damaged_runs.py -s   # 200 without
"""

import contextlib
import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from helpers.command_line import TINY

from lightning_resnet.analysis import load_runs
from lightning_resnet.errors import UserError
from lightning_resnet.runs.reader import Run
from lightning_resnet.sweeps.requeue import of_this_job

SHORT = [*TINY, "--trainer.max_epochs", "2"]
DAMAGES = int(os.environ.get("DAMAGES") or 200)
FILES = ("config.yaml", "meta.json", "metrics.jsonl", "attempts/1.json")
CHECKPOINTS = tuple(f"checkpoints/{name}.ckpt" for name in ("last", "prev", "best"))
VALUES = (
    None,
    True,
    -1,
    10**400,
    "text",
    [],
    [1, {}],
    {},
    {"a": {"b": []}},
    1e308,
    "\x1b[31m\n",
    "../..",
    0,
)


def damage(rng, file):
    """What a power cut, a bad disk, another program or another user can make of a file; returns
    what it was.
    """
    data = file.read_bytes()
    file.unlink()  # the best checkpoint may be the last one
    how = rng.choice(
        ("cut", "zeros", "bit", "bytes", "value", "value", "folder", "link", "gone", "empty")
    )
    at = rng.randrange(max(1, len(data)))
    if how == "cut":
        file.write_bytes(data[:at])
    elif how == "zeros":
        file.write_bytes(data[:at] + bytes(len(data) - at))
    elif how == "bit":
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
    elif how == "bytes":
        file.write_bytes(data[:at] + rng.randbytes(rng.randrange(1, 40)) + data[at:])
    elif how == "value" and file.suffix in (".json", ".jsonl"):
        lines = data.decode().splitlines() if file.suffix == ".jsonl" else [data.decode()]
        i = rng.randrange(len(lines))
        content = json.loads(lines[i])
        content[rng.choice(sorted(content))] = rng.choice(VALUES)
        lines[i] = json.dumps(content)
        file.write_text("\n".join(lines) + "\n")
    elif how == "folder":
        file.mkdir()
    elif how == "link":
        file.symlink_to(rng.choice(("nowhere", file.name, "..", "/dev/null")))
    elif how in ("empty", "value"):
        file.write_bytes(b"")
    return how


def copy(finished, root):
    run = root / "runs" / finished.parent.name / finished.name
    shutil.rmtree(root / "runs", ignore_errors=True)
    shutil.copytree(finished, run)
    attempt = run / "attempts/1.json"
    attempt.write_text(json.dumps(json.loads(attempt.read_text()) | {"reason": "failed"}))
    return run


def test_no_reader_fails(finished, tmp_path):
    for seed in range(DAMAGES):
        rng = random.Random(seed)
        run = copy(finished, tmp_path)
        file = rng.choice(FILES)
        how = damage(rng, run / file)
        try:
            assert (
                isinstance(Run(run).status(), str)
                and isinstance(Run(run).attempts(), list)
                and isinstance(Run(run).config_if_good(), tuple)
            )
            Run(run).final_row("val/acc1")
            assert not [*of_this_job(run.parent, {"SLURM_JOB_ID": "7"})]
            with contextlib.suppress(UserError):
                load_runs(run)
        except Exception as e:
            raise AssertionError((seed, file, how)) from e


@pytest.mark.all
@pytest.mark.timeout(0)
def test_the_same_command_goes_on_or_tells_why_not(finished, tmp_path, cli):
    """Exit 0, or 2 with one line; in two minutes at most, which are not waited for here."""
    told = {}
    for seed in range(DAMAGES):
        rng = random.Random(seed)
        run = copy(finished, tmp_path)
        file = rng.choice((*FILES, *CHECKPOINTS))
        how = damage(rng, run / file)
        with contextlib.suppress(OSError):
            os.utime(run / "attempts/1.json", (time.time() - 300,) * 2, follow_symlinks=False)
        code, out, err = cli("fit", *SHORT)
        assert (code, err) == (0, "") or (
            code == 2 and err.startswith("error: ") and err.count("\n") == 1
        ), (
            seed,
            file,
            how,
            code,
            err,
        )
        told.setdefault(err[:60], []).append((seed, file, how))
    for line, cases in told.items():
        print(f"{len(cases)} x {line or 'went on'}: {cases[:4]}")
    assert len(told.get("", [])) > DAMAGES / 2
    assert Path(run).exists()
