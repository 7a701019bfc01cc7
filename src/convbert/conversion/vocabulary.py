"""The original's `vocab.txt`, with its line ends and its characters repaired where nothing of them is lost."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from convbert.conversion.lost_bytes import LOST_BYTES, SHA256
from convbert.tokenization.vocabulary import SPECIAL_TOKENS, check_mapping, find_misreading, load_vocabulary
from convbert.util.errors import InputError

_MOST_NAMED = 5
_LOST = "\ufffd"


class Repair(NamedTuple):
    """A vocabulary, and what was done to it.

    Args:
        vocabulary: token to id.
        lines: lines of the file.
        crlf: of these, with Windows line ends.
        restored: of these, with characters that were misread and are restored.
        completed: of these, with a byte that the file has lost; only the original's own file is completed.
    """

    vocabulary: dict[str, int]
    lines: int
    crlf: int = 0
    restored: int = 0
    completed: int = 0


def read_vocabulary(path: Path, *, repair: bool) -> Repair:
    """Read a vocabulary file; on request, one with Windows line ends, a byte order mark, or UTF-8 that was misread.

    UTF-8 that was read in another encoding and written again can be read back, as long as every byte is still there.
    What is lost of the original's own file is known, and a checksum tells whether it is that file.

    Raises:
        InputError: it is damaged; with `repair`, in a way that loses something, which the message names.
    """
    if not repair:
        try:
            vocabulary = load_vocabulary(path)
        except InputError as error:
            if _is_repairable(path):
                raise InputError(f"{error}; --repair-vocab repairs it") from error
            raise
        return Repair(vocabulary, len(vocabulary))
    return _repair(path)


def _is_repairable(path: Path) -> bool:
    try:
        _repair(path)
    except InputError:
        return False
    return True


def _repair(path: Path) -> Repair:
    try:
        lines = path.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such vocabulary file") from error
    except OSError as error:
        raise InputError(f"{path}: the vocabulary file cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 (byte {error.start}), which --repair-vocab cannot repair"
        ) from error
    tokens = [line.removesuffix("\r") for line in lines]
    crlf = sum(line.endswith("\r") for line in lines)
    damaged, completed = [], 0
    if found := find_misreading(tokens):
        damaged = [number for number, token in enumerate(tokens) if not token.isascii()]
        completed = sum(_LOST in tokens[number] for number in damaged)
        if not _reread(tokens, damaged, found[0]):
            _refuse_losses(path, tokens, damaged, found[0])
    if "" in tokens:
        raise InputError(f"{path}: line {tokens.index('') + 1} is blank; every line must hold one token")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if repeats := len(tokens) - len(vocabulary):
        raise InputError(
            f"{path}: {repeats} of {len(tokens)} lines repeat another one: what they were is lost"
        )
    check_mapping(vocabulary, SPECIAL_TOKENS, path)
    return Repair(vocabulary, len(tokens), crlf, len(damaged), completed)


def _reread(tokens: list[str], damaged: list[int], encoding: str) -> bool:
    """Restore the damaged lines in place, with U+FFFD for those that have lost bytes; False where there are any."""
    rest = iter(LOST_BYTES)
    completed = {number: _decode(tokens[number], encoding, rest) for number in damaged}
    lines = "\n".join(f"{number} {token}" for number, token in completed.items())
    is_the_originals = sha256(lines.encode()).hexdigest() == SHA256
    for number in damaged:
        tokens[number] = (
            completed[number] if is_the_originals else _decode(tokens[number], encoding, iter(()))
        )
    return not any(_LOST in tokens[number] for number in damaged)


def _decode(token: str, encoding: str, lost: Iterator[int]) -> str:
    """A token whose UTF-8 was read as `encoding`; U+FFFD alone where its bytes are lost and `lost` has no more."""
    try:
        return b"".join(_byte(character, encoding, lost) for character in token).decode("utf-8")
    except UnicodeError:
        return _LOST


def _byte(character: str, encoding: str, lost: Iterator[int]) -> bytes:
    # Windows reads bytes that an encoding does not define as the control character of the same number, and, in GBK,
    # 0x80 as the euro sign.
    if character == _LOST:
        if (byte := next(lost, None)) is None:
            raise UnicodeError("the byte is lost")
        return bytes([byte])
    if encoding == "gbk" and character == "\u20ac":
        return b"\x80"
    if encoding == "cp1252" and "\x80" <= character <= "\x9f":
        return character.encode("latin-1")
    return character.encode(encoding)


def _refuse_losses(path: Path, tokens: list[str], damaged: list[int], encoding: str) -> None:
    lost = [number + 1 for number in damaged if tokens[number] == _LOST]
    first = ", ".join(map(str, lost[:_MOST_NAMED])) + (", ..." if len(lost) > _MOST_NAMED else "")
    raise InputError(
        f"{path}: cannot be repaired wholly: {len(damaged):,} of {len(tokens):,} lines are UTF-8 misread as "
        f"{encoding.upper()}; {len(damaged) - len(lost):,} of them can be restored, and {len(lost):,} have lost bytes "
        f"(line {first}). An undamaged one with the same ids is BERT's uncased vocabulary: vocab.txt of "
        "google-bert/bert-base-uncased or of YituTech/conv-bert-base. Without --vocab, the weights are converted alone"
    )
