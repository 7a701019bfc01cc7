"""Where the English model that comes with the package lives."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from convbert.util.errors import InputError


def folder() -> Path:
    """The folder of the embedded model: configuration, weights, vocabulary and model card.

    Raises:
        InputError: this copy of the package came without it.
    """
    path = Path(str(resources.files("convbert"))) / "models" / "english"
    if not (path / "model.safetensors").is_file():
        raise InputError(
            f"{path}: this copy of convbert has no embedded model; name a folder (model=..., or --model)"
        )
    return path
