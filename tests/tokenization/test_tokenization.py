"""Both tokenizers: against each other, BertTokenizer and the original's stored tokens; and bad input."""

from __future__ import annotations

import errno
import gzip
import itertools
import json
import os
import pickle
import re
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizer

from convbert.tokenization import (
    SPECIAL_TOKENS,
    ConvBertTokenizer,
    ConvBertTokenizerFast,
    load_vocabulary,
)
from convbert.util.errors import InputError

DATA = Path(__file__).parents[1] / "data" / "tokenization"
MIXED = DATA / "vocab_mixed.txt"
DAMAGED = DATA / "vocab.txt"
BOTH = pytest.mark.parametrize("tokenizer_class", [ConvBertTokenizer, ConvBertTokenizerFast])

OPTIONS = [
    {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    for lower, strip, chinese in itertools.product([True, False], [None, True, False], [True, False])
]
every_option = pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: "-".join(map(str, options.values()))
)


@cache
def build(tokenizer_class, *options):
    return tokenizer_class(vocab=load_vocabulary(MIXED), **dict(options))


def ids_of(tokenizer, text, **kwargs):
    return tokenizer(text, verbose=False, **kwargs)["input_ids"]


# ------------------------------------------------------------------------- slow and fast on any string

TRICKY = (
    *(
        "[MASK]",
        "[CLS]",
        "[SEP]",
        "[UNK]",
        "[PAD]",
        "[mask]",
        "[MASK",
        "MASK]",
        "##a",
        "'s",
        "don't",
        "e-mail",
    ),
    *(
        "\u0301",
        "\u0345\u0334",
        "\u302e\U0001d165",
        "\u1abf",
        "\u0130",
        "I\u0307",
        "\u1e9e",
        "ΟΔΟΣ",
        "Ά",
        "й",
        "ñ",
    ),
    *("中文", "\u3400", "\U0002b820", "\U0002b920", "한국어", "ｶﾞ", "👩\u200d👩\u200d👧", "🇫🇷", "❤\ufe0f"),
    *("\x00", "\ufffd", "\u200b", "\xad", "\ufeff", "\x85", "\x0b", "\x1c", "\u2028", "\u3000", "\xa0", "\t"),
    *("\u0378", "\ufffe", "\uffff", "\U000e0041", "\U0010ffff", "\ue000", "\u1b7d", "\u166d", "\u037e", "≠"),
    *("a" * 99, "a" * 101, "é" * 100, "unaffable", "\u0e33", "ﬁ", "Ǆ", "\u0390"),
)
texts = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(TRICKY), st.just(" ")), max_size=12).map(
    "".join
)


@every_option
@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_slow_equals_fast_on_any_string(options, text):
    slow, fast = (build(kind, *options.items()) for kind in (ConvBertTokenizer, ConvBertTokenizerFast))
    assert slow.normalize(text) == fast.backend_tokenizer.normalizer.normalize_str(text)
    assert slow.tokenize(text) == fast.convert_ids_to_tokens(ids_of(fast, text, add_special_tokens=False))
    assert ids_of(slow, text) == ids_of(fast, text)


@every_option
def test_slow_equals_fast_on_tricky_pieces(options):
    slow, fast = (build(kind, *options.items()) for kind in (ConvBertTokenizer, ConvBertTokenizerFast))
    pieces = ["".join(pair) for pair in itertools.product(TRICKY, repeat=2)]
    for piece in pieces:
        assert slow.normalize(piece) == fast.backend_tokenizer.normalizer.normalize_str(piece)
    assert ids_of(slow, pieces) == ids_of(fast, pieces)


CODE_POINTS = [*range(0xD800), *range(0xE000, 0x110000)]


def test_the_character_tables_say_what_unicode_says():
    """Editions of Unicode differ in what they add: characters of 3.2 that kept their category must agree."""
    tokenizer = build(ConvBertTokenizer, ("do_lower_case", False), ("strip_accents", True))
    ascii_punctuation = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    changed_since = set("\u034f\u06dd\u070f\u180e\u200b\u17b4\u17b5\ufffd\u0600\u00ad")
    wrong = []
    for code in CODE_POINTS:
        character = chr(code)
        category = unicodedata.category(character)
        if category != unicodedata.ucd_3_2_0.category(character) or character in changed_since:
            continue
        if category == "Cn" or unicodedata.normalize("NFD", character) != character:
            continue
        words = tokenizer.split_words(tokenizer.normalize(f"a{character}b"))
        if category in ("Zs", "Zl", "Zp") or character in "\t\n\r":
            expected = ["a", "b"]
        elif category in ("Cc", "Cf", "Co", "Mn"):
            expected = ["ab"]
        elif category.startswith("P") or character in ascii_punctuation:
            expected = ["a", character, "b"]
        else:
            expected = None
        is_apart = len(words) == 3
        if (words != expected) if expected else (is_apart and category != "Lo"):
            wrong.append(f"U+{code:04X} {category} {words}")
    assert not wrong


# ------------------------------------------------------------------------- transformers' BertTokenizer

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Ünaffable naïve café [MASK], don't! 中文 ab",
    "a\u200bb  ΟΔΟΣ\t👍 x" + "y" * 101,
    "",
]


@every_option
@pytest.mark.parametrize("text", SENTENCES)
def test_equals_bert_tokenizer(options, text):
    bert = BertTokenizer(vocab=load_vocabulary(MIXED), **options)
    fast = build(ConvBertTokenizerFast, *options.items())
    slow = build(ConvBertTokenizer, *options.items())
    asked = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    expected = bert(text, "the other, text", **asked)
    encoded = fast(text, "the other, text", **asked)
    assert dict(encoded) == dict(expected)
    assert encoded.word_ids() == expected.word_ids()
    expected.pop("offset_mapping")
    assert dict(slow(text, "the other, text", return_special_tokens_mask=True)) == dict(expected)


def test_windows_padding_and_split_words_equal_bert_tokenizer():
    bert = BertTokenizer(vocab=load_vocabulary(MIXED))
    fast = build(ConvBertTokenizerFast)
    asked = {"max_length": 12, "stride": 3, "return_overflowing_tokens": True, "return_offsets_mapping": True}
    asked |= {"truncation": "only_second", "padding": "max_length"}
    questions, contexts = ["the dog?", "fox"], ["the quick brown fox jumps over the lazy dog", "short"]
    encoded, expected = (tokenizer(questions, contexts, **asked) for tokenizer in (fast, bert))
    assert dict(encoded) == dict(expected)
    assert len(encoded["input_ids"]) > len(questions)

    words = [["the", "unaffable", "[MASK]", "dog's"], ["fox"]]
    asked = {"is_split_into_words": True, "padding": True}
    encoded, expected = (tokenizer(words, **asked) for tokenizer in (fast, bert))
    assert dict(encoded) == dict(expected)
    assert encoded.word_ids(0) == expected.word_ids(0)
    assert dict(build(ConvBertTokenizer)(words, **asked)) == dict(expected)


def test_a_stride_as_long_as_what_fits_is_named():
    fast = build(ConvBertTokenizerFast)
    windows = {"truncation": True, "max_length": 4, "return_overflowing_tokens": True}
    assert len(fast("the cat the cat", stride=1, **windows)["input_ids"]) > 1
    with pytest.raises(InputError, match=r"stride \(2\)"):
        fast("the cat the cat", stride=2, **windows)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("truncation", ["only_first", "only_second", "longest_first"])
def test_slow_pads_and_truncates_as_the_fast_one(truncation, side):
    slow, fast = (
        kind(load_vocabulary(MIXED), padding_side=side, truncation_side=side)
        for kind in (ConvBertTokenizer, ConvBertTokenizerFast)
    )
    asked = {"truncation": truncation, "padding": True, "pad_to_multiple_of": 3}
    for first, second, max_length in itertools.product(range(7), range(1, 7), (3, 6, 9, 12)):
        texts = ["a b c d e f"[: 2 * first], "the"], ["g h i j k l"[: 2 * second], "dog"]
        outcomes = []
        for tokenizer in (slow, fast):
            try:
                outcomes.append(dict(tokenizer(*texts, max_length=max_length, **asked)))
            except InputError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1], (first, second, max_length)


@BOTH
def test_truncation_that_cannot_reach_its_length_is_named(tokenizer_class):
    with pytest.raises(InputError, match="the other is too long"):
        build(tokenizer_class)("a b c", "d e f g h", truncation="only_first", max_length=8)


@BOTH
def test_the_four_methods_describe_what_encoding_does(tokenizer_class, tmp_path):
    tokenizer = build(tokenizer_class)
    bert = BertTokenizer(vocab=load_vocabulary(MIXED))
    first, second = (ids_of(bert, text, add_special_tokens=False) for text in ("the dog", "the quick fox"))
    for pair in ((first,), (first, second), (first, [])):
        texts = [bert.decode(ids) for ids in pair]
        # a batch of one: transformers takes an empty second text as none at all in a single call
        expected = bert([texts[0]], [texts[1]] if len(pair) == 2 else None, return_special_tokens_mask=True)
        assert tokenizer.build_inputs_with_special_tokens(*pair) == expected["input_ids"][0]
        assert tokenizer.create_token_type_ids_from_sequences(*pair) == expected["token_type_ids"][0]
        assert tokenizer.get_special_tokens_mask(*pair) == expected["special_tokens_mask"][0]
        assert tokenizer.num_special_tokens_to_add(pair=len(pair) == 2) == len(
            expected["input_ids"][0]
        ) - sum(map(len, pair))
    finished = ids_of(bert, "the [MASK] dog")
    assert tokenizer.get_special_tokens_mask(finished, already_has_special_tokens=True) == [1, 0, 1, 0, 1]
    assert tokenizer.save_vocabulary(tmp_path) == (str(tmp_path / "vocab.txt"),)
    assert (tmp_path / "vocab.txt").read_bytes() == MIXED.read_bytes()
    assert tokenizer.save_vocabulary(tmp_path, "small") == (str(tmp_path / "small-vocab.txt"),)


@settings(max_examples=50, deadline=None)
@given(text=texts, skip=st.booleans())
def test_decoding_is_the_same(text, skip):
    slow, fast = build(ConvBertTokenizer), build(ConvBertTokenizerFast)
    ids = ids_of(slow, text)
    assert slow.decode(ids, skip_special_tokens=skip) == fast.decode(ids, skip_special_tokens=skip)


@BOTH
def test_decoding_joins_pieces_and_punctuation(tokenizer_class):
    tokenizer = build(tokenizer_class)
    ids = ids_of(tokenizer, "Unaffable foxes, the lazy [MASK].")
    assert len(ids) > 9, "the example has continued words"
    assert tokenizer.decode(ids) == "[CLS] unaffable foxes, the lazy [MASK]. [SEP]"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "unaffable foxes, the lazy."
    assert tokenizer.batch_decode([ids[1:3], [len(tokenizer) + 5]])[1] == ""


# ---------------------------------------------------------------------------- special and added tokens


@BOTH
def test_special_tokens_can_be_named_otherwise(tokenizer_class):
    tokens = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", "a", "b"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    tokenizer = tokenizer_class(vocabulary, mask_token=AddedToken("<mask>", lstrip=True), **names)
    assert ids_of(tokenizer, "a  <mask>[MASK] b") == [2, 5, 4, 1, 1, 1, 6, 3]
    assert tokenizer("a <mask>", "b", padding="max_length", max_length=7)["input_ids"] == [
        2,
        5,
        4,
        3,
        6,
        3,
        0,
    ]
    with pytest.raises(InputError, match="missing from the vocabulary: <mask>"):
        tokenizer_class(
            {token: index for token, index in vocabulary.items() if token != "<mask>"},
            **names,
            mask_token="<mask>",
        )


def test_added_tokens_mean_the_same_in_both():
    slow, fast = (kind(load_vocabulary(MIXED)) for kind in (ConvBertTokenizer, ConvBertTokenizerFast))
    added = [
        "NewWord",
        "The",
        AddedToken("zz", lstrip=True, normalized=False),
        AddedToken("én", single_word=True),
    ]
    for tokenizer in (slow, fast):
        tokenizer.add_tokens(added)
        tokenizer.add_special_tokens({"extra_special_tokens": ["<extra>", "<extra>2"]})
    assert slow.get_added_vocab() == fast.get_added_vocab()
    assert "The" in slow.get_vocab()
    assert len(slow) == len(fast) == slow.vocab_size + 5, "one of the six was in the vocabulary"
    for text in (
        "the NEWWORD x",
        "newwords",
        "the zz zzz ZZ",
        "én een énx",
        "a<extra>2<extra>b<EXTRA>",
        "[MASK]zz",
    ):
        assert ids_of(slow, text) == ids_of(fast, text), text
        split = {"split_special_tokens": True, "add_special_tokens": False}
        assert ids_of(slow, text, **split) == ids_of(fast, text, **split), text


@BOTH
def test_word_limit_is_an_argument(tokenizer_class):
    tokenizer = build(tokenizer_class, ("max_input_chars_per_word", 200))
    assert "[UNK]" not in tokenizer.tokenize("a" * 200)
    assert tokenizer.tokenize("a" * 201) == ["[UNK]"]
    assert build(tokenizer_class).tokenize("é" * 100 + " " + "é" * 101)[-1] == "[UNK]"
    assert build(tokenizer_class).tokenize("é" * 100)[0] != "[UNK]"


def test_train_new_from_iterator():
    new = build(ConvBertTokenizerFast).train_new_from_iterator(["the cat sat", "the dog sat"], 60)
    assert new.tokenize("the cat") == ["the", "cat"]
    assert new.convert_ids_to_tokens(ids_of(new, "sat")) == ["[CLS]", "sat", "[SEP]"]


# ---------------------------------------------------------------------------------- saving and loading

PROBE = "The NewWord Café zz the[MASK]Cat 中文 " + "b" * 60


@pytest.mark.parametrize("reader", [ConvBertTokenizer, ConvBertTokenizerFast])
@pytest.mark.parametrize("writer", [ConvBertTokenizer, ConvBertTokenizerFast, BertTokenizer])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_lower_case": False},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False, "model_max_length": 9},
    ],
    ids=str,
)
def test_a_folder_written_by_one_opens_in_the_other(tmp_path, writer, reader, options):
    written = writer(vocab=load_vocabulary(MIXED), **options)
    written.add_tokens(["NewWord", AddedToken("zz", normalized=False)])
    written.save_pretrained(tmp_path)
    read = reader.from_pretrained(tmp_path)
    assert ids_of(read, PROBE) == ids_of(written, PROBE)
    assert len(read) == len(written)
    assert read.model_max_length == written.model_max_length


@pytest.mark.parametrize("writer", [ConvBertTokenizer, ConvBertTokenizerFast])
@pytest.mark.parametrize("reader", [BertTokenizer, AutoTokenizer])
def test_transformers_opens_our_folders(tmp_path, writer, reader):
    written = writer(vocab=load_vocabulary(MIXED), do_lower_case=False, strip_accents=True)
    written.save_pretrained(tmp_path)
    assert ids_of(reader.from_pretrained(tmp_path), PROBE) == ids_of(written, PROBE)


@BOTH
def test_folder_with_a_vocabulary_file(tmp_path, tokenizer_class):
    (tmp_path / "vocab.txt").write_bytes(MIXED.read_bytes())
    assert ids_of(tokenizer_class.from_pretrained(tmp_path), PROBE) == ids_of(build(tokenizer_class), PROBE)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"do_lower_case": false, "max_input_chars_per_word": 20}'
    )
    expected = build(tokenizer_class, ("do_lower_case", False), ("max_input_chars_per_word", 20))
    assert ids_of(tokenizer_class.from_pretrained(tmp_path), PROBE) == ids_of(expected, PROBE)
    overridden = tokenizer_class.from_pretrained(tmp_path, do_lower_case=True, max_input_chars_per_word=100)
    assert ids_of(overridden, PROBE) == ids_of(build(tokenizer_class), PROBE)
    assert ids_of(tokenizer_class.from_pretrained(tmp_path / "vocab.txt"), "a") == ids_of(overridden, "a")
    for tokenizer in (tokenizer_class(MIXED), tokenizer_class(vocab_file=str(MIXED))):
        assert tokenizer.get_vocab() == load_vocabulary(MIXED)


@BOTH
def test_tokenizer_file_alone_keeps_its_switches(tmp_path, tokenizer_class):
    options = {"do_lower_case": False, "tokenize_chinese_chars": False, "max_input_chars_per_word": 20}
    expected = build(ConvBertTokenizerFast, *options.items())
    expected.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert ids_of(tokenizer_class.from_pretrained(tmp_path), PROBE) == ids_of(expected, PROBE)


@BOTH
def test_pickling_keeps_everything(tokenizer_class):
    tokenizer = tokenizer_class(load_vocabulary(MIXED), max_input_chars_per_word=20)
    tokenizer.add_tokens(["NewWord"])
    assert ids_of(pickle.loads(pickle.dumps(tokenizer)), PROBE) == ids_of(tokenizer, PROBE)


# ---------------------------------------------------------------- the original's stored tokens and ids

VARIANTS = {
    "lower_strip": {"do_lower_case": True, "strip_accents": True},
    "lower_nostrip": {"do_lower_case": True, "strip_accents": False},
    "cased_nostrip": {"do_lower_case": False, "strip_accents": False},
}
ASCII_PUNCTUATION = "!-/:-@[-`{-~"
# How tokenizers, and so transformers, differs from the original. Each difference has one of these names.
WORD_LIMIT = "words of 101 to 200 characters"
SPECIAL = "special tokens kept whole"
UNASSIGNED = "unassigned code points kept"
NEW_PUNCTUATION = "punctuation newer than its tables"
SIGMA = "Greek final sigma"
DIFFERENCES = (WORD_LIMIT, SPECIAL, UNASSIGNED, NEW_PUNCTUATION, SIGMA)


def original_ids(text, variant, vocabulary, differences=frozenset()):
    """The original's rules by Python's own Unicode tables, changed by the named differences."""
    if SPECIAL in differences:
        parts = re.split("(" + "|".join(map(re.escape, SPECIAL_TOKENS)) + ")", text)
    else:
        parts = [text]
    ids = []
    for part in parts:
        if SPECIAL in differences and part in SPECIAL_TOKENS:
            ids.append(vocabulary[part])
            continue
        for word in original_words(part, variant, differences):
            ids += original_pieces(word, vocabulary, 100 if WORD_LIMIT in differences else 200)
    return ids


def original_words(text, variant, differences):
    characters = []
    for character in text:
        category = unicodedata.category(character)
        is_kept_unassigned = category == "Cn" and UNASSIGNED in differences
        if character in "\t\n\r" or category == "Zs":
            characters.append(" ")
        elif is_kept_unassigned or (not category.startswith("C") and character != "\ufffd"):
            characters.append(f" {character} " if is_ideograph(ord(character)) else character)
    words = []
    for word in "".join(characters).split():
        if variant["do_lower_case"]:
            word = "".join(map(str.lower, word)) if SIGMA in differences else word.lower()
            if variant["strip_accents"]:
                word = "".join(
                    c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn"
                )
        words += "".join(f" {c} " if is_punctuation(c, differences) else c for c in word).split()
    return words


def is_ideograph(code):
    blocks = [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF)]
    return any(first <= code <= last for first, last in [*blocks, (0x2F800, 0x2FA1F)])


def is_punctuation(character, differences):
    if NEW_PUNCTUATION in differences and character in "\u1b7d\u1b7e":
        return False
    return bool(re.match(f"[{ASCII_PUNCTUATION}]", character)) or unicodedata.category(character).startswith(
        "P"
    )


def original_pieces(word, vocabulary, limit):
    pieces, rest, prefix = [], word, ""
    while rest and len(word) <= limit:
        length = next((n for n in range(len(rest), 0, -1) if prefix + rest[:n] in vocabulary), None)
        if length is None:
            return [vocabulary["[UNK]"]]
        pieces.append(vocabulary[prefix + rest[:length]])
        rest, prefix = rest[length:], "##"
    return pieces or [vocabulary["[UNK]"]]


@cache
def stored_items():
    content = json.loads(gzip.decompress((DATA / "tokenization.json.gz").read_bytes()))
    assert len(content["items"]) == 203
    same_edition = unicodedata.unidata_version == content["about"]["unicode_version"]
    return [item for item in content["items"] if same_edition or item["same_in_all_unicode_versions"]]


@cache
def stored_vocabulary(name):
    """The damaged file as the original reads it: the last of repeated lines wins."""
    lines = (DATA / name).read_bytes().decode().removesuffix("\n").split("\n")
    return {line.strip(): index for index, line in enumerate(lines)}


STORED = pytest.mark.parametrize("variant_name", VARIANTS)
FILES = pytest.mark.parametrize("file_name", ["vocab.txt", "vocab_mixed.txt"])


@FILES
@STORED
def test_the_rules_here_give_the_stored_ids(file_name, variant_name):
    vocabulary = stored_vocabulary(file_name)
    for item in stored_items():
        ids = original_ids(item["text"], VARIANTS[variant_name], vocabulary)
        assert ids == item[variant_name][file_name]["ids"], item["text"]


def explain(text, variant, vocabulary, ids):
    """The differences without any one of which the rules would not give these ids."""
    assert original_ids(text, variant, vocabulary, DIFFERENCES) == ids, text
    without = {name: [other for other in DIFFERENCES if other != name] for name in DIFFERENCES}
    return [name for name in DIFFERENCES if original_ids(text, variant, vocabulary, without[name]) != ids]


# How many strings each difference explains, in the order of DIFFERENCES.
EXPLAINED = {
    ("vocab.txt", "lower_strip"): (9, 6, 4, 1, 0),
    ("vocab.txt", "lower_nostrip"): (6, 6, 4, 1, 0),
    ("vocab.txt", "cased_nostrip"): (5, 6, 4, 1, 0),
    ("vocab_mixed.txt", "lower_strip"): (11, 6, 4, 1, 5),
    ("vocab_mixed.txt", "lower_nostrip"): (10, 6, 4, 1, 5),
    ("vocab_mixed.txt", "cased_nostrip"): (11, 6, 4, 1, 0),
}


@BOTH
@FILES
@STORED
@pytest.mark.skipif(unicodedata.unidata_version != "14.0.0", reason="the counts are those of Unicode 14.0")
def test_differences_from_the_original_are_the_named_ones(tokenizer_class, file_name, variant_name):
    vocabulary, variant = stored_vocabulary(file_name), VARIANTS[variant_name]
    tokenizer = tokenizer_class(vocabulary, **variant)
    reasons = Counter()
    for item in stored_items():
        ids = ids_of(tokenizer, item["text"], add_special_tokens=False)
        explanation = explain(item["text"], variant, vocabulary, ids)
        differs = ids != item[variant_name][file_name]["ids"]
        assert len(explanation) == differs, f"{item['text']!r}: {explanation}"
        reasons.update(explanation)
    assert tuple(reasons[name] for name in DIFFERENCES) == EXPLAINED[file_name, variant_name]


def test_stripping_accents_of_cased_text_is_the_last_difference():
    """The original strips accents only where it lower-cases; we strip them where we are asked to."""
    kept = build(ConvBertTokenizer, ("do_lower_case", False))
    stripped = build(ConvBertTokenizer, ("do_lower_case", False), ("strip_accents", True))
    differing = [
        item["text"]
        for item in stored_items()
        if kept.tokenize(item["text"]) != stripped.tokenize(item["text"])
    ]
    assert len(differing) > 20
    for text in differing:
        decomposed = unicodedata.normalize("NFD", text)
        assert decomposed != text or any(unicodedata.category(character) == "Mn" for character in text), text


# ------------------------------------------------------------------------------------------- bad input

GOOD = "\n".join((*SPECIAL_TOKENS, "a", "b", "##b")) + "\n"


def refuse(path, content, pattern, **kwargs):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=pattern) as caught:
        load_vocabulary(path, **kwargs)
    assert str(path) in str(caught.value)


def test_load_vocabulary_reads_lines_in_order(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text(GOOD + "\u2028\n\x85\n", encoding="utf-8")
    assert list(load_vocabulary(path)) == [*SPECIAL_TOKENS, "a", "b", "##b", "\u2028", "\x85"]
    path.write_text(GOOD.removesuffix("\n"))
    assert load_vocabulary(path)["##b"] == 7


def test_bad_vocabulary_files(tmp_path):
    path = tmp_path / "vocab.txt"
    with pytest.raises(InputError, match="no such vocabulary file"):
        load_vocabulary(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_vocabulary(tmp_path)
    refuse(path, "", "is empty")
    refuse(path, "\n \n", "is empty")
    refuse(path, GOOD + "a\nc\nb\n", r"2 of 11 lines repeat .* 'a', on lines 6 and 9")
    refuse(path, GOOD + "\n\nc\n", "line 9 is blank")
    refuse(path, GOOD.encode() + b"caf\xe9\n", r"not UTF-8: byte 0xe9 at offset 42 \(line 9\)")
    refuse(path, GOOD.encode("utf-16"), "not UTF-8: byte 0xff at offset 0")
    refuse(path, "\ufeff" + GOOD, "byte order mark")
    refuse(path, GOOD.replace("b\n", "b\r\n"), "line 7 ends in CRLF")
    refuse(path, "a\nb\n[UNK]\n", r"missing from the vocabulary: \[PAD\], \[CLS\], \[SEP\], \[MASK\]")
    refuse(path, GOOD, "missing from the vocabulary: <s>;", special_tokens=["<s>", "[UNK]"])
    for encoding in ("gbk", "cp1252"):
        misread = "".join(f"{character}\n" for character in "¡¢£¥").encode().decode(encoding)
        refuse(path, GOOD + misread, f"misread as {encoding.upper()} .line 9 is .* belongs")


@BOTH
def test_the_damaged_file_of_the_original_is_named(tokenizer_class):
    for source in ({"vocab": DAMAGED}, {"vocab_file": DAMAGED}, {"vocab_file": str(DAMAGED)}):
        with pytest.raises(InputError, match="published in the original ConvBERT repository") as caught:
            tokenizer_class(**source)
        message = str(caught.value)
        for part in (
            str(DAMAGED),
            "GBK",
            "line 1068 is '隆' where '¡' belongs",
            "CRLF",
            "1008 of its 30522 lines",
        ):
            assert part in message
        assert "bert-base-uncased" in message


@BOTH
def test_bad_arguments(tokenizer_class):
    good = {token: index for index, token in enumerate(GOOD.split())}
    cases = [
        ({}, "needs a vocabulary"),
        ({"vocab": {}}, "vocabulary is empty"),
        ({"vocab": {**good, "c": 3}}, r"id 3 to both '\[SEP\]' and 'c'"),
        ({"vocab": {**good, "c": -1}}, "'c': -1"),
        ({"vocab": {"a": 0}}, r"\[UNK\], \[SEP\], \[PAD\], \[CLS\], \[MASK\]"),
        ({"vocab": good, "cls_token": None}, "cls_token must not be None"),
        ({"vocab": good, "max_input_chars_per_word": 0}, "max_input_chars_per_word"),
        ({"vocab_file": "nowhere/vocab.txt"}, "nowhere/vocab.txt: there is no such"),
    ]
    for arguments, pattern in cases:
        with pytest.raises(InputError, match=pattern):
            tokenizer_class(**arguments)
    without_mask = {token: index for token, index in good.items() if token != "[MASK]"}
    assert ids_of(tokenizer_class(without_mask, mask_token=None), "a") == [2, good["a"], 3]


@BOTH
def test_bad_folders(tmp_path, tokenizer_class):
    with pytest.raises(InputError, match=r"neither tokenizer\.json nor vocab\.txt"):
        tokenizer_class.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\na\n")
    with pytest.raises(InputError, match="1 of 2 lines repeat"):
        tokenizer_class.from_pretrained(tmp_path)
    Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="holds a BPE model"):
        tokenizer_class.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPi')
    with pytest.raises(InputError, match=r"tokenizer\.json: not JSON"):
        tokenizer_class.from_pretrained(tmp_path)


@BOTH
def test_lone_surrogates_are_named(tokenizer_class):
    tokenizer = build(tokenizer_class)
    for text in ("a \ud800", ["fine", "a \udfff"]):
        with pytest.raises(InputError, match=r"character 2 is a lone surrogate \(U\+D"):
            tokenizer(text)


def test_the_slow_one_says_that_it_has_no_offsets():
    with pytest.raises(InputError, match="use ConvBertTokenizerFast"):
        build(ConvBertTokenizer)("a", return_offsets_mapping=True)


@BOTH
def test_vocabularies_that_fit_no_file(tmp_path, tokenizer_class):
    good = {token: index for index, token in enumerate(GOOD.split())}
    for extra, pattern in (({"c": 99}, "no token has id 8"), ({"c\nd": 8}, "does not fit on one line")):
        with pytest.raises(InputError, match=pattern):
            tokenizer_class({**good, **extra}).save_vocabulary(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        tokenizer_class(good).save_vocabulary(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


@BOTH
def test_a_full_disk_leaves_the_old_file(tmp_path, tokenizer_class, monkeypatch):
    tokenizer = build(tokenizer_class)
    for name in ("vocab.txt", "tokenizer.json"):
        (tmp_path / name).write_text("old")

    def fill(path, content):
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill)
    for save in (tokenizer.save_vocabulary, tokenizer.save_pretrained):
        with pytest.raises(InputError, match="cannot be written: No space left"):
            save(tmp_path)
    monkeypatch.undo()
    for name in ("vocab.txt", "tokenizer.json"):
        assert (tmp_path / name).read_text() == "old"
    assert not list(tmp_path.glob("*.partial"))


# ---------------------------------------------------------------------- private names of transformers


@pytest.mark.parametrize(
    ("theirs", "names"),
    [
        (
            PreTrainedTokenizer,
            (
                *("_add_tokens", "_update_trie", "_update_total_vocab_size", "_tokenize", "_encode_plus"),
                *("_convert_token_to_id", "_convert_id_to_token", "_save_pretrained", "_from_pretrained"),
            ),
        ),
        (BertTokenizer, ("_encode_plus", "_save_pretrained", "_from_pretrained")),
    ],
)
def test_transformers_has_the_private_methods_that_are_overridden(theirs, names):
    gone = [name for name in names if not callable(getattr(theirs, name, None))]
    assert not gone, (
        f"{theirs.__name__} no longer calls {', '.join(gone)}: see tokenization/slow.py and fast.py"
    )
