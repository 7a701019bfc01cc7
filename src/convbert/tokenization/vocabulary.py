"""The vocabulary: from a file or a mapping, checked."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, normalizers

from convbert.util.errors import DataWarning, InputError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY_FILE = "vocab.txt"
CONTINUATION = "##"
LARGEST_ID = 2**31 - 1
_LONGEST_GAP = 1_000_000

PathLike = str | os.PathLike[str]


def load_vocabulary(path: PathLike, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> dict[str, int]:
    """Read a vocabulary file: UTF-8, one token per line, the line's number (from 0) is the token's id.

    Returns:
        Token to id, in the order of the ids.

    Raises:
        InputError: the file is missing, empty, not UTF-8, has CRLF line ends, blank or repeated lines, or lacks one of
            `special_tokens`; or it is the damaged file of the original ConvBERT repository. Line numbers in messages
            count from 1.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such vocabulary file") from error
    except OSError as error:
        raise InputError(f"{path}: the vocabulary file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} (line {line})"
        ) from error
    if not text.strip():
        raise InputError(f"{path}: the vocabulary file is empty")
    if text.startswith("\ufeff"):
        raise InputError(f"{path}: starts with a byte order mark, which would become part of the first token")
    lines = text.removesuffix("\n").split("\n")
    tokens = [line.removesuffix("\r") for line in lines]
    has_carriage_returns = "\r\n" in text
    _refuse_mojibake(path, tokens, has_carriage_returns)
    if has_carriage_returns:
        number = 1 + next(number for number, line in enumerate(lines) if line.endswith("\r"))
        raise InputError(
            f"{path}: line {number} ends in CRLF (Windows line ends); write the vocabulary with plain newlines"
        )
    if "" in tokens:
        raise InputError(f"{path}: line {tokens.index('') + 1} is blank; every line must hold one token")
    vocabulary: dict[str, int] = {}
    repeats = [n for n, token in enumerate(tokens) if vocabulary.setdefault(token, n) != n]
    if repeats:
        token = tokens[repeats[0]]
        raise InputError(
            f"{path}: {len(repeats)} of {len(tokens)} lines repeat an earlier one; the first is {token!r}, "
            f"on lines {vocabulary[token] + 1} and {repeats[0] + 1}"
        )
    _require_special_tokens(vocabulary, special_tokens, str(path))
    return vocabulary


# BERT's uncased vocabulary holds these three on consecutive lines. UTF-8 read with either encoding below
# turns them into three telling tokens.
_CONSECUTIVE = "¡¢£"
_MISREADINGS = {
    encoding: tuple(character.encode().decode(encoding) for character in _CONSECUTIVE)
    for encoding in ("gbk", "cp1252")
}


def find_misreading(tokens: list[str]) -> tuple[str, int] | None:
    """The encoding, "gbk" or "cp1252", as which the UTF-8 of a vocabulary was misread, and a line that shows it."""
    lines = {token: number for number, token in enumerate(tokens, start=1)}
    for encoding, (first, *others) in _MISREADINGS.items():
        start = lines.get(first)
        if start is not None and tokens[start : start + len(others)] == others:
            return encoding, start
    return None


def _refuse_mojibake(path: Path, tokens: list[str], has_carriage_returns: bool) -> None:
    """The vocabulary of the original repository was read as GBK, and two thirds of what that changed are lost."""
    if found := find_misreading(tokens):
        encoding, start = found
        first = tokens[start - 1]
        damage = f"its non-ASCII entries are UTF-8 misread as {encoding.upper()}"
        damage += f" (line {start} is {first!r} where {_CONSECUTIVE[0]!r} belongs)"
        if has_carriage_returns:
            damage += ", its line ends are CRLF"
        repeats = len(tokens) - len(set(tokens))
        if repeats:
            damage += f", {repeats} of its {len(tokens)} lines repeat another line"
        raise InputError(
            f"{path}: this vocabulary is damaged: {damage}. The file published in the original ConvBERT "
            "repository is damaged in this way. An undamaged one with the same ids is BERT's uncased "
            "vocabulary: vocab.txt of google-bert/bert-base-uncased or of YituTech/conv-bert-base"
        )


def _require_special_tokens(vocabulary: Mapping[str, int], special_tokens: Sequence[str], name: str) -> None:
    missing = [token for token in special_tokens if token not in vocabulary]
    if missing:
        raise InputError(
            f"{name}: special tokens missing from the vocabulary: {', '.join(missing)}; add them, or name "
            "the ones it has (pad_token=, unk_token=, cls_token=, sep_token=, mask_token=)"
        )


def check_mapping(
    vocabulary: Mapping[str, int], special_tokens: Sequence[str] = (), source: object = "the given vocabulary"
) -> dict[str, int]:
    """The rules of `load_vocabulary` that apply to a mapping. Ids may have gaps."""
    if not vocabulary:
        raise InputError(f"{source}: the vocabulary is empty")
    owners: dict[int, str] = {}
    for token, index in vocabulary.items():
        if not isinstance(token, str) or type(index) is not int or not 0 <= index <= LARGEST_ID:
            raise InputError(
                f"{source}: a vocabulary maps text to ids from 0 to {LARGEST_ID}, got {token!r}: {index!r}"
            )
        if index in owners:
            raise InputError(
                f"{source}: the vocabulary gives id {index} to both {owners[index]!r} and {token!r}"
            )
        owners[index] = token
    if (highest := max(owners)) >= len(
        owners
    ) + _LONGEST_GAP:  # tokenizers keeps a table up to the highest id
        raise InputError(
            f"{source}: {owners[highest]!r} has id {highest} in a vocabulary of {len(owners)} tokens; ids may leave "
            f"out {_LONGEST_GAP} numbers at most"
        )
    _require_special_tokens(vocabulary, special_tokens, str(source))
    return dict(vocabulary)


def build_vocabulary(
    source: PathLike | Mapping[str, int] | None,
    named_tokens: Mapping[str, str | AddedToken | None],
    added_tokens: Mapping[int, AddedToken],
    name: str | None,
    guessed: bool,
    accents_said: bool,
) -> dict[str, int]:
    """The vocabulary that a constructor's arguments describe, checked.

    Args:
        named_tokens: argument name to special token; those not in `added_tokens` must be in the vocabulary.
        added_tokens: tokens that a saved tokenizer holds beside its vocabulary.
        name: where it comes from, for messages.
        guessed, accents_said: nobody has said whether it is cased; somebody has, whether it keeps accents.
    """
    name = name or ("the given vocabulary" if isinstance(source, Mapping) else str(source))
    for argument in ("unk_token", "cls_token", "sep_token"):
        if named_tokens[argument] is None:
            raise InputError(f"{name}: {argument} must not be None: every text is built with it")
    elsewhere = {str(token) for token in added_tokens.values()}
    required = [str(token) for token in named_tokens.values() if token is not None]
    required = [token for token in required if token not in elsewhere]
    if source is None:
        raise InputError(
            "a tokenizer needs a vocabulary: give vocab= (a mapping or a path) or vocab_file= (a path), "
            f"or load a folder that holds tokenizer.json or {VOCABULARY_FILE} with from_pretrained"
        )
    if isinstance(source, Mapping):
        vocabulary = check_mapping(source, required, name)
    else:
        vocabulary = load_vocabulary(source, required)
    _check_added(vocabulary, added_tokens, name)
    if guessed:
        _warn_of_unreachable_rows(vocabulary, {*required, *elsewhere}, accents_said, name)
    return vocabulary


def _check_added(vocabulary: dict[str, int], added_tokens: Mapping[int, AddedToken], name: str) -> None:
    """Added tokens have the ids of their rows, or those that follow the vocabulary: tokenizers knows no others."""
    following = len(vocabulary)
    taken = set(vocabulary.values()) if added_tokens else set()
    for index, token in sorted(added_tokens.items()):
        expected = vocabulary.get(token.content, following)
        if index != expected or (token.content not in vocabulary and index in taken):
            raise InputError(
                f"{name}: added token {token.content!r} has id {index}, but belongs to id {expected}: added "
                "tokens have the id of their row in the vocabulary, or follow it without a gap"
            )
        following += token.content not in vocabulary


_TELLING_SHARE = 0.01
_BRACKETED = re.compile(r"\[.*\]|<.*>", re.DOTALL)
_unchanged = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
_lower_case = normalizers.BertNormalizer(**{**_unchanged, "lowercase": True}).normalize_str
_strip_accents = normalizers.BertNormalizer(**{**_unchanged, "strip_accents": True}).normalize_str


def _warn_of_unreachable_rows(
    vocabulary: Collection[str], special_tokens: Collection[str], accents_said: bool, name: str
) -> None:
    """Say that a vocabulary looks cased, or looks as if it kept accents, where nobody has said what it is.

    An uncased vocabulary has no row with a capital or a mark that is stripped; special tokens, and what stands in
    brackets as `[unused1]` does, tell nothing.
    """
    rows = [row.removeprefix(CONTINUATION) for row in vocabulary if not _BRACKETED.fullmatch(row)]
    rows = [row for row in rows if row not in special_tokens]
    suspects = [row for row in rows if not row.isascii() or row != row.lower()]
    for rule, what, switch in (
        (_lower_case, "capitals", "do_lower_case"),
        (_strip_accents, "accents or vowel signs", "strip_accents"),
    ):
        if rule is _strip_accents and accents_said:
            return
        unreachable = [row for row in suspects if rule(row) != row]
        if len(unreachable) > _TELLING_SHARE * len(rows):
            warnings.warn(
                f"{name}: {len(unreachable) / len(rows):.0%} of the rows have {what}, e.g. {unreachable[0]!r}, and no "
                "text reaches them: nothing says how the vocabulary was made, so texts lose them. If it keeps them, "
                f'give {switch}=False, or write {{"{switch}": false}} to a tokenizer_config.json beside it; '
                "otherwise the same with true",
                DataWarning,
                stacklevel=4,
            )
            return
