"""Score a fine-tuned model on labelled data, or answer unlabelled data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from convbert.files.atomic import atomic_folder, write_json
from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.cells import Report
from convbert.finetuning.data import Example, Prediction, Split
from convbert.finetuning.explain import explain_html
from convbert.finetuning.folder import refuse_runs
from convbert.finetuning.notes import feature_notes
from convbert.finetuning.recipes import FinetuningPlan, recipe
from convbert.finetuning.report import report_html
from convbert.finetuning.tasks import TASKS, Task
from convbert.finetuning.warm_start import (
    adapter_of_model,
    architecture_of,
    read_config,
    read_task,
    read_tokenizer,
)
from convbert.finetuning.writing import submission, write_predictions
from convbert.inference.loading import find_device, find_model, load_filled
from convbert.inference.precision import Precision, set_precision
from convbert.inference.windows import check_long
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError
from convbert.util.optional import require

EXPLAINED = 5
"""Examples on the page of attention maps and kernels."""

_GENERAL_TASKS = {
    "ConvBertForTokenClassification": "tagging",
    "ConvBertForQuestionAnswering": "question-answering",
    "ConvBertForMultipleChoice": "multiple-choice",
}


@dataclass(frozen=True)
class FinetunedModel:
    """A model with its task, as its folder has them."""

    source: str
    model: ConvBertPreTrainedModel
    tokenizer: ConvBertTokenizerFast
    adapter: TaskAdapter
    plan: FinetuningPlan

    @classmethod
    def load(
        cls,
        source: str | None,
        task: Task | None = None,
        device: str | None = None,
        precision: str | None = None,
        long: str | None = None,
    ) -> FinetunedModel:
        """Read a fine-tuned folder.

        Args:
            task: None is the one that the folder names, or what its head is for.
            precision: see `convbert.load`, for a model that will only answer; None is fp32, with gradients.
            long: see `FinetuningPlan`; None is what the model was trained with.

        Raises:
            InputError: no such folder, or its head does not fit the task.
        """
        name = find_model(source)
        config = read_config(name)
        noted = read_task(name)
        chosen = task or (noted[0] if noted else _general_task(config, name))
        adapter = adapter_of_model(chosen, config, name)
        plan = noted[1] if noted else recipe(chosen, config, max_length=config.max_position_embeddings)
        if long is not None:
            plan = plan.override(long=check_long(long))
        place = find_device(device)
        model = load_filled(adapter.model_class, name)
        if precision is not None:
            set_precision(model, cast(Precision, precision), place)
        return cls(name, model.to(place).eval(), read_tokenizer(name), adapter, plan)

    def split(
        self,
        name: str,
        path: Path,
        unlabelled: bool = False,
        on_bad_row: str = "fail",
        report: Report = lambda message: None,
    ) -> Split:
        """The examples of a file; those of GLUE's test data may lack labels, and others where they are `unlabelled`.

        Raises:
            InputError: unusable data (rows are left out with `on_bad_row="skip"`), or a label that the model does not
                know.
        """
        may_lack_labels = self.adapter.task.submission_of(path) is not None
        labelled = False if unlabelled else None if may_lack_labels else True
        examples = self.adapter.read(path, labelled, report, on_bad_row)
        if examples[0].target is not None:
            self.adapter.check(examples)
        features = self.adapter.features(examples, self.tokenizer, self.plan)
        split = Split(name, self.adapter, examples, features, self.plan)
        for note in feature_notes(split, self.tokenizer):
            report(note)
        return split


def evaluate(
    finetuned: FinetunedModel,
    files: Sequence[Path],
    split_name: str = "dev",
    output_dir: Path | None = None,
    *,
    unlabelled: bool = False,
    explain: bool = False,
    on_bad_row: str = "fail",
    report: Report = print,
) -> dict[str, Any]:
    """Score a model on files, separately, or only answer those without labels.

    Args:
        output_dir: for predictions, `metrics.json`, `report.html`, and for GLUE's test data its submission files.
        unlabelled: answer without a score, whether or not there are labels.
        explain: write `explain.html`, too.
        report: told at the end what a reader should know of the data.

    Returns:
        What `metrics.json` holds: `scores`, name of each split to its metrics; how many `examples` each has; ...

    Raises:
        InputError: unusable data, or `output_dir` is the folder of a training run.
    """
    if output_dir is not None:
        refuse_runs(output_dir)
    notes: list[str] = []
    names = [split_name] if len(files) == 1 else [path.stem for path in files]
    splits = [
        finetuned.split(name, path, unlabelled, on_bad_row, notes.append)
        for name, path in zip(names, files, strict=True)
    ]
    answers = [split.predict(finetuned.model) for split in splits]
    pairs = list(zip(splits, answers, strict=True))
    metrics = {
        "model": finetuned.source,
        "task": finetuned.adapter.task.name,
        "files": dict(zip(names, map(str, files), strict=True)),
        "examples": {split.name: len(split.examples) for split in splits},
        "scores": {split.name: split.score(found) for split, found in pairs if split.is_labelled},
        "date": time.strftime("%Y-%m-%d"),
    }
    if output_dir is not None:
        with atomic_folder(output_dir) as draft:
            for path, (split, found) in zip(files, pairs, strict=True):
                write_predictions(draft, split, found)
                name = split.adapter.task.submission_of(path)
                if name is not None and not split.is_labelled:
                    (draft / name).write_text(submission(split, found), encoding="utf-8")
            write_json(draft / "metrics.json", metrics)
            model, tokenizer = finetuned.model, finetuned.tokenizer
            write_pages(draft, metrics, splits[0], answers[0], model, tokenizer, explain=explain)
        report(f"written to {output_dir}")
    for note in notes:
        report(note)
    return metrics


def write_pages(
    folder: Path,
    metrics: dict[str, Any],
    split: Split,
    predictions: list[Prediction],
    model: ConvBertPreTrainedModel,
    tokenizer: ConvBertTokenizerFast,
    *,
    explain: bool = False,
    histories: dict[str, list[dict[str, Any]]] | None = None,
    train: Sequence[Example] = (),
) -> None:
    """Write `report.html` (for labelled data), and `explain.html` where it was asked for."""
    require("train", "report.html")
    if split.is_labelled:
        title = f"Fine-tuned for {split.adapter.task.name}, scored on {split.name}"
        text = report_html(title, metrics, split, predictions, model, tokenizer, histories, train)
        (folder / "report.html").write_text(text, encoding="utf-8")
    if explain:
        # Of the windows of a long text the first.
        firsts = {feature.example: feature for feature in reversed(split.features)}
        chosen = [firsts[number] for number in sorted(firsts)[:EXPLAINED]]
        shown = [next(iter(split.examples[feature.example].inputs.values())) for feature in chosen]
        captions = [" ".join(each) if isinstance(each, list) else str(each) for each in shown]
        about = {"model": metrics.get("model"), "task": split.adapter.task.name, "data": split.name}
        text = explain_html(model, tokenizer, chosen, captions, about)
        (folder / "explain.html").write_text(text, encoding="utf-8")


def _general_task(config: Any, source: str) -> Task:
    """What a head is for, where no task is named: of a folder that something else fine-tuned."""
    architecture = architecture_of(config)
    if architecture == "ConvBertForSequenceClassification":
        problems = {"regression": "regression", "multi_label_classification": "multi-label-classification"}
        is_number = config.num_labels == 1
        return TASKS[problems.get(config.problem_type, "regression" if is_number else "text-classification")]
    if architecture not in _GENERAL_TASKS:
        raise InputError(f"{source}: is a {architecture}, which was not fine-tuned for anything")
    return TASKS[_GENERAL_TASKS[architecture]]
