"""setup.sh: Python is checked first, and the build of PyTorch fits the machine. The commands that
it calls are stand-ins, which write down how they were called.
"""

import shutil
import subprocess
import sys

import pytest
from helpers.command_line import REPOSITORY

TOOLS = "awk bash cat cmp cp dirname env id mktemp mv rm sed touch".split()
PYTHON = """
case "$*" in
  *sys.version_info*) exit ${OLD:-0} ;;
  --version) echo Python 3.${OLD:+10}${OLD:-12} ;;
  *metadata*) [ ! -e torch ] || cat torch ;;
esac
"""
UV = """
echo "uv $*" >> calls
case "$*" in
  *--dry-run*) exit $INDEX ;;
  *"--torch-backend cpu"*) echo 2.13.0+cpu > torch ;;
  *"uninstall"*) rm torch ;;
  *"--require-hashes"*) while [ "$1" != -r ]; do shift; done; cp "$2" installed ;;
esac
"""


@pytest.fixture
def setup(tmp_path):
    """Return a function that runs setup.sh where only stand-ins and a few tools are on PATH."""
    for name in ("setup.sh", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    stand_ins = {"bin/python3": PYTHON, ".venv/bin/python": PYTHON, ".venv/bin/uv": UV}
    stand_ins["bin/uname"] = "echo Linux x86_64"
    for name, text in stand_ins.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{text}")
        path.chmod(0o755)
    for name in TOOLS:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))

    def run(**variables):
        environment = {"PATH": str(tmp_path / "bin"), "INDEX": "0"} | variables
        command = [tmp_path / "setup.sh"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    run.folder = tmp_path
    return run


def installed(folder):
    """Return the names in the list that uv has installed with hashes."""
    lines = (folder / "installed").read_text().splitlines()
    return {line.partition("==")[0] for line in lines if line[0] != " "}


def test_without_a_gpu_the_cpu_build_is_taken(setup):
    code, out, err = setup()
    assert code == 0 and "PyTorch's CPU build, because no GPU is seen (TORCH=cuda" in out, err
    assert "--no-deps --torch-backend cpu torch==2" in (setup.folder / "calls").read_text()
    names = installed(setup.folder)
    assert {"torchmetrics", "pytorch-lightning", "numpy"} <= names
    assert not names & {"torch", "torchvision", "triton"}
    assert not [name for name in names if name.startswith(("nvidia", "cuda"))]
    (setup.folder / "calls").unlink()
    code, out, _ = setup()
    assert code == 0 and "PyTorch 2.13.0+cpu is here already" in out
    assert "--torch-backend" not in (setup.folder / "calls").read_text()
    assert setup(TORCH="cuda")[0] == 0 and "torch" in installed(setup.folder)


def test_where_the_cpu_index_is_not_reached_the_registrys_build_is_taken(setup):
    code, out, _ = setup(INDEX="1")
    assert code == 0 and "cannot be reached: the registry's build with CUDA instead" in out
    assert {"torch", "torchvision", "triton"} <= installed(setup.folder)
    assert (setup.folder / ".venv/train").exists() and not (setup.folder / ".venv/dev").exists()


@pytest.mark.parametrize("variables", [{"TORCH": "cuda"}, {}])
def test_with_a_gpu_or_where_asked_for_pytorch_has_cuda(setup, variables):
    if not variables:
        (setup.folder / "bin/nvidia-smi").symlink_to(shutil.which("true"))
    code, out, _ = setup(**variables)
    assert code == 0 and "torch" in installed(setup.folder)
    assert "--torch-backend" not in (setup.folder / "calls").read_text()
    assert ("TORCH=cpu takes the CPU build" in out) == (not variables)


@pytest.mark.parametrize("variables", [{}, {"PYTHON": "python3"}, {"PYTHON": "python3.99"}])
def test_a_python_that_does_not_fit_is_told_first(setup, variables):
    code, out, err = setup(OLD="1", **variables)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert "Python 3.11, 3.12 or 3.13 is needed" in err and "make demo PYTHON=python3.12" in err
    assert "conda" in err and not (setup.folder / "calls").exists()


def test_an_unknown_build_is_refused(setup):
    assert setup(TORCH="gpu") == (2, "", "error: TORCH=gpu: cpu or cuda\n")


def test_a_script_next_to_the_clone_imports_the_package(tmp_path):
    """A folder of the package's name in the current folder must not hide the installed package."""
    (tmp_path / "lightning_resnet").symlink_to(REPOSITORY)
    command = [sys.executable, "-c", "import lightning_resnet; print(lightning_resnet.__file__)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("lightning_resnet/__init__.py"), done.stderr
