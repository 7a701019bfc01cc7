"""Named figures over many batches, exact whatever the sizes of the batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class FigureMeter:
    """Named figures over many batches, exact whatever their sizes (in float64, on the device).

    A figure is a tensor that adds up. One of (2,) is a sum and a count, and becomes a mean. One of (2, bins) holds the
    histograms of a score over negatives and over positives, and becomes the area under the ROC curve, which no mean
    over batches would give.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add one batch: name to (2,) or (2, bins)."""
        for name, figure in figures.items():
            figure = _in_float64(figure.detach())
            total = self.totals.get(name)
            self.totals[name] = figure if total is None else total.to(figure.device) + figure

    def means(self, reduce: Callable[[Tensor], Tensor] = lambda figure: figure) -> dict[str, float]:
        """Mean or area by name; `reduce` adds up the processes of a distributed run. A figure of which nothing was
        counted is left out."""
        found = {name: _mean_or_area(reduce(figure)) for name, figure in self.totals.items()}
        return {name: value for name, value in found.items() if value is not None}

    def state(self) -> dict[str, list]:
        """What `load` takes: numbers, which JSON keeps to the last bit."""
        return {name: figure.tolist() for name, figure in self.totals.items()}

    def load(self, *states: Mapping[str, list]) -> None:
        """Go on from a `state`, or from the sum of several."""
        self.totals = {}
        for state in states:
            self.add({name: torch.tensor(figure, dtype=torch.float64) for name, figure in state.items()})


def _in_float64(figure: Tensor) -> Tensor:
    """On its device, or on the CPU where that is Apple's, which has no float64."""
    return (figure.cpu() if figure.device.type == "mps" else figure).double()


def _mean_or_area(figure: Tensor) -> float | None:
    if figure.dim() == 2:
        return area_under_curve(figure)
    total, count = figure.tolist()
    return total / count if count else None


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
