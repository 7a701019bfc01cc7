"""The original's settings as our configuration, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from convbert.configuration import ConvBertConfig, original_head_size
from convbert.util.errors import InputError
from convbert.util.schema import Schema, check

Part = Literal["discriminator", "generator", "masked_lm"]

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
    untied_generator_embeddings: bool = False
    do_lower_case: bool | None = None


_OTHER_SETTINGS = {"num_attention_heads", "linear_groups", "conv_type"}


def config_from_tensorflow(config: Mapping[str, Any], part: Part) -> ConvBertConfig:
    """Our configuration of one encoder of the original.

    Args:
        config: the original's settings: `bert_config` (the discriminator's), `generator_config`, and
            `pretraining_config` for the `embedding_size` that both share.
        part: which encoder.

    Raises:
        InputError: a setting is missing, or describes a model that is not a ConvBERT.
    """
    where = "the original's configuration"
    section = "generator_config" if part == "generator" else "bert_config"
    for name in (section, "pretraining_config"):
        if not isinstance(config, Mapping) or not isinstance(config.get(name), Mapping):
            raise InputError(f"{where} must hold {name!r}, got {config!r:.60}")
    settings = check(_Encoder, dict(config[section]), f"{where}, {section}")
    shared = check(_Shared, dict(config["pretraining_config"]), f"{where}, pretraining_config")
    own_tables = part == "generator" and shared.untied_generator_embeddings
    return ConvBertConfig(
        **settings.model_dump(include=set(_Encoder.model_fields) - _OTHER_SETTINGS),
        embedding_size=settings.hidden_size if own_tables else shared.embedding_size,
        num_attention_heads=int(settings.num_attention_heads),
        num_groups=settings.linear_groups,
        attention_head_size=original_head_size(
            settings.hidden_size, settings.num_attention_heads, settings.head_ratio
        ),
        layer_norm_eps=1e-12,
        pad_token_id=0,
    )


def describes(content: Any, configs: Mapping[Part, ConvBertConfig]) -> bool:
    """Whether the original's settings are those of these encoders."""
    try:
        found = {part: config_from_tensorflow(content, part) for part in configs}
    except InputError:
        return False
    names = set(_Encoder.model_fields) - _OTHER_SETTINGS
    names |= {"num_attention_heads", "num_groups", "attention_head_size", "embedding_size", "layer_norm_eps"}
    return all(
        getattr(found[part], name) == getattr(configs[part], name) for part in configs for name in names
    )


_ACTIVATIONS = ("gelu", "relu", "tanh", "linear")
_NORM_EPS = 1e-12


def config_to_tensorflow(
    configs: Mapping[Part, ConvBertConfig], *, own_tables: bool = False, do_lower_case: bool = True
) -> dict[str, dict[str, Any]]:
    """The way back: the original's `bert_config`, `generator_config` and `pretraining_config`.

    Args:
        configs: of the encoders that there are.
        own_tables: the generator has embeddings of its own.
        do_lower_case: of the tokenizer.

    Raises:
        InputError: the original cannot build such a model.
    """
    sections = {
        "generator_config" if part == "generator" else "bert_config": _encoder_settings(config)
        for part, config in configs.items()
    }
    first = next(iter(configs.values()))
    encoder = sections.get("bert_config") or sections["generator_config"]
    pretraining: dict[str, Any] = {
        "electra_objective": "discriminator" in configs,
        "uniform_generator": [*configs] == ["discriminator"],
        "untied_generator": "generator" in configs,
        "untied_generator_embeddings": own_tables,
        "embedding_size": first.embedding_size,
        "vocab_size": first.vocab_size,
        "max_seq_length": first.max_position_embeddings,
        "do_lower_case": do_lower_case,
        **{name: encoder[name] for name in ("conv_kernel_size", "conv_type", "head_ratio", "linear_groups")},
        "model_hparam_overrides": {
            name: encoder[name]
            for name in (
                *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
                *("max_position_embeddings", "hidden_act", "initializer_range"),
            )
        },
    }
    if len(sections) == 2:
        for name, size in (
            ("generator_hidden_size", "hidden_size"),
            ("generator_layers", "num_hidden_layers"),
        ):
            pretraining[name] = sections["generator_config"][size] / sections["bert_config"][size]
    return {**sections, "pretraining_config": pretraining}


def _encoder_settings(config: ConvBertConfig) -> dict[str, Any]:
    if config.layer_norm_eps != _NORM_EPS:
        raise InputError(
            f"layer_norm_eps is {config.layer_norm_eps:g}; the original's is always {_NORM_EPS:g}"
        )
    if config.hidden_act not in _ACTIVATIONS:
        raise InputError(f"hidden_act is {config.hidden_act!r}; the original has {', '.join(_ACTIVATIONS)}")
    heads, ratio = _original_heads(config)
    same = set(_Encoder.model_fields) - _OTHER_SETTINGS - {"head_ratio"}
    return {
        **{name: getattr(config, name) for name in sorted(same)},
        "num_attention_heads": heads,
        "head_ratio": ratio,
        "linear_groups": config.num_groups,
        "conv_type": "sdconv",
    }


def _original_heads(config: ConvBertConfig) -> tuple[int, int]:
    """num_attention_heads and head_ratio with which the original has as many kept heads of the same width."""
    kept, width = config.num_kept_heads, config.head_size
    heads, rest = divmod(config.hidden_size, width)
    for ratio in (config.head_ratio, 2, heads // kept):
        if not rest and ratio and max(1, heads // ratio) == kept:
            return heads, ratio
    raise InputError(
        f"hidden_size ({config.hidden_size}) with {kept} kept heads of width {width} is a model that the original "
        "cannot build: its heads have hidden_size / num_attention_heads"
    )
