"""Interleaved timing: A B A B ..., so that a machine whose speed drifts treats both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median


def interleaved(
    subjects: dict[str, Callable[[], object]], rounds: int, warmup: int
) -> dict[str, list[float]]:
    """Seconds of each call, by subject: `warmup` uncounted rounds, then `rounds` counted ones."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(warmup + rounds):
        for name, call in subjects.items():
            start = time.perf_counter()
            call()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times as long `slow` takes, round by round: the median, and the middle half of the rounds."""
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    quarter = len(ratios) // 4
    return {"median": median(ratios), "low": ratios[quarter], "high": ratios[-1 - quarter]}
