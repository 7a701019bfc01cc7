"""What a reader should know of labelled data before a model is trained or scored on it, and a dev part split off."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.data import Example, Feature, Split, counted
from convbert.tokenization import ConvBertTokenizerFast
from convbert.tokenization.unknown import UnknownTokens
from convbert.util.errors import InputError

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


def feature_notes(split: Split, tokenizer: ConvBertTokenizerFast, training: bool = False) -> list[str]:
    """Sentences on texts that were cut, questions that no window answers, and words that the tokenizer does not know.
    Refuses training where nothing is left to learn from, or every token is [UNK].
    """
    name, total, plan = split.name, len(split.examples), split.plan
    field = "max_length" if plan.long == "cut" else split.adapter.cut_at
    notes, unknown = [], UnknownTokens(tokenizer)
    for feature in split.features:
        count_unknown(feature, split.examples[feature.example].inputs, unknown)
    if cut := len({feature.example for feature in split.features if feature.is_cut}):
        limit = f"{field} ({getattr(plan, field)} tokens)"
        notes.append(f"{name}: {cut:,} of {total:,} texts are longer than {limit} and are cut")
    windowed = len({feature.example for feature in split.features if feature.is_windowed})
    if windowed and not training:
        limit = f"max_length ({plan.max_length} tokens)"
        notes.append(
            f"{name}: {windowed:,} of {total:,} texts are longer than {limit} and are read in windows"
        )
    if training:
        missing = total - len({feature.example for feature in split.features})
        if missing == total:
            raise InputError(f"{name}: no example has its answer within a window: raise max_length")
        if missing:
            notes.append(
                f"{name}: {missing:,} of {total:,} questions are left out: no window of max_length "
                f"({plan.max_length} tokens) holds their answer"
            )
        if unknown.is_everything:
            raise InputError(f"{name}: nothing can be learned: {unknown.sentence()}")
    sentence = unknown.sentence()
    return [*notes, f"{name}: {sentence}"] if sentence else notes


def count_unknown(feature: Feature, inputs: dict[str, Any], counter: UnknownTokens) -> None:
    """Count the tokens of a feature that are [UNK]."""
    shown = (" ".join(each) if isinstance(each, list) else each for each in inputs.values())
    example = next((text for text in shown if isinstance(text, str)), "")
    for text in feature.texts:
        counter.add(text.input_ids, example)


def split_off_dev(
    adapter: TaskAdapter, examples: Sequence[Example], share: float = 0.1, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Training examples, and a part of them to score on, with each label's share. Examples with the same text (or
    questions about one context) stay on one side.
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
