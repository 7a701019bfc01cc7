"""Whether an exported model gives our answers, in its own runtime: padded, and each text alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convbert.export.graph import Traceable
from convbert.inference.runtimes import MAPS, Run, is_by_token
from convbert.util.errors import InputError

LENGTHS = ((1, 2, 3), (7, 1, 5), (33, 17), (128, 101, 64), (9,))
"""Lengths of the texts of each batch; the longest text a model takes is added."""

TOLERANCES = {"fp32": 1e-5, "fp16": 2e-2, "int8": 0.2, "int8-dynamic": 1.0}
"""Largest difference to our fp32 answer, relative to the largest number in it (at least 1)."""

ALONE = {"fp32": 1e-5, "fp16": 1e-2, "int8": 1e-4}
"""Largest difference between a text alone and in a padded batch. Dynamic int8 rounds a batch by its largest number, so
that a text's answer depends on its batch there."""


@dataclass(frozen=True)
class Parity:
    """What the check found.

    Attributes:
        difference: the largest to our fp32 answer, relative to the largest number in it (at least 1).
        alone: the largest between a text alone and in a padded batch, likewise.
        same_first: share of positions (or texts) with the same largest logit; None where there are no classes.
    """

    difference: float
    alone: float
    same_first: float | None

    def sentence(self) -> str:
        """For a person."""
        first = "" if self.same_first is None else f", same first answer in {self.same_first:.1%}"
        return f"largest difference {self.difference:.1e}, alone and in a batch {self.alone:.1e}{first}"


def check_parity(source: Traceable, run: Run, precision: str, *, one_at_a_time: bool = False) -> Parity:
    """Compare a runtime with the model that was exported.

    Args:
        run: the exported model in its runtime.
        precision: a key of `TOLERANCES`.
        one_at_a_time: the exported model takes one text at a time.

    Raises:
        InputError: a difference is larger than its tolerance.
    """
    positions = source.model.config.max_position_embeddings
    lengths = [tuple(min(length, positions) for length in batch) for batch in (*LENGTHS, (positions, 11))]
    by_token = is_by_token(type(source.model).__name__)
    difference = alone = 0.0
    same: list[float] = []
    for seed, batch_lengths in enumerate(lengths):
        batch = source.sample(batch_lengths, seed)
        ours = source.answer(batch)
        singles = [_run(run, _text(batch, row, length)) for row, length in enumerate(batch_lengths)]
        padded = None if one_at_a_time else _run(run, batch)
        for name, expected in ours.items():
            size = max(1.0, float(expected[expected > torch.finfo(expected.dtype).min / 2].abs().max()))
            for row, length in enumerate(batch_lengths):
                own: tuple[slice, ...] = _real(name, length) if by_token or name in MAPS else (slice(None),)
                wanted, single = expected[row][own], singles[row][name][0][own]
                found = single if padded is None else padded[name][row][own]
                difference = max(difference, _largest(found - wanted) / size)
                alone = max(alone, _largest(found - single) / size)
                if wanted.shape[-1] > 1 and name == "logits":
                    same.append(float((found.argmax(-1) == wanted.argmax(-1)).float().mean()))
    result = Parity(difference, alone, sum(same) / len(same) if same else None)
    for name, value, tolerance in (
        ("differs from the model", result.difference, TOLERANCES[precision]),
        ("depends on the batch that a text is in", result.alone, ALONE.get(precision, float("inf"))),
    ):
        if not value <= tolerance:
            raise InputError(
                f"the exported model ({precision}) {name}: by {value:.2g}, where {tolerance:.0e} is allowed; nothing "
                "was written"
            )
    return result


def _run(run: Run, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    found = run({name: np.ascontiguousarray(x.numpy()) for name, x in batch.items()})
    return {name: torch.from_numpy(np.asarray(x)).float() for name, x in found.items()}


def _text(batch: dict[str, Tensor], row: int, length: int) -> dict[str, Tensor]:
    """One text without padding. A choice beside it may be longer."""
    if batch["input_ids"].dim() == 3:
        return {name: x[row : row + 1] for name, x in batch.items()}
    return {name: x[row : row + 1, :length] for name, x in batch.items()}


def _real(name: str, length: int) -> tuple[slice, ...]:
    """The part of a text's output that is of its tokens, not of padding."""
    every, tokens = slice(None), slice(length)
    return {"attentions": (every, every, tokens, tokens), "conv_kernels": (every, tokens)}.get(
        name, (tokens,)
    )


def _largest(difference: Tensor) -> float:
    """NaN is larger than any tolerance."""
    return float(difference.abs().max()) if difference.numel() else 0.0
