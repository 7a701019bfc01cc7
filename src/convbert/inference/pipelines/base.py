"""What all pipelines share: arguments that are checked, and texts that the engine runs without padding."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from difflib import get_close_matches
from functools import partial
from numbers import Integral
from typing import Any, Literal, NamedTuple

from transformers.pipelines.base import Pipeline

from convbert.inference.engine import MAX_TOKENS, AnswerTask, Engine, Rows, Tokens
from convbert.inference.windows import Long, check_long, share_windows, text_numbers
from convbert.tokenization.unknown import UnknownTokens
from convbert.util.errors import InputError

TOKENIZER_ARGUMENTS = (
    *("truncation", "max_length", "add_special_tokens"),
    *("padding", "padding_side", "pad_to_multiple_of"),  # without effect: nothing is padded here
)
_TRUNCATIONS = (True, False, "longest_first", "only_first", "only_second", "do_not_truncate")
_OF_CREATION = {*inspect.signature(Pipeline.__init__).parameters, "batch_size", "num_workers"} - {
    "self",
    "kwargs",
}


class Whole(NamedTuple):
    """What a window is on: the ids of the whole text, and which of them the window shows."""

    ids: list[int]
    places: list[int]


class PackedPipeline(Pipeline):
    """A transformers pipeline that packs texts by a budget of tokens, with results in the order of the input.

    A string gives one result, a list gives a list, and an iterator (a generator, an open file) gives an iterator that
    reads ahead a bounded number of texts. A result does not depend on the texts beside it. `num_workers` has no
    effect. Texts of which the tokenizer knows little are said once, in a `DataWarning`. What is done with a text that
    is longer than the model reads, `long` says, on creation or in a call: "windows" (the default) reads all of it,
    "cut" its beginning, "refuse" makes an error of it.

    A subclass has `preprocess` (an input to its texts as tokens), `_forward` (a packed batch to rows) and
    `postprocess` (the texts of an input, each with its rows, to a result).

    Args:
        max_tokens: tokens in one batch; a longer text makes a batch of its own.
        batch_size: texts (or windows) in one batch, at most. By default the tokens alone decide.

    Attributes:
        windowed, cut: texts so far that were too long, and were read in windows; those of which some was not read.
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
        self.max_tokens, self.unknown = max_tokens, UnknownTokens(kwargs["tokenizer"])
        self.windowed = self.cut = 0
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
        if isinstance(inputs, Iterator):
            return self.stream(inputs, batch_size=batch_size, **kwargs)
        return super().__call__(inputs, batch_size=batch_size or self._batch_size or sys.maxsize, **kwargs)

    def stream(
        self,
        texts: Iterable[Any],
        *,
        on_error: Literal["raise", "return"] = "raise",
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Results one by one, in order, in memory that does not grow with the number of texts.

        Args:
            on_error: see `Engine.answer`.
        """
        if on_error not in ("raise", "return"):
            raise InputError(f"on_error must be 'raise' or 'return', got {on_error!r}")
        kwargs.pop("num_workers", None)
        self._check_names(kwargs)
        check_whole("batch_size", batch_size)
        defaults = (self._preprocess_params, self._forward_params, self._postprocess_params)
        given = self._sanitize_parameters(**kwargs)
        params = [{**default, **each} for default, each in zip(defaults, given, strict=True)]
        return self._answer(texts, batch_size or self._batch_size or sys.maxsize, on_error, *params)

    # -- arguments

    def _check_names(self, given: Iterable[str]) -> None:
        """Refuse what `_sanitize_parameters` does not name; where it takes more, these are the tokenizer's."""
        parameters = inspect.signature(self._sanitize_parameters).parameters.values()
        known = [parameter.name for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]
        if len(known) < len(parameters):
            known += TOKENIZER_ARGUMENTS
        check_names(type(self).__name__, given, known)

    def _for_encoding(
        self, long: str | None, nested: Mapping[str, Any] | None, direct: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the caller said of long texts, and for the tokenizer, as keywords or in a dictionary of its own."""
        wanted = {**(nested or {}), **{name: value for name, value in direct.items() if value is not None}}
        check_names("the tokenizer", wanted, TOKENIZER_ARGUMENTS)
        shortest = self.tokenizer.num_special_tokens_to_add() + 1
        check_whole("max_length", wanted.get("max_length"), shortest, self.max_length)
        if wanted.get("truncation", True) not in _TRUNCATIONS:
            raise InputError(f"truncation must be True or False, got {wanted['truncation']!r}")
        # Padding never changes a result, and there is no room for it in a packed batch.
        kept = {name: value for name, value in wanted.items() if "pad" not in name}
        truncation = kept.pop("truncation", None)
        return {**kept, **self._for_long(long, truncation)}

    def _for_long(self, long: str | None, truncation: bool | str | None) -> dict[str, Any]:
        """`long`, for which transformers' `truncation` may stand; that it is off says nothing."""
        if truncation in (None, False, "do_not_truncate"):
            return {} if long is None else {"long": check_long(long)}
        if long not in (None, "cut"):
            raise InputError(f"truncation={truncation!r} cuts long texts, and long={long!r} does not")
        return {"long": "cut", "truncation": truncation}

    # -- texts to results

    @property
    def max_length(self) -> int:
        """Tokens that fit into the model, special ones included."""
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    def encode(
        self,
        text: str,
        text_pair: str | None = None,
        *,
        long: Long = "windows",
        max_length: int | None = None,
        truncation: bool | str = True,
        **tokenizer_kwargs: Any,
    ) -> list[Tokens]:
        """Tokens of a text or of a pair, or of each window on it; an `InputError` for what is no string, or refused.

        Args:
            long: what is done with a text of more than `max_length` tokens, by default those that the model reads.
            truncation: how "cut" cuts, for the tokenizer.
        """
        check_is_text(text)
        if text_pair is not None:
            check_is_text(text_pair)
        room = max_length or self.max_length
        tokenizer_kwargs |= {"verbose": False, "return_special_tokens_mask": True}
        encoded = self.tokenizer(text, text_pair, **tokenizer_kwargs)
        windows = [list(range(len(encoded["input_ids"])))]
        if (length := len(windows[0])) > room:
            if long == "windows":
                windows, is_cut = self.plan(encoded, room)
            else:
                tokenizer_kwargs |= {"truncation": truncation, "max_length": room}
                encoded = self.tokenizer(text, text_pair, **tokenizer_kwargs)
                windows, is_cut = [list(range(len(encoded["input_ids"])))], True
            self.count_long(long, length, room, text, is_cut=is_cut)
        ids, types = encoded["input_ids"], encoded["token_type_ids"]
        self.unknown.add(ids, text)
        return [
            Tokens([ids[each] for each in places], [types[each] for each in places], Whole(ids, places))
            for places in windows
        ]

    def plan(self, encoded: Any, room: int) -> tuple[list[list[int]], bool]:
        """The tokens of each window of `room` tokens on a text, by their places; and whether some are in none."""
        return share_windows(text_numbers(encoded), room)

    def count_long(self, long: Long, length: int, room: int, text: str, *, is_cut: bool = False) -> None:
        """Count a text of more than `room` tokens; an `InputError` where such texts are refused."""
        if long == "refuse":
            raise InputError(
                f"{excerpt(text)} is {length} tokens long and the model reads {room}: long=windows reads it in "
                "windows, long=cut its beginning"
            )
        self.windowed += long == "windows"
        self.cut += is_cut or long == "cut"

    def get_iterator(
        self, inputs: Any, num_workers: int, batch_size: int, *params: dict[str, Any]
    ) -> Iterator[Any]:
        """Called by transformers' `__call__` in place of its own loop over padded batches."""
        if len(inputs) > 1:
            yield from self._answer(inputs, batch_size, "raise", *params)
            return
        for answer in self._answer(inputs, batch_size, "return", *params):
            if isinstance(answer, InputError):  # of one text, without a number
                raise answer
            yield answer

    def run_single(self, inputs: Any, *params: dict[str, Any]) -> Any:
        """Called by transformers' `__call__` for an input that is not a list."""
        return next(self.get_iterator([inputs], 0, 1, *params))

    def _answer(
        self,
        inputs: Iterable[Any],
        batch_size: int,
        on_error: Literal["raise", "return"],
        *params: dict[str, Any],
    ) -> Iterator[Any]:
        before, within, after = params

        def decode(_: Any, texts: list[Tokens], rows: list[Rows]) -> Any:
            return self.postprocess(list(zip(texts, rows, strict=True)), **after)

        task = AnswerTask(partial(self.preprocess, **before), partial(self._forward, **within), decode)
        engine = Engine(self.model, task, self.max_tokens, batch_size)
        for answer in engine.answer(inputs, on_error=on_error):
            self.unknown.warn_once(stacklevel=4)
            yield answer


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
