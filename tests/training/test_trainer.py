"""The trainer with a linear regression as its objective: it must know nothing of language."""

import pytest
import torch
from torch import nn

from convbert.training.arguments import training_arguments
from convbert.training.callbacks import TrainingBudget
from convbert.training.metrics import MetricMeter, area_under_curve
from convbert.training.optimizer import build_optimizer, warmup_then_decay
from convbert.training.trainer import ObjectiveTrainer


class Regression(nn.Module):
    """Two names for one weight, as in tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, inputs, attention_mask, targets):
        error = (self.second(self.first(inputs)).mean(-1) - targets).pow(2)
        count = torch.tensor(float(len(targets)))
        return {"loss": error.mean(), "error": torch.stack((error.detach().sum(), count))}


class Points(torch.utils.data.Dataset):
    def __init__(self, count: int) -> None:
        source = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(count, 4, generator=source)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        inputs = self.inputs[index % len(self)]
        return {"inputs": inputs, "attention_mask": torch.ones(3, dtype=torch.int64), "targets": inputs.sum()}


class Forwards(torch.utils.data.Sampler):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self):
        return iter(range(self.count))

    def __len__(self):
        return self.count

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def build(folder, steps: int = 6, **arguments) -> ObjectiveTrainer:
    torch.manual_seed(0)
    budget, objective = TrainingBudget(max_steps=steps), Regression()
    optimizer = build_optimizer(objective, learning_rate=0.01)
    options = {
        "batch_size": 4,
        "log_every": 1,
        "save_every": 2,
        "evaluate_every": 3,
        "device": "cpu",
    } | arguments
    return ObjectiveTrainer(
        objective,
        training_arguments(folder, budget, **options),
        budget=budget,
        train_dataset=Points(20),
        eval_dataset=Points(11),
        sampler=Forwards(20),
        data_collator=torch.utils.data.default_collate,
        optimizer=optimizer,
        scheduler=warmup_then_decay(optimizer, 0, budget.fraction_done),
    )


def test_steps_are_those_of_a_plain_loop(tmp_path):
    trainer = build(tmp_path)
    trainer.train()

    torch.manual_seed(0)
    expected, points = Regression(), Points(20)
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.01, eps=1e-6, weight_decay=0.01)
    for step in range(6):
        batch = torch.utils.data.default_collate([points[i % 20] for i in range(4 * step, 4 * step + 4)])
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 6)
        optimizer.zero_grad()
        expected(**batch)["loss"].backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(trainer.model.first.weight, expected.first.weight)


def test_accumulation_equals_the_larger_batch(tmp_path):
    whole, parts = build(tmp_path / "a"), build(tmp_path / "b", batch_size=2, gradient_accumulation_steps=2)
    whole.train()
    parts.train()
    torch.testing.assert_close(whole.model.first.weight, parts.model.first.weight)


def test_evaluation_counts_every_held_out_point_once(tmp_path):
    trainer = build(tmp_path)
    batch = torch.utils.data.default_collate([Points(11)[index] for index in range(11)])
    expected = trainer.model(**batch)["loss"].item()
    assert trainer.evaluate() == pytest.approx({"heldout_error": expected})


def test_log_holds_figures_speed_and_time(tmp_path):
    trainer = build(tmp_path)
    trainer.train()
    training = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in training] == [1, 2, 3, 4, 5, 6]
    for entry in training:
        assert entry["error"] == pytest.approx(entry["loss"])
        # Three tokens in each of four rows.
        assert entry["tokens_per_second"] * entry["seconds_per_step"] == pytest.approx(12)
        assert entry["minutes_left"] * 60 == pytest.approx((6 - entry["step"]) * entry["seconds_per_step"])
    assert [entry["step"] for entry in trainer.state.log_history if "heldout_error" in entry] == [3, 6]


def test_a_resumed_run_is_the_unbroken_run(tmp_path):
    unbroken = build(tmp_path / "a")
    unbroken.train()
    build(tmp_path / "b").train()
    resumed = build(tmp_path / "b", keep_checkpoints=5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-4"))
    assert torch.equal(unbroken.model.first.weight, resumed.model.first.weight)
    assert resumed.model.second.weight is resumed.model.first.weight
    losses = [
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        for trainer in (unbroken, resumed)
    ]
    assert losses[0] == losses[1]


def test_checkpoints_are_kept_to_the_limit_and_hold_no_pickled_weights(tmp_path):
    build(tmp_path, keep_checkpoints=1).train()
    (folder,) = tmp_path.glob("checkpoint-*")
    assert folder.name == "checkpoint-6"
    assert {path.name for path in folder.iterdir()} == {
        *("model.safetensors", "optimizer.pt", "scheduler.pt", "progress.json", "trainer_state.json")
    }


def test_figures_are_means_over_things_and_not_over_batches():
    meter = MetricMeter()
    meter.add({"a": torch.tensor([1.0, 1.0])})
    meter.add({"a": torch.tensor([2.0, 9.0]), "b": torch.tensor([0.0, 0.0])})
    assert meter.means() == pytest.approx({"a": 0.3})  # of b, nothing was counted


def test_histograms_become_the_area_under_the_curve_of_all_batches():
    """By its definition: how often a positive scores above a negative; equal scores count half."""
    negatives = torch.randint(0, 8, (2, 30))
    positives = torch.randint(2, 10, (2, 20))
    meter = MetricMeter()
    for batch in zip(negatives, positives, strict=True):
        histograms = torch.stack([scores.bincount(minlength=10) for scores in batch])
        meter.add({"auc": histograms, "mean": torch.tensor([1.0, 4.0])})
    below = (negatives.flatten()[:, None] < positives.flatten()).double()
    ties = (negatives.flatten()[:, None] == positives.flatten()).double()
    assert meter.means() == pytest.approx({"auc": (below + ties / 2).mean().item(), "mean": 0.25})
    assert area_under_curve(torch.tensor([[3, 0], [0, 2]])) == 1.0
    assert area_under_curve(torch.tensor([[0, 3], [2, 0]])) == 0.0
    assert area_under_curve(torch.tensor([[1, 3], [0, 0]])) is None
