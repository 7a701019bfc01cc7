"""On a GPU nothing waits for the device: a pass over fake CUDA tensors, whose values cannot be read, goes through."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from convbert.ops import attention, depthwise_conv, span_dynamic_conv

CUDA = torch.device("cuda")


@pytest.fixture
def fake():
    with FakeTensorMode() as mode:
        yield mode


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("shape", [(2, 9), (18,)], ids=["rectangle", "unpadded"])
def test_convolutions(shape):
    cu_seqlens = torch.empty(4, dtype=torch.int32, device=CUDA) if len(shape) == 1 else None
    value = torch.empty(*shape, 2, 16, dtype=torch.bfloat16, device=CUDA)
    logits = torch.empty(*shape, 2, 9, dtype=torch.bfloat16, device=CUDA)
    assert span_dynamic_conv(value, logits, cu_seqlens, backend="fast").shape == value.shape
    hidden, weight = value.flatten(-2), torch.empty(32, 1, 9, dtype=torch.bfloat16, device=CUDA)
    assert depthwise_conv(hidden, weight, cu_seqlens, backend="fast").shape == hidden.shape


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["varlen", "padded"])
def test_packed_attention(dtype):
    cu_seqlens = torch.empty(4, dtype=torch.int32, device=CUDA)
    heads = [torch.empty(18, 2, 16, dtype=dtype, device=CUDA) for _ in range(3)]
    assert attention(*heads, cu_seqlens=cu_seqlens, max_length=9).shape == heads[0].shape
