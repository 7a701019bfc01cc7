"""Which tokens made a model answer as it did: gradient times input."""

from __future__ import annotations

import torch

from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.data import Feature
from convbert.model.convbert import ConvBertPreTrainedModel


def token_influence(
    model: ConvBertPreTrainedModel, adapter: TaskAdapter, feature: Feature, output: int
) -> list[float]:
    """How much each token speaks for one of the model's outputs, between -1 and 1.

    The sum over a token's word embedding of value times gradient of the output's logit, over the largest such sum
    (Denil et al., 2014, arXiv 1412.6815; Shrikumar et al., 2016, arXiv 1605.01713).

    Args:
        feature: one text or pair; of choices, the chosen one is read.
        output: number of the label, or of the choice.
    """
    was_training = model.training
    model.eval()
    batch = adapter.collate([Feature(0, feature.input_ids, feature.token_type_ids)], 0)
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    words = model.get_input_embeddings()(batch.pop("input_ids")).detach().requires_grad_()
    with torch.enable_grad():
        logit = model(inputs_embeds=words, **batch).logits[0, output]
        (gradient,) = torch.autograd.grad(logit, words)
    model.train(was_training)
    speaks = (words * gradient).sum(-1)[0].detach()
    if speaks.dim() == 2:
        speaks = speaks[output][: len(feature.input_ids[output])]
    return (speaks / speaks.abs().max().clamp(min=1e-12)).tolist()
