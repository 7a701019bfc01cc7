"""Replaced token detection: a small generator fills masked positions, the discriminator finds what it put there.

After `run_pretraining.py` of the original, which follows ELECTRA (Clark et al. 2020, arXiv 2003.10555);
`docs/fidelity.md` lists every detail.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convbert.configuration import ConvBertConfig, original_head_size
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.model.heads.masked_lm import ConvBertForMaskedLM
from convbert.model.heads.replaced_token import ConvBertForPreTraining
from convbert.pretraining.masked_lm import masked_lm_loss, mean_of_step
from convbert.pretraining.masking import IGNORED
from convbert.pretraining.sampling import sample_tokens, uniform_tokens
from convbert.util.errors import InputError

# Of the histograms behind the area under the curve: logits beyond the limit count as the limit.
_LOGIT_LIMIT = 16.0
_BINS = 2048


class ReplacedTokenDetection(nn.Module):
    """Loss = `generator_weight` × the generator's masked-LM loss + `discriminator_weight` × the discriminator's.

    Args:
        discriminator: the model that is wanted.
        generator: of the same vocabulary; None draws replacements from the whole vocabulary, all equally likely.
        tie_embeddings: the generator reads the discriminator's embeddings: the tables of words, positions and token
            types, and the norm above them, and its vocabulary head is the word table. Each projects them for itself.
        generator_weight, discriminator_weight: of the two losses.
        temperature: replacements are drawn from softmax(logits / temperature).
        disallow_correct: never draw the true token, so that every masked position is a replaced one.

    Raises:
        InputError: the embeddings should be shared and differ in size.
    """

    def __init__(
        self,
        discriminator: ConvBertForPreTraining,
        generator: ConvBertForMaskedLM | None,
        *,
        tie_embeddings: bool = True,
        generator_weight: float = 1.0,
        discriminator_weight: float = 50.0,
        temperature: float = 1.0,
        disallow_correct: bool = False,
    ) -> None:
        super().__init__()
        self.discriminator, self.generator = discriminator, generator
        self.generator_weight, self.discriminator_weight = generator_weight, discriminator_weight
        self.temperature, self.disallow_correct = temperature, disallow_correct
        if generator is not None and tie_embeddings:
            share_embeddings(discriminator, generator)

    def models(self) -> dict[str, ConvBertPreTrainedModel]:
        """What a run leaves behind, by the name of its folder."""
        models: dict[str, ConvBertPreTrainedModel] = {"model": self.discriminator}
        return models if self.generator is None else models | {"generator": self.generator}

    def loss_counts(self, labels: Tensor, attention_mask: Tensor, **_: Tensor) -> Tensor:
        """(2,): over how many positions of a batch the two losses are means, masked ones and real ones."""
        return torch.stack(((labels != IGNORED).sum(), attention_mask.bool().sum()))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        sample_uniforms: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        loss_counts: Tensor | None = None,
        sampled_ids: Tensor | None = None,
        label_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss and figures of one batch, each input (B, T); see `MaskingCollator`.

        Figures, of the generator over masked positions: `masked_loss` (nats), `masked_accuracy` of its best guess,
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
        masked = labels != IGNORED
        targets = labels[masked]
        of_step: Sequence[Tensor | None] = (None, None) if loss_counts is None else loss_counts.unbind()
        context = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        figures: dict[str, Tensor] = {}
        if self.generator is None:
            logits = None
            generator_loss = torch.zeros((), device=labels.device)
        else:
            logits = self.generator(input_ids, logits_to_keep=masked, **context).logits
            weights = None if label_weights is None else label_weights[masked]
            generator_loss, figures = masked_lm_loss(logits, targets, weights, of_step[0])
        if sampled_ids is None:
            if sample_uniforms is None:
                raise InputError("either sample_uniforms or sampled_ids must be given")
            sampled = self._sample(logits, targets, sample_uniforms[masked])
        else:
            sampled = sampled_ids[masked]
        original = torch.where(masked, labels, input_ids)
        corrupted = original.masked_scatter(masked, sampled)
        judged = self.discriminator(corrupted, **context).logits
        # A draw that hits the true token replaces nothing.
        discriminator_loss, more = _replaced_token_loss(
            judged, corrupted != original, attention_mask, of_step[1]
        )
        drawn = (sampled == targets).sum()
        return {
            "loss": self.generator_weight * generator_loss + self.discriminator_weight * discriminator_loss,
            **figures,
            "sampled_accuracy": torch.stack((drawn, torch.full_like(drawn, len(targets)))).float(),
            **more,
        }

    def _sample(self, logits: Tensor | None, targets: Tensor, uniforms: Tensor) -> Tensor:
        """(n,) tokens for the masked positions."""
        excluded = targets if self.disallow_correct else None
        if logits is None:
            return uniform_tokens(uniforms, self.discriminator.config.vocab_size, excluded=excluded)
        return sample_tokens(logits, uniforms, temperature=self.temperature, excluded=excluded)


def share_embeddings(discriminator: ConvBertForPreTraining, generator: ConvBertForMaskedLM) -> None:
    """Let the generator read, and write, the discriminator's embeddings.

    Raises:
        InputError: the two differ in size.
    """
    for name in ("vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size"):
        ours, theirs = getattr(discriminator.config, name), getattr(generator.config, name)
        if ours != theirs:
            raise InputError(f"shared embeddings need the same {name}: {ours} and {theirs}")
    embeddings = discriminator.convbert.embeddings
    generator.convbert.embeddings = embeddings
    generator.generator_lm_head.weight = embeddings.word_embeddings.weight


def generator_config(
    config: ConvBertConfig, hidden_size: float = 0.25, layers: float = 1.0, *, own_embeddings: bool = False
) -> ConvBertConfig:
    """The configuration of the generator for a discriminator, as the original's `get_generator_config` derives it.

    Args:
        config: the discriminator's.
        hidden_size: the generator's width and number of heads, as a fraction of the discriminator's.
        layers: its layers, likewise.
        own_embeddings: of its own width, as the original's are where nothing is shared.

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
        if own_embeddings:
            generator.embedding_size = generator.hidden_size
        generator.check_sizes()
    except InputError as error:
        raise InputError(f"generator_hidden_size={hidden_size:g} gives no generator: {error}") from error
    return generator


def _replaced_token_loss(
    logits: Tensor, replaced: Tensor, attention_mask: Tensor, of_step: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean binary cross-entropy over the real tokens of the batch, special tokens included: each (B, T)."""
    logits, real = logits.float(), attention_mask.bool()
    losses = F.binary_cross_entropy_with_logits(logits, replaced.float(), reduction="none")
    total, count = torch.where(real, losses, 0.0).sum(), real.sum()
    replaced, suspected = replaced & real, (logits.detach() > 0) & real
    found = (replaced & suspected).sum()
    right = (real & (replaced == suspected)).sum()
    figures = {
        "replaced_loss": torch.stack((total.detach(), count)),
        "replaced_accuracy": torch.stack((right, count)).float(),
        "replaced_precision": torch.stack((found, suspected.sum())).float(),
        "replaced_recall": torch.stack((found, replaced.sum())).float(),
        "replaced_auc": _histograms(logits.detach(), replaced, real),
    }
    return mean_of_step(total, count, of_step), figures


def _histograms(logits: Tensor, replaced: Tensor, real: Tensor) -> Tensor:
    """(2, bins): how many real tokens have a logit in each bin, original ones and replaced ones; no shape depends on
    values."""
    place = (logits.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT) / (2 * _LOGIT_LIMIT) + 0.5) * _BINS
    bins = place.long().clamp(0, _BINS - 1) + _BINS * replaced.long()
    counts = torch.zeros(2 * _BINS, device=logits.device)
    return counts.index_add(0, bins.flatten(), real.flatten().float()).view(2, _BINS)
