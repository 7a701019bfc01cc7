"""Span-based dynamic convolution: the definition by hand, the fast form against the definition."""

import pytest
import torch

from convbert.ops import span_dynamic_conv
from helpers import (
    FORMS_AND_DTYPES,
    assert_a_damaged_text_stays_alone,
    assert_close,
    assert_fast_equals_reference,
    bounds,
    each_alone,
    slice_of_larger,
)

LENGTHS = [[1], [4], [7], [9], [1, 9, 2], [31, 32, 33], [63, 64, 65], [0, 3, 0], [128, 5], []]


def ragged(lengths, kernel_size, dtype=torch.float32, heads=3, width=5):
    tokens = sum(lengths)
    return slice_of_larger(tokens, heads, width, dtype=dtype), slice_of_larger(
        tokens, heads, kernel_size, dtype=dtype
    )


def test_definition_by_hand():
    value = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    uniform = torch.zeros(1, 3, 1, 3)  # every tap weighs a third, also the one that falls outside
    out = span_dynamic_conv(value, uniform, backend="reference")
    assert torch.allclose(out.flatten(), torch.tensor([11 / 3, 111 / 3, 110 / 3]))


def test_kernel_picks_a_neighbour():
    value = torch.arange(1.0, 6.0).view(5, 1, 1)
    logits = torch.full((5, 1, 3), -1e4)
    logits[..., 0] = 1e4  # the token before
    out = span_dynamic_conv(value, logits, bounds([2, 3]))
    assert out.flatten().tolist() == [0, 1, 0, 3, 4]


@pytest.mark.usefixtures("poisoned_memory", "form")
@pytest.mark.parametrize(("form", "dtype"), FORMS_AND_DTYPES, ids=str, indirect=["form"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3, 9, 31])
def test_fast_equals_reference_unpadded(dtype, lengths, kernel_size):
    assert_fast_equals_reference(span_dynamic_conv, ragged(lengths, kernel_size, dtype), bounds(lengths))


@pytest.mark.usefixtures("poisoned_memory", "form")
@pytest.mark.parametrize(("form", "dtype"), FORMS_AND_DTYPES, ids=str, indirect=["form"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (3, 65), (4, 128), (0, 5), (2, 0)], ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3, 9])
def test_fast_equals_reference_dense(dtype, shape, kernel_size):
    inputs = slice_of_larger(*shape, 2, 7, dtype=dtype), slice_of_larger(*shape, 2, kernel_size, dtype=dtype)
    assert_fast_equals_reference(span_dynamic_conv, inputs, None)


@pytest.mark.parametrize("lengths", LENGTHS[:-1], ids=str)
def test_packed_equals_each_alone(lengths):
    inputs, cu_seqlens = ragged(lengths, 9), bounds(lengths)
    packed = span_dynamic_conv(*inputs, cu_seqlens, backend="fast")
    assert_close(packed, each_alone(span_dynamic_conv, inputs, cu_seqlens), torch.float32)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("form", "dtype"), FORMS_AND_DTYPES, ids=str, indirect=["form"])
@pytest.mark.parametrize("dense", [True, False])
def test_a_damaged_text_stays_alone(dense, dtype):
    assert_a_damaged_text_stays_alone(span_dynamic_conv, ragged([60], 9, dtype), dense=dense)


@pytest.mark.parametrize("backend", ["fast", "reference"])
def test_gradcheck(backend):
    inputs = [x.double().contiguous().requires_grad_() for x in ragged([2, 5], 5, heads=2, width=3)]
    cu_seqlens = bounds([2, 5])
    assert torch.autograd.gradcheck(lambda *x: span_dynamic_conv(*x, cu_seqlens, backend=backend), inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("lengths", [None, [3, 37]], ids=["dense", "unpadded"])
def test_extreme_logits_stay_finite(dtype, lengths):
    tokens = (2, 40) if lengths is None else (40,)
    value = torch.randn(*tokens, 2, 4).to(dtype).requires_grad_()
    logits = (torch.randint(-1, 2, (*tokens, 2, 9)) * 1e4).to(dtype).requires_grad_()
    out = span_dynamic_conv(value, logits, lengths and bounds(lengths))
    out.sum().backward()
    assert all(torch.isfinite(x).all() for x in (out, value.grad, logits.grad))


def test_never_holds_an_unfolded_tensor():
    """Peak memory grows with T * C, not with T * C * K: no storage is as large as an unfolded one."""
    value, logits = torch.randn(4, 256, 4, 64), torch.randn(4, 256, 4, 9)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in torch.utils._pytree.tree_leaves(out):
                if isinstance(x, torch.Tensor):
                    largest = max(largest, x.untyped_storage().nbytes())
            return out

    from convbert.ops.span_dynamic_conv import cpu

    with Watch():
        cpu.forward(value, logits, None)
        cpu.backward(value, value, logits, None)
    assert value.untyped_storage().nbytes() <= largest < 2 * value.untyped_storage().nbytes()


@pytest.mark.parametrize(
    ("value", "logits", "cu_seqlens", "message"),
    [
        ((1, 5, 2, 3), (1, 5, 2, 4), None, "must be odd, got 4"),
        ((1, 5, 2, 3), (1, 4, 2, 3), None, "agree in all but the last"),
        ((1, 5, 2, 3), (1, 5, 2, 3), [5], "must have 3 dimensions"),
    ],
)
def test_refuses(value, logits, cu_seqlens, message):
    with pytest.raises(ValueError, match=message):
        span_dynamic_conv(torch.zeros(value), torch.zeros(logits), cu_seqlens and bounds(cu_seqlens))
