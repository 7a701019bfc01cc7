"""Attention on the CPU, sequence by sequence: `convbert::packed_attention`, an op of its own.

Where the sequences end is data, and so are the shapes of the steps; inside an op, `torch.compile` need not know.
Without dropout, PyTorch's flash kernel runs per sequence. It has no dropout, so that with dropout the steps are plain
ones. The weights that were dropped are drawn again in the backward pass, from the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from convbert.ops._torch_internals import flash, flash_backward


def attend_sequences(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, dropout: float) -> Tensor:
    """(N, H, D); see `attention`."""
    seed = torch.randint(2**62, (), device="cpu") if dropout else None
    return torch.ops.convbert.packed_attention(query, key, value, cu_seqlens, dropout, seed)[0]


def _forward(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, dropout: float, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The result (N, H, D), and the logarithm of each softmax's denominator (N, H)."""
    # The flash kernel takes the channels of a head to lie side by side, and does not look.
    query, key, value = (x.contiguous() for x in (query, key, value))
    out, log_total = _empty_results(query)
    generator = _generator(seed)
    for q, k, v, mixed, log_sum in _sequences(cu_seqlens, query, key, value, out, log_total[..., None]):
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
    return out, log_total


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    out: Tensor,
    log_total: Tensor,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value.

    With weights w = softmax(scores), of which `kept` are kept and scaled: the gradient of the scores is
    w * (kept * (grad value^T) - sum of grad * out).
    """
    grad, query, key, value = (x.contiguous() for x in (grad, query, key, value))
    grads = _empty_gradients(query, key, value)
    generator = _generator(seed)
    per_token = (grad, query, key, value, out, log_total[..., None], *grads)
    for g, q, k, v, mixed, log_sum, *results in _sequences(cu_seqlens, *per_token):
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
        for result, x in zip(results, found, strict=True):
            result.copy_(x)
    return grads


def _sequences(cu_seqlens: Tensor, *per_token: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Each sequence's own part (1, H, T, ...) of tensors (N, H, ...), as views; empty sequences are left out."""
    lengths = cu_seqlens.diff().tolist()
    parts = (x.transpose(0, 1)[None].split(lengths, dim=2) for x in per_token)
    return (part for part in zip(*parts, strict=True) if part[0].shape[2])


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """(1, H, T, T), in fp32 or wider."""
    wide = torch.promote_types(query.dtype, torch.float32)
    return query.to(wide) @ key.to(wide).mT * query.shape[-1] ** -0.5


def _generator(seed: Tensor | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(int(seed))


def _kept(weights: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Zero where a weight is dropped, else what makes up for that."""
    kept = torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator)
    return kept.div_(1 - dropout) if dropout < 1 else kept


def _empty_results(query: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(query.dtype, torch.float32)
    return _empty_like(query), query.new_empty(query.shape[:-1], dtype=wide)


def _empty_gradients(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_like(query), _empty_like(key), _empty_like(value)


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    query, key, value, cu_seqlens, dropout, seed = inputs
    ctx.save_for_backward(query, key, value, cu_seqlens, *output, seed)
    ctx.dropout = dropout


def _formula(ctx, grad: Tensor, _grad_log_total: Tensor):
    query, key, value, cu_seqlens, out, log_total, seed = ctx.saved_tensors
    found = torch.ops.convbert.packed_attention_backward(
        grad, query, key, value, cu_seqlens, out, log_total, ctx.dropout, seed
    )
    return *found, None, None, None


_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor cu_seqlens"
torch.library.define(
    "convbert::packed_attention", f"({_INPUTS}, float dropout, Tensor? seed) -> (Tensor, Tensor)"
)
torch.library.define(
    "convbert::packed_attention_backward",
    f"(Tensor grad, {_INPUTS}, Tensor out, Tensor log_total, float dropout, Tensor? seed) -> (Tensor, Tensor, Tensor)",
)
torch.library.impl("convbert::packed_attention", "cpu", _forward)
torch.library.impl("convbert::packed_attention_backward", "cpu", _backward)
torch.library.register_fake("convbert::packed_attention", lambda query, *_: _empty_results(query))
torch.library.register_fake(
    "convbert::packed_attention_backward",
    lambda grad, query, key, value, *_: _empty_gradients(query, key, value),
)
torch.library.register_autograd("convbert::packed_attention", _formula, setup_context=_save)
