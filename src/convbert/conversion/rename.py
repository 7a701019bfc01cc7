"""What the original calls its tensors, and what we call them: a table, read both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from convbert.conversion.settings import Part, config_from_tensorflow  # noqa: F401 (scripts import it from here)
from convbert.util.errors import InputError

# "masked_lm" is the generator of a checkpoint whose only encoder is the discriminator's: the original's masked language
# model, and its `untied_generator: false`.
PARTS: tuple[Part, ...] = get_args(Part)


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

# Both encoders read the discriminator's, unless the generator has its own (`untied_generator_embeddings`).
EMBEDDINGS = [
    ("{tables}/embeddings/word_embeddings", "convbert.embeddings.word_embeddings", TABLE),
    ("{tables}/embeddings/position_embeddings", "convbert.embeddings.position_embeddings", TABLE),
    ("{tables}/embeddings/token_type_embeddings", "convbert.embeddings.token_type_embeddings", TABLE),
    ("{tables}/embeddings/LayerNorm", "convbert.embeddings.LayerNorm", NORM),
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

_SCOPE = {"discriminator": "electra", "generator": "generator", "masked_lm": "electra"}
_HEAD = {"discriminator": DISCRIMINATOR_HEAD, "generator": GENERATOR_HEAD, "masked_lm": GENERATOR_HEAD}
_HEAD_SCOPE = {
    "discriminator": "discriminator_predictions/",
    "generator": "generator_predictions/",
    "masked_lm": "generator_predictions/",
}
_SLOTS = ("/adam_m", "/adam_v", "/Adam", "/Adam_1", "/ExponentialMovingAverage")
_MOST_NAMED = 10
# The vocabulary head's matrix is the word embedding; files leave it out, and loading ties it.
_TIED = "generator_lm_head.weight"


def rules(
    part: Part, layers: int, grouped: bool, projected: bool, head: bool = True, own_tables: bool = False
) -> list[Rule]:
    """The table for one encoder, spelled out.

    Args:
        part: which encoder.
        layers: encoder layers.
        grouped: the feed-forward layers have more than one group.
        projected: the embedding width differs from the model width.
        head: the part's own head is there too.
        own_tables: the generator has embeddings of its own.
    """
    tables = "generator" if own_tables else "electra"
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
        Rule(original.format(scope=_SCOPE[part], tables=tables) + their_suffix, ours + our_suffix, change)
        for original, ours, parameters in modules
        for their_suffix, our_suffix, change in parameters
    ]


def variables_of(names: Iterable[str], part: Part) -> set[str]:
    """Those of the original's variables that belong to one encoder, without optimiser slots."""
    names = [name for name in names if not name.endswith(_SLOTS)]
    tables = "generator" if part == "generator" and has_own_tables(names) else "electra"
    scopes = (f"{_SCOPE[part]}/", f"{tables}/embeddings/", _HEAD_SCOPE[part])
    return {name for name in names if name.startswith(scopes)}


def has_own_tables(names: Iterable[str]) -> bool:
    """Whether the generator among the original's variables has embeddings of its own."""
    return any(name.startswith("generator/embeddings/") for name in names)


def parts_in(names: Collection[str]) -> dict[str, Part]:
    """The encoders of a checkpoint of the original, by the name of the folder that each becomes.

    Raises:
        InputError: there is none.
    """
    names = [name for name in names if not name.endswith(_SLOTS)]
    has_layers = {scope: any(x.startswith(f"{scope}/encoder/") for x in names) for scope in _SCOPE.values()}
    has_head = {part: any(x.startswith(_HEAD_SCOPE[part]) for x in names) for part in PARTS}
    parts: dict[str, Part] = {}
    if has_layers["electra"]:
        is_masked_lm = has_head["masked_lm"] and not has_head["discriminator"] and not has_layers["generator"]
        parts["model"] = "masked_lm" if is_masked_lm else "discriminator"
    if has_layers["generator"]:
        parts["generator"] = "generator"
    elif has_head["masked_lm"] and parts.get("model") == "discriminator":
        parts["generator"] = "masked_lm"
    if not parts:
        raise InputError(f"holds no encoder of a ConvBERT, electra/ or generator/, but {list_names(names)}")
    return parts


def unused_reason(name: str) -> str:
    """Why no encoder has a use for a variable."""
    if name.endswith(_SLOTS):
        return "optimizer slot"
    if name == "global_step":
        return "step counter, kept in conversion.json"
    if name.startswith("task_specific/"):
        return "fine-tuning head"
    if name.startswith(("electra/", "generator/", *_HEAD_SCOPE.values())):
        return "part of an encoder that is not in the checkpoint"
    return "not a variable of ConvBERT"


def from_tensorflow(tensors: Mapping[str, np.ndarray], part: Part) -> dict[str, Tensor]:
    """Our state dict of one encoder of the original, with its head where the checkpoint has one.

    Args:
        tensors: the original's variables by name, as `read_checkpoint` gives them. Optimiser slots,
            `global_step` and whatever belongs to the other encoder or to a fine-tuning head are left aside.
        part: "discriminator" (for `ConvBertForPreTraining`), "generator" or "masked_lm" (for `ConvBertForMaskedLM`).

    Returns:
        name -> tensor. `generator_lm_head.weight` is not among them: it is the word embedding.

    Raises:
        InputError: there is no such encoder in it; or a tensor of it is missing, or has a name that the table does
            not know, or a shape that it cannot have.
    """
    present = variables_of(tensors, part)
    where = f"the original's {part}"
    table = rules(
        part,
        layers=_count_layers(present, rf"{_SCOPE[part]}/encoder/layer_(\d{{1,9}})/", where),
        grouped=any("/g_dense/" in name for name in present),
        projected=f"{_SCOPE[part]}/embeddings_project/kernel" in present,
        head=any(name.startswith(_HEAD_SCOPE[part]) for name in present),
        own_tables=has_own_tables(present),
    )
    _require_same_names(present, {rule.original for rule in table}, where)
    return {
        rule.ours: torch.from_numpy(_moved(rule.change.there, tensors[rule.original], rule.original))
        for rule in table
    }


def to_tensorflow(state: Mapping[str, Tensor], part: Part, own_tables: bool = False) -> dict[str, np.ndarray]:
    """The way back: the original's variables from our state dict, float32.

    Args:
        state: the state dict of `ConvBertForPreTraining` ("discriminator") or `ConvBertForMaskedLM`
            ("generator", "masked_lm"); without its head it may be that of any of our models that has no other head.
        part: which encoder.
        own_tables: the generator's embeddings are its own, not the discriminator's.

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
        own_tables=own_tables,
    )
    _require_same_names(present, {rule.ours for rule in table}, f"our {part}")
    return {
        rule.original: _moved(rule.change.back, state[rule.ours].detach().cpu().float().numpy(), rule.ours)
        for rule in table
    }


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
            raise InputError(f"{where} {problem} tensor {list_names(difference)}")


def list_names(names: Collection[str]) -> str:
    """The first ten of them, and how many more there are."""
    first = ", ".join(map(repr, sorted(names)[:_MOST_NAMED]))
    return first + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")
