"""Checkpoints of the original for tests: the three stored sets, as files of TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from convbert.conversion.rename import to_tensorflow
from convbert.conversion.table import read_table
from convbert.conversion.tensorflow import write_checkpoint

GOLDEN = Path(__file__).parent / "data" / "golden"
STEPS = {"set_a": 6, "set_b": 6, "set_d": 1000}
PARTS = {"model": "discriminator", "generator": "generator"}


def stored_index(name: str) -> Path:
    return GOLDEN / name / f"model.ckpt-{STEPS[name]}.index"


def entries(index: Path) -> dict[str, bytes]:
    """Variable to type, shape, place and checksum, as they lie in the file."""
    return {key.decode(): value for key, value in read_table(index.read_bytes(), index) if key}


def variables(name: str) -> dict[str, np.ndarray]:
    """The weights and the step of a set."""
    found = {"global_step": np.array(STEPS[name], np.int64)}
    for part in PARTS.values():
        found |= to_tensorflow(load_file(GOLDEN / name / part / "model.safetensors"), part)
    return found


def write_set(name: str, folder: Path) -> Path:
    """A set's checkpoint; `set_a` has optimizer slots, of zeros. Returns the prefix."""
    tensors = variables(name)
    slots = {
        slot: tensors[slot.rpartition("/")[0]] * 0 for slot in entries(stored_index(name)) if "/adam_" in slot
    }
    prefix = folder / f"model.ckpt-{STEPS[name]}"
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(prefix, tensors | slots)
    return prefix
