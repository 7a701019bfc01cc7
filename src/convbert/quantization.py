"""Linear layers in 8-bit numbers, for inference on a CPU.

Nothing is calibrated: weights are rounded once, activations as they come. The scheme is that of torchao's dynamic int8
layers: a scale per output for the weights, a scale and an offset per token for the activations, so that a text's result
does not depend on the texts beside it. The product is PyTorch's own, the one that torch.compile takes for such layers;
calling it directly needs neither torchao nor a compiler.

So the rounding is written here, though quantizers exist: torchao's layers need a C++ compiler to be faster than fp32,
ONNX Runtime is a second runtime and overflows on processors without VNNI (docs/log.md has the figures).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn

from convbert.errors import InputError
from convbert.layers import copy_sharing

SMALLEST_LAYER = 256 * 1024
"""Weights of a layer below which rounding its input costs more time than the product saves."""

_TINY = torch.finfo(torch.float32).tiny


class Int8Linear(nn.Module):
    """A linear layer in 8-bit numbers, made from one in fp32. It has no gradients and cannot be saved.

    A token x is lowest + scale * q, with q in 0 ... 255 and 0 among the numbers from lowest to highest; a row of the
    weight is weight_scale * w, with w from -`largest_weight()` to `largest_weight()`. The sum over q * w is exact.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.training = layer.training
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().float()
        scale = (weight.abs().amax(1) / largest_weight()).clamp_min(_TINY)
        whole = (weight / scale[:, None]).round().to(torch.int8)
        # Plain attributes: a conversion of the model's dtype must leave them alone.
        self.weight, self.weight_scale, self.weight_sum = _pack(whole), scale, whole.sum(1) * scale
        self.bias = scale.new_zeros(self.out_features) if layer.bias is None else layer.bias.detach().float()

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) to (..., out), both fp32.

        Raises:
            InputError: on another device than a CPU, or where a gradient is asked for.
        """
        if states.device.type != "cpu":
            raise InputError(f"an int8 model runs on a CPU, not on {states.device.type}")
        if states.requires_grad:
            raise InputError("an int8 model has no gradients: load it with from_pretrained")
        tokens = states.flatten(0, -2).float()  # autocast's are of another precision
        lowest = tokens.amin(1, keepdim=True).clamp_max(0)
        highest = tokens.amax(1, keepdim=True).clamp_min(0)
        scale = ((highest - lowest) / 255).clamp_min(_TINY)
        # Conversion cuts off what is behind the point, so adding a half rounds.
        whole = torch.addcmul(0.5 - lowest / scale, tokens, 1 / scale).to(torch.uint8)
        projected = _product(whole, self.weight, self.weight_scale)
        projected.mul_(scale).addcmul_(lowest, self.weight_sum).add_(self.bias)
        return projected.unflatten(0, states.shape[:-1])

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy_sharing(self, self.weight, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise InputError("an int8 model cannot be pickled: send its folder, and load it there")

    def _save_to_state_dict(self, *_: Any) -> None:
        raise InputError(
            "an int8 model cannot be saved: keep the model it was loaded from, and load that in int8"
        )


def quantize(stack: nn.Module) -> int:
    """Replace the linear layers inside `stack` that gain from it, in place; say how many."""
    replaced = 0
    for parent in list(stack.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and child.weight.numel() >= SMALLEST_LAYER:
                setattr(parent, name, Int8Linear(child))
                replaced += 1
    return replaced


def is_quantized(model: nn.Module) -> bool:
    """Whether a layer of it computes in 8-bit numbers."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def why_not_int8(device: torch.device) -> str | None:
    """The reason why int8 cannot run on `device`, or None where it can."""
    if device.type != "cpu":
        return f"it runs on a CPU, not on {device.type}"
    if not torch.backends.mkldnn.is_available():
        return "this build of PyTorch comes without oneDNN, whose product it takes"
    return None


@cache
def largest_weight() -> int:
    """127 where this processor adds 8-bit products exactly; else 63.

    Without VNNI instructions, pairs of products are added in 16 bits, where 2 * 255 * 127 does not fit and 2 * 255 * 63
    does. Which instructions run is oneDNN's choice, so the product itself is asked.
    """
    tokens = torch.full((64, 256), 255, dtype=torch.uint8, device="cpu")
    weight = torch.full((256, 256), 127, dtype=torch.int8, device="cpu")
    sums = _product(tokens, _pack(weight), torch.ones(256, device="cpu", dtype=torch.float32))
    return 127 if bool((sums == 256 * 255 * 127).all()) else 63


def _pack(weight: Tensor) -> Tensor:
    """(out, in) int8 in oneDNN's layout."""
    return torch.ops.onednn.qlinear_prepack(weight, None)


def _product(tokens: Tensor, packed: Tensor, weight_scale: Tensor) -> Tensor:
    """(n, out) fp32: sums of the products of tokens (n, in) and weights, times `weight_scale` (out,)."""
    no_zeros = no_bias = None
    as_fp32 = (1.0, 0, torch.float32)  # scale, zero and dtype of the result
    return torch.ops.onednn.qlinear_pointwise(
        tokens, 1.0, 0, packed, weight_scale, no_zeros, no_bias, *as_fp32, "none", [], ""
    )
