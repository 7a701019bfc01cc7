"""What needs a GPU: kernels against the definition on the full grid, no waiting, one graph, a whole training step."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import convbert
import tiny
from convbert import ConvBertModel
from convbert.ops import attention, depthwise_conv, span_dynamic_conv
from convbert.ops.attention import attention_with_weights
from helpers import assert_close, assert_fast_equals_reference, bounds, packed, spread_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")

OPS = {"span": span_dynamic_conv, "depthwise": depthwise_conv}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LENGTHS = [[1], [4], [9], [1, 9, 2], [15, 16, 17], [31, 32, 33], [63, 64, 65], [0, 3, 0], [997, 5, 128], []]


@pytest.fixture(autouse=True)
def plain_products():
    torch.backends.cuda.matmul.allow_tf32 = False


def case(name, shape, kernel_size, dtype, heads=3, width=64):
    """Inputs of the op of this name, slices of larger tensors."""
    if name == "depthwise":
        channels = heads * width
        inputs = torch.randn(*shape, 2 * channels)[..., ::2], torch.randn(channels, 1, kernel_size)
    else:
        inputs = torch.randn(*shape, 2 * heads, width)[..., ::2, :], torch.randn(*shape, heads, kernel_size)
    return [x.to("cuda", dtype) for x in inputs]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3, 9, 17, 31])
def test_unpadded(name, dtype, lengths, kernel_size):
    assert_fast_equals_reference(
        OPS[name], case(name, [sum(lengths)], kernel_size, dtype), bounds(lengths).cuda()
    )


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (3, 65), (16, 512), (0, 5), (2, 0)], ids=str)
@pytest.mark.parametrize("kernel_size", [1, 9, 31])
def test_dense(name, dtype, shape, kernel_size):
    assert_fast_equals_reference(OPS[name], case(name, shape, kernel_size, dtype), None)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (3, 16), (5, 48), (2, 80), (1, 129), (2, 256)], ids=str)
def test_widths(name, dtype, heads, width):
    assert_fast_equals_reference(OPS[name], case(name, [50], 9, dtype, heads, width), bounds([17, 33]).cuda())


@pytest.mark.parametrize("name", OPS)
def test_what_the_kernels_do_not_take_runs_the_definition(name):
    for dtype, kernel_size in ((torch.float64, 9), (torch.float32, 33)):
        inputs = case(name, [2, 9], kernel_size, dtype)
        expected = OPS[name](*(x.cpu() for x in inputs), backend="reference")
        assert_close(OPS[name](*inputs).cpu(), expected, dtype)
        with pytest.raises(RuntimeError, match="not"):
            OPS[name](*inputs, backend="fast")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [[5], [1, 7, 3], [3, 0, 2], [300, 17]], ids=str)
def test_packed_attention(dtype, lengths):
    inputs = [torch.randn(sum(lengths), 2, 64, device="cuda", dtype=dtype).requires_grad_() for _ in range(3)]
    wide = [x.detach().float().requires_grad_() for x in inputs]
    mixed = attention(*inputs, cu_seqlens=bounds(lengths).cuda(), max_length=max(lengths))
    ends = list(pairwise(bounds(lengths).tolist()))
    alone = torch.cat([attention_with_weights(*(x[None, a:b] for x in wide))[0][0] for a, b in ends])
    assert_close(mixed.detach(), alone.detach(), dtype)
    grads = torch.autograd.grad(mixed, inputs, torch.ones_like(mixed))
    for actual, expected in zip(grads, torch.autograd.grad(alone, wide, torch.ones_like(alone)), strict=True):
        assert_close(actual, expected, dtype)


def build(**changes) -> ConvBertModel:
    """Small, with heads that the varlen kernels take."""
    sizes = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "conv_kernel_size": 9,
    }
    return spread_model(0.2, **sizes, **changes)


def packed_on_gpu(lengths: list[int]) -> dict:
    return {name: x.cuda() if isinstance(x, torch.Tensor) else x for name, x in packed(lengths).items()}


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_training_step_equals_the_cpu():
    ids, mask = torch.randint(5, 17, (3, 40)), torch.arange(40) < torch.tensor([[40], [17], [1]])
    model = build(**QUIET).train()
    results = []
    for device in ("cpu", "cuda"):
        model.zero_grad()
        model.to(device)
        states = model(ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        states.square().mean().backward()
        results.append([states.detach().cpu(), *(p.grad.cpu() for p in model.parameters())])
    for expected, actual in zip(*results, strict=True):
        assert (actual - expected).norm() <= 1e-4 * expected.norm() + 1e-5


@pytest.mark.parametrize("changes", [QUIET, {}], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("kind", ["dense", "packed"])
def test_nothing_synchronises(kind, changes):
    model = build(**changes).to("cuda", torch.bfloat16).train()
    inputs = packed_on_gpu([40, 17, 3])
    if kind == "dense":
        inputs = {"input_ids": inputs["input_ids"].view(3, 20)}
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(**inputs).last_hidden_state.square().mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification", "PreTraining"])
def test_heads_do_not_synchronise(head):
    model = getattr(convbert, f"ConvBertFor{head}")(tiny.config()).cuda().train()
    ids = torch.randint(5, 17, (3, 20), device="cuda")
    labels = torch.ones(3, 20, dtype=torch.long, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(ids, labels=labels[:, 0] if head == "SequenceClassification" else labels).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@torch.no_grad()
def test_dense_in_a_cuda_graph():
    model = build().to("cuda", torch.bfloat16).eval()
    ids = torch.randint(5, 17, (4, 32), device="cuda")
    expected = model(ids).last_hidden_state
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        states = model(ids).last_hidden_state
    states.zero_()
    graph.replay()
    assert torch.equal(states, expected)


@pytest.mark.parametrize("kind", ["dense", "packed"])
def test_compiled_equals_eager(kind):
    torch._dynamo.reset()
    model = build(**QUIET).cuda().train()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for lengths in ([20, 20, 20], [10, 10, 10, 10], [33, 33]):
            inputs = packed_on_gpu(lengths)
            if kind == "dense":
                inputs = {"input_ids": inputs["input_ids"].view(len(lengths), -1)}
            results = []
            for run in (model, compiled):
                model.zero_grad()
                states = run(**inputs).last_hidden_state
                states.square().mean().backward()
                results.append([states.detach(), *(p.grad for p in model.parameters())])
            for expected, actual in zip(*results, strict=True):
                assert (actual - expected).norm() <= 1e-4 * expected.norm() + 1e-5
