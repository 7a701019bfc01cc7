"""From records to answers: texts as tokens, in packed batches within a budget of tokens, decoded in order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from convbert.util.errors import InputError

MAX_TOKENS = 4096
SORTED_BATCHES = 8
"""Texts are sorted by length within so many batches: enough for even batches, few enough for constant memory."""

Rows = dict[str, Tensor]
"""Outputs of a batch, the rows of its texts one after the other; or those of one text."""
Packed = dict[str, Any]
"""A batch as one row of N tokens and its bounds: arguments of `ConvBertModel.forward`."""


class Tokens(NamedTuple):
    """A text, or a window on a long one, as the model reads it; `detail` is for the decoder."""

    input_ids: list[int]
    token_type_ids: list[int]
    detail: Any = None


@dataclass(frozen=True)
class AnswerTask:
    """What an engine does for a task.

    Args:
        encode: a record to its texts. Raises an `InputError` for a record that cannot be used.
        forward: a packed batch to rows, and how many of them each text has, (B,) int64.
        decode: a record, its texts and each text's own rows, on the CPU, to an answer.
    """

    encode: Callable[[Any], list[Tokens]]
    forward: Callable[[Packed], tuple[Rows, Tensor]]
    decode: Callable[[Any, list[Tokens], list[Rows]], Any]


@dataclass(frozen=True)
class Engine:
    """Answers records in their order. An answer does not depend on the records beside it.

    Args:
        model: run without gradients, in evaluation mode; it keeps the mode it was in.
        max_tokens, max_texts: in a batch, at most; a longer text makes a batch of its own.
    """

    model: nn.Module
    task: AnswerTask
    max_tokens: int = MAX_TOKENS
    max_texts: int = sys.maxsize

    def answer(
        self, records: Iterable[Any], *, on_error: Literal["raise", "return"] = "raise"
    ) -> Iterator[Any]:
        """Read ahead a bounded number of records, and give their answers one by one; an `InputError` is its own
        answer.

        The first portion is small, so that the first answers wait for one batch only.

        Args:
            on_error: "return" gives an `InputError` in place of an answer, and goes on; "raise" stops at the first,
                with the number of its record in the message, when the answers before it have been given.
        """
        answers = self._answers(records, stops=on_error == "raise")
        for number, answer in enumerate(answers, start=1):
            if on_error == "raise" and isinstance(answer, InputError):
                raise InputError(f"text {number}: {answer}") from answer
            yield answer

    def _answers(self, records: Iterable[Any], stops: bool) -> Iterator[Any]:
        portion, tokens = self.max_tokens, 0
        texts: list[Tokens] | InputError
        waiting: list[tuple[Any, list[Tokens] | InputError]] = []
        for record in records:
            try:
                texts = record if isinstance(record, InputError) else self.task.encode(record)
            except InputError as error:
                texts = error
            waiting.append((record, texts))
            # A bad record counts for one token, so that endless bad ones are passed on, too.
            tokens += 1 if isinstance(texts, InputError) else sum(len(text.input_ids) for text in texts)
            if tokens >= portion or (stops and isinstance(texts, InputError)):
                yield from self._answer_portion(waiting)
                waiting, tokens = [], 0
                portion = min(2 * portion, SORTED_BATCHES * self.max_tokens)
        yield from self._answer_portion(waiting)

    def _answer_portion(self, portion: Sequence[tuple[Any, list[Tokens] | InputError]]) -> Iterator[Any]:
        readable = [texts for _, texts in portion if not isinstance(texts, InputError)]
        outputs = iter(self.run([text for texts in readable for text in texts]))
        for record, texts in portion:
            if isinstance(texts, InputError):
                yield texts
                continue
            own = [next(outputs) for _ in texts]
            error = next((rows for rows in own if isinstance(rows, InputError)), None)
            yield error or self.task.decode(record, texts, own)  # type: ignore[arg-type]

    @torch.no_grad()
    def run(self, texts: Sequence[Tokens]) -> list[Rows | InputError]:
        """Each text's own rows, on the CPU; or why it has none: NaN, infinity, or too little memory."""
        found: dict[int, Rows | InputError] = {}
        was_training = self.model.training
        if was_training:
            self.model.eval()
        try:
            for batch in plan_batches(
                [len(text.input_ids) for text in texts], self.max_tokens, self.max_texts
            ):
                self._run_batch(texts, batch, found)
        finally:
            if was_training:
                self.model.train()
        return [found[number] for number in range(len(texts))]

    def _run_batch(
        self, texts: Sequence[Tokens], batch: list[int], found: dict[int, Rows | InputError]
    ) -> None:
        """A batch that fails is run in halves, until the text to blame is alone."""
        try:
            packed = pack([texts[number] for number in batch], next(self.model.parameters()).device)
            rows, counts = self.task.forward(packed)
        except (InputError, MemoryError, RuntimeError) as error:
            if not isinstance(error, InputError):
                if not is_out_of_memory(error):
                    raise
                error = InputError("needs more memory than there is")
            if len(batch) == 1:
                found[batch[0]] = error
                return
        else:
            found.update(zip(batch, _split_rows(rows, counts), strict=True))
            return
        half = len(batch) // 2
        self._run_batch(texts, batch[:half], found)
        self._run_batch(texts, batch[half:], found)


def plan_batches(lengths: Sequence[int], max_tokens: int, max_texts: int = sys.maxsize) -> list[list[int]]:
    """Indices of each batch's texts: sorted by length, within `max_tokens` tokens and `max_texts` texts."""
    batches: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or tokens + lengths[index] > max_tokens or len(batches[-1]) == max_texts:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += lengths[index]
    return batches


def pack(texts: Sequence[Tokens], device: torch.device | None = None) -> Packed:
    """These texts as one row of N tokens and its bounds."""
    lengths = [len(text.input_ids) for text in texts]
    columns = {
        "input_ids": [number for text in texts for number in text.input_ids],
        "token_type_ids": [number for text in texts for number in text.token_type_ids],
        "position_ids": [position for length in lengths for position in range(length)],
    }
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
    return {
        **{name: torch.tensor([numbers], device=device) for name, numbers in columns.items()},
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        # What the configuration of a given model says is for other callers.
        "return_dict": True,
        "output_attentions": False,
        "output_hidden_states": False,
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was too small, as Python and PyTorch, on any device, say it."""
    said = str(error)
    return isinstance(error, MemoryError) or "out of memory" in said or "allocate memory" in said


def _split_rows(rows: Rows, counts: Tensor) -> Iterator[Rows | InputError]:
    columns = {name: tensor.cpu().split(counts.tolist()) for name, tensor in rows.items()}
    for number in range(len(counts)):
        own = {name: column[number] for name, column in columns.items()}
        if all(not tensor.is_floating_point() or bool(tensor.isfinite().all()) for tensor in own.values()):
            yield own
        else:
            yield InputError(
                "the model's answer is NaN or infinite: its weights or its configuration are damaged"
            )
