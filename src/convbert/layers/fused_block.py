"""An encoder layer as one call of the compiled kernels: for inference alone, where that is the same thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convbert.layers.feed_forward import Intermediate, ResidualOutput
from convbert.layers.layout import Layout
from convbert.layers.linear import is_plain
from convbert.layers.mixed_attention import DepthwiseConv, MixedAttention, SeparableConv
from convbert.layers.packed_linear import PackedLinear
from convbert.ops import compiled
from convbert.ops.compiled.block import BlockWeights, CompiledBlock, Norm, PackedWeight
from convbert.ops.compiled.product import is_packed

if TYPE_CHECKING:
    from convbert.layers.block import Block

_PARTS = {
    "attention.self": MixedAttention,
    "attention.self.joined": PackedLinear,
    "attention.self.key_conv_attn_layer": SeparableConv,
    "attention.self.key_conv_attn_layer.depthwise": DepthwiseConv,
    "attention.self.key_conv_attn_layer.packed": PackedLinear,
    "attention.self.conv_kernel_layer": PackedLinear,
    "attention.output": ResidualOutput,
    "attention.output.dense": PackedLinear,
    "attention.output.LayerNorm": nn.LayerNorm,
    "attention.output.dropout": nn.Dropout,
    "intermediate": Intermediate,
    "intermediate.dense": PackedLinear,
    "output": ResidualOutput,
    "output.dense": PackedLinear,
    "output.LayerNorm": nn.LayerNorm,
    "output.dropout": nn.Dropout,
}
"""What a layer is made of when one call can stand for it."""


class _Bound(NamedTuple):
    """A layer ready to be called, and what makes it this layer."""

    call: CompiledBlock
    parts: list[nn.Module]
    places: list[tuple[dict[str, Any], str, object]]  # where each part and weight lies, and under which name

    def is_current(self) -> bool:
        return self.call.is_current() and all(place.get(name) is held for place, name, held in self.places)


class FusedBlock:
    """Runs a `Block` of packed weights in one call, or says that it cannot.

    A layer may be changed after it was packed: parts replaced by adapters, listened to, moved. Every call therefore
    looks whether everything still is what it was bound to.
    """

    def __init__(self) -> None:
        self._bound: _Bound | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()  # the copied layer has parts of its own

    def __call__(
        self, block: Block, states: Tensor, layout: Layout, rows: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """States and kernel logits as `Block.forward` gives them; None where it has to run in steps."""
        wants_steps = layout.eager or layout.attention_mask is not None or layout.conv_mask is not None
        if wants_steps or layout.conv_backend == "reference" or states.numel() == 0:
            return None
        if not compiled.takes(states) or torch.is_autocast_enabled("cpu"):
            return None
        bound = self._bound  # read once: another thread may bind it anew
        if bound is None or not bound.is_current():
            self._bound = bound = _bind(block)
        if bound is None or not all(is_plain(part, type(part)) and not part.training for part in bound.parts):
            return None
        if not compiled.without_gradient(states, *bound.call.tensors):
            return None
        return bound.call(states, layout.cu_seqlens, rows)


def _bind(block: Block) -> _Bound | None:
    """None where one call would be another layer."""
    parts: list[nn.Module] = []
    places: list[tuple[dict[str, Any], str, object]] = []
    for path, kind in _PARTS.items():
        above, _, name = path.rpartition(".")
        place = block.get_submodule(above)._modules
        part = place.get(name)
        if part is None or type(part) is not kind:
            return None
        parts.append(part)
        places.append((place, name, part))
        if isinstance(part, PackedLinear):
            if not is_packed(part.packed):
                return None
            places += [(part.__dict__, name, getattr(part, name)) for name in ("packed", "bias")]
        places += [(part._parameters, name, held) for name, held in part._parameters.items()]
    if block.intermediate.activation is not F.gelu or block.feed_forward_chunk:
        return None
    return _Bound(CompiledBlock(_weights_of(block)), parts, places)


def _weights_of(block: Block) -> BlockWeights:
    mixed, separable = block.attention.self, block.attention.self.key_conv_attn_layer
    return BlockWeights(
        num_heads=mixed.num_heads,
        joined=_packed(mixed.joined),
        taps=separable.depthwise.weight,
        pointwise=_packed(separable.packed),
        kernels=_packed(mixed.conv_kernel_layer),
        output=_packed(block.attention.output.dense),
        norm=_norm(block.attention.output.LayerNorm),
        widening=_packed(block.intermediate.dense),
        narrowing=_packed(block.output.dense),
        final_norm=_norm(block.output.LayerNorm),
    )


def _packed(layer: Any) -> PackedWeight:
    return PackedWeight(layer.packed, layer.bias)


def _norm(layer: nn.LayerNorm) -> Norm:
    return Norm(layer.weight, layer.bias, layer.eps)
