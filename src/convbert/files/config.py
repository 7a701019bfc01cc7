"""What a `config.json` may hold: read once, at the door, in the forms that old and hand-made files have."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from convbert.util.errors import InputError
from convbert.util.schema import Schema, check

Size = Annotated[int, Field(ge=1, le=2**24)]
Share = Annotated[float, Field(ge=0, lt=1)]
Dtype = Literal["float16", "bfloat16", "float32", "float64"] | None
TokenId = Annotated[int, Field(ge=-(2**31), lt=2**31)]

_TRUE_NAMES = {"convbert": "convbert", "conv_bert": "convbert"}
_MOST_LABELS = 2**17


class ConfigFile(Schema):
    """Types and ranges of the keys that a model is built from; a key that is missing has its default."""

    vocab_size: Size = 1
    embedding_size: Size = 1
    hidden_size: Size = 1
    intermediate_size: Size = 1
    max_position_embeddings: Size = 1
    type_vocab_size: Size = 1
    num_hidden_layers: Annotated[int, Field(ge=0, le=1000)] = 0
    num_attention_heads: Size = 1
    head_ratio: Size = 1
    conv_kernel_size: Size = 1
    num_groups: Size = 1
    attention_head_size: Size | None = None
    conv_reads_padding: bool = False
    hidden_act: str = "gelu"
    hidden_dropout_prob: Share = 0.0
    attention_probs_dropout_prob: Share = 0.0
    classifier_dropout: Share | None = None
    layer_norm_eps: Annotated[float, Field(ge=0, le=1)] = 0.0
    initializer_range: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    pad_token_id: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    sep_token_id: TokenId | None = None
    cls_token_id: TokenId | None = None
    is_decoder: bool = False
    is_encoder_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    chunk_size_feed_forward: Annotated[int, Field(ge=0, lt=2**31)] = 0
    problem_type: (
        Literal["regression", "single_label_classification", "multi_label_classification"] | None
    ) = None
    output_attentions: bool | None = False
    output_hidden_states: bool | None = False
    return_dict: bool | None = True
    torchscript: bool | None = False
    dtype: Dtype = None
    torch_dtype: Dtype = None
    attn_implementation: str | None = None
    transformers_version: str | None = None
    summary_type: Literal["last", "first", "mean", "cls_index", "attn"] = "last"
    summary_use_proj: bool | None = None
    summary_activation: str | None = None
    summary_proj_to_labels: bool | None = None
    summary_first_dropout: Share = 0.0
    summary_last_dropout: Share = 0.0
    quantization_config: None = None


def read_config_file(content: Any, source: object = "config.json") -> dict[str, Any]:
    """A copy of the content of a `config.json` with model type, architectures and labels in today's form.

    Raises:
        InputError: it is of another model, a key has another type or range, or the labels contradict each other.
    """
    if not isinstance(content, dict):
        raise InputError(f"{source}: must be a JSON object")
    content = dict(content)
    kind = content.get("model_type", "convbert")
    if not isinstance(kind, str) or kind not in _TRUE_NAMES:
        raise InputError(f'{source}: is of another model: model_type is {kind!r:.60}, not "convbert"')
    content["model_type"] = _TRUE_NAMES[kind]
    if content.get("quantization_config") is not None:
        raise InputError(
            f"{source}: quantization_config: weights that were quantised elsewhere cannot be read"
        )
    check(ConfigFile, content, source)
    content["architectures"] = _architectures(content.get("architectures"), source)
    _set_labels(content, source)
    return content


def _architectures(found: Any, source: object) -> list[str] | None:
    """Their names in PyTorch, or None."""
    names = [found] if isinstance(found, str) else found
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{source}: architectures: must be a list of names, got {found!r:.60}")
    return [re.sub(r"^(TF|Flax)(?=ConvBert)", "", name) for name in names] or None


def _set_labels(content: dict[str, Any], source: object) -> None:
    """Bring `id2label`, `label2id` and `num_labels` into one form: keys 0 ... n - 1 to names."""
    numbers = {name: content.pop(name, None) for name in ("num_labels", "_num_labels")}
    count = next((_count(numbers[name], name, source) for name in numbers if numbers[name] is not None), None)
    labels = content.pop("id2label", None)
    content.pop("label2id", None)
    if isinstance(labels, list):
        labels = dict(enumerate(labels))
    if labels is not None and not isinstance(labels, dict):
        raise InputError(f"{source}: id2label: must be an object, got {labels!r:.60}")
    if not labels:
        if count is not None:
            content["num_labels"] = count
        return
    names = _names(labels, source)
    are_defaults = all(name == f"LABEL_{number}" for number, name in enumerate(names))
    if count is not None and count != len(names) and are_defaults:
        names = [f"LABEL_{number}" for number in range(count)]
    content["id2label"] = dict(enumerate(names))
    content["label2id"] = {name: number for number, name in enumerate(names)}


def _names(labels: dict[Any, Any], source: object) -> list[str]:
    try:
        by_number = {int(number): name for number, name in labels.items()}
    except ValueError as error:
        raise InputError(f"{source}: id2label: its keys must be whole numbers ({error})") from error
    numbers = sorted(by_number)
    if len(numbers) != len(labels) or numbers[0] not in (0, 1) or numbers[-1] - numbers[0] + 1 != len(labels):
        raise InputError(f"{source}: id2label: its keys must be 0 to {len(labels) - 1}, got {numbers!r:.60}")
    if not all(isinstance(name, str | int | float | None) for name in by_number.values()):
        raise InputError(
            f"{source}: id2label: its values must be names, got {list(by_number.values())!r:.60}"
        )
    return [
        f"LABEL_{at}" if by_number[number] is None else str(by_number[number])
        for at, number in enumerate(numbers)
    ]


def _count(found: Any, name: str, source: object) -> int:
    if isinstance(found, str) and re.fullmatch(r"[0-9]{1,9}", found):
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= _MOST_LABELS:
        raise InputError(
            f"{source}: {name}: must be a whole number from 1 to {_MOST_LABELS}, got {found!r:.60}"
        )
    return found
