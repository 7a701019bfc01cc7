import gzip
import json
import os

import numpy as np
import pytest

from convbert.errors import InputError
from convbert.pretraining import data
from convbert.pretraining.data import (
    EpochSampler,
    Packing,
    SequenceDataset,
    find_text_files,
    prepare_sequences,
    read_documents,
)


def test_documents_end_at_empty_lines_and_at_the_end_of_a_file(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    first.write_bytes(b"\xef\xbb\xbfone\r\n two \r\n\r\n\r\nthree")
    second.write_bytes(gzip.compress(b"vier\n"))
    assert list(read_documents([first, second])) == [["one", "two"], ["three"], ["vier"]]


def test_files_are_found_by_name_glob_and_folder_once_each(tmp_path):
    (tmp_path / "deep").mkdir()
    wanted = [tmp_path / "a.txt", tmp_path / "b.txt.gz", tmp_path / "deep" / "c.txt"]
    for path in [*wanted, tmp_path / "ignored.json"]:
        path.touch()
    assert find_text_files(tmp_path) == wanted
    assert (
        find_text_files([tmp_path / "b.txt.gz", str(tmp_path / "*.txt*"), tmp_path / "a.txt"]) == wanted[:2]
    )


@pytest.mark.parametrize("name", ["missing.txt", "*.none", "empty_folder"])
def test_a_source_that_matches_nothing_is_named(tmp_path, name):
    (tmp_path / "empty_folder").mkdir()
    with pytest.raises(InputError, match=name.replace("*", r"\*")):
        find_text_files(tmp_path / name)
    with pytest.raises(InputError, match="no corpus was given"):
        find_text_files([])


def test_invalid_utf8_names_file_line_and_offset_in_the_text(tmp_path):
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress("gut\näö\n".encode() + b"ab\xc3("))
    with pytest.raises(InputError, match=r"text.txt.gz: not UTF-8 text: line 3, byte offset 11"):
        list(read_documents([path]))


@pytest.mark.parametrize("content", [b"not gzip at all", gzip.compress(b"text " * 1000)[:-20]])
def test_a_damaged_gzip_file_is_named(tmp_path, content):
    path = tmp_path / "text.txt.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"text.txt.gz: damaged gzip"):
        list(read_documents([path]))


@pytest.mark.parametrize("length", [0, 1, 2, 5, 6, 7, 8, 12, 13, 25])
def test_packing_keeps_order_fills_sequences_and_drops_short_rests_alone(length):
    packing = Packing(sequence_length=8, min_sequence_length=4)
    document = np.arange(100, 100 + length)
    sequences = packing.split(document, cls_id=2, sep_id=3)
    assert all(sequence[0] == 2 and sequence[-1] == 3 for sequence in sequences)
    assert all(len(sequence) == 8 for sequence in sequences[:-1])
    kept = np.concatenate([sequence[1:-1] for sequence in sequences]) if sequences else np.empty(0)
    rest = length % 6
    assert kept.tolist() == document[: length - (rest if rest < 2 else 0)].tolist()


def test_impossible_packing_is_refused():
    with pytest.raises(InputError, match="min_sequence_length"):
        Packing(sequence_length=16, min_sequence_length=17)


def test_sequences_say_what_the_documents_say(corpus, tokenizer, sequences):
    """Compared with one document tokenised at a time, without batches or Arrow."""
    expected = []
    for document in read_documents([corpus]):
        ids = [
            token for paragraph in document for token in tokenizer.encode(paragraph, add_special_tokens=False)
        ]
        expected += [
            [tokenizer.cls_token_id, *ids[start : start + 30], tokenizer.sep_token_id]
            for start in range(0, len(ids), 30)
            if len(ids[start : start + 30]) >= 2
        ]
    stored = [item["input_ids"].tolist() for item in sequences.__getitems__(list(range(len(sequences))))]
    assert stored == expected
    assert sequences.count_tokens() == sum(map(len, expected))
    assert np.concatenate(list(sequences.flat_ids())).tolist() == [
        token for sequence in expected for token in sequence
    ]


def test_small_batches_and_blocks_change_nothing(corpus, tokenizer, sequences, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_PARAGRAPHS_PER_BATCH", 4)
    monkeypatch.setattr(data, "_TOKENS_PER_WRITE", 50)
    again = prepare_sequences(corpus, tokenizer, tmp_path, Packing(32, 4))
    draws = list(range(len(sequences)))[::-1]
    for ours, theirs in zip(again.__getitems__(draws), sequences.__getitems__(draws), strict=True):
        assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
    assert again.count_tokens() == sequences.count_tokens()


def test_a_large_vocabulary_takes_wider_integers(tmp_path):
    rows = [np.array([2, 70_000, 3]), np.array([2, 5, 6, 3])]
    data._write_table(iter(rows), tmp_path / "wide.arrow", vocab_size=80_000)
    dataset = SequenceDataset(data._open_table(tmp_path / "wide.arrow"))
    assert [dataset[draw]["input_ids"].tolist() for draw in range(2)] == [row.tolist() for row in rows]


class TestCache:
    @pytest.fixture
    def tokenised(self, corpus, tokenizer, tmp_path):
        """A corpus of its own and a function that prepares it and tells whether it was tokenised again."""
        own = tmp_path / "own.txt"
        own.write_bytes(corpus.read_bytes())

        def prepare(min_length: int = 4, tokenizer=tokenizer) -> bool:
            messages: list[str] = []
            packing = Packing(32, min_length)
            prepare_sequences(own, tokenizer, tmp_path / "cache", packing, report=messages.append)
            return bool(messages)

        assert prepare()
        return own, prepare

    def test_is_reused(self, tokenised):
        assert not tokenised[1]()

    def test_notices_another_packing_and_another_tokenizer(self, tokenised, corpus, tmp_path):
        from convbert.pretraining.vocabulary import train_wordpiece

        assert tokenised[1](min_length=5)
        assert tokenised[1](tokenizer=train_wordpiece(corpus, 120, tmp_path / "other"))

    def test_notices_a_changed_file(self, tokenised):
        own, prepare = tokenised
        own.write_text(own.read_text(encoding="utf-8").replace("cat", "cow"), encoding="utf-8")
        os.utime(own, ns=(1, 1))
        assert prepare()

    def test_notices_an_unfinished_one(self, tokenised, tmp_path):
        (tmp_path / "cache" / "train.json").write_text('{"finger', encoding="utf-8")
        assert tokenised[1]()

    def test_describes_itself(self, tokenised, tmp_path):
        manifest = json.loads((tmp_path / "cache" / "train.json").read_text())
        assert manifest["files"] == ["own.txt"]
        assert manifest["sequences"] > 0
        assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["train.arrow", "train.json"]


def test_a_corpus_without_sequences_is_refused_and_leaves_nothing(tokenizer, tmp_path):
    corpus = tmp_path / "short.txt"
    corpus.write_text("cat\n\ndog\n")
    with pytest.raises(InputError, match=r"short.txt: no document has 14 tokens"):
        prepare_sequences(corpus, tokenizer, tmp_path / "cache", Packing())
    assert list((tmp_path / "cache").iterdir()) == []


def test_sampler_draws_each_sequence_once_an_epoch_in_an_order_of_its_own():
    sampler = EpochSampler(50, seed=3)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        draws = list(sampler)
        assert sorted(draws) == list(range(50 * epoch, 50 * epoch + 50))
        epochs.append([draw % 50 for draw in draws])
    assert epochs[0] != epochs[1]
    assert list(EpochSampler(50, seed=3)) == epochs[0]
    assert list(EpochSampler(50, seed=4)) != epochs[0]


def test_a_draw_of_a_later_epoch_is_the_same_sequence(sequences):
    later = sequences[2 * len(sequences) + 5]
    assert later["input_ids"].tolist() == sequences[5]["input_ids"].tolist()
    assert later["draw"] == 2 * len(sequences) + 5
