"""Sentence vectors of a teacher: computed once, kept in shards on disk, and turned into what a student can say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize, pad

from convbert.files.atomic import write_array, write_json
from convbert.training.arguments import device_of, uses_bfloat16
from convbert.training.run_folder import differences
from convbert.util.errors import InputError
from convbert.util.schema import read_json

SHARD = 8192
"""Texts whose vectors lie in one file: some minutes of work at most are done again."""
_MOST_FOR_AXES = 50_000
Report = Callable[[str], None]


class SentenceTeacher:
    """A sentence-transformers folder, or an encoder of transformers, whose tokens are then averaged.

    Args:
        source: the folder, or a name on the Hub.
        max_length: tokens of a text that it reads, at most: what the student reads.
        bf16: see `DistillationPlan.teacher_bf16`.

    Raises:
        InputError: it cannot be loaded.
    """

    def __init__(
        self, source: str, *, max_length: int, bf16: bool | str = False, device: str | None = None
    ) -> None:
        from sentence_transformers import SentenceTransformer

        from convbert.auto import register_auto_classes
        from convbert.inference.loading import quiet_loading

        register_auto_classes()
        place = device_of(device)
        try:
            with quiet_loading():
                self.model: Any = SentenceTransformer(source, device=str(place))
        except (
            OSError,
            ValueError,
            LookupError,
            ImportError,
            RuntimeError,
            TypeError,
            AttributeError,
        ) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{source}: cannot be loaded as a sentence encoder: {reason}") from error
        self.model.max_seq_length = min(self.model.max_seq_length or max_length, max_length)
        if uses_bfloat16(bf16, device):
            self.model.to(torch.bfloat16)

    @property
    def tokenizer(self) -> Any:
        """The teacher's own."""
        return self.model.tokenizer

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) vectors of length 1."""
        return self.model.encode(
            list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False
        ).astype(np.float32)

    @torch.no_grad()
    def token_vectors(self, tokenizer: Any) -> NDArray[np.float32]:
        """(V, D) vectors of every token of a vocabulary, each alone between [CLS] and [SEP]; of one that is not the
        teacher's, the vectors of the tokens' letters.
        """
        if tokenizer.get_vocab() != self.tokenizer.get_vocab():
            words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
            return self.encode([word.removeprefix("##") for word in words])
        numbers = torch.arange(len(tokenizer), device=self.model.device)
        rows = []
        for part in numbers.split(512):
            ends = (
                torch.full_like(part, tokenizer.cls_token_id),
                torch.full_like(part, tokenizer.sep_token_id),
            )
            ids = torch.stack((ends[0], part, ends[1]), dim=1)
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            rows.append(normalize(self.model(batch)["sentence_embedding"].float(), dim=1).cpu())
        return torch.cat(rows).numpy()


def teacher_vectors(
    folder: Path,
    texts: Sequence[str],
    identity: dict[str, Any],
    load: Callable[[], SentenceTeacher],
    report: Report,
) -> NDArray[np.float16]:
    """(N, D) vectors of the texts, from the shards in `folder`; those that are not there are computed.

    Args:
        identity: of the teacher and how it is run; with the texts, what the shards belong to.
        load: gives the teacher, where it is needed.

    Raises:
        InputError: the folder holds the vectors of another teacher or of other texts, or a damaged file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    record, path = {**identity, "texts": len(texts), "sha256": digest}, folder / "vectors.json"
    if not path.exists():
        write_json(path, record)
    elif changes := differences(read_json(path), record):
        raise InputError(f"{folder}: holds other vectors: {changes}; give another --output")
    shards, teacher = [], None
    for number, first in enumerate(range(0, len(texts), SHARD)):
        shard = folder / f"vectors-{number:05}.npy"
        if not shard.exists():
            teacher = teacher or load()
            write_array(shard, teacher.encode(texts[first : first + SHARD]).astype(np.float16))
            done = min(first + SHARD, len(texts))
            report(f"teacher: {done:,} of {len(texts):,} texts ({done / len(texts):.0%})")
        shards.append(_open(shard, len(texts[first : first + SHARD])))
    return np.concatenate(shards)


def _open(shard: Path, rows: int) -> NDArray[np.float16]:
    try:
        vectors = np.load(shard, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{shard}: is damaged: {error}; remove it, and it is computed anew") from error
    if vectors.ndim != 2 or len(vectors) != rows or not np.isfinite(vectors).all():
        raise InputError(
            f"{shard}: is damaged: {rows} finite vectors wanted; remove it, and it is computed anew"
        )
    return vectors


def principal_axes(vectors: NDArray[np.float16], width: int) -> tuple[torch.Tensor, float]:
    """(D, C) orthonormal axes on which cosines of the vectors change least, and the share of squared length on them.

    A student narrower than its teacher learns the vectors as they stand on these axes; a wider one learns them as they
    are, with zeros behind. So it needs no layer to translate, and its vectors are of its own width.
    """
    if width >= vectors.shape[1]:
        return pad(torch.eye(vectors.shape[1]), (0, width - vectors.shape[1])), 1.0
    sample = torch.from_numpy(vectors[:_MOST_FOR_AXES].astype(np.float32))
    _, values, axes = torch.linalg.svd(sample.T @ sample)
    return axes[:width].T.contiguous(), float(values[:width].sum() / values.sum())


def turn_towards(axes: torch.Tensor, wanted: NDArray[Any], own: torch.Tensor) -> torch.Tensor:
    """(D, C) axes, turned among themselves to where a student already stands (orthogonal Procrustes, Schönemann 1966).

    Args:
        wanted: (N, D) vectors of the teacher.
        own: (N, C) vectors of the student, of the same texts.
    """
    on_axes = torch.from_numpy(wanted.astype(np.float32)) @ axes
    left, _, right = torch.linalg.svd(on_axes.T @ own.float())
    return axes @ left @ right


def project(vectors: NDArray[Any], axes: torch.Tensor) -> NDArray[np.float16]:
    """(N, D) vectors on the axes, (N, C), of length 1."""
    parts = np.array_split(vectors, max(1, len(vectors) // SHARD))
    on_axes = [normalize(torch.from_numpy(part.astype(np.float32)) @ axes, dim=1).half() for part in parts]
    return torch.cat(on_axes).numpy()
