"""Dynamic masking: which positions a model must predict, and what it sees there instead.

Every random choice is a hash of (seed, draw, position): an example is masked the same way whatever its batch,
worker, process or restart, and anew each epoch. See `SequenceDataset` for the draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from convbert.util.errors import InputError

IGNORED = -100
"""The label of positions that are not predicted."""


@dataclass(frozen=True)
class Masking:
    """How much is masked, and how.

    The defaults are BERT's; the original's replaced token detection has 0.85 and 0.

    Args:
        mask_prob: so many tokens of each sequence are predicted, as a share of its length, rounded, at least one.
            As in BERT and in the original, the length counts special tokens, though none of them is ever chosen.
        mask_token_prob: of those, the share that shows `[MASK]`.
        random_token_prob: the share that shows a random non-special token. The rest shows the true token.
        whole_words: choose all pieces of a word (its first, and those that start with "##") or none of them.
    """

    mask_prob: float = 0.15
    mask_token_prob: float = 0.8
    random_token_prob: float = 0.1
    whole_words: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.mask_prob < 1:
            raise InputError(f"mask_prob must lie between 0 and 1, got {self.mask_prob}")
        shares = (self.mask_token_prob, self.random_token_prob)
        if not (min(shares) >= 0 and sum(shares) <= 1 + 1e-9):
            raise InputError(
                "mask_token_prob and random_token_prob must not be negative and sum to at most 1, "
                f"got {shares[0]} and {shares[1]}"
            )


class MaskingCollator:
    """Pads sequences to a batch and masks them; a collate function for a DataLoader.

    Takes items of `SequenceDataset`; returns int64 tensors (B, T): `input_ids` with masks in place,
    `attention_mask` (1 on real tokens), `labels` (the true token where it must be predicted, else -100), and
    `token_type_ids` where an item has a second segment. With `sampling`, also `sample_uniforms` (B, T) float32 in
    [0, 1], which decide what a generator puts at each position.

    Found on the CPU, so that there is no sync with a GPU: `masked_positions` (n,), where `labels` are not -100, counted
    row by row; `cu_seqlens` (B + 1,) int32, the bounds of the sequences among the N tokens; and in a batch with padding
    `token_positions` (N,), where these are.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, masking: Masking, seed: int, *, sampling: bool = False
    ) -> None:
        self.masking, self.seed, self.sampling = masking, seed, sampling
        self.pad_id: int = tokenizer.pad_token_id
        self.mask_id: int = tokenizer.mask_token_id
        self.is_special = np.zeros(len(tokenizer), dtype=bool)
        self.is_special[tokenizer.all_special_ids] = True
        self.ordinary_ids = np.flatnonzero(~self.is_special)
        self.continues_word: np.ndarray | None = None
        if masking.whole_words:
            tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
            self.continues_word = np.array([(token or "").startswith("##") for token in tokens])

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        token_ids, attention_mask = pad([item["input_ids"] for item in items], self.pad_id)
        draws = np.array([item["draw"] for item in items], dtype=np.uint64)
        positions = np.arange(token_ids.shape[1], dtype=np.uint64)
        scores, actions, choices, *samples = (
            uniform(self.seed, stream, draws[:, None], positions[None, :])
            for stream in range(4 if self.sampling else 3)
        )
        predicted = self._choose(token_ids, attention_mask, scores)
        shown = np.where(predicted, self._replace(token_ids, actions, choices), token_ids)
        batch = {
            "input_ids": torch.from_numpy(shown),
            "attention_mask": torch.from_numpy(attention_mask),
            "labels": torch.from_numpy(np.where(predicted, token_ids, IGNORED)),
            "masked_positions": torch.from_numpy(np.flatnonzero(predicted)),
        }
        bounds = np.concatenate(([0], attention_mask.sum(axis=1).cumsum()))
        batch["cu_seqlens"] = torch.from_numpy(bounds.astype(np.int32))
        if not attention_mask.all():
            batch["token_positions"] = torch.from_numpy(np.flatnonzero(attention_mask))
        if any("second_segment" in item for item in items):
            starts = np.array([item.get("second_segment", len(positions)) for item in items])
            segments = (np.arange(len(positions)) >= starts[:, None]) & (attention_mask == 1)
            batch["token_type_ids"] = torch.from_numpy(segments.astype(np.int64))
        if self.sampling:
            batch["sample_uniforms"] = torch.from_numpy(samples[0].astype(np.float32))
        return batch

    def _choose(self, token_ids: np.ndarray, attention_mask: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Which positions are predicted: (B, T) bool."""
        candidates = (attention_mask == 1) & ~self.is_special[token_ids]
        counts = number_to_predict(attention_mask.sum(axis=1), self.masking.mask_prob)
        if self.continues_word is not None:
            return choose_words(candidates, self.continues_word[token_ids], scores, counts)
        return choose_positions(candidates, scores, counts)

    def _replace(self, token_ids: np.ndarray, actions: np.ndarray, choices: np.ndarray) -> np.ndarray:
        """What a predicted position shows, from two uniform numbers for each: all (B, T)."""
        masking = self.masking
        random_ids = self.ordinary_ids[(choices * len(self.ordinary_ids)).astype(np.int64)]
        shown = np.where(actions < masking.mask_token_prob + masking.random_token_prob, random_ids, token_ids)
        return np.where(actions < masking.mask_token_prob, self.mask_id, shown)


def pad(sequences: Sequence[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids to a padded batch (B, T) int64, and its attention mask (B, T) int64, 1 on real tokens."""
    lengths = np.array([len(sequence) for sequence in sequences])
    attention_mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    token_ids = np.full(attention_mask.shape, pad_id, dtype=np.int64)
    token_ids[attention_mask] = np.concatenate(sequences)
    return token_ids, attention_mask.astype(np.int64)


def number_to_predict(lengths: np.ndarray, mask_prob: float) -> np.ndarray:
    """`max(1, round(mask_prob × length))` of each sequence, in single precision and half to even as the original."""
    shares = lengths.astype(np.float32) * np.float32(mask_prob)
    return np.maximum(1, np.rint(shares)).astype(np.int64)


def choose_positions(candidates: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Choose so many candidates of each row, those with the smallest scores; all where there are fewer: (B, T) bool.

    Args:
        candidates: (B, T) bool.
        scores: (B, T) in [0, 1), independent and uniform for a choice without replacement.
        counts: (B,) how many.
    """
    wanted = np.minimum(counts, candidates.sum(axis=1))
    order = np.argsort(np.where(candidates, scores, 2.0), axis=1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    return ranks < wanted[:, None]


def choose_words(
    candidates: np.ndarray, continues: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Choose whole words of each row, at most so many tokens: each that still fits, in the order of its first token's
    score.

    Where no word fits, the first in order is cut, so that only a row without candidates stays empty.

    Args:
        candidates, scores, counts: as for `choose_positions`.
        continues: (B, T) bool, tokens that belong to the word of the candidate before them.
    """
    chosen = np.zeros_like(candidates)
    before = np.pad(candidates, ((0, 0), (1, 0)))[:, :-1]
    starts = candidates & ~(continues & before)
    for row, room in enumerate(counts.tolist()):
        positions = np.flatnonzero(candidates[row])
        words = np.split(positions, np.flatnonzero(starts[row, positions])[1:]) if len(positions) else []
        words = [words[number] for number in np.argsort([scores[row, word[0]] for word in words])]
        for word in words:
            if len(word) <= room:
                chosen[row, word] = True
                room -= len(word)
        if words and not chosen[row].any():
            chosen[row, words[0][:room]] = True
    return chosen


def uniform(seed: int, stream: int, draws: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Uniform float64 numbers in [0, 1), each a pure function of the four arguments, which broadcast.

    The mixing step is the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
    """
    key = _mix(np.array([seed], dtype=np.uint64) * _GOLDEN + np.uint64(stream + 1))
    bits = _mix(_mix(key + draws * _GOLDEN) + positions * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
