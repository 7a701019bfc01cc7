"""Attention on a CPU: compiled for fp32, else PyTorch's flash kernel sequence by sequence.

The flash kernel has no dropout; with dropout, the steps are plain ones. The weights that were dropped are drawn again
in the backward pass, from the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from convbert.ops import compiled
from convbert.ops._torch_internals import flash, flash_backward
from convbert.ops.varlen import VarlenBounds


def forward(
    query: Tensor, key: Tensor, value: Tensor, bounds: VarlenBounds | None, dropout: float, seed: int | None
) -> tuple[Tensor, Tensor]:
    """The result, of the shape of `query` (B, T, H, D) or (N, H, D), and the logarithm of each softmax's denominator.

    Args:
        seed: of the dropout; None without.
    """
    if _is_compiled(query, key, value, dropout):
        query, key, value = (compiled.evenly_spaced(x) for x in (query, key, value))
        threads, *arguments = _arguments(query, key, value, bounds, dropout, seed)
        out, log_sums = empty_results(query)
        scratch = query.new_empty(
            compiled.library().attention_scratch(threads, arguments[5], query.shape[-1])
        )
        compiled.call("attention_forward", threads, *arguments, scratch, out, out.stride(-3), log_sums)
        return out, log_sums
    # The flash kernel takes the channels of a head to lie side by side, and does not look.
    query, key, value = (x.contiguous() for x in (query, key, value))
    out, log_sums = empty_results(query)
    generator = _generator(seed)
    for q, k, v, mixed, log_sum in _sequences(bounds, query, key, value, out, log_sums[..., None]):
        if generator is None and flash is not None:
            result, logs = flash(q, k, v)
        else:
            scores = _scores(q, k)
            logs = scores.logsumexp(-1)
            weights = (scores - logs[..., None]).exp_()
            if generator is not None:
                weights.mul_(_kept(weights, dropout, generator))
            result = weights @ v.to(weights.dtype)
        mixed.copy_(result)
        log_sum.copy_(logs[..., None])
    return out, log_sums


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: VarlenBounds | None,
    out: Tensor,
    log_sums: Tensor,
    dropout: float,
    seed: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value.

    With weights w = softmax(scores), of which `kept` are kept and scaled: the gradient of the scores is
    w * (kept * (grad value^T) - sum of grad * out).
    """
    if _is_compiled(query, key, value, dropout):
        query, key, value = (compiled.evenly_spaced(x) for x in (query, key, value))
        threads, *arguments = _arguments(query, key, value, bounds, dropout, seed)
        heads, width, _, num_sequences, length = arguments[1:6]
        # One head of a long text is shared where there are more threads than heads.
        shares = max(1, min(-(-threads // max(1, num_sequences * heads)), -(-length // 64)))
        scratch = query.new_empty(compiled.library().attention_backward_scratch(threads, length, width))
        grad_query = query.new_empty(query.shape)
        grad_key, grad_value = (query.new_zeros(shares, *query.shape) for _ in range(2))
        results = scratch, grad_query, grad_key, grad_value
        compiled.call(
            "attention_backward", threads, *arguments, log_sums, grad.contiguous(), shares, *results
        )
        if shares == 1:
            return grad_query, grad_key[0], grad_value[0]
        return grad_query, grad_key.sum(0), grad_value.sum(0)
    grad, query, key, value = (x.contiguous() for x in (grad, query, key, value))
    grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    generator = _generator(seed)
    per_token = (grad, query, key, value, out, log_sums[..., None], *grads)
    found: Sequence[Tensor]
    for g, q, k, v, mixed, log_sum, *into in _sequences(bounds, *per_token):
        if generator is None and flash_backward is not None:
            found = flash_backward(g, q, k, v, mixed, log_sum.squeeze(-1), 0.0, False)
        else:
            weights = (_scores(q, k) - log_sum).exp_()
            kept = 1.0 if generator is None else _kept(weights, dropout, generator)
            g, q, k, v, mixed = (x.to(weights.dtype) for x in (g, q, k, v, mixed))
            grad_v = (weights * kept).mT @ g
            grad_scores = weights * (kept * (g @ v.mT) - (g * mixed).sum(-1, keepdim=True))
            grad_scores *= q.shape[-1] ** -0.5
            found = grad_scores @ k, grad_scores.mT @ q, grad_v
        for result, x in zip(into, found, strict=True):
            result.copy_(x)
    return grads


def empty_results(query: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for what `forward` returns."""
    wide = torch.promote_types(query.dtype, torch.float32)
    return query.new_empty(query.shape), query.new_empty(query.shape[:-1], dtype=wide)


def _is_compiled(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    return query.numel() > 0 and dropout < 1 and compiled.takes(query, key, value)


def _arguments(
    query: Tensor, key: Tensor, value: Tensor, bounds: VarlenBounds | None, dropout: float, seed: int | None
) -> list[Any]:
    """What both kernels are told first."""
    threads = compiled.threads_for(4 * query.numel())
    heads, width = query.shape[-2:]
    sizes = query.numel() // (heads * width), heads, width
    rows = [argument for x in (query, key, value) for argument in (x, x.stride(-3))]
    return [threads, *sizes, *compiled.bounds_arguments(query, bounds), *rows, dropout, seed or 0]


def _sequences(bounds: VarlenBounds | None, *per_token: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views (1, H, T, ...) of each sequence that is not empty, of tensors (N, H, ...) or (B, T, H, ...)."""
    if bounds is None:
        parts = [x.transpose(1, 2).split(1) for x in per_token]
    else:
        lengths = bounds.cu_seqlens.diff().tolist()
        parts = [x.transpose(0, 1)[None].split(lengths, dim=2) for x in per_token]
    return (part for part in zip(*parts, strict=True) if part[0].numel())


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """(1, H, T, T), in fp32 or wider."""
    wide = torch.promote_types(query.dtype, torch.float32)
    return query.to(wide) @ key.to(wide).mT * query.shape[-1] ** -0.5


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _kept(weights: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Zero where a weight is dropped, else what makes up for that."""
    kept = torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator)
    return kept.div_(1 - dropout) if dropout < 1 else kept
