"""On a GPU nothing waits for the device: nothing reads a value of a tensor, neither of a fake one on CUDA, which has no
values, nor of one that stands in for it on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from convbert import ConvBertModel
from convbert.ops import attention, depthwise_conv, span_dynamic_conv
from convbert.ops.attention import packed
from helpers import bounds

CUDA = torch.device("cuda")
aten = torch.ops.aten


@pytest.mark.parametrize("shape", [(2, 9), (18,)], ids=["rectangle", "unpadded"])
def test_convolutions(shape):
    with FakeTensorMode():
        cu_seqlens = torch.empty(4, dtype=torch.int32, device=CUDA) if len(shape) == 1 else None
        value = torch.empty(*shape, 2, 16, dtype=torch.bfloat16, device=CUDA)
        logits = torch.empty(*shape, 2, 9, dtype=torch.bfloat16, device=CUDA)
        assert span_dynamic_conv(value, logits, cu_seqlens, backend="fast").shape == value.shape
        hidden, weight = value.flatten(-2), torch.empty(32, 1, 9, dtype=torch.bfloat16, device=CUDA)
        assert depthwise_conv(hidden, weight, cu_seqlens, backend="fast").shape == hidden.shape


def test_attention_over_bounds():
    with FakeTensorMode():
        cu_seqlens = torch.empty(4, dtype=torch.int32, device=CUDA)
        heads = [torch.empty(18, 2, 16, dtype=torch.bfloat16, device=CUDA) for _ in range(3)]
        assert attention(*heads, cu_seqlens=cu_seqlens, max_length=9).shape == heads[0].shape


class NoReading(TorchDispatchMode):
    """Refuse the operators that a program waits for: those whose result, or its shape, it must know to go on."""

    waiting = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in self.waiting, func
        return func(*args, **(kwargs or {}))


def step(**inputs) -> None:
    """Forward and backward with dropout, from vectors: ids are checked on the CPU alone."""
    model = ConvBertModel(tiny.config(conv_kernel_size=9)).train()
    vectors = torch.randn(2, 9, 16)
    with NoReading():
        model(inputs_embeds=vectors, **inputs).last_hidden_state.square().mean().backward()


def test_a_training_step_on_a_rectangle():
    step()


def test_where_the_padding_is_must_be_read():
    with pytest.raises(AssertionError, match=r"aten\._local_scalar_dense"):
        step(attention_mask=torch.ones(2, 9))


def test_attention_that_is_padded_for_its_own_step():
    heads = [torch.randn(18, 2, 16, requires_grad=True) for _ in range(3)]
    with NoReading():
        packed._padded(*heads, bounds([9, 2, 7]), 9, 0.1).sum().backward()
