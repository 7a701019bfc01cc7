"""What every test shares: no network, few threads, a seed, memory that starts as NaN."""

from __future__ import annotations

import getpass
import multiprocessing
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait for work would otherwise spin, and take the core of the tests beside these.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Several processes that run tests have a core each; tests of threads ask for them.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
# PyTorch's cache of compiled programs would take those for other instructions, whose results are wrong here.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    f"{tempfile.gettempdir()}/convbert_inductor_{getpass.getuser()}_{os.environ.get('ATEN_CPU_CAPABILITY', 'native')}",
)

import pytest
import torch

from convbert.ops import compiled
from helpers import FORMS

SLOW = [
    "bulk/test_ray.py",
    "export/test_onnx.py",
    "export/test_other_runtimes.py",
    "finetuning/test_run.py",
    "model/test_compile.py",
    "pretraining/test_launching.py",
    "ops/test_gpu_interpreted.py",
    "test_benchmarks.py",
    "pretraining/test_run.py",
    "pretraining/test_warm_start.py",
    "cli/test_convert.py",
    "pretraining/test_corpus_prepare.py",
    "test_readme.py",
    "tokenization/test_tokenization.py",
    "ops/test_gpu_compiles.py",
    "serving/test_process.py",
]
"""Files that take longest. They come first, so that no process is left alone with one of them at the end."""


def pytest_configure() -> None:
    # Processes that tests start are forked from one that has imported these, and begin at once. The names are those of
    # the installed package: that process does not know the paths that pytest has added.
    multiprocessing.set_forkserver_preload(["convbert.pretraining.run", "convbert.cli"])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return SLOW.index(name) if name in SLOW else len(SLOW)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory():
    """Fresh buffers hold NaN, so that a kernel which forgets a corner fails loudly."""
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def without_kernels(monkeypatch) -> None:
    """The CPU ops run in PyTorch alone, as without a compiler."""
    monkeypatch.setattr(compiled, "chosen", lambda: (None, None, "the tests pretend so"))


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """The forms of the CPU ops: every build of the compiled kernels, and PyTorch alone, as without a compiler."""
    name = request.param
    library = None if name == "portable" else compiled.open_build(name)[0]
    found = (None, None, "the tests pretend so") if library is None else (name, library, None)
    monkeypatch.setattr(compiled, "chosen", lambda: found)
    return name
