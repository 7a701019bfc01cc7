"""How fast a run is, and whether it waits for its input."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from torch import Tensor


class Pace:
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
