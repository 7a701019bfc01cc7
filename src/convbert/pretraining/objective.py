"""What pre-training minimises: the two objectives, and from a plan to one of them.

An objective is a module around the models it trains. Its forward takes a batch of `MaskingCollator` and returns
`{"loss": scalar, figure: (2,) or (2, bins), ...}`: a figure (2,) is a sum and the number of things summed over, one of
(2, bins) a pair of histograms, so that what becomes of them over many batches is exact (see `MetricMeter`). `models()`
names what a run leaves behind.
"""

from __future__ import annotations

from convbert.configuration import ConvBertConfig
from convbert.model.heads.masked_lm import ConvBertForMaskedLM
from convbert.model.heads.replaced_token import ConvBertForPreTraining
from convbert.pretraining.masked_lm import MaskedLanguageModel
from convbert.pretraining.recipes import PretrainingPlan
from convbert.pretraining.replaced_token import ReplacedTokenDetection

Objective = MaskedLanguageModel | ReplacedTokenDetection


def build_objective(plan: PretrainingPlan, config: ConvBertConfig) -> Objective:
    """The plan's objective around new models, as training from scratch starts.

    Args:
        config: of the model, see `PretrainingPlan.model_config`.
    """
    if plan.objective == "mlm":
        objective: Objective = MaskedLanguageModel(ConvBertForMaskedLM(config))
    else:
        generator = None if plan.uniform_generator else ConvBertForMaskedLM(plan.generator_config(config))
        objective = ReplacedTokenDetection(
            ConvBertForPreTraining(config),
            generator,
            tie_embeddings=not plan.untied_generator_embeddings,
            generator_weight=plan.generator_weight,
            discriminator_weight=plan.discriminator_weight,
            temperature=plan.temperature,
            disallow_correct=plan.disallow_correct,
        )
    if plan.gradient_checkpointing:
        for model in objective.models().values():
            # transformers' names, of later and of earlier versions
            new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
            getattr(model, new if hasattr(model, new) else old)()
    return objective
