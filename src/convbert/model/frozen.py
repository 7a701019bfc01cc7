"""Running an encoder that nobody trains: all its layers in one call, on copies of their weights.

A model in evaluation mode freezes itself at the first forward pass on a CPU without gradients, and stays an ordinary
model: the frozen form is made anew when a weight has changed, and is passed over where somebody listens to a layer, has
replaced one, wants attention maps, or asks for gradients. It takes as much memory as the encoder's weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from inspect import unwrap
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convbert.layers import EncoderLayer, ForwardContext, GroupedLinear, MixedAttention
from convbert.layers.encoder_layer import Attention
from convbert.layers.feed_forward import Intermediate, ResidualNorm, ResidualOutput
from convbert.layers.mixed_attention import DepthwiseConv, SeparableConv
from convbert.ops import compiled
from convbert.ops._torch_internals import hooks_of, hooks_of_all_modules, version_of
from convbert.ops.compiled.encoder import CompiledEncoder, EncoderOutput, LayerWeights
from convbert.ops.compiled.product import PrepackedLinear

SMALLEST_INT8_LAYER = 256 * 1024
"""Weights of a layer below which rounding its input costs more time than the product saves; half as many with VNNI."""

_LINEAR = (nn.Linear, GroupedLinear)
_SUBMODULES: dict[str, tuple[type[nn.Module], ...]] = {
    "attention": (Attention,),
    "attention.self": (MixedAttention,),
    "attention.self.query": (nn.Linear,),
    "attention.self.key": (nn.Linear,),
    "attention.self.value": (nn.Linear,),
    "attention.self.key_conv_attn_layer": (SeparableConv,),
    "attention.self.key_conv_attn_layer.depthwise": (DepthwiseConv,),
    "attention.self.key_conv_attn_layer.pointwise": (nn.Conv1d,),
    "attention.self.conv_kernel_layer": (nn.Linear,),
    "attention.self.conv_out_layer": (nn.Linear,),
    "attention.output": (ResidualOutput,),
    "attention.output.dense": (nn.Linear,),
    "attention.output.LayerNorm": (ResidualNorm,),
    "attention.output.LayerNorm.dropout": (nn.Dropout,),
    "intermediate": (Intermediate,),
    "intermediate.dense": _LINEAR,
    "output": (ResidualOutput,),
    "output.dense": _LINEAR,
    "output.LayerNorm": (ResidualNorm,),
    "output.LayerNorm.dropout": (nn.Dropout,),
}
"""What a layer is made of when one call can stand for it."""
_KINDS: set[type[nn.Module]] = {EncoderLayer}.union(*_SUBMODULES.values())
_FORWARDS = {kind: kind.forward for kind in _KINDS}
"""What these classes do, unless somebody replaces it for all their objects."""
_SETTINGS = ("num_heads", "activation", "eps", "feed_forward_chunk")
"""Attributes that the frozen encoder has copies of."""


class Freezer:
    """Keeps the frozen form of an encoder, and knows when it stands for the encoder and when it does not.

    Attributes:
        enabled: False runs the layers one by one, always.
        int8: the wide linear layers compute in 8-bit numbers.
    """

    def __init__(self, *, enabled: bool = True, int8: bool = False) -> None:
        self.enabled, self.int8 = enabled, int8
        self._frozen: _Frozen | None = None
        self._lock = Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Freezer:
        return Freezer(enabled=self.enabled, int8=self.int8)  # the copied encoder has weights of its own

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Freezer, enabled=self.enabled, int8=self.int8), ()

    def run(
        self,
        layers: Sequence[Any],
        states: Tensor,
        context: ForwardContext,
        rows: Tensor | None = None,
        *,
        wants_hidden: bool = False,
        wants_kernels: bool = False,
    ) -> EncoderOutput | None:
        """All layers in one call; None where they have to run one by one. See `CompiledEncoder.__call__`."""
        if not self.enabled or not layers or layers[0].training:
            self._frozen = None  # while somebody trains, its memory is better used
            return None
        wants_steps = context.eager or context.attention_mask is not None or context.conv_mask is not None
        if wants_steps or context.conv_backend == "reference" or states.numel() == 0:
            return None
        if not compiled.takes(states) or torch.is_autocast_enabled("cpu"):
            return None
        if torch.is_grad_enabled() and not compiled.without_gradient(states, *layers[0].parameters()):
            return None  # most likely nobody will ask for the frozen form
        frozen = self._frozen  # read once: another thread may make it anew
        if frozen is None or not frozen.stands_for(layers):
            self.freeze(layers)
            frozen = self._frozen
        if frozen is None or not frozen.is_at_rest() or not compiled.without_gradient(*frozen.weights):
            return None
        wanted = {"wants_hidden": wants_hidden, "wants_kernels": wants_kernels}
        return frozen.call(states, context.bounds, rows, **wanted)

    def freeze(self, layers: Sequence[Any]) -> int | None:
        """Freeze these layers now; how many linear layers are in 8-bit numbers, or None where they cannot be frozen."""
        with self._lock:
            self._frozen = _freeze(layers, self.int8)
        return self.num_int8

    @property
    def num_int8(self) -> int | None:
        """Linear layers in 8-bit numbers; None where nothing is frozen."""
        return None if self._frozen is None else self._frozen.num_int8


def freeze(encoder: Any, *, int8: bool = False) -> int | None:
    """Freeze an encoder now, and not at its first forward pass.

    Args:
        encoder: with `layer`, its layers, and a `freezer`.
        int8: its wide linear layers shall compute in 8-bit numbers.

    Returns:
        how many linear layers do; None where the encoder cannot be frozen and runs layer by layer.
    """
    encoder.freezer.int8 = int8
    found: int | None = encoder.freezer.freeze(encoder.layer)
    return found


class _Frozen:
    """The frozen form of some layers, and everything that makes it theirs."""

    def __init__(self, layers: Sequence[Any], weights: Sequence[LayerWeights]) -> None:
        self.call, self.layers = CompiledEncoder(weights), list(layers)
        self.num_int8 = sum(linear.is_int8 for layer in weights for linear in layer.linear_layers())
        modules = [module for layer in layers for module in (layer, *_submodules_of(layer))]
        self.weights = [weight for module in modules for weight in module.parameters(recurse=False)]
        self._versions = [(weight.data_ptr(), version_of(weight)) for weight in self.weights]
        self._sample = compiled.Sample(self.weights)
        self._slots = [
            (slots, name, held)
            for module in modules
            for slots in (module._modules, module._parameters)
            for name, held in slots.items()
        ]
        self._own = [module.__dict__ for module in modules]
        self._settings = [(own, name, own[name]) for own in self._own for name in own.keys() & set(_SETTINGS)]
        self._modules, self._kinds = modules, [type(module) for module in modules]
        self._forwards = {kind: kind.forward for kind in self._kinds}
        hooks = [hooks_of(module) for module in modules] + [hooks_of_all_modules()]
        self._can_listen = None not in hooks
        self._hooks = [each for found in hooks if found for each in found]

    def stands_for(self, layers: Sequence[Any]) -> bool:
        """Whether these still are the layers and weights that were frozen."""
        return (
            len(layers) == len(self.layers)
            and all(layer is held for layer, held in zip(layers, self.layers, strict=True))
            and all(slots.get(name) is held for slots, name, held in self._slots)
            and all(own.get(name) is held for own, name, held in self._settings)
            and list(map(type, self._modules)) == self._kinds
            and all(kind.forward is held for kind, held in self._forwards.items())
            and [(weight.data_ptr(), version_of(weight)) for weight in self.weights] == self._versions
            and self._sample.is_unchanged()
        )

    def is_at_rest(self) -> bool:
        """Nobody listens to a module or has replaced its `forward`, and none is in training mode."""
        return (
            self._can_listen
            and not any(self._hooks)
            and not any("forward" in own or own["training"] for own in self._own)
        )


def _freeze(layers: Sequence[Any], int8: bool) -> _Frozen | None:
    """None where one call would be another encoder."""
    if not layers or not all(map(_is_known, layers)):
        return None
    tensors = [x for layer in layers for x in layer.parameters()]
    if not compiled.takes(*tensors) or None in map(version_of, tensors):
        return None
    sizes = {
        (layer.attention.self.num_heads, *sorted((name, x.shape) for name, x in layer.named_parameters()))
        for layer in layers
    }
    if (
        len(sizes) > 1
        or layers[0].attention.self.key_conv_attn_layer.depthwise.weight.shape[-1] > compiled.MAX_KERNEL_SIZE
    ):
        return None
    return _Frozen(layers, [_weights_of(layer, int8) for layer in layers])


def _is_known(layer: nn.Module) -> bool:
    if not isinstance(layer, EncoderLayer) or unwrap(type(layer).forward) is not _FORWARDS[EncoderLayer]:
        return False
    for path, kinds in _SUBMODULES.items():
        above, _, name = path.rpartition(".")
        kind = type(layer.get_submodule(above)._modules.get(name))
        if kind not in kinds or kind.forward is not _FORWARDS[kind]:
            return False
    return layer.intermediate.activation is F.gelu and not layer.feed_forward_chunk


def _submodules_of(layer: nn.Module) -> Iterator[nn.Module]:
    for path in _SUBMODULES:
        yield layer.get_submodule(path)


def _weights_of(layer: Any, int8: bool) -> LayerWeights:
    smallest = SMALLEST_INT8_LAYER // (1 if compiled.library().adds_in_16_bits() else 2)

    def linear(weight: Tensor, bias: Tensor) -> PrepackedLinear:
        return PrepackedLinear(weight, bias, int8=int8 and weight.numel() >= smallest)

    mixed, separable = layer.attention.self, layer.attention.self.key_conv_attn_layer
    joined = (mixed.query, mixed.key, mixed.value, mixed.conv_out_layer)
    return LayerWeights(
        num_heads=mixed.num_heads,
        joined=linear(torch.cat([x.weight for x in joined]), torch.cat([x.bias for x in joined])),
        depthwise=separable.depthwise.weight,
        pointwise=linear(separable.pointwise.weight.squeeze(-1), separable.bias.squeeze(-1)),
        kernels=linear(mixed.conv_kernel_layer.weight, mixed.conv_kernel_layer.bias),
        output=linear(layer.attention.output.dense.weight, layer.attention.output.dense.bias),
        norm=layer.attention.output.LayerNorm,
        ffn_up=linear(layer.intermediate.dense.weight, layer.intermediate.dense.bias),
        ffn_down=linear(layer.output.dense.weight, layer.output.dense.bias),
        final_norm=layer.output.LayerNorm,
    )
