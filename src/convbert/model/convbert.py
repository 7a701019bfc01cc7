"""ConvBertModel: read the batch, embed, run the layers, repad."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from convbert.configuration import ConvBertConfig
from convbert.files.atomic import save_model
from convbert.files.damage import translate_errors
from convbert.files.weights import check_sizes, prepare_loading
from convbert.layers import (
    Embeddings,
    EncoderLayer,
    ForwardContext,
    GlorotLinear,
    GroupedLinear,
    MixedAttention,
)
from convbert.model.batch import Batch, packed_bounds, position_numbers, read_batch
from convbert.model.frozen import Freezer
from convbert.ops import Backend
from convbert.ops._torch_internals import is_listened_to, is_traced
from convbert.util.errors import InputError

_CHOOSES_WEIGHTS = {"state_dict", "key_mapping", "variant", "gguf_file"}


@dataclass
class ConvBertModelOutput(ModelOutput):
    """What the encoder gives back.

    Attributes:
        last_hidden_state: (B, T, C), zero where there is no token.
        hidden_states: with `output_hidden_states`, the (projected) embeddings and every layer's output (None for
            those not asked for).
        attentions: with `output_attentions`, per layer (B, H, T, T).
        conv_kernels: with `output_conv_kernels`, per layer (B, T, H, K): the weights with which token t reads its
            neighbours t - K // 2 ... t + K // 2.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    conv_kernels: tuple[Tensor, ...] | None = None


class ConvBertLayer(GradientCheckpointingLayer, EncoderLayer):
    """A layer that transformers can tell to recompute its inner states in the backward pass."""


class ConvBertPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving that all ConvBERT classes share."""

    config: ConvBertConfig
    config_class = ConvBertConfig
    base_model_prefix = "convbert"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules = ("ConvBertLayer",)
    _can_record_outputs = {"hidden_states": ConvBertLayer, "attentions": MixedAttention}  # noqa: RUF012 (transformers')

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers', with errors that name the folder.

        Raises:
            InputError: no such folder, no weights in it, or weights that are damaged or not plain tensors. Nothing
                is ever unpickled.
        """
        folder = pretrained_model_name_or_path
        with translate_errors(folder):
            is_ours = cls.__module__.startswith("convbert.")  # other classes have names of their own
            if is_ours and isinstance(folder, (str, os.PathLike)) and not _CHOOSES_WEIGHTS & kwargs.keys():
                path = Path(folder, kwargs.get("subfolder") or "")
                if (path / "config.json").is_file():
                    kwargs |= prepare_loading(path, kwargs.get("use_safetensors"))
                    if "config" not in kwargs and not kwargs.get("ignore_mismatched_sizes"):
                        check_sizes(path, ConvBertConfig.from_pretrained(path))
            return super().from_pretrained(folder, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As transformers', but under the published names whatever the weights were loaded as, and a full disk leaves
        the folder as it was.

        Raises:
            InputError: the folder cannot be written.
        """
        kwargs.setdefault("save_original_format", False)
        save_model(super().save_pretrained, save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the original starts: truncated normals, depthwise filters with standard deviation 1 / K."""
        std = self.config.initializer_range
        if isinstance(module, nn.Conv1d) and module.groups > 1:
            self._init_truncated(module.weight, 1 / module.kernel_size[0])
        elif isinstance(module, GlorotLinear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, (nn.Linear, nn.Conv1d, GroupedLinear)):
            self._init_truncated(module.weight, std)
        elif isinstance(module, nn.Embedding):
            self._init_truncated(module.weight, std)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
        if isinstance(getattr(module, "bias", None), Tensor):
            init.zeros_(module.bias)

    @staticmethod
    def _init_truncated(weight: Tensor, std: float) -> None:
        init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def head_dropout(config: ConvBertConfig) -> float:
    """Dropout of a classification head: its own, or that of the hidden states."""
    own = config.classifier_dropout
    return config.hidden_dropout_prob if own is None else own


@dataclass
class Record:
    """What a caller wants to see beside the last states; None is not recorded."""

    hidden_states: list[Tensor] | None
    attentions: list[Tensor] | None
    conv_kernels: list[Tensor] | None


class ConvBertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_build_layer(config) for _ in range(config.num_hidden_layers))
        self.freezer = Freezer()

    def forward(
        self, states: Tensor, context: ForwardContext, record: Record, rows: Tensor | None = None
    ) -> Tensor:
        """Run all layers on (B, T, C), or on (N, C) where the context has bounds, and fill the record.

        With `rows` (n,), the last layer gives the states (n, C) of these tokens alone.
        """
        wanted = {
            "wants_hidden": record.hidden_states is not None,
            "wants_kernels": record.conv_kernels is not None,
        }
        if record.attentions is None and (
            frozen := self.freezer.run(list(self.layer), states, context, rows, **wanted)
        ):
            if record.hidden_states is not None:
                record.hidden_states += [states, *frozen.hidden, *([frozen.states] if rows is None else [])]
            if record.conv_kernels is not None:
                record.conv_kernels += [logits.softmax(-1) for logits in frozen.kernel_logits]
            return frozen.states
        last = len(self.layer) - 1
        for number, layer in enumerate(self.layer):
            # Zero at padding here, not in a copy that is returned: gradients flow through what the caller sees.
            states = context.readable(states)
            if record.hidden_states is not None:
                record.hidden_states.append(states)
            states, attention_weights, kernel_logits = layer(
                states, context, rows if number == last else None
            )
            if record.attentions is not None and attention_weights is not None:
                record.attentions.append(attention_weights)
            if record.conv_kernels is not None:
                kernels = kernel_logits.float().softmax(-1).to(states.dtype)
                record.conv_kernels.append(context.readable(kernels.flatten(-2)).view_as(kernels))
        if rows is not None:
            return states
        states = context.readable(states)
        if record.hidden_states is not None:
            record.hidden_states.append(states)
        return states


def _build_layer(config: ConvBertConfig) -> ConvBertLayer:
    return ConvBertLayer(
        width=config.hidden_size,
        num_heads=config.num_kept_heads,
        head_size=config.head_size,
        kernel_size=config.conv_kernel_size,
        inner_width=config.intermediate_size,
        groups=config.num_groups,
        activation=F.gelu if config.hidden_act == "gelu" else ACT2FN[config.hidden_act],
        norm_eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        feed_forward_chunk=config.chunk_size_feed_forward,
    )


class ConvBertModel(ConvBertPreTrainedModel):
    """The encoder.

    Attributes:
        conv_backend: "auto", "fast" or "reference": how the two convolution ops compute.
    """

    conv_backend: Backend = "auto"

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__(config)
        config.check_sizes()
        self.embeddings = Embeddings(
            vocab_size=config.vocab_size,
            num_positions=config.max_position_embeddings,
            num_token_types=config.type_vocab_size,
            width=config.embedding_size,
            padding_index=config.pad_token_id,
            norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.projects_embeddings = config.embedding_size != config.hidden_size
        if self.projects_embeddings:
            self.embeddings_project = GlorotLinear(config.embedding_size, config.hidden_size)
        self.encoder = ConvBertEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        positions_to_keep: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_conv_kernels: bool = False,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: int | None = None,
        max_length_k: int | None = None,
        seq_idx: Tensor | None = None,
    ) -> ConvBertModelOutput:
        """Encode a batch of texts; a text's states do not depend on the batch it is in.

        A padded batch is unpadded here, once, and padded again on the way out. A batch that is packed already comes
        in as one row of N tokens with its bounds, by the convention of transformers' flattening collator.

        Args:
            input_ids: (B, T), or (1, N) packed.
            attention_mask: (B, T), nonzero at tokens. None: all are tokens.
            token_type_ids: (B, T), 0 for the first text of a pair and 1 for the second.
            position_ids: (B, T); by default 0, 1, 2, ... from the left edge. In a packed row they restart.
            inputs_embeds: (B, T, E) instead of `input_ids`.
            positions_to_keep: (B, T) bool, or (n,) numbers of positions counted row by row, which spare a
                synchronisation with a GPU: `last_hidden_state` is then (n, C), the states there in the same order, and
                the last layer's feed-forward half runs there alone.
            output_attentions: return attention maps, computed in plain steps on the padded batch.
            output_hidden_states: return the states after every layer; or the numbers of the layers wanted.
            output_conv_kernels: return the dynamic kernels.
            cu_seq_lens_q, cu_seq_lens_k: (B + 1,) int32 bounds of a packed row; the two are the same.
            max_length_q, max_length_k: tokens in its longest sequence.
            seq_idx: (1, N) number of the sequence that a token of a packed row belongs to.
            return_dict: False returns a plain tuple.

        Raises:
            InputError: ids outside the tables, more tokens than positions, a mask of another shape.
        """
        words = self._words(input_ids, inputs_embeds)
        is_asked = output_attentions is not None
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if position_ids is not None and position_ids.dim() == 1:
            position_ids = position_ids[None]
        bounds = packed_bounds(words, attention_mask, position_ids, cu_seq_lens_q, max_length_q, seq_idx)
        if bounds is not None and output_attentions:
            if is_asked:
                raise InputError("attention maps need a padded batch, not a packed one")
            output_attentions = False  # a configuration asks for what a batch can give
        batch = read_batch(
            self.config,
            words,
            position_ids,
            token_type_ids,
            attention_mask,
            bounds,
            num_words=self.embeddings.word_embeddings.num_embeddings,
            eager=bool(output_attentions) or self.config._attn_implementation == "eager",
            conv_backend=self.conv_backend,
        )
        record = Record(
            # The number 0 is a layer, too.
            hidden_states=None if output_hidden_states is False or output_hidden_states == [] else [],
            attentions=[] if output_attentions else None,
            conv_kernels=[] if output_conv_kernels else None,
        )
        embedded = self._embed(batch)
        if positions_to_keep is None:
            states = batch.repad(self.encoder(embedded, batch.context, record))
        else:
            numbers = position_numbers(positions_to_keep, tuple(words.shape[:2]))
            if record.hidden_states is not None or is_traced():
                # All states are wanted anyway, or their number must not depend on values.
                states = batch.repad(self.encoder(embedded, batch.context, record)).flatten(0, 1)[numbers]
            else:
                selection = batch.select(numbers)
                states = self.encoder(embedded, batch.context, record, selection.rows)
                states = selection.zero_padding(states)
        return _output(states, record, batch, output_hidden_states)

    def _words(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if input_ids is not None and inputs_embeds is None:
            if input_ids.dim() != 2:
                raise InputError(f"input_ids must be (batch, length), got {tuple(input_ids.shape)}")
            return input_ids
        if inputs_embeds is not None and input_ids is None:
            if inputs_embeds.dim() != 3:
                raise InputError(
                    f"inputs_embeds must be (batch, length, width), got {tuple(inputs_embeds.shape)}"
                )
            return inputs_embeds
        raise InputError("give exactly one of input_ids and inputs_embeds")

    def _embed(self, batch: Batch) -> Tensor:
        padded, inputs = batch.padded, batch.inputs
        if padded is not None and self._is_listened_to():
            return batch.unpad(self._project(self.embeddings(*padded)))
        table = self.embeddings.word_embeddings
        words_are_ids = padded is not None and not padded.words.is_floating_point()
        if (
            padded is not None
            and words_are_ids
            and (type(table) is not nn.Embedding or is_listened_to(table))
        ):
            # Nobody but those who listen to the table needs its rows at padding.
            inputs = inputs._replace(words=batch.unpad(table(padded.words)))
        return self._project(self.embeddings(*inputs))

    def _project(self, states: Tensor) -> Tensor:
        return self.embeddings_project(states) if self.projects_embeddings else states

    def _is_listened_to(self) -> bool:
        project = self.embeddings_project if self.projects_embeddings else None
        replaced = project is not None and (type(project) is not GlorotLinear or is_listened_to(project))
        return replaced or self.embeddings.is_listened_to()


def _output(
    states: Tensor, record: Record, batch: Batch, asked: bool | int | list[int] | None
) -> ConvBertModelOutput:
    """Everything in the caller's shape, as `states` are already."""
    hidden_states = conv_kernels = None
    if record.hidden_states is not None:
        chosen = _select(record.hidden_states, asked)
        hidden_states = tuple(None if x is None else batch.repad(x) for x in chosen)
    if record.conv_kernels is not None:
        conv_kernels = tuple(batch.repad(x) for x in record.conv_kernels)
    return ConvBertModelOutput(
        last_hidden_state=states,
        hidden_states=hidden_states,
        attentions=None if record.attentions is None else tuple(record.attentions),
        conv_kernels=conv_kernels,
    )


def _select(states: list[Tensor], asked: bool | int | list[int] | None) -> list[Tensor | None]:
    """All of them for True; else those of these numbers, which may count from the end, and None for the others."""
    if asked is True or asked is None:
        return list(states)
    numbers = [asked] if isinstance(asked, int) else asked
    kept = {number % len(states) for number in numbers if -len(states) <= number < len(states)}
    return [x if number in kept else None for number, x in enumerate(states)]
