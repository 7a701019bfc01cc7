"""Low-rank adapters on ConvBERT through peft.

transformers knows no target modules for the model type "convbert". Ours are all dense layers of the encoder: query,
key, value, the kernel's projection, the convolution's value, and both halves of the feed-forward layer. Grouped
feed-forward layers (medium-small) are no `nn.Linear`, and the separable convolution is a depthwise and a pointwise
`nn.Conv1d`: both stay frozen.
"""

from __future__ import annotations

from torch import nn

from convbert.finetuning.recipes import FinetuningPlan
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.util.errors import InputError
from convbert.util.optional import require


def target_modules(model: ConvBertPreTrainedModel) -> list[str]:
    """Full names of the encoder's dense layers, which adapters can stand beside."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".encoder.layer." in name
    ]


def add_adapters(model: ConvBertPreTrainedModel, plan: FinetuningPlan) -> nn.Module:
    """The model with adapters of `plan.lora_rank` beside its dense layers; they and the head are trained."""
    if plan.lora_rank > (width := model.config.hidden_size):
        raise InputError(f"lora_rank ({plan.lora_rank}) exceeds the model's hidden_size ({width})")
    require("lora", "--lora")
    from peft import LoraConfig, get_peft_model

    heads = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    trained = [name for name in heads if any(True for _ in getattr(model, name).parameters())]
    settings = LoraConfig(
        r=plan.lora_rank,
        lora_alpha=plan.lora_alpha,
        lora_dropout=plan.dropout or 0.0,
        target_modules=target_modules(model),
        modules_to_save=trained,
    )
    adapted = get_peft_model(model, settings)
    if not any(parameter.requires_grad for name, parameter in adapted.named_parameters() if "lora_" in name):
        raise InputError("this model has no dense layer that an adapter could stand beside")
    return adapted
