"""Lines to vectors, for `convbert predict --embeddings`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import convbert
from convbert.finetuning.prediction import answer_each, id_in
from convbert.finetuning.readers import Row
from convbert.inference.pipelines.feature_extraction import POOLINGS
from convbert.util.errors import InputError


class Embedder:
    """Reads a line as `Predictor` does: the text in a column of a JSON object or a row; and gives its vector.

    Args:
        pooling: see `FeatureExtraction`.
        text_column, id_column: where the text stands, and what is passed on.
    """

    def __init__(
        self,
        model: str | None,
        pooling: str,
        precision: str,
        device: str | None,
        text_column: str = "text",
        id_column: str = "id",
    ) -> None:
        if pooling not in POOLINGS:
            raise InputError(f"--embeddings must be one of {', '.join(POOLINGS)}; got {pooling}")
        self.text_column, self.id_column = text_column, id_column
        self.pipe = convbert.pipeline(
            "feature-extraction",
            model,
            device=device,
            precision=precision,
            pooling=pooling,
            truncation=True,
            return_tensors=True,
        )

    def reading(self) -> dict[str, Any]:
        """What a reader of files has to know; see `open_input`."""
        return {"wanted": [self.text_column]}

    def check_columns(self, row: Row) -> None:
        """Refuse a table without the column of texts, by its first row.

        Raises:
            InputError: naming the columns that there are.
        """
        if self.text_column not in row.cells:
            raise InputError(
                f"{row.place.rpartition(':')[0]}: there is no column {self.text_column!r}; there are "
                f"{', '.join(row.cells)} (name the one that is meant by --text-column)"
            )

    def notes(self) -> list[str]:
        """What a reader should know of the texts."""
        cut = "texts that are longer than the model was trained for, and were cut"
        return [f"{cut}: {self.pipe.cut:,}"] if self.pipe.cut else []

    def answer(self, lines: Sequence[Row | InputError]) -> Iterator[dict[str, Any] | InputError]:
        """`{"embedding": [C numbers]}` for each line, and its `id` where it has one; or why it has none."""
        read = [self._text_and_id(line) for line in lines]
        yield from answer_each(read, self._embed)

    def _embed(self, texts: list[str]) -> Iterator[dict[str, Any] | InputError]:
        for vector in self.pipe.stream(texts, on_error="return"):
            yield vector if isinstance(vector, InputError) else {"embedding": _numbers(vector)}

    def _text_and_id(self, line: Row | InputError) -> tuple[str, dict[str, Any]] | InputError:
        if isinstance(line, InputError):
            return line
        # A line of plain text has no columns: it is the text.
        text = line.cells.get(self.text_column, line.cells.get("text"))
        if not isinstance(text, str) or not text.strip():
            return InputError(f"there is no text in {self.text_column}, got {text!r:.60}")
        return text, id_in(line.cells, self.id_column)


def _numbers(vector: Any) -> list[float]:
    """The shortest decimals that are read back as the same fp32 numbers."""
    return [float(str(number)) for number in vector.float().cpu().numpy()]
