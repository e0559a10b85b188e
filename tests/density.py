"""Count what makes code hard to read: `python tests/density.py [FOLDER ...]`."""

import ast
import sys
from dataclasses import dataclass, fields
from pathlib import Path

MAX_COLUMNS = 100
PREPOSITIONS = frozenset(
    "of in at by for with from to on as into after before without over under between through during"
    " instead per since until within along among against about".split()
)


@dataclass
class Density:
    """Counts over the Python files of a folder.

    Args:
        lines: all lines, blank ones and comments included.
        tuple_assignments: statements such as `a, b = x, y`; unpacking the result of a call is none.
        long_lines: lines of more than 100 columns.
        nested_conditionals: conditional expressions that contain another one.
        bound_lambdas: lambdas that are assigned to a name.
        preposition_docstrings: docstrings whose first word is a preposition.
    """

    lines: int = 0
    tuple_assignments: int = 0
    long_lines: int = 0
    nested_conditionals: int = 0
    bound_lambdas: int = 0
    preposition_docstrings: int = 0

    def per_thousand_lines(self, count):
        return 1000 * count / max(1, self.lines)

    def faults(self):
        """Return what is above its limit, one line each."""
        found = []
        if self.per_thousand_lines(self.tuple_assignments) > 3:
            found.append(
                f"{self.tuple_assignments} tuple assignments in {self.lines} lines, at most 3 "
                "per 1,000"
            )
        for name in (
            "long_lines",
            "nested_conditionals",
            "bound_lambdas",
            "preposition_docstrings",
        ):
            if getattr(self, name):
                found.append(f"{getattr(self, name)} {name.replace('_', ' ')}")
        return found


def is_tuple_assignment(node):
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    return any(isinstance(target, ast.Tuple) for target in node.targets)


def is_nested_conditional(node):
    if not isinstance(node, ast.IfExp):
        return False
    return any(isinstance(child, ast.IfExp) for child in ast.walk(node) if child is not node)


def is_bound_lambda(node):
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)


def begins_with_preposition(node):
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
        return False
    words = (ast.get_docstring(node) or "").split()
    return bool(words) and words[0].strip("`:,.").lower() in PREPOSITIONS


def measure(files):
    """Return the counts over some Python files."""
    counts = Density()
    for file in files:
        text = file.read_text()
        lines = text.splitlines()
        counts.lines += len(lines)
        counts.long_lines += sum(len(line) > MAX_COLUMNS for line in lines)
        for node in ast.walk(ast.parse(text)):
            counts.tuple_assignments += is_tuple_assignment(node)
            counts.nested_conditionals += is_nested_conditional(node)
            counts.bound_lambdas += is_bound_lambda(node)
            counts.preposition_docstrings += begins_with_preposition(node)
    return counts


def main(folders):
    for folder in folders:
        counts = measure(sorted(Path(folder).rglob("*.py")))
        told = [
            f"{field.name.replace('_', ' ')} {getattr(counts, field.name):,}"
            for field in fields(counts)
        ]
        rate = counts.per_thousand_lines(counts.tuple_assignments)
        print(f"{folder}: {', '.join(told)}; tuple assignments per 1,000 lines {rate:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["lightning_resnet"])
