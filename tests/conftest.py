"""What every test shares: no network, two threads, a seed, memory that starts as NaN."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait for work would otherwise spin, and take the core of the tests beside these.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch


def pytest_configure() -> None:
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def auto_is_fp32(monkeypatch) -> None:
    """For comparisons with fp32: `precision="auto"` takes it, whatever this processor multiplies."""
    monkeypatch.setattr("convbert.precision.supports_bfloat16", lambda device: False)


@pytest.fixture
def poisoned_memory():
    """Fresh buffers hold NaN, so that a kernel which forgets a corner fails loudly."""
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
