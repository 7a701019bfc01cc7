"""Both tokenizers: `ConvBertTokenizerFast`, backed by tokenizers, and `ConvBertTokenizer`, in Python.

BERT's WordPiece: clean the text, cut it into words at white space and punctuation, cut each word into the
longest pieces the vocabulary holds. The two classes give the same ids on any string; the fast one also gives
offsets, word numbers and overflowing windows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizer
from transformers.tokenization_utils_base import TruncationStrategy

from convbert.errors import InputError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY_FILE = "vocab.txt"
TOKENIZER_FILE = "tokenizer.json"
CONTINUATION = "##"

PathLike = str | os.PathLike[str]


# --------------------------------------------------------------------------------- the vocabulary file


def load_vocabulary(path: PathLike, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> dict[str, int]:
    """Read a vocabulary file: UTF-8, one token per line, the line's number (from 0) is the token's id.

    Args:
        path: the file, usually called `vocab.txt`.
        special_tokens: tokens that must be in it.

    Returns:
        Token to id, in the order of the ids.

    Raises:
        InputError: the file is missing, empty, not UTF-8, has CRLF line ends, blank or repeated lines, or
            lacks a special token; or it is the damaged file of the original ConvBERT repository. Line numbers
            in messages count from 1.
    """
    path = Path(path)
    text = _decode_vocabulary(path, _read_bytes(path))
    has_carriage_returns = "\r\n" in text
    tokens = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    _refuse_mojibake(path, tokens, has_carriage_returns)
    if has_carriage_returns:
        line = 1 + next(number for number, line in enumerate(text.split("\n")) if line.endswith("\r"))
        raise InputError(
            f"{path}: line {line} ends in CRLF (Windows line ends); write the vocabulary with plain newlines"
        )
    if "" in tokens:
        raise InputError(f"{path}: line {tokens.index('') + 1} is blank; every line must hold one token")
    _refuse_repeats(path, tokens)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    _require_special_tokens(vocabulary, special_tokens, str(path))
    return vocabulary


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such vocabulary file") from error
    except OSError as error:
        raise InputError(f"{path}: the vocabulary file cannot be read: {error.strerror}") from error
    if not data.strip():
        raise InputError(f"{path}: the vocabulary file is empty")
    return data


def _decode_vocabulary(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} (line {line})"
        ) from error
    if text.startswith("\ufeff"):
        raise InputError(f"{path}: starts with a byte order mark, which would become part of the first token")
    return text


# BERT's uncased vocabulary holds these three on consecutive lines. UTF-8 read with either encoding below
# turns them into three telling tokens.
_CONSECUTIVE = "¡¢£"
_MISREADINGS = {
    encoding: tuple(character.encode().decode(encoding) for character in _CONSECUTIVE)
    for encoding in ("gbk", "cp1252")
}


def _refuse_mojibake(path: Path, tokens: list[str], has_carriage_returns: bool) -> None:
    """The vocabulary of the original repository was read as GBK, and a third of what that changed is lost."""
    lines = {token: number for number, token in enumerate(tokens, start=1)}
    for encoding, (first, *others) in _MISREADINGS.items():
        start = lines.get(first)
        if start is None or tokens[start : start + len(others)] != others:
            continue
        damage = f"its non-ASCII entries are UTF-8 misread as {encoding.upper()}"
        damage += f" (line {start} is {first!r} where {_CONSECUTIVE[0]!r} belongs)"
        if has_carriage_returns:
            damage += ", its line ends are CRLF"
        repeats = len(tokens) - len(lines)
        if repeats:
            damage += f", {repeats} of its {len(tokens)} lines repeat another line"
        raise InputError(
            f"{path}: this vocabulary is damaged: {damage}. The file published in the original ConvBERT "
            "repository is damaged in this way. An undamaged one with the same ids is BERT's uncased "
            "vocabulary: vocab.txt of google-bert/bert-base-uncased or of YituTech/conv-bert-base"
        )


def _refuse_repeats(path: Path, tokens: list[str]) -> None:
    first_lines: dict[str, int] = {}
    repeats = []
    for number, token in enumerate(tokens, start=1):
        if first_lines.setdefault(token, number) != number:
            repeats.append((token, number))
    if repeats:
        token, number = repeats[0]
        raise InputError(
            f"{path}: {len(repeats)} of {len(tokens)} lines repeat an earlier one; the first is {token!r}, "
            f"on lines {first_lines[token]} and {number}"
        )


def _require_special_tokens(vocabulary: Mapping[str, int], special_tokens: Sequence[str], name: str) -> None:
    missing = [token for token in special_tokens if token not in vocabulary]
    if missing:
        raise InputError(
            f"{name}: special tokens missing from the vocabulary: {', '.join(missing)}; add them, or name "
            "the ones it has (pad_token=, unk_token=, cls_token=, sep_token=, mask_token=)"
        )


def _check_mapping(vocabulary: Mapping[str, int], special_tokens: Sequence[str]) -> dict[str, int]:
    """The rules of `load_vocabulary` that apply to a mapping. Ids may have gaps."""
    if not vocabulary:
        raise InputError("the vocabulary is empty")
    owners: dict[int, str] = {}
    for token, index in vocabulary.items():
        if not isinstance(token, str) or not isinstance(index, int) or index < 0:
            raise InputError(f"a vocabulary maps text to ids of at least 0, got {token!r}: {index!r}")
        if index in owners:
            raise InputError(f"the vocabulary gives id {index} to both {owners[index]!r} and {token!r}")
        owners[index] = token
    _require_special_tokens(vocabulary, special_tokens, "the given vocabulary")
    return dict(vocabulary)


def _build_vocabulary(
    vocab: PathLike | Mapping[str, int] | None,
    vocab_file: PathLike | None,
    named_tokens: Mapping[str, str | AddedToken | None],
    added_tokens: Mapping[int, AddedToken],
) -> dict[str, int]:
    """The vocabulary that a constructor's arguments describe, checked.

    Args:
        vocab: a mapping, or the path of a vocabulary file; comes before `vocab_file`.
        named_tokens: argument name to special token; those not in `added_tokens` must be in the vocabulary.
        added_tokens: tokens that a saved tokenizer holds beside its vocabulary.
    """
    for name in ("unk_token", "cls_token", "sep_token"):
        if named_tokens[name] is None:
            raise InputError(f"{name} must not be None: every text is built with it")
    elsewhere = {str(token) for token in added_tokens.values()}
    required = [str(token) for token in named_tokens.values() if token is not None]
    required = [token for token in required if token not in elsewhere]
    source = vocab if vocab is not None else vocab_file
    if source is None:
        raise InputError(
            "a tokenizer needs a vocabulary: give vocab= (a mapping or a path) or vocab_file= (a path), "
            f"or load a folder that holds {TOKENIZER_FILE} or {VOCABULARY_FILE} with from_pretrained"
        )
    if isinstance(source, Mapping):
        return _check_mapping(source, required)
    return load_vocabulary(source, required)


def _read_tokenizer_file(path: PathLike) -> dict[str, Any]:
    """Constructor arguments as a `tokenizer.json` has them: vocabulary, normalizer switches, word limit."""
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    model = content.get("model") or {}
    # Files of early tokenizers releases do not name the type of their model.
    if model.get("type", "WordPiece") != "WordPiece" or not isinstance(model.get("vocab"), dict):
        raise InputError(f"{path}: holds a {model.get('type')} model; ConvBERT's tokenizers read WordPiece")
    arguments = {"vocab": model["vocab"]}
    if "max_input_chars_per_word" in model:
        arguments["max_input_chars_per_word"] = model["max_input_chars_per_word"]
    normalizer = content.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        arguments["do_lower_case"] = normalizer["lowercase"]
        arguments["strip_accents"] = normalizer["strip_accents"]
        arguments["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    return arguments


# ----------------------------------------------------------------------------- what both classes share


class _BertConventions:
    """Where special tokens go, and what lies in a folder: the same for both tokenizers."""

    vocab_files_names = {"vocab_file": VOCABULARY_FILE, "tokenizer_file": TOKENIZER_FILE}  # noqa: RUF012
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # noqa: RUF012

    cls_token_id: int
    sep_token_id: int
    _base_vocabulary: Callable[[], dict[str, int]]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: PathLike, *args: Any, **kwargs: Any) -> Any:
        """Load from a folder, a single `vocab.txt` or `tokenizer.json`, or a name on the Hub.

        The folder may come from either class here or from transformers' `BertTokenizer`; `tokenizer.json`
        comes before `vocab.txt` where both are present. Keyword arguments override what the folder says.

        Raises:
            InputError: the vocabulary cannot be used (see `load_vocabulary`), or a file is not valid JSON.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"{pretrained_model_name_or_path}: {TOKENIZER_FILE} or another tokenizer file beside it "
                f"is not valid JSON: {error}"
            ) from error

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        """Called by `from_pretrained` with the files it found; returns the constructor's arguments.

        What `tokenizer_config.json` or the caller says comes before what `tokenizer.json` says.
        """
        tokenizer_file = kwargs.get("tokenizer_file")
        if tokenizer_file is not None:
            kwargs = {**_read_tokenizer_file(tokenizer_file), **kwargs}
        elif kwargs.get("vocab") is None and kwargs.get("vocab_file") is None:
            raise InputError(
                f"{kwargs.get('name_or_path')}: neither {TOKENIZER_FILE} nor {VOCABULARY_FILE} is there"
            )
        return super().convert_to_native_format(**kwargs)  # type: ignore[misc]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`[CLS] first [SEP]`, or `[CLS] first [SEP] second [SEP]`, as ids."""
        ids = [self.cls_token_id, *token_ids_0, self.sep_token_id]
        if token_ids_1 is not None:
            ids += [*token_ids_1, self.sep_token_id]
        return ids

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 where `build_inputs_with_special_tokens` puts a special token, 0 for a token of the text.

        With `already_has_special_tokens`, `token_ids_0` is a finished sequence: 1 for each special id.
        """
        if already_has_special_tokens:
            return super().get_special_tokens_mask(token_ids_0, token_ids_1, True)  # type: ignore[misc]
        mask = [1, *([0] * len(token_ids_0)), 1]
        if token_ids_1 is not None:
            mask += [*([0] * len(token_ids_1)), 1]
        return mask

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """0 for `[CLS] first [SEP]`, 1 for `second [SEP]`."""
        types = [0] * (len(token_ids_0) + 2)
        if token_ids_1 is not None:
            types += [1] * (len(token_ids_1) + 1)
        return types

    def save_vocabulary(self, save_directory: PathLike, filename_prefix: str | None = None) -> tuple[str]:
        """Write `vocab.txt` (with `filename_prefix-` before its name, if given), without added tokens.

        Returns:
            The path written, as a tuple of one.

        Raises:
            InputError: the folder is missing or cannot be written, or the vocabulary does not fit a file of
                lines (ids with gaps, a token that is blank or holds a newline).
        """
        folder = Path(save_directory)
        if not folder.is_dir():
            raise InputError(f"{folder}: is not a folder to save a vocabulary in")
        path = folder / (f"{filename_prefix}-{VOCABULARY_FILE}" if filename_prefix else VOCABULARY_FILE)
        vocabulary = self._base_vocabulary()
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        for line, token in enumerate(tokens):
            if vocabulary[token] != line:
                raise InputError(f"{path}: no token has id {line}, and a vocabulary file cannot have a gap")
            if not token or "\n" in token or token.endswith("\r"):
                raise InputError(f"{path}: token {token!r} (id {line}) does not fit on one line")
        _write_whole(path, "".join(f"{token}\n" for token in tokens))
        return (str(path),)


def _write_whole(path: Path, text: str) -> None:
    """Write all of a file or nothing of it."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _check_word_limit(max_input_chars_per_word: int) -> int:
    if not isinstance(max_input_chars_per_word, int) or max_input_chars_per_word < 1:
        raise InputError(
            f"max_input_chars_per_word must be a whole number of at least 1, got {max_input_chars_per_word!r}"
        )
    return max_input_chars_per_word


_TOO_SHORT = (
    "truncating only one text of the pair is not enough to reach max_length: the other is too long; "
    "truncate the other one, or take truncation='longest_first'"
)

_SURROGATE = re.compile("[\ud800-\udfff]")


def _refuse_surrogates(text: Any) -> None:
    """Half a UTF-16 pair is a code point that is no character; text read with `surrogateescape` has them."""
    if isinstance(text, str):
        found = _SURROGATE.search(text)
        if found:
            raise InputError(
                f"the text is not valid Unicode: character {found.start()} is a lone surrogate "
                f"(U+{ord(found[0]):04X}); decode its bytes as UTF-8, with errors='replace' where needed"
            )
    elif isinstance(text, (list, tuple)):
        for part in text:
            _refuse_surrogates(part)


# ------------------------------------------------------------------------------------------------ fast


class ConvBertTokenizerFast(_BertConventions, BertTokenizer):
    """WordPiece backed by tokenizers: offsets, word numbers, overflow by stride, pairs, pre-split words.

    Args:
        vocab: token to id, or the path of a vocabulary file.
        vocab_file: the path of a vocabulary file, where `vocab` is not given.
        do_lower_case: lower-case the text.
        strip_accents: drop accents (non-spacing marks); None follows `do_lower_case`.
        tokenize_chinese_chars: make each CJK ideograph a word.
        max_input_chars_per_word: longer words become `unk_token`.
        unk_token, sep_token, pad_token, cls_token, mask_token: must be in the vocabulary; `pad_token` and
            `mask_token` may be None.
        kwargs: as in transformers, e.g. `model_max_length`, `padding_side`, `truncation_side`.

    Raises:
        InputError: the vocabulary is missing or cannot be used (see `load_vocabulary`).
    """

    def __init__(
        self,
        vocab: PathLike | Mapping[str, int] | None = None,
        *,
        vocab_file: PathLike | None = None,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        max_input_chars_per_word: int = 100,
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken | None = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken | None = "[MASK]",
        **kwargs: Any,
    ) -> None:
        kwargs.pop("tokenizer_file", None)
        backend = kwargs.get("tokenizer_object")
        if vocab is None and backend is not None:
            vocab = backend.get_vocab(with_added_tokens=False)
        named_tokens = {
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        self.max_input_chars_per_word = _check_word_limit(max_input_chars_per_word)
        super().__init__(
            vocab=_build_vocabulary(vocab, vocab_file, named_tokens, kwargs.get("added_tokens_decoder", {})),
            do_lower_case=do_lower_case,
            strip_accents=strip_accents,
            tokenize_chinese_chars=tokenize_chinese_chars,
            max_input_chars_per_word=max_input_chars_per_word,
            **named_tokens,
            **kwargs,
        )
        self.backend_tokenizer.model.max_input_chars_per_word = max_input_chars_per_word

    def _base_vocabulary(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab(with_added_tokens=False)

    def _save_pretrained(
        self,
        save_directory: PathLike,
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        """The one file that holds everything, written whole or not at all."""
        name = f"{filename_prefix}-{TOKENIZER_FILE}" if filename_prefix else TOKENIZER_FILE
        path = Path(save_directory) / name
        _write_whole(path, self.backend_tokenizer.to_str(pretty=True))
        return (*file_names, str(path))

    def _encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> Any:
        try:
            return super()._encode_plus(text, text_pair, **kwargs)
        except TypeError:
            # tokenizers says only that the type is wrong
            _refuse_surrogates(text)
            _refuse_surrogates(text_pair)
            raise
        except Exception as error:
            if "Truncation error" not in str(error):
                raise
            raise InputError(_TOO_SHORT) from error


# ------------------------------------------------------------------------------------------------ slow


class _CharacterTable(dict[int, str]):
    """What a rule makes of one character, by code point and asked once: an argument for `str.translate`."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code_point: int) -> str:
        self[code_point] = result = self._rule(chr(code_point))
        return result


# Which characters are controls, punctuation or accents depends on the edition of Unicode. Python's tables
# change with the interpreter; tokenizers carries several of its own, older ones for categories and newer ones
# for letter case. Both classes must cut a text alike on every interpreter, so the tables are read from
# tokenizers, one character at a time. Unassigned characters are kept.
_normalize_nothing = {
    "clean_text": False,
    "handle_chinese_chars": False,
    "strip_accents": False,
    "lowercase": False,
}
_clean_one = normalizers.BertNormalizer(**{**_normalize_nothing, "clean_text": True}).normalize_str
_strip_one = normalizers.BertNormalizer(**{**_normalize_nothing, "strip_accents": True}).normalize_str
_decompose = normalizers.NFD().normalize_str
_lower_case = normalizers.Lowercase().normalize_str
_pre_tokenize = pre_tokenizers.BertPreTokenizer().pre_tokenize_str

# The blocks of ideographs as tokenizers has them: extension E starts at 2B920 there, and at 2B820 in Unicode.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def _space_ideograph(character: str) -> str:
    is_ideograph = any(first <= ord(character) <= last for first, last in _IDEOGRAPHS)
    return f" {character} " if is_ideograph else character


def _space_punctuation(character: str) -> str:
    """A separator is dropped between two letters, punctuation becomes a piece of its own."""
    pieces = len(_pre_tokenize(f"a{character}a"))
    return {1: character, 2: " ", 3: f" {character} "}[pieces]


_CLEANED = _CharacterTable(_clean_one)  # controls and U+FFFD vanish, white space becomes a space
_IDEOGRAPHS_APART = _CharacterTable(_space_ideograph)
_WITHOUT_ACCENTS = _CharacterTable(_strip_one)
_PUNCTUATION_APART = _CharacterTable(_space_punctuation)


class ConvBertTokenizer(_BertConventions, PreTrainedTokenizer):
    """The tokenizer written in Python, to read and to step through; its ids are `ConvBertTokenizerFast`'s.

    Takes the arguments of the fast one. It has no offsets.

    Raises:
        InputError: the vocabulary is missing or cannot be used (see `load_vocabulary`).
    """

    def __init__(
        self,
        vocab: PathLike | Mapping[str, int] | None = None,
        *,
        vocab_file: PathLike | None = None,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        max_input_chars_per_word: int = 100,
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken | None = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken | None = "[MASK]",
        **kwargs: Any,
    ) -> None:
        kwargs.pop("tokenizer_file", None)
        named_tokens = {
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        self._vocabulary = _build_vocabulary(
            vocab, vocab_file, named_tokens, kwargs.get("added_tokens_decoder", {})
        )
        self._tokens = {index: token for token, index in self._vocabulary.items()}
        self.do_lower_case = do_lower_case
        self.strip_accents = strip_accents
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.max_input_chars_per_word = _check_word_limit(max_input_chars_per_word)
        super().__init__(
            do_lower_case=do_lower_case,
            strip_accents=strip_accents,
            tokenize_chinese_chars=tokenize_chinese_chars,
            max_input_chars_per_word=max_input_chars_per_word,
            **named_tokens,
            **kwargs,
        )

    # -- text to tokens

    def tokenize(self, text: str, split_special_tokens: bool | None = None, **kwargs: Any) -> list[str]:
        """Cut a text into tokens of the vocabulary.

        Args:
            text: any text. Special tokens written in it are kept whole.
            split_special_tokens: True treats them as ordinary text; None follows the tokenizer's own setting.

        Raises:
            InputError: the text holds a lone surrogate.
        """
        _refuse_surrogates(text)
        split_special = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        tokens = []
        for added, plain in _cut_at(self._verbatim_tokens, text, split_special):
            tokens += self._tokenize_plain(plain, split_special) if added is None else [added]
        return tokens

    def _tokenize_plain(self, text: str, split_special: bool) -> list[str]:
        """Tokens of a text without verbatim added tokens."""
        tokens = []
        for added, words in _cut_at(self._normalized_tokens, self.normalize(text), split_special):
            tokens += self._tokenize(words) if added is None else [added]
        return tokens

    def normalize(self, text: str) -> str:
        """Drop control characters, set ideographs apart, drop accents and lower-case, as the options say."""
        text = text.translate(_CLEANED)
        if self.tokenize_chinese_chars:
            text = text.translate(_IDEOGRAPHS_APART)
        if self.do_lower_case if self.strip_accents is None else self.strip_accents:
            text = _decompose(text).translate(_WITHOUT_ACCENTS)
        if self.do_lower_case:
            text = _lower_case(text)
        return text

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Tokens of a normalized text without added tokens."""
        return [piece for word in self.split_words(text) for piece in self._cut_word(word)]

    def split_words(self, text: str) -> list[str]:
        """Cut a normalized text at white space and around punctuation."""
        return [word for word in text.translate(_PUNCTUATION_APART).split(" ") if word]

    def _cut_word(self, word: str) -> list[str]:
        """The longest piece that starts the word, then the longest that continues it, and so on."""
        unknown = [str(self.unk_token)]
        if len(word) > self.max_input_chars_per_word:
            return unknown
        pieces = []
        start = 0
        while start < len(word):
            prefix = CONTINUATION if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._vocabulary), None)
            if end is None:
                return unknown
            pieces.append(prefix + word[start:end])
            start = end
        return pieces

    # -- tokens added to the vocabulary, the special ones among them

    def _add_tokens(self, new_tokens: list[str] | list[AddedToken], special_tokens: bool = False) -> int:
        """As the base class, but it would lower-case an added token where tokenizers keeps it as it is."""
        known = self.get_vocab()
        size_before = len(known)
        for new in new_tokens:
            token = self._as_added_token(new, special_tokens)
            if not token.content or self._added_tokens_decoder.get(known.get(token.content, -1)) == token:
                continue
            index = known.setdefault(token.content, len(known))
            if token.special and token.content not in self.all_special_tokens:
                self._extra_special_tokens.append(token)
            self._added_tokens_decoder[index] = token
            self._added_tokens_encoder[token.content] = index
        self._update_trie()
        self._update_total_vocab_size()
        return len(known) - size_before

    def _as_added_token(self, token: str | AddedToken, special: bool) -> AddedToken:
        if isinstance(token, str):
            named = (named for named in self._special_tokens_map.values() if isinstance(named, AddedToken))
            token = next((named for named in named if named.content == token), token)
        if isinstance(token, str):
            special = special or token in self.all_special_tokens
            return AddedToken(token, special=special, normalized=not special)
        if special:
            token.special = True
        return token

    def _update_trie(self, unique_no_split_tokens: list[str] | None = None) -> None:
        """A verbatim token is searched in the text as given, any other in the normalized text."""
        added = self._added_tokens_decoder.values()
        verbatim = [token for token in added if not token.normalized]
        normalized = [token for token in added if token.normalized]
        self._verbatim_tokens = {token.content: token for token in verbatim}
        self._normalized_tokens = {self.normalize(token.content): token for token in normalized}

    # -- tokens and ids

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary, without added ones."""
        return len(self._vocabulary)

    def get_vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return {**self._vocabulary, **self._added_tokens_encoder}

    def _base_vocabulary(self) -> dict[str, int]:
        return self._vocabulary

    def _convert_token_to_id(self, token: str) -> int:
        index = self._vocabulary.get(token)
        return self.unk_token_id if index is None else index

    def _convert_id_to_token(self, index: int) -> str | None:
        return self._tokens.get(index)

    def convert_tokens_to_string(self, tokens: list[str | None]) -> str:
        """Join pieces into words and words into a text, without the space before punctuation."""
        known = [token for token in tokens if token is not None]
        return decoders.WordPiece(prefix=CONTINUATION).decode(known)

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: str | TruncationStrategy = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Shorten one text or both, as the fast tokenizer does.

        Returns:
            The first text's ids, the second's, and what overflowed (nothing where both are shortened).

        Raises:
            InputError: the one text to shorten has not as many tokens to give.
        """
        strategy = TruncationStrategy(truncation_strategy)
        if pair_ids is None or num_tokens_to_remove <= 0:
            return super().truncate_sequences(ids, pair_ids, num_tokens_to_remove, strategy, stride)
        room = max(len(ids) + len(pair_ids) - num_tokens_to_remove, 0)
        if room == 0 or strategy == TruncationStrategy.LONGEST_FIRST:
            first, second = _share_room(len(ids), len(pair_ids), room)
            return self._truncate(ids, first), self._truncate(pair_ids, second), []
        shortened = ids if strategy == TruncationStrategy.ONLY_FIRST else pair_ids
        if len(shortened) <= num_tokens_to_remove:
            raise InputError(_TOO_SHORT)
        return super().truncate_sequences(ids, pair_ids, num_tokens_to_remove, strategy, stride)

    def _truncate(self, ids: list[int], length: int) -> list[int]:
        return ids[len(ids) - length :] if self.truncation_side == "left" else ids[:length]

    def _encode_plus(self, *args: Any, return_offsets_mapping: bool = False, **kwargs: Any) -> Any:
        if return_offsets_mapping:
            raise InputError("ConvBertTokenizer has no offsets; use ConvBertTokenizerFast")
        return super()._encode_plus(*args, **kwargs)


def _cut_at(
    added_tokens: Mapping[str, AddedToken], text: str, split_special: bool
) -> Iterator[tuple[str | None, str]]:
    """Cut a text at added tokens, the longest first where several start at one place.

    Args:
        added_tokens: what to search for, and the token it stands for.
        split_special: pass over special tokens.

    Yields:
        (None, text between added tokens) and (added token, "").
    """
    start = 0
    spellings = sorted(filter(None, added_tokens), key=len, reverse=True)
    matches = re.finditer("|".join(map(re.escape, spellings)), text) if spellings else ()
    for match in matches:
        token = added_tokens[match[0]]
        begin, end = match.span()
        if (token.special and split_special) or (token.single_word and _touches_a_word(text, begin, end)):
            continue
        if token.lstrip:
            begin = len(text[:begin].rstrip())
        if token.rstrip:
            end = len(text) - len(text[end:].lstrip())
        yield None, text[start:begin]
        yield token.content, ""
        start = end
    yield None, text[start:]


def _share_room(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths to keep of two texts: the shorter one whole where that fits, else half the room for each."""
    shorter, longer = min(first, second), room - min(first, second)
    if longer < shorter:
        shorter = room // 2
        longer = room - shorter
    return (shorter, longer) if first <= second else (longer, shorter)


def _touches_a_word(text: str, begin: int, end: int) -> bool:
    neighbours = text[max(begin - 1, 0) : begin] + text[end : end + 1]
    return re.search(r"\w", neighbours) is not None
