"""What is timed: sizes, shapes and inputs, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from convbert import ConvBertConfig, ConvBertTokenizerFast, embedded

SENTENCES = Path(__file__).parent.parent / "tests/data/sentences.txt"

SIZES = {
    "small": ConvBertConfig.small,
    "medium-small": ConvBertConfig.medium_small,
    "base": ConvBertConfig.base,
}


@dataclass(frozen=True)
class Case:
    """One row of the table: a size, and a rectangle (batch, length) or the first `sentences` real sentences."""

    size: str
    rectangle: tuple[int, int] | None = None
    sentences: int | None = None

    @property
    def name(self) -> str:
        if self.rectangle is None:
            return f"{self.size}, {self.sentences} real sentences"
        return f"{self.size} {self.rectangle[0]}×{self.rectangle[1]}"

    def inputs(self) -> dict[str, torch.Tensor]:
        """`input_ids` of the rectangle; of sentences also their `attention_mask`."""
        if self.rectangle is not None:
            return {"input_ids": torch.randint(5, 30000, self.rectangle)}
        lines = SENTENCES.read_text(encoding="utf-8").splitlines()[: self.sentences]
        tokenizer = ConvBertTokenizerFast.from_pretrained(embedded.folder())
        batch = tokenizer(lines, padding=True, return_tensors="pt")
        return {name: batch[name] for name in ("input_ids", "attention_mask")}


FORWARD = [
    Case("small", (1, 32)),
    Case("small", (8, 128)),
    Case("small", (2, 512)),
    Case("base", (8, 128)),
    Case("small", sentences=32),
    Case("base", sentences=32),
]
