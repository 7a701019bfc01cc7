"""Where the English models that come with the package live."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from convbert.util.errors import InputError

NAMES = {"embedded": "english", "embedded-sentences": "sentences"}
"""What a user calls each, and its folder: the mask filler, and the encoder of sentences."""


def folder(name: str = "embedded") -> Path:
    """The folder of an embedded model: configuration, weights, vocabulary and model card.

    Raises:
        InputError: this copy of the package came without it.
    """
    path = Path(str(resources.files("convbert"))) / "models" / NAMES[name]
    if not (path / "model.safetensors").is_file():
        raise InputError(
            f"{path}: this copy of convbert has no embedded model of this name; name a folder (model=..., or --model)"
        )
    return path
