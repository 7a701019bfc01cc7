"""What the original calls its tensors and settings, and what we call them: a table, read both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from convbert.configuration import ConvBertConfig, original_head_size
from convbert.util.errors import InputError
from convbert.util.schema import Schema, check

Part = Literal["discriminator", "generator"]


class Change(NamedTuple):
    """A change of layout from the original's to ours, and the way back."""

    there: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


class Rule(NamedTuple):
    """One tensor: its name there, its name here, and how its axes move."""

    original: str
    ours: str
    change: Change


SAME = Change(lambda x: x, lambda x: x)
TRANSPOSE = Change(np.transpose, np.transpose)  # (in, out) <-> (out, in)
DEPTHWISE = Change(lambda x: x.transpose(1, 2, 0), lambda x: x.transpose(2, 0, 1))  # (K, C, 1) <-> (C, 1, K)
POINTWISE = Change(lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))  # (1, C, A) <-> (A, C, 1)
COLUMN = Change(lambda x: x[:, None], lambda x: x[:, 0])  # (A,) <-> (A, 1)

# The parameters of each kind of module: their name, our name, change.
DENSE = [("/kernel", ".weight", TRANSPOSE), ("/bias", ".bias", SAME)]
GROUPED_DENSE = [("/kernel", ".weight", SAME), ("/bias", ".bias", SAME)]
NORM = [("/gamma", ".weight", SAME), ("/beta", ".bias", SAME)]
TABLE = [("", ".weight", SAME)]
BIAS = [("", ".bias", SAME)]
SEPARABLE_CONV = [
    ("/depthwise_kernel", ".depthwise.weight", DEPTHWISE),
    ("/pointwise_kernel", ".pointwise.weight", POINTWISE),
    ("/bias", ".bias", COLUMN),
]

# Both encoders read these: the generator has no tables and no embedding norm of its own.
EMBEDDINGS = [
    ("electra/embeddings/word_embeddings", "convbert.embeddings.word_embeddings", TABLE),
    ("electra/embeddings/position_embeddings", "convbert.embeddings.position_embeddings", TABLE),
    ("electra/embeddings/token_type_embeddings", "convbert.embeddings.token_type_embeddings", TABLE),
    ("electra/embeddings/LayerNorm", "convbert.embeddings.LayerNorm", NORM),
]
# There only where the embedding width differs from the model width.
PROJECTION = [("{scope}/embeddings_project", "convbert.embeddings_project", DENSE)]
# Below {scope}/encoder/layer_{layer}/ and convbert.encoder.layer.{layer}.
LAYER = [
    ("attention/self/query", "attention.self.query", DENSE),
    ("attention/self/key", "attention.self.key", DENSE),
    ("attention/self/value", "attention.self.value", DENSE),
    ("attention/self/conv_attn_key", "attention.self.key_conv_attn_layer", SEPARABLE_CONV),
    ("attention/self/conv_attn_kernel", "attention.self.conv_kernel_layer", DENSE),
    ("attention/self/conv_attn_point", "attention.self.conv_out_layer", DENSE),
    ("attention/output/dense", "attention.output.dense", DENSE),
    ("attention/output/LayerNorm", "attention.output.LayerNorm", NORM),
    ("output/LayerNorm", "output.LayerNorm", NORM),
]
FEED_FORWARD = [
    ("intermediate/dense", "intermediate.dense", DENSE),
    ("output/dense", "output.dense", DENSE),
]
GROUPED_FEED_FORWARD = [
    ("intermediate/g_dense", "intermediate.dense", GROUPED_DENSE),
    ("output/g_dense", "output.dense", GROUPED_DENSE),
]
DISCRIMINATOR_HEAD = [
    ("discriminator_predictions/dense", "discriminator_predictions.dense", DENSE),
    ("discriminator_predictions/dense_1", "discriminator_predictions.dense_prediction", DENSE),
]
GENERATOR_HEAD = [
    ("generator_predictions/dense", "generator_predictions.dense", DENSE),
    ("generator_predictions/LayerNorm", "generator_predictions.LayerNorm", NORM),
    ("generator_predictions/output_bias", "generator_lm_head", BIAS),
]

_SCOPE = {"discriminator": "electra", "generator": "generator"}
_HEAD = {"discriminator": DISCRIMINATOR_HEAD, "generator": GENERATOR_HEAD}
# The vocabulary head's matrix is the word embedding; files leave it out, and loading ties it.
_TIED = "generator_lm_head.weight"

_Size = Annotated[int, Field(ge=1, lt=2**31)]
_Share = Annotated[float, Field(ge=0, lt=1)]


class _Encoder(Schema):
    """The original's settings of one encoder; `num_attention_heads` of a generator may be a fraction."""

    vocab_size: _Size
    hidden_size: _Size
    num_hidden_layers: _Size
    intermediate_size: _Size
    hidden_act: str
    hidden_dropout_prob: _Share
    attention_probs_dropout_prob: _Share
    max_position_embeddings: _Size
    type_vocab_size: _Size
    initializer_range: Annotated[float, Field(ge=0)]
    head_ratio: _Size
    conv_kernel_size: _Size
    num_attention_heads: Annotated[float, Field(ge=1, lt=2**31)]
    linear_groups: _Size
    conv_type: Literal["sdconv"] = "sdconv"  # the only one that is ConvBERT's


class _Shared(Schema):
    """What both encoders share."""

    embedding_size: _Size


_OTHER_SETTINGS = {"num_attention_heads", "linear_groups", "conv_type"}


def rules(part: Part, layers: int, grouped: bool, projected: bool, head: bool = True) -> list[Rule]:
    """The table for one encoder, spelled out.

    Args:
        part: "discriminator" or "generator".
        layers: encoder layers.
        grouped: the feed-forward layers have more than one group.
        projected: the embedding width differs from the model width.
        head: the part's own head is there too.
    """
    modules = EMBEDDINGS + (PROJECTION if projected else []) + (_HEAD[part] if head else [])
    for layer in range(layers):
        modules = modules + [
            (
                f"{{scope}}/encoder/layer_{layer}/{original}",
                f"convbert.encoder.layer.{layer}.{ours}",
                parameters,
            )
            for original, ours, parameters in LAYER + (GROUPED_FEED_FORWARD if grouped else FEED_FORWARD)
        ]
    return [
        Rule(original.format(scope=_SCOPE[part]) + their_suffix, ours + our_suffix, change)
        for original, ours, parameters in modules
        for their_suffix, our_suffix, change in parameters
    ]


def from_tensorflow(tensors: Mapping[str, np.ndarray], part: Part) -> dict[str, Tensor]:
    """Our state dict of one encoder of the original, with its head where the checkpoint has one.

    Args:
        tensors: the original's variables by name, as `read_checkpoint` gives them. Optimiser slots,
            `global_step` and whatever belongs to the other encoder or to a fine-tuning head are left aside.
        part: "discriminator" (for `ConvBertForPreTraining`) or "generator" (for `ConvBertForMaskedLM`).

    Returns:
        name -> tensor. `generator_lm_head.weight` is not among them: it is the word embedding.

    Raises:
        InputError: there is no such encoder in it; or a tensor of it is missing, or has a name that the table does
            not know, or a shape that it cannot have.
    """
    scopes = (f"{_SCOPE[part]}/", "electra/embeddings/", f"{part}_predictions/")
    present = {
        name for name in tensors if name.startswith(scopes) and not name.endswith(("/adam_m", "/adam_v"))
    }
    where = f"the original's {part}"
    table = rules(
        part,
        layers=_count_layers(present, rf"{_SCOPE[part]}/encoder/layer_(\d{{1,9}})/", where),
        grouped=any("/g_dense/" in name for name in present),
        projected=f"{_SCOPE[part]}/embeddings_project/kernel" in present,
        head=any(name.startswith(f"{part}_predictions/") for name in present),
    )
    _require_same_names(present, {rule.original for rule in table}, where)
    return {
        rule.ours: torch.from_numpy(_moved(rule.change.there, tensors[rule.original], rule.original))
        for rule in table
    }


def to_tensorflow(state: Mapping[str, Tensor], part: Part) -> dict[str, np.ndarray]:
    """The way back: the original's variables from our state dict, float32.

    Args:
        state: the state dict of `ConvBertForPreTraining` ("discriminator") or `ConvBertForMaskedLM`
            ("generator"); without its head it may be that of any of our models that has no other head.
        part: "discriminator" or "generator".

    Raises:
        InputError: a tensor of this encoder is missing, or has a name that the table does not know.
    """
    present = set(state) - {_TIED}
    grouped = state.get("convbert.encoder.layer.0.intermediate.dense.weight")
    table = rules(
        part,
        layers=_count_layers(present, r"convbert\.encoder\.layer\.(\d{1,9})\.", f"our {part}"),
        grouped=grouped is not None and grouped.ndim == 3,
        projected="convbert.embeddings_project.weight" in present,
        head=any(not name.startswith("convbert.") for name in present),
    )
    _require_same_names(present, {rule.ours for rule in table}, f"our {part}")
    return {
        rule.original: _moved(rule.change.back, state[rule.ours].detach().cpu().float().numpy(), rule.ours)
        for rule in table
    }


def config_from_tensorflow(config: Mapping[str, Any], part: Part) -> ConvBertConfig:
    """Our configuration of one encoder of the original.

    Args:
        config: the original's settings: `bert_config` (the discriminator's), `generator_config`, and
            `pretraining_config` for the `embedding_size` that both share.
        part: "discriminator" or "generator".

    Raises:
        InputError: a setting is missing, or describes a model that is not ConvBERT.
    """
    where = "the original's configuration"
    section = "bert_config" if part == "discriminator" else "generator_config"
    for name in (section, "pretraining_config"):
        if not isinstance(config, Mapping) or not isinstance(config.get(name), Mapping):
            raise InputError(f"{where} must hold {name!r}, got {config!r:.60}")
    settings = check(_Encoder, dict(config[section]), f"{where}, {section}")
    shared = check(_Shared, dict(config["pretraining_config"]), f"{where}, pretraining_config")
    return ConvBertConfig(
        **settings.model_dump(include=set(_Encoder.model_fields) - _OTHER_SETTINGS),
        embedding_size=shared.embedding_size,
        num_attention_heads=int(settings.num_attention_heads),
        num_groups=settings.linear_groups,
        attention_head_size=original_head_size(
            settings.hidden_size, settings.num_attention_heads, settings.head_ratio
        ),
        layer_norm_eps=1e-12,
        pad_token_id=0,
    )


def _count_layers(names: Iterable[str], pattern: str, where: str) -> int:
    """The layers, numbered from 0 without a gap.

    Raises:
        InputError: there is none, or one is missing.
    """
    numbers = {int(match[1]) for match in map(re.compile(pattern).match, names) if match}
    if not numbers:
        raise InputError(f"{where} is not in it: there is no layer of one")
    if max(numbers) >= len(numbers):
        raise InputError(f"{where} has a layer {max(numbers)}, and lacks one of those before it")
    return len(numbers)


def _moved(move: Callable[[np.ndarray], np.ndarray], tensor: np.ndarray, name: str) -> np.ndarray:
    try:
        return np.array(move(tensor), order="C")
    except (ValueError, IndexError) as error:
        raise InputError(f"tensor {name!r} has the shape {tensor.shape}, which no such tensor has") from error


def _require_same_names(present: set[str], expected: set[str], where: str) -> None:
    for difference, problem in [(expected - present, "lacks"), (present - expected, "has an unknown")]:
        if difference:
            more = f" and {len(difference) - 1} more" if len(difference) > 1 else ""
            raise InputError(f"{where} {problem} tensor {min(difference)!r}{more}")
