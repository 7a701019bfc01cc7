"""Tokens drawn from the generator: a pure function of its logits and of numbers that come with the batch.

So the same text gets the same replacements whatever its batch, process or restart, as long as the logits are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sample_tokens(
    logits: Tensor, uniforms: Tensor, *, temperature: float = 1.0, excluded: Tensor | None = None
) -> Tensor:
    """One token a row from softmax(logits / temperature): its cumulative distribution, inverted at a given number.

    Args:
        logits: (n, V), in any precision; computed in fp32.
        uniforms: (n,) in [0, 1], which decide the draw.
        excluded: (n,) a token that each row must not draw.

    Returns:
        (n,) int64. A row whose logits are not finite draws something, and spoils the loss instead of the memory.
    """
    scaled = logits.float() / temperature
    if excluded is not None:
        scaled.scatter_(1, excluded[:, None], -torch.inf)
    cumulative = scaled.softmax(-1).cumsum_(-1)
    total = cumulative[:, -1:]
    # A product that rounds up to the total would lie behind the last token.
    wanted = (uniforms.float()[:, None] * total).minimum(total.nextafter(torch.zeros_like(total)))
    # The first token whose share ends beyond `wanted`; one without a share never does.
    drawn = torch.searchsorted(cumulative, wanted, right=True).squeeze(1)
    return drawn.clamp_(max=logits.shape[1] - 1)


@torch.no_grad()
def uniform_tokens(uniforms: Tensor, vocab_size: int, *, excluded: Tensor | None = None) -> Tensor:
    """One token a row, all of the vocabulary equally likely: (n,) int64 from (n,) numbers in [0, 1].

    Args:
        excluded: (n,) a token that each row must not draw.
    """
    choices = vocab_size if excluded is None else vocab_size - 1
    drawn = (uniforms * choices).long().clamp_(max=choices - 1)
    return drawn if excluded is None else drawn + (drawn >= excluded)
