"""A tag for every word: entities (scored by exact spans) and parts of speech (by accuracy)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convbert.errors import InputError
from convbert.finetuning import metrics
from convbert.finetuning.data import Array, Example, Feature, Kind, Prediction, check_known, list_in, pad
from convbert.finetuning.metrics import Scores
from convbert.finetuning.readers import Row
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.sequence import learn_labels
from convbert.heads.spans import plan_windows
from convbert.heads.token_classification import ConvBertForTokenClassification
from convbert.tokenization import ConvBertTokenizerFast

_IGNORED = -100
_OVERLAP = 4
"""Neighbouring windows on a long sentence share one `_OVERLAP`th of their pieces."""


@dataclass(frozen=True)
class Words:
    """Which words a window answers for, and at which of its positions: that of a word's first piece."""

    numbers: list[int]
    positions: list[int]


class Tagging(Kind):
    """A tag for every word, at its first piece. Sentences longer than `max_length` are read in overlapping windows."""

    model_class = ConvBertForTokenClassification
    target_role = "tags"
    pipeline = "token-classification"
    loss_counts_examples = False

    @property
    def has_entities(self) -> bool:
        """Whether tags say where spans begin."""
        return "entity_f1" in self.task.metrics

    def read_inputs(self, row: Row) -> dict[str, Any]:
        return {"tokens": _strings(row, self.task.columns["tokens"])}

    def read_target(self, row: Row, column: str, inputs: dict[str, Any]) -> tuple[str, ...]:
        tags = _strings(row, column)
        if len(tags) != len(inputs["tokens"]):
            raise InputError(f"{row.place}: {len(inputs['tokens'])} tokens and {len(tags)} tags")
        if not self.has_entities:
            return tuple(tags)
        for tag in tags:
            if tag != "O" and tag[:2] not in ("B-", "I-", "E-", "S-"):
                raise InputError(f"{row.place}: {tag!r} is no tag of an entity: O, B-..., I-... are (for other tags, "
                                 "use the task tagging)")  # fmt: skip
        return as_bio(tags)

    def learn(self, train: Sequence[Example]) -> None:
        names = {tag for example in train for tag in example.target}
        if self.has_entities:  # every type can begin and go on, whether or not the training data shows it
            types = {tag[2:] for tag in names - {"O"}}
            names |= {f"{prefix}-{name}" for prefix in "BI" for name in types}
        self.labels = learn_labels(self, names, train[0].place)

    def check(self, examples: Sequence[Example]) -> None:
        for example in examples:
            for tag in example.target:
                check_known(tag, self.labels, example.place)

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
            windows = plan_windows(len(pieces), room, room // _OVERLAP)
            for window, words in zip(windows, share_words(firsts, windows), strict=True):
                found.append(self._feature(number, example, pieces, window, words, tokenizer, training))
        return found

    def _feature(
        self,
        number: int,
        example: Example,
        pieces: list[int],
        window: tuple[int, int],
        words: Words,
        tokenizer: ConvBertTokenizerFast,
        training: bool,
    ) -> Feature:
        ids = tokenizer.build_inputs_with_special_tokens(pieces[slice(*window)])
        target = None
        if training:
            target = [_IGNORED] * len(ids)
            for word, position in zip(words.numbers, words.positions, strict=True):
                target[position] = self.labels.index(example.target[word])
        return Feature(number, ids, [0] * len(ids), target, words)

    def targets(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        return {"labels": pad([feature.target for feature in features], _IGNORED)}

    def outputs(self, result: Any, lengths: Sequence[int]) -> list[Array]:
        """Per feature (T, 2): the best label's number, and its probability."""
        best = torch.stack((result.logits.argmax(-1), result.logits.float().softmax(-1).amax(-1)), -1)
        return [row[:length].cpu().numpy() for row, length in zip(best, lengths, strict=True)]

    def decode(
        self,
        examples: Sequence[Example],
        features: Sequence[Feature],
        outputs: Sequence[Array],
        plan: FinetuningPlan,
    ) -> list[Prediction]:
        tags = [["O"] * len(example.inputs["tokens"]) for example in examples]
        scores = [[0.0] * len(row) for row in tags]
        for feature, output in zip(features, outputs, strict=True):
            for word, position in zip(feature.detail.numbers, feature.detail.positions, strict=True):
                tags[feature.example][word] = self.labels[int(output[position, 0])]
                scores[feature.example][word] = float(output[position, 1])
        return [{"answer": row, "scores": sure} for row, sure in zip(tags, scores, strict=True)]

    def is_constant(self, answers: Sequence[Any]) -> bool:
        """Whether every word of every sentence has the same tag."""
        return len({tag for tags in answers for tag in tags}) == 1

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:
        gold = [example.target for example in examples]
        answers = [prediction["answer"] for prediction in predictions]
        words = ([tag for row in rows for tag in row] for rows in (gold, answers))
        found = {"accuracy": metrics.accuracy(*words)}
        if self.has_entities:
            spans = ([metrics.entity_spans(row) for row in rows] for rows in (gold, answers))
            return {"entity_f1": metrics.micro_f1(*spans), **found}
        return found

    def mistake(self, example: Example, prediction: Prediction) -> float:
        wrong = sum(map(str.__ne__, prediction["answer"], example.target))
        return wrong / len(example.target) ** 0.5

    def record(self, example: Example, prediction: Prediction) -> Prediction:
        """With the words, and with the entities where tags are those of entities."""
        record = {**prediction, "tokens": example.inputs["tokens"]}
        if any(tag[:2] in ("B-", "I-") for tag in self.labels):
            spans = sorted(metrics.entity_spans(prediction["answer"]), key=lambda span: span[1])
            record["entities"] = [_entity(example.inputs, *span) for span in spans]
        return record

    def majority(self, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """Every word gets the tag it has most often in the training data; an unknown word, the most frequent one."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for example in train:
            for word, tag in zip(example.inputs["tokens"], example.target, strict=True):
                counts[word][tag] += 1
        overall = sum(counts.values(), Counter()).most_common(1)[0][0]
        usual = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
        return [
            {"answer": [usual.get(word, overall) for word in example.inputs["tokens"]]}
            for example in examples
        ]


def as_bio(tags: Sequence[str]) -> tuple[str, ...]:
    """IOB1, IOBES and BIO to BIO: B begins every span."""
    found: list[str] = []
    for tag in tags:
        prefix, _, name = tag.partition("-")
        if prefix == "S" or (prefix in "IE" and (not found or found[-1][2:] != name)):
            tag = f"B-{name}"
        elif prefix == "E":
            tag = f"I-{name}"
        found.append(tag)
    return tuple(found)


def _entity(inputs: dict[str, Any], name: str, first: int, last: int) -> dict[str, Any]:
    """An entity by its words, and by its characters where they were split from a text; see `split_text`."""
    found = {"type": name, "text": " ".join(inputs["tokens"][first : last + 1]), "first": first, "last": last}
    if "offsets" in inputs:
        start, end = inputs["offsets"][first][0], inputs["offsets"][last][1]
        found |= {"text": inputs["text"][start:end], "start": start, "end": end}
    return found


def split_text(text: str, tokenizer: ConvBertTokenizerFast) -> dict[str, Any]:
    """The words of a text as the tokenizer finds them: `text`, `tokens`, and `offsets`, of first character and end.

    Raises:
        InputError: there is no word in it.
    """
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


def share_words(firsts: Sequence[int], windows: Sequence[tuple[int, int]]) -> list[Words]:
    """Give every word to the window that sees its first piece with most context around it."""
    shares = [Words([], []) for _ in windows]
    for word, position in enumerate(firsts):
        context = [min(position - first, last - 1 - position) for first, last in windows]
        best = int(np.argmax(context))
        shares[best].numbers.append(word)
        shares[best].positions.append(position - windows[best][0] + 1)  # after [CLS]
    return shares


def _strings(row: Row, column: str) -> list[str]:
    cell = list_in(row, column)
    if not isinstance(cell, list) or not cell or not all(isinstance(item, str) for item in cell):
        raise InputError(f"{row.place}: {column} must be a list of strings, got {cell!r:.60}")
    return cell
