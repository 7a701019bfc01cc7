"""Damaged files of the original: every one is read, or refused with a reason; nothing crashes or takes memory."""

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from convbert.conversion.crc32c import masked_crc32c
from convbert.conversion.rename import from_tensorflow
from convbert.conversion.settings import config_from_tensorflow
from convbert.conversion.tensorflow import read_checkpoint
from fuzzing import damaged_bytes, damaged_json, outcome

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "set_b"
INDEX, SHARD = "model.ckpt-6.index", "model.ckpt-6.data-00000-of-00001"
CASES = 150


@pytest.fixture
def copied(tmp_path):
    for name in (INDEX, SHARD):
        (tmp_path / name).write_bytes((GOLDEN / name).read_bytes())
    return tmp_path


def varints(raw: bytes, count: int) -> list[int]:
    """The first numbers of a LevelDB footer."""
    numbers, position = [], 0
    for _ in range(count):
        value, shift = 0, 0
        while True:
            byte = raw[position]
            position, value, shift = position + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                break
        numbers.append(value)
    return numbers


def damaged_block(raw: bytes, seed: int) -> bytes:
    """An index with changed bytes in one of its blocks, under a checksum that fits them."""
    draw = random.Random(seed)
    meta_offset, _, index_offset, index_size = varints(raw[-48:], 4)
    offset, size = draw.choice([(0, meta_offset - 5), (0, meta_offset - 5), (index_offset, index_size)])
    changed = bytearray(raw)
    for _ in range(draw.choice([1, 1, 2, 4])):
        changed[offset + draw.randrange(size)] = draw.choice(
            [0, 1, 8, 0x12, 0x7F, 0x80, 0xFF, draw.randrange(256)]
        )
    body = bytes(changed[offset : offset + size + 1])  # the compression is under the checksum, too
    changed[offset + size + 1 : offset + size + 5] = struct.pack("<I", masked_crc32c(body))
    return bytes(changed)


def test_a_damaged_configuration_is_read_or_refused():
    content = json.loads((GOLDEN / "original_config.json").read_text())
    found = {"answered": 0, "refused": 0}
    for seed in range(CASES):
        damaged = damaged_json(content, seed)
        for part in ("discriminator", "generator"):
            found[outcome(lambda damaged=damaged, part=part: config_from_tensorflow(damaged, part))] += 1
    assert min(found.values()) > 0


@pytest.mark.parametrize(("damage", "cases"), [(damaged_bytes, CASES), (damaged_block, CASES // 10)])
def test_a_damaged_index_is_read_or_refused(copied, damage, cases):
    raw = (copied / INDEX).read_bytes()
    found = {"answered": 0, "refused": 0}
    for seed in range(cases):
        (copied / INDEX).write_bytes(damage(raw, seed))
        found[outcome(lambda: from_tensorflow(read_checkpoint(copied / "model.ckpt-6"), "generator"))] += 1
    assert found["refused"] > cases // 2


def test_damaged_values_are_refused(copied):
    raw = (copied / SHARD).read_bytes()
    for seed in range(CASES // 10):
        damaged = damaged_bytes(raw, seed)
        (copied / SHARD).write_bytes(damaged)
        expected = "answered" if damaged.startswith(raw) else "refused"
        assert outcome(lambda: read_checkpoint(copied / "model.ckpt-6")) == expected


def test_damaged_variables_are_read_or_refused():
    tensors = read_checkpoint(GOLDEN / "model.ckpt-6")
    draw, shapes = random.Random(0), [(), (3,), (2, 3), (1, 2, 3), (0,), (1, 1, 1, 1)]
    for _ in range(CASES):
        changed = dict(tensors)
        name = draw.choice(sorted(tensors))
        value = changed.pop(name)
        kind = draw.randrange(3)
        if kind == 0:
            changed[name] = np.zeros(draw.choice(shapes), np.float32)
        elif kind == 1:
            changed[name.replace("layer_1", f"layer_{draw.choice([7, 99999, 10**12])}")] = value
        outcome(lambda changed=changed: from_tensorflow(changed, draw.choice(["generator", "discriminator"])))
