"""The Triton kernels under Triton's interpreter, against the definition. Run by test_gpu_interpreted.py."""

import pytest
import torch

from convbert.ops.depthwise_conv import gpu as depthwise_gpu
from convbert.ops.depthwise_conv.reference import depthwise_conv
from convbert.ops.span_dynamic_conv import gpu as span_gpu
from convbert.ops.span_dynamic_conv.reference import span_dynamic_conv
from helpers import (
    assert_a_damaged_text_stays_alone,
    assert_close,
    assert_fast_equals_reference,
    bounds,
    slice_of_larger,
)
from ops.interpreter import as_op, mend

mend()
pytestmark = pytest.mark.usefixtures("poisoned_memory")

OPS = {"span": as_op(span_gpu, span_dynamic_conv), "depthwise": as_op(depthwise_gpu, depthwise_conv)}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Shorter than the kernel, around the tiles of 16, 32 and 64 tokens, prime, empty, nothing.
LENGTHS = [[1], [9], [1, 9, 2], [15, 16, 17], [31, 32, 33], [0, 3, 0], [64, 0, 65], []]


def case(name, shape, kernel_size, dtype=torch.float32, heads=2, width=5):
    """Inputs of the op of this name, slices of larger tensors; `shape` is that of the tokens."""
    if name == "depthwise":
        return slice_of_larger(*shape, heads * width, dtype=dtype), torch.randn(
            heads * width, 1, kernel_size
        ).to(dtype)
    value, logits = (
        slice_of_larger(*shape, heads, width, dtype=dtype),
        torch.randn(*shape, 2 * heads, kernel_size),
    )
    return value, logits.to(dtype)[..., ::2, :]


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kernel_size", [9, 31])
def test_unpadded(name, lengths, kernel_size):
    assert_fast_equals_reference(OPS[name], case(name, [sum(lengths)], kernel_size), bounds(lengths))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("kernel_size", range(1, 32, 2))
def test_every_kernel_size(name, kernel_size):
    assert_fast_equals_reference(OPS[name], case(name, [19], kernel_size, heads=1), bounds([16, 3]))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (3, 33), (2, 67), (0, 5), (2, 0)], ids=str)
def test_dense(name, shape):
    assert_fast_equals_reference(OPS[name], case(name, shape, 9), None)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("kernel_size", [3, 9, 31])
@pytest.mark.parametrize("lengths", [[17, 9], None], ids=["unpadded", "dense"])
def test_low_precision(name, dtype, kernel_size, lengths):
    inputs = case(name, [26] if lengths else (2, 13), kernel_size, dtype)
    assert_fast_equals_reference(OPS[name], inputs, lengths and bounds(lengths))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize(
    ("heads", "width"), [(1, 1), (3, 16), (2, 33), (1, 40), (2, 70), (1, 129), (1, 256)], ids=str
)
def test_widths(name, dtype, heads, width):
    assert_fast_equals_reference(OPS[name], case(name, [11], 3, dtype, heads, width), bounds([4, 7]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_logits_stay_finite(dtype):
    value = torch.randn(40, 2, 4).to(dtype).requires_grad_()
    logits = (torch.randint(-1, 2, (40, 2, 9)) * 1e4).to(dtype).requires_grad_()
    out = OPS["span"](value, logits, bounds([3, 37]), backend="fast")
    expected = span_dynamic_conv(value.float(), logits.float(), bounds([3, 37]))
    assert_close(out.detach(), expected.detach(), dtype)
    out.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (value, logits))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dense", [True, False])
def test_a_damaged_text_stays_alone(name, dense):
    assert_a_damaged_text_stays_alone(OPS[name], case(name, [60], 9), dense=dense)


def test_filter_gradient_does_not_depend_on_the_run():
    inputs = [x.requires_grad_() for x in case("depthwise", [300], 9)]
    grads = [
        torch.autograd.grad(OPS["depthwise"](*inputs, bounds([150, 150]), backend="fast").sum(), inputs)[1]
        for _ in range(2)
    ]
    assert torch.equal(*grads)
