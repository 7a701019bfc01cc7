"""Data that a tiny model can learn in a second: which animal a text is about."""

from __future__ import annotations

import json
from pathlib import Path

ENDINGS = ("sat on the mat .", "ran to the house .", "ran on .", "sat .", "and a cats ran .")


def sentence(number: int) -> tuple[str, str]:
    """A text, and the label of the animal in it."""
    animal = ("cat", "dog")[number % 2]
    return f"the {animal} {ENDINGS[number // 2 % 4]}", ("1", "0")[number % 2]


def write_sentences(path: Path, count: int) -> Path:
    """A TSV as SST-2 has them."""
    rows = ["\t".join(sentence(number)) for number in range(count)]
    path.write_text("sentence\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def write_objects(path: Path, objects: list[dict]) -> Path:
    """JSON Lines."""
    path.write_text("".join(json.dumps(each) + "\n" for each in objects), encoding="utf-8")
    return path
