"""The Triton kernels on the CPU: Triton reads TRITON_INTERPRET when it is imported, hence a process of their own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not published for this system")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("op", ["span", "depthwise or filter"])
def test_kernels_under_the_interpreter(op):
    chosen = "not depthwise and not filter" if op == "span" else op
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "tests/ops/gpu_interpreted.py",
            "-k",
            chosen,
        ],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
