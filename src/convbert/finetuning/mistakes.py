"""The worst mistakes of a model, as cards of a page: what it said, what is right, and what it went by."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

import torch

from convbert.finetuning import squad
from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.adapters.tagging import Tagging
from convbert.finetuning.data import Example, Feature, Prediction, Split
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.report.page import tokens
from convbert.tokenization import ConvBertTokenizerFast

_WORST = 20
_AROUND = 600
"""Characters of a context that are shown on either side of its answers."""


def worst_mistakes(
    split: Split,
    predictions: Sequence[Prediction],
    model: ConvBertPreTrainedModel,
    tokenizer: ConvBertTokenizerFast,
) -> str:
    kind = split.adapter.task.kind
    pairs = list(zip(split.examples, predictions, strict=True))
    errors = [how_wrong(split.adapter, *pair) for pair in pairs]
    cards = []
    for number in sorted(range(len(pairs)), key=lambda each: -errors[each])[:_WORST]:
        if errors[number] <= 0:
            break
        example, prediction = pairs[number]
        if kind == "tagging":
            shown = tagged(example, prediction)
        elif kind == "question-answering":
            shown = answered(example, prediction)
        else:
            shown = _read(split, number, prediction, model, tokenizer)
        cards.append(f"<div class='card'>{shown}<div class='note'>{escape(example.place)}</div></div>")
    return _LEGENDS.get(kind, _INFLUENCE) + "".join(cards) if cards else ""


def how_wrong(adapter: TaskAdapter, example: Example, prediction: Prediction) -> float:
    """0 where an answer is right, and more the worse and the surer it is."""
    answer, target = prediction["answer"], example.target
    if adapter.task.kind == "question-answering":
        gold = [text for text, _ in target]
        return (1 - squad.best_over_gold(squad.f1, gold, answer)) * (0.5 + prediction["score"])
    if isinstance(adapter, Tagging):
        return sum(map(str.__ne__, adapter.in_bio(answer), target)) / len(target) ** 0.5
    if adapter.task.kind == "regression":
        return abs(answer - target)
    if adapter.task.kind == "multi-label":
        return float(len(set(answer) ^ set(target)))
    return 0.0 if answer == target else 1 - prediction["probabilities"][target]


_INFLUENCE = (
    "<p class='note'>Words that <mark style='background:rgba(245,130,50,.5)'>speak for the answer</mark> and "
    "<mark style='background:rgba(60,130,220,.5)'>against it</mark>, by the gradient of its score.</p>"
)
_LEGENDS = {
    "multi-label": _INFLUENCE.replace("the answer", "the label that is most wrong"),
    "tagging": "<p class='note'><mark class='both'>Right</mark> and <mark class='answer'>wrong</mark> tags.</p>",
    "question-answering": (
        "<p class='note'><mark class='answer'>The model's answer</mark>, <mark class='gold'>the right one</mark> and "
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
    """What was answered and what is right, and the text with the tokens that speak for the answer."""
    example, adapter = split.examples[number], split.adapter
    feature = split.features[number]
    answer = prediction["answer"]
    ids, right, said, explained = feature.input_ids, example.target, answer, ""
    if adapter.task.kind == "multiple-choice":
        ids, output = feature.input_ids[answer], answer
        right, said = (example.inputs["choices"][choice] for choice in (example.target, answer))
    elif adapter.task.kind == "multi-label":
        shares = prediction["probabilities"].items()
        label = max(shares, key=lambda pair: abs(pair[1] - (pair[0] in example.target)))[0]
        output, explained = adapter.labels.index(label), f", most wrong: <b><bdi>{escape(label)}</bdi></b>"
    else:
        output = adapter.labels.index(answer) if answer in adapter.labels else 0
    words = tokenizer.convert_ids_to_tokens(ids)
    sure = f" ({prediction['score']:.0%})" if "score" in prediction else ""
    text = tokens(words, token_influence(model, adapter, feature, output))
    return f"{_head(_shown(said), sure, _shown(right))}{explained}<p dir='auto'>{text}</p>"


def _head(said: str, sure: str, right: str) -> str:
    return f"model: <b><bdi>{escape(said)}</bdi></b>{sure}, right: <b><bdi>{escape(right)}</bdi></b>"


def token_influence(
    model: ConvBertPreTrainedModel, adapter: TaskAdapter, feature: Feature, output: int
) -> list[float]:
    """How much each token speaks for one of the model's outputs (a label, a choice), between -1 and 1.

    The sum over a token's word embedding of value times gradient of the output's logit, over the largest such sum
    (Denil et al., 2014, arXiv 1412.6815; Shrikumar et al., 2016, arXiv 1605.01713). Of choices, the chosen one is read.
    """
    was_training = model.training
    model.eval()
    batch = adapter.collate([Feature(0, feature.input_ids, feature.token_type_ids)], 0)
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    words = model.get_input_embeddings()(batch.pop("input_ids")).detach().requires_grad_()
    with torch.enable_grad():
        logit = model(inputs_embeds=words, **batch).logits[0, output]
        (gradient,) = torch.autograd.grad(logit, words)
    model.train(was_training)
    speaks = (words * gradient).sum(-1)[0].detach()
    if speaks.dim() == 2:
        speaks = speaks[output][: len(feature.input_ids[output])]
    return (speaks / speaks.abs().max().clamp(min=1e-12)).tolist()


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(value) or "none" if isinstance(value, list | tuple) else str(value)


def tagged(example: Example, prediction: Prediction) -> str:
    """The sentence: green where the tag is right, else orange with the model's tag and the right one."""
    shown = []
    for word, right, answer in zip(
        example.inputs["tokens"], example.target, prediction["answer"], strict=True
    ):
        if right == answer == "O":
            shown.append(escape(word))
        elif right == answer:
            shown.append(f"<mark class='both'>{escape(word)}<sub>{escape(right)}</sub></mark>")
        else:
            tags = f"{escape(answer)}, right: {escape(right)}"
            shown.append(f"<mark class='answer'>{escape(word)}<sub>{tags}</sub></mark>")
    return f"<p dir='auto'>{' '.join(shown)}</p>"


def answered(example: Example, prediction: Prediction) -> str:
    """Question, answers, and the context around them with the right one in green and the model's in orange."""
    context, answer = example.inputs["context"], prediction["answer"]
    spans = [(start, start + len(text), "gold") for text, start in dict.fromkeys(example.target)]
    if answer:
        spans.append((prediction["start"], prediction["start"] + len(answer), "answer"))
    first_edge, last_edge = (
        pick((edge for span in spans for edge in span[:2]), default=0) for pick in (min, max)
    )
    begin, end = max(0, first_edge - _AROUND), min(len(context), last_edge + _AROUND)
    inside = (edge for span in spans for edge in span[:2] if begin < edge < end)
    shown = "… " * (begin > 0)
    for first, last in pairwise(sorted({begin, end, *inside})):
        kinds = {kind for start, stop, kind in spans if start <= first and last <= stop}
        name = "both" if len(kinds) == 2 else next(iter(kinds), "")
        text = escape(context[first:last])
        shown += f"<mark class='{name}'>{text}</mark>" if name else text
    shown += " …" * (end < len(context))
    right = " / ".join(dict.fromkeys(text for text, _ in example.target)) or "none"
    head = _head(answer or "none", f" ({prediction['score']:.0%})", right)
    return f"<b dir='auto'>{escape(example.inputs['question'])}</b><br>{head}<p dir='auto'>{shown}</p>"
