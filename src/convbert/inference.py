"""A model for inference alone: its weights laid out as this machine's fastest product reads them."""

from __future__ import annotations

from torch import Tensor, nn

from convbert import ops
from convbert.layers import Block, FusedBlock, GroupedLinear, Linear, MixedAttention, PackedLinear, is_plain
from convbert.layers.mixed_attention import PointwiseConv, SeparableConv


def pack_weights(model: nn.Module) -> nn.Module:
    """Replace the linear layers of `model`, in place, by packed ones, and join those that read the same states.

    Layers that were replaced already (by adapters, quantised ones), and what is not on a CPU or gains nothing, stay as
    they are. An encoder layer of which nothing stays runs as one call of the compiled kernels.

    Returns:
        `model`, which can no longer be trained or saved.
    """
    for module in list(model.modules()):
        if isinstance(module, Block):
            module.fused = FusedBlock()
        if isinstance(module, MixedAttention):
            module.join(_packed)
        if isinstance(module, SeparableConv):
            _pack_separable(module)
        for name, child in list(module.named_children()):
            if (is_plain(child, Linear) or is_plain(child, GroupedLinear)) and (
                packed := _packed(child.weight, child.bias)
            ):
                setattr(module, name, packed)
    return model


def _pack_separable(separable: SeparableConv) -> None:
    # A row of memory for each tap, as the compiled kernel reads them; the shape stays.
    weight = separable.depthwise.weight
    weight.data = weight.data.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    pointwise = separable.pointwise
    if not is_plain(pointwise, PointwiseConv):
        return
    if packed := _packed(pointwise.weight.squeeze(-1), separable.bias.squeeze(-1)):
        separable.packed = packed
        setattr(separable, "pointwise", None)  # noqa: B010 (a slot for a module)


def _packed(weight: Tensor, bias: Tensor | None) -> PackedLinear | None:
    packed = ops.pack(weight)
    if packed is None:
        return None
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    return PackedLinear(packed, bias.detach())
