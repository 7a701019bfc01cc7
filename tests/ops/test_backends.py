"""The three words, on a device that has a fast form and on one that has not."""

import pytest
import torch

from convbert.ops.backends import use_fast

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
