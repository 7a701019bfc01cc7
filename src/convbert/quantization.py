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
import torch.nn.functional as F
from torch import Tensor, nn

from convbert import ops
from convbert.errors import InputError
from convbert.layers import MixedAttention, copy_sharing

SMALLEST_LAYER = 256 * 1024
"""Weights of a layer below which rounding its input costs more time than the product saves."""

_TINY = torch.finfo(torch.float32).tiny


class Int8Linear(nn.Module):
    """A linear layer in 8-bit numbers, made from one in fp32. It has no gradients and cannot be saved.

    A token x is lowest + unit * q, with q in 0 ... 255 and 0 among the numbers from lowest to highest; a row of the
    weight is weight_scale * w, with w from -127 to 127. The sum over q * w is exact.

    Args:
        weight: (out, in).
        bias: (out,) or None.
    """

    fuses_gelu = True

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.training = False
        self.out_features, self.in_features = weight.shape
        weight = weight.detach().float()
        scale = _scale(weight)
        whole = (weight / scale[:, None]).round().to(torch.int8)
        # Plain attributes: a conversion of the model's dtype must leave them alone.
        self.weight, self.weight_scale, self.weight_sum = _pack(whole), scale, whole.sum(1) * scale
        self.bias = scale.new_zeros(self.out_features) if bias is None else bias.detach().float().contiguous()

    def forward(self, states: Tensor, gelu: bool = False) -> Tensor:
        """(..., in) to (..., out), both fp32, then GELU where asked.

        Raises:
            InputError: on another device than a CPU, or where a gradient is asked for.
        """
        if states.device.type != "cpu":
            raise InputError(f"an int8 model runs on a CPU, not on {states.device.type}")
        if states.requires_grad:
            raise InputError("an int8 model has no gradients: load it with from_pretrained")
        tokens = states.flatten(0, -2).float()  # autocast's are of another precision
        whole, lowest, unit = ops.round_tokens(tokens)
        sums = _product(whole, self.weight, self.weight_scale)
        result = ops.finish_int8(sums, lowest, unit, self.weight_sum, self.bias, gelu=gelu)
        return result.unflatten(0, states.shape[:-1])

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
    """Replace the linear layers inside `stack` that gain from it, in place, those that read the same states by one; say
    how many there are now."""
    for module in list(stack.modules()):
        if isinstance(module, MixedAttention):
            module.join(_int8_if_wide)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and (layer := _int8_if_wide(child.weight, child.bias)):
                setattr(module, name, layer)
    return len(_int8_layers(stack))


def _int8_if_wide(weight: Tensor, bias: Tensor | None) -> Int8Linear | None:
    return Int8Linear(weight, bias) if weight.numel() >= SMALLEST_LAYER else None


def _int8_layers(model: nn.Module) -> list[Int8Linear]:
    return [module for module in model.modules() if isinstance(module, Int8Linear)]


def is_quantized(model: nn.Module) -> bool:
    """Whether a layer of it computes in 8-bit numbers."""
    return bool(_int8_layers(model))


def why_not_int8(device: torch.device) -> str | None:
    """The reason why int8 cannot run on `device`, or None where it can."""
    if device.type != "cpu":
        return f"it runs on a CPU, not on {device.type}"
    if not torch.backends.mkldnn.is_available():
        return "this build of PyTorch comes without oneDNN, whose product it takes"
    return None


def _scale(weight: Tensor) -> Tensor:
    """(out, in) to (out,): the finest unit in which no sum of the product overflows.

    Without VNNI instructions, the products of two neighbouring inputs are added in 16 bits: 255 * (w + w') fits if
    |w + w'| is 128 at most, and rounding adds 1 at most to what it is before.
    """
    largest = weight.abs().amax(1) / 127
    if not adds_in_16_bits():
        return largest.clamp_min(_TINY)
    pairs = F.pad(weight, (0, weight.shape[1] % 2)).unflatten(1, (-1, 2)).sum(-1)
    return torch.maximum(largest, pairs.abs().amax(1) / 127).clamp_min(_TINY)


@cache
def adds_in_16_bits() -> bool:
    """Whether this processor adds the products of two neighbouring inputs in 16 bits, which 255 * 127 twice do not fit.

    Which instructions run is oneDNN's choice, so the product itself is asked.

    Raises:
        RuntimeError: neighbours are others than the ones that are guarded against.
    """
    if _is_exact(127, 127):
        return False
    if not _is_exact(127, 1):
        raise RuntimeError(
            "this build of PyTorch adds 8-bit products in an order that is not known: int8 is not exact"
        )
    return True


def _is_exact(even: int, odd: int) -> bool:
    """Whether the product is, of the largest tokens and a weight whose even and odd inputs are these."""
    tokens = torch.full((64, 256), 255, dtype=torch.uint8, device="cpu")
    weight = torch.tensor([even, odd], dtype=torch.int8, device="cpu").repeat(256, 128)
    sums = _product(tokens, _pack(weight), torch.ones(256, device="cpu", dtype=torch.float32))
    return bool((sums == 128 * 255 * (even + odd)).all())


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
