"""Make docs/python.ipynb of docs/python.md: `python tests/helpers/notebook.py`."""

import json
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def cells(page):
    """Yield (kind, text) for each part of a page: code blocks, and what stands between them."""
    for part in re.split(r"(^```python\n.*?^```$)", page, flags=re.M | re.S):
        if part.startswith("```python\n"):
            yield "code", part.removeprefix("```python\n").removesuffix("```").strip()
        elif part.strip():
            yield "markdown", part.strip()


def notebook(page):
    """Return the notebook of a page as JSON text, without outputs."""
    made = []
    for number, (kind, text) in enumerate(cells(page)):
        cell = {"cell_type": kind, "id": f"cell{number}", "metadata": {}}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        made.append(cell | {"source": text.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {
        "cells": made,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (DOCS / "python.ipynb").write_text(notebook((DOCS / "python.md").read_text()))
