"""Damage .beton files, their manifests and journals in every way; MUTATIONS=3000 makes more,
MUTATION_SEED other ones.

Each goes through `data info`, `data verify`, five batches of a loader, some through `fit` of five
steps, and damaged journals through `data write`. A child process with bounds of memory and time
handles many; where it dies, or makes no progress, the next one goes on behind. Right is the same
result as without damage, or one line; what a manifest vouches for is never another pixel or label.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

MUTATIONS, SEED = int(os.environ.get("MUTATIONS", 300)), int(os.environ.get("MUTATION_SEED", 1))
TESTS = Path(__file__).parents[1]
HANG_S = 120  # for one file; usual is 0.1 s
MEMORY = 2 << 30  # bytes of address space beyond what the imports took
FIT_EACH = 10  # every so many goes through `fit`
COUNTS = (
    0,
    1,
    2,
    3,
    255,
    2**15,
    2**16 - 1,
    2**20,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
VALUES = (
    None,
    True,
    -1,
    0,
    1e300,
    2**70,
    "",
    "x\x1b[2J\ny",
    [],
    [1],
    [[]],
    ["a", 1],
    {},
    {"a": {}},
    "A" * 8,
)


def mutate(data, parts, rng):
    """Change bytes of one part of a file, or the order of its parts."""
    part = list(parts)[rng.integers(len(parts))]
    start, end = parts[part]
    at = int(rng.integers(start, max(end, start + 1)))
    stop = int(rng.integers(at, max(end, at + 1))) + 1
    how = ["bit", "bit", "bits", "byte", "zeros", "ones", "count", "cut", "swap", "random"][
        rng.integers(10)
    ]
    if how in ("bit", "bits"):
        for _ in range(1 if how == "bit" else 5):
            data[min(int(rng.integers(at, stop)), len(data) - 1)] ^= 1 << int(rng.integers(8))
    elif how == "byte":
        data[at] = int(rng.integers(256))
    elif how in ("zeros", "ones"):
        data[at:stop] = (b"\0" if how == "zeros" else b"\xff") * (stop - at)
    elif how == "count":
        width = int(rng.choice([1, 2, 4, 8]))
        at -= at % width
        value = COUNTS[rng.integers(len(COUNTS))] % 256**width
        data[at : at + width] = value.to_bytes(width, "little")
    elif how == "cut":
        del data[at:]
    elif how == "swap":
        other = int(rng.integers(len(data)))
        n = min(stop - at, len(data) - other, 4096)
        data[at : at + n], data[other : other + n] = data[other : other + n], data[at : at + n]
    else:
        data[at:stop] = rng.bytes(stop - at)
    return f"{part}/{how}"


def mutate_manifest(text, rng):
    """Change bytes of a manifest, or one of its values."""
    if rng.integers(2):
        data = bytearray(text.encode())
        how = mutate(data, {"text": (0, len(data))}, rng)
        return bytes(data), f"manifest {how}"
    manifest = json.loads(text)
    key = list(manifest)[rng.integers(len(manifest))]
    if rng.integers(4):
        manifest[key] = VALUES[rng.integers(len(VALUES))]
    else:
        del manifest[key]
    return json.dumps(manifest).encode(), f"manifest {key}"


class Trial:
    """One child's work: the sound file, and what it gives."""

    def __init__(self, folder):
        import numpy as np
        from helpers.loaders import copies, data_of

        from lightning_resnet.data.beton.format import ALLOCATION, FIELD, HEADER, Beton
        from lightning_resnet.data.sources.beton_files import BetonFiles

        self.np, self.copies, self.data_of, self.files = np, copies, data_of, BetonFiles
        self.folder, self.sound = folder, str(folder / "sound.beton")
        self.complete, beton = Path(self.sound).read_bytes(), Beton(self.sound)
        self.manifest = Path(f"{self.sound}.json").read_text()
        rows, table = (
            HEADER.itemsize + len(beton.fields) * FIELD.itemsize,
            int(beton.header["alloc_table_ptr"]),
        )
        self.parts = {
            "header": (0, HEADER.itemsize),
            "fields": (HEADER.itemsize, rows),
            "metadata": (rows, beton.header_bytes),
            "samples": (int(beton.images["data_ptr"][0]), table),
            "table": (table, table + len(beton) * ALLOCATION.itemsize),
        }
        self.expected = self.batches(self.sound)

    def batches(self, path, **options):
        from itertools import islice

        data = self.data_of(self.files(path, self.sound), batch_size=8, workers=1, **options)
        return self.copies(islice(data.train_dataloader(), 5))

    def run(self, number):
        """Returns what was done to the file, and whatever went wrong."""
        rng = self.np.random.default_rng([SEED, number])
        path, kind = (
            self.folder / "f.beton",
            ["bare", "manifest", "manifest", "text", "journal"][rng.integers(5)],
        )
        Path(f"{path}.json").unlink(missing_ok=True)
        if kind == "journal":
            return self.journal(rng)
        data = bytearray(self.complete)
        text, how = self.manifest.encode(), ""
        if kind == "text":
            text, how = mutate_manifest(self.manifest, rng)
        else:
            how = mutate(data, self.parts, rng)
        path.write_bytes(data)
        if kind != "bare":
            Path(f"{path}.json").write_bytes(text)
        wrong = self.told(how, lambda: self.info_and_verify(path, bytes(data)))
        wrong += self.told(how, lambda: self.load(path, kind == "manifest", {}))
        wrong += self.told(
            how, lambda: self.load(path, False, {"size": None, "crop": "none", "on_bad": "count"})
        )
        if number % FIT_EACH == 0:
            wrong += self.told(how, lambda: self.fit(path))
        return f"{kind}: {how}", wrong

    def told(self, how, act):
        """Whatever is neither fine nor one line for the user."""
        from lightning_resnet.errors import UserError, one_line

        try:
            act()
        except UserError as e:
            if "\n" in one_line(e):
                return [f"{how}: more than a line: {e!r}"]
        except Exception:
            return [f"{how}: {traceback.format_exc()}"]
        return []

    def command(self, *argv):
        from lightning_resnet.cli.main import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(a) for a in argv])
        shown = out.getvalue() + err.getvalue()
        assert all(
            line.isprintable() for line in shown.replace("\t", " ").replace("\r", "\n").split("\n")
        ), shown
        assert code in (0, 1) or (code == 2 and err.getvalue().count("error: ") == 1), (
            code,
            err.getvalue(),
        )
        return code, err.getvalue()

    def info_and_verify(self, path, data):
        code, err = self.command("data", "info", path)
        assert code == 0 or err.count("\n") == 1, err
        code, _ = self.command("data", "verify", path)
        if (
            Path(f"{path}.json").exists()
            and Path(f"{path}.json").read_text(errors="replace") == self.manifest
        ):
            assert (code == 0) == (data == self.complete), (
                "verify does not see a change, or sees one that is none"
            )

    def load(self, path, vouched, options):
        got = self.batches(str(path), **options)
        if vouched:
            same = all(
                (x == u).all() and (y == v).all()
                for (x, y), (u, v) in zip(got, self.expected, strict=True)
            )
            assert same, "another pixel or label, and a manifest"

    def fit(self, path):
        from helpers.command_line import TINY

        source = [
            "--data.source",
            "BetonFiles",
            "--data.source.train",
            path,
            "--data.source.val",
            self.sound,
        ]
        flags = [
            "--data.size",
            "16",
            "--data.batch_size",
            "8",
            "--trainer.max_steps",
            "5",
            "--run.new",
        ]
        code, err = self.command("fit", *TINY, *source, *flags, "--run.root", self.folder / "runs")
        assert code == 0 or "Traceback" not in err, err

    def journal(self, rng):
        """A write that was killed and whose files were damaged ends with the right file."""
        from lightning_resnet.data.beton.format import Beton
        from lightning_resnet.data.beton.verify import verify
        from lightning_resnet.data.beton.write import write_beton

        out = self.folder / "written.beton"
        for end in ("", ".json"):
            Path(f"{out}{end}").unlink(missing_ok=True)
        half = {
            end: bytearray((self.folder / f"half{end}").read_bytes())
            for end in (".tmp", ".journal")
        }
        end = [".tmp", ".journal", ".journal"][rng.integers(3)]
        how = mutate(half[end], {end: (0, len(half[end]))}, rng)
        for end, data in half.items():
            Path(f"{out}{end}").write_bytes(data)

        def act():
            with contextlib.redirect_stdout(io.StringIO()):
                write_beton(images_of_files(self.folder), out, **OPTIONS)
            assert verify(out) == [], "a damaged file"
            written, sound = Beton(out), Beton(self.sound)
            for name in (
                "labels",
                "ids",
                "crcs",
                "images",
            ):  # what lies between pages may be what it was
                assert (getattr(written, name) == getattr(sound, name)).all(), name

        return f"journal: {how}", self.told(how, act)


OPTIONS = {"classes": ["a", "b", "c"], "workers": 1, "progress": False, "mode": 0.5, "quality": 80}


def images_of_files(folder):
    """Forty images, of two sizes where they are not loaded as they are."""
    import numpy as np

    from lightning_resnet.data.images import Images

    paths = [str(folder / "images" / f"{i:02}.png") for i in range(40)]
    return Images(np.arange(40), np.arange(40) % 3, paths=paths)


def make_files(folder):
    """The sound file, and a write of it that was killed half way."""
    import numpy as np
    from PIL import Image

    from lightning_resnet.data.beton import journal, write

    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images = images_of_files(folder)
    for path in images.paths:
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    journal.PAGE = 1 << 14
    write.write_beton(images, folder / "sound.beton", **OPTIONS)
    finish, write._finish = write._finish, None  # as if it was killed there
    with contextlib.suppress(TypeError):
        write.write_beton(images, folder / "half", **OPTIONS)
    write._finish = finish


def child(folder, first, last):
    """Handle some; one JSON line for each, [number, kind, what went wrong]."""
    import faulthandler
    import resource

    sys.path.insert(0, str(TESTS))
    from lightning_resnet.data.beton import journal

    journal.PAGE = 1 << 14
    os.chdir(folder)
    print("ready", flush=True)
    trial = Trial(folder)
    trial.fit(trial.sound)  # imports all there is
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in range(first, last):
        print(json.dumps([number, "begun", []]), flush=True)
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        kind, wrong = trial.run(number)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps([number, kind, wrong]), flush=True)


@pytest.mark.slow
@pytest.mark.timeout(600 + 2 * MUTATIONS)
def test_damaged_files_are_told_in_a_line_or_make_no_difference(tmp_path):
    make_files(tmp_path)
    kinds, wrong, deaths, at = {}, [], [], 0
    environment = os.environ | {
        "WANDB_MODE": "disabled",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    while at < MUTATIONS:
        command = [sys.executable, __file__, str(tmp_path), str(at), str(MUTATIONS)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        begun = -1
        for line in done.stdout.splitlines():
            if not line.startswith("["):
                continue
            number, kind, found = json.loads(line)
            if kind == "begun":
                begun = number
                continue
            begun = -1
            kinds[kind.split(":")[0]] = kinds.get(kind.split(":")[0], 0) + 1
            wrong += [f"{number}: {kind}: {text}" for text in found]
            at = number + 1
        if begun >= 0:  # it died, or made no progress
            deaths.append(f"{begun}: exit status {done.returncode}: {done.stderr[-2000:]}")
            at = begun + 1
        elif done.returncode:
            pytest.fail(done.stderr[-4000:])
    print(f"{sum(kinds.values())} mutations {kinds}, {len(wrong)} wrong, {len(deaths)} deaths")
    assert not wrong and not deaths, "\n".join([*wrong[:10], *deaths[:10]])
    assert len(kinds) == 4


if __name__ == "__main__":
    child(Path(sys.argv[1]), *map(int, sys.argv[2:]))
