"""Nothing synchronises with a GPU: nothing reads a value of a tensor, neither of a fake one on CUDA, which has no
values, nor of one that stands in for it on the CPU."""

from __future__ import annotations

from traceback import walk_stack

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import convbert
import tiny
from convbert.model.batch import read_batch
from convbert.ops import attention, depthwise_conv, span_dynamic_conv
from convbert.ops.attention import gpu
from convbert.ops.varlen import VarlenBounds
from helpers import bounds

CUDA = torch.device("cuda")
aten = torch.ops.aten


@pytest.mark.parametrize("shape", [(2, 9), (18,)], ids=["dense", "unpadded"])
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


class Reading(TorchDispatchMode):
    """Notes the operators that synchronise: those whose result, or its shape, a program must know to go on."""

    reading = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2)
    indexing = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)  # by a mask
    on_cpu_alone = ("class_numbers", "_judgements")  # functions that look at values where that costs nothing

    def __init__(self):
        super().__init__()
        self.seen = []
        self.patch = pytest.MonkeyPatch()

    def __enter__(self):
        tolist = torch.Tensor.tolist
        # On the CPU, where these tensors are, no operator runs for it.
        self.patch.setattr(torch.Tensor, "tolist", lambda x: self.seen.append("tolist") or tolist(x))
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.undo()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        synchronises = (
            packet in self.reading
            or (packet in self.indexing and any(map(is_mask, args[1])))
            or (packet is aten.repeat_interleave and (kwargs or {}).get("output_size") is None)
        )
        if synchronises and not any(f.f_code.co_name in self.on_cpu_alone for f, _ in walk_stack(None)):
            self.seen.append(packet)
        return func(*args, **(kwargs or {}))


def is_mask(index) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def test_the_mode_sees_what_synchronises():
    x, mask = torch.zeros(3), torch.tensor([True, False, True])
    with Reading() as reading:
        x[mask], x.nonzero(), x.masked_select(mask), x[0].item(), x.tolist()
        x[mask] = 1.0
        x.repeat_interleave(mask.long())
    assert len(reading.seen) == 7


def synchronisations(head: str = "ConvBertModel", train: bool = True, **inputs) -> list:
    """Forward and backward, with dropout in training, from vectors: ids are checked on the CPU alone."""
    config = tiny.config(conv_kernel_size=9)
    model = getattr(convbert, head)(config).train(train)
    vectors = torch.randn(2, 9, 16)
    with Reading() as reading:
        out = model(inputs_embeds=vectors, **inputs)
        out[0].square().mean().backward()
    return reading.seen


WORDS, TEXTS = torch.ones(2, 9, dtype=torch.long), torch.ones(2, dtype=torch.long)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("head", "inputs"),
    [
        ("ConvBertModel", {}),
        ("ConvBertModel", {"positions_to_keep": torch.tensor([3, 9])}),
        ("ConvBertForMaskedLM", {}),
        ("ConvBertForMaskedLM", {"labels": WORDS, "logits_to_keep": torch.tensor([3, 9])}),
        ("ConvBertForPreTraining", {"labels": WORDS}),
        ("ConvBertForSequenceClassification", {"labels": TEXTS}),
        ("ConvBertForTokenClassification", {"labels": WORDS}),
        ("ConvBertForQuestionAnswering", {"start_positions": TEXTS, "end_positions": TEXTS}),
    ],
)
def test_a_dense_batch(head, inputs, train):
    assert synchronisations(head, train, **inputs) == []


def test_choices():
    model = convbert.ConvBertForMultipleChoice(tiny.config())
    with Reading() as reading:
        model(inputs_embeds=torch.randn(2, 3, 9, 16), labels=TEXTS).loss.backward()
    assert reading.seen == []


def test_how_many_positions_are_labelled_is_read_once():
    assert synchronisations("ConvBertForMaskedLM", labels=WORDS) == [aten.nonzero]


@pytest.mark.parametrize("lengths", [[9, 4], [9, 9]], ids=["padded", "full"])
def test_where_the_padding_is_is_read_once(lengths):
    words, mask = torch.randn(2, 9, 16), torch.arange(9) < torch.tensor(lengths)[:, None]
    with Reading() as reading:
        batch = read_batch(
            tiny.config(), words, None, None, mask, None, num_words=17, eager=False, conv_backend="auto"
        )
        selection = batch.select(torch.tensor([3, 17]))
        selection.zero_padding(batch.inputs.words.flatten(0, -2)[selection.rows])
    assert reading.seen == ["tolist"]


def test_attention_that_is_padded_for_its_own_step():
    heads = [torch.randn(18, 2, 16, requires_grad=True) for _ in range(3)]
    found = VarlenBounds.of(bounds([9, 2, 7]), 18, 9)
    with Reading() as reading:
        gpu.attend(*heads, found, 0.1).sum().backward()
    assert reading.seen == []
