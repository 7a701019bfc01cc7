"""The three words, on a device that has a fast form and on one that has not."""

import pytest
import torch

from convbert.ops.backends import supports_bfloat16, use_fast

CPU, OTHER = torch.device("cpu"), torch.device("xpu")


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
