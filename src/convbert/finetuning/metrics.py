"""Metrics of (gold, predicted), by name; the formulas are scikit-learn's and scipy's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

Scores = dict[str, float]


def _correlation(name: str, gold: Sequence[float], predicted: Sequence[float]) -> float:
    """0 where one of the two does not vary: a spread at the level of rounding is none, and would give noise."""
    for values in (gold, predicted):
        spread = float(np.ptp(values))
        if not np.isfinite(spread) or spread <= 1e-9 * max(1.0, float(np.max(np.abs(values)))):
            return 0.0
    return float(getattr(import_module("scipy.stats"), name)(gold, predicted)[0])


pearson = partial(_correlation, "pearsonr")
"""Linear correlation."""
spearman = partial(_correlation, "spearmanr")
"""Correlation of ranks."""


def matthews(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    """Matthews correlation, CoLA's metric; 0 where one label is always given."""
    return float(import_module("sklearn.metrics").matthews_corrcoef(gold, predicted))


def accuracy(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    """Share of answers that are right."""
    return float(np.mean([g == p for g, p in zip(gold, predicted, strict=True)]))


def mean_squared_error(gold: Sequence[float], predicted: Sequence[float]) -> float:
    """In the square of the target's unit."""
    return float(np.mean((np.asarray(gold, dtype=float) - np.asarray(predicted, dtype=float)) ** 2))


def positive_f1(gold: Sequence[Any], predicted: Sequence[Any], positive: Any) -> float:
    """F1 of one label: MRPC's and QQP's."""
    return micro_f1(*([{label} & {positive} for label in labels] for labels in (gold, predicted)))


def macro_f1(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    """Unweighted mean of the F1 of every label that occurs."""
    return float(np.mean([positive_f1(gold, predicted, label) for label in {*gold, *predicted}]))


def micro_f1(gold: Sequence[set[Any]], predicted: Sequence[set[Any]]) -> float:
    """F1 over all pairs of an example and a label (or a span): 2 hits / (given + wanted); 0 where there are none."""
    hits = sum(len(g & p) for g, p in zip(gold, predicted, strict=True))
    total = sum(map(len, gold)) + sum(map(len, predicted))
    return 2 * hits / total if total else 0.0


METRICS: dict[str, Callable[..., float]] = {
    "accuracy": accuracy,
    "matthews": matthews,
    "macro_f1": macro_f1,
    "pearson": pearson,
    "spearman": spearman,
    "mean_squared_error": mean_squared_error,
}
"""Metrics of (gold, predicted) alone. `positive_f1` and `micro_f1` need more, and are called by name."""
