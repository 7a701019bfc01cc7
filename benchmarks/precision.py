"""Ours in the precisions that a user can ask for, where this machine has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import convbert
from benchmarks.subjects import UnavailableError

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}


def pipeline(task: str, folder: Path, precision: str, device: Any) -> Any:
    """`convbert.pipeline` of a folder, in a precision named as in the tables.

    Raises:
        UnavailableError: with the reason.
    """
    try:
        return convbert.pipeline(task, folder, device=device, precision=PRECISIONS[precision])
    except (convbert.InputError, ImportError) as error:
        raise UnavailableError(str(error)) from error


def load(folder: Path, precision: str) -> Any:
    """`convbert.load` of an encoder's folder.

    Raises:
        UnavailableError: with the reason.
    """
    try:
        return convbert.load(folder, "feature-extraction", precision=PRECISIONS[precision])
    except (convbert.InputError, ImportError) as error:
        raise UnavailableError(str(error)) from error
