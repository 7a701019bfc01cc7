"""Tables of answers, many files, several processes, and what may go wrong on the way."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import convbert
import tiny
from convbert.bulk.answers import FileAnswers
from convbert.bulk.tables import column_of, common_schema, conform, with_answers
from convbert.util import optional
from convbert.util.errors import InputError
from helpers import full_disk
from labelled import sentence, write_objects

DAY = datetime.date(2026, 12, 1)
TABLE = pa.table(
    {
        "text": [sentence(n)[0] for n in range(5)] + [None],
        "day": pa.array([DAY] * 6),
        "stars": pa.array([1, None, 3, 4, 5, 6], pa.int8()),
        "row": pa.array(list("abcdef"), pa.dictionary(pa.int32(), pa.string())),
        "id": [f"n{n}" for n in range(6)],
    }
)


def words_of(number: int) -> str:
    """Three words, others for every number."""
    return " ".join(tiny.WORDS[5 + number // 11**place % 11] for place in range(3))


def write_many(folder: Path) -> str:
    """Good files, and a damaged one among them."""
    pq.write_table(TABLE, folder / "a.parquet")
    (folder / "b.parquet").write_bytes(b"PAR1 and no more")
    write_objects(folder / "c.jsonl", [{"text": words_of(n), "row": n} for n in range(700)])
    (folder / "d.txt").write_text("the cat sat .\n\na dog ran .\n")
    return f"{folder}/[abcd].*"


# ---------------------------------------------------------------------------------------------- tables


def test_a_table_keeps_the_columns_and_has_vectors_of_fp32(embed, model, tmp_path):
    pq.write_table(TABLE, tmp_path / "in.parquet")
    found, code, said = embed(tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert code == 0
    assert "1 row has no answer" in said
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["row", "text", "day", "stars", "input_row", "id", "embedding", "error"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    for name in ("text", "day", "stars", "id"):
        assert table[name].combine_chunks() == TABLE[name].combine_chunks()
    assert table["input_row"].to_pylist() == list("abcdef")
    assert [row["error"] is None for row in found] == [True] * 5 + [False]
    assert found[5]["embedding"] is None
    vectors = np.stack(table["embedding"][:5].to_numpy())
    pipe = convbert.pipeline("feature-extraction", str(model), pooling="mean")
    np.testing.assert_allclose(vectors, pipe(TABLE["text"].to_pylist()[:5]), atol=1e-6)


def test_a_table_and_lines_have_the_same_answers(embed, tmp_path):
    objects = [{"text": sentence(n)[0], "id": n} for n in range(6)] + [{"other": 1}]
    write_objects(tmp_path / "in.jsonl", objects)
    table, *_ = embed(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    lines, *_ = embed(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    for row, line in zip(table, lines, strict=True):
        assert (row["line"], row["id"], row["error"]) == (line["line"], line.get("id"), line.get("error"))
        numbers = line.get("embedding")
        assert row["embedding"] == (numbers and np.float32(numbers).tolist())
    assert [row["other"] for row in table] == [None] * 6 + [1]


MIXED = (
    [1, "a", None],
    [{"a": 1}, 3],
    ["a", ["b"]],
    [2**70, 1],
    ["\ud800", "b"],
    [{}, {}],
    [float("nan"), "a"],
)


@pytest.mark.parametrize("values", MIXED, ids=str)
def test_values_without_a_common_type_become_texts(values, tmp_path):
    column = column_of(values)
    assert column.type == pa.string()
    assert [value is None for value in column.to_pylist()] == [value is None for value in values]
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")


def test_parts_of_different_types_are_joined():
    parts = [
        with_answers({"n": pa.array(n)}, [{"tags": tags, "p": {"a": 0.5}}, InputError("bad")])
        for n, tags in (([1, 2], []), ([1.5, None], [{"type": "X"}]), (["x", "y"], []))
    ]
    assert common_schema(part.schema for part in parts[:2])[0].field("n").type == pa.float64()
    schema, mixed = common_schema(part.schema for part in parts)
    table = pa.concat_tables(conform(part, schema, mixed) for part in parts)
    assert table["n"].to_pylist() == ["1", "2", "1.5", None, "x", "y"]
    assert table["tags"].to_pylist() == [[], None, [{"type": "X"}], None, [], None]
    assert table["error"].to_pylist() == [None, "bad"] * 3


def test_without_pyarrow_a_table_is_refused_with_the_remedy(embed, tmp_path, monkeypatch):
    (tmp_path / "in.txt").write_text("the cat sat .\n")
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name == "pyarrow" else object())
    _, code, said = embed(tmp_path / "in.txt", tmp_path / "out.parquet")
    assert code == 2
    assert 'pip install "convbert[table]"' in said
    assert embed(tmp_path / "in.txt", tmp_path / "out.jsonl")[1] == 0


# ---------------------------------------------------------------------------------------- many, and faults


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_damaged_file_stops_no_other(ending, embed, tmp_path):
    found, code, said = embed(write_many(tmp_path), tmp_path / f"out.{ending}")
    assert code == 0
    assert "3 lines have no answer" in said
    places = [(Path(row["file"]).name, row.get("row") or row.get("line")) for row in found]
    expected = {"a.parquet": 6, "b.parquet": 1, "c.jsonl": 700, "d.txt": 3}
    assert places == [(name, number + 1) for name, count in expected.items() for number in range(count)]
    (damaged,) = [row for row in found if row["file"].endswith("b.parquet")]
    assert "b.parquet: not a Parquet file" in damaged["error"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_full_disk_loses_nothing(ending, embed, tmp_path, monkeypatch):
    source, output = write_many(tmp_path), tmp_path / f"out.{ending}"
    whole, *_ = embed(source, tmp_path / f"whole.{ending}")
    monkeypatch.setattr("convbert.bulk.answers._PART_BYTES", 30_000)
    with full_disk(20_000):
        found, code, said = embed(source, output)
    assert (found, code) == ([], 2)
    assert f"{output}: cannot be written: File too large" in said
    with full_disk(60_000):
        assert embed(source, output)[1] == 2
    assert Path(f"{output}.partial").exists()
    assert embed(source, output)[:2] == (whole, 0)
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_what_a_kill_cuts_off_is_written_once(ending, embed, tmp_path, monkeypatch):
    """Half a line or half a part is at the end, and the file of which it is has a successor."""
    source, output = write_many(tmp_path), tmp_path / f"out.{ending}"
    whole, *_ = embed(source, tmp_path / f"whole.{ending}")
    write = FileAnswers.write

    def stop(self, answered):
        if answered.position.number > 300:
            raise KeyboardInterrupt
        write(self, answered)

    with monkeypatch.context() as patch:
        patch.setattr(FileAnswers, "write", stop)
        assert embed(source, output)[1] == 130
    partial = Path(f"{output}.partial")
    if ending == "jsonl":
        with partial.open("a") as lines:
            lines.write('{"file": "' + str(tmp_path))
    else:
        (partial / "draft").write_bytes(b"PAR1")
    found, code, said = embed(source, output)
    assert (found, code) == (whole, 0)
    assert int(said.partition(" texts")[0].split()[-1]) < 500


def test_processes_write_the_same_file_in_the_same_order(embed, tmp_path):
    source = write_many(tmp_path)
    alone, *_ = embed(source, tmp_path / "one.jsonl", "--workers", 1)
    found, code, _ = embed(source, tmp_path / "two.jsonl", "--workers", 2)
    assert code == 0
    assert [{**row, "embedding": None} for row in found] == [{**row, "embedding": None} for row in alone]
    pairs = [(a["embedding"], b["embedding"]) for a, b in zip(found, alone, strict=True) if "embedding" in a]
    np.testing.assert_allclose(*map(np.array, zip(*pairs, strict=True)), atol=1e-6)


def test_a_pattern_without_files_is_named(embed, tmp_path):
    _, code, said = embed(f"{tmp_path}/*.jsonl", tmp_path / "out.jsonl")
    assert code == 2
    assert "*.jsonl: matches no file" in said
    assert not list(tmp_path.iterdir())
