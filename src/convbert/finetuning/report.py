"""`report.html`: how training went, where the model is right and wrong, and its worst mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from convbert.finetuning import squad
from convbert.finetuning.data import Example, Kind, Prediction
from convbert.finetuning.inference import Split
from convbert.finetuning.metrics import entity_spans
from convbert.finetuning.saliency import token_influence
from convbert.model import ConvBertPreTrainedModel
from convbert.page import confusion, figure_svg, page, section, table, tokens
from convbert.tokenization import ConvBertTokenizerFast

_WORST = 20
_MOST_LABELS = 30
"""A confusion matrix of more labels could not be read."""
_MOST_POINTS = 3000


def report_html(
    title: str,
    metrics: Mapping[str, Any],
    split: Split,
    predictions: Sequence[Prediction],
    model: ConvBertPreTrainedModel,
    tokenizer: ConvBertTokenizerFast,
    histories: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> str:
    """The page, as a document that needs no other file.

    Args:
        metrics: what `metrics.json` holds, or `{"scores": {split: {metric: value}}}`.
        split, predictions: what is looked at.
        histories: name of a run to its log entries.
    """
    return page(
        title,
        section("Scores", _scores(metrics)),
        section("Training", _curves(histories or {}, f"{split.name}_{metrics.get('metric', '')}")),
        section("Recipe", _recipe(split)),
        section("Answers", _overview(split, predictions)),
        section("Most wrong", _worst(split, predictions, model, tokenizer)),
    )


def _scores(metrics: Mapping[str, Any]) -> str:
    baseline = metrics.get("baseline") or {}
    rows = [
        (split, name, value, *([baseline.get(name, "")] if baseline else []))
        for split, scores in metrics["scores"].items()
        for name, value in scores.items()
    ]
    head = ("data", "metric", "score", *(["most frequent answer"] if baseline else []))
    shown = table(head, rows)
    seeds = metrics.get("seeds", {})
    if len(seeds) > 1:
        spread = metrics["spread"]
        shown += (
            f"<p>Medians of {len(seeds)} seeds; {escape(metrics['metric'])} from {spread['lowest']:.4f} to "
            f"{spread['highest']:.4f}; the model is that of seed {metrics['best_seed']}.</p>"
        )
    if metrics.get("collapsed_seeds"):
        shown += f"<p>Collapsed: seeds {', '.join(map(str, metrics['collapsed_seeds']))}.</p>"
    return shown


def _curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], scored: str) -> str:
    if not histories:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    loss, score = figure.subplots(1, 2)
    for run, history in histories.items():
        for axes, name in ((loss, "train_loss"), (score, scored)):
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            if points:
                axes.plot(*zip(*points, strict=True), label=run, marker="." if axes is score else None)
    loss.set(xlabel="step", ylabel="training loss")
    score.set(xlabel="step", ylabel=scored.replace("_", " "))
    for axes in (loss, score):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure_svg(figure)


def _recipe(split: Split) -> str:
    rows = [(name, str(value)) for name, value in split.plan.to_dict().items()]
    return f"<details><summary>every field</summary>{table(('field', 'value'), rows)}</details>"


# ------------------------------------------------------------------------------------------- overview


def _overview(split: Split, predictions: Sequence[Prediction]) -> str:
    return _OVERVIEWS[split.kind.task.kind](split.kind, split.examples, predictions)


def _classes(kind: Kind, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
    gold = [example.target for example in examples]
    answers = [prediction["answer"] for prediction in predictions]
    shown = _per_class(kind.labels, [{label} for label in gold], [{label} for label in answers])
    if len(kind.labels) > _MOST_LABELS:
        return shown
    counts = Counter(zip(gold, answers, strict=True))
    return shown + confusion(kind.labels, [[counts[g, a] for a in kind.labels] for g in kind.labels])


def _several(kind: Kind, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
    gold = [set(example.target) for example in examples]
    return _per_class(kind.labels, gold, [set(prediction["answer"]) for prediction in predictions])


def _per_class(labels: Sequence[str], gold: Sequence[set[Any]], answers: Sequence[set[Any]]) -> str:
    """Precision, recall and F1 of every label; sets hold what stands there, labels or spans by their first part."""
    rows = []
    for label in labels:
        hits = sum(_count(g & a, label) for g, a in zip(gold, answers, strict=True))
        given = sum(_count(a, label) for a in answers)
        wanted = sum(_count(g, label) for g in gold)
        rows.append(
            (
                label,
                hits / given if given else 0.0,
                hits / wanted if wanted else 0.0,
                2 * hits / (given + wanted) if given + wanted else 0.0,
                wanted,
            )
        )
    return table(("label", "precision", "recall", "F1", "examples"), rows)


def _count(found: set[Any], label: str) -> int:
    return sum(label == (item if isinstance(item, str) else item[0]) for item in found)


def _scatter(kind: Kind, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    pairs = [(e.target, p["answer"]) for e, p in zip(examples, predictions, strict=True)][:_MOST_POINTS]
    gold, answers = zip(*pairs, strict=True)
    axes.scatter(gold, answers, s=9, alpha=0.4)
    axes.plot([min(gold), max(gold)], [min(gold), max(gold)], color="grey", linewidth=0.8)
    axes.set(xlabel="gold", ylabel="answer")
    axes.grid(alpha=0.3)
    return figure_svg(figure)


def _tags(kind: Kind, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
    if "entity_f1" in kind.task.metrics:
        types = sorted({label[2:] for label in kind.labels} - {""})
        gold = [entity_spans(example.target) for example in examples]
        return _per_class(types, gold, [entity_spans(prediction["answer"]) for prediction in predictions])
    gold_tags = [{(tag, n) for n, tag in enumerate(example.target)} for example in examples]
    answers = [{(tag, n) for n, tag in enumerate(prediction["answer"])} for prediction in predictions]
    shown = _per_class(kind.labels, gold_tags, answers)
    if len(kind.labels) > _MOST_LABELS:
        return shown
    counts = Counter(
        pair
        for e, p in zip(examples, predictions, strict=True)
        for pair in zip(e.target, p["answer"], strict=True)
    )
    return shown + confusion(kind.labels, [[counts[g, a] for a in kind.labels] for g in kind.labels])


def _question_scores(kind: Kind, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
    first_words: dict[str, list[float]] = {}
    for example, prediction in zip(examples, predictions, strict=True):
        word = example.inputs["question"].split()[0].lower()
        gold = [text for text, _ in example.target]
        first_words.setdefault(word, []).append(squad.best_over_gold(squad.f1, gold, prediction["answer"]))
    often = sorted(first_words.items(), key=lambda item: -len(item[1]))[:12]
    rows = [(word, 100 * sum(scores) / len(scores), len(scores)) for word, scores in often]
    return table(("question begins with", "F1", "questions"), rows)


def _choice_counts(kind: Kind, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
    labels = [str(number) for number in range(len(examples[0].inputs["choices"]))]
    counts = Counter((str(e.target), str(p["answer"])) for e, p in zip(examples, predictions, strict=True))
    return confusion(labels, [[counts[g, a] for a in labels] for g in labels])


_OVERVIEWS = {
    "classification": _classes,
    "multi-label": _several,
    "regression": _scatter,
    "tagging": _tags,
    "question-answering": _question_scores,
    "multiple-choice": _choice_counts,
}


# ------------------------------------------------------------------------------------- worst mistakes


def _worst(
    split: Split,
    predictions: Sequence[Prediction],
    model: ConvBertPreTrainedModel,
    tokenizer: ConvBertTokenizerFast,
) -> str:
    numbered = enumerate(zip(split.examples, predictions, strict=True))
    errors = sorted(((split.kind.mistake(e, p), number) for number, (e, p) in numbered), key=lambda x: -x[0])
    cards = []
    for error, number in errors[:_WORST]:
        if error <= 0:
            break
        example, prediction = split.examples[number], predictions[number]
        if split.kind.task.kind == "tagging":
            shown = _tagged(example, prediction)
        elif split.kind.task.kind == "question-answering":
            shown = _answered(example, prediction)
        else:
            shown = _read(split, number, prediction, model, tokenizer)
        cards.append(f"<div class='card'>{shown}<div class='note'>{escape(example.place)}</div></div>")
    return _LEGENDS.get(split.kind.task.kind, _INFLUENCE) + "".join(cards) if cards else ""


_INFLUENCE = (
    "<p class='note'>Words that <mark style='background:rgba(245,130,50,.5)'>speak for the answer</mark> and "
    "<mark style='background:rgba(60,130,220,.5)'>against it</mark>, by the gradient of its score.</p>"
)
_LEGENDS = {
    "multi-label": _INFLUENCE.replace("the answer", "the label that is most wrong"),
    "tagging": "<p class='note'><mark class='both'>right</mark> and <mark class='answer'>wrong</mark> tags.</p>",
    "question-answering": (
        "<p class='note'><mark class='answer'>The answer</mark>, <mark class='gold'>what is right</mark> and "
        "<mark class='both'>where they agree</mark>.</p>"
    ),
}


def _read(
    split: Split,
    number: int,
    prediction: Prediction,
    model: ConvBertPreTrainedModel,
    tokenizer: ConvBertTokenizerFast,
) -> str:
    """Gold and answer, and the text with the tokens that speak for the answer."""
    example, kind = split.examples[number], split.kind
    feature = split.features[number]
    answer = prediction["answer"]
    ids, gold, said, explained = feature.input_ids, example.target, answer, ""
    if kind.task.kind == "multiple-choice":
        ids, output = feature.input_ids[answer], answer
        gold, said = (example.inputs["choices"][choice] for choice in (example.target, answer))
    elif kind.task.kind == "multi-label":
        label = _most_wrong_label(example, prediction)
        output, explained = kind.labels.index(label), f", most wrong <b>{escape(label)}</b>"
    else:
        output = kind.labels.index(answer) if answer in kind.labels else 0
    words = tokenizer.convert_ids_to_tokens(ids)
    sure = f" ({prediction['score']:.0%})" if "score" in prediction else ""
    head = f"<b>{escape(_shown(said))}</b>{sure}, gold <b>{escape(_shown(gold))}</b>{explained}<br>"
    return head + tokens(words, token_influence(model, kind, feature, output))


def _most_wrong_label(example: Example, prediction: Prediction) -> str:
    distance = {
        name: abs(probability - (name in example.target))
        for name, probability in prediction["probabilities"].items()
    }
    return max(distance, key=distance.__getitem__)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(value) or "none" if isinstance(value, list | tuple) else str(value)


def _tagged(example: Example, prediction: Prediction) -> str:
    """The sentence: green where gold and answer agree on a tag, else orange with both."""
    shown = []
    for word, gold, answer in zip(
        example.inputs["tokens"], example.target, prediction["answer"], strict=True
    ):
        if gold == answer == "O":
            shown.append(escape(word))
        elif gold == answer:
            shown.append(f"<mark class='both'>{escape(word)}<sub>{escape(gold)}</sub></mark>")
        else:
            tags = f"{escape(answer)}, gold {escape(gold)}"
            shown.append(f"<mark class='answer'>{escape(word)}<sub>{tags}</sub></mark>")
    return " ".join(shown)


def _answered(example: Example, prediction: Prediction) -> str:
    """Question, answer, and the context with gold in green and the answer in orange."""
    context, answer = example.inputs["context"], prediction["answer"]
    spans = [(start, start + len(text), "gold") for text, start in dict.fromkeys(example.target)]
    if answer:
        spans.append((prediction["start"], prediction["start"] + len(answer), "answer"))
    edges = sorted({0, len(context), *(edge for first, last, _ in spans for edge in (first, last))})
    shown = ""
    for first, last in pairwise(edges):
        kinds = {kind for start, end, kind in spans if start <= first and last <= end}
        name = "both" if len(kinds) == 2 else next(iter(kinds), "")
        text = escape(context[first:last])
        shown += f"<mark class='{name}'>{text}</mark>" if name else text
    head = f"<b>{escape(example.inputs['question'])}</b><br>answer: {escape(answer or 'none')}"
    return f"{head} ({prediction['score']:.0%})<p>{shown}</p>"
