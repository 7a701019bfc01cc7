import pytest
import torch
from torch import nn

from convbert.configuration import ConvBertConfig
from convbert.model.heads.masked_lm import ConvBertForMaskedLM
from convbert.model.heads.sequence_classification import ConvBertForSequenceClassification
from convbert.training.optimizer import build_optimizer, depth_of, parameter_groups, warmup_then_decay


@pytest.fixture
def model():
    config = ConvBertConfig(
        vocab_size=50,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    return ConvBertForMaskedLM(config)


def test_norms_and_biases_are_not_decayed_and_everything_is_there_once(model):
    decayed, spared = parameter_groups(model, 0.1, 1e-3)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[p] for p in decayed["params"]} | {names[p] for p in spared["params"]} == set(names.values())
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    assert all(names[p].endswith("bias") or "LayerNorm" in names[p] for p in spared["params"])
    assert not any("bias" in names[p] or "LayerNorm" in names[p] for p in decayed["params"])


def test_frozen_parameters_are_left_out(model):
    model.convbert.embeddings.requires_grad_(False)
    groups = parameter_groups(model, 0.1, 1e-3)
    assert all(parameter.requires_grad for group in groups for parameter in group["params"])


def test_first_step_is_adamw_by_hand():
    linear = nn.Linear(3, 2)
    optimizer = build_optimizer(linear, learning_rate=0.1, weight_decay=0.5, betas=(0.9, 0.99), epsilon=1e-2)
    before = {name: parameter.detach().clone() for name, parameter in linear.named_parameters()}
    linear(torch.ones(4, 3)).pow(2).sum().backward()
    optimizer.step()
    for name, parameter in linear.named_parameters():
        # With bias correction, the first step's moments are the gradient and its square.
        step = parameter.grad / (parameter.grad.abs() + 1e-2)
        decay = 0.5 if name == "weight" else 0.0
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * decay) - 0.1 * step)


def uncorrected(weight, steps, *, rate, decay, betas, epsilon):
    """`AdamWeightDecayOptimizer` of the original's optimization.py, line by line, for the loss sum(weight³)."""
    m = v = torch.zeros_like(weight)
    for step in range(steps):
        grad = 3 * weight**2
        m = betas[0] * m + (1 - betas[0]) * grad
        v = betas[1] * v + (1 - betas[1]) * grad**2
        update = m / (v.sqrt() + epsilon) + decay * weight
        weight = weight - rate / (step + 1) * update
    return weight


@pytest.mark.parametrize("resume", [False, True])
def test_without_bias_correction_as_the_original(resume):
    """In double precision, over steps whose rate changes; also from the state that a checkpoint holds."""
    options = {"weight_decay": 0.1, "betas": (0.8, 0.95), "epsilon": 1e-3}
    start = torch.randn(5, 3, dtype=torch.float64)

    def build(weight):
        module = nn.Module()
        module.weight = nn.Parameter(weight.clone())
        return module, build_optimizer(module, learning_rate=0.02, bias_correction=False, **options)

    module, optimizer = build(start)
    for step in range(20):
        if resume and step == 7:
            state = optimizer.state_dict()
            module, optimizer = build(module.weight.detach())
            optimizer.load_state_dict(state)
        optimizer.param_groups[0]["lr"] = 0.02 / (step + 1)
        if step == 4:
            optimizer.zero_grad()
            optimizer.step()  # left out, as a step whose loss is not a number
        module.weight.grad = 3 * module.weight.detach() ** 2
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == 0.02 / (step + 1)
    expected = uncorrected(start, 20, rate=0.02, decay=0.1, betas=(0.8, 0.95), epsilon=1e-3)
    torch.testing.assert_close(module.weight.detach(), expected, rtol=1e-10, atol=1e-12)
    assert {"steps": 20, "eps": 1e-3, "weight_decay": 0.1}.items() <= optimizer.param_groups[0].items()


def rates(warmup_steps: int, total: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_then_decay(optimizer, warmup_steps, lambda step: min(1.0, step / total))
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_warmup_and_decay_multiply():
    assert rates(4, 8) == pytest.approx([2 * min(1, (step + 1) / 4) * (1 - step / 8) for step in range(9)])
    assert rates(4, 8)[-1] == 0
    assert rates(0, 8)[0] == 2.0


def test_schedule_state_holds_no_code():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    assert warmup_then_decay(optimizer, 4, lambda step: 0.0).state_dict()["lr_lambdas"] == [None]


def test_layers_learn_at_the_rates_of_the_original():
    """The original's own lines (`_get_layer_lrs` in its optimization.py), on the same model of three layers."""
    config = ConvBertConfig(
        vocab_size=50,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = ConvBertForSequenceClassification(config)
    n_layers, layer_decay = 3, 0.8
    key_to_depths = {"embeddings.": 0, "embeddings_project.": 0, "classifier.": n_layers + 2}
    for layer in range(n_layers):
        key_to_depths[f"encoder.layer.{layer}."] = layer + 1
    expected = {key: 3e-4 * layer_decay ** (n_layers + 2 - depth) for key, depth in key_to_depths.items()}
    optimizer = build_optimizer(model, learning_rate=3e-4, layer_decay=0.8, num_layers=3)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        (rate,) = (rate for key, rate in expected.items() if f".{key}" in f".{name}")
        assert rates[id(parameter)] == pytest.approx(rate), name
        assert decays[id(parameter)] == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.01), name
    assert rates[id(model.classifier.out_proj.weight)] == 3e-4


def test_layer_eleven_is_not_layer_one():
    assert depth_of("objective.convbert.encoder.layer.11.output.dense.weight", 12) == 12
    assert (
        depth_of("base_model.model.convbert.encoder.layer.1.attention.self.query.lora_A.default.weight", 12)
        == 2
    )
    assert depth_of("convbert.embeddings.LayerNorm.weight", 12) == 0
    assert depth_of("qa_outputs.weight", 12) == 14
