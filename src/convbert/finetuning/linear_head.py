"""The original's classification head, dropout and one linear layer, and how it fits into the head that is on disk.

transformers' ConvBERT has two layers with an activation f between them. Where f is GELU, ReLU or SiLU,
f(x) - f(-x) = x: the linear layer (W, b) is, exactly, [W; -W] and [b; -b], then f, then [I, -I].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convbert.model.convbert import head_dropout
from convbert.model.heads.sequence_classification import ClassificationHead, ConvBertForSequenceClassification
from convbert.util.errors import InputError


class LinearHead(nn.Module):
    """Dropout and one layer on the first token."""

    def __init__(self, hidden_size: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden_size, num_labels)

    def forward(self, first: Tensor) -> Tensor:
        """(B, C), the states of the first tokens, to (B, num_labels)."""
        return self.out_proj(self.dropout(first))


def use_linear_head(model: ConvBertForSequenceClassification) -> None:
    """Give `model` a fresh linear head, to be trained, and then put into the usual one by `fold_linear_head`; an
    `InputError` where
    the usual head of this model could not hold it.
    """
    config = model.config
    probe = torch.linspace(-4, 4, 81, dtype=torch.float64)
    activation = model.classifier.activation
    if not torch.allclose(activation(probe) - activation(-probe), probe):
        raise InputError(
            f"head 'linear' cannot be stored with hidden_act {config.hidden_act!r}: GELU is needed"
        )
    if (needed := 2 * config.num_labels) > config.hidden_size:
        why = f"{config.num_labels} labels need a hidden_size of {needed}, and it is {config.hidden_size}"
        raise InputError(f"head 'linear' cannot be stored: {why}")
    head = LinearHead(config.hidden_size, config.num_labels, head_dropout(config))
    head.apply(model._init_weights)
    model.classifier = head  # type: ignore[assignment]  # until it is folded


@torch.no_grad()
def fold_linear_head(model: ConvBertForSequenceClassification) -> None:
    """Put a linear head into the usual head, in place; the model says the same as before, but for rounding."""
    linear, labels = model.classifier.out_proj, model.config.num_labels
    head = ClassificationHead(model.config).to(linear.weight)
    for parameter in head.parameters():
        parameter.zero_()
    for first, sign in ((0, 1.0), (labels, -1.0)):
        rows = slice(first, first + labels)
        head.dense.weight[rows] = sign * linear.weight
        head.dense.bias[rows] = sign * linear.bias
        head.out_proj.weight[:, rows] = sign * torch.eye(labels).to(linear.weight)
    model.classifier = head.train(model.training)
