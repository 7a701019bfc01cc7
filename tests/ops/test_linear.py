"""The linear layer, fused or not, is a product, a sum and a GELU."""

import pytest
import torch

from convbert.ops import linear
from helpers import assert_close


@pytest.mark.parametrize("grad", [True, False], ids=["gradients", "no gradients"])
@pytest.mark.parametrize("gelu", [True, False], ids=["gelu", "plain"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 12), (7, 12), (2, 5, 12), (0, 12)], ids=str)
def test_is_its_definition(shape, dtype, gelu, grad):
    states, weight, bias = (torch.randn(*size).to(dtype) for size in (shape, (9, 12), (9,)))
    wide = torch.promote_types(dtype, torch.float32)
    expected = states.to(wide) @ weight.to(wide).T + bias.to(wide)
    if gelu:
        expected = 0.5 * expected * (1 + torch.erf(expected / 2**0.5))
    weight.requires_grad_(grad)
    actual = linear(states, weight, bias, gelu=gelu)
    assert actual.dtype == dtype
    assert actual.requires_grad is grad
    assert_close(actual.detach(), expected, dtype)


def test_slices_of_larger_tensors():
    states, weight = torch.randn(6, 24)[:, ::2], torch.randn(9, 24)[:, ::2]
    assert_close(linear(states, weight, None), states.contiguous() @ weight.T, torch.float32)


def test_gradients():
    inputs = [torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((3, 4), (5, 4), (5,))]
    assert torch.autograd.gradcheck(lambda *x: linear(*x, gelu=True), inputs)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_whichever_gradient_is_wanted_comes(wanted):
    """At a size that the fast product takes where no gradient is asked for."""
    sizes = ((3, 512), (512, 512), (512,))
    inputs = [torch.randn(*size, requires_grad=yes) for size, yes in zip(sizes, wanted, strict=True)]
    linear(*inputs).sum().backward()
    assert tuple(x.grad is not None for x in inputs) == wanted


def test_follows_autocast():
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert linear(torch.randn(2, 4), torch.randn(3, 4), None).dtype == torch.bfloat16
