"""The compiled kernels against the definitions in double precision, with gradients and dropout."""

import ctypes
import shutil

import pytest
import torch
import torch.nn.functional as F

from convbert.ops import add_norm, attention, compiled, depthwise_conv, dropout, gelu, span_dynamic_conv
from convbert.ops.attention import attention_with_weights
from helpers import FORMS, assert_close, bounds, each_alone, gradients, slice_of_larger

SHAPES = [(1, 1), (3, 7), (5, 64), (2, 9, 33), (300, 256)]
LENGTHS = [[1], [5], [31, 32, 33], [1, 40, 2], [0, 3, 0], [129]]


def test_built_where_there_is_a_compiler():
    assert compiled.build() is not None or shutil.which("cc") is None, compiled.why_missing()


@pytest.mark.skipif(not FORMS[:-1], reason="no compiled kernels here")
def test_a_library_of_another_version_is_not_run(monkeypatch):
    monkeypatch.setattr(compiled, "ABI", compiled.ABI + 1)
    library, reason = compiled.open_build(FORMS[0])
    assert library is None
    assert "install" in reason


@pytest.mark.skipif(not FORMS[:-1], reason="no compiled kernels here")
@pytest.mark.parametrize("struct", ["encoder.LayerStruct", "product.LinearStruct"])
def test_a_library_with_other_structs_is_not_run(struct, monkeypatch):
    monkeypatch.setattr(f"convbert.ops.compiled.{struct}", ctypes.c_int64)
    library, reason = compiled.open_build(FORMS[0])
    assert library is None
    assert "install" in reason


def assert_equals_definition(function, definition, inputs):
    """Output and gradients, of fp32 against fp64."""
    with torch.no_grad():
        expected_shape = definition(*inputs)
    grad = torch.randn_like(expected_shape)
    actual = gradients(function, inputs, grad)
    expected = gradients(definition, [x.double() for x in inputs], grad)
    for number, pair in enumerate(zip(actual, expected, strict=True)):
        assert_close(*pair, torch.float32, f"number {number}")


@pytest.mark.usefixtures("poisoned_memory", "form")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gelu(shape):
    assert_equals_definition(gelu, F.gelu, [3 * slice_of_larger(*shape)])


@pytest.mark.parametrize("form", FORMS[:-1], indirect=True)
def test_gelu_at_its_limits(form):
    """Stated by hand: libraries differ in what they make of infinity."""
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([nan, inf, -inf, -1e4, 0.0, 1e4, -6.0, 6.0] * 9, requires_grad=True)
    y = gelu(x)
    expected = torch.tensor([nan, inf, 0.0, 0.0, 0.0, 1e4, 0.0, 6.0] * 9)
    slope = torch.tensor([nan, 1.0, 0.0, 0.0, 0.5, 1.0, 0.0, 1.0] * 9)
    torch.testing.assert_close(y.detach(), expected, rtol=0, atol=1e-7, equal_nan=True)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], slope, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.usefixtures("poisoned_memory", "form")
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)  # a norm over one number is nothing but its bias
def test_add_norm(shape):
    width = shape[-1]
    inputs = [slice_of_larger(*shape), slice_of_larger(*shape), torch.randn(width), torch.randn(width)]

    def definition(x, residual, weight, bias):
        return F.layer_norm(x + residual, (width,), weight, bias, 1e-6)

    assert_equals_definition(lambda *x: add_norm(*x, eps=1e-6), definition, inputs)


@pytest.fixture
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("poisoned_memory", "form", "keep_threads")
@pytest.mark.parametrize("threads", [1, 2])
def test_dropout_keeps_what_it_says_and_scales_it(threads):
    torch.set_num_threads(threads)
    out = dropout(torch.ones(1000, 200), 0.25)
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    kept = out != 0
    assert abs(kept.double().mean().item() - 0.75) < 0.005
    # Neither rows nor columns nor neighbours share their fate.
    assert kept.double().mean(0).std() < 0.02
    assert kept.double().mean(1).std() < 0.04
    assert abs((kept[:, 1:] == kept[:, :-1]).double().mean().item() - (0.75**2 + 0.25**2)) < 0.01
    assert abs((kept[1:] == kept[:-1]).double().mean().item() - (0.75**2 + 0.25**2)) < 0.01


@pytest.mark.usefixtures("poisoned_memory", "form", "keep_threads")
def test_dropout_follows_the_seed_and_not_the_threads():
    x = torch.randn(500, 300, requires_grad=True)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(7)
        results.append(dropout(x, 0.3))
    assert results[0].equal(results[1])
    assert not dropout(x, 0.3).equal(results[0])
    (grad,) = torch.autograd.grad(results[0].sum(), x)
    assert grad.eq(0).equal(results[0].eq(0))
    assert dropout(x, 0.0) is x


@pytest.mark.usefixtures("poisoned_memory", "form")
def test_add_norm_drops_and_differentiates_the_same_elements():
    x, residual = torch.randn(50, 96, requires_grad=True), torch.randn(50, 96, requires_grad=True)
    weight, bias = torch.randn(96, requires_grad=True), torch.randn(96, requires_grad=True)
    torch.manual_seed(3)
    mask = dropout(torch.ones(50, 96), 0.4)  # the same seed makes the same choice
    torch.manual_seed(3)
    out = add_norm(x, residual, weight, bias, eps=1e-6, dropout=0.4)
    expected = F.layer_norm(x * mask + residual, (96,), weight, bias, 1e-6)
    inputs, grad = (x, residual, weight, bias), torch.randn(50, 96)
    assert_close(out, expected, torch.float32)
    pairs = zip(
        torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    )
    for actual, wanted in pairs:
        assert_close(actual, wanted, torch.float32)


def plain_attention(query, key, value):
    return attention_with_weights(query, key, value)[0]


@pytest.mark.usefixtures("poisoned_memory", "form")
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 8), (2, 5, 2, 7), (2, 33, 3, 16), (1, 130, 2, 64), (3, 64, 1, 20)]
    + [(1, 34, 2, width) for width in (1, 9, 15, 17, 31, 33, 40, 48, 56)],
    ids=str,
)
def test_attention(shape):
    inputs = [slice_of_larger(*shape) for _ in range(3)]
    assert_equals_definition(attention, plain_attention, inputs)


@pytest.mark.usefixtures("poisoned_memory", "form")
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention_unpadded_equals_each_alone(lengths):
    cu_seqlens = bounds(lengths)
    inputs = [slice_of_larger(sum(lengths), 2, 24).requires_grad_() for _ in range(3)]
    packed = attention(*inputs, cu_seqlens=cu_seqlens)

    def alone(*rows, backend):
        return plain_attention(*rows)

    expected = each_alone(alone, inputs, cu_seqlens)
    assert_close(packed, expected, torch.float32)
    grad = torch.randn_like(packed)
    for actual, wanted in zip(
        torch.autograd.grad(packed, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        assert_close(actual, wanted, torch.float32)


@pytest.mark.parametrize("form", FORMS[:-1], indirect=True)
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("lengths", [[300], [200, 0, 101]], ids=str)
def test_one_head_of_a_long_text_is_shared_by_threads(form, lengths):
    inputs = [slice_of_larger(sum(lengths), 1, 64).requires_grad_() for _ in range(3)]
    grad, results, before = torch.randn(sum(lengths), 1, 64), [], torch.get_num_threads()
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            out = attention(*inputs, cu_seqlens=bounds(lengths))
            results.append(torch.autograd.grad(out, inputs, grad))
    finally:
        torch.set_num_threads(before)
    for alone, shared in zip(*results, strict=True):
        assert_close(shared, alone, torch.float32)


@pytest.mark.usefixtures("poisoned_memory", "form")
def test_attention_drops_weights_and_differentiates_the_same_ones():
    tokens, heads = 48, 2
    query, key = (torch.randn(1, tokens, heads, tokens, requires_grad=True) for _ in range(2))
    # With the identity as value, the output is the dropped weights themselves.
    identity = torch.eye(tokens)[None, :, None].expand(1, tokens, heads, tokens).contiguous()
    torch.manual_seed(5)
    seen = attention(query, key, identity, dropout=0.3).detach()
    mask = (seen != 0) / 0.7
    assert 0.65 < (seen != 0).double().mean() < 0.75
    value = torch.randn(1, tokens, heads, tokens, requires_grad=True)
    torch.manual_seed(5)
    out = attention(query, key, value, dropout=0.3)
    _, weights = attention_with_weights(query, key, value)
    expected = torch.einsum("bhqk,bqhk,bkhd->bqhd", weights, mask, value)
    assert_close(out, expected, torch.float32)
    inputs, grad = (query, key, value), torch.randn_like(out)
    for actual, wanted in zip(
        torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        assert_close(actual, wanted, torch.float32)


@pytest.mark.parametrize("wrong", [[0, 3], [1, 4], [0, 3, 2, 4], [0, 9]], ids=str)
def test_bounds_that_leave_memory_are_refused(wrong):
    tokens, cu_seqlens = torch.randn(4, 2, 8), torch.tensor(wrong, dtype=torch.int32)
    for call in (
        lambda: attention(tokens, tokens, tokens, cu_seqlens=cu_seqlens),
        lambda: span_dynamic_conv(tokens, torch.randn(4, 2, 3), cu_seqlens, backend="fast"),
        lambda: depthwise_conv(tokens.flatten(1), torch.randn(16, 1, 3), cu_seqlens, backend="fast"),
    ):
        with pytest.raises(ValueError, match="must run from 0 to 4"):
            call()


@pytest.mark.parametrize("form", FORMS[:-1], indirect=True)
@pytest.mark.parametrize("wrong", [[0, 3], [1, 4], [0, 3, 2, 4], [0, 9]], ids=str)
def test_operators_refuse_them_too(form, wrong):
    """A compiled program comes here without the check of the public functions."""
    tokens, ends = torch.randn(4, 2, 8), torch.tensor(wrong, dtype=torch.int32)
    ops = torch.ops.convbert
    for call in (
        lambda: ops.attention(tokens, tokens, tokens, ends, 4, 0.0, None),
        lambda: ops.span_dynamic_conv(tokens, torch.randn(4, 2, 3), ends),
        lambda: ops.span_dynamic_conv_backward(tokens, tokens, torch.randn(4, 2, 3), ends),
        lambda: ops.depthwise_conv(tokens.flatten(1), torch.randn(16, 1, 3), ends),
    ):
        with pytest.raises(ValueError, match="cu_seqlens"):
            call()


def test_extreme_scores_stay_finite():
    query, key = (1e4 * torch.randn(1, 40, 2, 8) for _ in range(2))
    value = torch.randn(1, 40, 2, 8)
    inputs = [x.requires_grad_() for x in (query, key, value)]
    out = attention(*inputs)
    assert all(torch.isfinite(x).all() for x in (out, *torch.autograd.grad(out.sum(), inputs)))


def rows(*shape):
    """(N, H, D) with one token a row, whose rows are nobody's: the strides of an axis of one are never looked at."""
    return torch.randn(shape[1], shape[0], *shape[2:]).transpose(0, 1)


CALLS = {
    "attention": lambda x: attention(x, x, x),
    "span": lambda x: span_dynamic_conv(x, torch.ones(*x.shape[:-1], 3, dtype=x.dtype), backend="fast"),
    "depthwise": lambda x: depthwise_conv(
        x.flatten(-2), torch.ones(x.shape[-2:].numel(), 1, 3, dtype=x.dtype), backend="fast"
    ),
    "norm": lambda x: add_norm(
        x, x, torch.ones(x.shape[-1], dtype=x.dtype), torch.zeros(x.shape[-1], dtype=x.dtype), eps=1e-6
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_new_tensors_are_by_default_changes_nothing(name, dtype):
    x = torch.randn(2, 9, 3, 4, requires_grad=True)
    grad = torch.randn(2, 9, 3, 4)

    def run():
        out = CALLS[name](x).view(grad.shape)
        return out.detach(), torch.autograd.grad(out, x, grad)[0]

    expected = run()
    torch.set_default_dtype(dtype)
    try:
        found = run()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_strides_of_an_axis_of_one(name):
    x = rows(5, 1, 4, 16)
    assert x.stride(-3) != 64
    assert torch.equal(CALLS[name](x), CALLS[name](x.clone(memory_format=torch.contiguous_format)))


def test_operands_that_do_not_fit_are_refused():
    query, key = torch.randn(1, 6, 2, 8), torch.randn(1, 3, 2, 8)
    with pytest.raises(ValueError, match=r"must have one shape, got \(1, 6, 2, 8\), \(1, 3, 2, 8\)"):
        attention(query, key, key)
    x, residual = torch.randn(3, 5), torch.randn(5)
    norm = torch.ones(5), torch.zeros(5)
    assert_close(
        add_norm(x, residual, *norm, eps=1e-6), F.layer_norm(x + residual, (5,), eps=1e-6), torch.float32
    )


def test_dropping_everything_leaves_nothing():
    x = torch.randn(1, 8, 2, 4)
    assert not attention(x, x, x, dropout=1.0).any()


def test_forward_mode_gradients_are_not_lost():
    x, tangent = torch.randn(6, 8), torch.randn(6, 8)
    with torch.autograd.forward_ad.dual_level():
        out = gelu(torch.autograd.forward_ad.make_dual(x, tangent))
        found = torch.autograd.forward_ad.unpack_dual(out).tangent
    expected = torch.func.jvp(F.gelu, (x,), (tangent,))[1]
    assert_close(found, expected, torch.float32)
