import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from convbert import ConvBertTokenizerFast
from convbert.pretraining.masking import (
    IGNORED,
    Masking,
    MaskingCollator,
    choose_positions,
    choose_words,
    number_to_predict,
    uniform,
)
from convbert.util.errors import InputError


def items(lengths, tokenizer, first_draw=0):
    """Sequences `[CLS] ... [SEP]` of ordinary tokens with an [UNK] in the middle where there is room."""
    source = np.random.default_rng(len(lengths))
    rows = []
    for number, length in enumerate(lengths):
        ids = source.integers(5, len(tokenizer), size=length)
        ids[0], ids[-1] = tokenizer.cls_token_id, tokenizer.sep_token_id
        if length > 6:
            ids[length // 2] = tokenizer.unk_token_id
        rows.append({"input_ids": ids.astype(np.uint16), "draw": first_draw + number})
    return rows


@given(
    available=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    wanted=st.integers(1, 50),
    seed=st.integers(0, 2**32),
)
def test_so_many_candidates_are_chosen_as_asked_for(available, wanted, seed):
    candidates = np.arange(40)[None, :] < np.array(available)[:, None]
    scores = np.random.default_rng(seed).random(candidates.shape)
    chosen = choose_positions(candidates, scores, np.full(len(available), wanted))
    assert not (chosen & ~candidates).any()
    assert chosen.sum(axis=1).tolist() == [min(count, wanted) for count in available]


def test_the_share_is_of_the_length_rounded_as_the_original_rounds():
    """`tf.round(num_tokens * mask_prob)` in its pretrain_helpers.py: single precision, half to even."""
    lengths = np.arange(1, 513)
    expected = torch.round(torch.arange(1, 513) * torch.tensor(0.15)).clamp(min=1).int()
    assert number_to_predict(lengths, 0.15).tolist() == expected.tolist()
    assert number_to_predict(np.array([2, 10, 30, 50, 128]), 0.15).tolist() == [1, 2, 4, 8, 19]


@given(
    lengths=st.lists(st.integers(1, 6), min_size=0, max_size=12),
    room=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
def test_whole_words_are_chosen_while_they_fit(lengths, room, seed):
    """Words of these lengths between two special tokens."""
    words = [[False] + [True] * (length - 1) for length in lengths]
    continues = np.array([[False, *(piece for word in words for piece in word), False]])
    candidates = np.ones_like(continues)
    candidates[0, [0, -1]] = False
    scores = np.random.default_rng(seed).random(continues.shape)
    chosen = choose_words(candidates, continues, scores, np.array([room]))
    assert not (chosen & ~candidates).any()
    total = int(chosen.sum())
    assert total <= room
    numbers = np.cumsum(~continues[0, 1:-1])
    picked = [int(chosen[0, 1:-1][numbers == number + 1].sum()) for number in range(len(lengths))]
    if lengths and min(lengths) > room:  # nothing fits: a part of one word
        assert total == room
        assert sorted(picked)[:-1] == [0] * (len(lengths) - 1)
    else:
        assert all(count in (0, length) for count, length in zip(picked, lengths, strict=True))
        left_out = [length for count, length in zip(picked, lengths, strict=True) if count == 0]
        assert all(length > room - total for length in left_out)


def test_a_word_that_begins_before_the_sequence_is_a_word(tokenizer):
    candidates = np.array([[False, True, True, False, True]])
    continues = np.array([[False, True, True, False, True]])
    scores = np.array([[0.0, 0.3, 0.0, 0.0, 0.9]])
    assert choose_words(candidates, continues, scores, np.array([2])).tolist() == [
        [False, True, True, False, False]
    ]


def test_whole_words_are_those_of_the_vocabulary():
    """Words of two pieces, two tokens to choose of each sequence: a word of two, or two of one piece."""
    tokenizer = ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})
    ids = np.array(tokenizer("the cats and dogs sat on mats .")["input_ids"])
    rows = [{"input_ids": ids, "draw": draw} for draw in range(200)]
    batch = MaskingCollator(tokenizer, Masking(0.15, 1.0, 0.0, whole_words=True), seed=0)(rows)
    masked = batch["labels"] != IGNORED
    pieces = np.flatnonzero(ids == tokenizer.convert_tokens_to_ids("##s"))
    assert len(pieces) == 3
    assert (masked[:, pieces] == masked[:, pieces - 1]).all()
    assert masked[:, pieces].any(0).all()
    assert (masked.sum(1) == 2).all()


def test_special_tokens_are_never_predicted_and_labels_hold_the_truth(tokenizer):
    rows = items([32, 17, 9, 3], tokenizer)
    batch = MaskingCollator(tokenizer, Masking(mask_prob=0.5), seed=1)(rows)
    grids = ("input_ids", "attention_mask", "labels")
    assert set(batch) == {*grids, "masked_positions", "cu_seqlens", "token_positions"}
    assert all(batch[name].shape == (4, 32) and batch[name].dtype == torch.int64 for name in grids)
    # What an objective would otherwise have to find on the device.
    assert torch.equal(batch["masked_positions"], (batch["labels"].flatten() != IGNORED).nonzero()[:, 0])
    assert torch.equal(batch["token_positions"], batch["attention_mask"].flatten().nonzero()[:, 0])
    assert batch["cu_seqlens"].tolist() == [0, 32, 49, 58, 61]
    for number, row in enumerate(rows):
        original = torch.from_numpy(row["input_ids"].astype(np.int64))
        shown, labels = batch["input_ids"][number], batch["labels"][number]
        predicted = labels != IGNORED
        assert batch["attention_mask"][number].tolist() == [1] * len(original) + [0] * (32 - len(original))
        assert (shown[len(original) :] == tokenizer.pad_token_id).all()
        assert not predicted[len(original) :].any()
        ordinary = original > 4
        assert not predicted[: len(original)][~ordinary].any()
        assert predicted.sum() == min(max(1, round(0.5 * len(original))), int(ordinary.sum()))
        assert (labels[predicted] == original[predicted[: len(original)]]).all()
        untouched = ~predicted[: len(original)]
        assert (shown[: len(original)][untouched] == original[untouched]).all()


@pytest.mark.parametrize(("masked", "random"), [(0.8, 0.1), (0.3, 0.6), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_shares_of_what_predicted_positions_show(tokenizer, masked, random):
    """About 13,000 positions: three standard deviations are below 0.015."""
    collator = MaskingCollator(tokenizer, Masking(0.5, masked, random), seed=2)
    batch = collator(items([130] * 200, tokenizer))
    predicted = batch["labels"] != IGNORED
    shown, truth = batch["input_ids"][predicted], batch["labels"][predicted]
    is_mask = shown == tokenizer.mask_token_id
    ordinary = len(tokenizer) - 5
    assert is_mask.float().mean().item() == pytest.approx(masked, abs=0.015)
    # A random token is the true one now and then.
    changed = random * (1 - 1 / ordinary)
    assert ((shown != truth) & ~is_mask).float().mean().item() == pytest.approx(changed, abs=0.015)
    assert (shown[~is_mask] > 4).all()


def test_random_tokens_cover_the_ordinary_vocabulary_evenly(tokenizer):
    collator = MaskingCollator(tokenizer, Masking(0.9, 0.0, 1.0), seed=2)
    batch = collator(items([130] * 400, tokenizer))
    counts = torch.bincount(batch["input_ids"][batch["labels"] != IGNORED], minlength=len(tokenizer))
    assert (counts[:5] == 0).all()
    mean = counts[5:].float().mean()
    assert (counts[5:] > 0.7 * mean).all()
    assert (counts[5:] < 1.3 * mean).all()


def test_an_example_is_masked_alike_in_any_batch_and_anew_in_another_draw_or_seed(tokenizer):
    rows = items([32, 20, 25], tokenizer)
    collator = MaskingCollator(tokenizer, Masking(), seed=5)
    together, alone = collator(rows), collator(rows[1:2])
    for name in ("input_ids", "attention_mask", "labels"):
        assert (together[name][1, :20] == alone[name][0]).all()
    next_epoch = [{**rows[1], "draw": rows[1]["draw"] + 1000}]
    assert (collator(next_epoch)["labels"] != alone["labels"]).any()
    assert (MaskingCollator(tokenizer, Masking(), seed=6)(rows[1:2])["labels"] != alone["labels"]).any()


def test_every_position_is_masked_equally_often(tokenizer):
    collator = MaskingCollator(tokenizer, Masking(0.2), seed=0)
    row = items([12], tokenizer)[0]
    row["input_ids"][6] = 7  # no [UNK] here
    batch = collator([{**row, "draw": draw} for draw in range(5000)])
    rates = (batch["labels"] != IGNORED).float().mean(0)
    assert rates[[0, 11]].tolist() == [0, 0]
    assert rates[1:11].tolist() == pytest.approx([0.2] * 10, abs=0.02)  # 2 of 12 tokens, 10 of them ordinary


def test_numbers_for_samples_belong_to_draw_and_position(tokenizer):
    rows = items([32, 20, 25], tokenizer)
    collator = MaskingCollator(tokenizer, Masking(), seed=5, sampling=True)
    together, alone = collator(rows)["sample_uniforms"], collator(rows[1:2])["sample_uniforms"]
    assert together.shape == (3, 32)
    assert together.dtype == torch.float32
    assert torch.equal(together[1, :20], alone[0])
    assert ((together >= 0) & (together <= 1)).all()
    assert together.unique().numel() == together.numel()
    other = MaskingCollator(tokenizer, Masking(), seed=6, sampling=True)(rows)["sample_uniforms"]
    assert not (other == together).any()


def test_second_segments_become_token_types(tokenizer):
    rows = items([8, 6, 5], tokenizer)
    rows[0]["second_segment"], rows[2]["second_segment"] = 5, 2
    batch = MaskingCollator(tokenizer, Masking(), seed=0)(rows)
    assert batch["token_type_ids"].tolist() == [
        [0, 0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
    ]


def test_hashed_numbers_are_uniform_and_streams_are_unrelated():
    draws, positions = np.arange(1000, dtype=np.uint64)[:, None], np.arange(100, dtype=np.uint64)[None, :]
    first, second = (uniform(0, stream, draws, positions) for stream in (0, 1))
    histogram = np.histogram(first, bins=20, range=(0, 1))[0]
    assert np.abs(histogram - 5000).max() < 5 * np.sqrt(5000)
    assert first.min() >= 0
    assert first.max() < 1
    for other in (second, np.roll(first, 1, axis=0), np.roll(first, 1, axis=1)):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.015


@pytest.mark.parametrize("wrong", [(0.0,), (1.0,), (0.15, -0.1), (0.15, 0.8, 0.3)])
def test_impossible_shares_are_refused(wrong):
    with pytest.raises(InputError, match="prob"):
        Masking(*wrong)
