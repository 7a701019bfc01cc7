"""No speed without correctness: what transformers' ConvBERT says of each text alone, and how far a subject is from
it."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor, nn

from benchmarks.cases import row_lengths

# Largest distance allowed: of a token's states, or of a parameter's gradient, relative to its own norm.
STATES = {"float32": 1e-5, "bfloat16": 3e-2, "int8": 0.15}
GRADIENTS = {"float32": 1e-4, "bfloat16": 1e-1}
PRODUCTS = {"float32": 1e-5, "bfloat16": 1e-2}

Inputs = dict[str, Tensor]


class DifferentError(Exception):
    """A subject that does not compute what it should; the message says by how much."""


def refuse(error: float, allowed: float) -> None:
    """Raise unless `error` is a number within `allowed`."""
    if math.isnan(error) or error > allowed:
        raise DifferentError(f"refused: differs from the oracle by {error:.1e}, allowed {allowed:.0e}")


def rows_by_length(inputs: Inputs) -> list[tuple[list[int], int]]:
    """Numbers of the rows of each length: without padding they are a rectangle, which changes no row."""
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, length in enumerate(row_lengths(inputs)):
        rows_of[length].append(row)
    return [(rows, length) for length, rows in rows_of.items()]


@torch.no_grad()
def each_alone(oracle: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The states (t, C) of each row without padding."""
    states: dict[int, Tensor] = {}
    for rows, length in rows_by_length(inputs):
        together = oracle(input_ids=inputs["input_ids"][rows, :length]).last_hidden_state
        states.update(zip(rows, together, strict=True))
    return [states[row] for row in range(len(states))]


def real_rows(states: Tensor, inputs: Inputs) -> list[Tensor]:
    """(B, T, C) to the states (t, C) of each row's tokens."""
    return [row[:length] for row, length in zip(states, row_lengths(inputs), strict=True)]


def worst_token(rows: list[Tensor], expected: list[Tensor]) -> float:
    """The largest distance of a token's states from those expected, relative to their norm."""
    actual, wanted = torch.cat(rows).float(), torch.cat(expected).float()
    return ((actual - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max().item()


def worst_gradient(model: nn.Module, oracle: nn.Module) -> float:
    """The largest distance of a parameter's gradient, relative to its norm.

    A gradient that is a small difference of large numbers (a key's, and its bias has none at all) counts against a
    thousandth of the largest norm.
    """
    expected = {name: p.grad for name, p in oracle.named_parameters() if p.grad is not None}
    actual = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if expected.keys() != actual.keys():
        raise DifferentError(
            f"refused: gradients of other parameters: {sorted(expected.keys() ^ actual.keys())}"
        )
    least = 1e-3 * max(grad.norm().item() for grad in expected.values())
    distances = [
        ((actual[name].float() - grad).norm() / max(grad.norm().item(), least)).item()
        for name, grad in expected.items()
    ]
    return max(distances) if all(map(math.isfinite, distances)) else math.nan
