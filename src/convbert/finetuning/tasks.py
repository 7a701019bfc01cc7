"""The table of tasks. A task is a row: where its columns are, what is predicted, how it is scored and trained.

To add one, add a row to `TASKS` (docs/finetuning.md has an example).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from convbert.finetuning.readers import ENDINGS, ending_of
from convbert.util.errors import InputError
from convbert.util.settings import Settings, settings

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


_Columns = Annotated[tuple[str, ...], Field(strict=False)]  # a list in JSON


@settings
class Task(Settings):
    """What to predict from which columns of which files."""

    name: Annotated[str, Field(min_length=1)]
    kind: str
    """One of `KINDS`: decides the head, the features and what a prediction is."""
    columns: dict[str, str]
    """Role to column. Classification and regression: `text`, `text_pair` (optional), `label`. Tagging: `tokens`,
    `tags`. Questions: `question`, `context`, `answers`, `id` (optional). Choices: `text`, `prefix` (optional, put
    before every choice), `choices` (columns, comma between them, or one column of lists), `label` (number of the right
    choice, from 0)."""
    metrics: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """What is reported, see `metrics`; the first chooses the best checkpoint, so more of it must be better."""
    headerless: _Columns = ()
    """Columns of files without a header."""
    values: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Role to what the file says to what is meant, as {"label": {"0": "negative", "1": "positive"}}. Labels get this
    order in the model."""
    files: dict[str, _Columns] = Field(default_factory=dict)
    """Split to the names of its files, without a folder, where they are not the usual ones, see `STEMS`; all that are
    there are scored separately."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Fields of the plan in which the task differs."""
    submission: str = ""
    """Name of the file that GLUE's server takes; with several test files one for each, comma between them."""
    skips_broken_rows: bool = False
    """Rows of another number of cells or without a text are left out: in QQP as distributed there are a few."""
    answers_may_be_missing: bool = False
    """Whether "no answer" is right for some questions (SQuAD 2.0)."""

    def __post_init__(self) -> None:
        if self.kind not in _ROLES:
            raise InputError(f"kind: must be one of {', '.join(KINDS)}, got {self.kind!r:.40}")
        roles = _ROLES[self.kind]
        for role in (*self.columns, *roles):
            if role not in roles or not self.columns.get(role, role in _OPTIONAL_ROLES):
                raise InputError(f"columns: {self.kind} has the roles {', '.join(roles)}; {role!r:.40}")
        for metric in self.metrics:
            if metric not in _METRICS[self.kind]:
                raise InputError(f"metrics: {self.kind} has no metric {metric!r:.40}")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels, in their order; none where they are found in the training data."""
        return tuple(dict.fromkeys(self.values.get("label", {}).values()))

    @property
    def input_columns(self) -> list[str]:
        """The columns that the model is shown; choices may have several."""
        shown = [column for role, column in self.columns.items() if role not in ("id", *TARGET_ROLES)]
        if "choices" not in self.columns:
            return shown
        return [name for column in shown for name in column.split(",") if name]

    def find_files(self, folder: Path, split: str) -> list[Path]:
        """The files of a split in the folder of a data set: one, or several that are scored separately (MNLI)."""
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
_OWN = {"text": "text", "label": "label"}
_FOUR = "answer0,answer1,answer2,answer3"
_AS_PUBLISHED = {"long": "cut"}
"""Published scores are of texts that were cut."""
_QUESTION = {role: role for role in ("id", "question", "context", "answers")}


def _row(name: str, kind: str, columns: dict[str, str], metrics: str, header: str = "", **more: Any) -> Task:
    """`metrics` and `header` (`headerless`) with spaces between the names."""
    scores, headerless = tuple(metrics.split()), tuple(header.split())
    return Task(name=name, kind=kind, columns=columns, metrics=scores, headerless=headerless, **more)


def _classes(
    name: str, columns: dict[str, str], labels: tuple[str, ...] | dict[str, str], metrics: str, **more: Any
) -> Task:
    """`labels`: what the file says to what is meant, where it does not say 0, 1, ..."""
    meant = labels if isinstance(labels, dict) else {str(n): label for n, label in enumerate(labels)}
    recipe = {**_AS_PUBLISHED, **more.pop("recipe", {})}
    return _row(name, "classification", columns, metrics, values={"label": meant}, recipe=recipe, **more)


def _glue(name: str, *row: Any, **more: Any) -> Task:
    """`name` as GLUE's server has it."""
    return _classes(name.lower().replace("-", ""), *row, **{"submission": f"{name}.tsv", **more})


def _choices(name: str, text: str, choices: str, prefix: str = "", **more: Any) -> Task:
    columns = {"text": text, **({"prefix": prefix} if prefix else {}), "choices": choices, "label": "label"}
    return _row(name, "multiple-choice", columns, "accuracy", **more)


def _tags(name: str, metrics: str) -> Task:
    return _row(name, "tagging", {"tokens": "tokens", "tags": "tags"}, metrics)


def _questions(name: str, **more: Any) -> Task:
    recipe = {"epochs": 2, "max_length": 512}
    return _row(name, "question-answering", _QUESTION, "f1 exact", recipe=recipe, **more)


_ROWS = (
    # -- GLUE, files as distributed; without a header where a set is commonly passed on that way
    _glue(
        *("CoLA", _TEXT, ("unacceptable", "acceptable"), "matthews accuracy"),
        header="source label star sentence",
    ),
    _glue("SST-2", _TEXT, ("negative", "positive"), "accuracy", header="sentence label"),
    _glue(
        *("MRPC", {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"}),
        *(("not_equivalent", "equivalent"), "accuracy positive_f1 matthews"),
        recipe={"both_orders": True},
    ),
    _row(
        *("stsb", "regression", {**_PAIR, "label": "score"}, "spearman pearson mean_squared_error"),
        header="sentence1 sentence2 score",
        recipe={**_AS_PUBLISHED, "both_orders": True, "epochs": 10},
        submission="STS-B.tsv",
    ),
    _glue(
        *("QQP", {"text": "question1", "text_pair": "question2", "label": "is_duplicate"}),
        *(("not_duplicate", "duplicate"), "accuracy positive_f1"),
        skips_broken_rows=True,
    ),
    _glue(
        *("MNLI", {**_PAIR, "label": "gold_label"}, _THREE_WAY, "accuracy"),
        files={part: (f"{part}_matched.tsv", f"{part}_mismatched.tsv") for part in ("dev", "test")},
        submission="MNLI-m.tsv,MNLI-mm.tsv",
    ),
    _glue(  # GLUE's diagnostics: a test for a model of MNLI
        *("AX", _PAIR, _THREE_WAY, "matthews accuracy"),
        files={"test": ("diagnostic.tsv", "AX.tsv", "test.tsv")},
    ),
    _glue("QNLI", {"text": "question", "text_pair": "sentence", "label": "label"}, _ENTAILMENT, "accuracy"),
    _glue("RTE", _PAIR, _ENTAILMENT, "accuracy", recipe={"epochs": 10}),
    _glue("WNLI", _PAIR, ("not_entailment", "entailment"), "accuracy"),
    # -- SuperGLUE and multiple choice
    _classes(
        *("cb", {"text": "premise", "text_pair": "hypothesis", "label": "label"}, _THREE_WAY),
        "accuracy macro_f1",
        recipe={"epochs": 20, "batch_size": 16},
    ),
    _choices(
        *("copa", "premise", "choice1,choice2", "question"),
        values={"prefix": {"cause": "because", "effect": "so"}},
        recipe={"epochs": 10},
    ),
    _choices("codah", "prompt", _FOUR, header=f"category prompt {_FOUR.replace(',', ' ')} label"),
    _choices("cosmosqa", "context", _FOUR, "question", recipe={"max_length": 256}),
    _choices("swag", "sent1", "ending0,ending1,ending2,ending3", "sent2"),
    # -- tagging
    *(_tags(name, "entity_f1 accuracy") for name in ("conll2003", "wnut17", "btc", "wikigold")),
    *(_tags(name, "accuracy macro_f1") for name in ("upos", "gum_upos")),
    # -- extractive question answering
    *(_questions(name) for name in ("squad1", "xquad_en", "qamr", "covid_qa")),
    _questions("squad2", answers_may_be_missing=True),
    # -- your own files: columns as named on the command line
    _row("text-classification", "classification", _OWN, "accuracy macro_f1"),
    _row("multi-label-classification", "multi-label", {**_OWN, "label": "labels"}, "micro_f1 macro_f1"),
    _row("regression", "regression", _OWN, "pearson spearman mean_squared_error"),
    _tags("entities", "entity_f1 accuracy"),
    _tags("tagging", "accuracy macro_f1"),
    _questions("question-answering"),
    _choices("multiple-choice", "text", "choices"),
)

TASKS = {task.name: task for task in _ROWS}
"""Name to row."""


def find_task(name: str, columns: Mapping[str, str | None] | None = None) -> Task:
    """The row of that name, with some columns (by role) named otherwise; an empty name takes an optional column away.

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
    return task.override(columns=named, headerless=() if changes else task.headerless)
