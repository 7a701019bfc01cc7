"""What a plan takes, against models that were built; and plans that no machine can hold."""

from __future__ import annotations

import pytest

from convbert.cli import main
from convbert.pretraining import cost
from convbert.pretraining.cost import check_memory, parameter_counts, plan_parameters
from convbert.pretraining.objectives import build_objective
from convbert.pretraining.recipes import base, smoke, tiny
from convbert.util.errors import InputError

PLANS = {
    "shared embeddings": smoke(),
    "masked language model": smoke(objective="mlm"),
    "projected": smoke(objective="mlm", embedding_size=24),
    "grouped": smoke(num_groups=2, generator_hidden_size=0.5),
    "head size": smoke(objective="mlm", attention_head_size=8, conv_kernel_size=5),
    "tiny": tiny(),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_parameters_are_those_of_the_models(plan):
    config = plan.model_config(777)
    built = build_objective(plan, config)
    assert plan_parameters(plan, config) == parameter_counts(built)["together"]


def test_a_plan_that_fits_is_taken_and_one_that_does_not_is_refused_with_both_numbers(monkeypatch):
    plan = base()
    needed = 16 * plan_parameters(plan, plan.model_config(30522))
    monkeypatch.setattr(cost, "machine_memory", lambda: 2 * needed)
    check_memory(plan, 30522)
    monkeypatch.setattr(cost, "machine_memory", lambda: needed // 2)
    with pytest.raises(InputError, match=r"hidden_size=768.* 2 GiB .* 1 GiB"):
        check_memory(plan, 30522)


def test_the_container_s_limit_counts(tmp_path, monkeypatch):
    (tmp_path / "limit").write_text("123456\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(cost.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(cost, "CGROUPS", (tmp_path / "none", tmp_path / "missing"))
    assert cost.machine_memory() > 1e8
    monkeypatch.setattr(cost, "CGROUPS", (tmp_path / "none", tmp_path / "limit"))
    assert cost.machine_memory() == 123456


ABSURD = [
    "vocab_size=1000000000",
    "num_hidden_layers=100000",
    "hidden_size=100000000",
    "hidden_size=4194304",
    "intermediate_size=10000000000",
    "embedding_size=1000000000",
    "max_position_embeddings=10000000000",
    "batch_size=10000000000",
    "num_hidden_layers=9223372036854775808",
    "vocab_size=9223372036854775808",
]


@pytest.mark.parametrize("dry", [True, False], ids=["dry run", "run"])
@pytest.mark.parametrize("setting", ABSURD)
def test_absurd_sizes_are_refused_before_memory_is_taken(setting, dry, corpus, tmp_path, capsys):
    words = ["pretrain", "--recipe", "smoke", "--corpus", str(corpus), "--device", "cpu", "--set", setting]
    folder = tmp_path / "run"
    assert main([*words, *(["--dry-run"] if dry else ["--output", str(folder)])]) == 2
    said = capsys.readouterr().err
    told = said.splitlines()[-1]
    assert setting.partition("=")[0].partition("_size")[0] in told
    assert "internal" not in told
    assert not folder.exists() or not list(folder.iterdir())
