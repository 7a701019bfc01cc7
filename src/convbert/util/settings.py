"""Settings of a run: a frozen dataclass that checks its fields, with the meaning of each beside it.

    @settings
    class Plan(Settings):
        batch_size: Annotated[int, Field(ge=1)] = 32
        \"""Examples in an optimizer step.\"""

Types are strict: a bool is no number, a whole number is a float, and no float is NaN or infinite.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Self, TypeVar, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from convbert.util.errors import InputError
from convbert.util.schema import first_problem

Class = TypeVar("Class", bound=type)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: Class) -> Class:
    """Make a dataclass of `cls`, whose constructor raises `InputError` and names the field at fault."""
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    made: Any = dataclass(cls, frozen=True, kw_only=True, config=config)
    construct = made.__init__

    def checked(self: Any, **fields: Any) -> None:
        try:
            construct(self, **fields)
        except ValidationError as error:
            raise InputError(first_problem(error)) from error

    made.__init__ = checked
    return made


class Settings:
    """What all settings can do; see `settings`."""

    @classmethod
    def from_dict(cls, fields: Any, source: object = "settings") -> Self:
        """The settings that `to_dict` wrote to JSON, in the file `source`.

        Raises:
            InputError: an unknown field, or a value of another type or out of range; the message names it.
        """
        if not isinstance(fields, dict):
            raise InputError(f"{source}: an object is wanted, got {type(fields).__name__}")
        try:
            return cls(**fields)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    def override(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Raises:
            InputError: there is no such field, or a value is out of range.
        """
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]  # `settings` makes it one

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


def describe(cls: Any) -> Iterator[tuple[str, str]]:
    """Each field as "name=default" and what it means, for `--help`."""
    for name, field in cls.__pydantic_fields__.items():
        default = "" if field.is_required() else json.dumps(field.get_default(call_default_factory=True))
        yield f"{name}={default}", " ".join((field.description or "").split())


def parse_settings(
    words: Iterable[str], fields: Mapping[str, Any], given: Collection[str] = ()
) -> dict[str, Any]:
    """`--set`: `["adam_beta2=0.98"]` to `{"adam_beta2": 0.98}`.

    Args:
        words: each NAME=VALUE; a value is JSON where it reads as such, else text.
        fields: name of every field to a value of the type it takes; None or "auto" where the settings check it.
        given: fields that an option of their own has set.

    Raises:
        InputError: a word without "=", a field that is set twice, unknown, or of another type.
    """
    parsed: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise InputError(f"--set {word}: write NAME=VALUE")
        if name in parsed or name in given:
            raise InputError(f"--set {word}: {name} is given twice")
        if name not in fields:
            near = get_close_matches(name, fields)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; --help lists those that there are"
            raise InputError(f"--set {word}: there is no field named {name}{hint}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        example = fields[name]
        if isinstance(example, float) and type(value) is int:
            value = float(value)
        if example not in (None, "auto") and type(value) is not type(example):
            raise InputError(f"--set {word}: {type(example).__name__} wanted, as in {example!r}")
        parsed[name] = value
    return parsed
