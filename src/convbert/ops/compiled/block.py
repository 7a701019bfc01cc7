"""A whole layer of the encoder in one call of the compiled kernels: fp32, for inference."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from convbert.ops import compiled


class PackedWeight(NamedTuple):
    """Of a linear layer: from `product.pack`, and (out,)."""

    packed: Tensor
    bias: Tensor

    @property
    def sizes(self) -> tuple[int, int]:
        """Inputs and outputs, of all groups."""
        return self.packed.shape[0] * self.packed.shape[2], self.bias.shape[0]


class Norm(NamedTuple):
    """(C,), (C,), and what is added to the variance."""

    weight: Tensor
    bias: Tensor
    eps: float


class BlockWeights(NamedTuple):
    """Of a layer of width C, with H heads of D channels in either branch and K taps.

    Attributes:
        joined: query, key, value and the convolution's value, (C, 4 H D).
        taps: the depthwise filter, (C, 1, K).
        pointwise, kernels: (C, H D), (H D, H K).
        output, norm: of the mixed heads, (2 H D, C).
        widening, narrowing, final_norm: of the feed-forward layer.
    """

    num_heads: int
    joined: PackedWeight
    taps: Tensor
    pointwise: PackedWeight
    kernels: PackedWeight
    output: PackedWeight
    norm: Norm
    widening: PackedWeight
    narrowing: PackedWeight
    final_norm: Norm

    def tensors(self) -> list[Tensor]:
        """All of them."""
        layers = (self.joined, self.pointwise, self.kernels, self.output, self.widening, self.narrowing)
        return [*(x for layer in layers for x in layer), self.taps, *self.norm[:2], *self.final_norm[:2]]


class _Linear(ctypes.Structure):
    """As in product.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("groups", "inputs", "columns")),
        *((name, ctypes.c_void_p) for name in ("packed", "bias")),
    ]


class _Block(ctypes.Structure):
    """As in block.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("heads", "head_size", "taps")),
        ("joined", _Linear),
        ("filter", ctypes.c_void_p),
        *((name, _Linear) for name in ("pointwise", "kernels", "output", "widening", "narrowing")),
        *((name, ctypes.c_void_p) for name in ("norm_weight", "norm_bias")),
        *((name, ctypes.c_void_p) for name in ("final_norm_weight", "final_norm_bias")),
        *((name, ctypes.c_double) for name in ("norm_eps", "final_norm_eps")),
    ]


class CompiledBlock:
    """A layer ready to be called: its weights, checked once, as the kernel wants to be told of them.

    Attributes:
        tensors: all its weights.

    Raises:
        ValueError: the weights do not belong together.
    """

    def __init__(self, weights: BlockWeights) -> None:
        _check(weights)
        # One row for each tap; the copy, if there is one, lives as long as the address.
        self._filter = weights.taps.detach().permute(2, 1, 0).contiguous()
        self.tensors = weights.tensors()
        self._addresses = [x.data_ptr() for x in self.tensors]
        heads, head_size = weights.num_heads, weights.joined.sizes[1] // (4 * weights.num_heads)
        self._block = _Block(
            heads,
            head_size,
            weights.taps.shape[-1],
            _linear(weights.joined),
            self._filter.data_ptr(),
            *(_linear(x) for x in (weights.pointwise, weights.kernels, weights.output)),
            *(_linear(x) for x in (weights.widening, weights.narrowing)),
            *(x.data_ptr() for x in (*weights.norm[:2], *weights.final_norm[:2])),
            weights.norm.eps,
            weights.final_norm.eps,
        )

    def is_current(self) -> bool:
        """Whether every weight still lies where it lay."""
        return [x.data_ptr() for x in self.tensors] == self._addresses

    def __call__(
        self, states: Tensor, cu_seqlens: Tensor | None, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Run the layer. `compiled.takes` must hold of the states, and there must be some.

        Args:
            states: (B, T, C), or (N, C) with bounds.
            cu_seqlens: (B + 1,) int32.
            rows: (n,) numbers of the tokens that are wanted, counted over all sequences; None: all.

        Returns:
            states of the same shape, or (n, C); kernel logits (..., H, K).
        """
        states = states.contiguous()
        width, block = states.shape[-1], ctypes.byref(self._block)
        tokens = states.numel() // width
        wanted = tokens if rows is None else len(rows)
        bounds = compiled.bounds_arguments(states, cu_seqlens)
        scratch = states.new_empty(compiled.library().block_scratch(block, tokens, wanted))
        kernel_logits = states.new_empty(*states.shape[:-1], self._block.heads, self._block.taps)
        out = torch.empty_like(states) if rows is None else states.new_empty(wanted, width)
        if rows is not None:
            rows = _checked_rows(rows, tokens)
        results = scratch, kernel_logits, out
        threads = torch.get_num_threads()
        compiled.call("block_forward", threads, block, tokens, *bounds, states, rows, wanted, *results)
        return out, kernel_logits


def _linear(weight: PackedWeight) -> _Linear:
    groups, _, inputs, _ = weight.packed.shape
    return _Linear(
        groups, inputs, weight.sizes[1] // groups, weight.packed.data_ptr(), weight.bias.data_ptr()
    )


def _check(weights: BlockWeights) -> None:
    width, four_inner = weights.joined.sizes
    heads, taps, inner = weights.num_heads, weights.taps.shape[-1], four_inner // 4
    wide = weights.widening.sizes[1]
    fits = (
        four_inner == 4 * inner
        and inner % heads == 0
        and weights.taps.shape == (width, 1, taps)
        and taps <= compiled.MAX_TAPS
        and weights.pointwise.sizes == (width, inner)
        and weights.kernels.sizes == (inner, heads * taps)
        and weights.output.sizes == (2 * inner, width)
        and weights.widening.sizes == (width, wide)
        and weights.narrowing.sizes == (wide, width)
        and all(x.shape == (width,) for x in (*weights.norm[:2], *weights.final_norm[:2]))
        and all(x.is_contiguous() for x in weights.tensors() if x is not weights.taps)
    )
    if not fits or not compiled.takes(*weights.tensors()):
        raise ValueError("the weights of a layer do not belong together")


def _checked_rows(rows: Tensor, tokens: int) -> Tensor:
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= tokens):
        raise IndexError(f"numbers of tokens must lie between 0 and {tokens - 1}")
    return rows.to("cpu", torch.int64).contiguous()
