"""Interleaved timing: A B A B ..., so that a machine whose speed drifts treats all subjects alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

Call = Callable[[], object]

FEWEST_ROUNDS = 5
SHORTEST_MEASURE = 2e-3  # seconds; a quicker call is repeated within one measure


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: counted rounds, in each of which every subject is measured once.
        warmup: rounds that are not counted.
        seconds: after so many, no round is begun beyond the fewest.
        fewest: rounds that are measured however long they take.
    """

    rounds: int
    warmup: int = 2
    seconds: float = 60.0
    fewest: int = FEWEST_ROUNDS


def interleaved(subjects: dict[str, Call], effort: Effort, device: torch.device) -> dict[str, list[float]]:
    """Seconds per call, by subject, one entry a round."""
    calls = dict.fromkeys(subjects, 1)
    for _ in range(effort.warmup):
        for name, call in subjects.items():
            calls[name] = max(1, math.ceil(SHORTEST_MEASURE / measure(call, 1, device)))
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    started = time.perf_counter()
    for number in range(effort.rounds):
        if number >= effort.fewest and time.perf_counter() - started > effort.seconds:
            break
        for name, call in subjects.items():
            seconds[name].append(measure(call, calls[name], device))
    return seconds


def measure(call: Call, calls: int, device: torch.device) -> float:
    """Seconds per call of `calls` in a row, the device's work included."""
    wait_for(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait_for(device)
    return (time.perf_counter() - start) / calls


def wait_for(device: torch.device) -> None:
    """Until everything launched on `device` is done; a CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Spread:
    """The median of what was measured round by round, and its middle half."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """Of one number a round."""
    in_order = sorted(values)
    quarter = len(in_order) // 4
    return Spread(median(in_order), in_order[quarter], in_order[-1 - quarter])


def ratio(above: list[float], below: list[float]) -> Spread:
    """Of `above` over `below`, divided round by round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])
