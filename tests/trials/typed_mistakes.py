"""Print what each typed mistake is answered, and in how many seconds, as a Markdown table.

cd tests && ../.venv/bin/python -m trials.typed_mistakes
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers.typed import DIGITS, TYPED, UNDERSTOOD, words_of, write_files


def answer(words):
    """Run a line in a process of its own; return what it prints and how long it takes."""
    command = [sys.executable, "-m", "lightning_resnet", *words]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stderr.strip().replace("\n", "<br>"), time.perf_counter() - begin


def main():
    os.chdir(tempfile.mkdtemp())
    write_files(Path())
    print("| typed after `resnet-cli` | answered | seconds |\n|:--|:--|--:|")
    lines = [shlex.join(words_of(line)) for line in TYPED]
    # an error last, so that nothing is trained
    lines += [f"{DIGITS} {line} --model.net.depth x" for line in UNDERSTOOD]
    for line in lines:
        told, seconds = answer(words_of(line))
        shown = told.replace("|", "\\|")
        print(f"| `{line}` | {shown} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
