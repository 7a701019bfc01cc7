"""Attention: plain steps, PyTorch's kernels and each sequence alone agree, gradients included."""

import pytest
import torch

from convbert.ops import attention
from convbert.ops.attention import attention_with_weights
from helpers import assert_close, bounds


def heads(*shape):
    return [torch.randn(*shape, 2, 4, requires_grad=True) for _ in range(3)]


def gradients(out, inputs):
    return torch.autograd.grad(out, inputs, torch.ones_like(out))


@pytest.mark.parametrize("lengths", [[5], [1, 7, 3], [3, 0, 2]], ids=str)
def test_packed_equals_each_alone(lengths):
    inputs = heads(sum(lengths))
    packed = attention(*inputs, cu_seqlens=bounds(lengths))
    parts = zip(*(x.split(lengths) for x in inputs), strict=True)
    alone = torch.cat([attention_with_weights(*(x[None] for x in part))[0][0] for part in parts])
    assert_close(packed, alone, torch.float32)
    for actual, expected in zip(gradients(packed, inputs), gradients(alone, inputs), strict=True):
        assert_close(actual, expected, torch.float32)


def test_mask_hides_padding():
    inputs = heads(2, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]).bool()
    fast = attention(*inputs, mask=mask)
    plain, weights = attention_with_weights(*inputs, mask=mask)
    assert_close(fast, plain, torch.float32)
    assert weights[1, :, :, 2:].max() == 0
    alone = attention(*(x[1:, :2] for x in inputs))
    assert_close(fast[1:, :2], alone, torch.float32)


def test_row_of_padding_is_finite():
    inputs = heads(1, 3)
    out = attention(*inputs, mask=torch.zeros(1, 3).bool())
    assert_close(out, inputs[2].mean(1, keepdim=True).expand_as(out), torch.float32)


def test_no_tokens_keeps_the_graph():
    inputs = heads(0)
    out = attention(*inputs, cu_seqlens=bounds([]))
    assert out.shape == inputs[0].shape
    assert gradients(out, inputs)[2].shape == inputs[2].shape


def test_dropout_acts():
    inputs = heads(1, 16)
    assert not torch.equal(attention(*inputs, dropout=0.5), attention(*inputs))
    weights = attention_with_weights(*inputs, dropout=0.5)[1]
    assert 0.2 < (weights == 0).float().mean() < 0.8
