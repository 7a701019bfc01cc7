"""The span of a context that answers a question, by the rules of SQuAD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from convbert.finetuning import squad
from convbert.finetuning.adapters.base import TaskAdapter, Windows, check_length
from convbert.finetuning.cells import Report, list_in
from convbert.finetuning.data import Example, Feature, Prediction
from convbert.finetuning.metrics import Scores
from convbert.finetuning.readers import Row
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.tasks import Task
from convbert.inference.outputs import span_logits
from convbert.inference.spans import Passage, find_answers, read_windows
from convbert.model.heads.question_answering import ConvBertForQuestionAnswering
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError
from convbert.util.schema import Schema, check

_N_BEST = 20


class QuestionAnswering(TaskAdapter):
    """Start and end of the answer; contexts longer than `max_length` are read in windows that move by `stride`."""

    model_class = ConvBertForQuestionAnswering
    target_role = "answers"
    pipeline = "question-answering"
    has_labels = False
    config = MappingProxyType({"num_labels": 2})
    cut_at = "max_question_length"

    def settle(self, examples: list[Example], path: Path, report: Report) -> Sequence[Example | InputError]:
        """By SQuAD's rules answers belong to names: of two questions with one name, one would not count."""
        seen: set[str] = set()
        settled: list[Example | InputError] = []
        for example in examples:
            twice = InputError(f"{example.place}: the id {example.key!r} occurs twice")
            settled.append(twice if example.key in seen else example)
            seen.add(example.key)
        return settled

    def read_target(self, row: Row, column: str, inputs: dict[str, Any]) -> tuple[Answer, ...]:
        answers = _read_answers(row, column)
        self._check_answered(answers, row.place)
        return answers

    def _check_answered(self, answers: Sequence[Answer], place: str) -> None:
        if not answers and not self.task.answers_may_be_missing:
            raise InputError(
                f"{place}: has no answer, and {self.task.name} has one for every question "
                "(for those that may have none, use the task squad2)"
            )

    def check_trainable(self, example: Example) -> None:
        """The first answer, which is trained on, must stand at its offset; to be scored, texts are enough."""
        self._check_answered(example.target, example.place)
        for text, start in example.target[:1]:
            context = example.inputs["context"]
            if start is None:
                raise InputError(f"{example.place}: the answer {text!r:.60} has no answer_start")
            if start < 0 or not text or context[start : start + len(text)] != text:
                there = context[start : start + len(text)] if start >= 0 else ""
                raise InputError(
                    f"{example.place}: the answer {text!r:.60} is said to be at {start}, where the context has "
                    f"{there!r:.60}"
                )

    def features(
        self,
        examples: Sequence[Example],
        tokenizer: ConvBertTokenizerFast,
        plan: FinetuningPlan,
        *,
        training: bool = False,
    ) -> list[Feature]:
        passages: dict[str, Passage] = {}  # many questions ask about one
        found = []
        for number, example in enumerate(examples):
            context = example.inputs["context"]
            if context not in passages:
                passages[context] = Passage.read(context, tokenizer)
            windows = _windows(number, example, passages[context], tokenizer, plan, training)
            if training:
                windows = _with_targets(windows, example, self.task.answers_may_be_missing)
            found += windows
        return found

    def targets(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        starts, ends = zip(*(feature.target for feature in features), strict=True)
        return {"start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}

    forward = staticmethod(span_logits)

    def decode(self, example: Example, windows: Windows, plan: FinetuningPlan) -> Prediction:
        found = [(feature.detail, output) for feature, output in windows]
        answers = find_answers(found, plan.max_answer_length, _N_BEST)
        if answers is None:
            return {"answer": "", "best_span": "", "start": 0, "score": 0.0, "null_odds": 0.0, "n_best": []}
        spans, no_answer = answers
        best, context = spans[0], example.inputs["context"]
        if self.task.answers_may_be_missing:
            spans = sorted([*spans, no_answer], key=lambda span: -span.start_logit - span.end_logit)
        names = ("text", "probability", "start_logit", "end_logit")  # of SQuAD's file of the n best
        shown = [(context[s.start : s.end], s.score, s.start_logit, s.end_logit) for s in spans]
        text = context[best.start : best.end]
        prediction = {
            "answer": text,
            "best_span": text,
            "start": best.start,
            "score": best.score,
            "null_odds": no_answer.start_logit + no_answer.end_logit - best.start_logit - best.end_logit,
            "n_best": [dict(zip(names, each, strict=True)) for each in shown],
        }
        apply_threshold(self.task, [prediction], plan)
        return prediction

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:
        gold, spans, odds = _for_the_threshold(examples, predictions)
        answers = dict(zip(gold, (prediction["answer"] for prediction in predictions), strict=True))
        scores = squad.evaluate(gold, answers, answers_may_be_missing=self.task.answers_may_be_missing)
        found = {name: scores[name] for name in self.task.metrics}
        if not self.task.answers_may_be_missing:
            return found
        best_f1, f1_threshold = squad.best_threshold(gold, spans, odds, squad.f1)
        best_exact, exact_threshold = squad.best_threshold(gold, spans, odds, squad.exact_match)
        return {
            "best_f1": best_f1,
            "best_exact": best_exact,
            "best_f1_threshold": f1_threshold,
            "best_exact_threshold": exact_threshold,
            **found,
        }


def tune_threshold(
    task: Task, plan: FinetuningPlan, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> FinetuningPlan:
    """The plan with the threshold for "no answer" that gives the best F1, where that may be an answer."""
    if not task.answers_may_be_missing:
        return plan
    gold, spans, odds = _for_the_threshold(examples, predictions)
    _, threshold = squad.best_threshold(gold, spans, odds)
    if threshold not in odds.values():  # it is best to answer nothing
        threshold = -inf
    answered = [value for value in odds.values() if value <= threshold]
    others = [value for value in odds.values() if value > threshold]
    # In the middle between two questions, where rounding does not decide on one of them.
    highest = max(answered, default=min(odds.values()) - 2)
    lowest = min(others, default=max(odds.values()) + 2)
    return replace(plan, no_answer_threshold=(highest + lowest) / 2)


def apply_threshold(task: Task, predictions: Sequence[Prediction], plan: FinetuningPlan) -> None:
    """Set each `answer` by the plan's threshold for "no answer"."""
    if task.answers_may_be_missing:
        for prediction in predictions:
            is_missing = prediction["null_odds"] > plan.no_answer_threshold
            prediction["answer"] = "" if is_missing else prediction["best_span"]


def _for_the_threshold(
    examples: Sequence[Example], predictions: Sequence[Prediction]
) -> tuple[dict[str, list[str]], dict[str, str], dict[str, float]]:
    """By question: the right answers, the best span, and how much "no answer" is preferred to it."""
    gold = {example.key: [text for text, _ in example.target] for example in examples}
    spans, odds = (
        dict(zip(gold, (prediction.get(name) for prediction in predictions), strict=True))
        for name in ("best_span", "null_odds")
    )
    return gold, spans, odds  # type: ignore[return-value]  # where answers may be missing, predictions have both


Answer = tuple[str, int | None]
"""Its text, and its first character in the context, which data that is only scored need not say."""


class _Answer(Schema):
    text: str | int
    answer_start: int | float | str | None = None


class _Answers(Schema):
    text: list[str | int]
    answer_start: list[int | float | str | None] | None = None


def _read_answers(row: Row, column: str) -> tuple[Answer, ...]:
    """SQuAD's objects, one or a list, or {"text": [...], "answer_start": [...]} as the Hub has them."""
    cell, place = list_in(row, column), f"{row.place}: {column}"
    if isinstance(cell, dict) and isinstance(cell.get("text"), list):
        columns = check(_Answers, cell, place)
        texts, starts = columns.text, columns.answer_start
        starts = [None] * len(texts) if starts is None else starts
        if len(starts) != len(texts):
            raise InputError(f"{place}: {len(texts)} texts and {len(starts)} values of answer_start")
    elif isinstance(cell, list | dict):
        each = [cell] if isinstance(cell, dict) else cell
        answers = [check(_Answer, answer, f"{place}.{number}") for number, answer in enumerate(each)]
        texts, starts = [answer.text for answer in answers], [answer.answer_start for answer in answers]
    else:
        what = f'must be {{"text": [...], "answer_start": [...]}}, got {type(cell).__name__}: {cell!r:.60}'
        raise InputError(f"{place} {what}")
    return tuple((str(text), _offset(start, place)) for text, start in zip(texts, starts, strict=True))


def _offset(start: int | float | str | None, place: str) -> int | None:
    try:
        number = 0.0 if start is None else float(start)
    except ValueError:
        number = inf
    if not number.is_integer():
        raise InputError(f"{place}: answer_start must be a whole number, got {start!r:.40}")
    return None if start is None else int(number)


def _windows(
    number: int,
    example: Example,
    passage: Passage,
    tokenizer: ConvBertTokenizerFast,
    plan: FinetuningPlan,
    training: bool,
) -> list[Feature]:
    question = tokenizer(example.inputs["question"], add_special_tokens=False)["input_ids"]
    check_length(len(question), f"{example.place}: the question", plan, "max_question_length")
    is_cut = len(question) > plan.max_question_length
    question = question[: plan.max_question_length]
    room = plan.max_length - len(question) - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 1:
        what = f"the question leaves no room for the context in {plan.max_length} tokens"
        raise InputError(f"{example.place}: {what}")
    windows = read_windows(question, passage, tokenizer, room, max(0, room - plan.stride))
    check_length(plan.max_length - room + len(passage.ids), example.place, plan)
    if len(windows) > 1 and plan.long == "cut" and not training:
        windows, is_cut = windows[:1], True
    more = {"is_cut": is_cut, "is_windowed": len(windows) > 1}
    return [Feature(number, ids, types, detail=place, **more) for ids, types, place in windows]


def _with_targets(windows: Sequence[Feature], example: Example, missing_allowed: bool) -> list[Feature]:
    """Start and end of the first answer. A window without it says "no answer" ([CLS], position 0) where that is a
    possible answer, and is left out where it is not, as in the original."""
    inside: list[int] = []
    if example.target:
        text, start = example.target[0]
        begin, end = start or 0, (start or 0) + len(text)
        offsets = windows[0].detail.passage.offsets
        inside = [n for n, (first, last) in enumerate(offsets) if first < end and last > begin]
    found = []
    for window in windows:
        place, span = window.detail, (0, 0)
        if inside and place.first <= inside[0] and inside[-1] < place.last:
            shift = place.before - place.first
            span = inside[0] + shift, inside[-1] + shift
        elif not missing_allowed:
            continue
        found.append(replace(window, target=span))
    return found
