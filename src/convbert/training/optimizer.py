"""AdamW as BERT-like encoders use it: with or without bias correction, in groups, and its learning rate schedule."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

_IN_EMBEDDINGS = re.compile(r"(^|\.)embeddings(_project)?\.")
_IN_LAYER = re.compile(r"(?:^|\.)encoder\.layer\.(\d+)\.")


class UncorrectedAdamW(AdamW):
    """AdamW whose moments start at zero and are used as they are.

    For gradient g at step t, with moments m = b1 m + (1 - b1) g and v = b2 v + (1 - b2) g²,

        p = p - lr × (m / (sqrt(v) + eps) + weight_decay × p).

    PyTorch divides m by c1 = 1 - b1^t and v by c2 = 1 - b2^t. Given lr × c1 / sqrt(c2) for its rate, eps / sqrt(c2) for
    its epsilon, and a weight decay scaled back, it computes the above, in its fused kernels where those run.

    t is counted once for a whole group, in the group itself, so that it is part of the optimizer's state: in a step,
    all parameters of a group must have a gradient, or none of them.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        given = [(group["lr"], group["eps"], group["weight_decay"]) for group in self.param_groups]
        for group in self.param_groups:
            if all(parameter.grad is None for parameter in group["params"]):
                continue  # PyTorch does not count this step either
            group["steps"] = steps = group.get("steps", 0) + 1
            beta1, beta2 = group["betas"]
            undo = (1 - beta2**steps) ** 0.5
            scale = (1 - beta1**steps) / undo
            group["lr"] *= scale
            group["eps"] /= undo
            group["weight_decay"] /= scale
        try:
            return super().step(closure)
        finally:
            for group, (rate, epsilon, decay) in zip(self.param_groups, given, strict=True):
                group["lr"], group["eps"], group["weight_decay"] = rate, epsilon, decay

    def forget_step(self) -> None:
        """Take back the count of a step that `found_inf` left out: see `ObjectiveTrainer`."""
        for group in self.param_groups:
            if "steps" in group:
                group["steps"] -= 1


def parameter_groups(
    module: nn.Module,
    weight_decay: float,
    learning_rate: float,
    layer_decay: float = 1.0,
    num_layers: int = 0,
) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate, with weight decay, and without (norms and biases).

    The exponents are the original's (`_get_layer_lrs` in its `optimization.py`, as in ELECTRA): with n layers, the
    head learns at the full rate, layer i (from 0) at `layer_decay ** (n + 1 - i)` of it, and the embeddings at
    `layer_decay ** (n + 2)`: the last layer stands two steps below the head.

    A parameter that several modules share, such as a tied embedding, appears once.

    Args:
        layer_decay: 1 gives every depth the same rate.
        num_layers: n, of the encoder.
    """
    spared = _names_without_decay(module)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = learning_rate * layer_decay ** (num_layers + 2 - depth_of(name, num_layers))
        new = {"params": [], "weight_decay": 0.0 if name in spared else weight_decay, "lr": rate}
        groups.setdefault((rate, name in spared), new)["params"].append(parameter)
    return list(groups.values())


def depth_of(name: str, num_layers: int) -> int:
    """0 for parameters of the embeddings, i + 1 for those of layer i, `num_layers` + 2 for all others: the head."""
    if _IN_EMBEDDINGS.search(name):
        return 0
    layer = _IN_LAYER.search(name)
    return num_layers + 2 if layer is None else int(layer[1]) + 1


def build_optimizer(
    module: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-6,
    bias_correction: bool = True,
    layer_decay: float = 1.0,
    num_layers: int = 0,
) -> Optimizer:
    """AdamW over the trainable parameters of `module`, in PyTorch's fused form where all of them allow it.

    Args:
        bias_correction: False uses the moments as they are, see `UncorrectedAdamW`.
        layer_decay, num_layers: see `parameter_groups`; 1 means one learning rate for all.
    """
    groups = parameter_groups(module, weight_decay, learning_rate, layer_decay, num_layers)
    parameters = [parameter for group in groups for parameter in group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    kind = AdamW if bias_correction else UncorrectedAdamW
    return kind(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=fused)


def warmup_then_decay(
    optimizer: Optimizer, warmup_steps: int, fraction_done: Callable[[int], float]
) -> LambdaLR:
    """Learning rate = peak × min(1, step / warmup_steps) × (1 - fraction_done(step)).

    The two factors start together, as in the original ConvBERT and ELECTRA, so the peak itself is just
    missed.

    Args:
        fraction_done: share of the training that lies behind, in [0, 1], for a number of optimizer steps
            taken. It may count steps or read a clock.
    """

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0
        return warmup * max(0.0, 1.0 - fraction_done(step))

    # A plain function: LambdaLR would store the attributes of a callable object in checkpoints.
    return LambdaLR(optimizer, factor)


def _names_without_decay(module: nn.Module) -> set[str]:
    norms = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
    names = {name for name, _ in module.named_parameters() if name.rpartition(".")[2] == "bias"}
    for prefix, child in module.named_modules():
        if isinstance(child, norms):
            names |= {f"{prefix}.{name}" if prefix else name for name, _ in child.named_parameters()}
    return names
