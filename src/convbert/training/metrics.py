"""What is measured while a run trains: named metrics over many batches, the throughput, and flags of a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

import torch
from torch import Tensor


class MetricMeter:
    """Named metrics over many batches, exact whatever their sizes (in float64, on the device).

    A metric is a tensor that adds up. One of (2,) is a sum and a count, and becomes a mean. One of (2, bins) holds the
    histograms of a score over negatives and over positives, and becomes the area under the ROC curve, which no mean
    over batches would give.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one batch: name to (2,) or (2, bins)."""
        for name, metric in metrics.items():
            metric = metric.detach()
            metric = (metric.cpu() if metric.is_mps else metric).double()  # Apple's has no float64
            total = self.totals.get(name)
            self.totals[name] = metric if total is None else total.to(metric.device) + metric

    def means(self, reduce: Callable[[Tensor], Tensor] = lambda metric: metric) -> dict[str, float]:
        """Mean or area by name; `reduce` adds up the processes of a distributed run. A metric of which nothing was
        counted is left out."""
        found: dict[str, float | None] = {}
        for name, metric in self.totals.items():
            reduced = reduce(metric)
            if reduced.dim() == 2:
                found[name] = area_under_curve(reduced)
            else:
                total, count = reduced.tolist()
                found[name] = total / count if count else None
        return {name: value for name, value in found.items() if value is not None}

    def state(self) -> dict[str, list]:
        """What `load` takes: numbers, which JSON keeps to the last bit."""
        return {name: metric.tolist() for name, metric in self.totals.items()}

    def load(self, *states: Mapping[str, list]) -> None:
        """Go on from a `state`, or from the sum of several."""
        self.totals = {}
        for state in states:
            self.add({name: torch.tensor(metric, dtype=torch.float64) for name, metric in state.items()})


def area_under_curve(histograms: Tensor) -> float | None:
    """Area under the ROC curve: how often a positive scores above a negative, a shared bin counting half.

    Args:
        histograms: (2, bins), negatives and positives by rising score.

    Returns:
        In [0, 1]; None where either histogram is empty.
    """
    negatives, positives = histograms.double()
    below = negatives.cumsum(0) - negatives / 2
    pairs = negatives.sum() * positives.sum()
    return ((positives * below).sum() / pairs).item() if pairs else None


class Throughput:
    """Tokens and steps per second since the last reading, pauses for evaluation left out."""

    def __init__(self) -> None:
        self._tokens: Tensor | None = None
        self._since: float | None = None
        self._waited = 0.0
        self._step = 0

    def begin(self, step: int) -> None:
        """Start counting at `step`; does nothing when it has started."""
        if self._since is None:
            self._since, self._step = monotonic(), step

    def add(self, tokens: Tensor) -> None:
        """Count the tokens of a batch."""
        self._tokens = tokens if self._tokens is None else self._tokens + tokens

    def wait(self, seconds: float) -> None:
        """Count time in which the model had no batch to work on."""
        self._waited += seconds

    def pause(self, seconds: float) -> None:
        """Leave out time that was not spent on training."""
        if self._since is not None:
            self._since += seconds

    def read(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Speed since the last reading, and `input_wait`, the share of the time spent waiting for batches.

        Args:
            reduce: adds up the processes of a distributed run.
        """
        assert self._since is not None
        assert self._tokens is not None
        seconds = monotonic() - self._since
        speed = {
            "tokens_per_second": float(reduce(self._tokens)) / seconds,
            "seconds_per_step": seconds / max(1, step - self._step),
            "input_wait": self._waited / seconds,
        }
        self._tokens, self._since, self._waited, self._step = None, monotonic(), 0.0, step
        return speed


class DeviceFlag:
    """A truth value on a device, read without waiting for work that was queued after it."""

    def __init__(self, value: Tensor) -> None:
        self.value, self._event = value, None
        if value.is_cuda:
            self.value = torch.empty_like(value, device="cpu", pin_memory=True).copy_(
                value, non_blocking=True
            )
            self._event = torch.cuda.Event()
            self._event.record()

    def __bool__(self) -> bool:
        if self._event is not None:
            self._event.synchronize()
        return bool(self.value)
