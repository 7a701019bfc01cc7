"""`report.html`: what was trained on what, its scores, where the model is right and wrong, and its worst mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from operator import itemgetter
from os.path import isfile
from pathlib import Path
from time import strftime
from typing import Any

import numpy as np
from rich.filesize import decimal

from convbert.finetuning import squad
from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.data import Example, Prediction, Split
from convbert.finetuning.mistakes import worst_mistakes
from convbert.inference.tags import entity_spans
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.report import page as html
from convbert.report.page import Chart, Line, note, points, readable, section, table
from convbert.tokenization import ConvBertTokenizerFast

History = Sequence[Mapping[str, Any]]
Interval = tuple[float, float]

_MOST_LABELS = 30
"""A confusion matrix of more labels could not be read."""
_MOST_POINTS = 3000
_RESAMPLES = 300
_RESAMPLED = 200_000
"""Examples that all resamples of a bootstrap have together, at most; but there are at least 50."""
_IN_PERCENT = ("f1", "exact", "best_f1", "best_exact")
_COMMONEST = "always the commonest answer of the training data"
_BASELINES = {
    **dict.fromkeys(("classification", "multi-label", "multiple-choice"), _COMMONEST),
    "regression": "always the mean of the training data",
    "tagging": "each word's commonest tag in the training data",
    "question-answering": "always the first three words of the context, or no answer where that may be right",
}
_MEANINGS = {
    "accuracy": "share of answers that are right",
    "macro_f1": "mean of the labels' F1, each counting the same",
    "micro_f1": "F1 over all pairs of a text and a label",
    "positive_f1": "F1 of the positive label",
    "matthews": "correlation of answers and labels: 0 is chance, 1 is perfect",
    "entity_f1": "F1 of entities; one counts with its type and both borders right",
    "pearson": "linear correlation with the right numbers",
    "spearman": "correlation of ranks with the right numbers",
    "mean_squared_error": "mean of squared errors; less is better",
    "f1": "words shared with the right answer, in percent",
    "exact": "answers that are right to the letter, in percent",
}


def report_html(
    title: str,
    metrics: Mapping[str, Any],
    split: Split,
    predictions: Sequence[Prediction],
    model: ConvBertPreTrainedModel,
    tokenizer: ConvBertTokenizerFast,
    histories: Mapping[str, History] | None = None,
    train: Sequence[Example] = (),
) -> str:
    """The page, as a document that needs no other file.

    Args:
        metrics: what `metrics.json` holds, or `{"scores": {split: {metric: value}}}`.
        histories: name of a run to its log entries.
        train: the training data, to count its labels.
    """
    histories = histories or {}
    return html.page(
        title,
        _summary(metrics, split),
        section("Scores", _scores(metrics, split, intervals(split, predictions))),
        section("Model and data", html.facts(_about(metrics, split))),
        section("Training", *_training(metrics, histories)),
        section("Answers", _overview(split, predictions, train)),
        section("Worst mistakes", worst_mistakes(split, predictions, model, tokenizer)),
        section("Recipe", html.plan_fields(split.plan.to_dict())),
    )


def _summary(metrics: Mapping[str, Any], split: Split) -> str:
    scores = metrics["scores"].get(split.name, {})
    shown = [(f"{readable(name)}, {split.name}", f"{value:.4g}") for name, value in scores.items()][:1]
    for name, value in list((metrics.get("baseline") or {}).items())[:1]:
        shown.append((f"{readable(name)} without a model", f"{value:.4g}"))
    return html.tiles([*shown, (f"examples in {split.name}", f"{len(split.examples):,}")]) + note(
        "Read the scores first, then which labels or kinds of answers go wrong, then the worst mistakes one by one: "
        "they often show errors in the data."
    )


def _scores(metrics: Mapping[str, Any], split: Split, ranges: Mapping[str, Interval]) -> str:
    baseline = metrics.get("baseline") or {}
    rows = []
    for name, scores in metrics["scores"].items():
        for metric, value in scores.items():
            low, high = (ranges if name == split.name else {}).get(metric, (None, None))
            rows.append((name, readable(metric), value, low, high, baseline.get(metric)))
    head = ("data", "metric", "score", "95 % from", "to", "without a model")
    kept = [0, 1, 2, *((3, 4) if ranges else ()), *((5,) if baseline else ())]
    shown = table([head[n] for n in kept], [[row[n] for n in kept] for row in rows])
    names = dict.fromkeys(name for scores in metrics["scores"].values() for name in scores)
    remarks = [f"{readable(name)}: {_MEANINGS[name]}" for name in names if name in _MEANINGS]
    shown += note("; ".join(remarks) + "." if remarks else "")
    if ranges:
        shown += note(
            f"95 %: how far chance in the choice of these {len(split.examples):,} examples may have moved the score. "
            "Two models whose intervals share much may be equally good."
        )
    if baseline:
        shown += note(f"Without a model: {_BASELINES[split.adapter.task.kind]}.")
    seeds = metrics.get("seeds", {})
    if len(seeds) > 1:
        spread = metrics["spread"]
        shown += (
            f"<p>Scores are medians of {len(seeds)} seeds; {escape(readable(metrics['metric']))} from "
            f"{spread['lowest']:.4f} to {spread['highest']:.4f}. The model, its interval and all that follows are "
            f"of seed {metrics['best_seed']}.</p>"
        )
    if metrics.get("collapsed_seeds"):
        collapsed = ", ".join(map(str, metrics["collapsed_seeds"]))
        shown += f"<p>Collapsed (the same answer to everything): seeds {collapsed}.</p>"
    return shown


def intervals(split: Split, predictions: Sequence[Prediction]) -> dict[str, Interval]:
    """95 % intervals of the scores: Wilson's for a share of right answers, else the bootstrap's over examples."""
    count, adapter = len(split.examples), split.adapter
    scores = adapter.score(split.examples, predictions)
    found = {}
    if adapter.task.kind in ("classification", "multiple-choice") and "accuracy" in scores:
        found["accuracy"] = html.wilson(scores["accuracy"], count)
    if missing := scores.keys() - found.keys():
        resamples = min(_RESAMPLES, max(50, _RESAMPLED // count))
        draws = np.random.default_rng(0).integers(count, size=(resamples, count))
        if adapter.task.kind == "question-answering":  # means over questions
            of_each = _question_metrics(split, predictions)
            values = {
                name: np.array([one[name] for one in of_each])[draws].mean(1) for name in ("f1", "exact")
            }
        else:
            again = [
                adapter.score([split.examples[n] for n in draw], [predictions[n] for n in draw])
                for draw in draws
            ]
            values = {name: np.array([one[name] for one in again]) for name in missing}
        for name in missing & values.keys():
            low, high = np.percentile(values[name], (2.5, 97.5))
            found[name] = (float(low), float(high))
    # Where all draws agree, as of a model that says one thing, they tell nothing of chance.
    return {name: found[name] for name in scores if name in found and found[name][0] < found[name][1]}


def _training(metrics: Mapping[str, Any], histories: Mapping[str, History]) -> Iterator[str]:
    splits = list(metrics["scores"])
    if not histories or not splits:
        return
    losses, scores = [], []
    for number, (run, history) in enumerate(histories.items()):
        color, label = f"C{number % 10}", f"{run}, " if len(histories) > 1 else ""
        losses.append(Line(f"{label}training", *points(history, "train_loss"), color=color))
        of_split = points(history, f"{splits[0]}_loss")
        losses.append(Line(f"{label}{splits[0]}", *of_split, measured=True, color=color))
    metric = metrics.get("metric", next(iter(metrics["scores"][splits[0]])))
    baseline = (metrics.get("baseline") or {}).get(metric)
    for split in splits:
        lines = [
            Line(run, *points(history, f"{split}_{metric}"), measured=True)
            for run, history in histories.items()
        ]
        level = {} if baseline is None or split != splits[0] else {"without a model": baseline}
        top = 100.0 if metric in _IN_PERCENT else 1.0
        title = f"{readable(metric)} on {split}"
        scores.append(Chart(title=title, lines=lines, unit=readable(metric), top=top, levels=level))
    yield html.curves([Chart(title="loss", lines=losses, unit="mean loss an example"), *scores])
    names = {"train_loss": "training loss"}
    for split, found in metrics["scores"].items():
        names |= {f"{split}_{name}": f"{readable(name)}, {split}" for name in ("loss", *found)}
    logged = {name for history in histories.values() for entry in history for name in entry}
    yield html.by_step(histories, {name: names[name] for name in names if name in logged}, "train_loss")


def _about(metrics: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """What was trained on and scored on what, and when."""
    model = metrics.get("model")
    found: dict[str, Any] = {
        "model": "the embedded English model" if model == "embedded" else model,
        "task": f"{split.adapter.task.name} ({split.adapter.task.kind})",
    }
    for name, count in metrics.get("examples", {split.name: len(split.examples)}).items():
        shown, file = [f"{count:,} examples"], metrics.get("files", {}).get(name)
        if file is not None:
            shown += [decimal(Path(file).stat().st_size), file] if isfile(file) else [file]
        found[f"data, {name}"] = ", ".join(shown)
    if seeds := metrics.get("seeds"):
        each = list(seeds.values())
        found["seeds"] = ", ".join(map(str, seeds))
        steps = (f"{one['steps']:,} (the best after {one.get('best_step', one['steps']):,})" for one in each)
        found["steps"] = ", ".join(steps)
        found["training time"] = f"{sum(one['minutes'] for one in each):.3g} minutes on {each[0]['device']}"
    found["date"] = metrics.get("date", strftime("%Y-%m-%d"))
    versions = [f"{name} {metrics[name]}" for name in ("torch", "transformers", "python") if name in metrics]
    return found | {"versions": ", ".join(versions) or None}


def _overview(split: Split, predictions: Sequence[Prediction], train: Sequence[Example]) -> str:
    if split.adapter.task.kind == "question-answering":
        return _questions(split, predictions)
    right, trained = ([example.target for example in each] for each in (split.examples, train))
    answers = [prediction["answer"] for prediction in predictions]
    if split.adapter.task.kind == "regression":
        return _numbers(right, answers, trained)
    return _labels(split.adapter, right, answers, trained)


def _labels(adapter: TaskAdapter, right: list[Any], answers: list[Any], train: list[Any]) -> str:
    """Counts, precision, recall and F1 of every label, and which was taken for which where there is one an answer."""
    is_entities = "entity_f1" in adapter.task.metrics
    names = sorted(adapter.known_labels) if is_entities else list(adapter.labels)
    if adapter.task.kind == "multiple-choice":
        names = [f"choice {n + 1}" for n in range(max([*right, *answers, *train]) + 1)]

    def items(target: Any) -> set[Any]:
        """What counts as right where it stands in an answer, too; its first part is the label."""
        if is_entities:
            return entity_spans(target)
        if isinstance(target, int):
            target = (f"choice {target + 1}",)
        elif isinstance(target, str):
            target = (target,)
        return {(label, 0 if adapter.task.kind == "multi-label" else n) for n, label in enumerate(target)}

    wanted, given, trained = ([items(target) for target in each] for each in (right, answers, train))
    both = [g & a for g, a in zip(wanted, given, strict=True)]
    counts = [
        Counter(label for found in sets for label, *_ in found) for sets in (both, wanted, given, trained)
    ]
    rows = []
    for name in names:
        hits, *others = (count[name] for count in counts)
        wanted_, given_, _ = others
        shares = [hits / count if count else None for count in (given_, wanted_)]
        f1 = 2 * hits / (given_ + wanted_) if given_ + wanted_ else None
        rows.append((name, *shares, f1, *others))
    head = ("label", "precision", "recall", "F1", "right answers", "model's answers", "in training")
    shown = table(head[: 6 + bool(train)], [row[: 6 + bool(train)] for row in rows])
    never = [name for name in names if counts[1][name] and not counts[2][name]]
    more = ", ..." if len(never) > _MOST_LABELS else ""
    shown += note(
        "Precision: the share of the model's answers with a label that are right. Recall: the share of the right ones "
        "that it found. F1: their harmonic mean."
        + (f" The model never answered: {', '.join(never[:_MOST_LABELS])}{more}." if never else "")
    )
    if is_entities or adapter.task.kind == "multi-label" or len(names) > _MOST_LABELS:
        return shown
    pairs = Counter(
        (g[0], a[0])
        for w, s in zip(wanted, given, strict=True)
        for g, a in zip(*(sorted(each, key=itemgetter(1)) for each in (w, s)), strict=True)
    )
    return shown + html.confusion(names, [[pairs[g, a] for a in names] for g in names])


def _numbers(right: list[float], answers: list[float], train: list[float]) -> str:
    """How the numbers are spread, and each answer against the right one, on axes of one scale."""
    from matplotlib.figure import Figure

    spread = {"right answers": right, "model's answers": answers, "in training": train}
    rows = [
        (name, len(values), float(np.mean(values)), float(np.std(values)), min(values), max(values))
        for name, values in spread.items()
        if values
    ]
    shown = table(("numbers", "count", "mean", "standard deviation", "lowest", "highest"), rows)
    pairs = np.array([right, answers])[:, :_MOST_POINTS]
    if pairs.shape[1] < 2 or not np.isfinite(pairs).all():
        return shown
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    room = 0.03 * float(np.ptp(pairs)) or 1.0
    limits = (float(pairs.min()) - room, float(pairs.max()) + room)
    axes.scatter(pairs[0], pairs[1], s=9, alpha=0.4)
    axes.plot(limits, limits, color="grey", linewidth=0.8)
    axes.set(xlabel="right answer", ylabel="model's answer", xlim=limits, ylim=limits, aspect="equal")
    axes.grid(alpha=0.3)
    return shown + note("Points on the line are right.") + html.figure_svg(figure)


def _questions(split: Split, predictions: Sequence[Prediction]) -> str:
    groups: dict[str, list[dict[str, float]]] = {}
    for example, metrics in zip(split.examples, _question_metrics(split, predictions), strict=True):
        groups.setdefault(example.inputs["question"].split()[0].lower()[:20], []).append(metrics)
    often = sorted(groups.items(), key=lambda item: -len(item[1]))[:12]
    rows = [
        (word, *(float(np.mean([one[name] for one in found])) for name in ("f1", "exact")), len(found))
        for word, found in often
    ]
    return table(("question begins with", "F1 (%)", "exact (%)", "questions"), rows)


def _question_metrics(split: Split, predictions: Sequence[Prediction]) -> list[dict[str, float]]:
    """F1 and exact match of each question, in percent."""
    may_be_missing = split.adapter.task.answers_may_be_missing
    pairs = zip(split.examples, predictions, strict=True)
    answered = [([text for text, _ in example.target], found["answer"]) for example, found in pairs]
    return [squad.evaluate({"": g}, {"": a}, answers_may_be_missing=may_be_missing) for g, a in answered]
