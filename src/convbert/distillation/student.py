"""The model that learns: a new one, one made of a ConvBERT teacher's layers, or one that is given."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import torch

from convbert.configuration import ConvBertConfig
from convbert.distillation.plan import DistillationPlan
from convbert.distillation.sentences import SentenceTeacher
from convbert.files.damage import translate_errors
from convbert.inference.loading import find_model, load_filled
from convbert.model.convbert import ConvBertModel, ConvBertPreTrainedModel
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError

_LAYER = re.compile(r"(^|\.)encoder\.layer\.(\d+)\.")


def student_tokenizer(
    plan: DistillationPlan, teacher: str, is_convbert: bool, tokenizer: str | None
) -> ConvBertTokenizerFast:
    """The tokenizer of the student: the one given, that of `start_from`, or the teacher's.

    Raises:
        InputError: one is given for a student that has its own, or the teacher's is none of WordPiece.
    """
    if tokenizer is not None and (plan.start_from is not None or takes_layers(plan, is_convbert)):
        raise InputError("the student has a vocabulary of its own: leave the tokenizer out, or give --size")
    source = find_model(plan.start_from) if plan.start_from else tokenizer or teacher
    try:
        with translate_errors(source):
            return ConvBertTokenizerFast.from_pretrained(source)
    except InputError as error:
        if source != teacher:
            raise
        raise InputError(
            f"{teacher}: its tokenizer cannot be the student's: {error}; give --tokenizer, or --start-from"
        ) from error


def taken_over(layers: int, kept: int) -> list[int]:
    """Numbers of `kept` of a teacher's layers, evenly spaced, the last among them."""
    if kept > layers:
        raise InputError(f"the teacher has {layers} layers, and the student cannot take over {kept}")
    return [(number + 1) * layers // kept - 1 for number in range(kept)]


def shrink(model: ConvBertPreTrainedModel, kept: list[int]) -> Any:
    """A copy of a ConvBERT model, whatever its head, with these of its layers."""
    config = deepcopy(model.config)
    config.num_hidden_layers = len(kept)
    student = type(model)(config)
    renamed = {}
    for name, weight in model.state_dict().items():
        layer = _LAYER.search(name)
        if layer is None:
            renamed[name] = weight
        elif int(layer[2]) in kept:
            renamed[_LAYER.sub(rf"\1encoder.layer.{kept.index(int(layer[2]))}.", name)] = weight
    student.load_state_dict(renamed)
    return student


def build_student(
    plan: DistillationPlan, teacher: str, is_convbert: bool, tokenizer: ConvBertTokenizerFast
) -> ConvBertModel:
    """The student of a sentence teacher, an encoder, before it has learned anything.

    Raises:
        InputError: the plan contradicts itself, or student, tokenizer and texts do not fit each other.
    """
    if plan.start_from is not None:
        if plan.size or plan.layers or plan.model:
            raise InputError(
                "start_from is the student as it is: leave out size, layers and fields of the model"
            )
        student = load_filled(ConvBertModel, find_model(plan.start_from))
    elif takes_layers(plan, is_convbert):
        model = load_filled(ConvBertModel, teacher)
        layers = model.config.num_hidden_layers
        student = shrink(model, taken_over(layers, plan.layers or -(-layers // 2)))
    else:
        student = ConvBertModel(new_config(plan, tokenizer))
    positions, vocabulary = student.config.max_position_embeddings, student.config.vocab_size
    if plan.max_length > positions:
        raise InputError(f"max_length is {plan.max_length}, and the student has {positions} positions")
    if len(tokenizer) > vocabulary:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, and the student {vocabulary}: give --size"
        )
    return student


def takes_layers(plan: DistillationPlan, is_convbert: bool) -> bool:
    """Whether the student is made of the teacher's own layers."""
    return is_convbert and plan.size is None and plan.start_from is None


def new_config(plan: DistillationPlan, tokenizer: ConvBertTokenizerFast) -> ConvBertConfig:
    """The configuration of a new student, without dropout: soft targets leave nothing to learn by heart."""
    if plan.layers is not None:
        raise InputError("layers are those of a ConvBERT teacher; of a new student say num_hidden_layers")
    if tokenizer.pad_token_id is None:
        raise InputError("the student's tokenizer has no [PAD]")
    own = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if given := own.keys() & plan.model.keys():
        raise InputError(f"{given.pop()} comes from the tokenizer: leave it out")
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return getattr(ConvBertConfig, plan.size or "small")(**{**no_dropout, **plan.model, **own})


@torch.no_grad()
def begin_with_token_vectors(
    student: ConvBertModel, teacher: SentenceTeacher, tokenizer: ConvBertTokenizerFast, axes: torch.Tensor
) -> None:
    """Let the embeddings of a new student give what the teacher says of each token alone.

    The table holds the vectors on their own E principal axes; the projection, or without one (E = C) the table itself,
    turns them into the space of the student's output. New layers hardly change what passes through their residuals,
    so the student begins as an average of token vectors (cf. github.com/MinishLab/model2vec).

    Args:
        axes: (D, C), see `principal_axes`.
    """
    vectors = torch.from_numpy(teacher.token_vectors(tokenizer))
    vectors = vectors - vectors.mean(0)
    embeddings = student.embeddings
    width = embeddings.word_embeddings.weight.shape[1]
    projection = getattr(student, "embeddings_project", None)
    if projection is None:
        table = vectors @ axes
    else:
        own_axes = torch.linalg.svd(vectors, full_matrices=False).Vh[:width].T  # (D, E)
        table = vectors @ own_axes
        projection.weight.zero_()
        projection.weight[:, : own_axes.shape[1]] = axes.T @ own_axes
        projection.bias.zero_()
    embeddings.word_embeddings.weight.zero_()
    embeddings.word_embeddings.weight[:, : table.shape[1]] = table / table.std() * _SCALE
    embeddings.word_embeddings.weight[tokenizer.pad_token_id] = 0.0


_SCALE = 0.1
"""Standard deviation of the token vectors: above that of new position embeddings, 0.02, beside which they stand."""
