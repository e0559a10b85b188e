"""`make wheel` decodes without libjpeg; `make bundle`, then install.sh as the user `nobody` without
a network, a compiler or the libraries that FFCV is built with.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers.command_line import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TORCH = (
    "torch",
    "torchvision",
    "torchgen",
    "functorch",
    "nvidia",
    "triton",
)  # and what tells their versions
NOBODY = 65534

# hides what a user of a cluster does not have; then does the rest as that user
HIDE = """
set -e
for folder in /usr/include /root; do mount -t tmpfs none $folder; done
for file in /usr/lib/x86_64-linux-gnu/lib{opencv_core,opencv_imgproc,turbojpeg,jpeg}.so.* \\
            /usr/bin/{,x86_64-linux-gnu-}{gcc,g++,cpp}; do
  [ ! -e $file ] || mount --bind /dev/null $file
done
exec setpriv --reuid 65534 --regid 65534 --clear-groups bash -ec "$1"
"""
USE = """
export HOME=$PWD PATH=$PWD/prefix/bin:/usr/bin:/bin PYTHONNOUSERSITE=1
! getent hosts debian.org
lightning_resnet-bundle/install.sh $PWD/prefix
echo $PWD/torch > prefix/lib/python3.11/site-packages/torch.pth
resnet-cli fit --config configs/digits.yaml --model.net.depth 8 --trainer.max_epochs 1 \\
  --data.loader ffcv \\
  --run.root $HOME/runs
python -c 'import ffcv, wandb, lightning_resnet.data.beton.decode as k
assert k.library()
print(k.__file__)'
"""


@pytest.fixture
def user():
    """A folder of the user `nobody`."""
    if os.getuid() != 0 or not shutil.which("unshare") or not Path("/usr/bin/python3.11").exists():
        pytest.skip("needs root, to hide what it does without, and the system's python3.11")
    folder = Path(tempfile.mkdtemp(prefix="bundle", dir="/tmp"))
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


def test_the_bundle_installs_and_trains_with_nothing_else(user):
    tar = user / "b.tar"
    environment = os.environ | {"TORCH": "none", "OUT": str(tar)}
    built = run(["slurm/bundle.sh"], cwd=REPOSITORY, env=environment)
    assert "needs Python 3.11 and glibc 2." in built
    run(["tar", "-x", "-f", tar], cwd=user)
    (user / "torch").mkdir()
    site = Path(sys.executable).parents[1] / "lib/python3.11/site-packages"
    for path in (
        p
        for name in TORCH
        for p in (*site.glob(name), *site.glob(f"{name}-*"), *site.glob(f"{name}.*"))
    ):
        (user / "torch" / path.name).symlink_to(
            path.resolve()
        )  # stands in for a machine with PyTorch
    out = run(["unshare", "--net", "--mount", "bash", "-c", HIDE, "-", USE], cwd=user)
    assert f"installed in {user}/prefix, from commit" in out and "val error" in out
    assert out.splitlines()[-1].startswith(f"{user}/prefix/lib/python3.11/site-packages/")


DECODE = """
import hashlib, sys
import numpy as np
from lightning_resnet.data.beton import decode
from lightning_resnet.data.beton.format import Beton
beton = Beton(sys.argv[1])
n = len(beton.images)
boxes = np.tile([1.5, 2.0, 25.0, 27.5], (n, 1))
items = decode.make_items(beton, np.arange(n), boxes, np.arange(n) % 2 == 1)
out = np.zeros((n, 24, 24, 3), np.uint8)
assert decode.library() and not decode.decode(beton, items, out, 2).any()
print(decode.library()._name, hashlib.sha256(out).hexdigest())
"""


def test_the_wheel_decodes_alike_without_libjpeg(user, source):
    run(["make", "-o", ".venv/dev", "wheel"], cwd=REPOSITORY)
    (wheel,) = (REPOSITORY / "dist").glob("*.whl")
    assert "-cp311-abi3-manylinux_2_" in wheel.name
    shutil.unpack_archive(wheel, user / "unpacked", "zip")
    arguments = [sys.executable, "-P", "-c", DECODE, source.files["train"]]
    _, here = run(arguments).split()
    path = {"PYTHONPATH": str(user / "unpacked")}
    hide = f'{HIDE.partition("exec")[0]} exec env "$@"'.replace(" /root", "")
    hidden = ["unshare", "--mount", "bash", "-c", hide, "-", *arguments]
    library, there = run(hidden, env=os.environ | path).split()
    assert library.startswith(str(user / "unpacked")) and there == here


def run(command, **kwargs):
    done = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        **kwargs,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_install_says_what_is_missing(tmp_path):
    shutil.copy(REPOSITORY / "slurm/install.sh", tmp_path)
    (tmp_path / "needs").write_text("GLIBC=9.1\nTORCH=\nSHA=abc\n")
    done = subprocess.run(
        [tmp_path / "install.sh", tmp_path / "x"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "the wheels need 9.1" in done.stderr
    (tmp_path / "needs").write_text("GLIBC=2.2\nTORCH=\nSHA=abc\n")
    environment = {"PATH": f"{tmp_path}/bin"}
    (tmp_path / "bin").mkdir()
    for name in ("bash", "dirname", "env"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    command = [tmp_path / "install.sh", tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2 and "no python3.11 on PATH; set PYTHON" in done.stderr
