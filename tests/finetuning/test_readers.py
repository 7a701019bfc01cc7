"""Files of every format to tables; damage is named with its line."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convbert import InputError
from convbert.finetuning.readers import ending_of, iter_rows, read_table


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def raise_errors(table):
    for row in table.rows:
        if isinstance(row, InputError):
            raise row


def cells(table):
    return [row.cells for row in table.rows]


def test_tsv_does_not_quote(tmp_path):
    path = write(tmp_path, "a.tsv", '\ufeffsentence\tlabel\r\na "quoted word\t1\r\nplain\t0\r\n')
    assert cells(read_table(path)) == [
        {"sentence": 'a "quoted word', "label": "1"},
        {"sentence": "plain", "label": "0"},
    ]


def test_csv_quotes_and_counts_lines_over_line_breaks(tmp_path):
    path = write(tmp_path, "a.csv", 'text,stars\n"two\nlines, and a ""word""",5\nplain,1\n')
    table = read_table(path)
    assert cells(table)[0] == {"text": 'two\nlines, and a "word"', "stars": "5"}
    assert [row.place for row in table.rows] == [f"{path}: line 2", f"{path}: line 4"]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a film\t1\n", [{"sentence": "a film", "label": "1"}]),
        ("sentence\tlabel\na film\t1\n", [{"sentence": "a film", "label": "1"}]),
        ("index\tsentence\n7\ta film\n", [{"index": "7", "sentence": "a film"}]),
    ],
    ids=["no header", "header", "GLUE test"],
)
def test_a_header_is_told_from_a_row(tmp_path, text, rows):
    wanted = ["sentence"] if "index" in text else ["sentence", "label"]
    assert cells(read_table(write(tmp_path, "a.tsv", text), ("sentence", "label"), wanted)) == rows


def test_a_broken_row_is_an_error_in_its_place(tmp_path):
    path = write(tmp_path, "a.tsv", "a\tb\tc\n1\t2\t\n3\n4\t5\t6\n7\t\t8\n")
    rows = read_table(path).rows
    assert [isinstance(row, InputError) for row in rows] == [False, True, False, False]
    assert "line 3: 1 cells" in str(rows[1])


def test_json_lines_and_parquet_hold_lists(tmp_path):
    rows = [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}, {"tokens": ["c"], "tags": ["O"]}]
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame(rows).to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    assert cells(read_table(tmp_path / "a.parquet")) == cells(read_table(tmp_path / "a.jsonl")) == rows


def test_conll(tmp_path):
    path = write(tmp_path, "a.conll", "-DOCSTART- -X- O\n\nEU NNP I-ORG\nrejects VBZ O\n\n# NN O\n")
    table = read_table(path)
    assert cells(table) == [
        {"tokens": ["EU", "rejects"], "tags": ["I-ORG", "O"]},
        {"tokens": ["#"], "tags": ["O"]},
    ]
    assert table.rows[0].place == f"{path}: line 3"


def test_a_no_break_space_is_part_of_a_token(tmp_path):
    path = write(tmp_path, "a.conll", "10\u00a0000  CD B-X\n")
    assert cells(read_table(path)) == [{"tokens": ["10\u00a0000"], "tags": ["B-X"]}]


def test_a_column_of_json_lines_may_begin_late(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "a"}\n{"label": 1, "text": "b"}\n')
    assert read_table(path).columns == ("text", "label")


def test_conllu_leaves_ranges_and_empty_nodes_out(tmp_path):
    def line(number, form, upos):
        return "\t".join([number, form, "_", upos, "X", "_", "_", "_", "_", "_"])

    lines = ["# text = don't", line("1-2", "don't", "_"), line("1", "do", "AUX"), line("2", "n't", "PART")]
    path = write(tmp_path, "a.conllu", "\n".join([*lines, line("2.1", "left", "VERB")]) + "\n\n")
    assert cells(read_table(path)) == [{"tokens": ["do", "n't"], "tags": ["AUX", "PART"], "xpos": ["X", "X"]}]


DAMAGED = {
    "empty.tsv": (b"", "is empty"),
    "mark.csv": (b"\xef\xbb\xbf", "is empty"),
    "quote.csv": (b'label,text\n0,"he said\n1,third\n', "line 2: not CSV (unexpected end of data)"),
    "header.tsv": (b"sentence\tlabel\n", "has no rows"),
    "bytes.tsv": (b"a\tb\nfine\t1\nbad \xff\t0\n", "line 3: not UTF-8"),
    "cells.csv": (b"a,b\n1,2\n1,2,3\n", "line 3: 3 cells for the 2 columns"),
    "broken.jsonl": (b'{"a": 1}\n{"a": \n', "line 2: not JSON"),
    "list.jsonl": (b"[1]\n", "line 1: an object is wanted"),
    "short.conll": (b"EU B-ORG\nrejects\n", "line 2: 1 columns, where there should be 2"),
    "short.conllu": (b"1\tEU\n", "line 1: 2 columns, where there should be 10"),
    "number.conllu": (b"x" + b"\tEU" * 9 + b"\n", "line 1: 'x' where the number"),
    "null.csv": (b"a,b\n1,\x00\n", "line 2: a NUL character"),
    "wide.csv": (b"\xff\xfea\x00,\x00b\x00\n\x00", "line 1: UTF-16"),
    "damaged.csv.gz": (b"\x1f\x8b\x08\x00 nothing", "damaged gzip file"),
    "damaged.jsonl.zst": (b"nothing", "damaged .zst file"),
    "column.conll": (b"7 CD O\n" * 8, "column 1 holds nothing but numbers"),
    "same.conll": (b"doc the O\n" * 8, "column 1 holds 'doc' on every line"),
    "data.json": (b'{"data": 3}', "neither SQuAD JSON"),
    "items.json": (b'[{"id": 1}, 7]', "item 2: an object is wanted"),
    "article.json": (b'{"data": [{"paragraphs": 5}]}', "item 1: paragraphs"),
    "paragraph.json": (b'{"data": [{"paragraphs": [{"qas": [7]}]}]}', "item 1: paragraph 1: qas.0"),
    "question.json": (b'{"data": [{"paragraphs": [{"qas": [{"id": []}]}]}]}', "question 1: id"),
    "other.json": (b'{"version": 1}', "neither SQuAD JSON"),
    "broken.parquet": (b"nothing", "not a Parquet file"),
    "what.xyz": (b"text", "what is in a .xyz file?"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(name, tmp_path):
    content, sentence = DAMAGED[name]
    path = write(tmp_path, name, content)
    with pytest.raises(InputError) as error:
        raise_errors(read_table(path))
    assert sentence in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv: there is no such file"):
        read_table(tmp_path / "nowhere.csv")


def test_a_long_cell_of_csv_is_read(tmp_path):
    long = "word " * 60_000
    assert cells(read_table(write(tmp_path, "a.csv", f'text,label\n"{long}",1\n')))[0]["text"] == long


def test_a_header_that_lacks_a_column_is_no_row(tmp_path):
    path = write(tmp_path, "a.csv", "sentence,sentiment\na film,1\n")
    table = read_table(path, ("sentence", "label"), ("sentence", "label"))
    with pytest.raises(InputError, match="no column 'label'; there are sentence, sentiment"):
        table.check_columns(["sentence", "label"])


def test_a_column_that_is_there_twice_is_refused_where_it_is_wanted(tmp_path):
    table = read_table(write(tmp_path, "a.csv", "text,other,text,other\na,b,c,d\n"))
    with pytest.raises(InputError, match="2 columns are named 'text'"):
        table.check_columns(["text"])


def test_squad_without_answers_has_no_such_column(tmp_path):
    """Test data: "no answer" would be another thing."""
    qas = '{"id": "q", "question": "who ?"%s}'
    text = '{"data": [{"paragraphs": [{"context": "the cat", "qas": [%s]}]}]}'
    path = write(tmp_path, "a.json", text % (qas % ""))
    assert read_table(path).columns == ("id", "question", "context")
    path = write(tmp_path, "b.json", text % (qas % ', "answers": []'))
    assert read_table(path).rows[0].cells["answers"] == []


@pytest.mark.parametrize("text", ['{"a": ' + "[" * 100_000, '{"a": "\\ud800"}', '{"a"'], ids=lambda t: t[:9])
def test_json_that_cannot_be_used_is_an_error_of_its_line(text, tmp_path):
    with pytest.raises(InputError, match="line 2: not JSON"):
        raise_errors(read_table(write(tmp_path, "a.jsonl", f'{{"a": 1}}\n{text}\n')))


# ----------------------------------------------------------------------------- separators, endings, streams


@pytest.mark.parametrize(
    "text",
    [
        "text,label\na,1\n",
        "text;label\r\na;1\r\n",
        "text\tlabel\na\t1\n",
        "text|label\na|1\n",
        "\ufefftext;label\na;1\n",
        "sep=;\ntext;label\na;1\n",
        '"text";"label"\n"a";"1"\n',
        "text,label\ra,1\r",
    ],
)
def test_cells_of_csv_are_separated_as_excel_and_others_do(text, tmp_path):
    said = []
    table = read_table(write(tmp_path, "a.csv", text), wanted=("text", "label"), report=said.append)
    assert cells(table) == [{"text": "a", "label": "1"}]
    assert bool(said) == ("," not in text)


def test_a_comma_separates_where_the_columns_say_so(tmp_path):
    path = write(tmp_path, "a.csv", "text,the;label\na;b,1\n")
    assert cells(read_table(path, wanted=("text",))) == [{"text": "a;b", "the;label": "1"}]


def test_the_index_that_pandas_writes_is_a_column_without_a_name(tmp_path):
    pd.DataFrame({"text": ["a"], "label": [1.0]}).to_csv(tmp_path / "a.csv")
    assert cells(read_table(tmp_path / "a.csv")) == [{"": "0", "text": "a", "label": "1.0"}]


ROWS = [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]


@pytest.mark.parametrize("ending", [".csv", ".CSV", ".tsv", ".jsonl", ".ndjson", ".json"])
@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_text_files_may_be_compressed_and_endings_in_capitals(ending, compression, tmp_path):
    separator = {".csv": ",", ".tsv": "\t"}.get(ending.lower())
    if separator:
        text = "\n".join(separator.join(each) for each in (["text", "label"], *map(dict.values, ROWS)))
    else:
        text = "\n".join(map(json.dumps, ROWS))
    path = tmp_path / f"a{ending}{compression}"
    if compression:
        with pa.CompressedOutputStream(str(path), {".gz": "gzip", ".zst": "zstd"}[compression]) as stream:
            stream.write(text.encode())
    else:
        path.write_text(text)
    assert cells(read_table(path)) == ROWS
    assert ending_of(path) == ending.lower()


@pytest.mark.parametrize(
    "content",
    [ROWS, {"data": ROWS}, {"version": "2", "data": ROWS}],
    ids=["list", "data", "version and data"],
)
def test_json_may_be_a_list_of_objects(content, tmp_path):
    assert cells(read_table(write(tmp_path, "a.json", json.dumps(content, indent=1)))) == ROWS


def test_squad_may_come_without_data_around_it(tmp_path):
    paragraph = {"context": "the cat", "qas": [{"id": 7, "question": "who ?", "answers": []}]}
    wanted = [{"id": "7", "question": "who ?", "answers": [], "context": "the cat"}]
    for content in (
        [paragraph],
        paragraph,
        {"paragraphs": [paragraph]},
        {"data": [{"paragraphs": [paragraph]}]},
    ):
        assert cells(read_table(write(tmp_path, "a.json", json.dumps(content)))) == wanted


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_rows_come_before_the_file_is_read_to_its_end(name, tmp_path):
    first = b'{"a": 1}\n' if name.endswith("l") else b"a\n1\n"
    path = write(tmp_path, name, first + b"\xff\n")
    rows = iter_rows(path)
    assert list(map(str, next(rows).cells.values())) == ["1"]
    with pytest.raises(InputError, match="not UTF-8"):
        next(rows)


def test_rows_of_parquet_come_in_batches(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": [str(number) for number in range(3000)]}).to_parquet(path, row_group_size=500)
    rows = list(iter_rows(path))
    assert [row.cells["text"] for row in rows] == [str(number) for number in range(3000)]
    assert rows[2999].place == f"{path}: row 3000"


def test_parquet_with_bytes_that_are_no_text_is_refused(tmp_path):
    column = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), path)
    with pytest.raises(InputError, match=r"a\.parquet"):
        read_table(path)
