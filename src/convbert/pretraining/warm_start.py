"""What a run starts from: its tokenizer, and for a warm start the weights of another model."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from convbert.configuration import ConvBertConfig
from convbert.files.damage import translate_errors
from convbert.inference.loading import find_model, load_filled
from convbert.pretraining.corpus.reading import PLAIN, Reading
from convbert.pretraining.corpus.shards import prepared_folder
from convbert.pretraining.corpus.sources import Corpus, PathLike
from convbert.pretraining.cost import check_memory
from convbert.pretraining.folder import RunFolder
from convbert.pretraining.objectives import Objective
from convbert.pretraining.recipes import PretrainingPlan
from convbert.pretraining.vocabulary import check_tokenizer, load_tokenizer, train_wordpiece
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError

_ARCHITECTURE = (
    *("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_kept_heads", "head_size"),
    *("conv_kernel_size", "intermediate_size", "num_groups", "hidden_act"),
    *("max_position_embeddings", "type_vocab_size"),
)


def resolve_tokenizer(
    plan: PretrainingPlan,
    corpus: Corpus,
    folder: RunFolder,
    tokenizer: PathLike | PreTrainedTokenizerBase | None,
    report: Callable[[str], None],
    reading: Reading = PLAIN,
) -> PreTrainedTokenizerBase:
    """The given tokenizer, else that of the model to start from, else that of a prepared corpus, else one learned from
    the corpus, which is then kept in `folder`.

    Raises:
        InputError: it cannot be used, or the plan decides what this tokenizer has decided.
    """
    prepared = prepared_folder(corpus)
    for given in (tokenizer, plan.start_from, prepared):
        if given is not None:
            check_undecided(plan, given if isinstance(given, str | os.PathLike) else "the given tokenizer")
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return check_tokenizer(tokenizer, "the given tokenizer")
    if tokenizer is not None:
        return load_tokenizer(tokenizer)
    if plan.start_from is not None:
        name = find_model(plan.start_from)
        with translate_errors(name):
            return check_tokenizer(ConvBertTokenizerFast.from_pretrained(name), name)
    if (folder.tokenizer / "vocab.txt").exists():  # the last file to come
        return load_tokenizer(folder.tokenizer)
    if prepared is not None:
        return load_tokenizer(prepared / "tokenizer")
    check_memory(plan, plan.vocab_size)
    report(f"learning a vocabulary of {plan.vocab_size}")
    return train_wordpiece(
        corpus,
        plan.vocab_size,
        folder.tokenizer,
        lowercase=plan.lowercase,
        keep_accents=plan.keep_accents,
        min_frequency=plan.min_frequency,
        limit_alphabet=plan.limit_alphabet,
        reading=reading,
        report=report,
    )


def stored_positions(source: str) -> int:
    """The positions of a model to start from, which a run has as well unless its plan says otherwise."""
    name = find_model(source)
    with translate_errors(name):
        return ConvBertConfig.from_pretrained(name).max_position_embeddings


def check_undecided(plan: PretrainingPlan, given: PathLike) -> None:
    """Refuse settings of a vocabulary to be learned where one is given: nobody would heed them."""
    for name in ("lowercase", "keep_accents"):
        if (value := getattr(plan, name)) is not None:
            raise InputError(
                f"{name}={value} is for a vocabulary that is learned, and this run takes that of {given}"
            )


def check_warm_start(plan: PretrainingPlan, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse checkpoints that do not fit the plan or the run's tokenizer, before any work is done.

    Raises:
        InputError: there is no such model, or it has another architecture than the plan says, named field by field; or
            another vocabulary than the tokenizer, or one that is reached by other rules.
    """
    check_memory(plan, len(tokenizer))
    config = plan.model_config(len(tokenizer))
    wanted = {"model": config}
    if plan.start_generator_from is not None:
        wanted["generator"] = plan.generator_config(config)
    for name, source in _sources(plan).items():
        with translate_errors(source):
            stored = ConvBertConfig.from_pretrained(source)
        pairs = {field: (getattr(stored, field), getattr(wanted[name], field)) for field in _ARCHITECTURE}
        differing = [f"{field} is {a} there, {b} here" for field, (a, b) in pairs.items() if a != b]
        if differing:
            told = ", ".join(differing)
            raise InputError(f"{source}: cannot be the start of the {name} of this run: {told}")
        own = _stored_tokenizer(source)
        if own is not None and (difference := _difference(own, tokenizer)):
            raise InputError(f"{source}: cannot be the start of the {name} of this run: {difference}")


def warm_start(objective: Objective, plan: PretrainingPlan) -> dict[str, str]:
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
        with translate_errors(source):
            filled = load_filled(type(model), source, optional_head=True)
        model.load_state_dict(filled.state_dict())
        shares = name == "generator" and "model" in sources
        if shares and not torch.equal(before, model.get_input_embeddings().weight):
            raise InputError(
                f"{source}: has other embeddings than {sources['model']}, and the two share them in this run: "
                "take both from one run"
            )
    return sources


def _stored_tokenizer(source: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside a model; None where there is none, so that the given one must be taken for its own."""
    if not any(_is_there(source, name) for name in ("tokenizer.json", "vocab.txt")):
        return None
    with translate_errors(source):
        return ConvBertTokenizerFast.from_pretrained(source)


def _is_there(source: str, name: str) -> bool:
    try:
        return cached_file(source, name) is not None
    except OSError:  # neither in the folder, nor on the Hub or in its cache
        return False


def _difference(model: PreTrainedTokenizerBase, run: PreTrainedTokenizerBase) -> str | None:
    """Why the rows of the model would mean other words in this run."""
    theirs, ours = (
        {row: word for word, row in sorted(each.get_vocab().items(), reverse=True)} for each in (model, run)
    )
    if differing := [row for row in range(max(len(theirs), len(ours))) if theirs.get(row) != ours.get(row)]:
        row = differing[0]
        return (
            f"its vocabulary is not the tokenizer's: {len(differing):,} rows differ, "
            f"row {row} is {theirs.get(row)!r} there, {ours.get(row)!r} here"
        )
    for text in _PROBES:
        there, here = (each.tokenize(text) for each in (model, run))
        normal = [_normalised(each, text) for each in (model, run)]
        if there != here or (None not in normal and normal[0] != normal[1]):
            return f"its tokenizer has other rules for case, accents or words: see {text!r}"
    return None


_PROBES = ("The", "caf\u00e9", "\u0130", "don't", "\u4e2d\u6587", "\u0928\u093f", "a\u00a0b\t\u0000c")


def _normalised(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    return text if backend.normalizer is None else backend.normalizer.normalize_str(text)


def _sources(plan: PretrainingPlan) -> dict[str, str]:
    named = {"model": plan.start_from, "generator": plan.start_generator_from}
    return {name: find_model(source) for name, source in named.items() if source is not None}
