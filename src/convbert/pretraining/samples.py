"""What models in training make of a few fixed sentences: how they fill masks, and what they take for replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from convbert.pretraining.data import SequenceDataset
from convbert.pretraining.masking import choose_positions, number_to_predict, pad, uniform
from convbert.pretraining.objectives import sample_tokens

_MOST_TOKENS = 40
"""Of a sentence; longer ones are cut for a reader."""
_ANSWERS = 5
_SEED = 20_201
"""Of masks and draws, the same in every run and at every step, so that pages can be compared."""


@dataclass(frozen=True)
class Answers:
    """What a model says of the masked token number `place`: its `best` tokens with probabilities, the likeliest first,
    and the probability of the token that stood there, `truth`."""

    place: int
    truth: str
    truth_probability: float
    best: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Filled:
    """A sentence with masks: its tokens as they were, and the answers for those that were masked."""

    tokens: tuple[str, ...]
    answers: tuple[Answers, ...]


@dataclass(frozen=True)
class Judged:
    """A sentence as the discriminator sees it and as it was, with its probability for each token to be `replaced`."""

    tokens: tuple[str, ...]
    truth: tuple[str, ...]
    replaced: tuple[float, ...]


@dataclass(frozen=True)
class Samples:
    """What the models of an objective made of the sentences; empty where an objective has no such model."""

    filled: tuple[Filled, ...] = ()
    judged: tuple[Judged, ...] = ()


class Probe:
    """Fixed sentences, always masked at the same places; the replacements are the generator's draws from fixed numbers.

    Nothing here draws from PyTorch's random numbers: a run that is looked at is the run that is not.

    Args:
        dataset: where the sentences are taken from, evenly.
        mask_prob: share of tokens that are masked.
    """

    def __init__(
        self,
        dataset: SequenceDataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sentences: int = 6,
        mask_prob: float = 0.15,
    ) -> None:
        places = np.linspace(0, len(dataset) - 1, min(sentences, len(dataset))).astype(int).tolist()
        items = dataset.__getitems__(sorted(set(places)))
        rows = [np.asarray(item["input_ids"], dtype=np.int64)[:_MOST_TOKENS] for item in items]
        self.tokenizer = tokenizer
        self.ids, attention_mask = pad(rows, tokenizer.pad_token_id)
        self.attention_mask = attention_mask == 1
        special = np.isin(self.ids, tokenizer.all_special_ids)
        numbers, columns = (np.arange(size, dtype=np.uint64) for size in self.ids.shape)
        scores, draws = (uniform(_SEED, s, numbers[:, None], columns[None, :]) for s in range(2))
        self.masked = choose_positions(
            ~special, scores, number_to_predict(attention_mask.sum(axis=1), mask_prob)
        )
        self.draws = torch.from_numpy(draws[self.masked])

    @torch.no_grad()
    def __call__(self, objective: nn.Module) -> Samples:
        """Ask the models of `objective`, in evaluation mode; they are left in the mode that they were in."""
        filler: Any = getattr(objective, "generator", None) or getattr(objective, "model", None)
        judge: Any = getattr(objective, "discriminator", None)
        modes = [(model, model.training) for model in (filler, judge) if model is not None]
        try:
            for model, _ in modes:
                model.eval()
            masked = np.where(self.masked, self.tokenizer.mask_token_id, self.ids)
            positions = torch.from_numpy(self.masked).to(filler.device)
            logits = filler(**self._batch(masked, filler), logits_to_keep=positions).logits
            filled = tuple(self._filled(logits.float().softmax(-1).cpu().numpy()))
            if judge is None:
                return Samples(filled)
            shown = self.ids.copy()
            shown[self.masked] = sample_tokens(logits.cpu(), self.draws).numpy()
            suspicion = judge(**self._batch(shown, judge)).logits.float().sigmoid().cpu().numpy()
            return Samples(filled, tuple(self._judged(shown, suspicion)))
        finally:
            for model, mode in modes:
                model.train(mode)

    def _batch(self, ids: np.ndarray, model: Any) -> dict[str, Tensor]:
        batch = {"input_ids": ids, "attention_mask": self.attention_mask.astype(np.int64)}
        return {name: torch.from_numpy(value).to(model.device) for name, value in batch.items()}

    def _filled(self, probabilities: np.ndarray) -> list[Filled]:
        """From (n, V), in the order of the masked places."""
        answers: list[list[Answers]] = [[] for _ in self.ids]
        for row, column, shares in zip(*np.nonzero(self.masked), probabilities, strict=True):
            best = np.argsort(shares)[::-1][:_ANSWERS]
            truth = int(self.ids[row, column])
            likeliest = tuple(zip(self._tokens(best), shares[best].tolist(), strict=True))
            (word,) = self._tokens([truth])
            answers[row].append(Answers(int(column), word, float(shares[truth]), likeliest))
        return [
            Filled(tuple(self._tokens(ids[mask])), tuple(found))
            for ids, mask, found in zip(self.ids, self.attention_mask, answers, strict=True)
        ]

    def _judged(self, shown: np.ndarray, suspicion: np.ndarray) -> list[Judged]:
        return [
            Judged(
                tuple(self._tokens(ids[mask])), tuple(self._tokens(truth[mask])), tuple(share[mask].tolist())
            )
            for ids, truth, share, mask in zip(shown, self.ids, suspicion, self.attention_mask, strict=True)
        ]

    def _tokens(self, ids: np.ndarray | Sequence[int]) -> list[str]:
        return self.tokenizer.convert_ids_to_tokens([int(number) for number in ids])
