"""Learn a WordPiece vocabulary from text files, and load the tokenizer that uses it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from transformers import PreTrainedTokenizerBase

from convbert.errors import InputError
from convbert.pretraining.corpus.reading import PLAIN, Reading, Sources
from convbert.pretraining.corpus.sources import PathLike, Source, find_sources
from convbert.tokenization import SPECIAL_TOKENS, ConvBertTokenizerFast


def train_wordpiece(
    files: Source,
    vocab_size: int,
    output_dir: PathLike,
    *,
    lowercase: bool = True,
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
    reading: Reading = PLAIN,
    skip_bad: bool = False,
) -> PreTrainedTokenizerBase:
    """Learn a WordPiece vocabulary and write `vocab.txt`, `tokenizer.json` and `tokenizer_config.json`.

    The special tokens are rows 0 to 4: [PAD], [UNK], [CLS], [SEP], [MASK]. The same text and settings always
    give the same vocabulary.

    Args:
        files: files, globs, folders or data sets; see `find_sources`.
        vocab_size: rows at most; a small corpus gives fewer.
        output_dir: folder to write to; created where missing. Files appear complete or not at all.
        lowercase: fold case and strip accents, as the uncased BERT tokenizers do.
        min_frequency: a pair of pieces seen less often is not joined.
        limit_alphabet: distinct characters kept, the most frequent ones; text with others becomes [UNK]. Each
            may take two rows, at the start of a word and inside.
        reading, skip_bad: see `Sources`.

    Raises:
        InputError: the corpus is missing, empty or not UTF-8, or a size cannot be met.
    """
    _check_sizes(vocab_size, min_frequency, limit_alphabet)
    sources = Sources(find_sources(files), reading, skip_bad)
    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = BertPreTokenizer()
    starting, inside = _alphabet(sources, backend, limit_alphabet)
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
    if len(pieces) > vocab_size:
        raise InputError(
            f"vocab_size ({vocab_size}) is below the {len(pieces)} rows that special tokens and single "
            "characters take; raise it, or lower limit_alphabet"
        )
    _save(pieces, Path(output_dir), lowercase)
    return load_tokenizer(output_dir)


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
    """Return `tokenizer` if it knows the special tokens that pre-training needs.

    Raises:
        InputError: with the missing ones.
    """
    missing = [
        kind
        for kind in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        if getattr(tokenizer, f"{kind}_id") is None
    ]
    if missing:
        raise InputError(f"{name}: the tokenizer has no {', '.join(missing)}")
    return tokenizer


def _check_sizes(vocab_size: int, min_frequency: int, limit_alphabet: int) -> None:
    if vocab_size <= len(SPECIAL_TOKENS):
        raise InputError(
            f"vocab_size must be above {len(SPECIAL_TOKENS)}, the special tokens; got {vocab_size}"
        )
    if min_frequency < 1 or limit_alphabet < 1:
        raise InputError(
            f"min_frequency and limit_alphabet must be at least 1, got {min_frequency} and {limit_alphabet}"
        )


def _alphabet(sources: Sources, backend: Tokenizer, limit: int) -> tuple[list[str], list[str]]:
    """The most frequent characters after normalisation, and those of them that can stand inside a word."""
    raw: Counter[str] = Counter()
    for paragraph in sources.paragraphs():
        raw.update(paragraph)
    counts: Counter[str] = Counter()
    for character, count in raw.items():
        for normalised in backend.normalizer.normalize_str(character):
            counts[normalised] += 0 if normalised.isspace() else count
    frequent = sorted(+counts, key=lambda character: (-counts[character], character))[:limit]
    if not frequent:
        raise InputError(f"{', '.join(map(str, sources.inputs[:3]))}: the corpus is empty")
    # Punctuation and CJK characters are words of their own.
    inside = [c for c in frequent if len(backend.pre_tokenizer.pre_tokenize_str(f"a{c}")) == 1]
    return sorted(frequent), sorted(inside)


def _save(pieces: list[str], output_dir: Path, lowercase: bool) -> None:
    """Write beside `output_dir` first, then move each finished file into it."""
    output_dir.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".vocabulary-", dir=output_dir))
    try:
        vocabulary = draft / "vocab.txt"
        vocabulary.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
        ConvBertTokenizerFast(vocab=os.fspath(vocabulary), do_lower_case=lowercase).save_pretrained(draft)
        # The file that says that there is a tokenizer comes last, so that none is half there.
        for file in sorted(draft.iterdir(), key=lambda file: file.name == "tokenizer.json"):
            os.replace(file, output_dir / file.name)
    except OSError as error:
        raise InputError(f"{output_dir}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
