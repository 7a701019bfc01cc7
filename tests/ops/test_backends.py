"""The three words, on a device that has a fast form and on one that has not."""

import pytest
import torch

from convbert.ops import backends
from convbert.ops.backends import GPU_DTYPES, supports_bfloat16, use_fast, why_not_fast

CPU, CUDA, OTHER = torch.device("cpu"), torch.device("cuda"), torch.device("xpu")


@pytest.mark.parametrize(
    ("word", "device", "expected"),
    [
        ("auto", CPU, True),
        ("fast", CPU, True),
        ("reference", CPU, False),
        ("auto", OTHER, False),
        ("reference", OTHER, False),
    ],
)
def test_use_fast(word, device, expected):
    assert use_fast(word, device) is expected


def test_fast_insists_and_says_why():
    with pytest.raises(RuntimeError, match="not for xpu"):
        use_fast("fast", OTHER)


class TestGpu:
    @pytest.fixture(autouse=True)
    def _recent_gpu_with_triton(self, monkeypatch):
        monkeypatch.setattr(backends, "HAS_TRITON", True)
        monkeypatch.setattr(backends, "is_older_gpu", lambda device: False)

    @pytest.mark.parametrize("dtype", GPU_DTYPES, ids=str)
    def test_takes_the_kernels(self, dtype):
        assert why_not_fast(CUDA) is None
        assert use_fast("auto", CUDA, (dtype, dtype), 31)
        assert use_fast("fast", CUDA, (dtype, torch.float32), 31)

    @pytest.mark.parametrize(
        ("dtypes", "kernel_size", "reason"),
        [
            ((torch.float64, torch.float32), 9, "compute in .*, not in torch.float64"),
            ((torch.float32, torch.float64), 9, "compute in .*, not in torch.float64"),
            ((torch.float16,), 33, "up to 31, not 33"),
        ],
    )
    def test_what_they_do_not_take(self, dtypes, kernel_size, reason):
        assert not use_fast("auto", CUDA, dtypes, kernel_size)
        with pytest.raises(RuntimeError, match=reason):
            use_fast("fast", CUDA, dtypes, kernel_size)
        assert use_fast("auto", CPU, dtypes, kernel_size)

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("HAS_TRITON", False, "pip install triton"),
            ("is_older_gpu", lambda device: True, r"compute capability 8\.0"),
        ],
    )
    def test_where_they_cannot_run(self, monkeypatch, name, value, reason):
        monkeypatch.setattr(backends, name, value)
        assert not use_fast("auto", CUDA)
        with pytest.raises(RuntimeError, match=reason):
            use_fast("fast", CUDA)

    @pytest.mark.parametrize("op", ["span_dynamic_conv", "depthwise_conv"])
    def test_both_ops_have_a_kernel(self, op):
        for name in (op, f"{op}_backward"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"convbert::{name}", "CUDA")


@pytest.mark.parametrize(("capability", "older"), [((7, 5), True), ((8, 0), False), ((9, 0), False)], ids=str)
def test_older_gpu(monkeypatch, capability, older):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert backends.is_older_gpu(CUDA) is older


def test_unknown_word():
    with pytest.raises(ValueError, match="auto, fast, reference, got 'quick'"):
        use_fast("quick", CPU)


def test_bfloat16_is_asked_of_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not supports_bfloat16(torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert supports_bfloat16(torch.device("cpu"))
    assert not supports_bfloat16(torch.device("meta"))
