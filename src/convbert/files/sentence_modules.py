"""What sentence-transformers notes beside a model: how token states become the vector of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import cached_file

from convbert.files.atomic import write_json
from convbert.util.errors import InputError
from convbert.util.schema import Schema, check, read_json

MODULES = "modules.json"
_OLD_KEYS = {
    "first": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
}
_KINDS = {"cls": "first", "mean": "mean", "max": "max", **{key: how for how, key in _OLD_KEYS.items()}}
"""Its names of poolings, today's and those before version 6, to ours."""


class SentencePooling(NamedTuple):
    """How states become a vector: "mean", "first" or "max" of the tokens; whether it is then made of length 1."""

    how: str
    normalized: bool


class _Module(Schema):
    type: str
    path: str


class _Modules(Schema):
    modules: list[_Module]


def read_sentence_modules(source: str) -> SentencePooling | None:
    """What a folder, or a name on the Hub, says; None where it is none of sentence-transformers.

    Raises:
        InputError: a damaged file, or a module that is none of Transformer, Pooling and Normalize.
    """
    path = _find(source, MODULES)
    if path is None:
        return None
    found = check(_Modules, {"modules": read_json(path)}, path)
    how, normalized = "mean", False
    for module in found.modules:
        kind = module.type.rpartition(".")[2]
        if kind == "Pooling":
            how = _pooling(_find(source, f"{module.path}/config.json"), f"{source}: {module.path}")
        elif kind == "Normalize":
            normalized = True
        elif kind != "Transformer":
            raise InputError(f"{path}: the module {kind} cannot be run here; sentence-transformers can")
    return SentencePooling(how, normalized)


def _find(source: str, file: str) -> str | None:
    try:
        return cached_file(source, file) if source else None
    except OSError:  # neither in the folder, nor on the Hub or in its cache
        return None


def _pooling(path: str | None, place: str) -> str:
    config: Any = read_json(path) if path else None
    config = config if isinstance(config, dict) else {}
    old = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    modes = config.get("pooling_mode") or old
    modes = modes if isinstance(modes, list) else [modes]
    if len(modes) != 1 or modes[0] not in _KINDS:
        raise InputError(
            f"{place}: one pooling among cls, mean and max is wanted; got {', '.join(map(str, modes))}"
        )
    return _KINDS[modes[0]]


def write_sentence_modules(folder: Path, width: int, max_length: int) -> None:
    """Make a model's folder one of sentence-transformers, from its version 2 on: mean of the tokens, length 1."""
    names = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(names.items())
    ]
    for path in filter(None, names):
        (folder / path).mkdir(exist_ok=True)
    pooling = {key: how == "mean" for how, key in _OLD_KEYS.items()}
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": width, **pooling})
    write_json(folder / "2_Normalize/config.json", {})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    write_json(folder / MODULES, modules)
