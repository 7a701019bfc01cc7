"""Where padding disappears and returns: a padded rectangle to its real tokens, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bounds:
    """How B sequences of unequal length lie end to end in N tokens.

    Attributes:
        cu_seqlens: (B + 1,) int32, first entry 0, last entry N: sequence b is tokens cu_seqlens[b]:cu_seqlens[b+1].
        max_length: tokens T in the longest sequence; None where nobody said and a program is traced.
    """

    cu_seqlens: Tensor
    max_length: int | None


@dataclass(frozen=True)
class Packing(Bounds):
    """Bounds, and the way to and from the padded rectangle (B, T) that the tokens come from.

    Attributes:
        indices: (N,) int64, where each token stands in the flattened (B * T) rectangle.
        shape: (B, T).
    """

    indices: Tensor
    shape: tuple[int, int]

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) to (N, ...): the real tokens alone."""
        return padded.flatten(0, 1).index_select(0, self.indices)

    def unpack(self, tokens: Tensor) -> Tensor:
        """(N, ...) to (B, T, ...): zeros where there is no token."""
        batch, length = self.shape
        padded = tokens.new_zeros(batch * length, *tokens.shape[1:])
        return padded.index_copy(0, self.indices, tokens).unflatten(0, self.shape)

    def row_numbers(self) -> Tensor:
        """(B, T): the number of the token that stands there, -1 at padding."""
        batch, length = self.shape
        numbers = self.indices.new_full((batch * length,), -1)
        numbers[self.indices] = torch.arange(len(self.indices), device=self.indices.device)
        return numbers.view(self.shape)


class MaskSummary(NamedTuple):
    """What a mask (B, T) says about the batch as a whole.

    Attributes:
        num_tokens: N.
        max_length: tokens in the longest row.
        is_contiguous: no row has a hole, so that dropping its padding moves no two tokens together.
    """

    num_tokens: int
    max_length: int
    is_contiguous: bool


def summarise(mask: Tensor) -> MaskSummary:
    """Of a mask (B, T), nonzero where there is a token. A GPU is waited for once."""
    mask = mask.bool()
    if mask.numel() == 0:
        return MaskSummary(0, 0, True)
    lengths = mask.sum(1)
    runs = mask[:, 0] + (mask[:, 1:] > mask[:, :-1]).sum(1)
    num_tokens, max_length, most_runs = torch.stack((lengths.sum(), lengths.max(), runs.max())).tolist()
    return MaskSummary(num_tokens, max_length, most_runs <= 1)


def pack_mask(mask: Tensor, summary: MaskSummary | None = None) -> Packing:
    """The packing of a padded batch.

    Args:
        mask: (B, T), nonzero where there is a token.
        summary: from `summarise`, if it was called already; nothing waits for the device then.

    Raises:
        ValueError: a row has a hole.
    """
    mask = mask.bool()
    batch, length = mask.shape
    num_tokens, max_length, is_contiguous = summary or summarise(mask)
    if not is_contiguous:
        raise ValueError(
            "the tokens of a row must be contiguous: without its hole, distant tokens would be neighbours"
        )
    cu_seqlens = torch.nn.functional.pad(mask.sum(1).cumsum(0, dtype=torch.int32), (1, 0))
    first = mask.byte().argmax(1) if length else torch.zeros_like(cu_seqlens[1:])
    row_starts = torch.arange(batch, device=mask.device) * length + first
    return Packing(cu_seqlens, max_length, _indices(cu_seqlens, row_starts, num_tokens), (batch, length))


def pack_bounds(cu_seqlens: Tensor, max_length: int, num_tokens: int) -> Packing:
    """The packing of N tokens into a rectangle of `max_length` columns, each sequence at the left edge of a row.

    Nothing waits for the device. No sequence may be longer than `max_length`.
    """
    batch = len(cu_seqlens) - 1
    row_starts = torch.arange(batch, device=cu_seqlens.device) * max_length
    return Packing(cu_seqlens, max_length, _indices(cu_seqlens, row_starts, num_tokens), (batch, max_length))


def _indices(cu_seqlens: Tensor, row_starts: Tensor, num_tokens: int) -> Tensor:
    """(N,): where each token stands in the flattened rectangle; the first of sequence b at row_starts[b]."""
    bounds = cu_seqlens.long()
    moves = torch.repeat_interleave(row_starts - bounds[:-1], bounds.diff(), output_size=num_tokens)
    return moves + torch.arange(num_tokens, device=cu_seqlens.device)


def position_in_sequence(cu_seqlens: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """For each of N tokens, how many tokens of its own sequence stand before it, and how many after it.

    Returns:
        two (N,) int64 tensors.
    """
    bounds = cu_seqlens.long()
    lengths = bounds.diff()
    starts = torch.repeat_interleave(bounds[:-1], lengths, output_size=num_tokens)
    ends = torch.repeat_interleave(bounds[1:], lengths, output_size=num_tokens)
    token = torch.arange(num_tokens, device=cu_seqlens.device)
    return token - starts, ends - 1 - token
