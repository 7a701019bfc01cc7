"""Answers as Arrow tables: columns of the input first, as they are, then those of the answers, then `error`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convbert.util.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

_REPEATED = ("id", "tokens")
"""Of answers, as they were in the input."""


def with_answers(kept: Mapping[str, Any], answers: Sequence[Mapping[str, Any] | InputError]) -> pa.Table:
    """A table of what is kept of the input, by column, and of the answers; `error` says why a row has none.

    A vector is a fixed-size list of fp32. A column of the input with the name of one of the answers' is called
    `input_...`.
    """
    import pyarrow as pa

    found = [{} if isinstance(answer, InputError) else answer for answer in answers]
    errors = [str(answer) if isinstance(answer, InputError) else None for answer in answers]
    repeated = {name for name in _REPEATED if name in kept}
    names = list(dict.fromkeys(name for answer in found for name in answer if name not in repeated))
    columns = {
        f"input_{name}" if name in (*names, "error") else name: column for name, column in kept.items()
    }
    columns |= {name: column_of([answer.get(name) for answer in found]) for name in names}
    return pa.table(columns | {"error": pa.array(errors, pa.string())})


def columns_of(rows: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType]) -> dict[str, pa.Array]:
    """Cells of rows as columns, of the given types where they fit."""
    names = dict.fromkeys([*types, *(name for row in rows for name in row)])
    return {name: column_of([row.get(name) for row in rows], types.get(name)) for name in names}


def column_of(values: Sequence[Any], wanted: pa.DataType | None = None) -> pa.Array:
    """Values as a column of a wanted type, or of that which they have in common, or, if they have none, as
    texts, JSON where they are none."""
    import pyarrow as pa

    first = next((value for value in values if value is not None), None)
    if isinstance(first, np.ndarray):
        rows = [np.zeros_like(first) if value is None else value for value in values]
        missing = pa.array([value is None for value in values])
        return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(rows)), len(first), mask=missing)
    for type_ in (wanted, None) if wanted is not None else (None,):
        try:
            column = pa.array(values, type_)
            if "struct<>" not in str(column.type):  # which Parquet does not have
                return column
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            continue
    return _as_texts(values)


def _as_texts(values: Sequence[Any]) -> pa.Array:
    import pyarrow as pa

    def text(value: Any) -> str:
        found = value if isinstance(value, str) else json_of(value, allow_nan=True)
        return found.encode(errors="replace").decode()  # a lone surrogate

    return pa.array([None if value is None else text(value) for value in values], pa.string())


def json_of(value: Any, allow_nan: bool = False) -> str:
    """A value as JSON; the numbers of a vector in their shortest decimals, which are read back as the same fp32."""
    return json.dumps(value, ensure_ascii=False, allow_nan=allow_nan, default=_plain)


def _plain(value: Any) -> Any:
    return [float(str(number)) for number in value] if isinstance(value, np.ndarray) else str(value)


def common_schema(schemas: Iterable[pa.Schema]) -> tuple[pa.Schema, set[str]]:
    """A schema for all of these, and the columns that have no common type in them, which become JSON texts."""
    import pyarrow as pa

    fields: dict[str, pa.Field] = {}
    mixed = set()
    for schema in schemas:
        for field in schema.remove_metadata():
            try:
                both = [pa.schema([each]) for each in (fields.get(field.name, field), field)]
                fields[field.name] = pa.unify_schemas(both, promote_options="permissive").field(0)
            except pa.ArrowException:
                mixed.add(field.name)
    texts = {name: pa.field(name, pa.string()) for name in mixed}
    return pa.schema([*(fields | texts).values()]), mixed


def conform(table: pa.Table, schema: pa.Schema, mixed: set[str]) -> pa.Table:
    """The table with the columns of the schema; see `common_schema`."""
    import pyarrow as pa

    for name in mixed & set(table.column_names):
        place = table.column_names.index(name)
        table = table.set_column(place, name, _as_texts(table[name].to_pylist()))
    table = pa.concat_tables(
        [table.replace_schema_metadata(), schema.empty_table()], promote_options="permissive"
    )
    return table.select(schema.names)
