"""GELU and the linear layer behind it: the definition, its gradients, and how little is kept for them."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from convbert.ops import gelu_linear
from helpers import assert_close, gradients, slice_of_larger

SHAPES = [(1, 12), (7, 12), (2, 5, 12), (0, 12)]


def definition(x, weight, bias=None):
    activated = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    return activated @ weight.T + (0 if bias is None else bias)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_its_definition_with_gradients(shape, dtype, with_bias):
    inputs = [2 * slice_of_larger(*shape), torch.randn(9, 12), torch.randn(9)][: 3 if with_bias else 2]
    inputs = [x.to(dtype) for x in inputs]
    grad = torch.randn(*shape[:-1], 9).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    actual = gradients(lambda x, w, b=None: gelu_linear(x, w, b), inputs, grad)
    expected = gradients(definition, [x.to(wide) for x in inputs], grad)
    for number, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert ours.dtype == dtype
        assert_close(ours.detach(), theirs.detach(), dtype, f"number {number}")


def test_gradcheck():
    inputs = [torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((3, 4), (5, 4), (5,))]
    assert torch.autograd.gradcheck(gelu_linear, inputs)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_gives_only_the_gradients_that_are_wanted(wanted):
    inputs = [
        torch.randn(*size, requires_grad=yes)
        for size, yes in zip(((3, 4), (5, 4), (5,)), wanted, strict=True)
    ]
    gelu_linear(*inputs).sum().backward()
    assert tuple(x.grad is not None for x in inputs) == wanted
    expected = gradients(definition, inputs, torch.ones(3, 5))[1:]
    for x, grad in zip(inputs, expected, strict=True):
        assert x.grad is None or torch.allclose(x.grad, grad, atol=1e-5)


def test_follows_autocast():
    x, weight, bias = (torch.randn(*size, requires_grad=True) for size in ((3, 4), (5, 4), (5,)))
    with torch.autocast("cpu", torch.bfloat16):
        out = gelu_linear(x, weight, bias)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert (x.grad.dtype, weight.grad.dtype, bias.grad.dtype) == (torch.float32,) * 3
    expected = gradients(definition, (x, weight, bias), torch.ones(3, 5))[1:]
    for leaf, grad in zip((x, weight, bias), expected, strict=True):
        assert_close(leaf.grad, grad, torch.bfloat16)


def bytes_kept(function):
    """For the backward pass of what `function` gives, every block of memory once."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = function()
    assert out.requires_grad
    return sum(kept.values())


def test_keeps_what_went_in_and_no_activation():
    x, weight = torch.randn(100, 64, requires_grad=True), torch.randn(8, 64, requires_grad=True)
    least = 4 * (x.numel() + weight.numel())
    assert bytes_kept(lambda: gelu_linear(x, weight, None)) == least
    assert bytes_kept(lambda: F.linear(F.gelu(x), weight)) == least + 4 * x.numel()
