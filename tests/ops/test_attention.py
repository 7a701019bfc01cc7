"""Attention: plain steps, PyTorch's kernels and each sequence alone agree, gradients included."""

import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from convbert.ops import VarlenBounds, attention
from convbert.ops.attention import attention_with_weights, gpu
from helpers import TOLERANCE, assert_close, bounds


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


def test_low_scores_in_half_precision_stay_finite_beside_padding():
    query, key = torch.full((1, 4, 2, 8), 8.0), torch.full((1, 4, 2, 8), -8.0)
    for mask in ([[True, True, False, False]], [[False] * 4]):
        mixed, weights = attention_with_weights(
            query.half(), key.half(), query.half(), mask=torch.tensor(mask)
        )
        assert torch.isfinite(mixed).all()
        assert_close(weights.sum(-1), torch.ones(1, 2, 4).half(), torch.float16)


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


class TestGpu:
    """What an unpadded batch takes beyond the CPU; CUDA's two kernels are stood in for by a loop."""

    CUDA = torch.device("cuda")

    @pytest.mark.parametrize(
        ("device", "dtype", "head_size", "dropout", "flash", "expected"),
        [
            ("xpu", torch.bfloat16, 64, 0.0, True, "padded"),
            ("cuda", torch.float32, 64, 0.0, True, "padded"),
            ("cuda", torch.bfloat16, 60, 0.0, True, "padded"),
            ("cuda", torch.bfloat16, 264, 0.0, True, "padded"),
            ("cuda", torch.bfloat16, 64, 0.0, False, "varlen"),
            ("cuda", torch.float16, 64, 0.1, False, "padded"),
            ("cuda", torch.float16, 64, 0.1, True, "flash_attn"),
        ],
    )
    def test_choice(self, monkeypatch, device, dtype, head_size, dropout, flash, expected):
        monkeypatch.setattr(gpu, "HAS_FLASH_ATTN", flash)
        monkeypatch.setattr(gpu, "is_older_gpu", lambda device: False)
        choice = gpu.choose(torch.device(device), dtype, head_size, dropout)
        assert choice.name == expected
        assert choice.reason

    def test_an_older_gpu_pads(self, monkeypatch):
        monkeypatch.setattr(gpu, "is_older_gpu", lambda device: True)
        assert gpu.choose(self.CUDA, torch.float16, 64, 0.0).name == "padded"

    @pytest.mark.parametrize("lengths", [[5], [1, 7, 3], [3, 0, 2], [0, 4]], ids=str)
    @pytest.mark.parametrize("max_length", [None, "longest", 9], ids=str)
    @pytest.mark.parametrize("form", ["padded", "varlen", "flash_attn"])
    def test_equals_each_alone(self, monkeypatch, form, max_length, lengths):
        stand_in(monkeypatch)
        monkeypatch.setattr(gpu, "choose", lambda *_: gpu.Choice(form, ""))
        longest = max(lengths) if max_length == "longest" else max_length
        inputs = heads(sum(lengths))
        mixed = gpu.attend(*inputs, VarlenBounds.of(bounds(lengths), sum(lengths), longest), 0.0)
        parts = zip(*(x.split(lengths) for x in inputs), strict=True)
        alone = torch.cat([attention_with_weights(*(x[None] for x in part))[0][0] for part in parts])
        assert_close(mixed, alone, torch.float32)
        for actual, expected in zip(gradients(mixed, inputs), gradients(alone, inputs), strict=True):
            assert_close(actual, expected, torch.float32)

    @pytest.mark.parametrize("form", ["padded", "varlen", "flash_attn"])
    def test_no_tokens(self, monkeypatch, form):
        monkeypatch.setattr(gpu, "choose", lambda *_: gpu.Choice(form, ""))
        inputs = heads(0)
        assert gradients(gpu.attend(*inputs, VarlenBounds.of(bounds([0]), 0), 0.0), inputs)[1].shape == (
            0,
            2,
            4,
        )

    @pytest.mark.parametrize("form", ["padded", "flash_attn"])
    def test_dropout_is_passed_on(self, monkeypatch, form):
        stand_in(monkeypatch)
        monkeypatch.setattr(gpu, "choose", lambda *_: gpu.Choice(form, ""))
        inputs = heads(9)
        rows = [gpu.attend(*inputs, VarlenBounds.of(bounds([9]), 9), dropout) for dropout in (0.0, 0.5)]
        assert not torch.equal(*rows)


def stand_in(monkeypatch):
    """Both CUDA kernels' functions, as PyTorch and flash-attn declare them, computing in a loop."""

    def loop(query, key, value, cu_seqlens, cu_seqlens_k, max_length, max_length_k, dropout_p=0.0):
        assert cu_seqlens is cu_seqlens_k
        assert max_length == max_length_k >= cu_seqlens.diff().max()
        pieces = [
            attention_with_weights(*(x[None, a:b] for x in (query, key, value)), dropout=dropout_p)[0][0]
            for a, b in pairwise(cu_seqlens.tolist())
        ]
        return torch.cat(pieces)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", loop)
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=loop))


class TestSequences:
    """The CPU's operator, `convbert::attention`, in PyTorch alone."""

    seed = torch.tensor(7)

    @pytest.fixture(autouse=True)
    def _portable(self, without_kernels):
        pass

    @staticmethod
    def op(query, key, value, cu_seqlens, dropout, seed):
        return torch.ops.convbert.attention(query, key, value, cu_seqlens, None, dropout, seed)

    @pytest.mark.usefixtures("poisoned_memory")
    @pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
    @pytest.mark.parametrize("plain", [False, True], ids=["flash", "plain steps"])
    def test_equals_plain_steps(self, dtype, plain):
        lengths, nothing = [1, 37, 0, 12], 1e-30  # so little dropout that no weight is dropped
        inputs = [x.detach().to(dtype).requires_grad_() for x in heads(50)]
        wide = [x.detach().to(torch.promote_types(dtype, torch.float32)).requires_grad_() for x in inputs]
        mixed = self.op(*inputs, bounds(lengths), nothing * plain, self.seed if plain else None)[0]
        parts = zip(*(x.split(lengths) for x in wide), strict=True)
        alone = torch.cat([attention_with_weights(*(x[None] for x in part))[0][0] for part in parts])
        assert mixed.dtype == dtype
        assert_close(mixed.detach(), alone.detach(), dtype)
        for actual, expected in zip(gradients(mixed, inputs), gradients(alone, wide), strict=True):
            assert_close(actual, expected, dtype)

    def test_dropout_drops_weights_and_makes_up_for_them(self):
        query, key, _ = (torch.randn(60, 2, 60) for _ in range(3))
        unit = torch.eye(60)[:, None].expand(60, 2, 60)  # what comes out are the weights
        weights = self.op(query, key, unit, bounds([60]), 0.0, None)[0]
        dropped = self.op(query, key, unit, bounds([60]), 0.25, self.seed)[0]
        kept = dropped != 0
        assert 0.72 < kept.float().mean() < 0.78
        assert_close(dropped[kept], weights[kept] / 0.75, torch.float32)

    @pytest.mark.parametrize("dropout", [0.0, 0.4])
    def test_gradcheck(self, dropout):
        inputs = [torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
        seed = self.seed if dropout else None
        assert torch.autograd.gradcheck(lambda *x: self.op(*x, bounds([2, 5]), dropout, seed)[0], inputs)

    def test_dropout_follows_the_seed_of_the_program(self):
        inputs, rows = heads(30), []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            rows.append(attention(*inputs, cu_seqlens=bounds([30]), dropout=0.3))
        assert torch.equal(rows[0], rows[1])
        assert not torch.equal(rows[0], rows[2])

    def test_follows_autocast(self):
        with torch.autocast("cpu", torch.bfloat16):
            assert attention(*heads(5), cu_seqlens=bounds([5])).dtype == torch.bfloat16

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("dropout", [0.0, 0.1])
    def test_extreme_scores_stay_finite(self, dtype, dropout):
        inputs = [x.detach().mul(1e4).to(dtype).requires_grad_() for x in heads(20)]
        mixed = attention(*inputs, cu_seqlens=bounds([3, 17]), dropout=dropout)
        assert torch.isfinite(mixed).all()
        assert all(torch.isfinite(x).all() for x in gradients(mixed, inputs)[2:])
