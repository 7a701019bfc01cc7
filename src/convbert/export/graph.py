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

from convbert.inference.runtimes import INPUTS, MAPS
from convbert.util.errors import InputError

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
            found = Positional(self)(*(batch[name] for name in INPUTS))
        return dict(zip(self.outputs, found, strict=True))


def traceable(model: Any, *, with_maps: bool = False) -> Traceable:
    """The model of any head, ready to be traced.

    Args:
        with_maps: with attention maps (B, layers, H, T, T) and dynamic kernels (B, layers, T, H, K) as outputs.

    Raises:
        InputError: maps of a model for multiple choice, whose choices are a batch of their own.
    """
    name = type(model).__name__
    has_choices = name == "ConvBertForMultipleChoice"
    if has_choices and with_maps:
        raise InputError(f"attention maps are not exported for a {name}")
    axes = ("batch", "choices", "length") if has_choices else ("batch", "length")
    return Traceable(model, _OUTPUTS.get(name, ("logits",)) + (MAPS if with_maps else ()), axes)


class Positional(nn.Module):
    """The model behind a signature of tensors alone: inputs in order, outputs as a tuple."""

    def __init__(self, traceable: Traceable) -> None:
        super().__init__()
        self.model = traceable.model
        self._outputs = traceable.outputs
        self._more = dict.fromkeys(("output_attentions", "output_conv_kernels"), True)
        if MAPS[0] not in self._outputs:
            self._more = {}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, ...]:
        """The outputs, in the order of their names; those of layers in one tensor, (B, layers, ...)."""
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            return_dict=True,
            **self._more,
        )
        outputs = (found[name] for name in self._outputs)
        return tuple(x if isinstance(x, Tensor) else torch.stack(x, 1) for x in outputs)


def trace(source: Traceable, batch: int | None = None) -> torch.export.ExportedProgram:
    """The program of PyTorch, without an op of ours.

    Args:
        batch: texts in a batch, for a program that takes no others; None leaves all axes free.
    """
    sample = source.sample() if batch is None else source.sample((9,) * batch)
    longest = source.model.config.max_position_embeddings
    free = {axis: Dim(axis, max=longest) if axis == "length" else Dim(axis) for axis in source.axes}
    axes = {number: axis for number, axis in enumerate(free.values()) if batch is None or number}
    with quiet():
        return torch.export.export(
            Positional(source).eval(),
            args=tuple(sample[name] for name in INPUTS),
            dynamic_shapes=(axes,) * len(INPUTS),
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
