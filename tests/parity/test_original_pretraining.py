"""Our objective and our optimizer, given the original's weights, masks and samples, do what the original does."""

import re

import pytest
import torch
from torch import nn

from convbert.conversion.rename import from_tensorflow, rules
from convbert.pretraining.masking import IGNORED
from convbert.pretraining.objectives import ReplacedTokenDetection
from convbert.training.metrics import MetricMeter
from convbert.training.optimizer import build_optimizer, parameter_groups, warmup_then_decay
from golden import CLASSES, WIDE_TOLERANCE, assert_near, load, stored

each_set = pytest.mark.parametrize("folder", ["set_a", "set_b"])


def build(folder, **settings):
    """The objective in evaluation mode: the original's numbers are without dropout."""
    models = {part: load(folder, part, **settings) for part in CLASSES}
    # In the original, [PAD] is a token like any other, whose row learns.
    models["discriminator"].convbert.embeddings.word_embeddings.padding_idx = None
    return ReplacedTokenDetection(models["discriminator"], models["generator"]).eval()


def fixed_batch(golden):
    """Masks and samples as the original drew them: with replacement, so that a position may count twice."""
    labels = torch.full(golden["input_mask"].shape, IGNORED)
    counts = torch.zeros(labels.shape)
    rows, slots = golden["masked_lm_weights"].nonzero(as_tuple=True)
    places = (rows, golden["masked_lm_positions"].long()[rows, slots])
    labels[places] = golden["masked_lm_ids"].long()[rows, slots]
    counts.index_put_(places, torch.ones(len(rows)), accumulate=True)
    assert counts.max() > 1
    return {
        "input_ids": golden["masked_input_ids"].long(),
        "attention_mask": golden["input_mask"].long(),
        "token_type_ids": golden["segment_ids"].long(),
        "labels": labels,
        "sampled_ids": golden["fake_input_ids"].long(),
        "label_weights": counts,
    }


@pytest.mark.parametrize("conv_reads_padding", [True, False])
@each_set
def test_losses(folder, conv_reads_padding):
    golden = stored(folder, "pretraining.npz")
    prefix = "" if conv_reads_padding else "alone_"
    with torch.no_grad():
        outputs = build(folder, conv_reads_padding=conv_reads_padding)(**fixed_batch(golden))
    loss = outputs.pop("loss")
    meter = MetricMeter()
    meter.add(outputs)
    means = meter.means()
    assert means["masked_loss"] == pytest.approx(golden[f"{prefix}mlm_loss"].item(), abs=1e-5)
    assert means["replaced_loss"] == pytest.approx(golden[f"{prefix}disc_loss"].item(), abs=1e-5)
    assert loss.item() == pytest.approx(golden[f"{prefix}total_loss"].item(), abs=1e-4)


@each_set
def test_what_counts_as_replaced_and_what_is_found(folder):
    golden = stored(folder, "pretraining.npz")
    with torch.no_grad():
        outputs = build(folder, conv_reads_padding=True)(**fixed_batch(golden))
    real, replaced = golden["input_mask"].bool(), golden["is_fake"].bool()
    suspected = (golden["disc_logits"] > 0) & real
    found = int((suspected & replaced).sum())
    assert outputs["replaced_recall"].tolist() == [found, int(replaced.sum())]
    assert outputs["replaced_precision"].tolist() == [found, int(suspected.sum())]
    right = int(((suspected == replaced) & real).sum())
    assert outputs["replaced_accuracy"].tolist() == [right, int(real.sum())]


@each_set
def test_gradients(folder):
    objective = build(folder, conv_reads_padding=True)
    objective(**fixed_batch(stored(folder, "pretraining.npz")))["loss"].backward()
    gradients = {name: tensor.numpy() for name, tensor in stored(folder, "gradients.npz").items()}
    compared = set()
    for part in CLASSES:
        for name, expected in from_tensorflow(gradients, part).items():
            parameter = getattr(objective, part).get_parameter(name)
            assert_near(parameter.grad, expected, WIDE_TOLERANCE)
            compared.add(parameter)
    assert compared == set(objective.parameters())


@pytest.fixture
def named():
    """The objective of set_a, and for each of the original's variables our parameter and the change of layout."""
    objective = build("set_a")
    table = {}
    for part in CLASSES:
        for rule in rules(part, layers=2, grouped=False, projected=part == "discriminator"):
            table[rule.original] = (getattr(objective, part).get_parameter(rule.ours), rule.change.there)
    return objective, table


def test_weight_decay_spares_what_the_original_spares(named):
    """By its own patterns, `exclude_from_weight_decay` in its optimization.py, on its own names."""
    objective, table = named
    _, spared = parameter_groups(objective, 0.01, 1e-3)
    ours = set(spared["params"])
    theirs = {
        parameter
        for name, (parameter, _) in table.items()
        if any(re.search(pattern, name) for pattern in ("LayerNorm", "layer_norm", "bias"))
    }
    assert ours == theirs


def test_one_step_of_the_optimizer(named):
    """From its weights, moments and gradients to its weights and moments; the schedule stands at the step after."""
    objective, table = named
    step, gradients = stored("set_a", "optimizer_step.npz"), stored("set_a", "gradients.npz")
    peak, warmup, steps = 1e-3, 10, 1000

    def ours(name, values):
        return torch.from_numpy(table[name][1](values.numpy()).copy())

    optimizer = build_optimizer(objective, learning_rate=peak, bias_correction=False)
    for group in optimizer.param_groups:
        group["steps"] = 6
    for name, (parameter, _) in table.items():
        parameter.grad = ours(name, gradients[name])
        before = [step.get(f"before/{name}/{slot}", torch.zeros_like(gradients[name])) for slot in SLOTS]
        mean, square = (ours(name, values) for values in before)
        optimizer.state[parameter] = {"step": torch.tensor(6.0), "exp_avg": mean, "exp_avg_sq": square}
    scheduler = warmup_then_decay(optimizer, warmup, lambda taken: (taken + 1) / steps)
    rate = scheduler.base_lrs[0] * scheduler.lr_lambdas[0](6)
    assert rate == pytest.approx(step["learning_rate"].item(), rel=1e-6)
    for group in optimizer.param_groups:
        group["lr"] = rate
    norm = nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
    assert norm.item() == pytest.approx(step["global_norm"].item(), rel=1e-6)
    optimizer.step()

    compared = 0
    for name, (parameter, _) in table.items():
        if f"after/{name}" in step:
            assert_near(parameter.detach(), ours(name, step[f"after/{name}"]), 2e-7)
            compared += 1
        for slot, key in zip(SLOTS, ("exp_avg", "exp_avg_sq"), strict=True):
            if f"after/{name}/{slot}" in step:
                expected = ours(name, step[f"after/{name}/{slot}"])
                torch.testing.assert_close(optimizer.state[parameter][key], expected, rtol=1e-5, atol=1e-9)
    assert compared > 60


SLOTS = ("adam_m", "adam_v")
