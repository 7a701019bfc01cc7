"""A student of a fine-tuned model: it learns the teacher's logits, and its hidden states."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from convbert.distillation.base import (
    SPEED_TEXTS,
    Distillation,
    Report,
    Scores,
    check_count,
    speed,
    split_off,
    unknown_notes,
)
from convbert.distillation.objective import TaskObjective
from convbert.distillation.plan import DistillationPlan
from convbert.distillation.student import new_config, shrink, taken_over
from convbert.files.atomic import save_tokenizer
from convbert.finetuning.adapters.tagging import split_text
from convbert.finetuning.data import Example, Feature, run_features
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.readers import Row
from convbert.finetuning.warm_start import write_task
from convbert.training.arguments import device_of
from convbert.util.errors import InputError


class TaskDistillation(Distillation):
    """See the module.

    Args:
        teacher: the fine-tuned model.
        tables: files in the task's own format, whose labels are not looked at.
        texts: for a task of one text or of tags, more texts.
        dev: labelled data by which teacher and student are compared.
    """

    def __init__(
        self,
        plan: DistillationPlan,
        teacher: FinetunedModel,
        texts: Sequence[str],
        tables: Sequence[Path],
        *,
        dev: Path | None,
        report: Report,
    ) -> None:
        self.plan, self.teacher, self.report = plan, teacher, report
        self.tokenizer, self.adapter = teacher.tokenizer, teacher.adapter
        self.pipeline = self.adapter.pipeline
        self.kept: list[int] = []
        self.model = self._student()
        examples = [each for path in tables for each in self.adapter.read(path, False, report)]
        examples += self._examples_of(texts)
        random.Random(plan.seed).shuffle(examples)
        self._examples = examples[: plan.max_texts]
        check_count(len(self._examples), plan)
        self.dev = None if dev is None else teacher.split("dev", dev, report=report)
        if self.dev is not None and not self.dev.is_labelled:
            raise InputError(f"{dev}: has no labels, and nothing can be scored on it")

    @property
    def count(self) -> int:
        return len(self._examples)

    def _student(self) -> Any:
        plan, model = self.plan, self.teacher.model
        if plan.start_from is not None:
            raise InputError("start_from: the student of a task has the teacher's head; give layers or size")
        if plan.size is None:
            layers = model.config.num_hidden_layers
            self.kept = taken_over(layers, plan.layers or -(-layers // 2))
            return shrink(model, self.kept)
        config = new_config(plan, self.tokenizer)
        config.update({"num_labels": model.config.num_labels, **self.adapter.config_changes()})
        return type(model)(config)

    def _examples_of(self, texts: Sequence[str]) -> Iterator[Example]:
        task, useless = self.adapter.task, 0
        if texts and not {*task.columns} <= {"text", "tokens", "id", self.adapter.target_role}:
            raise InputError(f"{task.name} is not about single texts: give files in its own format")
        for number, text in enumerate(texts):
            place = f"text {number + 1}"
            try:
                if "tokens" in task.columns:
                    inputs = split_text(text, self.tokenizer)
                else:
                    inputs = self.adapter.read_inputs(Row(place, {task.input_columns[0]: text}))
            except InputError:
                useless += 1
                continue
            yield Example(place, str(number), inputs)
        if useless:
            self.report(f"texts without a word, which are left out: {useless:,}")

    def prepare(self, folder: Path, *, is_resumed: bool) -> None:
        features = self.adapter.features(self._examples, self.tokenizer, self.teacher.plan)
        texts = (
            (text.input_ids, str(feature.detail or "")) for feature in features for text in feature.texts
        )
        for note in unknown_notes(texts, self.tokenizer):
            self.report(note)
        if cut := sum(feature.is_cut for feature in features):
            self.report(f"texts that are longer than the teacher reads, and are cut: {cut:,}")
        self.train, self.heldout = split_off(features, self.plan)

    def objective(self) -> nn.Module:
        plan = self.plan
        return TaskObjective(self.model, self.teacher.model, plan.temperature, plan.hidden_weight, self.kept)

    def collate(self, items: Sequence[Feature]) -> dict[str, Tensor]:
        return self.adapter.collate(items, self.tokenizer.pad_token_id)

    def scores(self) -> dict[str, Scores]:
        some = self.heldout[:SPEED_TEXTS]
        found: dict[str, Scores] = {}
        for name, model in (("teacher", self.teacher.model), ("student", self.model)):
            found[name] = {} if self.dev is None else dict(self.dev.score(self.dev.predict(model)))
            found[name]["texts_per_second"] = speed(partial(run_features, model, self.adapter), some)
        return found

    def seconds_per_text(self) -> Iterator[tuple[str, float]]:
        some = self.adapter.features(
            self._examples[: self.plan.batch_size], self.tokenizer, self.teacher.plan
        )
        batch, objective = self.collate(some), self.objective()
        yield (
            "student, with its teacher",
            1 / len(some) / speed(lambda _: objective(**batch)["loss"].backward(), [None]),
        )

    def write(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder, self.model.config.max_position_embeddings)
        write_task(folder, self.adapter.task, self.teacher.plan)


def load_teacher(source: str, device: str | None) -> FinetunedModel:
    """The fine-tuned model, where training will run."""
    return FinetunedModel.load(source, device=str(device_of(device)))
