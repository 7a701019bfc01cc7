"""What a reader should know of labelled data before a model is trained or scored on it, and a dev part split off."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.data import Example, Feature, counted
from convbert.finetuning.recipes import FinetuningPlan
from convbert.tokenization import ConvBertTokenizerFast
from convbert.tokenization.unknown import UnknownTokens
from convbert.util.errors import InputError


def cut_note(
    name: str,
    adapter: TaskAdapter,
    examples: Sequence[Example],
    features: Sequence[Feature],
    plan: FinetuningPlan,
) -> list[str]:
    """A sentence on how many examples were cut, or none."""
    cut = len({feature.example for feature in features if feature.is_cut})
    limit = f"{adapter.cut_at} ({getattr(plan, adapter.cut_at)} tokens)"
    return [f"{name}: {cut:,} of {len(examples):,} texts are longer than {limit} and are cut"] if cut else []


_FEW = 5
"""A label with fewer examples is hardly learned."""


def label_notes(name: str, adapter: TaskAdapter, examples: Sequence[Example]) -> list[str]:
    """Sentences on how often each label occurs, for before training."""
    counts = Counter(dict.fromkeys(adapter.known_labels, 0) if adapter.labels_of(examples[0]) else ())
    counts.update(label for example in examples for label in adapter.labels_of(example))
    if not counts:
        return [f"{name}: {len(examples):,} examples"]
    notes = [f"{name}: {len(examples):,} examples; labels: {counted(counts)}"]
    few = Counter({label: count for label, count in counts.items() if count < _FEW})
    if few:
        notes.append(f"{name}: labels that hardly occur: {counted(few)}")
    return notes


def feature_notes(
    name: str,
    adapter: TaskAdapter,
    examples: Sequence[Example],
    features: Sequence[Feature],
    tokenizer: ConvBertTokenizerFast,
    plan: FinetuningPlan,
    training: bool = False,
) -> list[str]:
    """Sentences on texts that were cut, questions that no window answers, and words that the tokenizer does not know.

    Raises:
        InputError: in training, nothing is left to learn from, or every token is [UNK].
    """
    notes = cut_note(name, adapter, examples, features, plan)
    if training:
        missing = len(examples) - len({feature.example for feature in features})
        if missing == len(examples):
            raise InputError(f"{name}: no example has its answer within a window: raise max_length")
        if missing:
            notes.append(
                f"{name}: {missing:,} of {len(examples):,} questions are left out: no window of max_length "
                f"({plan.max_length} tokens) holds their answer"
            )
    unknown = count_unknown(features, tokenizer, examples)
    if training and unknown.is_everything:
        raise InputError(f"{name}: nothing can be learned: {unknown.sentence()}")
    sentence = unknown.sentence()
    return [*notes, f"{name}: {sentence}"] if sentence else notes


def count_unknown(
    features: Sequence[Feature],
    tokenizer: ConvBertTokenizerFast,
    examples: Sequence[Example],
    into: UnknownTokens | None = None,
) -> UnknownTokens:
    """How many tokens of some features are [UNK]."""
    counter = into or UnknownTokens(tokenizer)
    for feature in features:
        text = _text_of_inputs(examples[feature.example].inputs)
        rows = feature.input_ids if isinstance(feature.input_ids[0], list) else [feature.input_ids]
        for ids in rows:
            counter.add(ids, text)
    return counter


def _text_of_inputs(inputs: dict[str, Any]) -> str:
    texts = (" ".join(each) if isinstance(each, list) else each for each in inputs.values())
    return next((text for text in texts if isinstance(text, str)), "")


def split_off_dev(
    adapter: TaskAdapter, examples: Sequence[Example], share: float = 0.1, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Training examples, and a part of them to score on.

    Every label keeps its share. Examples with the same text (or questions about one context) stay on one side.

    Raises:
        InputError: there are too few.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, example in enumerate(examples):
        groups[example.inputs.get("context") or repr(example.inputs)].append(number)
    strata: dict[Any, list[list[int]]] = defaultdict(list)
    for numbers in groups.values():
        strata[tuple(sorted(set(adapter.labels_of(examples[numbers[0]]))))].append(numbers)
    draw = Random(seed)
    chosen: set[int] = set()
    rest = 0.0  # what small strata could not give is carried over to the next
    for key in sorted(strata):
        members = strata[key]
        draw.shuffle(members)
        rest += share * len(members)
        count = min(round(rest), len(members) - 1)
        rest -= count
        chosen.update(number for group in members[:count] for number in group)
    if not chosen:
        raise InputError(f"{len(examples):,} examples are too few to split off a dev part: give --dev")
    train = [example for number, example in enumerate(examples) if number not in chosen]
    return train, [examples[number] for number in sorted(chosen)]
