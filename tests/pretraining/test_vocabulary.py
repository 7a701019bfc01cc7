import gzip
import json

import pytest
from transformers import BertTokenizer

from convbert.errors import InputError
from convbert.pretraining.vocabulary import load_tokenizer, train_wordpiece


def test_special_tokens_come_first_and_pieces_are_unique(tokenizer):
    order = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    assert [piece for piece, _ in order[:5]] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert [row for _, row in order] == list(range(len(tokenizer)))
    assert tokenizer.pad_token_id == 0


def test_learned_words_are_single_pieces(tokenizer):
    assert tokenizer.tokenize("The farmer remembers the River.") == [
        "the",
        "farmer",
        "remembers",
        "the",
        "river",
        ".",
    ]


def test_files_are_read_by_transformers_tokenizer(corpus, tmp_path):
    ours = train_wordpiece(corpus, 150, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    theirs = BertTokenizer.from_pretrained(tmp_path)
    text = "Every SUMMER the café watches a Zebra."
    assert theirs(text)["input_ids"] == ours(text)["input_ids"] == load_tokenizer(tmp_path)(text)["input_ids"]
    lines = (tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert theirs.get_vocab() == {piece: row for row, piece in enumerate(lines)}


def test_gzipped_text_gives_the_same_vocabulary(corpus, tokenizer, tmp_path):
    packed = tmp_path / "train.txt.gz"
    packed.write_bytes(gzip.compress(corpus.read_bytes()))
    assert (
        train_wordpiece(packed, 200, tmp_path / "out", limit_alphabet=60).get_vocab() == tokenizer.get_vocab()
    )


def test_lowercase_is_kept_on_disk(corpus, tmp_path):
    cased = train_wordpiece(corpus, 150, tmp_path, lowercase=False)
    assert cased.tokenize("The") != cased.tokenize("the")
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["do_lower_case"] is False


def test_every_knob_acts(corpus, tmp_path):
    def size(**knobs):
        return len(train_wordpiece(corpus, 300, tmp_path / repr(knobs), **knobs))

    default = size()
    assert size(min_frequency=500) < default
    assert size(limit_alphabet=5) < default
    assert len(train_wordpiece(corpus, 100, tmp_path / "small")) == 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n \n\n", "empty"),
        (b"fine line\nbad \xff byte\n", r"text.txt: not UTF-8 text: line 2, byte offset 14"),
    ],
)
def test_unusable_text_is_named_and_nothing_is_left(content, message, tmp_path):
    corpus = tmp_path / "text.txt"
    corpus.write_bytes(content)
    with pytest.raises(InputError, match=message):
        train_wordpiece(corpus, 100, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("vocab_size", "knobs"), [(5, {}), (100, {"min_frequency": 0}), (100, {"limit_alphabet": 0})]
)
def test_impossible_sizes_are_refused(corpus, tmp_path, vocab_size, knobs):
    with pytest.raises(InputError, match=next(iter(knobs), "vocab_size")):
        train_wordpiece(corpus, vocab_size, tmp_path, **knobs)


def test_more_characters_than_rows_is_refused(corpus, tmp_path):
    with pytest.raises(InputError, match=r"vocab_size \(20\) is below"):
        train_wordpiece(corpus, 20, tmp_path)


def test_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="no tokenizer here"):
        load_tokenizer(tmp_path)
