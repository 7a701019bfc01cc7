"""The table of tasks. A task is a row: where its columns are, what is predicted, how it is scored and trained.

To add one, add a row to `TASKS` (docs/finetuning.md has an example).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from convbert.finetuning.readers import ENDINGS, ending_of
from convbert.util.errors import InputError
from convbert.util.schema import Schema, check

_OPTIONAL_ROLES = ("text_pair", "prefix", "id")
_SEQUENCE_ROLES = ("text", "text_pair", "label")
_ROLES = {
    "classification": _SEQUENCE_ROLES,
    "multi-label": _SEQUENCE_ROLES,
    "regression": _SEQUENCE_ROLES,
    "tagging": ("tokens", "tags"),
    "question-answering": ("id", "question", "context", "answers"),
    "multiple-choice": ("text", "prefix", "choices", "label"),
}
TARGET_ROLES = ("label", "tags", "answers")
"""The roles of right answers."""
KINDS = tuple(_ROLES)
_METRICS = {
    "classification": ("accuracy", "macro_f1", "positive_f1", "matthews"),
    "multi-label": ("micro_f1", "macro_f1"),
    "regression": ("pearson", "spearman", "mean_squared_error"),
    "tagging": ("entity_f1", "accuracy", "macro_f1"),
    "question-answering": ("f1", "exact"),
    "multiple-choice": ("accuracy",),
}
"""What each kind can be scored by."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to predict from which columns of which files.

    Args:
        kind: one of `KINDS`: decides the head, the features and what a prediction is.
        columns: role to column. Classification and regression: `text`, `text_pair` (optional), `label`. Tagging:
            `tokens`, `tags`. Questions: `question`, `context`, `answers`, `id` (optional). Choices: `text`,
            `prefix` (optional, put before every choice), `choices` (columns, comma between them, or one column of
            lists), `label` (number of the right choice, from 0).
        metrics: what is reported, see `metrics`; the first chooses the best checkpoint, so more of it must be better.
        headerless: columns of files without a header.
        values: role to what the file says to what is meant, as {"label": {"0": "negative", "1": "positive"}}.
            Labels get this order in the model.
        files: split to the names of its files, without a folder, where they are not the usual ones, see `STEMS`; all
            that are there are scored separately.
        recipe: fields of the plan in which the task differs.
        submission: name of the file that GLUE's server takes; with several test files one for each, comma between them.
        skips_broken_rows: rows of another number of cells or without a text are left out: in QQP as distributed there
            are a few.
        answers_may_be_missing: whether "no answer" is right for some questions (SQuAD 2.0).
    """

    name: str
    kind: str
    columns: Mapping[str, str]
    metrics: tuple[str, ...]
    headerless: tuple[str, ...] = ()
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    submission: str = ""
    skips_broken_rows: bool = False
    answers_may_be_missing: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels, in their order; none where they are found in the training data."""
        return tuple(dict.fromkeys(self.values.get("label", {}).values()))

    @property
    def input_columns(self) -> list[str]:
        """The columns that the model is shown; choices may have several."""
        shown = [column for role, column in self.columns.items() if role not in ("id", *TARGET_ROLES)]
        return (
            [name for column in shown for name in column.split(",") if name]
            if "choices" in self.columns
            else shown
        )

    def find_files(self, folder: Path, split: str) -> list[Path]:
        """The files of a split in the folder of a data set: one, or several that are scored separately (MNLI).

        Raises:
            InputError: there is none, or it is not clear which one is meant.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder")
        names = self._names(split)
        found = [
            path
            for path in dict.fromkeys(each for name in names for each in sorted(folder.glob(name)))
            if ending_of(path) in ENDINGS
        ]
        if not found:
            raise InputError(
                f"{folder}: no file for the split {split} of {self.name}: {' or '.join(names)} wanted"
            )
        if len(found) > 1 and split not in self.files:
            raise InputError(
                f"{folder}: {', '.join(path.name for path in found)} could all be the split {split}; name one file"
            )
        return found

    def submission_of(self, path: Path) -> str | None:
        """The name of the file that GLUE's server takes for a test file; None for any other file."""
        names = self.submission.split(",")
        for number, pattern in enumerate(self._names("test")):
            if self.submission and path.match(pattern):
                return names[number % len(names)]
        return None

    def _names(self, split: str) -> tuple[str, ...]:
        stems = tuple(f"{stem}.*" for stem in STEMS.get(split, (split,)))
        return self.files.get(split) or (*stems, *_SPLIT_ENDINGS.get(split, ()))

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data, which `from_dict` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, row: Any, source: object = "task") -> Task:
        """The task that `to_dict` wrote to JSON, in the file `source`.

        Raises:
            InputError: a field is missing, unknown, or not what it should be; the message names it.
        """
        found = check(_Row, row, source)
        if unknown := sorted(found.model_extra or ()):
            raise InputError(f"{source}: {unknown[0]}: a task has no such field")
        roles = _ROLES.get(found.kind)
        if roles is None:
            raise InputError(f"{source}: kind: must be one of {', '.join(KINDS)}, got {found.kind!r:.40}")
        for role in (*found.columns, *roles):
            if role not in roles or not found.columns.get(role, role in _OPTIONAL_ROLES):
                raise InputError(
                    f"{source}: columns: {found.kind} has the roles {', '.join(roles)}; {role!r:.40}"
                )
        for name in found.metrics:
            if name not in _METRICS[found.kind]:
                raise InputError(f"{source}: metrics: {found.kind} has no metric {name!r:.40}")
        tuples = {
            "metrics": tuple(found.metrics),
            "headerless": tuple(found.headerless),
            "files": {split: tuple(names) for split, names in found.files.items()},
        }
        return cls(**{**found.model_dump(), **tuples})


class _Row(Schema):
    """The fields of a `Task` in JSON."""

    name: Annotated[str, Field(min_length=1)]
    kind: str
    columns: dict[str, str]
    metrics: Annotated[list[str], Field(min_length=1)]
    headerless: list[str]
    values: dict[str, dict[str, str]]
    files: dict[str, list[str]]
    recipe: dict[str, Any]
    submission: str = ""
    skips_broken_rows: bool = False
    answers_may_be_missing: bool = False


STEMS = {
    "train": ("train", "train-*", "*-ud-train"),
    "dev": ("dev", "dev-*", "*-ud-dev", "val", "valid", "validation", "validation-*"),
    "test": ("test", "test-*", "*-ud-test"),
}
"""How the files of a split are named, without their ending: SQuAD has train-v1.1, treebanks have en_gum-ud-train."""
_SPLIT_ENDINGS = {"train": ("*.train",), "dev": ("*.testa", "*.dev"), "test": ("*.testb", "*.test")}
"""CoNLL's shared tasks name the split at the end: eng.train."""

_TEXT = {"text": "sentence", "label": "label"}
_PAIR = {"text": "sentence1", "text_pair": "sentence2", "label": "label"}
_ENTAILMENT = {"entailment": "entailment", "not_entailment": "not_entailment"}
_THREE_WAY = {label: label for label in ("entailment", "neutral", "contradiction")}
_FOUR = "answer0,answer1,answer2,answer3"


def _classes(
    name: str, columns: Mapping[str, str], labels: Mapping[str, str], *metrics: str, **more: Any
) -> Task:
    """`labels`: what the file says to what is meant; none where they are found in the training data."""
    values = {"label": labels} if labels else {}
    return Task(name=name, kind="classification", columns=columns, values=values, metrics=metrics, **more)


def _number(name: str, columns: Mapping[str, str], *metrics: str, **more: Any) -> Task:
    return Task(name=name, kind="regression", columns=columns, metrics=metrics, **more)


def _choosing(name: str, text: str, choices: str, prefix: str = "", **more: Any) -> Task:
    columns = {"text": text, **({"prefix": prefix} if prefix else {}), "choices": choices, "label": "label"}
    return Task(name=name, kind="multiple-choice", columns=columns, metrics=("accuracy",), **more)


def _tagging(name: str, *metrics: str) -> Task:
    return Task(name=name, kind="tagging", columns={"tokens": "tokens", "tags": "tags"}, metrics=metrics)


def _answering(name: str, **more: Any) -> Task:
    columns = {"id": "id", "question": "question", "context": "context", "answers": "answers"}
    recipe = {"epochs": 2, "max_length": 512}
    return Task(
        name=name, kind="question-answering", columns=columns, metrics=("f1", "exact"), recipe=recipe, **more
    )


_ROWS = (
    # -- GLUE, files as distributed; without a header where a set is commonly passed on that way
    _classes(
        "cola",
        _TEXT,
        {"0": "unacceptable", "1": "acceptable"},
        *("matthews", "accuracy"),
        headerless=("source", "label", "star", "sentence"),
        submission="CoLA.tsv",
    ),
    _classes(
        "sst2",
        _TEXT,
        {"0": "negative", "1": "positive"},
        "accuracy",
        headerless=("sentence", "label"),
        submission="SST-2.tsv",
    ),
    _classes(
        "mrpc",
        {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"},
        {"0": "not_equivalent", "1": "equivalent"},
        *("accuracy", "positive_f1", "matthews"),
        recipe={"both_orders": True},
        submission="MRPC.tsv",
    ),
    _number(
        "stsb",
        {**_PAIR, "label": "score"},
        *("spearman", "pearson", "mean_squared_error"),
        headerless=("sentence1", "sentence2", "score"),
        recipe={"both_orders": True, "epochs": 10},
        submission="STS-B.tsv",
    ),
    _classes(
        "qqp",
        {"text": "question1", "text_pair": "question2", "label": "is_duplicate"},
        {"0": "not_duplicate", "1": "duplicate"},
        *("accuracy", "positive_f1"),
        submission="QQP.tsv",
        skips_broken_rows=True,
    ),
    _classes(
        "mnli",
        {**_PAIR, "label": "gold_label"},
        _THREE_WAY,
        "accuracy",
        files={
            "dev": ("dev_matched.tsv", "dev_mismatched.tsv"),
            "test": ("test_matched.tsv", "test_mismatched.tsv"),
        },
        submission="MNLI-m.tsv,MNLI-mm.tsv",
    ),
    _classes(
        "ax",  # GLUE's diagnostics: a test for a model of MNLI
        _PAIR,
        _THREE_WAY,
        *("matthews", "accuracy"),
        files={"test": ("diagnostic.tsv", "AX.tsv", "test.tsv")},
        submission="AX.tsv",
    ),
    _classes(
        "qnli",
        {"text": "question", "text_pair": "sentence", "label": "label"},
        _ENTAILMENT,
        "accuracy",
        submission="QNLI.tsv",
    ),
    _classes("rte", _PAIR, _ENTAILMENT, "accuracy", recipe={"epochs": 10}, submission="RTE.tsv"),
    _classes("wnli", _PAIR, {"0": "not_entailment", "1": "entailment"}, "accuracy", submission="WNLI.tsv"),
    # -- SuperGLUE and multiple choice
    _classes(
        "cb",
        {"text": "premise", "text_pair": "hypothesis", "label": "label"},
        _THREE_WAY,
        *("accuracy", "macro_f1"),
        recipe={"epochs": 20, "batch_size": 16},
    ),
    _choosing(
        *("copa", "premise", "choice1,choice2", "question"),
        values={"prefix": {"cause": "because", "effect": "so"}},
        recipe={"epochs": 10},
    ),
    _choosing(
        *("codah", "prompt", _FOUR),
        headerless=("category", "prompt", *_FOUR.split(","), "label"),
    ),
    _choosing("cosmosqa", "context", _FOUR, "question", recipe={"max_length": 256}),
    _choosing("swag", "sent1", "ending0,ending1,ending2,ending3", "sent2"),
    # -- tagging
    *(_tagging(name, "entity_f1", "accuracy") for name in ("conll2003", "wnut17", "btc", "wikigold")),
    *(_tagging(name, "accuracy", "macro_f1") for name in ("upos", "gum_upos")),
    # -- extractive question answering
    *(_answering(name) for name in ("squad1", "xquad_en", "qamr", "covid_qa")),
    _answering("squad2", answers_may_be_missing=True),
    # -- your own files: columns as named on the command line
    _classes("text-classification", {"text": "text", "label": "label"}, {}, "accuracy", "macro_f1"),
    Task(
        name="multi-label-classification",
        kind="multi-label",
        columns={"text": "text", "label": "labels"},
        metrics=("micro_f1", "macro_f1"),
    ),
    _number("regression", {"text": "text", "label": "label"}, *_METRICS["regression"]),
    _tagging("entities", "entity_f1", "accuracy"),
    _tagging("tagging", "accuracy", "macro_f1"),
    _answering("question-answering"),
    _choosing("multiple-choice", "text", "choices"),
)

TASKS = {task.name: task for task in _ROWS}
"""Name to row."""


def find_task(name: str, columns: Mapping[str, str | None] | None = None) -> Task:
    """The row of that name, with some columns named otherwise.

    Args:
        columns: role to column; None is no change. An empty name takes an optional column away.

    Raises:
        InputError: no such task, or it has no such role; the message lists what there is.
    """
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    task = TASKS[name]
    changes = {role: column for role, column in (columns or {}).items() if column is not None}
    roles = _ROLES[task.kind]
    for role in changes:
        if role not in roles:
            raise InputError(f"{name} has no column for {role}; it has {', '.join(roles)}")
        if not changes[role] and role not in _OPTIONAL_ROLES:
            raise InputError(f"{name} needs a column for {role}: its name must not be empty")
    named = {role: column for role, column in {**task.columns, **changes}.items() if column}
    return dataclasses.replace(task, columns=named, headerless=() if changes else task.headerless)
