"""The wheel and the source distribution hold what is needed; installed in an empty folder, recipes,
sweeps, measured runs and batch scripts are there.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers.command_line import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command, cwd, **options):
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build both from a copy of the files that git knows or would add; return the folder."""
    tree = tmp_path_factory.mktemp("tree")
    known = run("git", "ls-files", "-co", "--exclude-standard", cwd=REPOSITORY).splitlines()
    for name in known:
        if (REPOSITORY / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, tree / name)
    (tree / "slurm/site.env").write_text("export SBATCH_ACCOUNT=private\n")
    build = "from setuptools.build_meta import *; build_sdist('dist'); build_wheel('dist')"
    run(sys.executable, "-c", build, cwd=tree)
    return tree / "dist"


def test_the_source_distribution_sets_up_and_has_no_tests(built):
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for name in (
        "Makefile",
        "requirements.txt",
        "configs/digits.yaml",
        "slurm/bundle.sh",
        "docs/science.md",
        "lightning_resnet/data/beton/decode.c",
        "CITATION.cff",
        "CHANGELOG.md",
    ):
        assert name in names
    assert any(name.startswith("reference/digits/") for name in names)
    assert not [name for name in names if name.startswith("tests") or name.endswith("site.env")]


def test_the_description_has_no_link_that_an_index_could_not_follow(built):
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
        text = wheel.read(name).decode()
        assert not [name for name in wheel.namelist() if name.endswith("site.env")]
    assert "Author: " in text and "Classifier: " in text and "# lightning_resnet" in text
    assert "![" not in text
    assert all(target.startswith("http") for target in re.findall(r"\]\(([^)]*)\)", text))


def test_a_wheel_in_an_empty_folder_has_all_that_a_first_hour_needs(built, tmp_path):
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    (site,) = environment.glob("lib/python3*/site-packages")
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        wheel.extractall(site)
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(ours))
    here = tmp_path / "empty"
    here.mkdir()
    slurm = tmp_path / "slurm/bin"
    slurm.mkdir(parents=True)
    (slurm / "sbatch").write_text('#!/bin/sh\necho "$@" > "$0.said"\necho 7\n')
    (slurm / "sbatch").chmod(0o755)
    path = f"{environment}/bin:{slurm}:/usr/bin:/bin"
    env = {"PATH": path, "HOME": str(tmp_path), "WANDB_MODE": "disabled", "COLUMNS": "80"}

    def cli(words):
        python = environment / "bin/python"
        return run(python, "-m", "lightning_resnet", *words.split(), cwd=here, env=env)

    assert "imagenet/ffcv" in cli("recipes") and not os.listdir(here)
    assert cli("recipes fit.sbatch") == (REPOSITORY / "slurm/fit.sbatch").read_text()
    small = "--model.net.depth 8 --trainer.max_epochs 1 --run.threads 1"
    assert "val error" in cli(f"fit --config digits {small}")
    again = cli(f"fit --config configs/digits.yaml {small}")
    assert "is finished; nothing to do" in again
    assert "digits_degradation: 12 points" in cli("sweep digits_degradation --list")
    assert "submitted as job 7" in cli("sweep digits_degradation --submit")
    script = (slurm / "sbatch.said").read_text().split()[-3]
    assert Path(script) == site / "lightning_resnet/share/slurm/sweep.sbatch"
    assert "12 runs" in cli("compare reference:digits --out report")
