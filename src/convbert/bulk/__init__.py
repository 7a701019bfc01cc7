"""Answers for any amount of text: by one machine, or by a Ray cluster."""

from typing import Any

__all__ = ["predict_dataset"]


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: it brings PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from convbert.bulk import ray

    return getattr(ray, name)
