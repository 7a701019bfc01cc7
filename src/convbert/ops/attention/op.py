"""Softmax attention, on a padded batch or over bounds: the public function, and the operator of the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convbert.ops import compiled
from convbert.ops.attention import cpu
from convbert.ops.attention.reference import attend_padded
from convbert.ops.backends import autocast_dtype
from convbert.ops.varlen import VarlenBounds


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | VarlenBounds | None = None,
    max_length: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(query key^T / sqrt(D)) value, per head and per sequence.

    Args:
        query, key, value: (B, T, H, D), or (N, H, D) with `cu_seqlens`.
        mask: (B, T) bool, True at tokens; not with `cu_seqlens`. A row without any token attends uniformly.
        cu_seqlens: (B + 1,) int32, first entry 0, last entry N.
        max_length: tokens in the longest of these sequences, or more; None costs a synchronisation with a GPU.
        dropout: probability of dropping an attention weight.

    Returns:
        Same shape as `query`.

    Raises:
        ValueError: the operands differ in shape, or the bounds do not cover them.
    """
    if not query.shape == key.shape == value.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
        raise ValueError(f"query, key and value must have one shape, got {shapes}")
    bounds = VarlenBounds.of(cu_seqlens, query.shape[0], max_length)
    dtype = autocast_dtype(query.device)
    if dtype is not None:
        query, key, value = (x.to(dtype) for x in (query, key, value))
    if bounds is None and (mask is not None or not compiled.takes(query, key, value)):
        return attend_padded(query, key, value, mask, dropout)
    if query.device.type not in ("cpu", "meta"):
        from convbert.ops.attention import gpu

        assert bounds is not None
        return gpu.attend(query, key, value, bounds, dropout)
    seed = torch.randint(2**62, (), device="cpu") if dropout else None
    if compiled.is_direct(query, key, value):
        return _Direct.apply(query, key, value, bounds, dropout, _number(seed))
    given = (None, None) if bounds is None else (bounds.cu_seqlens, bounds.max_length)
    return _forward(query, key, value, *given, dropout, seed)[0]


class _Direct(torch.autograd.Function):
    """The CPU's attention without the dispatcher."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bounds: VarlenBounds | None,
        dropout: float,
        seed: int | None,
    ) -> Tensor:
        out, log_sums = cpu.forward(query, key, value, bounds, dropout, seed)
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.bounds, ctx.dropout, ctx.seed = bounds, dropout, seed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, log_sums = ctx.saved_tensors
        rest = ctx.bounds, out, log_sums, ctx.dropout, ctx.seed
        return *cpu.backward(grad, query, key, value, *rest), None, None, None


# Where sequences end is data, and so are the shapes of the steps: inside an operator, `torch.compile` need not know.
@torch.library.custom_op("convbert::attention", mutates_args=(), device_types="cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor | None,
    max_length: int | None,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    bounds = VarlenBounds.unchecked(cu_seqlens, query.shape[0], max_length)
    return cpu.forward(query, key, value, bounds, dropout, _number(seed))


@torch.library.custom_op("convbert::attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor | None,
    max_length: int | None,
    out: Tensor,
    log_sums: Tensor,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    bounds = VarlenBounds.unchecked(cu_seqlens, query.shape[0], max_length)
    return cpu.backward(grad, query, key, value, bounds, out, log_sums, dropout, _number(seed))


@_forward.register_fake
def _(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return cpu.empty_results(query)


@_backward.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, cu_seqlens, ctx.max_length, ctx.dropout, seed = inputs
    ctx.save_for_backward(query, key, value, cu_seqlens, *output, seed)


def _gradients(ctx: Any, grad: Tensor, _grad_log_sums: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, cu_seqlens, out, log_sums, seed = ctx.saved_tensors
    bounds = (cu_seqlens, ctx.max_length)
    grads = _backward(grad, query, key, value, *bounds, out, log_sums, ctx.dropout, seed)
    return *grads, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_setup_context)


def _number(seed: Tensor | None) -> int | None:
    return None if seed is None else int(seed)
