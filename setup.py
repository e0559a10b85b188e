"""Build steps that pyproject.toml, which has all else, cannot say.

A wheel gets copies of recipes, measured runs, batch scripts and documents, which the module
`shipped` finds there. Its description is README.md without links into the repository.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = (
    "configs/**/*.yaml",
    "reference/**/*.yaml",
    "reference/**/*.json",
    "reference/**/*.jsonl",
    "slurm/*.sbatch",
    "slurm/site.env.example",
    "docs/*.*",
    "README.md",
)


class BuildWithShipped(build_py):
    """Build of the package, with `SHIPPED` in its folder share/."""

    def run(self) -> None:
        """Copy the files; an editable installation reads those of the repository."""
        super().run()
        if self.editable_mode:
            return
        share = Path(self.build_lib, "lightning_resnet/share")
        shutil.rmtree(share, ignore_errors=True)  # of a build before
        for pattern in SHIPPED:
            for file in Path().glob(pattern):
                (share / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, share / file)


def description() -> str:
    """Return README.md for a package index: images by name, and links to other sites only."""
    text = re.sub(r"!\[([^\]]*)\]\(([^)]*)\)", r"*\1 (\2)*", Path("README.md").read_text())
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


setup(
    cmdclass={"build_py": BuildWithShipped},
    long_description=description(),
    long_description_content_type="text/markdown",
)
