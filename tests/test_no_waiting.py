"""On a GPU nothing waits for the device: a pass over fake CUDA tensors, whose values cannot be read, goes through."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import tiny
from convbert import ConvBertModel
from convbert.ops import attention, depthwise_conv, span_dynamic_conv

CUDA = torch.device("cuda")


def index(x: Tensor, key: object) -> Tensor:
    """`x[key]` in functions that a PyTorch without CUDA can fake, as it cannot its own indexing."""
    axis = 0
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, int):
            x = x.select(axis, part)
            continue
        if part is None:
            x = x.unsqueeze(axis)
        else:
            start, stop, _ = part.indices(x.shape[axis])
            x = x.narrow(axis, start, stop - start)
        axis += 1
    return x


@pytest.fixture
def fake(monkeypatch):
    if not torch.backends.cuda.is_built():
        # PyTorch's own attention does not wait either, and cannot be faked without CUDA.
        monkeypatch.setattr(Tensor, "__getitem__", index)
        monkeypatch.setattr(F, "scaled_dot_product_attention", lambda query, *_, **__: query)
    with FakeTensorMode():
        yield


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


@pytest.fixture
def model(fake, monkeypatch):
    monkeypatch.setattr(ConvBertModel, "_init_weights", lambda *_: None)  # it reads what it wrote
    with CUDA:
        return ConvBertModel(tiny.config(conv_kernel_size=9)).train()


def ids(*shape):
    return torch.empty(*shape, dtype=torch.long, device=CUDA)


def test_rectangle_through_the_model(model):
    assert model(ids(2, 9)).last_hidden_state.shape == (2, 9, 32)


def test_packed_row_through_the_model(model):
    cu_seqlens = torch.empty(4, dtype=torch.int32, device=CUDA)
    output = model(ids(1, 18), position_ids=ids(1, 18), cu_seq_lens_q=cu_seqlens, max_length_q=9)
    assert output.last_hidden_state.shape == (1, 18, 32)


def test_padding_is_waited_for(model):
    """What a forward pass that waits looks like here: where the padding is must be read."""
    with pytest.raises(DataDependentOutputException):
        model(ids(2, 9), attention_mask=ids(2, 9))
