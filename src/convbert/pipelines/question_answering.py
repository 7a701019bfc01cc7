"""The span of a text that answers a question, by the rules of SQuAD's evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from transformers.pipelines.base import ChunkPipeline

from convbert.errors import InputError
from convbert.pipelines.packed import PackedTexts, Part, Rows, check_is_text, excerpt, lengths_of


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


class QuestionAnswering(PackedTexts, ChunkPipeline):
    """Extractive question answering, with the arguments and results of transformers 4.

    A context longer than the model reads is read in overlapping windows. Spans of all windows compete by the sum of
    their start and end logits; of the windows that hold a token, the one with most context around it decides where an
    answer starts (the official evaluation's rule). The score is the probability of the start times that of the end, each
    a softmax over all tokens of the context and "no answer".

    Keyword arguments, on creation or per call:
        top_k: answers to give; 1 by default.
        doc_stride: tokens that neighbouring windows share; 128 by default, or half of `max_seq_len`.
        max_seq_len: tokens in a window, with the question and special tokens; 384 by default.
        max_question_len: tokens of the question that are read; 64 by default.
        max_answer_len: tokens of an answer, at most; 15 by default.
        handle_impossible_answer: let "no answer" compete: an empty answer at 0, scored by the window least in favour.
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
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        sizes = {
            "max_seq_len": max_seq_len,
            "max_question_len": max_question_len,
            "top_k": top_k,
            "max_answer_len": max_answer_len,
        }
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if max_seq_len is not None and max_seq_len > self.max_length:
            raise InputError(f"max_seq_len ({max_seq_len}) exceeds what the model reads, {self.max_length} tokens")
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
        *,
        question: str | list[str] | None = None,
        context: str | list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer questions.

        Args:
            inputs: {"question": ..., "context": ...}, a list or an iterator of such.
            question, context: in place of `inputs`; several of both, or several questions about one context.

        Returns:
            Per question {"score", "start", "end", "answer"}, with text[start:end] == answer; a list of these with `top_k`
            above 1.
        """
        if inputs is None:
            inputs = _pair_up(question, context)
        elif question is not None or context is not None:
            raise InputError("give either question= and context=, or one argument that holds both")
        return super().__call__(inputs, **kwargs)

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
        room = max_seq_len - len(asked) - self.tokenizer.num_special_tokens_to_add(pair=True)
        if not 0 <= overlap < room:
            raise InputError(
                f"doc_stride ({overlap}) must be at least 0 and below the {max(room, 0)} tokens that max_seq_len "
                f"({max_seq_len}) leaves for the context beside a question of {len(asked)}"
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
        context = model_outputs[0]["context"]
        windows = [Window.read(part) for part in model_outputs]
        scale = _log_scale(windows, len(context.ids))
        answers: dict[tuple[int, int], dict[str, Any]] = {}
        for logit, first, last in best_spans(windows, max_answer_len):
            start, end = _characters(context, first, last, align_to_words)
            answer = {"score": np.exp(logit - scale), "start": start, "end": end, "answer": context.text[start:end]}
            answers.setdefault((start, end), answer)
            if len(answers) == top_k:
                break
        results = list(answers.values())
        if handle_impossible_answer:
            least = min(window.start[0] + window.end[0] for window in windows)
            results.append({"score": np.exp(least - scale), "start": 0, "end": 0, "answer": ""})
        results.sort(key=lambda result: -result["score"])
        results = [{**result, "score": float(result["score"])} for result in results[:top_k]]
        return results[0] if top_k == 1 else results
