"""One training step in training mode: forward with the config's dropout, backward, and a fused AdamW step, all of it
in the time of everybody, the floor included. The gradient that arrives at the last states is a fixed random tensor,
the same work for everybody as a loss is (the mean of squares of normalised states would have no gradient). The
learning rate is 0: the same work, and the weights stay. The floor: the matrix products of forward and backward, and
AdamW on parameters of the same shapes. In bfloat16 the weights are float32 under autocast, as transformers' Trainer
has it. Before the timing, each parameter's gradient is compared with that of transformers' ConvBERT in float32,
without dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn

from benchmarks.cases import COMPILED, FLOOR, OURS, RIVAL, THEIRS, Case, row_lengths, training_cases
from benchmarks.floor import Floor
from benchmarks.oracle import GRADIENTS, Inputs, refuse, rows_by_length, worst_gradient
from benchmarks.report import Row
from benchmarks.run import Maker, Run, time_subjects
from benchmarks.subjects import compiled, config_of, rival, twins
from benchmarks.timing import Call

ROUNDS = 10
RATIOS = (("time / floor", FLOOR), ("time / ours", OURS))
ADAMW = "AdamW alone"
cases = training_cases


def measure(case: Case, run: Run) -> list[Row]:
    """One row."""
    config, device = config_of(case), run.device
    inputs = case.inputs(device)
    ours, theirs = twins(config, torch.float32, device)
    floor = Floor(config, row_lengths(inputs), case.torch_dtype, device, training=True)
    adamw = optimizer_step(nn.Parameter(torch.zeros_like(p)) for p in ours.parameters())

    def make_ours() -> Call:
        refuse(gradient_error(case, inputs, device), GRADIENTS[case.dtype])
        return training_step(ours, case, inputs)

    def make_compiled() -> Call:
        refuse(compiled_error(case, inputs, device), GRADIENTS[case.dtype])
        step = training_step(compiled(theirs, device), case, inputs)
        step()
        return step

    def make_floor() -> Call:
        return lambda: (floor(), adamw())

    makers: dict[str, Maker] = {OURS: make_ours, THEIRS: lambda: training_step(theirs, case, inputs)}
    if run.compile:
        makers[COMPILED] = make_compiled
    makers[RIVAL[case.size]] = lambda: training_step(rival(config, case.size).to(device), case, inputs)
    makers |= {FLOOR: make_floor, ADAMW: lambda: adamw}
    row = Row(case.name, case.dtype, details={"floor": floor.chosen, "floor GFLOP": floor.flops / 1e9})
    time_subjects(row, makers, run.effort(ROUNDS), device)
    return [row]


def training_step(
    model: nn.Module, case: Case, inputs: Inputs, optimizer: torch.optim.Optimizer | None = None
) -> Call:
    """Forward, backward and AdamW in training mode; an optimizer that several steps share is given."""
    model.train()
    optimizer = optimizer or adamw_of(model.parameters())
    states_backward = backward_pass(model, case, inputs)

    def step() -> None:
        optimizer.zero_grad()
        states_backward()
        optimizer.step()

    return step


def backward_pass(model: nn.Module, case: Case, inputs: Inputs) -> Call:
    """Forward, and backward from a gradient that is the same at every call."""
    device = inputs["input_ids"].device
    gradient = arriving_gradient(model, inputs)

    def run() -> None:
        with torch.autocast(device.type, case.torch_dtype, enabled=case.dtype != "float32"):
            states: Tensor = model(**inputs).last_hidden_state
        states.backward(gradient.to(states.dtype))

    return run


def arriving_gradient(model: nn.Module, inputs: Inputs) -> Tensor:
    """(B, T, C) random numbers, zero at padding."""
    shape = (*inputs["input_ids"].shape, model.config.hidden_size)
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(inputs["input_ids"].device)
    return gradient * inputs["attention_mask"][..., None] if "attention_mask" in inputs else gradient


def adamw_of(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.0, fused=True)


def optimizer_step(parameters: Iterable[nn.Parameter]) -> Callable[[], None]:
    """AdamW's step on parameters whose gradients are there."""
    chosen = list(parameters)
    for parameter in chosen:
        parameter.grad = torch.ones_like(parameter)
    return adamw_of(chosen).step


def without_dropout(case: Case, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Our model and transformers', in training mode, with gradients that can be compared."""
    config = config_of(case, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ours, theirs = twins(config, torch.float32, device)
    return ours.train(), theirs.train()


def compiled_error(case: Case, inputs: Inputs, device: torch.device) -> float:
    """How far the gradients of transformers' ConvBERT are from its own when it is compiled, on the same batch."""
    _, plain = without_dropout(case, device)
    other = deepcopy(plain)
    backward_pass(plain, case, inputs)()
    backward_pass(compiled(other, device), case, inputs)()
    return worst_gradient(other, plain)


def gradient_error(case: Case, inputs: Inputs, device: torch.device) -> float:
    """How far our gradients are from the oracle's, which reads each text alone, without dropout."""
    ours, oracle = without_dropout(case, device)
    backward_pass(ours, case, inputs)()
    gradient = arriving_gradient(oracle, inputs)
    for rows, length in rows_by_length(inputs):
        states = oracle(input_ids=inputs["input_ids"][rows, :length]).last_hidden_state
        states.backward(gradient[rows, :length])
    return worst_gradient(ours, oracle)
