"""An adapter for each kind of task; `adapter_of` chooses."""

from __future__ import annotations

from collections.abc import Sequence

from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.adapters.question_answering import QuestionAnswering
from convbert.finetuning.adapters.sequence import Classification, MultiLabel, MultipleChoice, Regression
from convbert.finetuning.adapters.tagging import Tagging
from convbert.finetuning.tasks import Task

_CLASSES: dict[str, type[TaskAdapter]] = {
    "classification": Classification,
    "multi-label": MultiLabel,
    "regression": Regression,
    "tagging": Tagging,
    "multiple-choice": MultipleChoice,
    "question-answering": QuestionAnswering,
}


def adapter_of(task: Task, labels: Sequence[str] = ()) -> TaskAdapter:
    """The adapter of a task, with the labels of a model where there is one."""
    return _CLASSES[task.kind](task, labels)
