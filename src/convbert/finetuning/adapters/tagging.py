"""A tag for every word: entities (scored by exact spans) and parts of speech (by accuracy)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convbert.finetuning import metrics
from convbert.finetuning.adapters.base import TaskAdapter, Windows, check_length
from convbert.finetuning.cells import Report, label_in, sequence_in
from convbert.finetuning.data import Example, Feature, Prediction, pad
from convbert.finetuning.metrics import Scores
from convbert.finetuning.readers import Row
from convbert.finetuning.recipes import FinetuningPlan
from convbert.inference.engine import Packed, Rows
from convbert.inference.outputs import token_logits
from convbert.inference.tags import Scheme, as_bio, entity_spans, group_tags, read_scheme, scheme_of
from convbert.inference.windows import OVERLAP, most_context, plan_windows
from convbert.model.heads.token_classification import ConvBertForTokenClassification
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError

_IGNORED = -100
_SHOWN = 20
"""Labels with a score of their own."""


class Tagging(TaskAdapter):
    """A tag for every word, at its first piece. Sentences longer than `max_length` are read in overlapping windows."""

    model_class = ConvBertForTokenClassification
    target_role = "tags"
    pipeline = "token-classification"
    loss_counts_examples = False

    @property
    def has_entities(self) -> bool:
        """Whether tags say where spans begin."""
        return "entity_f1" in self.task.metrics

    def read_target(self, row: Row, column: str, inputs: dict[str, Any]) -> tuple[str, ...]:
        tags = [label_in(tag, row.place, column) for tag in sequence_in(row, column)]
        if len(tags) != len(inputs["tokens"]):
            raise InputError(f"{row.place}: {len(inputs['tokens'])} tokens and {len(tags)} tags")
        return tuple(tags)

    def settle(self, examples: list[Example], path: Path, report: Report) -> Sequence[Example | InputError]:
        """Entities in BIO, whatever scheme the file has."""
        if not self.has_entities or not examples or examples[0].target is None:
            return examples
        scheme = read_scheme(tag for example in examples for tag in example.target)
        if scheme.note:
            report(f"{path}: {scheme.note}")
        settled: list[Example | InputError] = []
        for example in examples:
            if wrong := [tag for tag in example.target if tag not in scheme.parts]:
                which = f"{example.place}: {wrong[0]!r} is no tag of an entity: O, B-..., I-... are"
                settled.append(InputError(f"{which} (for other tags, use the task tagging)"))
            else:
                settled.append(replace(example, target=as_bio(example.target, scheme.parts)))
        return settled

    def names_in(self, train: Sequence[Example]) -> set[str]:
        names = {tag for example in train for tag in example.target}
        if self.has_entities:  # every type can begin and go on, whether or not the training data shows it
            names |= {f"{prefix}-{tag[2:]}" for prefix in "BI" for tag in names - {"O"}}
        return names

    def labels_of(self, example: Example) -> Sequence[str]:
        """Tags; of entities, their types."""
        if self.has_entities:
            return [name for name, *_ in group_tags(example.target) if name]
        return super().labels_of(example)

    @property
    def known_labels(self) -> Collection[str]:
        return self.scheme.types if self.has_entities else self.labels

    @property
    def scheme(self) -> Scheme:
        """Of the model's labels: a model of ours has BIO, others may have another."""
        return scheme_of(frozenset(self.labels), self.has_entities)

    def features(
        self,
        examples: Sequence[Example],
        tokenizer: ConvBertTokenizerFast,
        plan: FinetuningPlan,
        *,
        training: bool = False,
    ) -> list[Feature]:
        found = []
        for number, example in enumerate(examples):
            pieces, firsts = split_words(example.inputs["tokens"], tokenizer)
            room = plan.max_length - 2
            windows = plan_windows(len(pieces), room, room // OVERLAP)
            check_length(len(pieces) + 2, example.place, plan)
            is_cut = len(windows) > 1 and plan.long == "cut" and not training
            windows = windows[:1] if is_cut else windows
            for (first, last), words in zip(windows, share_words(firsts, windows), strict=True):
                ids = tokenizer.build_inputs_with_special_tokens(pieces[first:last])
                target = [_IGNORED] * len(ids) if training else None
                if target is not None:
                    for word, position in words:
                        target[position] = self.labels.index(example.target[word])
                found.append(
                    Feature(number, ids, [0] * len(ids), target, words, is_cut, is_windowed=len(windows) > 1)
                )
        return found

    def targets(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        return {"labels": pad([feature.target for feature in features], _IGNORED)}

    @staticmethod
    def forward(model: Any, packed: Packed) -> tuple[Rows, Tensor]:
        """Per token the best label's number, and its probability."""
        rows, lengths = token_logits(model, packed)
        logits = rows["logits"]
        return {"logits": torch.stack((logits.argmax(-1), logits.softmax(-1).amax(-1)), -1)}, lengths

    def decode(self, example: Example, windows: Windows, plan: FinetuningPlan) -> Prediction:
        tags = ["O"] * len(example.inputs["tokens"])
        scores = [0.0] * len(tags)
        for feature, output in windows:
            for word, position in feature.detail:
                tags[word] = self.labels[int(output[position, 0])]
                scores[word] = float(output[position, 1])
        return {"answer": tags, "scores": scores}

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:
        """Of entities micro F1 and each type's, by exact spans; of other tags accuracy, macro F1 and each tag's."""
        gold = [example.target for example in examples]
        answers = [self.in_bio(prediction["answer"]) for prediction in predictions]
        words = [[tag for row in rows for tag in row] for rows in (gold, answers)]
        accuracy = metrics.accuracy(*words)
        if not self.has_entities:
            each = {tag: metrics.positive_f1(words[0], words[1], tag) for tag in self.labels[:_SHOWN]}
            return {"accuracy": accuracy, "macro_f1": metrics.macro_f1(*words), **_named("f1", each)}
        spans = [[entity_spans(row) for row in rows] for rows in (gold, answers)]
        each = {
            name: metrics.micro_f1(
                *([{span for span in row if span[0] == name} for row in rows] for rows in spans)
            )
            for name in sorted(self.known_labels)[:_SHOWN]
        }
        return {"entity_f1": metrics.micro_f1(*spans), "accuracy": accuracy, **_named("entity_f1", each)}

    def in_bio(self, answer: Sequence[str]) -> Sequence[str]:
        return as_bio(answer, self.scheme.parts) if self.has_entities else answer


def split_text(text: str, tokenizer: ConvBertTokenizerFast) -> dict[str, Any]:
    """The words of a text as the tokenizer finds them: `text`, `tokens`, and `offsets`, of first character and end."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets: dict[int, tuple[int, int]] = {}
    for word, (start, end) in zip(encoded.word_ids(), encoded["offset_mapping"], strict=True):
        offsets[word] = (offsets.get(word, (start, end))[0], end)
    if not offsets:
        raise InputError(f"there is no word in the text {text!r:.60}")
    spans = list(offsets.values())
    return {"text": text, "tokens": [text[start:end] for start, end in spans], "offsets": spans}


def split_words(words: Sequence[str], tokenizer: ConvBertTokenizerFast) -> tuple[list[int], list[int]]:
    """Ids of all pieces of a sentence, and for each word the position of its first; a word without any is unknown."""
    pieces: list[int] = []
    firsts = []
    encoded = tokenizer(list(words), add_special_tokens=False, verbose=False)["input_ids"]
    for ids in encoded:
        firsts.append(len(pieces))
        pieces += ids or [tokenizer.unk_token_id]
    return pieces, firsts


def share_words(firsts: Sequence[int], windows: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Per window the words it answers for, each with the position of its first piece: those that it sees with most
    context around them. Words in no window have no answer."""
    shares: list[list[tuple[int, int]]] = [[] for _ in windows]
    seen_by = most_context(windows)
    for word, position in enumerate(firsts[: bisect_left(firsts, len(seen_by))]):
        best = int(seen_by[position])
        shares[best].append((word, position - windows[best][0] + 1))  # after [CLS]
    return shares


def _named(metric: str, each: dict[str, float]) -> Scores:
    return {f"{metric}_{name}": value for name, value in each.items()}
