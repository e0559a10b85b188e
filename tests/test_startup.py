"""What a user waits for: the quick verbs import nothing slow, and a training no more
than it needs.
"""

import subprocess
import sys

import numpy as np
import pytest
from helpers.command_line import REPOSITORY
from sklearn.datasets import load_digits

from lightning_resnet.data.sources.digits import Digits

SLOW = {
    "torch",
    "numpy",
    "pandas",
    "matplotlib",
    "scipy",
    "sklearn",
    "torchvision",
    "lightning_fabric",
    "wandb",
}
SLOW |= {"pytorch_lightning", "torchmetrics", "jsonargparse", "PIL"}
SCRIPT = """
import sys
from lightning_resnet.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as e:
    code = e.code
print("imported", code, *sys.modules)
"""


def imported(*argv, cwd):
    """Exit status and modules of a process that ran the verb."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *argv], cwd=cwd, capture_output=True, text=True, check=True
    )
    code, *modules = done.stdout.rpartition("imported ")[2].split()
    return code, {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    "argv",
    [
        "--help",
        "doctor --help",
        "sweep configs/sweeps/digits_degradation.yaml --list",
        "sweep configs/sweeps/digits_degradation.yaml --status",
        "runs reference:digits",
        "runs reference:digits --json",
        *(
            f"{verb} --help"
            for verb in (
                "sweep",
                "compare",
                "inspect",
                "deepen",
                "bench",
                "data",
                "sync",
                "rm",
                "export",
            )
        ),
    ],
)
def test_a_quick_verb_imports_nothing_slow(argv, tmp_path):
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    code, modules = imported(*argv.split(), cwd=tmp_path)
    assert code == "0" and not modules & SLOW


def test_little_is_imported_before_an_interrupt_is_handled(tmp_path):
    """A Ctrl-C in these imports ends in a traceback; without `site`, which imports more in an
    editable installation.
    """
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import "
        "lightning_resnet.cli.main; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(done.stdout.split())
    assert "signal" in modules and not modules & {
        "re",
        "pathlib",
        "contextlib",
        "typing",
        "argparse",
    }
    assert {name for name in modules if name.startswith("lightning_resnet")} == {
        "lightning_resnet",
        "lightning_resnet.cli",
        "lightning_resnet.cli.main",
    }


@pytest.mark.parametrize(
    "modules", ["cli.fit", "analysis.evaluation.evaluate, lightning_resnet.cli.convert"]
)
def test_a_net_is_used_without_what_only_a_comparison_needs(modules):
    script = f"import sys, lightning_resnet.{modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not {"pandas", "pyarrow", "sklearn"} & {*done.stdout.split()}


def test_no_garbage_is_collected_while_torch_is_imported_for_the_first_time():
    script = (
        "import gc, sys\n"
        "from lightning_resnet.engine.signals import importing\n"
        "try:\n"
        "    with importing():\n"
        "        assert not gc.isenabled()\n"
        "        import no_such_module\n"
        "except ImportError: pass\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 1000\n"
        "sys.modules['torch'] = None\n"
        "frozen = gc.get_freeze_count()\n"
        "with importing(): assert gc.isenabled()\n"
        "assert gc.get_freeze_count() == frozen\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_digits_import_no_scikit_learn(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    Digits().splits()
    assert "sklearn" not in sys.modules


def test_digits_are_those_of_scikit_learn():
    theirs, ours = load_digits(), Digits().splits()
    pixels = np.rint(theirs.images[..., None] * (255 / 16)).astype(np.uint8)
    assert sorted(np.concatenate([s.ids for s in ours.values()])) == list(range(1797))
    for split in ours.values():
        assert split.pixels.dtype == np.uint8 and np.array_equal(split.pixels, pixels[split.ids])
        assert split.labels.dtype == np.int64 and np.array_equal(
            split.labels, theirs.target[split.ids]
        )
