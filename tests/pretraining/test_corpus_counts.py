"""What of a corpus is not known or not trained on is counted, said on every path, refused where it is everything."""

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from convbert.cli import main
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.corpus.prepare import Preparation
from convbert.pretraining.corpus.reading import Reading
from convbert.pretraining.data import prepare_sequences
from convbert.pretraining.prepare import NewVocabulary, prepare
from convbert.pretraining.recipes import smoke
from convbert.pretraining.run import pretrain
from convbert.util.errors import InputError

SHORT, UNKNOWN = (
    "a dog.",
    "the cat watches the river ЖЖЖ in the morning. " + "the cat likes a letter every summer.",
)


def ids_of(tokenizer, text: str) -> list[int]:
    return [
        index for line in text.split("\n") for index in tokenizer(line, add_special_tokens=False).input_ids
    ]


@pytest.fixture
def documents(corpus) -> list[str]:
    """Two of them too short, and one with a word that nobody knows."""
    whole = corpus.read_text().strip().split("\n\n")[:8]
    return [whole[0], SHORT, *whole[1:5], UNKNOWN, *whole[5:], SHORT]


@pytest.fixture
def text(documents, tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


@pytest.fixture
def strands(tmp_path) -> Path:
    """Words of 200 letters, each of which is [UNK] as a whole."""
    draw = random.Random(0)
    path = tmp_path / "strands.txt"
    path.write_text("\n".join("".join(draw.choices("acgt", k=200)) for _ in range(300)))
    return path


@pytest.mark.parametrize("segments", ["one", "two"])
@pytest.mark.parametrize("cross", [False, True])
def test_counts_are_those_of_the_text(text, documents, tokenizer, tmp_path, segments, cross):
    packing = Packing(32, 16, segments, cross)
    dataset = prepare_sequences(text, tokenizer, tmp_path / "data", packing)
    totals = dataset.manifest.totals()
    ids = [ids_of(tokenizer, document) for document in documents]
    assert totals["documents"] == len(documents)
    assert totals["text_tokens"] == sum(map(len, ids))
    assert totals["unknown"] == sum(each.count(tokenizer.unk_token_id) for each in ids) > 0
    assert totals["unknown_example"] == UNKNOWN
    assert totals["short_documents"] == (0 if cross else 2)
    marks = {tokenizer.cls_token_id, tokenizer.sep_token_id}
    rows = dataset.__getitems__(list(range(len(dataset))))
    kept = sum(int(index) not in marks for row in rows for index in row["input_ids"])
    if not (
        cross and segments == "one"
    ):  # there a mark between documents may be dropped with what follows it
        assert totals["dropped_tokens"] == totals["text_tokens"] - kept > 0


def test_workers_count_alike(text, tokenizer, tmp_path):
    totals = [
        prepare(Preparation(text, tmp_path / f"{workers}", Packing(32, 16), workers=workers), folder).totals()
        for workers in (1, 2)
        for folder in [saved(tokenizer, tmp_path)]
    ]
    assert totals[0] == totals[1]


def saved(tokenizer, tmp_path) -> Path:
    tokenizer.save_pretrained(tmp_path / "words")
    return tmp_path / "words"


def test_what_is_lost_is_said_by_a_first_run_a_repeated_one_and_by_training(text, tokenizer, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"text": null}\n{"text": "  "}\n{"text": "' + "the old farmer likes a letter. " * 9 + '"}\n'
    )
    (tmp_path / "empty.txt").touch()
    words = saved(tokenizer, tmp_path)
    preparation = Preparation(
        [text, rows, tmp_path / "empty.txt"], tmp_path / "made", Packing(32, 16), Reading(skip_bad=True)
    )

    def said_by(call: Callable) -> str:
        said: list[str] = []
        call(said.append)
        return "\n".join(said)

    first = said_by(lambda report: prepare(preparation, words, report=report))
    again = said_by(lambda report: prepare(preparation, words, report=report))
    training = said_by(
        lambda report: prepare_sequences(
            tmp_path / "made", tokenizer, tmp_path / "cache", Packing(32, 16), report=report
        )
    )
    for said in (first, again, training):
        assert "2 of 12 documents" in said
        assert "2 rows or lines without text" in said
        assert "1 files are skipped" in said
        assert "empty.txt" in said
    stored = json.loads((tmp_path / "made/manifest.json").read_text())
    assert (stored["short_documents"], stored["empty_rows"], stored["skipped_files"]) == (2, 2, 1)


def test_a_finished_run_and_its_repetition_say_what_was_lost(text, tokenizer, tmp_path, capsys):
    command = [
        *("pretrain", "--recipe", "smoke", "--corpus", str(text), "--output", str(tmp_path / "run")),
        *("--tokenizer", str(saved(tokenizer, tmp_path)), "--device", "cpu", "--max-steps", "1"),
        *("--set", "min_sequence_length=16", "--set", "batch_size=2"),
    ]
    for _ in range(2):
        assert main(command) == 0
        last = capsys.readouterr().err.rsplit("step 1/1", 1)[-1]
        assert "2 of 11 documents" in last
    assert "2 of 11 documents" in json.loads((tmp_path / "run/metrics.json").read_text())["data_notes"]


def test_some_unknown_words_are_a_warning_with_share_and_example(tokenizer, tmp_path):
    text = tmp_path / "mixed.txt"
    text.write_text("\n\n".join("the dog likes ЖЖЖ the river. " * 5 for _ in range(20)), encoding="utf-8")
    said: list[str] = []
    prepare_sequences(text, tokenizer, tmp_path / "data", Packing(32, 4), report=said.append)
    (warning,) = [line for line in said if "[UNK]" in line]
    ids = ids_of(tokenizer, "the dog likes ЖЖЖ the river.")
    assert f"{ids.count(tokenizer.unk_token_id) / len(ids):.1%}" in warning
    assert "ЖЖЖ" in warning
    said.clear()  # cached
    prepare_sequences(text, tokenizer, tmp_path / "data", Packing(32, 4), report=said.append)
    assert warning in said


@pytest.mark.parametrize("objective", ["rtd", "mlm"])
def test_a_run_on_unknown_words_alone_is_refused_before_training(strands, tmp_path, objective):
    run = tmp_path / "run"
    with pytest.raises(InputError, match=r"strands\.txt.*\[UNK\]"):
        pretrain(smoke(objective=objective), strands, run, device="cpu", report=lambda message: None)
    assert not list(run.iterdir())


def test_so_is_held_out_text_of_unknown_words(corpus, strands, tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"strands\.txt.*\[UNK\]"):
        pretrain(
            smoke(),
            corpus,
            tmp_path / "run",
            tokenizer=tokenizer,
            heldout=strands,
            report=lambda message: None,
        )


def test_prepare_refuses_them_too_and_another_vocabulary_may_follow(strands, tmp_path, corpus):
    preparation = Preparation(strands, tmp_path / "made", Packing(32, 4))
    with pytest.raises(InputError, match=r"strands\.txt.*\[UNK\]"):
        prepare(preparation, NewVocabulary(200))
    assert not (tmp_path / "made/manifest.json").exists()
    assert prepare(dataclasses.replace(preparation, source=corpus), NewVocabulary(200)).complete


def test_documents_of_one_unknown_word_each_are_said_to_be_unknown(strands, tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"\[UNK\]"):
        prepare_sequences(
            strands, tokenizer, tmp_path / "data", Packing(32, 8), reading=Reading(document_per_line=True)
        )
