"""All layers of the encoder in one call of the compiled kernels, in fp32 or with linear layers in 8-bit numbers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convbert.ops import compiled
from convbert.ops.compiled.product import LinearStruct, PrepackedLinear
from convbert.ops.varlen import VarlenBounds


class LayerWeights(NamedTuple):
    """Of a layer of width C, with H heads of D channels in either branch and a kernel size K.

    Attributes:
        joined: query, key, value and the convolution's value, (4 H D, C).
        depthwise: the filter, (C, 1, K).
        pointwise, kernels: (H D, C), (H K, H D).
        output, norm: of the mixed heads, (C, 2 H D).
        ffn_up, ffn_down, final_norm: of the feed-forward layer.
    """

    num_heads: int
    joined: PrepackedLinear
    depthwise: Tensor
    pointwise: PrepackedLinear
    kernels: PrepackedLinear
    output: PrepackedLinear
    norm: nn.LayerNorm
    ffn_up: PrepackedLinear
    ffn_down: PrepackedLinear
    final_norm: nn.LayerNorm

    def linear_layers(self) -> list[PrepackedLinear]:
        """All of them, in the order of encoder.c."""
        return [self.joined, self.pointwise, self.kernels, self.output, self.ffn_up, self.ffn_down]


class _Norm(ctypes.Structure):
    """As in kernels.c."""

    _fields_ = [("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("eps", ctypes.c_double)]


class LayerStruct(ctypes.Structure):
    """As in encoder.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("heads", "head_size", "kernel_size")),
        ("joined", LinearStruct),
        ("filter", ctypes.c_void_p),
        *((name, LinearStruct) for name in ("pointwise", "kernels", "output", "ffn_up", "ffn_down")),
        *((name, _Norm) for name in ("norm", "final_norm")),
    ]


class EncoderOutput(NamedTuple):
    """The last states, of the shape of the input's or (n, C); and of every layer, where asked, the states before it
    but for the first, and its kernel logits (..., H, K)."""

    states: Tensor
    hidden: tuple[Tensor, ...]
    kernel_logits: tuple[Tensor, ...]


class CompiledEncoder:
    """Layers of equal sizes, ready to be called.

    Raises:
        ValueError: the weights do not belong together.
    """

    def __init__(self, layers: Sequence[LayerWeights]) -> None:
        self._kept: list[Tensor] = []  # what the addresses below point at
        self._layers = (LayerStruct * len(layers))(*map(self._layer, layers))
        self.width = layers[0].joined.sizes[0]

    def __call__(
        self,
        states: Tensor,
        bounds: VarlenBounds | None,
        rows: Tensor | None = None,
        *,
        wants_hidden: bool = False,
        wants_kernels: bool = False,
    ) -> EncoderOutput:
        """Run all layers. `compiled.takes` must hold of the states, and there must be some.

        Args:
            states: (B, T, C), or (N, C) with bounds.
            rows: (n,) numbers of the tokens whose last states are wanted, counted over all sequences; None: all.
        """
        states = states.contiguous()
        if states.shape[-1] != self.width:
            raise ValueError(f"states must be {self.width} wide, got {tuple(states.shape)}")
        limits = compiled.bounds_arguments(states, bounds)
        count, tokens, first = len(self._layers), states.numel() // self.width, self._layers[0]
        wanted = tokens if rows is None else len(rows)
        rows = None if rows is None else _checked_rows(rows, tokens)
        out = torch.empty_like(states) if rows is None else states.new_empty(wanted, self.width)
        hidden = states.new_empty(count - 1, *states.shape) if wants_hidden else None
        kernels = (
            states.new_empty(count, *states.shape[:-1], first.heads, first.kernel_size)
            if wants_kernels
            else None
        )
        threads = torch.get_num_threads()
        layers = ctypes.byref(self._layers)
        needed = compiled.library().encoder_scratch(threads, layers, tokens, limits[2], wanted)
        scratch = states.new_empty(needed)
        results = scratch, kernels, hidden, out
        compiled.call(
            "encoder_forward", threads, layers, count, tokens, *limits, states, rows, wanted, *results
        )
        return EncoderOutput(out, _unbind(hidden), _unbind(kernels))

    def _layer(self, weights: LayerWeights) -> LayerStruct:
        _check(weights)
        heads = weights.num_heads
        sizes = heads, weights.joined.sizes[1] // (4 * heads), weights.depthwise.shape[-1]
        joined, *linear = weights.linear_layers()
        self._kept += [x for layer in (joined, *linear) for x in layer.tensors]
        depthwise = self._keep(weights.depthwise.permute(2, 1, 0))  # (K, 1, C)
        norms = self._norm(weights.norm), self._norm(weights.final_norm)
        return LayerStruct(*sizes, joined.struct, depthwise, *(layer.struct for layer in linear), *norms)

    def _norm(self, norm: nn.LayerNorm) -> _Norm:
        return _Norm(self._keep(norm.weight), self._keep(norm.bias), norm.eps)

    def _keep(self, tensor: Tensor) -> int:
        """The address of a copy of our own."""
        self._kept.append(tensor.detach().clone(memory_format=torch.contiguous_format))
        return self._kept[-1].data_ptr()


def _unbind(stacked: Tensor | None) -> tuple[Tensor, ...]:
    return () if stacked is None else stacked.unbind()


def _check(weights: LayerWeights) -> None:
    """Refuse what the kernel would read beyond.

    Raises:
        ValueError: the weights do not belong together.
    """
    heads, (width, joined) = weights.num_heads, weights.joined.sizes
    inner, kernel_size, wide = joined // 4, weights.depthwise.shape[-1], weights.ffn_up.sizes[1]
    tensors = [
        weights.depthwise,
        *(x for norm in (weights.norm, weights.final_norm) for x in (norm.weight, norm.bias)),
    ]
    fits = (
        inner % heads == 0
        and joined == 4 * inner
        and weights.depthwise.shape == (width, 1, kernel_size)
        and kernel_size <= compiled.MAX_KERNEL_SIZE
        and weights.pointwise.sizes == (width, inner)
        and weights.kernels.sizes == (inner, heads * kernel_size)
        and weights.output.sizes == (2 * inner, width)
        and weights.ffn_up.sizes == (width, wide)
        and weights.ffn_down.sizes == (wide, width)
        and all(x.shape == (width,) for x in tensors[1:])
    )
    if not fits or not compiled.takes(*tensors):
        raise ValueError("the weights of a layer do not belong together")


def _checked_rows(rows: Tensor, tokens: int) -> Tensor:
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= tokens):
        raise IndexError(f"numbers of tokens must lie between 0 and {tokens - 1}")
    return rows.to("cpu", torch.int64).contiguous()
