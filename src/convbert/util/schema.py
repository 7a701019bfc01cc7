"""JSON that somebody else wrote: read once, at the door, and checked against a schema."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from convbert.util.errors import InputError

PathLike = str | os.PathLike[str]


class Schema(BaseModel):
    """Fields of a JSON object with their types and ranges; fields without a line of their own may hold anything.

    Types are strict: a bool or a text is no number, and no float is NaN or infinite.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


Checked = TypeVar("Checked", bound=Schema)


def read_json(path: PathLike) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: the file is missing, cannot be read, or is not JSON; the message names it.
    """
    try:
        return parse_json(Path(path).read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # InputError and UnicodeDecodeError among them
        raise InputError(f"{path}: {error}") from error


def parse_json(text: str) -> Any:
    """What a JSON document holds.

    Raises:
        InputError: it is damaged, nested too deeply, or holds lone surrogates, which are no characters.
    """
    try:
        content = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error})") from error
    return content


def to_json(content: Any) -> str:
    """JSON with null where a number is not finite, such as the AUC of a text without replaced tokens."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: finite(each) for name, each in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(content), allow_nan=False)


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def check(schema: type[Checked], content: Any, source: object) -> Checked:
    """`content`, read from `source`, as the schema's object.

    Raises:
        InputError: a field is missing, has another type, or is out of range; the message names source and field.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{source}: {first_problem(error)}") from error
    except RecursionError as error:
        raise InputError(f"{source}: nested too deeply") from error


def first_problem(error: ValidationError) -> str:
    """The first field at fault, and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":  # raised by a check of our own, which says it all
        return str(first["ctx"]["error"])
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "unexpected_keyword_argument":
        return f"there is no field named {field}"
    found = "" if first["type"] == "missing" else f", got {first['input']!r:.60}"
    return f"{field + ': ' if field else ''}{first['msg']}{found}"
