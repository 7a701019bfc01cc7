import gzip
import json
import random
import re
from itertools import islice

import pytest
from transformers import BertTokenizer

from convbert.cli import main
from convbert.pretraining.vocabulary import load_tokenizer, train_wordpiece
from convbert.tokenization import ConvBertTokenizer
from convbert.util.errors import InputError


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


def learn(tmp_path, text, vocab_size=21128, **options):
    """A tokenizer learned from a text, what was said, and its tokenizer_config.json."""
    source = tmp_path / "text.txt"
    source.write_text(text, encoding="utf-8")
    said = []
    tokenizer = train_wordpiece(source, vocab_size, tmp_path / "out", report=said.append, **options)
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    return tokenizer, " ".join(said), config


def unknown_share(tokenizer, text):
    ids = [i for line in text.splitlines() for i in tokenizer(line, add_special_tokens=False)["input_ids"]]
    return ids.count(tokenizer.unk_token_id) / len(ids)


def many_characters(first, kinds, length=3, lines=600):
    draw = random.Random(0)
    letters = [chr(first + index) for index in range(kinds)]
    weights = [1 / (20 + index) for index in range(kinds)]
    words = ("".join(draw.choices(letters, weights, k=length)) for _ in range(lines * 20))
    return "\n".join(" ".join(islice(words, 20)) for _ in range(lines)) + "\n"


@pytest.mark.parametrize("first", [0x4E00, 0xAC00], ids=["ideographs", "syllables"])
def test_three_thousand_characters_leave_next_to_nothing_unknown(first, tmp_path):
    text = many_characters(first, 3000)
    tokenizer, said, _ = learn(tmp_path, text)
    assert unknown_share(tokenizer, text) < 0.002
    left_out = [
        character for character in set(text) - set(" \n") if tokenizer.tokenize(character) == ["[UNK]"]
    ]
    assert 0 < len(left_out) < 150
    assert f"{len(left_out)} are left out" in said
    assert f"{unknown_share(tokenizer, text):.1%}"[:2] in said.split("[UNK]: ")[1]
    all_kept, said, _ = learn(tmp_path, text, coverage=1.0)
    assert unknown_share(all_kept, text) == 0
    assert "left out" not in said


def test_up_to_a_thousand_characters_are_kept_whatever_the_coverage(tmp_path):
    text = many_characters(0x1200, 300, lines=100) + "a rare ж\n"
    tokenizer, said, _ = learn(tmp_path, text, coverage=0.5)
    assert tokenizer.tokenize("ж") == ["ж"]
    assert "left out" not in said
    capped, said, _ = learn(tmp_path, text, limit_alphabet=50)
    assert capped.tokenize("ж") == ["[UNK]"]
    assert "50 characters cover" in said


def test_a_vocabulary_too_small_for_the_characters_says_what_would_do(tmp_path):
    text = many_characters(0xAC00, 400, lines=200)
    with pytest.raises(InputError, match=r"vocab_size \(500\)") as caught:
        learn(tmp_path, text, vocab_size=500)
    rows, limit = (
        int(re.search(rf"{name} (\d+)", str(caught.value))[1]) for name in ("at least", "limit_alphabet to")
    )
    assert len(learn(tmp_path, text, vocab_size=rows)[0]) == rows
    assert len(learn(tmp_path, text, vocab_size=500, limit_alphabet=limit)[0]) <= 500


MARKED = {
    "Hindi": ("हिन्दी में किताबें पढ़ना अच्छा लगता है", "किताबें"),
    "Thai": ("น้ำ ฝน บ้าน เมือง รัก", "เมือง"),
    "Vietnamese": ("Tiếng Việt là ngôn ngữ của người Việt", "việt"),
    "French": ("L'été où le garçon a été à l'école près du café", "été"),
    "Korean": ("나는 학교에 갑니다", "학교에"),
    "Japanese": ("がくせい は ごはん を たべる", "がくせい"),
    "Hebrew": ("שָׁלוֹם עוֹלָם", "שָׁלוֹם"),
    "Russian": ("мой чай и твой ёж", "чай"),
}


@pytest.mark.parametrize(("text", "word"), MARKED.values(), ids=MARKED)
def test_marks_that_belong_to_the_spelling_are_kept_and_it_is_said(text, word, tmp_path):
    tokenizer, said, config = learn(tmp_path, f"{text}\n" * 20)
    assert tokenizer.tokenize(word) == [word]
    assert (config["do_lower_case"], config["strip_accents"]) == (True, False)
    assert "marks: kept" in said
    for again in (load_tokenizer(tmp_path / "out"), ConvBertTokenizer.from_pretrained(tmp_path / "out")):
        assert again.tokenize(word) == [word]
    stripped, said, config = learn(tmp_path, f"{text}\n" * 20, keep_accents=False)
    assert stripped.tokenize(word) != [word]
    assert "marks" not in said, "the caller has chosen"


def test_plain_english_is_uncased_without_accents_as_ever(tmp_path):
    text = "The house in which we live is not the café that they know.\n" + "The cat sat on the mat.\n" * 100
    by_itself, said, config = learn(tmp_path, text)
    assert (config["do_lower_case"], config["strip_accents"]) == (True, None)
    assert by_itself.tokenize("Cafe") == by_itself.tokenize("CAFÉ")
    assert "marks: stripped" in said
    asked = learn(tmp_path, text, lowercase=True, keep_accents=False)[0]
    assert asked.get_vocab() == by_itself.get_vocab()


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("keep_accents", [True, False])
def test_case_and_accents_are_chosen_apart(lowercase, keep_accents, tmp_path):
    text = "Le Café est ouvert, le café ferme tard.\n" * 20
    tokenizer, said, _ = learn(tmp_path, text, lowercase=lowercase, keep_accents=keep_accents)
    word = "Café" if not lowercase else "café"
    assert tokenizer.tokenize("Café") == [word if keep_accents else word.replace("é", "e")]
    assert "decide" not in said
    again = BertTokenizer.from_pretrained(tmp_path / "out")
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_the_dotless_i_keeps_its_case(tmp_path):
    tokenizer, said, config = learn(tmp_path, "IŞIK ılık sıcak İstanbul kış\n" * 20)
    assert config["do_lower_case"] is False
    assert "case: kept" in said
    assert tokenizer.tokenize("IŞIK") == ["IŞIK"]


def test_words_too_long_to_be_looked_up_are_named(tmp_path):
    _, said, _ = learn(tmp_path, ("acgtgcta" * 20 + "\n") * 20, vocab_size=200)
    assert "[UNK]: 100.00%" in said
    assert "more than 100 characters" in said


def test_the_command_passes_its_options_on_and_says_what_was_chosen(tmp_path, capsys):
    source = tmp_path / "text.txt"
    source.write_text("Le Café est ouvert, le café ferme tard.\n" * 20, encoding="utf-8")

    def train(name, *options):
        code = main(["tokenizer", "train", str(source), "--output", str(tmp_path / name), *options])
        said = capsys.readouterr().err
        return code, said, load_tokenizer(tmp_path / name).tokenize("Café") if code == 0 else None

    code, said, tokens = train("default")
    assert (code, tokens) == (0, ["café"])
    assert "marks: kept" in said
    assert "[UNK]: 0.00%" in said
    assert train("cased", "--cased", "--keep-accents")[2] == ["Café"]
    assert train("bare", "--lowercase", "--strip-accents")[2] == ["cafe"]
    code, said, tokens = train("capped", "--limit-alphabet", "3", "--coverage", "0.9")
    assert tokens == ["[UNK]"]
    assert "are left out" in said
    code, said, _ = train("wrong", "--coverage", "2")
    assert code == 2
    assert "coverage" in said
