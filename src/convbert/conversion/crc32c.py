"""CRC-32C (Castagnoli), the checksum inside TensorFlow checkpoints, vectorised with numpy.

A CRC is linear over GF(2): that of the whole is the exclusive or of those of its pieces, each moved on by as
many zero bytes as follow the piece. So rows of the data run side by side, two bytes at a time, and are folded
together at the end.
"""

from __future__ import annotations

from functools import cache

import numpy as np

_POLYNOMIAL = np.uint32(0x82F63B78)  # bit-reversed
_ROW_BYTES = 512  # short enough for a bias, long enough that folding the rows costs little
_ROWS_AT_ONCE = 4096  # so that a step stays in the cache
_MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes | np.ndarray) -> int:
    """The CRC-32C of `data` (bytes, or uint8 of shape (n,)), masked as LevelDB and TensorFlow store it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes | np.ndarray) -> int:
    """The CRC-32C of `data`: bytes, or uint8 of shape (n,)."""
    data = np.frombuffer(data, np.uint8)
    crcs, length = _crc_of_rows(_rows(data)), _ROW_BYTES
    while len(crcs) > 1:
        if len(crcs) % 2:  # an empty row in front changes nothing
            crcs = np.concatenate([np.zeros(1, np.uint32), crcs])
        crcs, length = _after_zero_bytes(crcs[::2], length) ^ crcs[1::2], 2 * length
    all_ones = np.array([0xFFFFFFFF], np.uint32)
    return int((crcs ^ _after_zero_bytes(all_ones, len(data)) ^ all_ones)[0])


def _rows(data: np.ndarray) -> np.ndarray:
    """(rows, _ROW_BYTES), filled up with zeros in front, where they do not change the CRC."""
    rows = max(1, -(-len(data) // _ROW_BYTES))
    padded = np.zeros(rows * _ROW_BYTES, np.uint8)
    padded[len(padded) - len(data) :] = data
    return padded.reshape(rows, _ROW_BYTES)


def _crc_of_rows(rows: np.ndarray) -> np.ndarray:
    """One CRC per row, each starting from zero."""
    crcs = np.zeros(len(rows), np.uint32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = crcs[start : start + _ROWS_AT_ONCE]
        for column in np.ascontiguousarray(rows[start : start + _ROWS_AT_ONCE].view("<u2").T):
            some[:] = _TABLE_OF_PAIRS[(some ^ column) & 0xFFFF] ^ (some >> 16)
    return crcs


def _after_zero_bytes(crcs: np.ndarray, count: int) -> np.ndarray:
    """`crcs` moved on by `count` zero bytes."""
    for power in range(count.bit_length()):
        if count >> power & 1:
            crcs = _apply(_step(power), crcs)
    return crcs


@cache
def _step(power: int) -> np.ndarray:
    """The matrix that moves a CRC on by 2**power zero bytes."""
    return _apply(_step(power - 1), _step(power - 1)) if power else _ONE_BYTE


def _apply(step: np.ndarray, crcs: np.ndarray) -> np.ndarray:
    """Matrix product over GF(2); `step` holds the images of the 32 single bits."""
    bits = (crcs[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return np.bitwise_xor.reduce(bits * step, axis=1)


def _table(bits: int) -> np.ndarray:
    """The CRC of every number of so many bits."""
    table = np.arange(1 << bits, dtype=np.uint32)
    for _ in range(bits):
        table = (table >> np.uint32(1)) ^ (table & np.uint32(1)) * _POLYNOMIAL
    return table


_TABLE, _TABLE_OF_PAIRS = _table(8), _table(16)
_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)
_ONE_BYTE = _TABLE[_BITS & 0xFF] ^ (_BITS >> 8)
