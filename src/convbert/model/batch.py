"""From the caller's arguments to what the encoder computes: checked, completed, and in the cheapest exact way.

The encoder computes a batch in one of three ways. *Unpadded*: the tokens alone, (N, C), with bounds. *Dense*:
(B, T, C), where there is no padding. *Padded*: (B, T, C) with a mask, where attention maps are asked for, where the
convolution is told to read padding, where padding stands between tokens, and where the mask's values cannot be read: in
a traced program, and on the meta device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convbert.configuration import ConvBertConfig
from convbert.layers import ForwardContext
from convbert.ops import Backend, PaddingPlan, VarlenBounds
from convbert.ops._torch_internals import assert_async, is_traced
from convbert.ops.varlen import summarise, unpad_mask
from convbert.util.errors import InputError


class Inputs(NamedTuple):
    """What the embeddings read: each (B, T), or (N,) unpadded. `words` are ids, or vectors with one axis more."""

    words: Tensor
    position_ids: Tensor
    token_type_ids: Tensor


@dataclass(frozen=True)
class Batch:
    """A batch as the encoder computes it, and the way back to the caller's shape.

    Attributes:
        inputs: what the embeddings read.
        context: what the layers need beside the states.
        plan: of a padded batch that runs unpadded.
        padded: the inputs as the caller gave them, where `inputs` has fewer axes.
    """

    inputs: Inputs
    context: ForwardContext
    plan: PaddingPlan | None = None
    padded: Inputs | None = None

    def unpad(self, states: Tensor) -> Tensor:
        """From the caller's shape (B, T, ...) to that of the encoder."""
        if self.plan is not None:
            return self.plan.unpad(states)
        return states if self.context.bounds is None else states.squeeze(0)

    def repad(self, states: Tensor) -> Tensor:
        """The caller's shape (B, T, ...), zero where there is no token."""
        if self.plan is not None:
            return self.plan.pad(states)
        return states if self.context.bounds is None else states[None]

    def select(self, positions: Tensor) -> Selection:
        """The encoder's rows at these `positions` (n,), counted row by row in the caller's (B, T)."""
        if self.plan is not None:
            num_tokens = len(self.inputs.words)
            indices = self.plan.pad(torch.arange(num_tokens, device=positions.device)).flatten()[positions]
            # Padding takes part with the first row, if there is one: its number is not known without a synchronisation.
            return Selection(indices if num_tokens else indices[:0], self.plan.mask.flatten()[positions])
        mask = self.context.conv_mask
        return Selection(positions, None if mask is None else mask.flatten()[positions])


class Selection(NamedTuple):
    """Tokens whose last states are wanted.

    Attributes:
        rows: (n,) their numbers among the tokens that the encoder sees; empty if it sees none.
        is_token: (n,) bool, False where the caller asked for padding; None: all are tokens.
    """

    rows: Tensor
    is_token: Tensor | None

    def zero_padding(self, states: Tensor) -> Tensor:
        """States of `rows` to (n, C), zero where there is no token."""
        if self.is_token is None:
            return states
        missing = len(self.is_token) - len(states)
        states = F.pad(states, (0, 0, 0, missing)) if missing else states
        return torch.where(self.is_token[:, None], states, 0)


def position_numbers(positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Positions in (B, T), given as a mask of that shape or as numbers (n,) counted row by row, as numbers.

    A mask costs a synchronisation with a GPU, as how many there are is data.

    Raises:
        InputError: a mask of another shape.
    """
    if positions.dim() == 1 and positions.dtype != torch.bool:
        return positions
    if tuple(positions.shape) != shape:
        raise InputError(f"a mask of the positions to keep must be {shape}, got {tuple(positions.shape)}")
    return positions.bool().flatten().nonzero().squeeze(1)


def read_batch(
    config: ConvBertConfig,
    words: Tensor,
    position_ids: Tensor | None,
    token_type_ids: Tensor | None,
    attention_mask: Tensor | None,
    bounds: VarlenBounds | None,
    *,
    num_words: int,
    eager: bool,
    conv_backend: Backend,
) -> Batch:
    """Check and complete a batch, and choose how it is computed.

    Args:
        words: (B, T) ids or (B, T, E) vectors; (1, N) or (1, N, E) with `bounds`.
        position_ids, token_type_ids, attention_mask: (B, T), or None for the defaults.
        bounds: of a batch that comes packed, see `packed_bounds`.
        num_words: rows of the word table.
        eager: attention in plain steps, whose weights can be returned; the batch stays padded.

    Raises:
        InputError: see `ConvBertModel.forward`.
    """
    shape = tuple(words.shape[:2])
    if attention_mask is not None and tuple(attention_mask.shape) != shape:
        raise InputError(
            f"attention_mask must have the shape of the input {shape}, got {tuple(attention_mask.shape)}"
        )
    for name, ids in (("position_ids", position_ids), ("token_type_ids", token_type_ids)):
        if ids is not None and tuple(ids.shape) not in (shape, (1, shape[1])):
            raise InputError(f"{name} must have the shape of the input {shape}, got {tuple(ids.shape)}")
    longest = shape[1] if bounds is None else bounds.max_length
    if longest is not None and longest > config.max_position_embeddings:
        padded = "" if attention_mask is None else " with its padding"
        raise InputError(
            f"a text of {longest} tokens{padded} is longer than max_position_embeddings "
            f"({config.max_position_embeddings}): truncate it (truncation=True, max_length=...) or split it by a stride"
        )
    _check_ids("input_ids", words, "vocab_size", num_words)
    _check_ids("position_ids", position_ids, "max_position_embeddings", config.max_position_embeddings)
    _check_ids("token_type_ids", token_type_ids, "type_vocab_size", config.type_vocab_size)
    inputs = _complete(words, position_ids, token_type_ids, bounds)
    if bounds is not None:
        if bounds.max_length is None:
            bounds.max_length = min(shape[1], config.max_position_embeddings)
        context = ForwardContext(bounds, conv_backend=conv_backend)
        return Batch(Inputs(*(x.squeeze(0) for x in inputs)), context, padded=inputs)
    mask = None if attention_mask is None else attention_mask.bool()
    is_readable = mask is not None and type(mask) is Tensor and not (mask.is_meta or is_traced())
    summary = summarise(mask) if mask is not None and is_readable else None
    if mask is None or (summary and summary.num_tokens == mask.numel()):
        return Batch(inputs, ForwardContext(eager=eager, conv_backend=conv_backend))
    leaks = config.conv_reads_padding
    # Where padding stands between tokens, dropping it would make distant tokens neighbours.
    if summary is None or eager or leaks or not summary.is_contiguous:
        conv_mask = None if leaks else mask
        context = ForwardContext(
            attention_mask=mask, conv_mask=conv_mask, eager=eager, conv_backend=conv_backend
        )
        return Batch(inputs, context)
    bounds, plan = unpad_mask(mask, summary)
    unpadded = Inputs(*(plan.unpad(x.expand(*shape, *x.shape[2:])) for x in inputs))
    return Batch(unpadded, ForwardContext(bounds, conv_backend=conv_backend), plan, inputs)


def packed_bounds(
    words: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cu_seqlens: Tensor | None,
    max_length: int | None,
    seq_idx: Tensor | None,
) -> VarlenBounds | None:
    """The bounds of a batch that comes packed by the convention of transformers' flattening collator, else None.

    It is one row, and either gives its bounds, or numbers its sequences, or its positions restart at 0.

    Raises:
        InputError: bounds for something that is not one row of tokens, or bounds that do not cover it.
    """
    if words.shape[0] != 1 or attention_mask is not None:
        if cu_seqlens is not None or seq_idx is not None:
            raise InputError("a packed batch is one row without attention_mask: (1, total tokens)")
        return None
    if cu_seqlens is None and seq_idx is not None:
        cu_seqlens = _bounds_at(seq_idx[0, 1:] != seq_idx[0, :-1])
    elif cu_seqlens is None and position_ids is not None and not is_traced():
        restarts = _restarts(position_ids[0])
        cu_seqlens = None if restarts is None else _bounds_at(restarts)
    if cu_seqlens is None:
        return None
    num_tokens = words.shape[1]
    bounds = VarlenBounds.of(cu_seqlens, num_tokens, max_length, names=("cu_seq_lens_q", "max_length_q"))
    assert bounds is not None
    if is_traced() or cu_seqlens.is_meta:  # the program must not depend on where the sequences end
        return bounds
    longest, lengths = bounds.longest(), bounds.cu_seqlens.diff()
    if cu_seqlens.device.type == "cuda":  # an error comes later, but without a synchronisation
        first, last = bounds.cu_seqlens[0], bounds.cu_seqlens[-1]
        fits = (first == 0) & (last == num_tokens) & ((lengths >= 0) & (lengths <= longest)).all()
        assert_async(fits, f"cu_seq_lens_q must run from 0 to {num_tokens}, in steps from 0 to {longest}")
    return bounds


def _restarts(position_ids: Tensor) -> Tensor | None:
    """(N - 1,) bool, where a sequence starts after the first token; None unless all count 0, 1, 2, ... and restart."""
    restarts = position_ids[1:] == 0
    counts = (position_ids.diff() == 1) | restarts
    if len(position_ids) and position_ids[0] == 0 and restarts.any() and counts.all():
        return restarts
    return None


def _bounds_at(starts: Tensor) -> Tensor:
    """cu_seqlens of N tokens from (N - 1,) bool: does token t + 1 begin a sequence?"""
    first = F.pad(starts, (1, 1), value=True)
    return first.nonzero().squeeze(1)


def _complete(
    words: Tensor, position_ids: Tensor | None, token_type_ids: Tensor | None, bounds: VarlenBounds | None
) -> Inputs:
    """Fill in the default positions and token types, (1, T)."""
    length, device = words.shape[1], words.device
    if position_ids is None:
        position_ids = (torch.arange(length, device=device) if bounds is None else bounds.positions())[None]
    if token_type_ids is None:
        token_type_ids = torch.zeros(1, length, dtype=torch.long, device=device)
    return Inputs(words, position_ids, token_type_ids)


def _check_ids(name: str, ids: Tensor | None, limit_name: str, limit: int) -> None:
    """Refuse ids outside their table, by name."""
    if ids is None or ids.is_floating_point() or ids.numel() == 0:
        return
    # On an accelerator, reading the values would wait for the device; there the lookup itself complains.
    if is_traced() or ids.device.type != "cpu":
        return
    lowest, highest = (int(x) for x in ids.aminmax())
    if lowest < 0 or highest >= limit:
        wrong = lowest if lowest < 0 else highest
        raise InputError(f"{name} ({limit_name} = {limit}) holds {wrong}; ids run from 0 to {limit - 1}")
