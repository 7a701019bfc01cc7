"""Answers for any amount of text: by one machine, or by a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convbert.bulk.ray import predict_dataset

__all__ = ["predict_dataset"]


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: it brings PyTorch."""
    if name != "predict_dataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from convbert.bulk.ray import predict_dataset

    return predict_dataset
