"""Batches of texts that are only read: as many as a budget of tokens holds."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], max_tokens: int, most_texts: int = sys.maxsize) -> list[list[int]]:
    """Indices of each batch's texts: sorted by length, within `max_tokens` tokens and `most_texts` texts."""
    batches: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or tokens + lengths[index] > max_tokens or len(batches[-1]) == most_texts:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += lengths[index]
    return batches
