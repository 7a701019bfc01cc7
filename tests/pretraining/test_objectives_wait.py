"""Given what the collator sends, no objective waits for a GPU; what its models do is in `tests/model`."""

from types import SimpleNamespace

import pytest
import torch

from convbert.pretraining.masking import MaskingCollator
from convbert.pretraining.objectives import build_objective
from convbert.pretraining.recipes import smoke
from device_waits import DeviceWaits


@pytest.fixture
def batches(sequences, tokenizer):
    """One with padding, and one without."""
    collator = MaskingCollator(tokenizer, smoke().masking, seed=0, sampling=True)
    items = sequences.__getitems__(list(range(len(sequences))))
    full = [item for item in items if len(item["input_ids"]) == 32]
    return collator(items), collator(full)


def without_models(objective, vocab_size):
    """Models that answer at once, and note what they are given."""
    given = []

    def answer(*, input_ids, logits_to_keep=None, **others):
        given.append({"input_ids": input_ids, "logits_to_keep": logits_to_keep, **others})
        shape = input_ids.shape if logits_to_keep is None else (len(logits_to_keep), vocab_size)
        return SimpleNamespace(logits=torch.zeros(shape, requires_grad=True))

    for model in objective.models().values():
        model.forward = answer
    return given


@pytest.mark.parametrize("name", ["rtd", "mlm"])
def test_nothing_is_read(name, batches, tokenizer):
    plan = smoke(objective=name)
    for batch in batches:
        objective = build_objective(plan, plan.model_config(len(tokenizer)))
        given = without_models(objective, len(tokenizer))
        counts = objective.loss_counts(**batch)
        with DeviceWaits() as waits:
            objective(**batch, loss_counts=counts)["loss"].backward()
        assert waits.seen == []
        is_packed = "token_positions" in batch
        for inputs in given:
            assert (inputs.get("cu_seq_lens_q") is not None) == is_packed
            assert inputs.get("attention_mask") is None
            tokens = batch["attention_mask"].sum() if is_packed else batch["input_ids"].numel()
            assert inputs["input_ids"].numel() == tokens


@pytest.mark.parametrize("name", ["rtd", "mlm"])
def test_what_the_collator_counts_changes_no_loss(name, batches, tokenizer):
    plan = smoke(objective=name, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    objective = build_objective(plan, plan.model_config(len(tokenizer)))
    for batch in batches:
        plain = {key: value for key, value in batch.items() if value.dim() == 2}
        torch.testing.assert_close(objective(**batch), objective(**plain), rtol=1e-6, atol=1e-6)
