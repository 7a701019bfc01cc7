"""What a run begins with: a vocabulary, and weights that were trained before, where it is given some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from convbert.configuration import ConvBertConfig
from convbert.damage import naming_damage
from convbert.errors import InputError
from convbert.loading import find_model, load_filled
from convbert.pretraining.data import PathLike, Source, prepared_folder
from convbert.pretraining.folder import RunFolder
from convbert.pretraining.objective import Objective
from convbert.pretraining.recipes import PretrainingPlan
from convbert.pretraining.vocabulary import check_tokenizer, load_tokenizer, train_wordpiece
from convbert.tokenization import ConvBertTokenizerFast

_ARCHITECTURE = (
    *("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_kept_heads", "head_size"),
    *("conv_kernel_size", "intermediate_size", "num_groups", "hidden_act"),
    *("max_position_embeddings", "type_vocab_size"),
)


def resolve_tokenizer(
    plan: PretrainingPlan,
    corpus: Source,
    folder: RunFolder,
    tokenizer: PathLike | PreTrainedTokenizerBase | None,
    report: Callable[[str], None],
) -> PreTrainedTokenizerBase:
    """The given tokenizer, else that of the model to start from, else that of a prepared corpus, else one learned from
    the corpus, which is then kept in `folder`."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return check_tokenizer(tokenizer, "the given tokenizer")
    if tokenizer is not None:
        return load_tokenizer(tokenizer)
    if plan.start_from is not None:
        return _tokenizer_of(plan.start_from)
    if (folder.tokenizer / "tokenizer.json").exists():
        return load_tokenizer(folder.tokenizer)
    if (prepared := prepared_folder(corpus)) is not None:
        return load_tokenizer(prepared / "tokenizer")
    report(f"learning a vocabulary of {plan.vocab_size}")
    return train_wordpiece(
        corpus,
        plan.vocab_size,
        folder.tokenizer,
        lowercase=plan.lowercase,
        min_frequency=plan.min_frequency,
        limit_alphabet=plan.limit_alphabet,
    )


def check_beginning(plan: PretrainingPlan, vocab_size: int) -> None:
    """Refuse checkpoints that do not fit the plan, before any work is done.

    Args:
        vocab_size: of the run's tokenizer.

    Raises:
        InputError: there is no such model, or it has another architecture than the plan says; named field by field.
    """
    config = plan.model_config(vocab_size)
    wanted = {"model": config}
    if plan.start_generator_from is not None:
        wanted["generator"] = plan.generator_config(config)
    for name, source in _sources(plan).items():
        with naming_damage(source):
            stored = ConvBertConfig.from_pretrained(source)
        ours, theirs = _architecture(wanted[name]), _architecture(stored)
        if differing := [field for field in _ARCHITECTURE if ours[field] != theirs[field]]:
            told = ", ".join(f"{field} is {theirs[field]} there, {ours[field]} here" for field in differing)
            raise InputError(f"{source}: cannot be the beginning of the {name} of this run: {told}")


def begin(objective: Objective, plan: PretrainingPlan) -> dict[str, str]:
    """Load what the plan starts from. A head that a checkpoint does not have starts anew.

    Returns:
        Name of the model to its source, for those that were loaded.

    Raises:
        InputError: a source's weights do not fill an encoder; or two that share their embeddings in this run have
            different ones.
    """
    sources, models = _sources(plan), objective.models()
    for name, source in sources.items():
        model = models[name]
        before = model.get_input_embeddings().weight.detach().clone()
        with naming_damage(source):
            filled = load_filled(type(model), source, optional_head=True)
        model.load_state_dict(filled.state_dict())
        shares = name == "generator" and "model" in sources and not plan.untied_generator_embeddings
        if shares and not torch.equal(before, model.get_input_embeddings().weight):
            raise InputError(
                f"{source}: has other embeddings than {sources['model']}, and the two share them in this run: "
                "take both from one run"
            )
    return sources


def _tokenizer_of(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the model that a run starts from.

    Raises:
        InputError: it has none, or one without the special tokens that pre-training needs.
    """
    name = find_model(source)
    with naming_damage(name):
        return check_tokenizer(ConvBertTokenizerFast.from_pretrained(name), name)


def _sources(plan: PretrainingPlan) -> dict[str, str]:
    named = {"model": plan.start_from, "generator": plan.start_generator_from}
    return {name: find_model(source) for name, source in named.items() if source is not None}


def _architecture(config: ConvBertConfig) -> dict[str, Any]:
    return {field: getattr(config, field) for field in _ARCHITECTURE}
