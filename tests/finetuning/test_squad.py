"""Exact match, F1 and the no-answer threshold equal the official scripts, on hand-made and random cases."""

import random

import pytest

import official_squad as official
from convbert.finetuning import squad

HAND_MADE = [  # gold answers, prediction, exact, F1 by hand (version 2.0)
    (["The Cat"], "cat", 1, 1),  # articles and case
    (["U.S.A."], "usa", 1, 1),  # punctuation
    (["a big red dog"], "red dog", 0, 0.8),  # 2 of 2 and 2 of 3 words
    (["blue", "the dark  blue"], "dark blue!", 1, 1),  # the answer that fits best
    (["yes yes no"], "yes no no", 0, 2 / 3),  # bags, not sets
    ([], "", 1, 1),
    ([], "something", 0, 0),
    (["something"], "", 0, 0),
    (["the"], "", 1, 1),  # nothing is left of "the": no answer, in version 2.0
    (["Ein Übermaß"], "übermaß", 0, 2 / 3),  # "ein" is no article
]
WORDS = ("the", "a", "an", "cat", "Cat.", "dog", "U.S.", "42", "%", "née", "")


@pytest.mark.parametrize(("gold", "predicted", "exact", "f1"), HAND_MADE)
def test_by_hand(gold, predicted, exact, f1):
    assert squad.best_over_gold(squad.exact_match, gold, predicted) == exact
    assert squad.best_over_gold(squad.f1, gold, predicted) == pytest.approx(f1)


def random_data(seed, may_be_missing):
    """Gold answers, predictions and odds, of 200 questions."""
    dice = random.Random(seed)

    def text():
        return " ".join(dice.choices(WORDS, k=dice.randint(1, 5)))

    gold = {str(n): [text() for _ in range(dice.randint(0 if may_be_missing else 1, 4))] for n in range(200)}
    predicted = {key: dice.choice(gold[key] or [""]) if dice.random() < 0.4 else text() for key in gold}
    return gold, predicted, {key: dice.gauss(0, 3) for key in gold}


def as_dataset(gold):
    questions = [{"id": key, "answers": [{"text": text} for text in texts]} for key, texts in gold.items()]
    return [{"paragraphs": [{"qas": questions}]}]


@pytest.mark.parametrize("seed", range(5))
def test_version_1_on_random_answers(seed):
    gold, predicted, _ = random_data(seed, may_be_missing=False)
    expected = official.evaluate_v1(as_dataset(gold), predicted)
    found = squad.evaluate(gold, predicted)
    assert found["exact"] == pytest.approx(expected["exact_match"], abs=1e-9)
    assert found["f1"] == pytest.approx(expected["f1"], abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_version_2_on_random_answers(seed):
    gold, predicted, odds = random_data(seed, may_be_missing=True)
    exact, f1 = official.get_raw_scores(as_dataset(gold), predicted)
    found = squad.evaluate(gold, predicted, answers_may_be_missing=True)
    assert found["exact"] == pytest.approx(100 * sum(exact.values()) / 200)
    assert found["f1"] == pytest.approx(100 * sum(f1.values()) / 200)
    # Questions without a word in their answers count as having none.
    has_answer = {key: any(official.normalize_answer(text) for text in texts) for key, texts in gold.items()}
    for rule, scores in ((squad.exact_match, exact), (squad.f1, f1)):
        score, threshold = squad.best_threshold(gold, predicted, odds, rule)
        expected = official.find_best_thresh(predicted, scores, odds, has_answer)
        assert (score, threshold) == pytest.approx(expected)
