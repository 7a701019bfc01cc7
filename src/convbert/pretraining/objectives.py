"""What pre-training minimises: masked language modelling, and replaced token detection.

An objective is a module around the models it trains. Its forward takes a batch of `MaskingCollator` and returns
`{"loss": scalar, metric: (2,) or (2, bins), ...}`; see `MetricMeter` for the metrics. `models()` names what a run
leaves behind. Given all that the collator sends, there is no sync with a GPU.

Replaced token detection follows `run_pretraining.py` of the original, which follows ELECTRA (Clark et al. 2020, arXiv
2003.10555): a small generator fills masked positions, the discriminator finds what it put there. `docs/fidelity.md`
lists every detail.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convbert.configuration import ConvBertConfig, original_head_size
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.model.heads.masked_lm import ConvBertForMaskedLM
from convbert.model.heads.replaced_token import ConvBertForPreTraining
from convbert.pretraining.masking import IGNORED
from convbert.util.errors import InputError

if TYPE_CHECKING:
    from convbert.pretraining.recipes import PretrainingPlan

# Of the histograms behind the area under the curve: logits beyond the limit count as the limit.
_LOGIT_LIMIT = 16.0
_BINS = 2048


class MaskedLanguageModel(nn.Module):
    """Predict the masked tokens: mean cross-entropy over the labelled positions of the batch."""

    def __init__(self, model: ConvBertForMaskedLM) -> None:
        super().__init__()
        self.model = model

    def models(self) -> dict[str, ConvBertPreTrainedModel]:
        """What a run leaves behind, by the name of its folder."""
        return {"model": self.model}

    def loss_counts(self, labels: Tensor, **_: Tensor) -> Tensor:
        """(1,): over how many positions of a batch the loss is a mean."""
        return (labels != IGNORED).sum()[None]

    def forward(
        self,
        labels: Tensor,
        *,
        masked_positions: Tensor | None = None,
        loss_counts: Tensor | None = None,
        **batch: Any,
    ) -> dict[str, Tensor]:
        """Loss and metrics of one batch; see `MaskingCollator`.

        Metrics: `masked_loss` in nats and `masked_accuracy`, over labelled positions.

        Args:
            loss_counts: what the loss is divided by, where that is not this batch's own; see `ObjectiveTrainer`.
        """
        masked = _masked_positions(labels, masked_positions)
        logits = _ModelInputs(**batch).predict(self.model, masked)
        of_step = None if loss_counts is None else loss_counts[0]
        loss, metrics = _masked_lm_loss(logits, labels.flatten()[masked], None, of_step)
        return {"loss": loss, **metrics}


class ReplacedTokenDetection(nn.Module):
    """Loss = `generator_weight` × the generator's masked-LM loss + `discriminator_weight` × the discriminator's.

    The generator reads, and writes, the discriminator's embeddings: the tables of words, positions and token types, and
    the norm above them; its vocabulary head is the word table. Each of the two projects them for itself.

    Raises:
        InputError: the embeddings differ in size.
    """

    def __init__(
        self,
        discriminator: ConvBertForPreTraining,
        generator: ConvBertForMaskedLM,
        *,
        generator_weight: float = 1.0,
        discriminator_weight: float = 50.0,
    ) -> None:
        super().__init__()
        self.discriminator, self.generator = discriminator, generator
        self.generator_weight, self.discriminator_weight = generator_weight, discriminator_weight
        _share_embeddings(discriminator, generator)

    def models(self) -> dict[str, ConvBertPreTrainedModel]:
        """What a run leaves behind, by the name of its folder."""
        return {"model": self.discriminator, "generator": self.generator}

    def loss_counts(self, labels: Tensor, attention_mask: Tensor, **_: Tensor) -> Tensor:
        """(2,): over how many positions of a batch the two losses are means, masked ones and real ones."""
        return torch.stack(((labels != IGNORED).sum(), attention_mask.bool().sum()))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        sample_uniforms: Tensor | None = None,
        *,
        masked_positions: Tensor | None = None,
        loss_counts: Tensor | None = None,
        sampled_ids: Tensor | None = None,
        label_weights: Tensor | None = None,
        **batch: Any,
    ) -> dict[str, Tensor]:
        """Loss and metrics of one batch, each input (B, T); see `MaskingCollator`.

        Metrics, of the generator over masked positions: `masked_loss` (nats), `masked_accuracy` of its best guess,
        `sampled_accuracy` of what it put there. Of the discriminator over real tokens: `replaced_loss` (nats),
        `replaced_accuracy`, `replaced_precision`, `replaced_recall`, and `replaced_auc` as histograms (2, bins).

        Args:
            input_ids: with masks in place.
            labels: the true token where one is predicted, else -100.
            sample_uniforms: numbers in [0, 1] that decide the draws.
            loss_counts: what the losses are divided by, where that is not this batch's own; see `ObjectiveTrainer`.
            sampled_ids: what the discriminator sees at masked positions, in place of draws.
            label_weights: how much each masked position counts for the generator, where that is not 1.
        """
        masked = _masked_positions(labels, masked_positions)
        targets = labels.flatten()[masked]
        of_step = (None, None) if loss_counts is None else loss_counts.unbind()
        logits = _ModelInputs(input_ids, attention_mask, **batch).predict(self.generator, masked)
        weights = None if label_weights is None else label_weights.flatten()[masked]
        generator_loss, metrics = _masked_lm_loss(logits, targets, weights, of_step[0])
        if sampled_ids is not None:
            sampled = sampled_ids.flatten()[masked]
        elif sample_uniforms is not None:
            sampled = sample_tokens(logits, sample_uniforms.flatten()[masked])
        else:
            raise InputError("either sample_uniforms or sampled_ids must be given")
        original = torch.where(labels != IGNORED, labels, input_ids)
        corrupted = original.flatten().index_copy(0, masked, sampled).view_as(original)
        judged = _ModelInputs(corrupted, attention_mask, **batch).judge(self.discriminator)
        # A draw that hits the true token replaces nothing.
        discriminator_loss, more = _replaced_token_loss(
            judged, corrupted != original, attention_mask.bool(), of_step[1]
        )
        drawn = (sampled == targets).sum()
        return {
            "loss": self.generator_weight * generator_loss + self.discriminator_weight * discriminator_loss,
            **metrics,
            "sampled_accuracy": torch.stack((drawn, torch.full_like(drawn, len(targets)))).float(),
            **more,
        }


Objective = MaskedLanguageModel | ReplacedTokenDetection


def build_objective(plan: PretrainingPlan, config: ConvBertConfig) -> Objective:
    """The plan's objective around new models; for `config` see `PretrainingPlan.model_config`."""
    if plan.objective == "mlm":
        objective: Objective = MaskedLanguageModel(ConvBertForMaskedLM(config))
    else:
        generator = ConvBertForMaskedLM(plan.generator_config(config))
        objective = ReplacedTokenDetection(
            ConvBertForPreTraining(config),
            generator,
            generator_weight=plan.generator_weight,
            discriminator_weight=plan.discriminator_weight,
        )
    if plan.gradient_checkpointing:
        for model in objective.models().values():
            # transformers' names, of later and of earlier versions
            new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
            getattr(model, new if hasattr(model, new) else old)()
    return objective


class _ModelInputs:
    """A batch as models take it: packed into one row where the collator has said how, else with its padding.

    Args:
        input_ids, attention_mask, token_type_ids: (B, T).
        cu_seqlens: (B + 1,) int32 bounds of the sequences among the N tokens; None where nobody has counted these.
        token_positions: (N,) where the tokens are, counted row by row; None in a batch without padding.
    """

    def __init__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        token_positions: Tensor | None = None,
        **_: Any,
    ) -> None:
        is_full = cu_seqlens is not None and token_positions is None
        self.ids, self.mask, self.types = input_ids, None if is_full else attention_mask, token_type_ids
        self.cu_seqlens, self.token_positions = cu_seqlens, token_positions

    def predict(self, model: ConvBertForMaskedLM, positions: Tensor) -> Tensor:
        """Logits (n, V) at some positions, counted row by row of the padded batch."""
        if self.token_positions is not None and self._packs(model):
            positions = torch.searchsorted(self.token_positions, positions)
        return model(**self._inputs(model), logits_to_keep=positions).logits

    def judge(self, model: ConvBertForPreTraining) -> Tensor:
        """Logits (B, T), anything at padding."""
        logits = model(**self._inputs(model)).logits
        if not self._packs(model):
            return logits
        padded = logits.new_zeros(self.ids.numel())
        return padded.index_copy(0, self.token_positions, logits.flatten()).view(self.ids.shape)

    def _packs(self, model: ConvBertPreTrainedModel) -> bool:
        # A compiled program would be compiled anew for every number of tokens.
        is_fixed = torch.compiler.is_compiling() or model.config.conv_reads_padding
        return self.token_positions is not None and not is_fixed

    def _inputs(self, model: ConvBertPreTrainedModel) -> dict[str, Any]:
        if not self._packs(model):
            return {"input_ids": self.ids, "attention_mask": self.mask, "token_type_ids": self.types}
        ids, types = (
            None if x is None else x.flatten()[self.token_positions][None] for x in (self.ids, self.types)
        )
        bounds = {"cu_seq_lens_q": self.cu_seqlens, "max_length_q": self.ids.shape[1]}
        return {"input_ids": ids, "token_type_ids": types, **bounds}


def _masked_positions(labels: Tensor, given: Tensor | None) -> Tensor:
    """(n,) numbers of the labelled positions, counted row by row; a sync with a GPU unless they are given."""
    return (labels != IGNORED).flatten().nonzero().squeeze(1) if given is None else given


def _share_embeddings(discriminator: ConvBertForPreTraining, generator: ConvBertForMaskedLM) -> None:
    """Let the generator use the discriminator's embeddings."""
    for name in ("vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size"):
        ours, theirs = getattr(discriminator.config, name), getattr(generator.config, name)
        if ours != theirs:
            raise InputError(f"shared embeddings need the same {name}: {ours} and {theirs}")
    embeddings = discriminator.convbert.embeddings
    generator.convbert.embeddings = embeddings
    generator.generator_lm_head.weight = embeddings.word_embeddings.weight


def generator_config(
    config: ConvBertConfig, hidden_size: float = 0.25, layers: float = 1.0
) -> ConvBertConfig:
    """The generator's configuration, as the original's `get_generator_config` derives it from the discriminator's.

    Args:
        hidden_size, layers: width and number of heads, and number of layers, as fractions of the discriminator's.

    Raises:
        InputError: the fractions do not give whole heads or groups.
    """
    generator = copy.deepcopy(config)
    generator.hidden_size = round(config.hidden_size * hidden_size)
    generator.num_hidden_layers = round(config.num_hidden_layers * layers)
    if not generator.num_hidden_layers:
        raise InputError(
            f"generator_layers={layers:g} gives no generator: no layer of {config.num_hidden_layers}"
        )
    generator.intermediate_size = 4 * generator.hidden_size
    heads = max(1, config.num_attention_heads * hidden_size)
    generator.num_attention_heads = int(heads)
    try:
        generator.attention_head_size = original_head_size(generator.hidden_size, heads, config.head_ratio)
        generator.check_sizes()
    except InputError as error:
        raise InputError(f"generator_hidden_size={hidden_size:g} gives no generator: {error}") from error
    return generator


def _masked_lm_loss(
    logits: Tensor, targets: Tensor, weights: Tensor | None, of_step: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy over n masked positions, and the metrics `masked_loss` and `masked_accuracy`.

    Args:
        logits: (n, V). targets: (n,).
        weights: (n,), how much each position counts; None for ones.
        of_step: see `_mean_of_step`.
    """
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    weights = torch.ones_like(losses) if weights is None else weights.to(losses.dtype)
    total, count = (losses * weights).sum(), weights.sum()
    correct = ((logits.detach().argmax(-1) == targets) * weights).sum()
    metrics = {
        "masked_loss": torch.stack((total.detach(), count)),
        "masked_accuracy": torch.stack((correct, count)),
    }
    return _mean_of_step(total, count, of_step), metrics


def _mean_of_step(total: Tensor, count: Tensor, of_step: Tensor | None) -> Tensor:
    """The batch's own mean, 0 where it has nothing, or its part of a step's."""
    return total / (count.clamp(min=1) if of_step is None else of_step.to(total.dtype))


def _replaced_token_loss(
    logits: Tensor, replaced: Tensor, real: Tensor, of_step: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean binary cross-entropy over the real tokens of the batch, special tokens included: each (B, T)."""
    logits = logits.float()
    losses = F.binary_cross_entropy_with_logits(logits, replaced.float(), reduction="none")
    total, count = torch.where(real, losses, 0.0).sum(), real.sum()
    replaced, suspected = replaced & real, (logits.detach() > 0) & real
    found = (replaced & suspected).sum()
    right = (real & (replaced == suspected)).sum()
    metrics = {
        "replaced_loss": torch.stack((total.detach(), count)),
        "replaced_accuracy": torch.stack((right, count)).float(),
        "replaced_precision": torch.stack((found, suspected.sum())).float(),
        "replaced_recall": torch.stack((found, replaced.sum())).float(),
        "replaced_auc": _histograms(logits.detach(), replaced, real),
    }
    return _mean_of_step(total, count, of_step), metrics


def _histograms(logits: Tensor, replaced: Tensor, real: Tensor) -> Tensor:
    """(2, bins): how many real tokens have a logit in each bin, original ones and replaced ones; no shape depends on
    values."""
    place = (logits.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT) / (2 * _LOGIT_LIMIT) + 0.5) * _BINS
    bins = place.long().clamp(0, _BINS - 1) + _BINS * replaced.long()
    counts = torch.zeros(2 * _BINS, device=logits.device)
    return counts.index_add(0, bins.flatten(), real.flatten().float()).view(2, _BINS)


@torch.no_grad()
def sample_tokens(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One token a row from softmax(logits): its cumulative distribution, inverted at a given number.

    A pure function: the same text gets the same replacements whatever its batch, process or restart.

    Args:
        logits: (n, V), in any precision; computed in fp32.
        uniforms: (n,) in [0, 1], which decide the draw.

    Returns:
        (n,) int64. A row whose logits are not finite draws something, and spoils the loss instead of the memory.
    """
    cumulative = logits.float().softmax(-1).cumsum_(-1)
    total = cumulative[:, -1:]
    # A product that rounds up to the total would lie behind the last token.
    wanted = (uniforms.float()[:, None] * total).minimum(total.nextafter(torch.zeros_like(total)))
    # The first token whose share ends beyond `wanted`; one without a share never does.
    drawn = torch.searchsorted(cumulative, wanted, right=True).squeeze(1)
    return drawn.clamp_(max=logits.shape[1] - 1)
