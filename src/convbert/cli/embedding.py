"""Lines to vectors, for `convbert predict --embeddings`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import convbert
from convbert.cli.lines import run_each
from convbert.errors import InputError
from convbert.finetuning.prediction import answer_each, id_in, read_cells
from convbert.pipelines.feature_extraction import POOLINGS


class Embedder:
    """Reads a line as `Predictor` does, text or a JSON object with `text`, and gives its vector.

    Args:
        pooling: see `FeatureExtraction`.
    """

    def __init__(self, model: str | None, pooling: str, precision: str, device: str | None) -> None:
        if pooling not in POOLINGS:
            raise InputError(f"--embeddings must be one of {', '.join(POOLINGS)}; got {pooling}")
        self.pipe = convbert.pipeline(
            "feature-extraction",
            model,
            device=device,
            precision=precision,
            pooling=pooling,
            truncation=True,
            return_tensors=True,
        )

    @property
    def cut(self) -> int:
        """Lines so far that were longer than the model reads, and were cut."""
        return self.pipe.cut

    def answer(self, lines: Sequence[str]) -> Iterator[dict[str, Any] | InputError]:
        """`{"embedding": [C numbers]}` for each line, and its `id` where it has one; or why it has none."""
        read = [_text_and_id(line) for line in lines]
        yield from answer_each(read, self._embed)

    def _embed(self, texts: list[str]) -> Iterator[dict[str, Any] | InputError]:
        for vector in run_each(self.pipe, texts):
            yield vector if isinstance(vector, InputError) else {"embedding": _numbers(vector)}


def _text_and_id(line: str) -> tuple[str, dict[str, Any]] | InputError:
    try:
        cells = read_cells(line)
    except InputError as error:
        return error
    text = cells.get("text")
    if not isinstance(text, str) or not text.strip():
        return InputError(f"there is no text in it; a JSON object with one is wanted, got {line!r:.60}")
    return text, id_in(cells, "id")


def _numbers(vector: Any) -> list[float]:
    """The shortest decimals that are read back as the same fp32 numbers."""
    return [float(str(number)) for number in vector.float().cpu().numpy()]
