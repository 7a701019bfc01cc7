"""What each head says of a packed batch: rows, and how many of them each text has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convbert.inference.engine import Packed, Rows, Tokens
from convbert.inference.runtimes import ExportedModel


def lengths_of(packed: Packed) -> Tensor:
    """(B,) int64 tokens of each text of a packed batch."""
    return packed["cu_seq_lens_q"].diff().long()


def text_logits(model: Any, packed: Packed) -> tuple[Rows, Tensor]:
    """`logits` (B, num_labels) of a sequence classifier."""
    firsts = packed["cu_seq_lens_q"][:-1].long()
    if isinstance(model, ExportedModel):
        return {"logits": model(**packed).logits}, torch.ones_like(firsts)
    logits = model.classifier(model.convbert(**packed, positions_to_keep=firsts).last_hidden_state)
    return {"logits": logits.float()}, torch.ones_like(firsts)


def choice_logits(model: Any, packed: Packed) -> tuple[Rows, Tensor]:
    """`logits` (B, 1) of a multiple-choice model, of which a text is one choice."""
    bounds, how = packed["cu_seq_lens_q"].long(), model.sequence_summary.kind
    if how == "mean":
        states = pool(model.convbert(**packed).last_hidden_state[0], packed, "mean")
    else:
        positions = bounds[:-1] if how == "first" else bounds[1:] - 1
        states = model.convbert(**packed, positions_to_keep=positions).last_hidden_state
    logits = model.classifier(model.sequence_summary(states[:, None], None))
    return {"logits": logits.float()}, torch.ones_like(bounds[1:])


def token_logits(model: Any, packed: Packed) -> tuple[Rows, Tensor]:
    """`logits` (N, num_labels) of a token classifier."""
    return {"logits": model(**packed).logits[0].float()}, lengths_of(packed)


def span_logits(model: Any, packed: Packed) -> tuple[Rows, Tensor]:
    """`logits` (N, 2) of start and end."""
    found = model(**packed)
    return {"logits": torch.stack((found.start_logits[0], found.end_logits[0]), -1).float()}, lengths_of(
        packed
    )


def text_vectors(model: Any, packed: Packed, how: str) -> tuple[Rows, Tensor]:
    """`vector` (B, C) of an encoder, see `pool`."""
    vectors = pool(model(**packed).last_hidden_state[0], packed, how)
    return {"vector": vectors}, torch.ones(len(vectors), dtype=torch.long)


def merge_vectors(texts: Sequence[Tokens], rows: Sequence[Rows], how: str) -> Tensor:
    """(C,) of a text: from its windows' vectors the largest of each number ("max"), or the mean, weighted with their
    tokens."""
    vectors = torch.cat([own["vector"] for own in rows])
    if len(texts) == 1:
        return vectors[0]
    if how == "max":
        return vectors.amax(0)
    lengths = torch.tensor([float(len(text.input_ids)) for text in texts])
    return (lengths @ vectors.float() / lengths.sum()).to(vectors.dtype)


def pool(states: Tensor, packed: Packed, how: str) -> Tensor:
    """(N, C) to (B, C): "first", "mean" or "max" of each text's tokens."""
    if how == "first":
        return states[packed["cu_seq_lens_q"][:-1].long()]
    return torch.segment_reduce(states.float(), how, lengths=lengths_of(packed)).to(states.dtype)
