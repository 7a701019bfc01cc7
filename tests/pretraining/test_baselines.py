from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from convbert.pretraining import baselines
from convbert.pretraining.baselines import BigramModel, masked_positions, measure
from convbert.pretraining.corpus import prepare as preparing
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.data import prepare_sequences
from convbert.pretraining.masking import IGNORED, Masking, MaskingCollator

SPECIAL = np.array([True] * 5 + [False] * 4)  # ordinary ids are 5 to 8


def slow_scores(text: list[int], left: int, right: int, strength: float) -> list[float]:
    """The formula of `BigramModel`, term by term."""
    tokens = Counter(token for token in text if not SPECIAL[token])
    pairs = Counter(pair for pair in pairwise(text) if not SPECIAL[list(pair)].any())
    total = sum(tokens.values())

    def conditional(first: int, second: int) -> float:
        return (pairs[first, second] + strength * tokens[second] / total) / (tokens[first] + strength)

    scores = []
    for word in range(len(SPECIAL)):
        before = tokens[word] / total if SPECIAL[left] else conditional(left, word)
        after = 1.0 if SPECIAL[right] else conditional(word, right)
        scores.append(0.0 if SPECIAL[word] else before * after)
    return scores


@pytest.mark.parametrize("strength", [0.5, 10.0])
@pytest.mark.parametrize("block", [1000, 7])
def test_scores_follow_the_formula(strength, block, monkeypatch):
    monkeypatch.setattr(baselines, "BLOCK", block)
    source = np.random.default_rng(0)
    sequences = [
        [2, *source.integers(5, 9, size=5).tolist(), 3] for _ in range(30)
    ]  # 7 tokens: no cut inside
    text = [token for sequence in sequences for token in sequence]
    model = BigramModel([np.array(text, dtype=np.uint16)], SPECIAL, strength)
    contexts = [(5, 6), (8, 8), (2, 7), (7, 3), (4, 4)]
    left, right = np.array(contexts).T
    expected = [slow_scores(text, *context, strength) for context in contexts]
    np.testing.assert_allclose(model.scores(left, right), expected, rtol=1e-5)
    assert model.guess(left, right).tolist() == np.argmax(expected, axis=1).tolist()


def test_a_certain_neighbourhood_is_guessed():
    text = [2, 5, 6, 7, 3] * 20 + [2, 8, 8, 8, 8, 8, 8, 8, 3] * 20
    model = BigramModel([np.array(text)], SPECIAL)
    assert model.most_frequent() == 8
    assert model.guess(np.array([5, 4, 5]), np.array([7, 7, 4])).tolist() == [6, 6, 6]
    assert model.guess(np.array([2]), np.array([4])).tolist() == [8]


def test_of_a_large_corpus_parts_from_all_over_it_are_counted(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "SMALLEST_BLOCK", 1000)
    dataset = prepare_sequences(corpus, tokenizer, tmp_path, Packing(32, 4))
    parts = list(dataset.flat_ids(dataset.count_tokens() // 4))
    assert len(parts) == -(-len(dataset.manifest.shards) // 5)
    assert sum(map(len, parts)) <= dataset.count_tokens() // 4
    np.testing.assert_array_equal(parts[1], list(dataset.flat_ids())[5])


def test_positions_are_those_the_model_is_asked_about(heldout, tokenizer):
    collator = MaskingCollator(tokenizer, Masking(), seed=1)
    targets, left, right = masked_positions(heldout, collator)
    expected = []
    for draw in range(len(heldout)):
        batch = collator([heldout[draw]])
        labels, shown = batch["labels"][0].tolist(), batch["input_ids"][0].tolist()
        expected += [
            (label, shown[place - 1], shown[place + 1])
            for place, label in enumerate(labels)
            if label != IGNORED
        ]
    assert list(zip(targets.tolist(), left.tolist(), right.tolist(), strict=True)) == expected


def test_bigrams_beat_the_most_frequent_token_on_made_up_sentences(sequences, heldout, tokenizer):
    figures = measure(sequences, heldout, MaskingCollator(tokenizer, Masking(), seed=1))
    assert 0.05 < figures["baseline_most_frequent_accuracy"] < 0.3
    assert figures["baseline_bigram_accuracy"] > figures["baseline_most_frequent_accuracy"] + 0.3
    assert figures["heldout_masked_positions"] > 50
