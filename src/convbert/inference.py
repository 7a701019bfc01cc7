"""A model for inference alone: its weights laid out as this machine's matrix library reads them fastest."""

from __future__ import annotations

import torch
from torch import nn

from convbert import ops
from convbert.layers import Linear, MixedAttention, PackedLinear, is_plain
from convbert.layers.mixed_attention import SeparableConv


def pack_weights(model: nn.Module) -> nn.Module:
    """Replace the linear layers of `model`, in place, by packed ones, and join those that read the same states.

    Layers that were replaced already (by adapters, quantised ones), small ones, and what is not on a CPU stay as they
    are.

    Returns:
        `model`, which can no longer be trained or saved.
    """
    for module in list(model.modules()):
        if isinstance(module, MixedAttention):
            _join(module)
        if isinstance(module, SeparableConv):
            # A row of memory for each tap, as the compiled kernel reads them; the shape stays.
            weight = module.depthwise.weight
            weight.data = weight.data.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        for name, child in list(module.named_children()):
            if is_plain(child, Linear) and (packed := ops.pack(child.weight)) is not None:
                setattr(module, name, PackedLinear(packed, _detached(child.bias)))
    return model


def _join(mixed: MixedAttention) -> None:
    layers = (mixed.query, mixed.key, mixed.value, mixed.conv_out_layer)
    if not all(is_plain(layer, Linear) for layer in layers):
        return
    packed = ops.pack(torch.cat([layer.weight for layer in layers]))
    if packed is None:
        return
    mixed.joined = PackedLinear(packed, torch.cat([layer.bias for layer in layers]).detach())
    for name in ("query", "key", "value", "conv_out_layer"):
        setattr(mixed, name, None)


def _detached(bias: nn.Parameter | None) -> torch.Tensor | None:
    return None if bias is None else bias.detach()
