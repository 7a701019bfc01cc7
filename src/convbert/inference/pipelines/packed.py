"""What all pipelines share: many texts are sorted by length and run end to end, without padding."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.pipelines.base import ChunkPipeline, Pipeline

from convbert.inference.batching import plan_batches
from convbert.tokenization.unknown import UnknownTokens
from convbert.util.errors import InputError

MAX_TOKENS = 4096
# Texts are sorted by length within so many batches: enough for even batches, few enough for constant memory.
SORTED_BATCHES = 8

TOKENIZER_ARGUMENTS = (
    *("truncation", "max_length", "add_special_tokens"),
    *("padding", "padding_side", "pad_to_multiple_of"),  # without effect: nothing is padded here
)
_TRUNCATIONS = (True, False, "longest_first", "only_first", "only_second", "do_not_truncate")
_OF_CREATION = {*inspect.signature(Pipeline.__init__).parameters, "batch_size", "num_workers"} - {
    "self",
    "kwargs",
}

Part = dict[str, Any]  # what the tokenizer made of a text, or of one window of a long text
Rows = dict[str, Tensor]  # results of a batch, the rows of its texts one after the other


BROKEN = "the model's answer is NaN or infinite: its weights or its configuration are damaged"


@dataclass(frozen=True)
class _Tolerated:
    """A text whose error takes the place of its result."""

    text: Any


@dataclass(frozen=True)
class _Given:
    """A text that was read: its parts, or what is wrong with it, which is raised unless that is tolerated."""

    parts: list[Part] | InputError
    is_tolerated: bool


class PackedTexts(Pipeline):
    """A transformers pipeline that packs texts by a budget of tokens, with results in the order of the input.

    A string gives one result, a list gives a list, and an iterator (a generator, an open file) gives an
    iterator that reads ahead a bounded number of texts. A result does not depend on the texts beside it.
    `num_workers` has no effect. Texts of which the tokenizer knows little are said once, in a `DataWarning`.

    A subclass has `preprocess` (a text to a part), `_forward` (a batch to rows) and `postprocess` (the parts
    of a text, each with its rows, to a result).

    Args:
        max_tokens: tokens in one batch; a longer text makes a batch of its own.
        batch_size: texts (or windows) in one batch, at most. By default the tokens alone decide.

    Attributes:
        cut: texts so far that were too long and that `truncation` cut (with a fast tokenizer, which knows it).
        unknown: how many of the tokens so far are `[UNK]`.

    Raises:
        InputError: an argument that the pipeline does not have, on creation or in a call.
    """

    def __init__(
        self, *, max_tokens: int = MAX_TOKENS, framework: Literal["pt"] | None = None, **kwargs: Any
    ) -> None:
        check_whole("max_tokens", max_tokens)
        if framework not in (None, "pt"):
            raise InputError(f"framework must be 'pt' (PyTorch), got {framework!r}")
        self._check_names(kwargs.keys() - _OF_CREATION)
        check_whole("batch_size", kwargs.get("batch_size"))
        self.max_tokens, self.cut, self.unknown = max_tokens, 0, UnknownTokens(kwargs["tokenizer"])
        super().__init__(**kwargs)

    def __call__(self, inputs: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> Any:
        if args:
            raise InputError(
                f"give one argument with all texts, a list; got another one, {excerpt(repr(args[0]))}"
            )
        self._check_names(kwargs.keys() - {"num_workers"})
        check_whole("batch_size", batch_size)
        inputs = listed(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        if hasattr(inputs, "__getitem__") and not isinstance(inputs, Iterable | str | dict):
            data = inputs  # a data set by number, whose end its length says
            inputs = (data[number] for number in range(len(data)))
        elif isinstance(inputs, Iterator):
            # Of all iterators, transformers' pipelines know generators alone.
            inputs = (text for text in inputs)
        most_texts = batch_size or self._batch_size or sys.maxsize
        return super().__call__(inputs, batch_size=most_texts, **kwargs)

    def stream(
        self, texts: Iterable[Any], *, on_error: Literal["raise", "return"] = "raise", **kwargs: Any
    ) -> Iterator[Any]:
        """Results one by one, in order, in memory that does not grow with the number of texts.

        Args:
            on_error: "return" gives an `InputError` in place of a result, and goes on.

        Raises:
            InputError: a text cannot be used. The message has its number; the results before it have been
                given.
        """
        if on_error not in ("raise", "return"):
            raise InputError(f"on_error must be 'raise' or 'return', got {on_error!r}")
        wrap = _Tolerated if on_error == "return" else (lambda text: text)
        return iter(self((wrap(text) for text in texts), **kwargs))

    # -- arguments

    def _check_names(self, given: Iterable[str]) -> None:
        """Refuse what `_sanitize_parameters` does not name; where it takes more, these are the tokenizer's."""
        parameters = inspect.signature(self._sanitize_parameters).parameters.values()
        known = [parameter.name for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]
        if len(known) < len(parameters):
            known += TOKENIZER_ARGUMENTS
        check_names(type(self).__name__, given, known)

    def _for_tokenizer(self, nested: Mapping[str, Any] | None, direct: Mapping[str, Any]) -> dict[str, Any]:
        """What the caller said for the tokenizer, as keywords or in a dictionary of its own."""
        wanted = {**(nested or {}), **{name: value for name, value in direct.items() if value is not None}}
        check_names("the tokenizer", wanted, TOKENIZER_ARGUMENTS)
        shortest = self.tokenizer.num_special_tokens_to_add() + 1
        check_whole("max_length", wanted.get("max_length"), shortest, self.max_length)
        if wanted.get("truncation", True) not in _TRUNCATIONS:
            raise InputError(f"truncation must be True or False, got {wanted['truncation']!r}")
        # Padding never changes a result, and there is no room for it in a packed batch.
        return {name: value for name, value in wanted.items() if "pad" not in name}

    # -- a text to a part

    @property
    def max_length(self) -> int:
        """Tokens that fit into the model, special ones included."""
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    def encode(self, text: str, text_pair: str | None = None, **tokenizer_kwargs: Any) -> Part:
        """Tokens of a text or of a pair: `input_ids` and `token_type_ids`, both (1, T), among others.

        Raises:
            InputError: not a string, or too long and not to be truncated.
        """
        check_is_text(text)
        if text_pair is not None:
            check_is_text(text_pair)
        if tokenizer_kwargs.get("truncation"):
            tokenizer_kwargs.setdefault("max_length", self.max_length)
        encoded = self.tokenizer(text, text_pair, return_tensors="pt", verbose=False, **tokenizer_kwargs)
        self.cut += bool(encoded.encodings and encoded.encodings[0].overflowing)
        part = dict(encoded)
        self.check_length(part["input_ids"].shape[1], text)
        self.unknown.add(part["input_ids"][0].tolist(), text)
        return part

    def check_length(self, length: int, text: str, remedy: str = "cut it with truncation=True") -> None:
        """Refuse a text of more tokens than the model has positions."""
        if length > self.max_length:
            raise InputError(
                f"{excerpt(text)} is {length} tokens long and the model reads {self.max_length}; {remedy}"
            )

    # -- parts to results

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        """Called by transformers' `__call__` in place of its own loop over padded batches."""
        is_windowed = isinstance(self, ChunkPipeline)
        number = 0
        for texts, error in self._read_ahead(inputs, preprocess_params):
            self.unknown.warn_once(stacklevel=4)
            for given, outputs in self._run_texts(texts, batch_size, forward_params):
                number += 1
                if not isinstance(outputs, InputError):
                    yield self.postprocess(outputs if is_windowed else outputs[0], **postprocess_params)
                elif given.is_tolerated:
                    yield outputs
                else:
                    raise outputs if _is_alone(inputs) else InputError(f"text {number}: {outputs}")
            if error is not None:
                raise error

    def run_single(
        self,
        inputs: Any,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Any:
        """Called by transformers' `__call__` for an input that is not a list."""
        params = (preprocess_params, forward_params, postprocess_params)
        return next(iter(self.get_iterator([inputs], 0, 1, *params)))

    def _read_ahead(
        self, inputs: Iterable[Any], preprocess_params: dict[str, Any]
    ) -> Iterator[tuple[list[_Given], InputError | None]]:
        """The next texts, and what was wrong with the text after them.

        The first portion is small, so that whoever waits for the first results waits for one batch only.
        """
        portion = self.max_tokens
        texts: list[_Given] = []
        tokens = 0
        for number, item in enumerate(inputs, start=1):
            is_tolerated = isinstance(item, _Tolerated)
            try:
                parts = self._parts(item.text if is_tolerated else item, preprocess_params)
            except InputError as error:
                if not is_tolerated:
                    yield texts, error if _is_alone(inputs) else InputError(f"text {number}: {error}")
                    return
                parts = error
            texts.append(_Given(parts, is_tolerated))
            # A bad text counts for one token, so that endless bad ones are passed on, too.
            tokens += 1 if isinstance(parts, InputError) else sum(map(count_tokens, parts))
            if tokens >= portion:
                yield texts, None
                texts, tokens = [], 0
                portion = min(2 * portion, SORTED_BATCHES * self.max_tokens)
        yield texts, None

    def _parts(self, item: Any, preprocess_params: dict[str, Any]) -> list[Part] | InputError:
        made = self.preprocess(item, **preprocess_params)
        return list(made) if isinstance(self, ChunkPipeline) else [made]

    def _run_texts(
        self, texts: list[_Given], most_texts: int, forward_params: dict[str, Any]
    ) -> Iterator[tuple[_Given, list[Part] | InputError]]:
        """Each text with its parts, each with its rows of the results added; or with what is wrong with it."""
        parts = [part for text in texts if not isinstance(text.parts, InputError) for part in text.parts]
        outputs: dict[int, Part] = {}
        for batch in plan_batches([count_tokens(part) for part in parts], self.max_tokens, most_texts):
            rows, counts = self.forward(pack([parts[index] for index in batch]), **forward_params)
            broken = not all(map(_is_finite, rows.values()))
            for index, own_rows in zip(batch, split_rows(rows, counts), strict=True):
                outputs[index] = {**parts[index], **own_rows}
                if broken and not all(map(_is_finite, own_rows.values())):
                    outputs[index]["is_broken"] = True
        in_order = (outputs[index] for index in range(len(parts)))
        for text in texts:
            if isinstance(text.parts, InputError):
                yield text, text.parts
                continue
            own = [next(in_order) for _ in text.parts]
            yield text, InputError(BROKEN) if any("is_broken" in part for part in own) else own

    def forward(self, model_inputs: Any, **forward_params: Any) -> Any:
        """Run without gradients and without dropout, and leave the model in the mode it was in."""
        was_training = self.model.training
        if was_training:
            self.model.eval()
        try:
            return super().forward(model_inputs, **forward_params)
        finally:
            if was_training:
                self.model.train()


def _is_alone(inputs: Any) -> bool:
    return isinstance(inputs, list) and len(inputs) == 1


def _is_finite(rows: Tensor) -> bool:
    return not rows.is_floating_point() or bool(rows.isfinite().all())


def listed(texts: Any) -> Any:
    """A tuple, an array, a column of a table or of a data set as a list; one text, or a dictionary, as it is."""
    if isinstance(texts, str | bytes | Mapping) or not (
        isinstance(texts, Sized) and isinstance(texts, Iterable)
    ):
        return texts
    return texts if getattr(texts, "ndim", 1) == 0 else list(texts)


def check_names(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse an argument that is not among those that `what` has."""
    for name in sorted(set(given) - set(known)):
        near = get_close_matches(name, known, 1)
        hint = f"{near[0]!r} may be meant" if near else f"there are {', '.join(sorted(known))}"
        raise InputError(f"{what} has no argument {name!r}; {hint}")


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Refuse what is given, and is no whole number from `least` to `most`."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if value is not None and not (is_whole and least <= value <= (most or value)):
        room = f"at least {least}" if most is None else f"{least} to {most}"
        raise InputError(f"{name} must be {room}, a whole number; got {value!r}")


def check_is_text(text: Any) -> None:
    """Refuse what is not a string."""
    if not isinstance(text, str):
        raise InputError(f"a text must be a string, got {type(text).__name__}: {excerpt(repr(text))}")


def excerpt(text: str, width: int = 60) -> str:
    """The quoted beginning of a text, for messages."""
    return repr(text if len(text) <= width else f"{text[:width]}...")


def count_tokens(part: Part) -> int:
    """Tokens of a text or window."""
    return part["input_ids"].shape[1]


def pack(parts: Sequence[Part]) -> dict[str, Any]:
    """These texts as one row of N tokens and its bounds: arguments of `ConvBertModel.forward`."""
    lengths = [count_tokens(part) for part in parts]
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return {
        "input_ids": torch.cat([part["input_ids"] for part in parts], dim=1),
        "token_type_ids": torch.cat([part["token_type_ids"] for part in parts], dim=1),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        # What the configuration of a given model says is for other callers.
        "return_dict": True,
        "output_attentions": False,
        "output_hidden_states": False,
    }


def lengths_of(packed: dict[str, Any]) -> Tensor:
    """(B,) int64 tokens of each text of a packed batch."""
    return packed["cu_seq_lens_q"].diff().long()


def split_rows(rows: Rows, counts: Tensor) -> list[Rows]:
    """Each text's own rows; `counts` (B,) says how many it has."""
    columns = {name: tensor.split(counts.tolist()) for name, tensor in rows.items()}
    return [{name: column[index] for name, column in columns.items()} for index in range(len(counts))]
