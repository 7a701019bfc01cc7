"""What is traced: a model with plain inputs and outputs, of any number of texts of any length."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from convbert.inference.runtimes import INPUTS

_OUTPUTS = {
    "ConvBertModel": ("last_hidden_state",),
    "ConvBertForQuestionAnswering": ("start_logits", "end_logits"),
}


@dataclass(frozen=True)
class Traceable:
    """A model as the exporters take it.

    Attributes:
        model: in evaluation mode, on the CPU, in fp32.
        outputs: names of its outputs.
        axes: names of the axes of its inputs; all are free.
    """

    model: Any
    outputs: tuple[str, ...]
    axes: tuple[str, ...]

    @property
    def shapes(self) -> dict[str, dict[int, Any]]:
        """For each input, the axes that are free."""
        longest = self.model.config.max_position_embeddings
        free = {axis: Dim(axis, max=longest) if axis == "length" else Dim(axis) for axis in self.axes}
        return {name: dict(enumerate(free.values())) for name in INPUTS}

    def sample(self, lengths: tuple[int, ...] = (9, 6), seed: int = 0) -> dict[str, Tensor]:
        """A padded batch of random texts of these lengths."""
        config = self.model.config
        draw = torch.Generator().manual_seed(seed)
        shape = (len(lengths), max(lengths))
        ids = torch.randint(0, config.vocab_size, shape, generator=draw)
        types = torch.randint(0, config.type_vocab_size, shape, generator=draw)
        mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
        padding = config.pad_token_id or 0
        batch = {
            "input_ids": torch.where(mask.bool(), ids, padding),
            "attention_mask": mask,
            "token_type_ids": types * mask,
        }
        if len(self.axes) == 3:  # each text as one of two choices
            batch = {name: torch.stack([x, x.roll(1, 0)], 1) for name, x in batch.items()}
        return batch

    def answer(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our own answer, by name of output."""
        with torch.no_grad():
            found = self.model(**batch, return_dict=True)
        return {name: found[name] for name in self.outputs}


def traceable(model: Any) -> Traceable:
    """The model of any head, ready to be traced."""
    name = type(model).__name__
    axes = ("batch", "choices", "length") if name == "ConvBertForMultipleChoice" else ("batch", "length")
    return Traceable(model, _OUTPUTS.get(name, ("logits",)), axes)


class Positional(nn.Module):
    """The model behind a signature of tensors alone: inputs in order, outputs as a tuple."""

    def __init__(self, traceable: Traceable) -> None:
        super().__init__()
        self.model = traceable.model
        self._outputs = traceable.outputs

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, ...]:
        """The outputs, in the order of their names."""
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            return_dict=True,
        )
        return tuple(found[name] for name in self._outputs)


def trace(source: Traceable) -> torch.export.ExportedProgram:
    """The program of PyTorch, with free axes and without an op of ours."""
    sample = source.sample()
    with quiet():
        return torch.export.export(
            Positional(source).eval(),
            args=tuple(sample[name] for name in INPUTS),
            dynamic_shapes=tuple(source.shapes[name] for name in INPUTS),
            strict=False,
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters tell on the way; their errors come through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
