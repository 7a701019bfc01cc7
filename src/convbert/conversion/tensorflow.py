"""The files of the original TensorFlow implementation, read with numpy alone.

A checkpoint is `PREFIX.index`, a table from variable name to type, shape and place, and one or more files
like `PREFIX.data-00000-of-00001`, the raw values. The table is LevelDB's: blocks of sorted keys, each key
stored as what differs from the one before it, found through an index block, found through a footer. Its
values are protocol buffers: `BundleHeaderProto` under the empty key, `BundleEntryProto` under every other.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convbert.conversion.crc32c import masked_crc32c
from convbert.util.errors import InputError

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_BLOCK_TRAILER_BYTES = 5  # compression, checksum
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # TensorFlow's DataType


class _Entry(NamedTuple):
    """Where one variable lies."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def read_checkpoint(prefix: str | Path) -> dict[str, np.ndarray]:
    """All numeric variables of a TensorFlow V2 checkpoint, optimiser slots and `global_step` included.

    Args:
        prefix: path without `.index` (with it is understood too), such as `model.ckpt-1000000`.

    Returns:
        name -> array in TensorFlow's own layout; writable copies, nothing keeps the files open.

    Raises:
        InputError: a file is missing, truncated, damaged (every checksum is verified) or of another format,
            or a variable has a type that no weight has; the message names the file.
    """
    prefix = str(prefix).removesuffix(".index")
    index = Path(f"{prefix}.index")
    try:
        shards, entries = _read_index(index)
    except InputError:
        raise
    except (LookupError, ValueError, struct.error) as error:
        raise InputError(f"{index} is damaged: {error!r}") from error
    used = sorted({entry.shard for entry in entries.values()})
    paths = {shard: Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}") for shard in used}
    contents = {shard: _map_file(path) for shard, path in paths.items()}
    if sum(entry.size for entry in entries.values()) > sum(map(len, contents.values())):
        names = ", ".join(map(str, paths.values()))
        raise InputError(f"{names}: truncated, or {index} is damaged: it names more bytes than there are")
    return {
        name: _read_tensor(contents[entry.shard], name, entry, paths[entry.shard])
        for name, entry in entries.items()
    }


def _read_tensor(content: np.ndarray, name: str, entry: _Entry, path: Path) -> np.ndarray:
    if entry.dtype not in _DTYPES:
        raise InputError(f"{path}: {name} has TensorFlow type {entry.dtype}, which no weight has")
    dtype = np.dtype(_DTYPES[entry.dtype])
    if entry.size != math.prod(entry.shape) * dtype.itemsize:
        raise InputError(
            f"the index beside {path} is damaged: {name} has {entry.size} bytes for {entry.shape}"
        )
    data = np.array(content[entry.offset : entry.offset + entry.size])
    if len(data) != entry.size:
        raise InputError(f"{path} is truncated: {name} ends at byte {entry.offset + entry.size}")
    if masked_crc32c(data) != entry.checksum:
        raise InputError(f"{path} is damaged: wrong checksum of {name}")
    try:
        return data.view(dtype).reshape(entry.shape)
    except ValueError as error:  # an empty one with a side that no array has
        raise InputError(f"the index beside {path} is damaged: {name} has the shape {entry.shape}") from error


def _map_file(path: Path) -> np.ndarray:
    """The bytes of a file, (size,) uint8, without reading them yet."""
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    if not path.stat().st_size:  # which cannot be mapped
        raise InputError(f"{path} is empty")
    try:
        return np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_index(path: Path) -> tuple[int, dict[str, _Entry]]:
    """The number of shards, and every variable's entry."""
    content = _map_file(path).tobytes()
    if len(content) < _FOOTER_BYTES or struct.unpack("<Q", content[-8:])[0] != _MAGIC:
        raise InputError(f"{path} is not the index of a TensorFlow V2 checkpoint, or is truncated")
    _, position = _read_handle(content, len(content) - _FOOTER_BYTES)  # of the meta index: always empty
    index_handle, _ = _read_handle(content, position)
    shards, entries = 0, {}
    for _, handle in _read_block(content, index_handle, path):
        for key, value in _read_block(content, _read_handle(handle, 0)[0], path):
            if key:
                entries[key.decode()] = _parse_entry(value)
            else:
                shards = _parse_header(value, path)
    if not entries:
        raise InputError(f"{path} names no variable")
    if any(entry.shard >= shards for entry in entries.values()):
        raise InputError(f"{path} is damaged: its header does not fit its entries")
    return shards, entries


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
        shared, position = _read_varint(block, position)
        added, position = _read_varint(block, position)
        length, position = _read_varint(block, position)
        key = key[:shared] + block[position : position + added]
        position += added
        yield key, block[position : position + length]
        position += length


def _parse_header(message: bytes, path: Path) -> int:
    """The number of shards."""
    fields = dict(_parse_fields(message))
    if _number(fields, 2):
        raise InputError(f"{path}: the values are stored big-endian, which is not supported")
    return _number(fields, 1)


def _parse_entry(message: bytes) -> _Entry:
    fields = dict(_parse_fields(message))
    shape = _parse_fields(fields.get(2, b""))
    dimensions = [dict(_parse_fields(value)) for number, value in shape if number == 2]
    return _Entry(
        dtype=_number(fields, 1),
        shape=tuple(_number(dimension, 1) for dimension in dimensions),
        shard=_number(fields, 3),
        offset=_number(fields, 4),
        size=_number(fields, 5),
        checksum=_number(fields, 6),
    )


def _number(fields: dict[int, Any], number: int) -> int:
    """Fields that are 0 are left out."""
    value = fields.get(number, 0)
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no number")
    return value


def _parse_fields(message: Any) -> Iterator[tuple[int, Any]]:
    """The number and value of each field of a protocol buffer; a value of length-delimited type is bytes."""
    if not isinstance(message, bytes):
        raise ValueError("a number stands in place of a message")
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _read_varint(message, position)
            yield number, value
        elif wire_type == 2:
            length, position = _read_varint(message, position)
            yield number, message[position : position + length]
            position += length
        elif wire_type == 5:
            yield number, struct.unpack_from("<I", message, position)[0]
            position += 4
        else:
            raise ValueError(f"unexpected protocol buffer field type {wire_type}")


def _read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """A block's (offset, size), and where reading stopped."""
    offset, position = _read_varint(data, position)
    size, position = _read_varint(data, position)
    return (offset, size), position


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
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
