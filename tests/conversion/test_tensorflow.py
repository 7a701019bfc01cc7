"""Reading a checkpoint that TensorFlow wrote, whole and damaged."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convbert.conversion.tensorflow import read_checkpoint
from convbert.util.errors import InputError

CHECKPOINT = Path(__file__).parents[1] / "data" / "golden" / "set_b" / "model.ckpt-6"
INDEX, SHARD = "model.ckpt-6.index", "model.ckpt-6.data-00000-of-00001"


@pytest.fixture
def copied(tmp_path):
    """A checkpoint that may be damaged."""
    for name in (INDEX, SHARD):
        shutil.copyfile(CHECKPOINT.parent / name, tmp_path / name)
    return tmp_path


def test_names_shapes_and_types():
    tensors = read_checkpoint(CHECKPOINT)
    assert len(tensors) == 111
    assert tensors["global_step"] == 6
    assert tensors["global_step"].dtype == np.int64
    assert tensors["electra/embeddings/word_embeddings"].shape == (200, 32)
    assert tensors["electra/encoder/layer_1/output/g_dense/kernel"].shape == (2, 192, 48)
    assert tensors["generator/encoder/layer_0/attention/self/conv_attn_key/depthwise_kernel"].shape == (
        9,
        48,
        1,
    )
    assert {tensor.dtype.name for name, tensor in tensors.items() if name != "global_step"} == {"float32"}


def test_values_lie_where_the_index_says():
    # The shard holds nothing but the tensors, back to back, in the order of their names.
    tensors = read_checkpoint(CHECKPOINT)
    joined = b"".join(tensors[name].tobytes() for name in sorted(tensors))
    assert joined == (CHECKPOINT.parent / SHARD).read_bytes()


def test_the_index_file_may_be_named_itself():
    assert read_checkpoint(f"{CHECKPOINT}.index").keys() == read_checkpoint(CHECKPOINT).keys()


def test_result_is_writable_and_independent_of_the_file(copied):
    tensors = read_checkpoint(copied / "model.ckpt-6")
    tensors["global_step"][...] = 7
    assert read_checkpoint(copied / "model.ckpt-6")["global_step"] == 6


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (INDEX, Path.unlink, "does not exist"),
        (SHARD, Path.unlink, "does not exist"),
        (INDEX, lambda path: path.write_bytes(b""), "is empty"),
        (SHARD, lambda path: path.write_bytes(b""), "is empty"),
        (INDEX, lambda path: path.write_text("not a table " * 20), "is not the index"),
        (INDEX, lambda path: truncate(path, 4000), "truncated"),
        (SHARD, lambda path: truncate(path, 800_000), "truncated"),
        (INDEX, lambda path: flip(path, 1000), "damaged"),
        (
            SHARD,
            lambda path: flip(path, 1000),
            "damaged: wrong checksum of discriminator_predictions/dense/kernel",
        ),
    ],
)
def test_a_bad_file_is_named(copied, name, damage, message):
    damage(copied / name)
    with pytest.raises(InputError, match=message) as caught:
        read_checkpoint(copied / "model.ckpt-6")
    assert str(copied / name) in str(caught.value)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 4523), flipped=st.integers(1, 255))
def test_a_damaged_index_is_refused_or_harmless(copied, position, flipped):
    content = bytearray((CHECKPOINT.parent / INDEX).read_bytes())
    content[position] ^= flipped
    (copied / INDEX).write_bytes(content)
    try:
        tensors = read_checkpoint(copied / "model.ckpt-6")
    except InputError:
        return
    assert len(tensors) == 111  # the byte was filling
