"""What a masked-language model must beat: guesses from counts, at the very positions it is asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from convbert.pretraining.data import SequenceDataset
from convbert.pretraining.masking import IGNORED, MaskingCollator

BLOCK = 4_000_000  # token pairs sorted at a time
_ENOUGH = 20_000_000  # tokens counted, of larger corpora; the counts of more take memory and hours, and change little
_ROWS = 128  # masked positions scored at a time


class BigramModel:
    """Counts of tokens and of neighbouring pairs, and the guesses they give.

    A masked token between l and r is guessed as the ordinary (non-special) token w that maximises

        P(w | l) × P(r | w),    with    P(b | a) = (count(a, b) + strength × P(b)) / (count(a) + strength)

    and P(b) = count(b) / all tokens: the posterior under a first-order Markov chain, with Dirichlet back-off
    to single-token frequencies. A neighbour that is special (masked itself, or the edge of a sequence) tells
    nothing: its factor becomes P(w) on the left and 1 on the right. Neighbours are taken as the model
    sees them, random replacements included. What stands at the masked position itself is not used.

    Args:
        blocks: token ids of the training text in order, in one-dimensional pieces.
        is_special: (V,) bool. Special tokens are neither counted nor guessed; they separate sequences.
        strength: of the back-off, in pseudo-counts.
    """

    def __init__(self, blocks: Iterable[np.ndarray], is_special: np.ndarray, strength: float = 10.0) -> None:
        from scipy.sparse import coo_array, csr_array

        self.is_special, self.strength = is_special, strength
        self.vocab_size = len(is_special)
        tokens = np.zeros(self.vocab_size, dtype=np.int64)
        table = (self.vocab_size, self.vocab_size)
        pairs = csr_array(table, dtype=np.int64)
        # The pair across a cut is lost: one in a block.
        pieces = (ids[at : at + BLOCK] for ids in blocks for at in range(0, len(ids), BLOCK))
        for block in (piece.astype(np.int64) for piece in pieces):
            tokens += np.bincount(block, minlength=self.vocab_size)
            keep = ~(is_special[block[:-1]] | is_special[block[1:]])
            ends = block[:-1][keep], block[1:][keep]
            pairs += coo_array((np.ones(len(ends[0]), dtype=np.int64), ends), shape=table).tocsr()
        self.counts = np.where(is_special, 0, tokens)
        self.frequency = (self.counts / max(1, self.counts.sum())).astype(np.float32)
        self._after = pairs.astype(np.float32)
        self._before = self._after.T.tocsr()

    def most_frequent(self) -> int:
        """The id that is guessed when nothing is known."""
        return int(self.counts.argmax())

    def guess(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Ids guessed between neighbours `left` and `right`, all (n,)."""
        guesses = np.empty(len(left), dtype=np.int64)
        for start in range(0, len(left), _ROWS):
            rows = slice(start, start + _ROWS)
            guesses[rows] = self.scores(left[rows], right[rows]).argmax(axis=1)
        return guesses

    def scores(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """(n, V) float32, proportional to each token's probability there; 0 for special tokens."""
        following = self._after[left].toarray() + self.strength * self.frequency
        following /= (self.counts[left] + self.strength)[:, None].astype(np.float32)
        following[self.is_special[left]] = self.frequency
        preceding = self._before[right].toarray() + self.strength * self.frequency[right][:, None]
        preceding /= (self.counts + self.strength).astype(np.float32)
        preceding[self.is_special[right]] = 1.0
        scores = following * preceding
        scores[:, self.is_special] = 0.0
        return scores


def measure(train: SequenceDataset, heldout: SequenceDataset, collator: MaskingCollator) -> dict[str, float]:
    """Accuracy of both baselines on the positions that `collator` masks in the held-out text.

    Of a large corpus, shards from all over it are counted: 20 million tokens, or one shard if that is more.

    Returns:
        `baseline_most_frequent_accuracy`, `baseline_bigram_accuracy`, and `heldout_masked_positions`, how
        many.
    """
    model = BigramModel(train.flat_ids(_ENOUGH), collator.is_special)
    targets, left, right = masked_positions(heldout, collator)
    return {
        "baseline_most_frequent_accuracy": float((targets == model.most_frequent()).mean()),
        "baseline_bigram_accuracy": float((targets == model.guess(left, right)).mean()),
        "heldout_masked_positions": len(targets),
    }


def masked_positions(
    dataset: SequenceDataset, collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The true token of every masked position, and those shown on its left and right: three (n,) arrays."""
    parts = []
    for start in range(0, len(dataset), 256):
        batch = collator(dataset.__getitems__(list(range(start, min(start + 256, len(dataset))))))
        labels, shown = batch["labels"].numpy(), batch["input_ids"].numpy()
        rows, columns = np.nonzero(labels != IGNORED)
        # [CLS] and [SEP] are never masked, so both neighbours exist.
        parts.append((labels[rows, columns], shown[rows, columns - 1], shown[rows, columns + 1]))
    targets, left, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    return targets, left, right
