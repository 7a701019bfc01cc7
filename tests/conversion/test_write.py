"""Checkpoints are written in TensorFlow's own bytes, and what is written is read back."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.conversion.crc32c import masked_crc32c
from convbert.conversion.table import format_table, read_table
from convbert.conversion.tensorflow import find_checkpoint, read_checkpoint, write_checkpoint
from convbert.util.errors import InputError
from tf_checkpoints import GOLDEN, entries, stored_index, variables, write_set


def test_the_bytes_are_those_of_tensorflow(tmp_path):
    prefix = write_set("set_b", tmp_path)
    for suffix in (".index", ".data-00000-of-00001"):
        stored = GOLDEN / "set_b" / f"{prefix.name}{suffix}"
        assert (tmp_path / stored.name).read_bytes() == stored.read_bytes()
    prefix = write_set("set_d", tmp_path)
    assert (tmp_path / f"{prefix.name}.index").read_bytes() == stored_index("set_d").read_bytes()


def test_checksums_are_those_of_tensorflow_where_there_are_slots(tmp_path):
    """Places differ, as there are no slots between the weights here; type, shape, size and checksum do not."""
    write_checkpoint(tmp_path / "model.ckpt", variables("set_a"))
    ours, theirs = entries(tmp_path / "model.ckpt.index"), entries(stored_index("set_a"))
    assert len(ours) == 109
    for name, entry in ours.items():
        assert entry[-5:] == theirs[name][-5:], name


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
arrays = st.builds(
    lambda dtype, shape: np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape),
    st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.int64]),
    st.lists(st.integers(0, 3), max_size=4).map(tuple),
)


@settings(deadline=None, max_examples=40)
@given(tensors=st.dictionaries(names, arrays, min_size=1, max_size=40))
def test_what_is_written_is_read_back(tensors, tmp_path_factory):
    tensors["global_step"] = np.array(3)  # a file without a byte is refused
    prefix = tmp_path_factory.mktemp("written") / "model.ckpt"
    write_checkpoint(prefix, tensors)
    found = read_checkpoint(prefix)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


def test_a_long_index_has_several_blocks(tmp_path):
    table = [(f"layer_{number:06}/kernel".encode(), b"x" * (number % 90)) for number in range(12_000)]
    content = format_table(table)
    assert len(content) > 1 << 19
    assert list(read_table(content, tmp_path)) == table


def sharded(prefix, count):
    """Split a checkpoint into shards, as `MergeV2Checkpoints` leaves them: each has its own offsets."""
    tensors = read_checkpoint(prefix)
    header = b"\x08" + bytes([count]) + b"\x1a\x02\x08\x01"
    merged = [(b"", header)]
    for shard in range(count):
        part = dict(list(tensors.items())[shard::count])
        write_checkpoint(prefix.with_name("part"), part)
        target = prefix.with_name(f"sharded.data-{shard:05}-of-{count:05}")
        prefix.with_name("part.data-00000-of-00001").rename(target)
        for name, entry in entries(prefix.with_name("part.index")).items():
            shape_end = 4 + entry[3]
            number = b"\x18" + bytes([shard]) if shard else b""
            merged.append((name.encode(), entry[:shape_end] + number + entry[shape_end:]))
    prefix.with_name("sharded.index").write_bytes(format_table(sorted(merged)))
    prefix.with_name("part.index").unlink()
    return prefix.with_name("sharded")


def test_sharded_values_are_found(tmp_path):
    prefix = write_set("set_b", tmp_path)
    expected, found = read_checkpoint(prefix), read_checkpoint(sharded(prefix, 3))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    (tmp_path / "sharded.data-00001-of-00003").unlink()
    with pytest.raises(InputError, match=r"sharded\.data-00001-of-00003"):
        read_checkpoint(tmp_path / "sharded")


@pytest.mark.parametrize(
    "name", ["model.ckpt-6", "model.ckpt-6.index", "model.ckpt-6.data-00000-of-00001", ""]
)
def test_a_checkpoint_is_found_by_any_of_its_names(name, tmp_path):
    prefix = write_set("set_b", tmp_path)
    assert find_checkpoint(tmp_path / name) == prefix


@pytest.mark.parametrize("named", ["model.ckpt-6", "/gone/since/model.ckpt-6", "./model.ckpt-6"])
def test_the_checkpoint_file_names_the_latest(named, tmp_path):
    write_set("set_b", tmp_path)
    write_set("set_d", tmp_path)
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\n')
    assert find_checkpoint(tmp_path).name == "model.ckpt-6"


@pytest.mark.parametrize(
    ("files", "given", "told"),
    [
        ([], "", "holds no"),
        (["a.index", "b.index"], "", "a.index, b.index"),
        ([], "model.ckpt", "model.ckpt.index"),
        (["model.ckpt"], "model.ckpt", "model.ckpt.index"),
        (["checkpoint"], "", "holds no"),
    ],
)
def test_no_checkpoint(files, given, told, tmp_path):
    for name in files:
        (tmp_path / name).write_text("nothing")
    with pytest.raises(InputError, match=told):
        find_checkpoint(tmp_path / given)


def test_a_compressed_block_is_refused(tmp_path):
    content = bytearray(format_table([(b"key", b"value")]))
    block = content.index(b"value") + 5 + 8
    content[block] = 1
    content[block + 1 : block + 5] = struct.pack("<I", masked_crc32c(bytes(content[: block + 1])))
    with pytest.raises(InputError, match="compressed"):
        list(read_table(bytes(content), tmp_path))
