"""Attention through the compiled kernels: rectangles and bounded batches alike, with dropout and gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convbert.ops import compiled


class Settings(NamedTuple):
    """What a call is told beside its operands: the bounds, the longest sequence, dropout and its seed."""

    cu_seqlens: Tensor | None
    num_sequences: int
    max_length: int
    dropout: float
    seed: int


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor | None,
    dropout: float,
) -> Tensor:
    """(B, T, H, D), or (N, H, D) with bounds; see `ops.attention`. `compiled.takes` must hold of the inputs."""
    bounds, num_sequences, max_length = compiled.bounds_arguments(query, cu_seqlens)
    seed = compiled.draw_seed() if dropout else 0
    settings = Settings(bounds, num_sequences, max_length, dropout, seed)
    query, key, value = (compiled.evenly_spaced(x) for x in (query, key, value))
    if compiled.without_gradient(query, key, value):
        return _forward(query, key, value, settings, None)
    return _CompiledAttention.apply(query, key, value, settings)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, settings: Settings, log_sums: Tensor | None
) -> Tensor:
    threads, *arguments = _arguments(query, key, value, settings)
    needed = compiled.library().attention_scratch(threads, settings.max_length, query.shape[-1])
    scratch, out = query.new_empty(needed), query.new_empty(query.shape)
    compiled.call("attention_forward", threads, *arguments, scratch, out, out.stride(-3), log_sums)
    return out


def _arguments(query: Tensor, key: Tensor, value: Tensor, settings: Settings) -> list[Any]:
    """What both kernels are told first."""
    threads = compiled.threads_for(4 * query.numel())
    rows = [argument for x in (query, key, value) for argument in (x, x.stride(-3))]
    cu_seqlens, num_sequences, max_length, dropout, seed = settings
    return [threads, *query.shape[-2:], cu_seqlens, num_sequences, max_length, *rows, dropout, seed]


class _CompiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, settings: Settings) -> Tensor:
        log_sums = query.new_empty(query.shape[:-1])
        out = _forward(query, key, value, settings, log_sums)
        ctx.save_for_backward(query, key, value, log_sums)
        ctx.settings = settings
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, log_sums = ctx.saved_tensors
        grad_query = query.new_empty(query.shape)
        grad_key, grad_value = query.new_zeros(query.shape), query.new_zeros(query.shape)
        gradients = (grad_query, grad_key, grad_value)
        arguments = _arguments(query, key, value, ctx.settings)
        compiled.call("attention_backward", *arguments, log_sums, grad.contiguous(), *gradients)
        return *gradients, None
