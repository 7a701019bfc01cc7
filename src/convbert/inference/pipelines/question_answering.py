"""The span of a text that answers a question, by the rules of SQuAD's evaluation."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.pipelines.base import ChunkPipeline

from convbert.inference.engine import Packed, Rows, Tokens
from convbert.inference.outputs import span_logits
from convbert.inference.pipelines.base import PackedPipeline, check_is_text, check_whole, excerpt, listed
from convbert.inference.spans import Passage, find_answers, read_windows
from convbert.inference.windows import Long
from convbert.util.errors import InputError


class QuestionAnswering(PackedPipeline, ChunkPipeline):
    """Extractive question answering, with the arguments and results of transformers 4.

    A context that is too long is read in overlapping windows, whose spans compete by the sum of their two logits (see
    `spans`). The score is the probability of the start times that of the end, each a
    softmax over the tokens of the context and "no answer".

    Keyword Args:
        top_k (in old programs `topk`): answers to give; 1 by default.
        long: "windows", "cut" or "refuse": what is done with a context that does not fit into `max_seq_len`.
        doc_stride: tokens that neighbouring windows share; 128 by default, or half of `max_seq_len`.
        max_seq_len: tokens in a window, with the question and special tokens; 384 by default.
        max_question_len: tokens of the question that are read, 64 by default; what is cut, `cut` counts.
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
        long: Long | None = None,
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
        preprocess = {
            "doc_stride": doc_stride,
            "max_seq_len": max_seq_len,
            "max_question_len": max_question_len,
        }
        postprocess = {
            "top_k": topk if top_k is None else top_k,
            "max_answer_len": max_answer_len,
            "handle_impossible_answer": handle_impossible_answer,
            "align_to_words": align_to_words,
        }
        given, last = (
            {name: value for name, value in params.items() if value is not None}
            for params in (preprocess, postprocess)
        )
        for name in ("doc_stride", "max_seq_len", "max_question_len", "top_k", "max_answer_len"):
            check_whole(name, {**given, **last}.get(name), least=int(name != "doc_stride"))
        if max_seq_len is not None and max_seq_len > self.max_length:
            raise InputError(
                f"max_seq_len ({max_seq_len}) exceeds what the model reads, {self.max_length} tokens"
            )
        return {**given, **self._for_long(long, None)}, {}, last

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
            inputs: {"question": ..., "context": ...}, a list or an iterator of such (`data` or `X` in old programs);
                or a question, with its context in `args`.
            question, context: in place of `inputs`; several of both, or several questions about one context.

        Returns:
            Per question {"score", "start", "end", "answer"}, where context[start:end] == answer; with `top_k` above 1
                a list of these.
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
        long: Long = "windows",
        doc_stride: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
    ) -> list[Tokens]:
        """A question and its context to windows of tokens."""
        question, text = _check_question(inputs)
        max_seq_len = min(384, self.max_length) if max_seq_len is None else max_seq_len
        overlap = min(max_seq_len // 2, 128) if doc_stride is None else doc_stride
        if not self.tokenizer.is_fast:
            raise InputError("question answering needs offsets, which only ConvBertTokenizerFast has")
        asked = self.tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"]
        if len(asked) > max_question_len:
            self.count_long("refuse" if long == "refuse" else "cut", len(asked), max_question_len, question)
            asked = asked[:max_question_len]
        passage = Passage.read(text, self.tokenizer)
        if not passage.ids:
            raise InputError(f"the context {excerpt(text)} has no word in it")
        self.unknown.add([*asked, *passage.ids], text)
        room = max_seq_len - len(asked) - self.tokenizer.num_special_tokens_to_add(pair=True)
        if not 0 <= overlap < room:
            raise InputError(
                f"doc_stride ({overlap}) must be at least 0 and below the {max(room, 0)} tokens that "
                f"max_seq_len ({max_seq_len}) leaves for the context beside a question of {len(asked)}"
            )
        windows = read_windows(asked, passage, self.tokenizer, room, overlap)
        if len(windows) > 1:
            self.count_long(long, max_seq_len - room + len(passage.ids), max_seq_len, text)
        return windows[:1] if long == "cut" else windows

    def _forward(self, packed: Packed) -> tuple[Rows, Tensor]:
        return span_logits(self.model, packed)

    def postprocess(
        self,
        model_outputs: list[tuple[Tokens, Rows]],
        top_k: int = 1,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        """The windows' logits to answers."""
        found = [(tokens.detail, rows["logits"].numpy()) for tokens, rows in model_outputs]
        answers = find_answers(found, max_answer_len, top_k, whole_words=align_to_words)
        assert answers is not None
        spans, no_answer = answers
        if handle_impossible_answer:
            spans = [*(span for span in spans if span[:2] != (0, 0)), no_answer]
            spans.sort(key=lambda span: -span.start_logit - span.end_logit)
        text = found[0][0].passage.text
        results = [
            {"score": span.score, "start": span.start, "end": span.end, "answer": text[span.start : span.end]}
            for span in spans[:top_k]
        ]
        return results[0] if top_k == 1 else results


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
