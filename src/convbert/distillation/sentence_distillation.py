"""A student of a sentence encoder: it learns the teacher's vectors of all texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from convbert.distillation.base import (
    SPEED_TEXTS,
    Distillation,
    Report,
    Scores,
    check_count,
    digest_of,
    speed,
    split_off,
    unknown_notes,
)
from convbert.distillation.objective import SentenceObjective
from convbert.distillation.plan import DistillationPlan
from convbert.distillation.sentences import (
    SHARD,
    SentenceTeacher,
    principal_axes,
    project,
    teacher_vectors,
    turn_towards,
)
from convbert.distillation.student import (
    begin_with_token_vectors,
    build_student,
    student_tokenizer,
    takes_layers,
)
from convbert.files.atomic import save_tokenizer, write_array
from convbert.files.sentence_modules import write_sentence_modules
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.data import pad
from convbert.finetuning.tasks import find_task
from convbert.inference.engine import AnswerTask, Engine, Tokens
from convbert.inference.outputs import text_vectors
from convbert.training.arguments import uses_bfloat16

_SAMPLE = 2048
"""Texts by which axes are turned towards a student that is not new."""


class Item(NamedTuple):
    """A text as tokens, and what the teacher says of it."""

    input_ids: NDArray[np.int32]
    vector: NDArray[np.float16]

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.input_ids)


class SentenceDistillation(Distillation):
    """See the module.

    Args:
        texts: what is learned from; the first ones are held out.
        tokenizer: folder of a vocabulary of the student's own.
        dev: pairs of sentences and their similarity, as STS-B has them.
    """

    pipeline = "sentence-similarity"

    def __init__(
        self,
        plan: DistillationPlan,
        source: str,
        is_convbert: bool,
        texts: Sequence[str],
        *,
        tokenizer: str | None,
        dev: Path | None,
        device: str | None,
        report: Report,
    ) -> None:
        self.plan, self.texts, self.report, self.device = plan, texts, report, device
        check_count(len(texts), plan)
        self.tokenizer = student_tokenizer(plan, source, is_convbert, tokenizer)
        self.model = build_student(plan, source, is_convbert, self.tokenizer)
        self._is_new = plan.start_from is None and not takes_layers(plan, is_convbert)
        self._source = source
        self._adapter = adapter_of(find_task("stsb"))
        self.dev = None if dev is None else self._adapter.read(dev, report=report)

    @property
    def count(self) -> int:
        return len(self.texts)

    def teacher(self, *, in_full: bool = False) -> SentenceTeacher:
        """The teacher: as its vectors are computed, or in full precision, as a user runs it."""
        bf16 = False if in_full else self.plan.teacher_bf16
        return SentenceTeacher(self._source, max_length=self.plan.max_length, bf16=bf16, device=self.device)

    def prepare(self, folder: Path, *, is_resumed: bool) -> None:
        plan, report = self.plan, self.report
        identity = {
            "teacher": digest_of(self._source),
            "max_length": plan.max_length,
            "bf16": uses_bfloat16(plan.teacher_bf16, self.device),
        }
        vectors = teacher_vectors(folder, self.texts, identity, self.teacher, report)
        ids, cut = self._encode_all()
        for note in unknown_notes(zip(ids, self.texts, strict=True), self.tokenizer):
            report(note)
        if cut:
            report(f"texts of more than {plan.max_length} tokens, which are cut: {cut:,}")
        axes = self._axes(folder, vectors)
        if self._is_new and plan.token_vectors and not is_resumed:
            begin_with_token_vectors(self.model, self.teacher(), self.tokenizer, axes)
        self.train, self.heldout = split_off(list(map(Item, ids, project(vectors, axes))), plan)

    def _encode_all(self) -> tuple[list[NDArray[np.int32]], int]:
        """The texts as tokens, and how many of them were cut."""
        ids: list[NDArray[np.int32]] = []
        cut = 0
        for first in range(0, len(self.texts), SHARD):
            part = self.tokenizer(
                list(self.texts[first : first + SHARD]),
                truncation=True,
                max_length=self.plan.max_length,
                verbose=False,
            )
            ids += [np.array(row, np.int32) for row in part["input_ids"]]
            cut += sum(bool(each.overflowing) for each in part.encodings)
        return ids, cut

    def _axes(self, folder: Path, vectors: NDArray[np.float16]) -> Tensor:
        """The axes on which the student learns the vectors; kept, since other machines may find other ones."""
        path, width = folder / "axes.npy", self.model.config.hidden_size
        if path.exists():
            return torch.from_numpy(np.load(path, allow_pickle=False))
        axes, share = principal_axes(vectors, width)
        if width < vectors.shape[1]:
            self.report(
                f"{width} of the teacher's {vectors.shape[1]} dimensions carry {share:.1%} of its vectors"
            )
        if not self._is_new:
            axes = turn_towards(axes, vectors[:_SAMPLE], self._encode(self.texts[:_SAMPLE]))
        write_array(path, axes.numpy())
        return axes

    def objective(self) -> nn.Module:
        return SentenceObjective(self.model, self.plan.similarity_weight)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        ids = [item.input_ids.tolist() for item in items]
        return {
            "input_ids": pad(ids, self.tokenizer.pad_token_id),
            "attention_mask": pad([[1] * len(row) for row in ids], 0),
            "targets": torch.stack([torch.from_numpy(item.vector) for item in items]),
        }

    def scores(self) -> dict[str, Scores]:
        teacher = self.teacher(in_full=True)
        found: dict[str, Scores] = {}
        for name, encode in (("teacher", teacher.encode), ("student", self._encode)):
            found[name] = {}
            if self.dev is not None:
                left, right = (
                    torch.as_tensor(encode([example.inputs[role] for example in self.dev]))
                    for role in ("text", "text_pair")
                )
                answers = [{"answer": float(cosine)} for cosine in (left * right).sum(1)]
                found[name]["spearman"] = self._adapter.score(self.dev, answers)["spearman"]
            found[name]["texts_per_second"] = speed(encode, self.texts[:SPEED_TEXTS])
        return found

    def _encode(self, texts: Sequence[str]) -> Tensor:
        """(N, C) vectors of the student, of length 1."""

        def encode(text: str) -> list[Tokens]:
            ids = self.tokenizer(text, truncation=True, max_length=self.plan.max_length, verbose=False)[
                "input_ids"
            ]
            return [Tokens(ids, [0] * len(ids))]

        task = AnswerTask(
            encode,
            lambda packed: text_vectors(self.model, packed, "mean"),
            lambda text, tokens, rows: rows[0]["vector"][0],
        )
        return normalize(torch.stack(list(Engine(self.model, task).answer(texts))).float(), dim=1)

    def seconds_per_text(self) -> Iterator[tuple[str, float]]:
        some = self.texts[:SPEED_TEXTS]
        yield "teacher", 1 / speed(self.teacher().encode, some)
        ids = self.tokenizer(list(some), truncation=True, max_length=self.plan.max_length)["input_ids"]
        vector = np.ones(self.model.config.hidden_size, np.float16)
        batch = self.collate([Item(np.array(row), vector) for row in ids[: self.plan.batch_size]])
        objective = self.objective()
        yield (
            "student",
            len(batch["input_ids"]) ** -1 / speed(lambda _: objective(**batch)["loss"].backward(), [None]),
        )

    def write(self, folder: Path) -> None:
        config, length = self.model.config, self.plan.max_length
        self.model.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder, length)
        write_sentence_modules(folder, config.hidden_size, length)
