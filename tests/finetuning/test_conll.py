"""Which column of a file of tokens is what: recognised and said, or refused by name."""

import pytest

from convbert import InputError
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.readers import read_table
from convbert.finetuning.tasks import find_task

WORDS = [["the", "cat", "sat", "in", "paris"], ["a", "dog", "ran"]]
TAGS = [["O", "B-PER", "O", "O", "B-LOC"], ["O", "B-PER", "O"]]


def in_columns(row, separator="\t", before="", words=WORDS, tags=TAGS):
    """Two sentences; `row` has the places {n}, {word} and {tag}, and spaces between its columns."""
    lines = []
    for sentence, marks in zip(words, tags, strict=True):
        lines += [before] if before else []
        for number, (word, tag) in enumerate(zip(sentence, marks, strict=True), start=1):
            cells = row.format(n=number, zero=number - 1, word=word, tag=tag).split()
            lines.append(separator.join(cells))
        lines.append("")
    return "\n".join(lines) + "\n"


def line_of_conllu(number, word, upos, xpos="X"):
    return f"{number}\t{word}\t_\t{upos}\t{xpos}\t_\t_\t_\t_\t_"


FILES = {
    "plain": in_columns("{word} {tag}"),
    "by spaces": in_columns("{word} {tag}", " "),
    "conll 2003": in_columns("{word} NN B-NP {tag}", " "),
    "index": in_columns("{n} {word} {tag}"),
    "index from 0": in_columns("{zero} {word} {tag}"),
    "GermEval": in_columns("{n} {word} {tag} O", before="#\thttp://de.wikipedia.org/wiki/X [2009-10-17]"),
    "GermEval with inner entities": in_columns("{n} {word} {tag} B-OTH"),
    "NeuroNLP2": in_columns("{n} {word} NN I-NP {tag}", " "),
    "MultiCoNER": in_columns("{word} _ _ {tag}", " ", "\n# id 52-aa\tdomain=train"),
    "MultiCoNER by spaces": in_columns("{word} _ _ {tag}", " ", "# id 52-aa domain=train"),
    "comments as long as the rows": in_columns("{word} {tag}", " ", "# sentence"),
    "OntoNotes' comments": "#begin document (x); part 000\n"
    + in_columns("{word} {tag}", " ")
    + "#end document\n",
    "gold and predicted": in_columns("{word} {tag} B-MISC", " "),
    "tags first": in_columns("{tag} {word}"),
    "CR LF": in_columns("{word} {tag}").replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("task", ["entities", "tagging"])
def test_words_and_tags_are_found_in_their_columns(name, task, tmp_path):
    path = tmp_path / "train.conll"
    path.write_bytes(FILES[name].encode())
    said = []
    examples = adapter_of(find_task(task)).read(path, report=said.append)
    assert [example.inputs["tokens"] for example in examples] == WORDS
    assert [list(example.target) for example in examples] == TAGS
    columns = {len(line.split()) for line in FILES[name].splitlines() if line.startswith(("the", "1", "0"))}
    if name == "tags first" or max(columns, default=0) > 2:
        assert any("words are read from" in note or "words from" in note for note in said)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the O\n# O\ncat B-PER\n", ["the", "#", "cat"]),
        ("# O\ncat B-PER\nthe O\n", ["#", "cat", "the"]),
        ("#Obama B-PER\nran O\n", ["#Obama", "ran"]),
        ("the DT\ncat NN\n# #\n12 CD\n", ["the", "cat", "#", "12"]),
        ("1 O\n2 O\n3 B-X\n", ["1", "2", "3"]),
        ("1 CD O\n7 CD O\ncat NN B-X\n", ["1", "7", "cat"]),
        ("2019 CD O\n2021 CD O\n", ["2019", "2021"]),
        ("10\u00a0000 O\n", ["10\u00a0000"]),
    ],
)
def test_words_that_are_numbers_or_a_hash_stay_words(text, words, tmp_path):
    path = tmp_path / "a.conll"
    path.write_text(text, encoding="utf-8")
    (row,) = read_table(path).rows
    assert row.cells["tokens"] == words


@pytest.mark.parametrize("ending", ["conllu", "conll", "txt", "test"])
def test_conll_u_is_known_by_its_columns(ending, tmp_path):
    lines = [
        "# text = don't go",
        line_of_conllu("1-2", "don't", "_"),
        line_of_conllu(1, "do", "AUX"),
        line_of_conllu(2, "n't", "PART"),
        line_of_conllu("2.1", "left", "VERB"),
        line_of_conllu(3, "go", "VERB"),
    ]
    path = tmp_path / f"a.{ending}"
    path.write_text("\n".join(lines) + "\n\n")
    said = []
    (row,) = read_table(path, report=said.append).rows
    assert (row.cells["tokens"], row.cells["tags"]) == (["do", "n't", "go"], ["AUX", "PART", "VERB"])
    assert bool(said) == (ending != "conllu")


def test_conll_u_plus_names_its_columns(tmp_path):
    path = tmp_path / "a.conllup"
    path.write_text("# global.columns = ID FORM UPOS NER\n1\tthe\tDET\tO\n2\tcat\tNOUN\tB-X\n")
    (row,) = read_table(path).rows
    assert (row.cells["tokens"], row.cells["tags"]) == (["the", "cat"], ["DET", "NOUN"])


def test_ontonotes_brackets_become_bio(tmp_path):
    rows = [("The", "(ORG*"), ("Bank", "*)"), ("of", "*"), ("Paris", "(GPE)")]
    lines = [
        f"bc/x/00/x_0000   0   {n}   {word}   NN   (S*   -   -   -   Speaker   {tag}" + "   *" * n + "   -"
        for n, (word, tag) in enumerate(rows)
    ]
    path = tmp_path / "a.conll"
    path.write_text("#begin document (bc/x/00/x_0000); part 000\n" + "\n".join(lines) + "\n\n#end document\n")
    (example,) = adapter_of(find_task("entities")).read(path)
    assert example.inputs["tokens"] == [word for word, _ in rows]
    assert example.target == ("B-ORG", "I-ORG", "O", "B-GPE")


def test_columns_can_be_chosen_by_number(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text(FILES["conll 2003"])
    chosen = find_task("tagging", {"tokens": "1", "tags": "2"})
    example = adapter_of(chosen).read(path)[0]
    assert (example.inputs["tokens"], set(example.target)) == (WORDS[0], {"NN"})
    with pytest.raises(InputError, match="no column '9'"):
        adapter_of(find_task("tagging", {"tags": "9"})).read(path)


@pytest.mark.parametrize(
    "name", ["eng.train", "eng.testa", "x.iob2", "NER-de-train.tsv", "A.CONLL", "a.conll.gz", "valid.TXT"]
)
def test_endings_that_people_use(name, tmp_path):
    import gzip

    path = tmp_path / name
    path.write_bytes(
        gzip.compress(FILES["plain"].encode()) if name.endswith("gz") else FILES["plain"].encode()
    )
    assert [example.inputs["tokens"] for example in adapter_of(find_task("entities")).read(path)] == WORDS


def test_a_ragged_line_spoils_its_own_sentence_alone(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("the O\nNew York B-LOC\n\n" + FILES["by spaces"])
    adapter = adapter_of(find_task("entities"))
    with pytest.raises(InputError, match="line 2: 3 columns"):
        adapter.read(path)
    said = []
    examples = adapter.read(path, report=said.append, on_bad_row="skip")
    assert [example.inputs["tokens"] for example in examples] == WORDS
    assert "1 of 3 rows" in said[-1]


def test_a_word_may_be_empty_and_a_tag_may_not(tmp_path):
    """Some words of the Broad Twitter Corpus are."""
    path = tmp_path / "a.conll"
    path.write_text("the\tO\n\tO\n\ncat\t\n")
    first, second = read_table(path).rows
    assert first.cells["tokens"] == ["the", ""]
    assert "line 4" in str(second)
