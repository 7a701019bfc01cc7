"""The stored numbers of the original and our models with its weights; `data/golden/README.md` says what there is."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convbert.model.heads.masked_lm import ConvBertForMaskedLM
from convbert.model.heads.replaced_token import ConvBertForPreTraining

GOLDEN = Path(__file__).parent / "data" / "golden"
CLASSES = {"discriminator": ConvBertForPreTraining, "generator": ConvBertForMaskedLM}
OUTPUT_TOLERANCE = 1e-5
WIDE_TOLERANCE = 2e-5  # vocabulary logits and gradients, sums over many terms


def load(folder: str, part: str, **settings: object):
    """One of the two models, in evaluation mode."""
    return CLASSES[part].from_pretrained(GOLDEN / folder / part, **settings).eval()


@cache
def stored(folder: str, file: str) -> dict[str, Tensor]:
    arrays = np.load(GOLDEN / folder / file, allow_pickle=False)
    return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def encoder_inputs(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"input_ids": "input_ids", "attention_mask": "input_mask", "token_type_ids": "segment_ids"}
    return {ours: golden[theirs].long() for ours, theirs in names.items()}


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = OUTPUT_TOLERANCE) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)
