"""LevelDB's table, the form of the index of a TensorFlow checkpoint.

Blocks of sorted keys, each key stored as what differs from the one before it, found through an index block, found
through a footer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from convbert.conversion.crc32c import masked_crc32c
from convbert.util.errors import InputError

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_BLOCK_TRAILER_BYTES = 5  # compression, checksum
_BLOCK_BYTES = 1 << 18  # TensorFlow's: a block ends with the entry that fills it
_RESTART_INTERVAL = 16  # so many entries, then a key is stored in full


def read_table(content: bytes, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values, in order.

    Args:
        path: of the file, for messages.

    Raises:
        InputError: it is no table, truncated, damaged (every checksum is verified) or compressed.
        LookupError, ValueError, struct.error: it is damaged in another way.
    """
    if len(content) < _FOOTER_BYTES or struct.unpack("<Q", content[-8:])[0] != _MAGIC:
        raise InputError(f"{path} is not the index of a TensorFlow V2 checkpoint, or is truncated")
    _, position = _read_handle(content, len(content) - _FOOTER_BYTES)  # of the meta index: always empty
    index_handle, _ = _read_handle(content, position)
    for _, handle in _read_block(content, index_handle, path):
        yield from _read_block(content, _read_handle(handle, 0)[0], path)


def format_table(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A table of sorted entries, as TensorFlow writes it."""
    table, index, block = bytearray(), [], _Block(_RESTART_INTERVAL)
    for (key, value), (following, _) in zip(entries, [*entries[1:], (None, b"")], strict=True):
        block.add(key, value)
        if block.size >= _BLOCK_BYTES or following is None:
            handle = _append_block(table, block)
            index.append((_separator(key, following), handle))
            block = _Block(_RESTART_INTERVAL)
    index_block = _Block(1)
    meta_handle = _append_block(table, _Block(1))  # always empty
    for key, handle in index:
        index_block.add(key, handle)
    footer = meta_handle + _append_block(table, index_block)
    return bytes(table) + footer.ljust(_FOOTER_BYTES - 8, b"\0") + struct.pack("<Q", _MAGIC)


class _Block:
    """Entries with prefix-compressed keys, as they are added."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.body = bytearray()
        self.restarts = [0]
        self.since_restart = 0
        self.last = b""

    @property
    def size(self) -> int:
        return len(self.body) + 4 * len(self.restarts) + 4

    def add(self, key: bytes, value: bytes) -> None:
        if self.since_restart == self.interval:
            self.restarts.append(len(self.body))
            self.since_restart = 0
        shared = _shared_length(self.last, key) if self.since_restart else 0
        for number in (shared, len(key) - shared, len(value)):
            self.body += format_varint(number)
        self.body += key[shared:] + value
        self.since_restart += 1
        self.last = key


def _append_block(table: bytearray, block: _Block) -> bytes:
    """Append a block with its trailer; returns its handle."""
    content = bytes(block.body) + struct.pack(
        f"<{len(block.restarts) + 1}I", *block.restarts, len(block.restarts)
    )
    handle = format_varint(len(table)) + format_varint(len(content))
    uncompressed = b"\0"
    table += content + uncompressed + struct.pack("<I", masked_crc32c(content + uncompressed))
    return handle


def _separator(last: bytes, following: bytes | None) -> bytes:
    """A short key from `last` on that is below `following`; None is the end of the table."""
    if following is None:
        for position, byte in enumerate(last):
            if byte != 0xFF:
                return last[:position] + bytes([byte + 1])
        return last
    shared = _shared_length(last, following)
    if shared < len(last) and last[shared] != 0xFF and last[shared] + 1 < following[shared]:
        return last[:shared] + bytes([last[shared] + 1])
    return last


def _shared_length(first: bytes, second: bytes) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((position for position, (a, b) in pairs if a != b), min(len(first), len(second)))


def _read_block(content: bytes, handle: tuple[int, int], path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block, whose checksum is verified first."""
    offset, size = handle
    block, trailer = content[offset : offset + size], content[offset + size :][:_BLOCK_TRAILER_BYTES]
    if len(trailer) < _BLOCK_TRAILER_BYTES:
        raise InputError(f"{path} is truncated: a block ends at byte {offset + size}")
    compression, checksum = struct.unpack("<BI", trailer)
    if masked_crc32c(block + trailer[:1]) != checksum:
        raise InputError(f"{path} is damaged: wrong checksum of the block at byte {offset}")
    if compression:
        raise InputError(f"{path} is compressed, which TensorFlow does not do to checkpoints")
    (restarts,) = struct.unpack("<I", block[-4:])
    return _walk_entries(block[: len(block) - 4 * (restarts + 1)])


def _walk_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    position, key = 0, b""
    while position < len(block):
        shared, position = read_varint(block, position)
        added, position = read_varint(block, position)
        length, position = read_varint(block, position)
        key = key[:shared] + block[position : position + added]
        position += added
        yield key, block[position : position + length]
        position += length


def _read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """A block's (offset, size), and where reading stopped."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (offset, size), position


def format_varint(value: int) -> bytes:
    """A base-128 number, least significant group first."""
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A base-128 number, least significant group first, and where reading stopped."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift >= 64:
            raise ValueError("a number of more than 64 bits")
