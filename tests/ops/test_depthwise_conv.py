"""Depthwise convolution: the definition against PyTorch's, the fast form against the definition."""

import pytest
import torch

from convbert.ops import depthwise_conv
from helpers import (
    FORMS_AND_DTYPES,
    assert_a_damaged_text_stays_alone,
    assert_close,
    assert_fast_equals_reference,
    bounds,
    each_alone,
    slice_of_larger,
)

LENGTHS = [[1], [4], [7], [1, 9, 2], [31, 32, 33], [0, 3, 0], [128, 5], []]


def case(lengths, kernel_size, dtype=torch.float32, channels=6):
    return slice_of_larger(sum(lengths), channels, dtype=dtype), torch.randn(channels, 1, kernel_size).to(
        dtype
    )


@pytest.mark.parametrize("length", [1, 3, 20])
def test_definition_is_conv1d(length):
    hidden, weight = torch.randn(2, length, 6), torch.randn(6, 1, 9)
    expected = torch.nn.functional.conv1d(hidden.transpose(1, 2), weight, padding=4, groups=6).transpose(1, 2)
    assert_close(depthwise_conv(hidden, weight, backend="reference"), expected, torch.float32)


@pytest.mark.usefixtures("poisoned_memory", "form")
@pytest.mark.parametrize(("form", "dtype"), FORMS_AND_DTYPES, ids=str, indirect=["form"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3, 9, 31])
def test_fast_equals_reference_unpadded(dtype, lengths, kernel_size):
    assert_fast_equals_reference(depthwise_conv, case(lengths, kernel_size, dtype), bounds(lengths))


@pytest.mark.usefixtures("poisoned_memory", "form")
@pytest.mark.parametrize(("form", "dtype"), FORMS_AND_DTYPES, ids=str, indirect=["form"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (3, 65), (0, 5), (2, 0)], ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3, 9])
def test_fast_equals_reference_dense(dtype, shape, kernel_size):
    inputs = slice_of_larger(*shape, 7, dtype=dtype), torch.randn(7, 1, kernel_size).to(dtype)
    assert_fast_equals_reference(depthwise_conv, inputs, None)


@pytest.mark.parametrize("lengths", LENGTHS[:-1], ids=str)
def test_packed_equals_each_alone(lengths):
    inputs, cu_seqlens = case(lengths, 9, channels=11), bounds(lengths)
    packed = depthwise_conv(*inputs, cu_seqlens, backend="fast")
    hidden, weight = inputs
    alone = each_alone(lambda h, backend: depthwise_conv(h, weight, backend=backend), [hidden], cu_seqlens)
    assert_close(packed, alone, torch.float32)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("form", "dtype"), FORMS_AND_DTYPES, ids=str, indirect=["form"])
@pytest.mark.parametrize("dense", [True, False])
def test_a_damaged_text_stays_alone(dense, dtype):
    assert_a_damaged_text_stays_alone(depthwise_conv, case([60], 9, dtype), dense=dense)


@pytest.mark.parametrize("backend", ["fast", "reference"])
def test_gradcheck(backend):
    inputs = [x.double().contiguous().requires_grad_() for x in case([2, 5], 5)]
    cu_seqlens = bounds([2, 5])
    assert torch.autograd.gradcheck(lambda *x: depthwise_conv(*x, cu_seqlens, backend=backend), inputs)


def test_follows_autocast():
    hidden, weight = torch.randn(1, 5, 4), torch.randn(4, 1, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert depthwise_conv(hidden, weight).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("hidden", "weight", "message"),
    [((1, 5, 4), (4, 1, 2), "must be odd, got 2"), ((1, 5, 4), (3, 1, 3), "channels, 1, kernel size")],
)
def test_refuses(hidden, weight, message):
    with pytest.raises(ValueError, match=message):
        depthwise_conv(torch.zeros(hidden), torch.zeros(weight))
