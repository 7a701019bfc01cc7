"""What differs between teachers of sentence vectors and teachers of a task."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convbert.distillation.objective import SentenceObjective, TaskObjective
from convbert.distillation.plan import DistillationPlan
from convbert.distillation.sentences import SentenceTeacher, principal_axes, project, teacher_vectors
from convbert.distillation.student import (
    begin_with_token_vectors,
    build_student,
    new_config,
    shrink,
    student_tokenizer,
    taken_over,
)
from convbert.files.atomic import save_tokenizer
from convbert.files.sentence_modules import write_sentence_modules
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.adapters.tagging import split_text
from convbert.finetuning.data import Example, Feature, pad, run_features
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.readers import Row
from convbert.finetuning.tasks import find_task
from convbert.finetuning.warm_start import write_task
from convbert.inference.engine import AnswerTask, Engine, Tokens
from convbert.inference.outputs import text_vectors
from convbert.util.errors import InputError

Report = Callable[[str], None]
Scores = dict[str, float]
SPEED_TEXTS = 512
"""Texts by which the speeds of teacher and student are compared."""


class SentenceItem(NamedTuple):
    """A text as tokens, and what the teacher says of it."""

    input_ids: list[int]
    vector: Any

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.input_ids)


class Lesson(ABC):
    """A student, its tokenizer, its texts as items (`taught` and `heldout`), and its teacher."""

    model: Any
    tokenizer: Any
    taught: Sequence[SentenceItem] | Sequence[Feature]
    heldout: Sequence[SentenceItem] | Sequence[Feature]

    @abstractmethod
    def objective(self) -> nn.Module:
        """What is trained: the student and its loss."""

    @abstractmethod
    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """A batch of the objective."""

    @abstractmethod
    def scores(self) -> dict[str, Scores]:
        """`teacher` and `student`: metrics on the dev data, and texts per second."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """The student's folder, without a card."""


def split_off(items: Sequence[Any], plan: DistillationPlan) -> tuple[Sequence[Any], Sequence[Any]]:
    """The texts to learn from, and those that are only evaluated on; an `InputError` where there are too few."""
    if len(items) < max(2, plan.batch_size):
        raise InputError(
            f"there are {len(items):,} texts, and a step takes {plan.batch_size}: give more text"
        )
    held = max(1, min(plan.heldout_texts, len(items) // 10))
    return items[held:], items[:held]


class SentenceLesson(Lesson):
    """A sentence encoder's vectors of all texts.

    Args:
        folder: for the teacher's vectors.
        dev: pairs of sentences and their similarity, as STS-B has them.
    """

    def __init__(
        self,
        plan: DistillationPlan,
        source: str,
        is_convbert: bool,
        texts: Sequence[str],
        folder: Path,
        *,
        tokenizer: str | None,
        dev: Path | None,
        device: str | None,
        report: Report,
    ) -> None:
        self.plan, self.texts, self.report, self.device = plan, texts, report, device
        self.tokenizer = student_tokenizer(plan, source, tokenizer)
        self._source = source
        self._teacher: SentenceTeacher | None = None
        task = find_task("stsb")
        self.dev = None if dev is None else adapter_of(task).read(dev, report=report)
        self.model = build_student(plan, source, is_convbert, self.tokenizer)
        vectors = teacher_vectors(folder, texts, source, self.teacher, report)
        width = self.model.config.hidden_size
        self.axes, share = principal_axes(vectors, width)
        if width < vectors.shape[1]:
            report(f"{width} of the teacher's {vectors.shape[1]} dimensions carry {share:.1%} of its vectors")
        is_new = plan.start_from is None and not (is_convbert and plan.size is None)
        if is_new and plan.token_vectors:
            begin_with_token_vectors(self.model, self.teacher(), self.tokenizer, self.axes)
        ids = self.tokenizer(list(texts), truncation=True, max_length=plan.max_length, verbose=False)[
            "input_ids"
        ]
        items = list(map(SentenceItem, ids, project(vectors, self.axes)))
        self.taught, self.heldout = split_off(items, plan)

    def teacher(self) -> SentenceTeacher:
        """The teacher, loaded where it is first needed."""
        if self._teacher is None:
            self._teacher = SentenceTeacher(self._source, bf16=self.plan.teacher_bf16, device=self.device)
        return self._teacher

    def objective(self) -> nn.Module:
        return SentenceObjective(self.model, self.plan.similarity_weight)

    def collate(self, items: Sequence[SentenceItem]) -> dict[str, Tensor]:
        ids = [item.input_ids for item in items]
        return {
            "input_ids": pad(ids, self.tokenizer.pad_token_id),
            "attention_mask": pad([[1] * len(row) for row in ids], 0),
            "targets": torch.stack([torch.from_numpy(item.vector) for item in items]),
        }

    def scores(self) -> dict[str, Scores]:
        texts = self.texts[:SPEED_TEXTS]
        self.teacher().model.float()  # as a user would run it
        answers = {"teacher": lambda texts: self.teacher().encode(texts), "student": self._encode}
        found: dict[str, Scores] = {name: {} for name in answers}
        for name, encode in answers.items():
            if self.dev is not None:
                left, right = (
                    [example.inputs[role] for example in self.dev] for role in ("text", "text_pair")
                )
                cosines = (torch.as_tensor(encode(left)) * torch.as_tensor(encode(right))).sum(1)
                answer = [{"answer": float(cosine)} for cosine in cosines]
                found[name]["spearman"] = adapter_of(find_task("stsb")).score(self.dev, answer)["spearman"]
            found[name]["texts_per_second"] = _speed(encode, texts)
        return found

    def _encode(self, texts: Sequence[str]) -> Tensor:
        """(N, C) vectors of the student, of length 1."""
        limit = self.model.config.max_position_embeddings

        def encode(text: str) -> list[Tokens]:
            ids = self.tokenizer(text, truncation=True, max_length=limit, verbose=False)["input_ids"]
            return [Tokens(ids, [0] * len(ids))]

        task = AnswerTask(
            encode,
            lambda packed: text_vectors(self.model, packed, "mean"),
            lambda text, tokens, rows: rows[0]["vector"][0],
        )
        return nn.functional.normalize(
            torch.stack(list(Engine(self.model, task).answer(texts))).float(), dim=1
        )

    def write(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder, self.model.config.max_position_embeddings)
        config = self.model.config
        write_sentence_modules(folder, config.hidden_size, config.max_position_embeddings)


class TaskLesson(Lesson):
    """A fine-tuned model's logits.

    Args:
        tables: files in the task's own format, whose labels are not looked at.
        texts: for a task of one text or of tags, more texts.
        dev: labelled data by which teacher and student are compared.
    """

    def __init__(
        self,
        plan: DistillationPlan,
        source: str,
        texts: Sequence[str],
        tables: Sequence[Path],
        *,
        dev: Path | None,
        device: str | None,
        report: Report,
    ) -> None:
        self.plan = plan
        self.teacher = FinetunedModel.load(source, device=device)
        self.tokenizer, self.adapter = self.teacher.tokenizer, self.teacher.adapter
        model, layers = self.teacher.model, self.teacher.model.config.num_hidden_layers
        self.kept: list[int] = []
        if plan.start_from is not None:
            raise InputError(
                "start_from: the student of a task has the teacher's vocabulary and head; give layers or size"
            )
        if plan.size is None:
            self.kept = taken_over(layers, plan.layers or -(-layers // 2))
            self.model = shrink(model, self.kept)
        else:
            config = new_config(plan, self.tokenizer)
            config.update({"num_labels": model.config.num_labels, **self.adapter.config_changes()})
            self.model = type(model)(config)
        examples = [each for path in tables for each in self.adapter.read(path, False, report)]
        examples += [self._example(text, number) for number, text in enumerate(texts)]
        features = self.adapter.features(examples, self.tokenizer, self.teacher.plan)
        self.taught, self.heldout = split_off(features, plan)
        self.dev = None if dev is None else self.teacher.split("dev", dev, report=report)

    def _example(self, text: str, number: int) -> Example:
        place = f"text {number + 1}"
        if "tokens" in self.adapter.task.columns:
            return Example(place, str(number), split_text(text, self.tokenizer))
        column = self.adapter.task.input_columns[0]
        return Example(place, str(number), self.adapter.read_inputs(Row(place, {column: text})))

    def objective(self) -> nn.Module:
        fits = self.model.config.hidden_size == self.teacher.model.config.hidden_size
        weight = self.plan.hidden_weight if fits else 0.0
        return TaskObjective(self.model, self.teacher.model, self.plan.temperature, weight, self.kept)

    def collate(self, items: Sequence[Feature]) -> dict[str, Tensor]:
        return self.adapter.collate(items, self.tokenizer.pad_token_id)

    def scores(self) -> dict[str, Scores]:
        some = self.heldout[:SPEED_TEXTS]
        found: dict[str, Scores] = {}
        for name, model in (("teacher", self.teacher.model), ("student", self.model)):
            found[name] = {} if self.dev is None else dict(self.dev.score(self.dev.predict(model)))
            found[name]["texts_per_second"] = _speed(partial(run_features, model, self.adapter), some)
        return found

    def write(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder, self.model.config.max_position_embeddings)
        write_task(folder, self.adapter.task, self.teacher.plan)


def _speed(run: Callable[[Any], Any], texts: Sequence[Any]) -> float:
    """Texts per second, of the faster of two runs: the first one warms up."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        run(texts)
        seconds.append(time.perf_counter() - started)
    return len(texts) / min(seconds)
