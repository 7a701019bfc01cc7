"""Learn a WordPiece vocabulary from text files, and load the tokenizer that uses it."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from transformers import PreTrainedTokenizerBase

from convbert.files.atomic import atomic_folder
from convbert.pretraining.corpus.reading import PLAIN, CorpusReader, Reading
from convbert.pretraining.corpus.sources import Corpus, PathLike, find_sources
from convbert.tokenization import SPECIAL_TOKENS, ConvBertTokenizerFast
from convbert.tokenization.unknown import UnknownTokens
from convbert.util.errors import InputError

Report = Callable[[str], None]

_ALWAYS_KEPT = 1000
"""So many characters are kept whatever the coverage: they take at most 2,000 rows, and hurt nobody."""
_REGULAR_SHARE = 0.005
"""From this share of the characters on, marks belong to the spelling; English has a tenth of it."""
_SAMPLE = 500
"""Paragraphs on which [UNK] is counted."""


def train_wordpiece(
    files: Corpus,
    vocab_size: int,
    output_dir: PathLike,
    *,
    lowercase: bool | None = None,
    keep_accents: bool | None = None,
    min_frequency: int = 2,
    coverage: float = 0.9995,
    limit_alphabet: int | None = None,
    reading: Reading = PLAIN,
    report: Report = lambda message: None,
) -> PreTrainedTokenizerBase:
    """Learn a WordPiece vocabulary and write `vocab.txt`, `tokenizer.json` and `tokenizer_config.json`.

    The special tokens are rows 0 to 4: [PAD], [UNK], [CLS], [SEP], [MASK]. The same text and settings always
    give the same vocabulary.

    Args:
        files: files, globs, folders or data sets; see `find_sources`.
        vocab_size: rows at most; a small corpus gives fewer.
        output_dir: folder to write to; created where missing. Files appear complete or not at all.
        lowercase: fold case. None: yes, unless the corpus has the dotless i, which folding would confuse.
        keep_accents: keep accents, vowel signs and other marks. None: kept in a cased vocabulary, and where they
            belong to the spelling, in more than one of 200 characters; stripped otherwise, as in plain English.
        min_frequency: a pair of pieces seen less often is not joined.
        coverage: share of the corpus, over 0 and up to 1, that the alphabet covers: of more than 1,000 distinct
            characters the most frequent ones are kept until they reach it. Text with others becomes [UNK]. Each
            may take two rows, at the start of a word and inside.
        limit_alphabet: distinct characters kept at most, whatever they cover.
        reading: how text is taken from the files.
        report: is told what was chosen, what was left out, and the share of [UNK] that remains.

    Raises:
        InputError: the corpus is missing, empty or not UTF-8, or a size cannot be met.
    """
    _check_sizes(vocab_size, min_frequency, coverage, limit_alphabet)
    sources = CorpusReader(find_sources(files), reading)
    raw, sample = _survey(sources)
    normalizer, strip_accents = _choose_normalizer(raw, lowercase, keep_accents, report)
    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizer
    backend.pre_tokenizer = BertPreTokenizer()
    alphabet = _Alphabet.of(raw, backend)
    if not alphabet.characters:
        raise InputError(f"{', '.join(map(str, sources.inputs[:3]))}: the corpus is empty")
    starting, inside = alphabet.choose(vocab_size, coverage, limit_alphabet, report)
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        initial_alphabet=starting,
        limit_alphabet=len(starting),
        # The trainer numbers pieces like "##a" as it meets them in a hash map, and breaks ties by number. Named
        # as special tokens they get fixed rows, and the same corpus always gives the same vocabulary.
        special_tokens=[*SPECIAL_TOKENS, *(f"##{character}" for character in inside)],
        continuing_subword_prefix="##",
        show_progress=False,
    )
    backend.train_from_iterator(sources.paragraphs(), trainer=trainer)
    pieces = [piece for piece, _ in sorted(backend.get_vocab().items(), key=lambda entry: entry[1])]
    _save(pieces, Path(output_dir), normalizer.lowercase, strip_accents)
    tokenizer = load_tokenizer(output_dir)
    counter = UnknownTokens(tokenizer)
    for paragraph in sample:
        counter.add(tokenizer(paragraph, add_special_tokens=False, verbose=False)["input_ids"], paragraph)
    example = f", e.g. in {counter.example!r}" if counter.unknown else ""
    limit = tokenizer.max_input_chars_per_word
    is_long = any(len(word) > limit for paragraph in sample for word in paragraph.split())
    hint = f"; a word of more than {limit} characters is [UNK] as a whole" if is_long else ""
    report(f"[UNK]: {counter.share:.2%} of the tokens of the corpus{example}{hint}")
    return tokenizer


def load_tokenizer(folder: PathLike) -> PreTrainedTokenizerBase:
    """The fast tokenizer in `folder`.

    Raises:
        InputError: there is none, or one of the five special tokens is missing from its vocabulary.
    """
    if not any(Path(folder, name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise InputError(f"{folder}: no tokenizer here (neither tokenizer.json nor vocab.txt)")
    tokenizer = ConvBertTokenizerFast.from_pretrained(os.fspath(folder))
    return check_tokenizer(tokenizer, os.fspath(folder))


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """Return `tokenizer` if it knows the special tokens that pre-training needs."""
    needed = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    if missing := [kind for kind in needed if getattr(tokenizer, f"{kind}_id") is None]:
        raise InputError(f"{name}: the tokenizer has no {', '.join(missing)}")
    return tokenizer


def _check_sizes(vocab_size: int, min_frequency: int, coverage: float, limit_alphabet: int | None) -> None:
    if not len(SPECIAL_TOKENS) < vocab_size <= 2**24:  # the trainer takes memory for all of it at once
        raise InputError(
            f"vocab_size must be above {len(SPECIAL_TOKENS)}, the special tokens, and at most {2**24}; got {vocab_size}"
        )
    if min_frequency < 1 or (limit_alphabet is not None and limit_alphabet < 1):
        raise InputError(
            f"min_frequency and limit_alphabet must be at least 1, got {min_frequency} and {limit_alphabet}"
        )
    if not 0 < coverage <= 1:
        raise InputError(f"coverage must be a share above 0 and up to 1, got {coverage}")


def _survey(sources: CorpusReader) -> tuple[Counter[str], list[str]]:
    """How often each character occurs, and paragraphs drawn from all over the corpus."""
    counts: Counter[str] = Counter()
    sample: list[str] = []
    draw = random.Random(0)
    for index, paragraph in enumerate(sources.paragraphs()):
        counts.update(paragraph)
        if index < _SAMPLE:
            sample.append(paragraph)
        elif (place := draw.randrange(index + 1)) < _SAMPLE:
            sample[place] = paragraph
    return counts, sample


def _choose_normalizer(
    raw: Counter[str], lowercase: bool | None, keep_accents: bool | None, report: Report
) -> tuple[BertNormalizer, bool | None]:
    """The normalizer, and `strip_accents` as the tokenizer's files say it: None where it follows the case."""
    total = sum(count for character, count in raw.items() if not character.isspace()) or 1
    if lowercase is None:
        lowercase = raw["ı"] / total < _REGULAR_SHARE
        reason = "" if lowercase else ", since lower-casing confuses the dotless i with i"
        if any(character.isupper() for character in raw):
            report(f"case: {'folded' if lowercase else 'kept'}{reason} (--lowercase and --cased decide it)")
    if keep_accents is None:
        if not lowercase:
            return BertNormalizer(lowercase=False, strip_accents=False), None
        strip = BertNormalizer(
            clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False
        )
        marked = [c for c in raw if not c.isascii() and strip.normalize_str(c) != c]
        share = sum(raw[c] for c in marked) / total
        keep_accents = share >= _REGULAR_SHARE
        if marked:
            report(
                f"accents and other marks: {'kept' if keep_accents else 'stripped'}: {share:.2%} of the characters, "
                f"e.g. {_examples(raw, marked)} (--keep-accents and --strip-accents decide it)"
            )
    strip_accents = None if keep_accents is not lowercase else not keep_accents
    return BertNormalizer(lowercase=lowercase, strip_accents=not keep_accents), strip_accents


def _examples(counts: Counter[str], characters: list[str]) -> str:
    frequent = sorted(characters, key=lambda character: (-counts[character], character))
    return " ".join(repr(character)[1:-1] for character in frequent[:5])


@dataclass(frozen=True)
class _Alphabet:
    """The distinct characters of a corpus after normalisation, the most frequent first, with their counts."""

    characters: list[str]
    counts: Counter[str]
    inside: set[str]
    """Those that can stand inside a word; punctuation and CJK characters are words of their own."""

    @classmethod
    def of(cls, raw: Counter[str], backend: Tokenizer) -> _Alphabet:
        counts: Counter[str] = Counter()
        for character, count in raw.items():
            for normalised in backend.normalizer.normalize_str(character):
                counts[normalised] += 0 if normalised.isspace() else count
        characters = sorted(+counts, key=lambda character: (-counts[character], character))
        normalize, cut = backend.normalizer.normalize_str, backend.pre_tokenizer.pre_tokenize_str
        return cls(characters, counts, {c for c in characters if len(cut(normalize(f"a{c}"))) == 1})

    def choose(
        self, vocab_size: int, coverage: float, limit: int | None, report: Report
    ) -> tuple[list[str], list[str]]:
        """The characters to keep, sorted, and those of them that can stand inside a word."""
        covered, kept = 0, 0
        total = self.counts.total()
        while kept < len(self.characters) and (kept < _ALWAYS_KEPT or covered < coverage * total):
            covered += self.counts[self.characters[kept]]
            kept += 1
        kept = min(kept, limit or kept)
        self._check_room(vocab_size, kept)
        left_out = self.characters[kept:]
        if left_out:
            report(
                f"alphabet: {kept:,} characters cover {self._share(kept):.3%} of the text; "
                f"{len(left_out):,} are left out and become [UNK], e.g. {_examples(self.counts, left_out)}"
            )
        chosen = sorted(self.characters[:kept])
        return chosen, [character for character in chosen if character in self.inside]

    def _share(self, kept: int) -> float:
        return sum(self.counts[c] for c in self.characters[:kept]) / self.counts.total()

    def _check_room(self, vocab_size: int, kept: int) -> None:
        rows, fitting = len(SPECIAL_TOKENS), 0
        for index, character in enumerate(self.characters[:kept]):
            rows += 1 + (character in self.inside)
            fitting = index + 1 if rows <= vocab_size else fitting
        if rows > vocab_size:
            instead = f", or limit_alphabet to {fitting}, {self._share(fitting):.2%} of the text"
            raise InputError(
                f"vocab_size ({vocab_size}) is below the {rows} rows that special tokens and the {kept} single "
                f"characters take; set it to at least {rows}{instead if fitting else ''}"
            )


def _save(pieces: list[str], output_dir: Path, lowercase: bool, strip_accents: bool | None) -> None:
    with atomic_folder(output_dir) as draft:
        vocabulary = draft / "vocab.txt"
        vocabulary.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
        tokenizer = ConvBertTokenizerFast(
            vocab=os.fspath(vocabulary), do_lower_case=lowercase, strip_accents=strip_accents
        )
        tokenizer.save_pretrained(draft)
