"""Say in one sentence what is wrong with a model folder that cannot be read."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from convbert.util.errors import InputError

NOT_TENSORS = (
    "the weights are a pickle with more than tensors in it, or damaged; it was not run. "
    "Ask for safetensors, or for torch.save(model.state_dict(), ...)"
)


@contextmanager
def translate_errors(source: object) -> Iterator[None]:
    """Turn what transformers, safetensors and torch say about a damaged folder into an `InputError` that names it."""
    try:
        yield
    except InputError as error:
        if str(source) in str(error) or os.path.basename(str(source)) == "":
            raise
        raise InputError(f"{source}: {error}") from error
    except Exception as error:
        problem = _problem(error)
        if problem is None:
            raise
        raise InputError(f"{source}: {problem}") from error


def _problem(error: Exception) -> str | None:
    """What the error says about the folder; None where it is about something else."""
    of_torch = (
        "PytorchStreamReader",
        "Trying to resize storage",
    )  # a file of torch.save that was cut or changed
    is_torn = isinstance(error, RuntimeError) and any(words in str(error) for words in of_torch)
    if isinstance(error, SafetensorError) or is_torn:
        return f"the weights are damaged ({error})"
    if isinstance(error, RuntimeError) and "ignore_mismatched_sizes" in str(error):
        return (
            "the weights have other shapes than the configuration says (transformers lists them above); "
            "ignore_mismatched_sizes=True starts these anew"
        )
    if isinstance(error, pickle.UnpicklingError | EOFError):
        return NOT_TENSORS
    if isinstance(error, json.JSONDecodeError | KeyError):
        return f"a JSON file is damaged ({error})"
    if isinstance(error, StrictDataclassError):
        return f"config.json: {' '.join(str(error).split())}"
    if isinstance(error, PermissionError):
        return f"cannot be read: {error.filename or ''} {error.strerror}"
    return str(error) if isinstance(error, OSError) else None
