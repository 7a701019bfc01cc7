"""The span of a text that answers a question, by the rules of SQuAD's evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import torch
from torch import Tensor
from transformers.pipelines.base import ChunkPipeline

from convbert.inference.pipelines.packed import (
    PackedTexts,
    Part,
    Rows,
    check_is_text,
    check_whole,
    excerpt,
    lengths_of,
    listed,
)
from convbert.model.heads.spans import Window, best_spans, log_scale, plan_windows
from convbert.util.errors import InputError


@dataclass(frozen=True)
class Context:
    """A text to find answers in, as tokens.

    Attributes:
        text: as the caller gave it.
        ids: (N,) its tokens, without special ones.
        offsets: per token, the characters [start, end) of the text that it stands for.
        words: per token, the number of its word.
    """

    text: str
    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]
    words: Sequence[int]

    def characters(self, first: int, last: int, whole_words: bool) -> tuple[int, int]:
        """Where in the text tokens first ... last (inclusive) stand."""
        if whole_words:
            while first > 0 and self.words[first - 1] == self.words[first]:
                first -= 1
            while last + 1 < len(self.words) and self.words[last + 1] == self.words[last]:
                last += 1
        return self.offsets[first][0], self.offsets[last][1]


class QuestionAnswering(PackedTexts, ChunkPipeline):
    """Extractive question answering, with the arguments and results of transformers 4.

    A context longer than the model reads is read in overlapping windows, whose spans compete by the sum of
    their two logits (see `spans`). The score is the probability of the start times that of the end, each a
    softmax over the tokens of the context and "no answer".

    Keyword arguments, on creation or per call:
        top_k (in old programs `topk`): answers to give; 1 by default.
        doc_stride: tokens that neighbouring windows share; 128 by default, or half of `max_seq_len`.
        max_seq_len: tokens in a window, with the question and special tokens; 384 by default.
        max_question_len: tokens of the question that are read; 64 by default.
        max_answer_len: tokens of an answer, at most; 15 by default.
        handle_impossible_answer: let "no answer" compete, an empty answer at 0. The window least in favour of
            it gives its score.
        align_to_words: extend answers to whole words; True by default.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def _sanitize_parameters(
        self,
        *,
        doc_stride: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        top_k: int | None = None,
        max_answer_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
        topk: int | None = None,
        padding: Any = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        top_k = topk if top_k is None else top_k
        sizes = {
            "max_seq_len": max_seq_len,
            "max_question_len": max_question_len,
            "top_k": top_k,
            "max_answer_len": max_answer_len,
        }
        for name, value in sizes.items():
            check_whole(name, value)
        check_whole("doc_stride", doc_stride, least=0)
        if max_seq_len is not None and max_seq_len > self.max_length:
            raise InputError(
                f"max_seq_len ({max_seq_len}) exceeds what the model reads, {self.max_length} tokens"
            )
        preprocess = {
            "doc_stride": doc_stride,
            "max_seq_len": max_seq_len,
            "max_question_len": max_question_len,
        }
        postprocess = {
            "top_k": top_k,
            "max_answer_len": max_answer_len,
            "handle_impossible_answer": handle_impossible_answer,
            "align_to_words": align_to_words,
        }
        return _given(preprocess), {}, _given(postprocess)

    def __call__(
        self,
        inputs: Any = None,
        *args: Any,
        question: str | list[str] | None = None,
        context: str | list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer questions.

        Args:
            inputs: {"question": ..., "context": ...}, a list or an iterator of such; `data` or `X` in old programs.
            args: with a question as `inputs`, its context.
            question, context: in place of `inputs`; several of both, or several questions about one context.

        Returns:
            Per question {"score", "start", "end", "answer"}, where context[start:end] == answer; with `top_k`
            above 1 a list of these.
        """
        for name in ("data", "X"):
            given = kwargs.pop(name, None)
            inputs = given if inputs is None else inputs
        if isinstance(inputs, str) and len(args) == 1 and isinstance(args[0], str):
            inputs, question, context, args = None, inputs, args[0], ()
        if inputs is None:
            inputs = _pair_up(question, context)
        elif question is not None or context is not None:
            raise InputError("give either question= and context=, or one argument that holds both")
        return super().__call__(inputs, *args, **kwargs)

    def preprocess(
        self,
        inputs: Any,
        doc_stride: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
    ) -> Iterator[Part]:
        """A question and its context to windows of tokens.

        Raises:
            InputError: one of the two is missing, empty or not text, or the windows would not move on.
        """
        question, text = _check_question(inputs)
        max_seq_len = min(384, self.max_length) if max_seq_len is None else max_seq_len
        overlap = min(max_seq_len // 2, 128) if doc_stride is None else doc_stride
        asked = self._tokens(question)["input_ids"][:max_question_len]
        context = self._read_context(text)
        self.unknown.add([*asked, *context.ids], text)
        room = max_seq_len - len(asked) - self.tokenizer.num_special_tokens_to_add(pair=True)
        if not 0 <= overlap < room:
            raise InputError(
                f"doc_stride ({overlap}) must be at least 0 and below the {max(room, 0)} tokens that "
                f"max_seq_len ({max_seq_len}) leaves for the context beside a question of {len(asked)}"
            )
        for first, last in plan_windows(len(context.ids), room, overlap):
            yield self._window(asked, context, first, last)

    def _tokens(self, text: str, **kwargs: Any) -> Any:
        return self.tokenizer(text, add_special_tokens=False, verbose=False, **kwargs)

    def _read_context(self, text: str) -> Context:
        if not self.tokenizer.is_fast:
            raise InputError("question answering needs offsets, which only ConvBertTokenizerFast has")
        encoded = self._tokens(text, return_offsets_mapping=True)
        if not encoded["input_ids"]:
            raise InputError(f"the context {excerpt(text)} has no word in it")
        return Context(text, encoded["input_ids"], encoded["offset_mapping"], encoded.word_ids())

    def _window(self, asked: list[int], context: Context, first: int, last: int) -> Part:
        shown = list(context.ids[first:last])
        ids = self.tokenizer.build_inputs_with_special_tokens(asked, shown)
        types = self.tokenizer.create_token_type_ids_from_sequences(asked, shown)
        return {
            "input_ids": torch.tensor([ids]),
            "token_type_ids": torch.tensor([types]),
            "context": context,
            "first": first,
            "last": last,
        }

    def _forward(self, packed: dict[str, Any]) -> tuple[Rows, Tensor]:
        outputs = self.model(**packed)
        rows = {"start_logits": outputs.start_logits[0].float(), "end_logits": outputs.end_logits[0].float()}
        return rows, lengths_of(packed)

    def postprocess(
        self,
        model_outputs: list[Part],
        top_k: int = 1,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        """The windows' logits to answers."""
        context: Context = model_outputs[0]["context"]
        windows = [_read_window(part) for part in model_outputs]
        scale = log_scale(windows)
        answers: dict[tuple[int, int], float] = {}  # characters to logit, best first
        for logit, first, last in best_spans(windows, max_answer_len):
            # Two spans of tokens may be the same words; the better one comes first.
            answers.setdefault(context.characters(first, last, align_to_words), logit)
            if len(answers) == top_k:
                break
        if handle_impossible_answer:
            answers[0, 0] = min(window.no_answer for window in windows)
        best = sorted(answers.items(), key=lambda item: -item[1])[:top_k]
        results = [
            {"score": exp(logit - scale), "start": start, "end": end, "answer": context.text[start:end]}
            for (start, end), logit in best
        ]
        return results[0] if top_k == 1 else results


def _given(params: dict[str, Any]) -> dict[str, Any]:
    """What the caller named; the rest keeps its default, or what was said on creation."""
    return {name: value for name, value in params.items() if value is not None}


def _pair_up(question: Any, context: Any) -> Any:
    """Questions and their contexts as the pipeline reads them; one of either serves all of the other."""
    question, context = listed(question), listed(context)
    several = [each for each in (question, context) if isinstance(each, list)]
    if not several:
        return {"question": question, "context": context}
    questions, contexts = (
        each if isinstance(each, list) else [each] * len(several[0]) for each in (question, context)
    )
    if len(contexts) != len(questions):
        raise InputError(f"got {len(questions)} questions and {len(contexts)} contexts")
    return [{"question": asked, "context": text} for asked, text in zip(questions, contexts, strict=True)]


def _check_question(inputs: Any) -> tuple[str, str]:
    """The question and the context, both of them real."""
    if not isinstance(inputs, dict):
        raise InputError(f"give {{'question': ..., 'context': ...}}, got {type(inputs).__name__}")
    for name in ("question", "context"):
        if inputs.get(name) is None:
            raise InputError(f"there is no {name} in the input")
        check_is_text(inputs[name])
        if not inputs[name].strip():
            raise InputError(f"the {name} is empty")
    return inputs["question"], inputs["context"]


def _read_window(part: Part) -> Window:
    """The logits of the context's tokens, and those of [CLS], which stand for "no answer"."""
    start, end = (part[name].double().numpy() for name in ("start_logits", "end_logits"))
    before = len(start) - 1 - (part["last"] - part["first"])
    return Window(
        part["first"], part["last"], start[before:-1], end[before:-1], float(start[0]), float(end[0])
    )
