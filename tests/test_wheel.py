"""The built wheel, in an empty environment without a compiler: `make wheel` runs this."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import convbert

ROOT = Path(__file__).parent.parent
BUILDS = {"_avx512_vnni", "_avx512", "_avx2", "_generic"}

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def wheel():
    (found,) = (ROOT / "dist").glob("convbert-*.whl")
    return found


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """A command in an environment that has the wheel, and this one's packages by reference: not this one's convbert."""
    folder = tmp_path_factory.mktemp("wheel")
    venv.create(folder / "env", symlinks=True)
    programs = folder / "env/bin"
    site = folder / f"env/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": str(programs), "HF_HUB_OFFLINE": "1"}
    install = ["pip", "--python", programs / "python", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", *install], check=True, env=environment)
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    def call(program, *words):
        done = subprocess.run(
            [programs / program, *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_the_wheel_is_for_any_linux_and_python(wheel):
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version, python, abi) == ("convbert", convbert.__version__, "cp311", "abi3")
    assert "manylinux" in platform
    with zipfile.ZipFile(wheel) as archive:
        files = [Path(file) for file in archive.namelist()]
    libraries = {file.name.partition(".")[0] for file in files if ".so" in file.suffixes}
    assert libraries == BUILDS  # and no OpenMP runtime beside PyTorch's
    assert "convbert.libs" not in {file.parts[0] for file in files}


def test_it_is_the_wheel_that_runs(run):
    print_folder = "import convbert; print(convbert.__file__)"
    assert "/env/lib/" in run("python", "-c", print_folder)


def test_the_kernels_run_without_a_compiler(run):
    kernels = json.loads(run("convbert", "doctor", "--json"))["cpu"]["compiled kernels"]
    assert f"_{kernels['value']}" in BUILDS
    maps = "import convbert.ops.compiled as c; c.library(); print(open('/proc/self/maps').read())"
    runtimes = {
        line.split()[-1]
        for line in run("python", "-c", maps).splitlines()
        if "gomp" in line or "omp5" in line
    }
    assert len(runtimes) == 1  # PyTorch's


def test_the_first_command(run):
    assert "energy" in run(
        "convbert", "fill-mask", "Plants create [MASK] through a process known as photosynthesis."
    )


def test_a_benchmark(run, tmp_path):
    words = (
        "--only",
        "^small 1×32",
        "--rounds",
        "1",
        "--warmup",
        "1",
        "--no-compile",
        "--output",
        str(tmp_path),
    )
    assert "small 1×32" in run("python", "-m", "benchmarks", "forward", *words)
    assert list(tmp_path.glob("forward_*.json"))
