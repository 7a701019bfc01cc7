"""Where padding disappears and returns: a padded rectangle to its real tokens, and back."""

from __future__ import annotations

from dataclasses import dataclass

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


def pack_mask(mask: Tensor) -> Packing:
    """The packing of a padded batch.

    Args:
        mask: (B, T), nonzero where there is a token. The tokens of a row must be contiguous (see `is_contiguous`).
    """
    mask = mask.bool()
    lengths = mask.sum(dim=1, dtype=torch.int32)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    indices = mask.flatten().nonzero().squeeze(1)
    longest = int(lengths.max()) if len(lengths) else 0
    return Packing(cu_seqlens, longest, indices, (mask.shape[0], mask.shape[1]))


def pack_bounds(cu_seqlens: Tensor, max_length: int, num_tokens: int) -> Packing:
    """The packing of N tokens into a rectangle of `max_length` columns, each sequence at the left edge of a row.

    Nothing waits for the device. No sequence may be longer than `max_length`.
    """
    lengths = cu_seqlens.long().diff()
    rows = torch.arange(len(lengths), device=cu_seqlens.device)
    row = torch.repeat_interleave(rows, lengths, output_size=num_tokens)
    before, _ = position_in_sequence(cu_seqlens, num_tokens)
    return Packing(cu_seqlens, max_length, row * max_length + before, (len(lengths), max_length))


def is_contiguous(mask: Tensor) -> Tensor:
    """Scalar bool: no row of `mask` (B, T) has a hole, so that dropping its padding moves no two tokens together."""
    starts = mask[:, :1].bool().int().sum(1) + (mask[:, 1:].bool() & ~mask[:, :-1].bool()).int().sum(1)
    return (starts <= 1).all()


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
