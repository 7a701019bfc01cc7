"""Model cards: the YAML at their head, which the Hub reads, and how to load the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with huggingface_hub
from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache

from convbert.files import embedded
from convbert.util.errors import InputError

CARD = "README.md"
_INHERITED = ("license", "language")

LOADING = """\
## Loading

`convbert` loads this folder as it is (`pip install convbert`). For transformers' Auto classes and `pipeline`,
sentence-transformers, SetFit and the like, say once in the program that its classes are wanted:

```python
import convbert

convbert.register_auto_classes()
```

Without that line transformers builds its own ConvBERT, with which a text's result depends on the padding of its batch.
"""


def head(
    pipeline: str,
    *,
    base: str | None = None,
    datasets: Sequence[str] = (),
    name: str | None = None,
    results: Sequence[EvalResult] = (),
) -> str:
    """The head of a card.

    Args:
        pipeline: the task of the pipeline that runs the model.
        base: the folder, or the name on the Hub, of the model that training began with, or "embedded"; licence and
            language are those of its card.
        datasets: names on the Hub.
        name: of the model; the scores of `results` are shown under it.
    """
    base = str(embedded.folder()) if base == "embedded" else base
    found = {key: value for key, value in facts(base).items() if key in _INHERITED} if base else {}
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=["convbert"],
        base_model=base if base and not Path(base).exists() else None,
        datasets=list(datasets) or None,
        model_name=name if results else None,
        eval_results=list(results) or None,
        **found,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def facts(source: str | Path) -> dict[str, Any]:
    """What the head of a model's card says; nothing where there is no card at hand."""
    path = Path(source, CARD)
    if not path.is_file():
        cached = None if Path(source).exists() else try_to_load_from_cache(str(source), CARD)
        if not isinstance(cached, str):
            return {}
        path = Path(cached)
    try:
        return dict(_read(path).data.to_dict())
    except InputError:  # somebody else's card
        return {}


def with_facts(folder: Path, changes: Mapping[str, Any]) -> str:
    """The card of a folder, or a short one where it has none, with these entries in its head."""
    path = folder / CARD
    card = (
        _read(path) if path.is_file() else ModelCard(f"{head('feature-extraction')}\n# ConvBERT\n\n{LOADING}")
    )
    for key, value in changes.items():
        setattr(card.data, key, value)
    return str(card)


def _read(path: Path) -> ModelCard:
    try:
        return ModelCard(path.read_text(encoding="utf-8", errors="replace"), ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: its head is no YAML of a model card: {error}") from error
