"""A linear layer, optionally followed by GELU, through the fastest product of the machine at hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convbert.ops import compiled
from convbert.ops.compiled import product
from convbert.ops.gelu import gelu as apply_gelu

# Read once: a traced program cannot ask.
_CAPABILITY = torch.backends.cpu.get_cpu_capability()
# Size of weights from which on oneDNN's product beats PyTorch's default, by the widest vectors of the processor.
_ONEDNN_PAYS = {"AVX512": 0, "AVX2": 2**17}
# Below this a packed weight gains nothing: the call itself costs more.
_PACKING_PAYS = 2**15


def linear(states: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """states weight^T + bias, then GELU (the erf form) where asked.

    On a CPU without gradients, oneDNN computes it where that is faster.

    Args:
        states: (..., in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        (..., out).
    """
    if _takes_onednn(states, weight, bias):
        return _onednn_linear(states, weight, bias, gelu)
    projected = F.linear(states, weight, bias)
    return apply_gelu(projected, may_overwrite=True) if gelu else projected


def packed_linear(states: Tensor, packed: Tensor, bias: Tensor, *, gelu: bool = False) -> Tensor:
    """As `linear`, on a weight from `pack`; no gradients."""
    if not compiled.runs_eagerly(states):
        return torch.ops.convbert.packed_linear(states, packed, bias, gelu)
    return _packed_linear(states, packed, bias, gelu)


def _packed_linear(states: Tensor, packed: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    states = states.to(packed.dtype)  # autocast does not know this product
    if product.is_packed(packed):
        return product.packed_linear(states, packed, bias, gelu)
    return _onednn_linear(states, packed, bias, gelu)


def _onednn_linear(states: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    fuses = gelu and _CAPABILITY == "AVX512"
    projected = torch.ops.mkldnn._linear_pointwise(
        states, weight, bias, "gelu" if fuses else "none", [], "none" if fuses else ""
    )
    return apply_gelu(projected, may_overwrite=True) if gelu and not fuses else projected


def pack(weight: Tensor) -> Tensor | None:
    """A weight as the fastest product reads it, for `packed_linear` alone; None where that gains nothing.

    Args:
        weight: (out, in); or (groups, in / groups, out / groups), of a layer whose groups do not see each other.
    """
    if product.takes(weight):
        return product.pack(weight)
    if weight.dim() != 2 or weight.numel() < _PACKING_PAYS or not _has_onednn(weight):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)


def _takes_onednn(states: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    inputs = (states, weight, bias)
    if not compiled.runs_eagerly(*inputs) or not compiled.without_gradient(*inputs):
        return False
    pays = _ONEDNN_PAYS.get(_CAPABILITY)
    if pays is None or weight.numel() < pays or states.numel() == 0 or states.dtype != weight.dtype:
        return False
    return _has_onednn(weight) and not torch.is_autocast_enabled("cpu")


def _has_onednn(weight: Tensor) -> bool:
    if (
        weight.device.type != "cpu"
        or not torch.backends.mkldnn.is_available()
        or not torch._C._get_mkldnn_enabled()
    ):
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32


def _like_result(states: Tensor, packed: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    return states.new_empty(*states.shape[:-1], bias.shape[0], dtype=packed.dtype)


# An op of its own, as torch.compile's default backend takes oneDNN's only with weights that it packed itself.
torch.library.define(
    "convbert::packed_linear", "(Tensor states, Tensor packed, Tensor bias, bool gelu) -> Tensor"
)
torch.library.impl("convbert::packed_linear", "CompositeExplicitAutograd", _packed_linear)
torch.library.register_fake("convbert::packed_linear", _like_result)
