"""AdamW without bias correction, as BERT, ELECTRA and ConvBERT were trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import AdamW


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
