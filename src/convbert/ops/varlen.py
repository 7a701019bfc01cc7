"""Batches without padding: the bounds of their sequences, and the way from a padded batch to one and back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convbert.ops._torch_internals import is_traced
from convbert.util.errors import InputError


@dataclass
class VarlenBounds:
    """How B sequences of unequal length lie end to end in N tokens; made once for all ops of all layers.

    Attributes:
        cu_seqlens: (B + 1,) int32, first entry 0, last entry N: sequence b is tokens cu_seqlens[b]:cu_seqlens[b + 1].
        num_tokens: N.
        max_length: tokens T in the longest sequence, or more; None if unknown.
    """

    cu_seqlens: Tensor
    num_tokens: int
    max_length: int | None = None
    _padding: PaddingPlan | None = None

    @classmethod
    def of(
        cls,
        cu_seqlens: Tensor | VarlenBounds | None,
        num_tokens: int,
        max_length: int | None = None,
        *,
        names: tuple[str, str] = ("cu_seqlens", "max_length"),
    ) -> VarlenBounds | None:
        """Bounds from a tensor, or None from None; checked where values can be read: on a CPU, not in a traced program.

        Raises:
            InputError: the bounds do not cover the tokens, or a sequence is longer than `max_length`; with `names`.
        """
        if cu_seqlens is None or isinstance(cu_seqlens, VarlenBounds):
            return cu_seqlens
        if cu_seqlens.dim() != 1 or not len(cu_seqlens):
            raise InputError(f"{names[0]} must be (sequences + 1,), got {tuple(cu_seqlens.shape)}")
        cu_seqlens = cu_seqlens.to(torch.int32).contiguous()
        if cu_seqlens.device.type == "cpu" and type(cu_seqlens) is Tensor and not is_traced():
            ends = cu_seqlens.tolist()
            lengths = [end - start for start, end in pairwise(ends)]
            if ends[0] != 0 or ends[-1] != num_tokens or min(lengths, default=0) < 0:
                raise InputError(f"{names[0]} must run from 0 to {num_tokens} without going back, got {ends}")
            longest = max(lengths, default=0)
            if max_length is not None and longest > max_length:
                raise InputError(
                    f"{names[0]} holds a sequence of {longest} tokens, but {names[1]} is {max_length}"
                )
            max_length = longest if max_length is None else max_length
        return cls(cu_seqlens, num_tokens, max_length)

    @classmethod
    def unchecked(
        cls, cu_seqlens: Tensor | None, num_tokens: int, max_length: int | None = None
    ) -> VarlenBounds | None:
        """For operators, whose kernels check: int32 as `of` makes them; no `max_length` stands for N."""
        if cu_seqlens is None:
            return None
        longest = num_tokens if max_length is None else max_length
        return cls(cu_seqlens.to(torch.int32).contiguous(), num_tokens, longest)

    def longest(self) -> int:
        """`max_length`; where it is unknown, read from the device."""
        if self.max_length is None:
            self.max_length = int(self.cu_seqlens.diff().max()) if len(self.cu_seqlens) > 1 else 0
        return self.max_length

    def padding(self) -> PaddingPlan:
        """The way to a padded batch of T columns and back; made once."""
        if self._padding is None:
            length = self.longest()
            mask = torch.arange(length, device=self.cu_seqlens.device) < self.cu_seqlens.diff()[:, None]
            starts = torch.arange(len(mask), device=mask.device) * length
            self._padding = PaddingPlan(self.token_indices(starts), mask)
        return self._padding

    def positions(self) -> Tensor:
        """(N,): how many tokens of its own sequence precede each token."""
        return self.token_indices(torch.zeros_like(self.cu_seqlens[1:], dtype=torch.int64))

    def token_indices(self, starts: Tensor) -> Tensor:
        """(N,): the index of each token if sequence b begins at index starts[b] (B,)."""
        ends = self.cu_seqlens.long()
        shifts = torch.repeat_interleave(starts - ends[:-1], ends.diff(), output_size=self.num_tokens)
        return shifts + torch.arange(self.num_tokens, device=ends.device)


class PaddingPlan(NamedTuple):
    """Where the N tokens of an unpadded batch stand in a padded one.

    Attributes:
        indices: (N,) int64, of each token in the flattened (B * T) batch.
        mask: (B, T) bool, True at tokens.
    """

    indices: Tensor
    mask: Tensor

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, T, ...) to (N, ...): the tokens alone."""
        return padded.flatten(0, 1).index_select(0, self.indices)

    def pad(self, tokens: Tensor) -> Tensor:
        """(N, ...) to (B, T, ...): zeros where there is no token."""
        padded = tokens.new_zeros(self.mask.numel(), *tokens.shape[1:])
        return padded.index_copy(0, self.indices, tokens).unflatten(0, self.mask.shape)


class MaskSummary(NamedTuple):
    """What a mask (B, T) says about the batch as a whole.

    Attributes:
        num_tokens: N.
        max_length: tokens in the longest row.
        is_contiguous: no row has a hole, so that removing its padding makes no two tokens neighbours.
    """

    num_tokens: int
    max_length: int
    is_contiguous: bool


def summarise(mask: Tensor) -> MaskSummary:
    """Of a mask (B, T) bool. Synchronises with a GPU once."""
    if mask.numel() == 0:
        return MaskSummary(0, 0, True)
    lengths = mask.sum(1)
    runs = mask[:, 0] + (mask[:, 1:] > mask[:, :-1]).sum(1)
    num_tokens, max_length, most_runs = torch.stack((lengths.sum(), lengths.max(), runs.max())).tolist()
    return MaskSummary(num_tokens, max_length, most_runs <= 1)


def unpad_mask(mask: Tensor, summary: MaskSummary | None = None) -> tuple[VarlenBounds, PaddingPlan]:
    """The bounds of a padded batch's tokens, and where they stand.

    Args:
        mask: (B, T) bool, True at tokens.
        summary: from `summarise`, if it is known already; nothing synchronises with a GPU then.

    Raises:
        InputError: a row has a hole.
    """
    num_tokens, max_length, is_contiguous = summary or summarise(mask)
    if not is_contiguous:
        raise InputError(
            "the tokens of a row must be contiguous: without its hole, distant tokens would be neighbours"
        )
    batch, length = mask.shape
    cu_seqlens = F.pad(mask.sum(1).cumsum(0, dtype=torch.int32), (1, 0))
    bounds = VarlenBounds(cu_seqlens, num_tokens, max_length)
    first = mask.byte().argmax(1) if length else torch.zeros_like(cu_seqlens[1:])
    starts = torch.arange(batch, device=mask.device) * length + first
    plan = PaddingPlan(bounds.token_indices(starts), mask)
    if length == max_length:
        bounds._padding = plan
    return bounds, plan
