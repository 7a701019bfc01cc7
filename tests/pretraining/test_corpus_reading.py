"""Every kind of source gives the same documents; what cannot be read is named."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convbert.pretraining.corpus.reading import PLAIN, CorpusReader, Reading
from convbert.pretraining.corpus.sources import HubDataset, find_sources, overview
from convbert.util.errors import InputError

DOCUMENTS = [["one", "two words"], ["drei äöü"], ["四"], ["five", "six", "seven"]]


def read(source, size=1 << 20, reading=PLAIN, **options):
    sources = CorpusReader(find_sources(source), reading, **options)
    return [document for block in sources.chunks(size) for document in block.documents(reading)]


def texts():
    return ["\n".join(document) for document in DOCUMENTS]


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def write_text(path, pack=bytes):
    path.write_bytes(pack("\n\n".join(texts()).encode()))


def write_jsonl(path, pack=bytes):
    path.write_bytes(pack("\n".join(json.dumps({"id": 1, "text": text}) for text in texts()).encode()))


WRITERS = {
    "a.txt": write_text,
    "a.txt.gz": lambda path: write_text(path, gzip.compress),
    "a.txt.zst": lambda path: write_text(path, zstd),
    "a.jsonl": write_jsonl,
    "a.json": write_jsonl,
    "a.ndjson.gz": lambda path: write_jsonl(path, gzip.compress),
    "a.jsonl.zst": lambda path: write_jsonl(path, zstd),
    "a.parquet": lambda path: pq.write_table(pa.table({"text": texts()}), path),
}


@pytest.mark.parametrize("size", [8, 1 << 20], ids=["cut as finely as can be", "in one block"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents(name, size, tmp_path):
    WRITERS[name](tmp_path / name)
    if size == 8 and "txt" in name:
        size = 24  # of text, a document longer than a block is cut, and so would these be
    assert read(tmp_path / name, size) == DOCUMENTS


@pytest.mark.parametrize("size", [1 << 20, 24])
def test_documents_end_at_empty_lines_and_at_the_end_of_a_file(size, tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    first.write_bytes(b"\xef\xbb\xbfone\r\n two \r\n\r\n \t\r\nthree")
    second.write_bytes(gzip.compress(b"vier\n") + gzip.compress(b"\nfive"))
    assert read([first, second], size) == [["one", "two"], ["three"], ["vier"], ["five"]]


def test_each_line_may_be_a_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\nthree\n")
    assert read(path, reading=Reading(document_per_line=True)) == [["one"], ["two"], ["three"]]


@pytest.mark.parametrize(
    "text", ["word\n" * 400, "word " * 400, "wörter" * 200], ids=["lines", "words", "letters"]
)
def test_text_without_empty_lines_is_cut_and_nothing_is_lost(text, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    blocks = list(CorpusReader(find_sources(path)).chunks(100))
    assert max(len(piece.content) for block in blocks for piece in block.excerpts) <= 200
    documents = [document for block in blocks for document in block.documents(PLAIN)]
    assert len(documents) > 5
    joined = "".join(paragraph for document in documents for paragraph in document)
    assert "".join(joined.split()) == "".join(text.split())


def test_a_paragraph_too_long_for_a_tokenizer_is_cut_between_words(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("word " * 50_000 + "\nend\n")
    (document,) = read(path, 1 << 25)
    assert max(map(len, document)) <= 1 << 16
    assert " ".join(document).split() == ["word"] * 50_000 + ["end"]


def test_blocks_do_not_depend_on_the_number_of_files_read_before(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text(f"document {number}\n" * 5)
    blocks = list(CorpusReader(find_sources(tmp_path)).chunks(200))
    assert [block.index for block in blocks] == list(range(len(blocks)))
    assert 1 < len(blocks) < 20  # small files share a block
    assert sum(block.source_bytes for block in blocks) == sum(p.stat().st_size for p in tmp_path.iterdir())


def test_a_saved_data_set_is_read_and_its_splits_are_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": texts(), "id": [1, 2, 3, 4]})
    table.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "split")
    assert read(tmp_path / "plain") == DOCUMENTS
    assert read(f"dataset:{tmp_path / 'split'}") == DOCUMENTS
    assert read(f"dataset:{tmp_path / 'split'}@test") == DOCUMENTS[:1]
    with pytest.raises(InputError, match="no split 'dev'; there are train, test"):
        read(f"dataset:{tmp_path / 'split'}@dev")
    with pytest.raises(InputError, match="no column 'body'; there are text, id"):
        read(tmp_path / "plain", reading=Reading("body"))
    with pytest.raises(InputError, match="column 'id' holds int, not text"):
        read(tmp_path / "plain", reading=Reading("id"))


def test_a_data_set_is_streamed_by_name(tmp_path):
    pytest.importorskip("datasets")
    write_jsonl(tmp_path / "data.jsonl")
    assert read(f"dataset:{tmp_path}@train") == DOCUMENTS


def test_names_of_data_sets():
    names = ["dataset:a/b", "dataset:a/b:en@test"]
    assert find_sources(names) == [HubDataset("a/b", "en", "test"), HubDataset("a/b")]
    with pytest.raises(InputError, match="name a data set"):
        find_sources("dataset:@train")


def test_files_are_found_by_name_glob_and_folder_once_each(tmp_path):
    (tmp_path / "deep").mkdir()
    names = ["a.txt", "b.txt.gz", "deep/c.jsonl.zst", "deep/d.parquet"]
    wanted = [tmp_path / name for name in names]
    for path in [*wanted, tmp_path / "ignored.json", tmp_path / "ignored.gz"]:
        path.touch()

    def found(source):
        return [source.path for source in find_sources(source)]

    assert found(tmp_path) == wanted
    assert found([tmp_path / "b.txt.gz", str(tmp_path / "*.txt*"), tmp_path / "a.txt"]) == wanted[:2]


@pytest.mark.parametrize("name", ["missing.txt", "*.none", "empty_folder"])
def test_a_source_that_matches_nothing_is_named(tmp_path, name):
    (tmp_path / "empty_folder").mkdir()
    with pytest.raises(InputError, match=name.replace("*", r"\*")):
        find_sources(tmp_path / name)
    with pytest.raises(InputError, match="no corpus was given"):
        find_sources([])


BAD = {
    "a.txt": (b"gut\n\nab\xc3(", r"a.txt: not UTF-8 text: line 3, byte offset 7"),
    "b.txt.gz": (
        gzip.compress("äö\n".encode() + b"ab\xc3("),
        r"b.txt.gz: not UTF-8 text: line 2, byte offset 7",
    ),
    "c.txt.gz": (b"not gzip at all", r"c.txt.gz: damaged gzip"),
    "d.txt.gz": (gzip.compress(bytes(range(65, 90)) * 999)[:-20], r"d.txt.gz: damaged gzip"),
    "e.txt.zst": (b"not zstd at all", r"e.txt.zst: damaged .zst"),
    "f.txt.zst": (zstd(b"a text " * 1000)[:-5], r"f.txt.zst: damaged .zst"),
    "g.txt": (b" \n\n", r"g.txt: is empty"),
    "h.txt.gz": (gzip.compress(b""), r"h.txt.gz: is empty"),
    "i.jsonl": (b'{"text": "a"}\n\n{"text": ', r"i.jsonl: line 3: not a JSON object"),
    "j.jsonl": (b'{"body": "a", "id": 1}', r"j.jsonl: line 1: no column 'text'; there are body, id"),
    "k.jsonl": (b'{"text": ["a"]}', r"k.jsonl: line 1: column 'text' holds list, not text"),
    "k2.jsonl": (
        rb'{"text": "so \ud83d"}',
        r"k2.jsonl: line 1: column 'text' holds no Unicode text: surrogates not allowed at character 3",
    ),
    "l.jsonl": (b"[1]", r"l.jsonl: line 1: not a JSON object but list"),
    "m.parquet": (b"PAR1 not really", r"m.parquet: cannot be read as Parquet"),
    "n.parquet.gz": (b"", r"n.parquet.gz: Parquet is compressed inside"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("size", [16, 1 << 20])
def test_a_bad_file_is_named_or_skipped_and_counted(name, size, tmp_path):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    good = tmp_path / "z.txt"
    good.write_text("sound\n")
    with pytest.raises(InputError, match=message):
        read([tmp_path / name, good], size)
    sources = CorpusReader(find_sources([tmp_path / name, good]), Reading(skip_bad=True))
    assert [list(block.documents(PLAIN)) for block in sources.chunks(size)] == [[["sound"]]]
    (skipped,) = sources.skipped
    assert name in skipped


def test_a_parquet_column_that_is_missing_or_no_text_is_named(tmp_path):
    pq.write_table(pa.table({"body": ["a"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'text'; there are body, id"):
        read(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column 'id' holds int64, not text"):
        read(tmp_path / "a.parquet", reading=Reading("id"))


def test_bytes_that_are_no_utf8_in_a_parquet_file_are_named(tmp_path):
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xc3(")]
    )
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet: cannot be read as Parquet: .*utf-8"):
        read(tmp_path / "a.parquet")


def test_a_null_is_an_empty_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "a"}\n')
    pq.write_table(pa.table({"text": [None, "b"]}), tmp_path / "b.parquet")
    assert read(tmp_path) == [[], ["a"], [], ["b"]]  # counted: see `Counts`


TABLE = 'id,text,label\n1,"one, with a comma\nand ""two"" lines",x\n2,three,y\n3,,z\n'
EXPECTED = [["one, with a comma", 'and "two" lines'], ["three"], []]


@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.csv.gz", "a.csv.zst"])
def test_a_column_of_csv(tmp_path, name):
    packed = {".gz": gzip.compress, ".zst": zstd}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(packed(b"\xef\xbb\xbf" + TABLE.encode()))
    assert read(tmp_path / name) == EXPECTED
    assert read(tmp_path / name, reading=Reading("label")) == [["x"], ["y"], ["z"]]


def test_semicolons_and_tabs_part_cells_too(tmp_path):
    (tmp_path / "a.csv").write_text("id;text\n1;a, b\n2;c\n")
    (tmp_path / "b.tsv").write_text('id\ttext\n1\t"a\n2\tb, c\n')
    assert read(tmp_path / "a.csv") == [["a, b"], ["c"]]
    assert read(tmp_path / "b.tsv") == [['"a'], ["b, c"]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,body\n1,a\n", "no column 'text'; there are id, body"),
        ("id,text\n1,a,b\n", "row 1 has 3 cells"),
        ('id,text\n1,a\n2,"b\n', "row 2"),
        ("id,text\n1,\xff\n", "not UTF-8"),
        ("id,text\n", "is empty"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, content, said):
    (tmp_path / "a.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=rf"a\.csv.*{said}"):
        read(tmp_path / "a.csv")


def test_endings_may_be_in_capitals(tmp_path):
    (tmp_path / "A.TXT").write_text("one\n\ntwo\n")
    (tmp_path / "B.JSONL").write_text('{"text": "three"}\n')
    (tmp_path / "C.TXT.GZ").write_bytes(gzip.compress(b"four\n"))
    assert read(tmp_path) == [["one"], ["two"], ["three"], ["four"]]


def test_a_folder_of_markdown_and_what_of_a_folder_is_left_out(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/chapter.md").write_text("# One\n\ntwo\n")
    (tmp_path / "README.md").write_text("about the chapters\n")
    (tmp_path / "about.csv").write_text("file,year\nchapter.md,1900\n")
    assert read(tmp_path) == [["# One"], ["two"]]
    names, left_out = overview(tmp_path)
    assert "chapter.md (11 bytes)" in names
    assert "2 files" in left_out
    assert "README.md" in left_out
    assert "about.csv" in left_out


def test_a_folder_of_tables(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text\none\n"))
    (tmp_path / "b.tsv").write_text("text\ntwo\n")
    assert read(tmp_path) == [["one"], ["two"]]
    assert overview(tmp_path)[0].startswith("2 sources")
