"""The checkpoints of TensorFlow, read and written with numpy alone.

A checkpoint is `PREFIX.index`, a table from variable name to type, shape and place, and one or more files
like `PREFIX.data-00000-of-00001`, the raw values. The table is LevelDB's, see `table`; its values are protocol
buffers: `BundleHeaderProto` under the empty key, `BundleEntryProto` under every other.
What is written has the bytes that TensorFlow itself would write.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convbert.conversion.crc32c import masked_crc32c
from convbert.conversion.table import format_table, format_varint, read_table, read_varint
from convbert.util.errors import InputError

_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # TensorFlow's DataType
_HEADER = b"\x08\x01\x1a\x02\x08\x01"  # BundleHeaderProto: one shard, little-endian, version 1
_STATE_FILE = "checkpoint"
_STATE = re.compile(r'^\s*model_checkpoint_path:\s*"((?:[^"\\]|\\.)*)"', re.MULTILINE)
_SUFFIX = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


class _Entry(NamedTuple):
    """Where one variable lies."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def find_checkpoint(path: str | Path) -> Path:
    """The prefix of a checkpoint.

    Args:
        path: a prefix such as `model.ckpt-1000000`, one of the files of the checkpoint, a file `checkpoint`, which
            names the latest, or a folder with such a file or with a single checkpoint.

    Raises:
        InputError: there is none, or several of which nothing names one.
    """
    path = Path(path)
    if path.name == _STATE_FILE and path.is_file():
        path = path.parent
    if not path.is_dir():
        prefix = Path(_SUFFIX.sub("", str(path)))
        if Path(f"{prefix}.index").is_file():
            return prefix
        if prefix.is_file():
            raise InputError(
                f"{path}: is no TensorFlow V2 checkpoint: there is no {prefix.name}.index beside it"
            )
        raise InputError(f"{path}: there is no such checkpoint: {prefix}.index does not exist")
    state = path / _STATE_FILE
    if state.is_file() and (match := _STATE.search(state.read_text(encoding="utf-8", errors="replace"))):
        # The folder may have moved since TensorFlow wrote an absolute path.
        for prefix in (path / match[1], path / Path(match[1]).name):
            if Path(f"{prefix}.index").is_file():
                return prefix
        raise InputError(
            f"{state}: names {match[1]!r:.80}, and there is no {Path(match[1]).name}.index in {path}"
        )
    found = sorted(path.glob("*.index"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found)
        raise InputError(
            f"{path}: holds several checkpoints ({names}): give one of them"
            if found
            else f"{path}: holds no TensorFlow checkpoint: there is no .index file"
        )
    return found[0].with_suffix("")


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


def write_checkpoint(prefix: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write `PREFIX.index`, `PREFIX.data-00000-of-00001`, and the `checkpoint` file beside them that names them.

    Args:
        prefix: such as `model.ckpt`; the folder exists.
        tensors: name -> array in TensorFlow's layout; float16, float32, float64, int32 or int64.

    Raises:
        OSError: they cannot be written.
    """
    prefix = Path(prefix)
    entries: list[tuple[bytes, bytes]] = [(b"", _HEADER)]
    codes = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
    offset = 0
    with open(f"{prefix}.data-00000-of-00001", "wb") as shard:
        for name in sorted(tensors, key=str.encode):
            tensor = tensors[name]
            data = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
            shard.write(data.data)
            entry = _Entry(codes[tensor.dtype], tensor.shape, 0, offset, data.size, masked_crc32c(data))
            entries.append((name.encode(), _format_entry(entry)))
            offset += data.size
    Path(f"{prefix}.index").write_bytes(format_table(entries))
    quoted = prefix.name.replace("\\", "\\\\").replace('"', '\\"')
    state = f'model_checkpoint_path: "{quoted}"\nall_model_checkpoint_paths: "{quoted}"\n'
    prefix.with_name(_STATE_FILE).write_text(state, encoding="utf-8")


def _format_entry(entry: _Entry) -> bytes:
    """`BundleEntryProto`; numbers that are 0 are left out."""
    shape = b"".join(_field(2, _field(1, size) if size else b"") for size in entry.shape)
    numbers = [(3, entry.shard), (4, entry.offset), (5, entry.size)]
    fields = [_field(1, entry.dtype), _field(2, shape), *(_field(at, x) for at, x in numbers if x)]
    return b"".join(fields) + (b"\x35" + struct.pack("<I", entry.checksum) if entry.checksum else b"")


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return format_varint(number << 3) + format_varint(value)
    return format_varint(number << 3 | 2) + format_varint(len(value)) + value


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
    shards, entries = 0, {}
    for key, value in read_table(_map_file(path).tobytes(), path):
        if key:
            entries[key.decode()] = _parse_entry(value)
        else:
            shards = _parse_header(value, path)
    if not entries:
        raise InputError(f"{path} names no variable")
    if any(entry.shard >= shards for entry in entries.values()):
        raise InputError(f"{path} is damaged: its header does not fit its entries")
    return shards, entries


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
        tag, position = read_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = read_varint(message, position)
            yield number, value
        elif wire_type == 2:
            length, position = read_varint(message, position)
            yield number, message[position : position + length]
            position += length
        elif wire_type == 5:
            yield number, struct.unpack_from("<I", message, position)[0]
            position += 4
        else:
            raise ValueError(f"unexpected protocol buffer field type {wire_type}")
