"""Fuzz the decoder under AddressSanitizer and UBSan; FUZZ_INPUTS=1000000 makes more of it,
FUZZ_SEED other ones.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DECODER = HERE.parents[1] / "lightning_resnet/data/beton"
INPUTS, SEED = int(os.environ.get("FUZZ_INPUTS", 60_000)), os.environ.get("FUZZ_SEED", "1")
FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined,float-cast-overflow"]
STRICT = {
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "ASAN_OPTIONS": "hard_rss_limit_mb=2000",
}


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    """The compiled program."""
    folder, compiler = (
        tmp_path_factory.mktemp("fuzz"),
        os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc"),
    )
    if compiler is None:
        pytest.skip("there is no C compiler")
    (folder / "probe.c").write_text(
        "#include <stdio.h>\n#include <jpeglib.h>\nint main(void) { return 0; }\n"
    )
    probe = [compiler, *FLAGS, "-o", folder / "probe", folder / "probe.c", "-ljpeg"]
    if subprocess.run(probe, capture_output=True, timeout=120).returncode:
        pytest.skip(f"{compiler} has no sanitizers, or libjpeg-turbo's headers are missing")
    command = [
        compiler,
        *FLAGS,
        f"-I{DECODER}",
        "-o",
        folder / "fuzz_decode",
        HERE / "fuzz_decode.c",
    ]
    subprocess.run([*command, "-ljpeg", "-lz", "-lpthread", "-lm"], check=True, timeout=300)
    return folder / "fuzz_decode"


@pytest.mark.slow
@pytest.mark.timeout(100 + INPUTS // 50)
def test_no_image_no_box_and_no_operation_makes_the_decoder_err(fuzzer):
    done = subprocess.run(
        [fuzzer, SEED, str(INPUTS)], capture_output=True, text=True, env=os.environ | STRICT
    )
    assert done.returncode == 0 and not done.stderr, done.stderr[-6000:]
    inputs, crops, *statuses = map(int, re.findall(r"\d+", done.stdout))
    assert inputs == INPUTS and crops > INPUTS / 50
    assert all(statuses[:5]) and statuses[6] and not statuses[5], (
        done.stdout
    )  # each but "no memory"
    print(done.stdout)
