"""The checksum: published values, and the textbook loop over bits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.conversion.crc32c import crc32c, masked_crc32c


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the following: RFC 3720, section B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(data, expected):
    assert crc32c(data) == expected


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=3000))
def test_equals_the_loop_over_bits(data):
    assert crc32c(data) == bit_by_bit(data)


def test_mask_is_the_rotation_that_leveldb_documents():
    crc = bit_by_bit(b"foo")
    assert masked_crc32c(b"foo") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
