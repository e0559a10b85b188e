"""The packages stay as plain to read as CONTRIBUTING.md asks; `python tests/density.py` prints the counts."""

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
