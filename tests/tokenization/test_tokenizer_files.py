"""What a tokenizer's files say is what both classes do: rules of its own, added tokens, case, old names, damage."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, processors
from tokenizers import normalizers as N
from tokenizers import pre_tokenizers as P
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from convbert.tokenization import SPECIAL_TOKENS, ConvBertTokenizer, ConvBertTokenizerFast
from convbert.util.errors import DataWarning, InputError

BOTH = pytest.mark.parametrize("kind", [ConvBertTokenizer, ConvBertTokenizerFast])
NAMES = dict(
    zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL_TOKENS, strict=True)
)
LETTERS = "abcdehinorstuxyACDTÉé中ß-.'1"
WORDS = [
    *SPECIAL_TOKENS,
    *(
        "the",
        "The",
        "cat",
        "Cat",
        "sat",
        "möchte",
        "mochte",
        "istanbul",
        "on-the",
        "##ing",
        "@ing",
        "▁the",
        "▁cat",
    ),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    *(f"@{letter}" for letter in LETTERS),
]
VOCABULARY = {word: row for row, word in enumerate(WORDS)}
TEXTS = [
    "The Cat sat",
    "the cat sat on-the [MASK].",
    "Möchte é É",
    "a-b 中中",
    "the \t cat\nsat",
    "İstanbul ß",
    "",
    "cating",
]


def own_file(normalizer=None, pre_tokenizer=None, prefix="##", pair=None, **parts) -> Tokenizer:
    """tokenizers' own object: what it gives is the truth here."""
    backend = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]", continuing_subword_prefix=prefix))
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=pair or "[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.add_special_tokens([*SPECIAL_TOKENS, "[E1]"])
    backend.add_tokens([AddedToken("<drug>", normalized=False), AddedToken("Covid", normalized=True)])
    for name, part in parts.items():
        setattr(backend, name, part)
    return backend


def save(backend: Tokenizer, folder: Path, **config) -> Path:
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**NAMES, **config}))
    return folder


RULES = {
    "none at all": {},
    "no normalizer": {"pre_tokenizer": P.BertPreTokenizer()},
    "lower case": {"normalizer": N.Lowercase(), "pre_tokenizer": P.BertPreTokenizer()},
    "NFKC": {"normalizer": N.NFKC(), "pre_tokenizer": P.BertPreTokenizer()},
    "a sequence": {
        "normalizer": N.Sequence([N.NFD(), N.StripAccents(), N.Strip()]),
        "pre_tokenizer": P.Whitespace(),
    },
    "replace": {"normalizer": N.Replace("möchte", "mochte"), "pre_tokenizer": P.BertPreTokenizer()},
    "nothing cleaned": {
        "normalizer": N.BertNormalizer(clean_text=False, lowercase=True),
        "pre_tokenizer": P.BertPreTokenizer(),
    },
    "white space": {"normalizer": N.BertNormalizer(lowercase=True), "pre_tokenizer": P.WhitespaceSplit()},
    "spaces": {"normalizer": N.BertNormalizer(lowercase=False), "pre_tokenizer": P.CharDelimiterSplit(" ")},
    "digits": {
        "normalizer": N.BertNormalizer(lowercase=True, strip_accents=False),
        "pre_tokenizer": P.Sequence([P.BertPreTokenizer(), P.Digits(individual_digits=True)]),
    },
    "words": {"pre_tokenizer": P.Metaspace(prepend_scheme="always")},
    "another prefix": {
        "normalizer": N.BertNormalizer(),
        "pre_tokenizer": P.BertPreTokenizer(),
        "prefix": "@",
    },
    "no prefix": {"normalizer": N.BertNormalizer(), "pre_tokenizer": P.BertPreTokenizer(), "prefix": ""},
    "BERT's": {"normalizer": N.BertNormalizer(), "pre_tokenizer": P.BertPreTokenizer()},
    "BERT's, accents kept": {
        "normalizer": N.BertNormalizer(strip_accents=False),
        "pre_tokenizer": P.BertPreTokenizer(),
    },
}
EVERY_RULE = pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
MARKED = [f"{text} <drug>{text} covid [E1]" for text in TEXTS]


@BOTH
@EVERY_RULE
def test_the_rules_of_a_tokenizer_file_are_used(kind, rules, tmp_path):
    backend = own_file(**rules)
    read = kind.from_pretrained(save(backend, tmp_path / "own"))
    for text in TEXTS + MARKED:
        assert read(text, verbose=False)["input_ids"] == backend.encode(text).ids, text
        assert read([text], ["the cat"])["token_type_ids"][0] == backend.encode(text, "the cat").type_ids
    read.save_pretrained(tmp_path / "again")
    for reader in (ConvBertTokenizer, ConvBertTokenizerFast, AutoTokenizer):
        again = reader.from_pretrained(tmp_path / "again")
        assert [again(text)["input_ids"] for text in MARKED] == [backend.encode(text).ids for text in MARKED]


@EVERY_RULE
def test_any_text_gets_the_ids_of_the_file(rules, tmp_path_factory):
    backend = own_file(**rules)
    folder = save(backend, tmp_path_factory.mktemp("own"))
    slow, fast = ConvBertTokenizer.from_pretrained(folder), ConvBertTokenizerFast.from_pretrained(folder)
    pieces = st.one_of(st.text(max_size=6), st.sampled_from([*TEXTS, *WORDS, "<drug>", "COVID", "[E1]", " "]))

    @settings(max_examples=25, deadline=None, database=None)
    @given(text=st.lists(pieces, max_size=8).map("".join))
    def compare(text):
        expected = backend.encode(text)
        assert slow(text, verbose=False)["input_ids"] == expected.ids
        encoded = fast(text, verbose=False, return_offsets_mapping=True)
        assert (encoded["input_ids"], encoded["offset_mapping"]) == (expected.ids, expected.offsets)

    compare()


def test_what_depends_on_the_text_before_is_refused_by_the_slow_one(tmp_path):
    backend = own_file(pre_tokenizer=P.Metaspace(prepend_scheme="first"))
    folder = save(backend, tmp_path / "own")
    with pytest.raises(InputError, match="Metaspace"):
        ConvBertTokenizer.from_pretrained(folder)
    fast = ConvBertTokenizerFast.from_pretrained(folder)
    assert [fast(text)["input_ids"] for text in MARKED] == [backend.encode(text).ids for text in MARKED]


@BOTH
def test_the_decoder_of_the_file_is_used(kind, tmp_path):
    backend = own_file(pre_tokenizer=P.Metaspace(), decoder=decoders.Metaspace())
    read = kind.from_pretrained(save(backend, tmp_path / "own"))
    ids = backend.encode("the cat", add_special_tokens=False).ids
    assert read.decode(ids) == backend.decode(ids) == "the cat"
    prefixed = own_file(**RULES["another prefix"])
    read = kind.from_pretrained(save(prefixed, tmp_path / "prefixed"))
    assert read.decode(read("cating", add_special_tokens=False)["input_ids"]) == "cating"


@BOTH
@pytest.mark.parametrize(
    "changed",
    [
        {"post_processor": processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))},
        {"post_processor": processors.ByteLevel()},
        {"pair": "[CLS] $A [SEP] $B [SEP]"},
        {"post_processor": processors.BertProcessing(("[SEP]", 3), ("[CLS]", 7))},
    ],
    ids=["two separators", "none", "one type", "another id"],
)
def test_special_tokens_elsewhere_are_refused_by_name(kind, changed, tmp_path):
    backend = own_file(**RULES["BERT's"], **changed)
    with pytest.raises(InputError, match=r"tokenizer\.json: post_processor"):
        kind.from_pretrained(save(backend, tmp_path / "own"))


@BOTH
def test_a_switch_that_the_rules_contradict(kind, tmp_path):
    backend = own_file(**RULES["lower case"])
    folder = save(backend, tmp_path / "own")
    with pytest.raises(InputError, match=r"tokenizer\.json.*do_lower_case=False"):
        kind.from_pretrained(folder, do_lower_case=False)
    with pytest.raises(InputError, match="strip_accents=True"):
        kind.from_pretrained(folder, strip_accents=True)
    agreed = kind.from_pretrained(folder, do_lower_case=True, strip_accents=False)
    assert agreed("The É")["input_ids"] == backend.encode("The É").ids
    with pytest.warns(DataWarning, match="do_lower_case"):
        told = kind.from_pretrained(save(backend, folder, do_lower_case=False))
    assert told("The É")["input_ids"] == backend.encode("The É").ids


@BOTH
def test_the_switches_of_berts_normalizer_follow_the_configuration_and_the_caller(kind, tmp_path):
    folder = save(own_file(**RULES["white space"]), tmp_path / "own", do_lower_case=False)
    expected = own_file(N.BertNormalizer(lowercase=False), P.WhitespaceSplit())
    for read in (
        kind.from_pretrained(folder),
        kind.from_pretrained(save(expected, folder), do_lower_case=False),
    ):
        assert [read(text)["input_ids"] for text in TEXTS] == [expected.encode(text).ids for text in TEXTS]
    lowered = kind.from_pretrained(save(expected, folder), do_lower_case=True, do_basic_tokenize=True)
    assert lowered.tokenize("The on-the") == ["the", "on-the"]


@BOTH
@EVERY_RULE
def test_settings_for_cutting_and_padding_in_the_file_cut_nothing(kind, rules, tmp_path):
    backend = own_file(**rules)
    expected = [backend.encode(text).ids for text in MARKED]
    backend.enable_truncation(3, direction="left")
    backend.enable_padding(length=40, direction="left")
    read = kind.from_pretrained(save(backend, tmp_path / "own"))
    assert [read(text)["input_ids"] for text in MARKED] == expected
    assert (read.padding_side, read.truncation_side) == ("left", "left")
    if kind is ConvBertTokenizerFast:
        assert read.backend_tokenizer.encode(MARKED[1]).ids == expected[1]


@BOTH
def test_rules_of_its_own_are_pickled_and_found_by_path(kind, tmp_path):
    backend = own_file(**RULES["digits"])
    folder = save(backend, tmp_path / "own")
    expected = [backend.encode(text).ids for text in MARKED]
    elsewhere = legacy_folder(tmp_path / "old", added_tokens={})
    for read in (
        pickle.loads(pickle.dumps(kind.from_pretrained(folder))),
        kind.from_pretrained(folder / "tokenizer.json"),
        kind.from_pretrained(elsewhere, tokenizer_file=str(folder / "tokenizer.json")),
    ):
        assert [read(text)["input_ids"] for text in MARKED] == expected


def test_rules_of_its_own_learn_another_vocabulary(tmp_path):
    fast = ConvBertTokenizerFast.from_pretrained(save(own_file(**RULES["spaces"]), tmp_path / "own"))
    new = fast.train_new_from_iterator(["On-The Cat", "On-The Dog"] * 9, 80)
    assert new.tokenize("On-The") == ["On-The"]


def test_transformers_gives_the_same_ids_for_its_own_folder(tmp_path):
    backend = own_file(**RULES["NFKC"])
    PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES).save_pretrained(tmp_path)
    for kind in (ConvBertTokenizer, ConvBertTokenizerFast):
        read = kind.from_pretrained(tmp_path)
        assert [read(text)["input_ids"] for text in MARKED] == [backend.encode(text).ids for text in MARKED]


# ----------------------------------------------------------------------------------------- added tokens


def ids_of(tokenizer, *tokens):
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def check_added(tokenizer, kind, folder):
    """[E1] is special, <drug> and covid are not; each has its id, also after saving again."""
    size = len(WORDS)
    for read in (tokenizer, saved_again(tokenizer, kind, folder)):
        assert ids_of(read, "[E1]", "<drug>", "covid") == [size, size + 1, size + 2]
        assert len(read) == size + 3
        assert read.tokenize("the <drug> cat [E1] covid Covid") == [
            "the",
            "<drug>",
            "cat",
            "[E1]",
            "covid",
            "covid",
        ]
        text = read.decode(read("the <drug> [E1] covid")["input_ids"], skip_special_tokens=True)
        assert text == "the <drug> covid"
        assert size in read.all_special_ids
        assert size + 1 not in read.all_special_ids


def saved_again(tokenizer, kind, folder):
    tokenizer.save_pretrained(folder)
    return kind.from_pretrained(folder)


def legacy_folder(folder, **files):
    """A folder of an early release."""
    size = len(WORDS)
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    written = {
        "added_tokens": {"[E1]": size, "<drug>": size + 1, "covid": size + 2},
        "special_tokens_map": {**NAMES, "additional_special_tokens": ["[E1]"]},
        "tokenizer_config": {
            "do_lower_case": True,
            "max_len": 64,
            "init_inputs": [],
            "tokenizer_class": "BertTokenizer",
        },
        **files,
    }
    for name, content in written.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@BOTH
@pytest.mark.parametrize("extra", ["additional_special_tokens", "extra_special_tokens"])
@pytest.mark.parametrize("where", ["special_tokens_map", "tokenizer_config"])
def test_added_tokens_of_early_releases(kind, where, extra, tmp_path):
    content = {**NAMES, "do_lower_case": True, "max_len": 64, extra: ["[E1]"]}
    other = ({"special_tokens_map", "tokenizer_config"} - {where}).pop()
    read = kind.from_pretrained(legacy_folder(tmp_path / "old", **{where: content, other: {"max_len": 64}}))
    check_added(read, kind, tmp_path / "again")
    assert read.model_max_length == 64


@BOTH
@pytest.mark.parametrize(
    "config", [None, {}, {"added_tokens_decoder": {}}, {"do_lower_case": True, "eos_token": None}]
)
def test_added_tokens_of_a_tokenizer_file(kind, config, tmp_path):
    backend = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = N.BertNormalizer(), P.BertPreTokenizer()
    backend.add_special_tokens([*SPECIAL_TOKENS, "[E1]"])
    backend.add_tokens([AddedToken("<drug>", normalized=False), AddedToken("covid")])
    backend.save(str(tmp_path / "tokenizer.json"))
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    check_added(kind.from_pretrained(tmp_path), kind, tmp_path / "again")


@BOTH
def test_an_entry_of_the_vocabulary_may_be_special(kind, tmp_path):
    folder = legacy_folder(
        tmp_path, added_tokens={}, special_tokens_map={**NAMES, "additional_special_tokens": ["Cat"]}
    )
    read = kind.from_pretrained(folder)
    assert read.tokenize("the Cat sat") == ["the", "Cat", "sat"]
    assert read.decode(read("the Cat sat")["input_ids"], skip_special_tokens=True) == "the sat"
    assert len(read) == len(WORDS)


@BOTH
@pytest.mark.parametrize("name", ["additional_special_tokens", "extra_special_tokens"])
def test_special_tokens_of_the_caller_stand_beside_those_of_the_folder(kind, name, tmp_path):
    read = kind.from_pretrained(legacy_folder(tmp_path), **{name: ["[E1]", "[E2]"]})
    assert read.tokenize("the [E1] [E2]") == ["the", "[E1]", "[E2]"]
    assert ids_of(read, "[E1]", "[E2]") == [len(WORDS), len(WORDS) + 3]
    assert read.decode(read("the [E1] [E2]")["input_ids"], skip_special_tokens=True) == "the"


@BOTH
@pytest.mark.parametrize(
    ("added", "named"),
    [
        ({"<drug>": len(WORDS) + 5}, "<drug>"),
        ({"<drug>": 7}, "<drug>"),
        ({"the": len(WORDS)}, "the"),
        ({"<drug>": 2**31 - 1}, "<drug>"),
        ({"<drug>": 2**63}, "<drug>"),
        ({"<drug>": len(WORDS), "covid": len(WORDS)}, "covid"),
    ],
)
def test_added_tokens_with_ids_that_cannot_be_kept_are_named(kind, added, named, tmp_path):
    with pytest.raises(InputError, match=named):
        kind.from_pretrained(legacy_folder(tmp_path, added_tokens=added))


# ------------------------------------------------------------------------------------- cased or uncased

CASED = [*SPECIAL_TOKENS, "[unused1]", "the", "The", "Berlin", "cat", "##er"]
MARKS = [*SPECIAL_TOKENS, "हिन्दी", "में", "the", "##ें"]
SILENT = {
    "uncased": [*SPECIAL_TOKENS, "[unused1]", "[Unused2]", "<S>", "the", "cat", "##s", "ß", "ø", "中", "##ा"],
    "special in capitals": [*SPECIAL_TOKENS, "the", "cat", "[E1]"],
}


def told(call):
    """What is said about the data, and the tokenizer."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer = call()
    return [str(warning.message) for warning in caught if warning.category is DataWarning], tokenizer


def ways(kind, rows, folder, **options):
    """Every way to give a vocabulary that does not say what it is."""
    path = folder / "vocab.txt"
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    yield lambda: kind.from_pretrained(folder, **options)
    yield lambda: kind.from_pretrained(path, **options)
    yield lambda: kind(path, **options)
    yield lambda: kind(vocab_file=str(path), **options)
    yield lambda: kind({row: index for index, row in enumerate(rows)}, **options)


@BOTH
@pytest.mark.parametrize(
    ("rows", "remedy", "word"),
    [(CASED, "do_lower_case=False", "Berlin"), (MARKS, "strip_accents=False", "हिन्दी")],
    ids=["cased", "marks"],
)
def test_a_vocabulary_that_looks_cased_is_named_once_with_the_remedy(kind, rows, remedy, word, tmp_path):
    for call in ways(kind, rows, tmp_path):
        (message,), tokenizer = told(call)
        assert remedy in message
        assert tokenizer.tokenize(word) != [word], "the ids are what they were"
    option = remedy.removesuffix("=False")
    for value in (False, True):
        for call in ways(kind, rows, tmp_path, **{option: value}):
            messages, tokenizer = told(call)
            assert not messages
            assert (tokenizer.tokenize(word) == [word]) is not value
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({option: False}))
    messages, tokenizer = told(lambda: kind.from_pretrained(tmp_path))
    assert (messages, tokenizer.tokenize(word)) == ([], [word])


@BOTH
def test_whoever_says_what_a_vocabulary_is_is_believed(kind, tmp_path):
    for rows in (*SILENT.values(), CASED):
        for call in ways(kind, rows, tmp_path, **({"do_lower_case": True} if rows is CASED else {})):
            assert told(call)[0] == []
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert told(lambda: kind.from_pretrained(tmp_path))[0] == []
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    assert len(told(lambda: kind.from_pretrained(tmp_path))[0]) == 1
    assert told(lambda: kind.from_pretrained(tmp_path, do_lower_case=None))[1].do_lower_case is True


@BOTH
def test_the_folder_is_believed_where_the_caller_leaves_it_open(kind, tmp_path):
    kind({row: index for index, row in enumerate(CASED)}, do_lower_case=False).save_pretrained(tmp_path)
    read = kind.from_pretrained(tmp_path, do_lower_case=None)
    assert read.tokenize("Berlin") == ["Berlin"]
    assert BertTokenizer.from_pretrained(tmp_path).tokenize("Berlin") == ["Berlin"]


# ------------------------------------------------------------------------------------------ damaged files

_PIECES = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
UNDECLARED = {"type": "TemplateProcessing", "single": _PIECES, "pair": _PIECES, "special_tokens": {}}
DAMAGE = {
    "tokenizer_config": [
        ([], "tokenizer_config.json"),
        (7, "tokenizer_config.json"),
        ({"do_lower_case": "yes"}, "do_lower_case"),
        ({"cls_token": 5}, "cls_token"),
        ({"mask_token": {"lstrip": True}}, "mask_token"),
        ({"model_max_length": True}, "model_max_length"),
        ({"model_max_length": -1}, "model_max_length"),
        ({"padding_side": "up"}, "padding_side"),
        ({"max_input_chars_per_word": "100"}, "max_input_chars_per_word"),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"1": "a"}}, "added_tokens_decoder"),
        ({"fast_tokenizer_files": ["../tokenizer.1.0.json"]}, "fast_tokenizer_files"),
        ({"additional_special_tokens": [1]}, "additional_special_tokens"),
        ({"model_input_names": ["x"]}, "model_input_names"),
    ],
    "special_tokens_map": [({"cls_token": [1]}, "cls_token"), ("text", "special_tokens_map.json")],
    "added_tokens": [
        ({"a": 1.5}, "added_tokens.json"),
        ({"a": True}, "added_tokens.json"),
        ([], "added_tokens.json"),
    ],
    "tokenizer": [
        ({}, "model"),
        ([], "tokenizer.json"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "BPE"),
        ({"model": {"vocab": {}, "merges": []}}, "BPE"),
        ({"model": {"type": "Unigram", "vocab": []}}, "Unigram"),
        ({"model": {"type": ["WordPiece"], "vocab": {}}}, "WordPiece"),
        ({"model": {"type": "WordPiece", "vocab": {"a": "0"}}}, "model.vocab.a"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 2**63}}}, "model.vocab.a"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 0}}}, "'a' and 'b'"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "empty"),
        ({"model": {"vocab": VOCABULARY}, "normalizer": {"type": "Sorcery"}}, "normalizer"),
        ({"model": {"vocab": VOCABULARY}, "normalizer": "BertNormalizer"}, "normalizer"),
        ({"model": {"vocab": VOCABULARY}, "pre_tokenizer": {}}, "pre_tokenizer"),
        (
            {"model": {"vocab": VOCABULARY}, "post_processor": UNDECLARED},
            "post_processor.special_tokens: '[CLS]'",
        ),
        ({"model": {"vocab": VOCABULARY}, "added_tokens": [{"content": "a"}]}, "added_tokens.0.id"),
        ({"model": {"vocab": VOCABULARY, "max_input_chars_per_word": 0}}, "max_input_chars_per_word"),
    ],
}


@BOTH
@pytest.mark.parametrize(
    ("name", "content", "field"), [(name, *case) for name, cases in DAMAGE.items() for case in cases]
)
def test_a_damaged_file_ends_in_one_sentence_with_file_and_field(kind, name, content, field, tmp_path):
    folder = legacy_folder(tmp_path, **{name: content})
    with pytest.raises(InputError) as caught:
        kind.from_pretrained(folder)
    assert f"{name}.json" in str(caught.value)
    assert field in str(caught.value)


@BOTH
def test_a_configuration_opens_no_files_and_names_no_arguments(kind, tmp_path):
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("".join(f"{word}\n" for word in [*SPECIAL_TOKENS, "secret"]))
    config = {
        **dict.fromkeys(("vocab", "vocab_file", "tokenizer_file", "gguf_file"), str(elsewhere)),
        "init_inputs": [str(elsewhere)],
        "tokenize": True,
        "self": 1,
        "__class__": 1,
        "tokenizer_object": {},
    }
    read = kind.from_pretrained(
        legacy_folder(tmp_path / "old", tokenizer_config={"do_lower_case": True, **config})
    )
    assert "secret" not in read.get_vocab()
    assert read.tokenize("The cat") == ["the", "cat"]


@BOTH
def test_ids_far_apart_are_refused_before_memory_is_taken_for_what_lies_between(kind, tmp_path):
    for far in (10**5, 10**9, 2**31 - 1):
        content = {"model": {"vocab": {**VOCABULARY, "far": far}}, "normalizer": None}
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        if far == 10**5:
            assert kind.from_pretrained(tmp_path)("far")["input_ids"] == [2, far, 3]
            continue
        with pytest.raises(InputError, match="far"):
            kind.from_pretrained(tmp_path)


@BOTH
@pytest.mark.parametrize("names", [[], ["attention_mask"], ["token_type_ids", "input_ids"]])
def test_the_ids_come_first_among_a_models_inputs(kind, names, tmp_path):
    read = kind.from_pretrained(
        legacy_folder(tmp_path, tokenizer_config={**NAMES, "model_input_names": names})
    )
    batch = read(["the cat", "the"], padding=True)
    assert batch["input_ids"][1] == [*read("the")["input_ids"], 0]
    assert ("token_type_ids" in batch) is ("token_type_ids" in names)
