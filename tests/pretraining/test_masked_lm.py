import pytest
import torch
import torch.nn.functional as F

from convbert.model.heads.masked_lm import ConvBertForMaskedLM
from convbert.pretraining.masking import IGNORED, Masking, MaskingCollator
from convbert.pretraining.objectives import MaskedLanguageModel
from convbert.pretraining.recipes import smoke


@pytest.fixture
def objective(tokenizer):
    config = smoke(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).model_config(len(tokenizer))
    return MaskedLanguageModel(ConvBertForMaskedLM(config))


@pytest.fixture
def batch(sequences, tokenizer):
    return MaskingCollator(tokenizer, Masking(), seed=0)(sequences.__getitems__(list(range(6))))


@pytest.mark.parametrize("training", [True, False])
def test_loss_and_figures_are_those_of_the_full_logits(objective, batch, training):
    objective.train(training)
    outputs = objective(**batch)
    logits = objective.model.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"]
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    count = int((labels != IGNORED).sum())
    torch.testing.assert_close(outputs["loss"], expected)
    assert outputs["masked_loss"].tolist() == pytest.approx([expected.item() * count, count], rel=1e-5)
    correct = int((logits.argmax(-1) == labels).sum())
    assert outputs["masked_accuracy"].tolist() == [correct, count]


def test_every_parameter_learns(objective, batch):
    objective(**batch)["loss"].backward()
    without = [name for name, parameter in objective.named_parameters() if parameter.grad is None]
    assert without == []


def test_a_batch_without_labels_costs_nothing(objective, batch):
    nothing = {
        "labels": torch.full_like(batch["labels"], IGNORED),
        "masked_positions": torch.tensor([]).long(),
    }
    outputs = objective(**batch | nothing)
    assert outputs["loss"].item() == 0
    assert outputs["masked_accuracy"].tolist() == [0, 0]


def test_parts_of_a_step_add_up_to_the_loss_of_one_batch(objective, batch):
    whole = objective.eval()(**batch)["loss"]
    # Without what the collator has counted in the whole batch.
    rows = [{name: x[row : row + 1] for name, x in batch.items() if x.dim() == 2} for row in range(6)]
    total = torch.stack([objective.loss_counts(**row) for row in rows]).sum(0).double()
    parts = [objective(**row, loss_counts=total)["loss"] for row in rows]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_second_segments_reach_the_model(objective, batch):
    objective.eval()
    segments = torch.zeros_like(batch["input_ids"])
    segments[:, 10:] = 1
    plain, in_two = objective(**batch), objective(**batch, token_type_ids=segments)
    assert torch.equal(plain["loss"], objective(**batch, token_type_ids=0 * segments)["loss"])
    assert not torch.equal(plain["loss"], in_two["loss"])


def test_the_model_is_left_behind(objective):
    assert objective.models() == {"model": objective.model}
