"""What a student is trained on: `ObjectiveTrainer` calls these with batches, and gets losses and metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, mse_loss, normalize, softmax

from convbert.model.convbert import ConvBertModel


class SentenceObjective(nn.Module):
    """Mean of 1 - cosine(student, teacher) over a batch, plus `similarity_weight` times the mean squared difference of
    the batch's similarity matrices (Tung and Mori 2019, on cosines).

    A student's vector is the mean of its tokens' states.
    """

    def __init__(self, model: ConvBertModel, similarity_weight: float) -> None:
        super().__init__()
        self.model = model
        self.similarity_weight = similarity_weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Loss, and the metrics `cosine` and `similarity_error`, each a sum and a count.

        Args:
            input_ids, attention_mask: (B, T).
            targets: (B, C) the teacher's vectors on the student's axes, of length 1.
        """
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        vectors = mean_vectors(states, attention_mask)
        targets = targets.float()
        cosines = (vectors * targets).sum(1)
        with torch.autocast(vectors.device.type, enabled=False):
            errors = (vectors @ vectors.T - targets @ targets.T).square()
        loss = (1 - cosines).mean() + self.similarity_weight * errors.mean()
        return {
            "loss": loss,
            "cosine": _sum_and_count(cosines),
            "similarity_error": _sum_and_count(errors),
        }


def mean_vectors(states: Tensor, mask: Tensor) -> Tensor:
    """(B, T, C) states to (B, C) means over each text's own tokens, in fp32, of length 1."""
    weights = mask[..., None].float()
    return normalize((states.float() * weights).sum(1) / weights.sum(1), dim=1)


class TaskObjective(nn.Module):
    """Temperature² × KL(teacher ‖ student) of softened probabilities (Hinton et al. 2015); of several labels, that of
    each label's own probability; of a regression, the squared error over the variance of the teacher's answers in the
    batch. Plus `hidden_weight` times the squared error of the states after each layer that was taken over.

    The teacher is asked for every batch. It is no part of the module: neither trained nor saved.

    Args:
        layers: the teacher's layers whose states the student's layers are to have, in their order; empty for none.
    """

    def __init__(
        self, model: Any, teacher: Any, temperature: float, hidden_weight: float, layers: list[int]
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature, self.hidden_weight, self.layers = temperature, hidden_weight, layers
        self._teacher = (teacher.eval(),)  # hidden from nn.Module

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Loss, and the metrics `soft_loss` and, but for a regression, `agreement`, how often both answer the same.

        Args:
            batch: `input_ids`, `attention_mask`, `token_type_ids`, (B, T), or (B, choices, T).
        """
        needs_states = bool(self.layers) and self.hidden_weight > 0
        with torch.no_grad(), torch.autocast(batch["input_ids"].device.type, enabled=False):
            theirs = self._teacher[0](**batch, output_hidden_states=needs_states)
        ours = self.model(**batch, output_hidden_states=needs_states)
        mask = batch["attention_mask"].bool()
        pairs = list(zip(_logits(ours, mask), _logits(theirs, mask), strict=True))
        losses = torch.stack([self._soft_loss(own, theirs) for own, theirs in pairs]).mean(0)
        loss = losses.mean()
        if needs_states:
            wanted = [theirs.hidden_states[1 + layer] for layer in self.layers]
            tokens = mask.flatten(0, -2)  # every choice is a text
            states = zip(ours.hidden_states[1:], wanted, strict=True)
            errors = [mse_loss(own[tokens], other[tokens]) for own, other in states]
            loss = loss + self.hidden_weight * torch.stack(errors).mean()
        metrics = {"loss": loss, "soft_loss": _sum_and_count(losses)}
        if pairs[0][0].shape[-1] > 1:
            same = torch.stack([self._same(own, other) for own, other in pairs])
            metrics["agreement"] = _sum_and_count(same)
        return metrics

    @property
    def _has_several_labels(self) -> bool:
        return self.model.config.problem_type == "multi_label_classification"

    def _same(self, own: Tensor, theirs: Tensor) -> Tensor:
        """(N,) whether both give the same answer."""
        if self._has_several_labels:
            return ((own > 0) == (theirs > 0)).all(-1)
        return own.argmax(-1) == theirs.argmax(-1)

    def _soft_loss(self, own: Tensor, theirs: Tensor) -> Tensor:
        """(N, labels) logits to (N,) losses."""
        own, theirs, temperature = own.float(), theirs.float(), self.temperature
        if own.shape[-1] == 1:
            scale = theirs.var(unbiased=False).clamp_min(torch.finfo(torch.float32).tiny)
            return ((own - theirs).square() / scale)[:, 0]
        if self._has_several_labels:
            # As a choice between the label and its absence, whose logit is 0.
            own, theirs = (torch.stack((logits, torch.zeros_like(logits)), -1) for logits in (own, theirs))
        divergence = kl_div(
            log_softmax(own / temperature, -1), softmax(theirs / temperature, -1), reduction="none"
        )
        return temperature**2 * divergence.flatten(1).sum(-1)


def _logits(outputs: Any, mask: Tensor) -> list[Tensor]:
    """(N, labels) of each of a head's outputs: a row for a text, or for a token that is no padding; of a span's start
    and end, a row for a text, over its tokens."""
    if "start_logits" in outputs:
        low = torch.finfo(torch.float32).min
        return [outputs[name].float().masked_fill(~mask, low) for name in ("start_logits", "end_logits")]
    logits = outputs.logits
    return [logits[mask] if logits.ndim == 3 else logits]


def _sum_and_count(values: Tensor) -> Tensor:
    values = values.detach().float()
    return torch.stack((values.sum(), values.new_tensor(values.numel())))
