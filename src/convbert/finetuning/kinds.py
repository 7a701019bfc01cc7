"""Which kind of task is which class."""

from __future__ import annotations

from collections.abc import Sequence

from convbert.finetuning.data import Kind
from convbert.finetuning.multiple_choice import MultipleChoice
from convbert.finetuning.question_answering import QuestionAnswering
from convbert.finetuning.sequence import Classification, MultiLabel, Regression
from convbert.finetuning.tagging import Tagging
from convbert.finetuning.tasks import Task

_CLASSES: dict[str, type[Kind]] = {
    "classification": Classification,
    "multi-label": MultiLabel,
    "regression": Regression,
    "tagging": Tagging,
    "multiple-choice": MultipleChoice,
    "question-answering": QuestionAnswering,
}


def kind_of(task: Task, labels: Sequence[str] = ()) -> Kind:
    """What the task's kind knows, with the labels of a model where there is one."""
    return _CLASSES[task.kind](task, labels)
