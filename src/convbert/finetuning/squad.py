"""The official rules of SQuAD 1.1 and 2.0: exact match, F1 of words, and the threshold for "no answer"."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> str:
    """Lower case, without punctuation and articles, one space between words."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(gold: str, predicted: str) -> float:
    """1 where the two are the same after `normalize`, else 0."""
    return float(normalize(gold) == normalize(predicted))


def f1(gold: str, predicted: str) -> float:
    """F1 of the bags of words. Where one of the two is empty: 1 if both are, else 0."""
    gold_words, words = normalize(gold).split(), normalize(predicted).split()
    if not gold_words or not words:
        return float(gold_words == words)
    common = sum((Counter(gold_words) & Counter(words)).values())
    return 2 * common / (len(gold_words) + len(words))


def f1_of_first_version(gold: str, predicted: str) -> float:
    """SQuAD 1.1 gives nothing where no word is shared, not even for two answers that are empty after `normalize`."""
    return f1(gold, predicted) if normalize(gold) else 0.0


def best_over_gold(rule: Callable[[str, str], float], gold: Sequence[str], predicted: str) -> float:
    """The score against the gold answer that fits best; no gold answer (or only empty ones) means "no answer"."""
    answers = [answer for answer in gold if normalize(answer)] or [""]
    return max(rule(answer, predicted) for answer in answers)


def evaluate(
    gold: Mapping[str, Sequence[str]], predicted: Mapping[str, str], *, answers_may_be_missing: bool = False
) -> dict[str, float]:
    """`exact` and `f1`, in percent, over all questions.

    Args:
        gold: question to its right answers, none where the text does not answer it.
        predicted: question to an answer, "" for none.
        answers_may_be_missing: the rules of SQuAD 2.0; by default those of 1.1.
    """

    def best(rule: Callable[[str, str], float], key: str) -> float:
        if answers_may_be_missing:
            return best_over_gold(rule, gold[key], predicted[key])
        return max(rule(text, predicted[key]) for text in gold[key])

    f1_rule = f1 if answers_may_be_missing else f1_of_first_version
    rules = {"exact": exact_match, "f1": f1_rule}
    return {name: 100 * sum(best(rule, key) for key in gold) / len(gold) for name, rule in rules.items()}


def best_threshold(
    gold: Mapping[str, Sequence[str]],
    predicted: Mapping[str, str],
    null_odds: Mapping[str, float],
    rule: Callable[[str, str], float] = f1,
) -> tuple[float, float]:
    """The best score in percent, and the threshold of the odds above which "no answer" has to be given for it.

    Args:
        predicted: question to the best answer that is not "".
        null_odds: question to how much "no answer" is preferred to that.
    """
    has_answer = {key: any(normalize(answer) for answer in gold[key]) for key in gold}
    score = float(sum(not known for known in has_answer.values()))  # all questions are answered with ""
    best, threshold = score, 0.0
    for key in sorted(gold, key=lambda name: null_odds[name]):
        if has_answer[key]:
            score += best_over_gold(rule, gold[key], predicted[key])
        elif predicted[key]:
            score -= 1
        if score > best:
            best, threshold = score, null_odds[key]
    return 100 * best / len(gold), threshold
