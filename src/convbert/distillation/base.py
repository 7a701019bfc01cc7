"""What differs between teachers of sentence vectors and teachers of a task."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from convbert.distillation.plan import DistillationPlan
from convbert.tokenization import ConvBertTokenizerFast
from convbert.tokenization.unknown import UnknownTokens
from convbert.util.errors import InputError

Report = Callable[[str], None]
Scores = dict[str, float]
SPEED_TEXTS = 512
"""Texts by which the speeds of teacher and student are compared."""


class Distillation(ABC):
    """A student, its tokenizer, what it learns from, and its teacher. What can be refused is refused when it is made;
    `prepare` then does the long work.

    Attributes:
        train, heldout: items to learn from, and to be evaluated on; each has a `length`, in tokens. Set by `prepare`.
    """

    model: Any
    tokenizer: ConvBertTokenizerFast
    pipeline: str
    """The Hub's name of what the student does."""
    train: Sequence[Any]
    heldout: Sequence[Any]

    @property
    @abstractmethod
    def count(self) -> int:
        """Texts, held-out ones included."""

    @abstractmethod
    def prepare(self, folder: Path, *, is_resumed: bool) -> None:
        """Make everything ready for training; in `folder`, what took long is kept."""

    @abstractmethod
    def objective(self) -> nn.Module:
        """What is trained: the student and its loss."""

    @abstractmethod
    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """A batch of the objective."""

    @abstractmethod
    def scores(self) -> dict[str, Scores]:
        """`teacher` and `student`: metrics on the dev data, and texts per second."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """The student's folder, without a card."""

    @abstractmethod
    def seconds_per_text(self) -> Iterable[tuple[str, float]]:
        """How long the teacher, and a training step of the student, take for a text, as measured on a few."""


def check_count(count: int, plan: DistillationPlan) -> None:
    """Refuse fewer texts than a step takes."""
    if count < max(2, plan.batch_size):
        raise InputError(f"there are {count:,} texts, and a step takes {plan.batch_size}: give more text")


def split_off(items: Sequence[Any], plan: DistillationPlan) -> tuple[Sequence[Any], Sequence[Any]]:
    """The items to learn from, and those that are only evaluated on."""
    held = max(1, min(plan.heldout_texts, len(items) // 10))
    return items[held:], items[:held]


def unknown_notes(texts: Iterable[tuple[Iterable[int], str]], tokenizer: Any) -> list[str]:
    """What a reader should know of `[UNK]` in texts as tokens; an `InputError` where there is nothing else."""
    unknown = UnknownTokens(tokenizer)
    for ids, text in texts:
        unknown.add(ids, text)
    sentence = unknown.sentence()
    if unknown.is_everything:
        raise InputError(f"nothing can be learned: {sentence}")
    return [sentence] if sentence else []


def digest_of(source: str) -> str:
    """A hash of a model's folder, configuration and weights; of a name on the Hub, the name."""
    folder, digest = Path(source), hashlib.sha256()
    if not folder.is_dir():
        return source
    for path in sorted((*folder.rglob("*.json"), *folder.rglob("*.safetensors"))):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def speed(run: Callable[[Any], Any], texts: Sequence[Any]) -> float:
    """Texts per second, of the faster of two runs: the first one warms up."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        run(texts)
        seconds.append(time.perf_counter() - started)
    return len(texts) / min(seconds)
