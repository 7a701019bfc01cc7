"""Which model a set of tensors is: its class, and its sizes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from convbert.configuration import ConvBertConfig
from convbert.conversion.rename import list_names
from convbert.inference.loading import TASKS
from convbert.model.convbert import ConvBertModel, ConvBertPreTrainedModel
from convbert.util.errors import InputError

ModelClass = type[ConvBertPreTrainedModel]

# What no shape shows: the values of the original and of the paper.
ASSUMED: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}
_CLASSES = {task.model.__name__: task.model for task in TASKS.values()}
# The tensor that tells a head; `classifier.weight` alone is one of two.
_HEADS = {
    "classifier.out_proj.weight": "ConvBertForSequenceClassification",
    "qa_outputs.weight": "ConvBertForQuestionAnswering",
    "discriminator_predictions.dense_prediction.weight": "ConvBertForPreTraining",
    "generator_predictions.dense.weight": "ConvBertForMaskedLM",
}
_LABELS = {
    "ConvBertForSequenceClassification": "classifier.out_proj.bias",
    "ConvBertForTokenClassification": "classifier.bias",
}
OF_HEADS = (
    *("classifier.", "qa_outputs.", "sequence_summary.", "generator_predictions.", "generator_lm_head."),
    "discriminator_predictions.",
)
"""How the names of the heads' tensors begin."""
_LAYER = re.compile(r"convbert\.encoder\.layer\.(\d{1,6})\.")
TIED = "generator_lm_head.weight"
"""The head's matrix, which is the word embedding; files leave it out, and loading ties it."""
_WORDS = "convbert.embeddings.word_embeddings.weight"


def find_class(state: Mapping[str, Tensor], architectures: Collection[str] | None) -> ModelClass:
    """The class of the model: by the configuration where the head that it names is there, else by the tensors.

    Args:
        state: tensors under the published names, those of the encoder below `convbert.`.
        architectures: of the configuration.

    Raises:
        InputError: the configuration names a class that is not a ConvBERT's.
    """
    if unknown := [name for name in architectures or () if name not in _CLASSES]:
        raise InputError(
            f"the configuration's architectures has {unknown[0]!r:.60}, an unsupported head; "
            f"there are {', '.join(_CLASSES)}"
        )
    found = [name for tensor, name in _HEADS.items() if tensor in state]
    if "classifier.weight" in state:
        rows = state["classifier.weight"].shape[:1]
        found.append("ConvBertForMultipleChoice" if rows == (1,) else "ConvBertForTokenClassification")
    named = [name for name in architectures or () if name != ConvBertModel.__name__]
    if "classifier.weight" in state and (
        both := {*named} & {"ConvBertForMultipleChoice", "ConvBertForTokenClassification"}
    ):
        found = [*both]
    return _CLASSES[next((name for name in named if name in found), (found or [ConvBertModel.__name__])[0])]


def infer_config(
    state: Mapping[str, Tensor], model_class: ModelClass
) -> tuple[ConvBertConfig, dict[str, Any]]:
    """The configuration that the shapes show, with `ASSUMED` for the rest, and what the shapes showed.

    Shapes show how many heads are kept and how wide they are. `head_ratio` is assumed to be the paper's 2, unless only
    another one explains them.

    Args:
        state: as for `find_class`.

    Raises:
        InputError: a tensor that is needed is missing, or has a shape of no ConvBERT.
    """
    numbers = {int(match[1]) for name in state if (match := _LAYER.match(name))}
    layer = "convbert.encoder.layer.0."
    words, embedding = _shape(state, _WORDS, 2)
    (hidden,) = _shape(state, f"{layer}attention.output.dense.bias", 1)
    (width,) = _shape(state, f"{layer}attention.self.query.bias", 1)
    (kernel_weights,) = _shape(state, f"{layer}attention.self.conv_kernel_layer.bias", 1)
    kernel = _shape(state, f"{layer}attention.self.key_conv_attn_layer.depthwise.weight", 3)[-1]
    up = f"{layer}intermediate.dense"
    (intermediate,) = _shape(state, f"{up}.bias", 1)
    kept = kernel_weights // kernel if kernel else 0
    if not kept or kernel_weights % kernel or width % kept or not width or not hidden:
        raise InputError(
            f"the shapes are of no ConvBERT: {kernel_weights} kernel weights for a kernel size of {kernel} on {width} "
            "channels"
        )
    heads, ratio, head_size = _heads(hidden, kept, width // kept)
    inferred = {
        "vocab_size": words,
        "embedding_size": embedding,
        "hidden_size": hidden,
        "num_hidden_layers": len(numbers),
        "num_attention_heads": heads,
        "attention_head_size": head_size,
        "conv_kernel_size": kernel,
        "num_groups": state[f"{up}.weight"].shape[0] if state[f"{up}.weight"].ndim == 3 else 1,
        "intermediate_size": intermediate,
        "max_position_embeddings": _shape(state, "convbert.embeddings.position_embeddings.weight", 2)[0],
        "type_vocab_size": _shape(state, "convbert.embeddings.token_type_embeddings.weight", 2)[0],
    }
    config = ConvBertConfig(**inferred, head_ratio=ratio, **ASSUMED)
    labels = state.get(_LABELS.get(model_class.__name__, ""))
    if labels is not None and labels.ndim == 1:
        config.num_labels = len(labels)
    return config, inferred


def check_fits(
    model_class: ModelClass, config: ConvBertConfig, state: Mapping[str, Tensor], where: str
) -> set[str]:
    """Compare names and shapes with those of a model of this configuration, for which no memory is taken.

    Args:
        where: what the tensors are, for messages.

    Returns:
        The names among `state` that the model has.

    Raises:
        InputError: naming what is missing or has another shape.
    """
    with torch.device("meta"):
        model = model_class(config)
    prefix = "convbert." if model_class is ConvBertModel else ""
    wanted = {f"{prefix}{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if missing := wanted.keys() - state.keys() - ({TIED} if config.tie_word_embeddings else set()):
        raise InputError(f"{where} lacks what a {model_class.__name__} needs: {list_names(missing)}")
    wrong = [
        f"{name} is {tuple(state[name].shape)}, and the configuration says {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(
            f"{where}: the configuration and the weights do not belong together: {wrong[0]}{more}"
        )
    is_tied = config.tie_word_embeddings and TIED in wanted and TIED in state
    if is_tied and not torch.equal(state[TIED], state[_WORDS]):
        raise InputError(
            f"{where}: {TIED} is another matrix than the word embedding, and tie_word_embeddings is true"
        )
    return wanted.keys() & state.keys()


def check_values(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors in fp32, as they are written.

    Raises:
        InputError: one holds something else than numbers, or NaN or infinity.
    """
    for name, tensor in state.items():
        if tensor.layout != torch.strided:
            raise InputError(f"{where}: {name} is sparse: weights must be dense")
        if not tensor.is_floating_point():
            raise InputError(
                f"{where}: {name} is {str(tensor.dtype).removeprefix('torch.')}: weights must be floats"
            )
        if not tensor.isfinite().all():
            raise InputError(
                f"{where}: {name} holds NaN or infinity: the model is damaged, or its training failed"
            )
    return {name: tensor.detach().float().contiguous() for name, tensor in state.items()}


def _heads(hidden: int, kept: int, size: int) -> tuple[int, int, int | None]:
    """num_attention_heads, head_ratio and attention_head_size of so many kept heads of this size."""
    given = None if 2 * kept * size == hidden else size
    heads = hidden // size
    if heads * size == hidden:
        for ratio in (2, heads // kept):
            if ratio and max(1, heads // ratio) == kept:
                return heads, ratio, given
    return 2 * kept, 2, given


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in state:
        raise InputError(f"the weights are not those of a ConvBERT: there is no {name}")
    shape = tuple(state[name].shape)
    if len(shape) != dimensions:
        raise InputError(f"the shapes are of no ConvBERT: {name} is {shape}")
    return shape
