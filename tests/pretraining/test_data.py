import os
import pickle
from itertools import chain

import numpy as np
import pytest
from torch.utils.data import DataLoader

from convbert.pretraining import data
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.corpus.prepare import Preparation, Vocabulary
from convbert.pretraining.data import EpochSampler, open_corpus, prepare_sequences, shuffled
from convbert.pretraining.vocabulary import train_wordpiece
from convbert.util.errors import InputError


def rows(dataset):
    return [item["input_ids"].tolist() for item in dataset.__getitems__(list(range(len(dataset))))]


def test_sequences_say_what_the_documents_say(corpus, tokenizer, sequences):
    """Compared with one paragraph tokenised at a time by transformers, without blocks or shards."""
    expected = []
    for document in corpus.read_text(encoding="utf-8").split("\n\n"):
        ids = list(
            chain(*(tokenizer.encode(line, add_special_tokens=False) for line in document.split("\n")))
        )
        expected += [
            [tokenizer.cls_token_id, *ids[start : start + 30], tokenizer.sep_token_id]
            for start in range(0, len(ids), 30)
            if len(ids[start : start + 30]) >= 2
        ]
    assert rows(sequences) == expected
    assert sequences.count_tokens() == sum(map(len, expected))
    assert np.concatenate(list(sequences.flat_ids())).tolist() == list(chain(*expected))


def test_a_large_vocabulary_takes_wider_integers(tmp_path):
    class Wide:
        """70,000 + the length of a word."""

        def encode_batch_fast(self, texts, add_special_tokens):
            return [type("Encoding", (), {"ids": [70_000 + len(w) for w in text.split()]}) for text in texts]

    (tmp_path / "a.txt").write_text("one three\n\nsix seven eleven\n")
    vocabulary = Vocabulary(Wide(), "wide", 80_000, 2, 3)
    Preparation(tmp_path / "a.txt", tmp_path / "out", Packing(8, 3)).run(vocabulary)
    dataset = open_corpus(tmp_path / "out")
    assert rows(dataset) == [[2, 70_003, 70_005, 3], [2, 70_003, 70_005, 70_006, 3]]
    assert dataset.manifest.layout.dtype == "uint32"


def test_two_segments_say_where_the_second_begins(corpus, tokenizer, tmp_path):
    dataset = prepare_sequences(corpus, tokenizer, tmp_path, Packing(48, 5, "two"))
    with_two = [item for item in dataset.__getitems__(list(range(len(dataset)))) if "second_segment" in item]
    assert 0.3 < len(with_two) / len(dataset) < 1
    for item in with_two:
        start, ids = item["second_segment"], item["input_ids"]
        assert (ids == tokenizer.sep_token_id).nonzero()[0].tolist() == [start - 1, len(ids) - 1]


def test_few_open_files_are_enough_and_workers_see_the_same(sequences, monkeypatch):
    expected = rows(sequences)
    monkeypatch.setattr(data, "OPEN_AT_ONCE", 1)
    assert rows(sequences) == expected
    assert rows(pickle.loads(pickle.dumps(sequences))) == expected
    loader = DataLoader(sequences, batch_size=7, num_workers=2, collate_fn=list)
    assert [item["input_ids"].tolist() for batch in loader for item in batch] == expected


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
            return "tokenising train" in messages

        assert prepare()
        return own, prepare

    def test_is_reused(self, tokenised):
        assert not tokenised[1]()

    def test_is_not_made_otherwise_where_others_may_be_reading(self, tokenised, corpus, tmp_path):
        with pytest.raises(InputError, match="holds another corpus: packing was"):
            tokenised[1](min_length=5)
        with pytest.raises(InputError, match="holds another corpus: it has another vocabulary"):
            tokenised[1](tokenizer=train_wordpiece(corpus, 120, tmp_path / "other"))
        assert not tokenised[1]()

    def test_notices_a_changed_file(self, tokenised):
        own, prepare = tokenised
        own.write_text(own.read_text(encoding="utf-8").replace("cat", "cow"), encoding="utf-8")
        os.utime(own, ns=(1, 1))
        assert prepare()

    def test_lies_in_a_folder_of_its_name(self, tokenised, tmp_path):
        assert sorted(path.name for path in (tmp_path / "cache" / "train").iterdir()) == [
            "manifest.json",
            "shards",
        ]


def test_a_tokenizer_that_was_used_to_cut_and_pad_is_still_the_same(tokenizer, sequences, corpus, tmp_path):
    before = data.tokenizer_fingerprint(tokenizer)
    tokenizer(["the cat", "dog"], truncation=True, max_length=3, padding="max_length")
    assert data.tokenizer_fingerprint(tokenizer) == before
    assert rows(prepare_sequences(corpus, tokenizer, tmp_path, Packing(32, 4))) == rows(sequences)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def test_a_corpus_without_sequences_is_refused_and_leaves_nothing(tokenizer, tmp_path):
    corpus = tmp_path / "short.txt"
    corpus.write_text("cat\n\ndog\n")
    with pytest.raises(InputError, match=r"short.txt: no document has 14 tokens"):
        prepare_sequences(corpus, tokenizer, tmp_path / "cache", Packing())
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


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


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 17, 1000, 16_384, 50_001])
def test_every_length_is_shuffled_one_to_one(length):
    order = list(EpochSampler(length, seed=1))
    assert sorted(order) == list(range(length))
    assert list(EpochSampler(length, seed=1).starting_at(length // 3)) == order[length // 3 :]
    # Piece by piece or at once, forwards or backwards.
    assert shuffled(np.arange(length)[::-1], length, 1, 0).tolist() == order[::-1]


def test_the_order_is_as_good_as_numpys():
    """Where an index lands, and how far neighbours part, over many seeds: as uniform as a permutation's."""
    length, trials = 24, 2000
    places = np.stack([shuffled(np.arange(length), length, seed, seed % 7) for seed in range(trials)])
    for column in range(length):
        counts = np.bincount(places[:, column], minlength=length)
        expected = trials / length
        assert ((counts - expected) ** 2 / expected).sum() < 60  # chi-square, 23 degrees: 60 is 1 in 25,000
    steps = np.bincount((places[:, 1:] - places[:, :-1]).ravel() % length, minlength=length)[1:]
    assert abs(steps / trials - 1).max() < 0.1  # 4.5 standard deviations
    large = shuffled(np.arange(100_000), 100_000, 5, 2)
    assert abs(np.corrcoef(large, np.arange(100_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(large[1:], large[:-1])[0, 1]) < 0.02


def test_a_draw_of_a_later_epoch_is_the_same_sequence(sequences):
    later = sequences[2 * len(sequences) + 5]
    assert later["input_ids"].tolist() == sequences[5]["input_ids"].tolist()
    assert later["draw"] == 2 * len(sequences) + 5
