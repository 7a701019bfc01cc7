"""What a reader finds beside a fine-tuned model: its card, and files of predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from convbert.files.card import LOADING, head
from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.data import Prediction, Split
from convbert.finetuning.recipes import FinetuningPlan


def write_predictions(folder: Path, split: Split, predictions: Sequence[Prediction]) -> None:
    """Write `<split>_predictions.jsonl`, one object an example; for SQuAD the official files, too."""
    examples = list(zip(split.examples, predictions, strict=True))
    with (folder / f"{split.name}_predictions.jsonl").open("w", encoding="utf-8") as lines:
        for example, prediction in examples:
            shown = {key: value for key, value in prediction.items() if key != "n_best"}
            record = {"id": example.key, **example.inputs, **shown}
            if example.target is not None:
                record["gold"] = example.target
            lines.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    if split.adapter.task.kind == "question-answering":
        official = {"predictions": "answer", "nbest_predictions": "n_best", "null_odds": "null_odds"}
        for name, field in official.items():
            content = {example.key: prediction[field] for example, prediction in examples}
            text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
            (folder / f"{split.name}_{name}.json").write_text(text, encoding="utf-8")


def read_predictions(folder: Path, name: str) -> list[Prediction]:
    """What `write_predictions` wrote for the split `name`, without the n-best lists."""
    lines = (folder / f"{name}_predictions.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def submission(split: Split, predictions: Sequence[Prediction]) -> str:
    """The file that GLUE's server takes: index and prediction, labels as in the data. Its one number, STS-B's
    similarity, goes from 0 to 5.
    """
    as_in_file = {meant: said for said, meant in split.adapter.task.values.get("label", {}).items()}
    lines = ["index\tprediction"]
    for example, prediction in zip(split.examples, predictions, strict=True):
        answer = prediction["answer"]
        is_number = isinstance(answer, float)
        shown = f"{min(5.0, max(0.0, answer)):.3f}" if is_number else as_in_file.get(answer, answer)
        lines.append(f"{example.key}\t{shown}")
    return "\n".join(lines) + "\n"


def model_card(adapter: TaskAdapter, plan: FinetuningPlan, metrics: dict[str, Any]) -> str:
    """The README.md of a fine-tuned model: what it was made from and with, data, scores, recipe."""
    scored = {**metrics["scores"], "most frequent answer": metrics["baseline"] or {}}
    rows = [
        f"| {split} | {name} | {value:.4f} |"
        for split, scores in scored.items()
        for name, value in scores.items()
    ]
    counts = metrics["examples"]
    data = [f"| {name} | `{Path(path).name}` | {counts[name]:,} |" for name, path in metrics["files"].items()]
    model = metrics["model"]
    is_embedded, is_folder = model == "embedded", Path(model).exists()
    base = "the embedded English model" if is_embedded else f"`{Path(model).name if is_folder else model}`"
    seeds = len(metrics["seeds"])
    spread = metrics["spread"]
    notes = []
    if seeds > 1:
        notes.append(
            f"Medians of {seeds} seeds; {metrics['metric']} from {spread['lowest']:.4f} to {spread['highest']:.4f}; "
            f"these weights are of seed {metrics['best_seed']}."
        )
    if metrics["collapsed_seeds"]:
        notes.append(f"Seeds that collapsed: {', '.join(map(str, metrics['collapsed_seeds']))}.")
    notes.append("The checkpoint was chosen on the dev data that it is scored on.")
    return "\n".join(
        (
            _head(adapter, metrics),
            f"# ConvBERT fine-tuned for {adapter.task.name}\n",
            f"Trained by `convbert finetune` from {base}, {metrics['date']}, with torch {metrics['torch']}, "
            f"transformers {metrics['transformers']}, Python {metrics['python']}.\n",
            "    convbert predict --model this/folder --input texts.jsonl --output predictions.jsonl\n",
            LOADING,
            "## Data\n",
            "| data | file | examples |\n| --- | --- | ---: |",
            *data,
            "\n## Scores\n",
            "| data | metric | score |\n| --- | --- | ---: |",
            *rows,
            "",
            " ".join(notes) + "\n",
            f"## Recipe\n\n```json\n{json.dumps(plan.to_dict(), indent=2)}\n```\n",
        )
    )


_ON_THE_HUB = {"squad1": "rajpurkar/squad", "squad2": "rajpurkar/squad_v2", "conll2003": "eriktks/conll2003"}
_GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax")
_METRIC_TYPES = {
    "exact": "exact_match",
    "matthews": "matthews_correlation",
    "mean_squared_error": "mse",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""Where the Hub has another name for a metric."""


def _head(adapter: TaskAdapter, metrics: dict[str, Any]) -> str:
    """The head of the card: origin, and the scores as the Hub shows them."""
    task = adapter.task.name
    dataset = "nyu-mll/glue" if task in _GLUE else _ON_THE_HUB.get(task)
    results = [
        EvalResult(
            task_type=adapter.pipeline,
            dataset_type=dataset or task,
            dataset_config=task if task in _GLUE else None,
            dataset_name=Path(metrics["files"][split]).name,
            dataset_split=split,
            metric_type="f1" if name.endswith("_f1") else _METRIC_TYPES.get(name, name),
            metric_name=name,
            metric_value=round(value, 4),
        )
        for split, scores in metrics["scores"].items()
        for name, value in scores.items()
    ]
    return head(
        adapter.pipeline,
        base=metrics["model"],
        datasets=[dataset] if dataset else [],
        name=f"ConvBERT for {task}",
        results=results,
    )
