"""ConvBertModel: embed, unpad, blocks, repad."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from convbert.configuration import ConvBertConfig
from convbert.errors import InputError
from convbert.layers import Block, Embeddings, GlorotLinear, GroupedLinear, Layout, MixedAttention
from convbert.ops import Backend, Packing, pack_mask
from convbert.ops.unpad import is_contiguous, position_in_sequence


@dataclass
class ConvBertModelOutput(ModelOutput):
    """What the encoder gives back.

    Attributes:
        last_hidden_state: (B, T, C), zero where there is no token.
        hidden_states: with `output_hidden_states`, the (projected) embeddings and every layer's output.
        attentions: with `output_attentions`, per layer (B, H, T, T).
        conv_kernels: with `output_conv_kernels`, per layer (B, T, H, K): the weights with which token t reads its
            neighbours t - K // 2 ... t + K // 2.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    conv_kernels: tuple[Tensor, ...] | None = None


class EncoderKwargs(TypedDict, total=False):
    """Arguments that every head hands on to the encoder; see `ConvBertModel.forward`."""

    output_attentions: bool | None
    output_hidden_states: bool | None
    output_conv_kernels: bool
    return_dict: bool | None
    cu_seq_lens_q: Tensor | None
    cu_seq_lens_k: Tensor | None
    max_length_q: int | None
    max_length_k: int | None
    seq_idx: Tensor | None


class Inputs(NamedTuple):
    """A batch as the embeddings read it: (B, T), or (N,) once it is unpadded."""

    words: Tensor
    position_ids: Tensor
    token_type_ids: Tensor


class ConvBertLayer(GradientCheckpointingLayer, Block):
    """A block that transformers can tell to recompute itself in the backward pass, instead of keeping its inner states."""


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
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except InputError:
            raise
        except SafetensorError as error:
            raise InputError(f"{pretrained_model_name_or_path}: the weights are damaged ({error})") from error
        except (pickle.UnpicklingError, EOFError) as error:
            raise InputError(
                f"{pretrained_model_name_or_path}: the weights are a pickle that holds more than tensors or is "
                "damaged; it was not run. Ask for safetensors"
            ) from error
        except OSError as error:
            raise InputError(f"{pretrained_model_name_or_path}: {error}") from error

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


class ConvBertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_build_block(config) for _ in range(config.num_hidden_layers))

    def forward(self, states: Tensor, layout: Layout, output: ConvBertModelOutput) -> Tensor:
        """Run all layers; fill those tuples of `output` that are not None."""
        for layer in self.layer:
            # Zero at padding here, not in a copy that is returned: gradients flow through what the caller sees.
            states = layout.readable(states)
            _append(output, "hidden_states", states)
            states, weights, kernel_logits = layer(states, layout)
            _append(output, "attentions", weights)
            if output.conv_kernels is not None:
                kernels = kernel_logits.float().softmax(-1).to(states.dtype)
                _append(output, "conv_kernels", layout.readable(kernels.flatten(-2)).view_as(kernels))
        states = layout.readable(states)
        _append(output, "hidden_states", states)
        return states


def _append(output: ConvBertModelOutput, name: str, value: Tensor | None) -> None:
    so_far = getattr(output, name)
    if so_far is not None:
        setattr(output, name, (*so_far, value))


def _build_block(config: ConvBertConfig) -> ConvBertLayer:
    return ConvBertLayer(
        width=config.hidden_size,
        num_heads=config.num_kept_heads,
        head_size=config.head_size,
        taps=config.conv_kernel_size,
        inner_width=config.intermediate_size,
        groups=config.num_groups,
        activation=ACT2FN[config.hidden_act],
        norm_eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        feed_forward_chunk=config.chunk_size_feed_forward,
    )


class ConvBertModel(ConvBertPreTrainedModel):
    """The encoder.

    Attributes:
        conv_backend: "auto", "fast" or "reference": which form of the two convolution ops runs.
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

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
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
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
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
            inputs_embeds: (B, T, E) in place of `input_ids`.
            output_attentions: return attention maps, computed in plain steps on the padded rectangle.
            output_hidden_states: return the states after every layer.
            output_conv_kernels: return the dynamic kernels.
            cu_seq_lens_q, cu_seq_lens_k: (B + 1,) int32 bounds of a packed row; the two are the same.
            max_length_q, max_length_k: tokens in its longest sequence.
            seq_idx: (1, N) number of the sequence that a token of a packed row belongs to.
            return_dict: False returns a plain tuple.

        Raises:
            InputError: ids outside the tables, more tokens than positions, a mask of another shape.
        """
        words = self._words(input_ids, inputs_embeds)
        bounds = _packed_bounds(words, attention_mask, position_ids, cu_seq_lens_q, max_length_q, seq_idx)
        inputs = self._complete(words, position_ids, token_type_ids, bounds)
        self._check(inputs, attention_mask, bounds)
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        layout, packing = self._lay_out(words, attention_mask, bounds, bool(output_attentions))

        if packing is not None:
            inputs = Inputs(*(packing.pack(x.expand(words.shape[:2] + x.shape[2:])) for x in inputs))
        elif bounds is not None:
            inputs = Inputs(*(x.squeeze(0) for x in inputs))
        states = self.embeddings(*inputs)
        if self.projects_embeddings:
            states = self.embeddings_project(states)
        output = ConvBertModelOutput(
            hidden_states=() if output_hidden_states else None,
            attentions=() if output_attentions else None,
            conv_kernels=() if output_conv_kernels else None,
        )
        output.last_hidden_state = self.encoder(states, layout, output)
        if output.hidden_states is not None:
            output.hidden_states = _select(output.hidden_states, output_hidden_states)
        return _repad(output, layout, packing)

    def _words(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give exactly one of input_ids and inputs_embeds")
        words = input_ids if input_ids is not None else inputs_embeds
        assert words is not None
        dimensions = 2 if words is input_ids else 3
        if words.dim() != dimensions:
            name = "input_ids must be (batch, length)" if dimensions == 2 else "inputs_embeds must be 3-D"
            raise InputError(f"{name}, got {tuple(words.shape)}")
        return words

    def _complete(
        self,
        words: Tensor,
        position_ids: Tensor | None,
        token_type_ids: Tensor | None,
        bounds: Packing | None,
    ) -> Inputs:
        """Fill in the default positions and token types."""
        length, device = words.shape[1], words.device
        if position_ids is None:
            if bounds is None:
                position_ids = torch.arange(length, device=device)[None]
            else:
                position_ids = position_in_sequence(bounds.cu_seqlens, length)[0][None]
        if token_type_ids is None:
            token_type_ids = torch.zeros(1, 1, dtype=torch.long, device=device).expand(1, length)
        return Inputs(words, position_ids, token_type_ids)

    def _check(self, inputs: Inputs, attention_mask: Tensor | None, bounds: Packing | None) -> None:
        shape = tuple(inputs.words.shape[:2])
        if attention_mask is not None and tuple(attention_mask.shape) != shape:
            raise InputError(
                f"attention_mask must have the shape of the input {shape}, got {tuple(attention_mask.shape)}"
            )
        longest = shape[1] if bounds is None else bounds.max_length
        config = self.config
        if longest > config.max_position_embeddings:
            raise InputError(
                f"a text of {longest} tokens is longer than max_position_embeddings "
                f"({config.max_position_embeddings}): truncate it (truncation=True, max_length=...) or split it "
                "with a stride"
            )
        # On an accelerator, reading the values would wait for the device; there the lookup itself complains.
        if torch.compiler.is_compiling() or inputs.words.device.type != "cpu":
            return
        tables = (self.embeddings.word_embeddings.num_embeddings, config.max_position_embeddings)
        rows = (*tables, config.type_vocab_size)
        names = ("input_ids (vocab_size", "position_ids (max_position_embeddings", "token_type_ids (type_vocab_size")
        for ids, limit, name in zip(inputs, rows, names, strict=True):
            if ids.is_floating_point() or ids.numel() == 0:
                continue
            lowest, highest = (int(x) for x in ids.aminmax())
            if lowest < 0 or highest >= limit:
                wrong = lowest if lowest < 0 else highest
                raise InputError(f"{name} = {limit}) holds {wrong}; ids run from 0 to {limit - 1}")

    def _lay_out(
        self, words: Tensor, attention_mask: Tensor | None, bounds: Packing | None, maps: bool
    ) -> tuple[Layout, Packing | None]:
        """Choose the form that computes this batch: packed as it came, a rectangle, or unpadded."""
        eager = maps or self.config._attn_implementation == "eager"
        if bounds is not None:
            if maps:
                raise InputError("attention maps need a padded batch, not a packed one")
            return Layout(cu_seqlens=bounds.cu_seqlens, conv_backend=self.conv_backend), None
        plain = Layout(eager=eager, conv_backend=self.conv_backend)
        if attention_mask is None:
            return plain, None
        mask = attention_mask.bool()
        leaks = self.config.conv_reads_padding
        rectangle = Layout(
            attention_mask=mask,
            conv_mask=None if leaks else mask,
            eager=eager,
            conv_backend=self.conv_backend,
        )
        # A traced program cannot depend on where the padding is.
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return rectangle, None
        if mask.all():
            return plain, None
        # Where padding stands between tokens, dropping it would make distant tokens neighbours.
        if eager or leaks or not is_contiguous(mask):
            return rectangle, None
        packing = pack_mask(mask)
        return Layout(cu_seqlens=packing.cu_seqlens, conv_backend=self.conv_backend), packing


def _packed_bounds(
    words: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cu_seqlens: Tensor | None,
    max_length: int | None,
    seq_idx: Tensor | None,
) -> Packing | None:
    """The bounds of an input that is packed already, or None for a rectangle."""
    if words.shape[0] != 1 or attention_mask is not None:
        if cu_seqlens is not None or seq_idx is not None:
            raise InputError("a packed batch is one row without attention_mask: (1, total tokens)")
        return None
    if cu_seqlens is None and seq_idx is not None:
        cu_seqlens = _bounds_at(seq_idx[0, 1:] != seq_idx[0, :-1])
    elif cu_seqlens is None and position_ids is not None and not torch.compiler.is_compiling():
        steps = position_ids[0].diff()
        restarts = position_ids[0, 1:] == 0
        if position_ids.numel() and position_ids[0, 0] == 0 and restarts.any() and ((steps == 1) | restarts).all():
            cu_seqlens = _bounds_at(restarts)
    if cu_seqlens is None:
        return None
    if not torch.compiler.is_compiling() and (cu_seqlens[0] != 0 or cu_seqlens[-1] != words.shape[1]):
        raise InputError(f"cu_seq_lens_q must run from 0 to {words.shape[1]} tokens, got {cu_seqlens.tolist()}")
    if max_length is None:
        max_length = int(cu_seqlens.diff().max()) if len(cu_seqlens) > 1 else 0
    return Packing(cu_seqlens.to(torch.int32), int(max_length))


def _bounds_at(starts: Tensor) -> Tensor:
    """cu_seqlens of N tokens from (N - 1,) bool: does token t + 1 begin a sequence?"""
    inner = starts.nonzero().squeeze(1) + 1
    ends = torch.tensor([0, len(starts) + 1], device=starts.device)
    return torch.cat([ends[:1], inner, ends[1:]]).to(torch.int32)


def _select(states: tuple[Tensor, ...], asked: bool | int | list[int]) -> tuple[Tensor | None, ...]:
    """All of them for True; else those of these numbers, which may count from the end, and None for the others."""
    if asked is True:
        return states
    numbers = [asked] if isinstance(asked, int) else asked
    kept = {number % len(states) for number in numbers if -len(states) <= number < len(states)}
    return tuple(x if number in kept else None for number, x in enumerate(states))


def _repad(output: ConvBertModelOutput, layout: Layout, packing: Packing | None) -> ConvBertModelOutput:
    """Give every tensor of the output the caller's shape, zero where there is no token."""

    def restore(states: Tensor) -> Tensor:
        if packing is not None:
            return packing.unpack(states)
        if layout.cu_seqlens is not None:
            return states[None]
        return states

    output.last_hidden_state = restore(output.last_hidden_state)
    if output.hidden_states is not None:
        output.hidden_states = tuple(None if x is None else restore(x) for x in output.hidden_states)
    if output.conv_kernels is not None:
        output.conv_kernels = tuple(
            restore(x.flatten(-2)).unflatten(-1, x.shape[-2:]) for x in output.conv_kernels
        )
    # Keys of a ModelOutput follow its fields at creation; a new one has the filled ones in order.
    return ConvBertModelOutput(**{key: getattr(output, key) for key in output.__dataclass_fields__})
