"""More positions for a model: its table of positions continued, so that training goes on with longer texts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from convbert.configuration import ConvBertConfig
from convbert.files.atomic import LOCK, atomic_folder, save_tokenizer
from convbert.files.card import CARD, with_facts
from convbert.files.damage import translate_errors
from convbert.inference.loading import TASKS, PathLike, find_model, load_filled, quiet_loading
from convbert.model.convbert import ConvBertModel
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError

Method = Literal["tile", "interpolate"]
METHODS: tuple[Method, ...] = ("tile", "interpolate")
MOST_POSITIONS = 2**20
_NOTE = """
## More positions

`convbert extend` continued the {before:,} positions of this model to {after:,} (`{method}`). Nothing was trained: go on
with `convbert pretrain --sequence-length {after} --start-from ...` on long texts before relying on them.
"""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".index.json", ".h5", ".msgpack")


@dataclass(frozen=True)
class Extension:
    """What was done: positions `before` and `after`, to a model of the class `architecture`."""

    source: str
    output: str
    architecture: str
    method: Method
    before: int
    after: int


def extend(source: PathLike | None, output: PathLike, positions: int, method: Method = "tile") -> Extension:
    """Write a copy of a model that reads up to `positions` tokens.

    Args:
        source: a model folder, a name on the Hub, or "embedded".
        output: a folder that does not exist yet. It gets the model in the dtype it is stored in, the tokenizer, and the
            other small files of the source, such as the task it was fine-tuned for.
        method: see `continue_positions`.

    Raises:
        InputError: the model has as many positions already or cannot be read, or `output` exists; nothing has been
            written.
    """
    target, name = Path(output), find_model(source)
    if target.exists():
        raise InputError(f"{target}: exists already; choose another folder")
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    with translate_errors(name):
        config = ConvBertConfig.from_pretrained(name)
    before = config.max_position_embeddings
    if not before < positions <= MOST_POSITIONS:
        raise InputError(
            f"{name}: has {before:,} positions; give more of them, {MOST_POSITIONS:,} at most; got {positions:,}"
        )
    classes = {task.model.__name__: task.model for task in TASKS.values()}
    architecture = (config.architectures or [ConvBertModel.__name__])[0]
    if architecture not in classes:
        raise InputError(f"{name}: is a {architecture}; there are {', '.join(classes)}")
    with translate_errors(name):
        model = load_filled(classes[architecture], name, dtype="auto")
        tokenizer = ConvBertTokenizerFast.from_pretrained(name)
    table = model.base_model.embeddings.position_embeddings
    table.weight = torch.nn.Parameter(continue_positions(table.weight.detach(), positions, method))
    table.num_embeddings = model.config.max_position_embeddings = positions
    with atomic_folder(target) as draft, quiet_loading():
        model.save_pretrained(draft)
        save_tokenizer(tokenizer, draft, positions)
        _copy_others(Path(name), draft)
        note = _NOTE.format(before=before, after=positions, method=method)
        (draft / CARD).write_text(with_facts(Path(name), {}) + note, encoding="utf-8")
    return Extension(name, str(target), architecture, method, before, positions)


def continue_positions(table: Tensor, positions: int, method: Method) -> Tensor:
    """A table of P positions continued to more of them.

    Args:
        table: (P, E).
        method: "tile" repeats the table, so that positions within the first P keep their rows and those beyond look as
            if a new text began at each multiple of P (Longformer, arXiv 2004.05150, section 5). "interpolate" stretches
            it linearly: the first and the last row stay at the ends, and every position moves.

    Returns:
        (positions, E), of the same dtype.
    """
    if method == "tile":
        return table.repeat(-(-positions // len(table)), 1)[:positions]
    stretched = F.interpolate(table.float().T[None], size=positions, mode="linear", align_corners=True)
    return stretched[0].T.contiguous().to(table.dtype)


def _copy_others(source: Path, draft: Path) -> None:
    """Files of the folder that are no weights and not written anew: the task of a fine-tuned model, curves."""
    for file in sorted(source.iterdir()) if source.is_dir() else ():
        is_other = file.is_file() and not file.name.endswith(_WEIGHTS) and file.name not in (CARD, LOCK)
        if is_other and not (draft / file.name).exists():
            shutil.copyfile(file, draft / file.name)
