"""The configuration on disk is transformers'; contradictions are refused by name."""

import json

import pytest
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments
from transformers.models.convbert import ConvBertConfig as TheirConfig

from convbert import (
    ConvBertConfig,
    ConvBertForSequenceClassification,
    ConvBertModel,
    ConvBertTokenizerFast,
    InputError,
)


def test_defaults_are_transformers():
    ours, theirs = ConvBertConfig().to_dict(), TheirConfig().to_dict()
    assert ours == theirs


def test_own_keys_are_written_only_when_set(tmp_path):
    ConvBertConfig().save_pretrained(tmp_path / "plain")
    written = json.loads((tmp_path / "plain/config.json").read_text())
    assert not {"attention_head_size", "conv_reads_padding"} & set(written)
    ConvBertConfig(attention_head_size=7, conv_reads_padding=True).save_pretrained(tmp_path / "own")
    loaded = ConvBertConfig.from_pretrained(tmp_path / "own")
    assert loaded.attention_head_size == 7
    assert loaded.conv_reads_padding is True


@pytest.mark.parametrize(("writer", "reader"), [(ConvBertConfig, TheirConfig), (TheirConfig, ConvBertConfig)])
def test_either_library_reads_the_other(writer, reader, tmp_path):
    fields = {"hidden_size": 384, "num_groups": 2, "num_attention_heads": 8, "pad_token_id": 0}
    writer(**fields, id2label={0: "no", 1: "yes", 2: "maybe"}).save_pretrained(tmp_path)
    loaded = reader.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert loaded.num_labels == 3


@pytest.mark.parametrize(
    ("preset", "millions"), [("small", 14), ("medium_small", 17), ("base", 106)], ids=lambda x: str(x)
)
def test_published_sizes(preset, millions):
    """Parameter counts of the paper, table 2 (rounded down there)."""
    import torch

    config = getattr(ConvBertConfig, preset)()
    with torch.device("meta"):
        count = sum(p.numel() for p in ConvBertModel(config).parameters())
    assert config.pad_token_id == 0
    assert abs(count / 1e6 - millions) < 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conv_kernel_size": 8}, "conv_kernel_size must be odd.*got 8"),
        ({"head_ratio": 0}, "head_ratio.* got 0"),
        ({"head_ratio": 1.5}, "head_ratio.* got 1.5"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob.* got 1.0"),
        ({"attention_head_size": 0}, "attention_head_size.* got 0"),
        ({"is_decoder": True}, "is_decoder and add_cross_attention must be False"),
        ({"hidden_act": "nope"}, "hidden_act.*nope"),
        ({"vocab_size": 5, "pad_token_id": 9}, r"pad_token_id \(9\).*vocab_size \(5\)"),
    ],
)
def test_refused_when_made(fields, message):
    with pytest.raises(InputError, match=message):
        ConvBertConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100}, r"hidden_size \(100\) must be a multiple of 2 x 6 heads"),
        ({"num_groups": 5}, r"hidden_size \(768\) must be a multiple of num_groups \(5\)"),
        ({"num_groups": 3, "intermediate_size": 100}, r"intermediate_size \(100\).*num_groups \(3\)"),
    ],
)
def test_refused_when_built(fields, message):
    with pytest.raises(InputError, match=message):
        ConvBertModel(ConvBertConfig(**fields))


def test_explicit_head_size_frees_the_width():
    config = ConvBertConfig(hidden_size=100, num_hidden_layers=1, attention_head_size=10, intermediate_size=8)
    block = ConvBertModel(config).encoder.layer[0]
    assert block.attention.output.dense.weight.shape == (100, 2 * 6 * 10)


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def test_a_trainer_joins_logits_of_any_lengths(tmp_path):
    config = ConvBertConfig(
        vocab_size=40,
        embedding_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        output_hidden_states=True,
        output_attentions=True,
    )
    rows = [{"input_ids": [2, *range(5, 5 + length), 3], "labels": length % 2} for length in (3, 9, 4, 20)]
    settings = TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=2, use_cpu=True, report_to=[], disable_tqdm=True
    )
    collate = DataCollatorWithPadding(ConvBertTokenizerFast(vocab=dict(zip(SPECIAL, range(5), strict=True))))
    trainer = Trainer(ConvBertForSequenceClassification(config), settings, collate)
    found = trainer.predict(rows)
    assert found.predictions.shape == (4, 2)
    assert list(found.label_ids) == [1, 1, 0, 0]
