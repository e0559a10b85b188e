"""Code and documents stay as plain to read as CONTRIBUTING.md asks; `python tests/density.py`
prints counts.
"""

import re

import pytest
from density import measure
from helpers.command_line import REPOSITORY

PACKAGE = REPOSITORY / "lightning_resnet"
GROUND_FLOOR = "ground floor"
PACKAGES = [GROUND_FLOOR, *sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))]


def files_of(package):
    if package == GROUND_FLOOR:
        return sorted(PACKAGE.glob("*.py"))
    return sorted((PACKAGE / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_plain_to_read(package):
    assert measure(files_of(package)).faults() == []


def test_tests_are_plain_to_read():
    counts = measure(sorted((REPOSITORY / "tests").rglob("*.py")))
    assert counts.long_lines == counts.nested_conditionals == counts.preposition_docstrings == 0


SAMPLE = '''"""Of a module."""
a, b = 1, 2
f = lambda: 0
c = 1 if a else 2 if b else 3
first, second = divmod(7, 2)


def g():
    """Return nothing."""
    # XXXXX
'''


def test_the_counts_are_those_of_a_sample(tmp_path):
    file = tmp_path / "sample.py"
    file.write_text(SAMPLE.replace("XXXXX", "x" * 100))
    counts = measure([file])
    assert counts.lines == 10
    assert counts.tuple_assignments == counts.nested_conditionals == counts.bound_lambdas == 1
    assert counts.long_lines == counts.preposition_docstrings == 1
    assert len(counts.faults()) == 5


BANNED = re.compile(
    r"careful(?=:)|pictures?|beside|anew|likewise|shall|for ever|likeliest|in "
    r"vain|mend(s|ed)?|meanwhile"
    r"|nobody|whole(?! numbers?)"
)
API = re.compile(r'"picture"|NOBODY|without this line the file is not whole|`nobody`')  # these stay


@pytest.mark.parametrize(
    "folder", ["lightning_resnet", "tests", "docs", "benchmarks", "configs", "slurm", "."]
)
def test_words_are_plain_ones(folder):
    files = [f for f in (REPOSITORY / folder).glob("*" if folder == "." else "**/*") if f.is_file()]
    found = []
    for file in files:
        if file.suffix not in (".py", ".c", ".md", ".yaml", ".toml", ".sbatch") or file.samefile(
            __file__
        ):
            continue
        text = API.sub("", file.read_text()).replace("_", " ")
        words = [match.group() for match in re.finditer(rf"\b({BANNED.pattern})\b", text, re.I)]
        found += [f"{file.relative_to(REPOSITORY)}: {word}" for word in words]
    assert found == []
