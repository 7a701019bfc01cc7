"""Whole conversions: a checkpoint of the original or a file of weights to model folders, and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convbert.configuration import ConvBertConfig
from convbert.conversion.architecture import TIED
from convbert.conversion.folders import (
    TOKENIZER_FILES,
    Conversion,
    Model,
    build_tokenizer,
    fit,
    naming,
    read_model,
    read_tokenizer,
    write_model,
)
from convbert.conversion.rename import (
    Part,
    from_tensorflow,
    parts_in,
    to_tensorflow,
    unused_reason,
    variables_of,
)
from convbert.conversion.settings import config_from_tensorflow, config_to_tensorflow, describes
from convbert.conversion.tensorflow import find_checkpoint, read_checkpoint, write_checkpoint
from convbert.conversion.vocabulary import read_vocabulary
from convbert.files.atomic import atomic_folder
from convbert.model.convbert import ConvBertModel
from convbert.util.errors import InputError
from convbert.util.schema import read_json

RECORD_FILE = "conversion.json"
"""Beside what came from TensorFlow: what was done, and the step, which no model holds."""
SETTINGS_FILE = "configure.json"
"""The original's settings, beside a checkpoint of it or what came from one."""

_TABLES = "convbert.embeddings."
_CLASSES_OF_PARTS: dict[str, Part] = {
    "ConvBertForPreTraining": "discriminator",
    "ConvBertModel": "discriminator",
    "ConvBertForMaskedLM": "masked_lm",
}


def is_tensorflow(source: Path) -> bool:
    """Whether a path looks like a checkpoint of TensorFlow."""
    if source.is_dir():
        has_weights = any(source.glob("*.safetensors")) or any(source.glob("*.bin"))
        return not has_weights and ((source / "checkpoint").is_file() or any(source.glob("*.index")))
    try:
        find_checkpoint(source)
    except InputError:
        return False
    return True


def convert_from_tensorflow(
    source: Path,
    output: Path,
    *,
    settings: Path | None = None,
    vocab: Path | None = None,
    repair_vocab: bool = False,
) -> Conversion:
    """Write the encoders of a checkpoint of the original as `output/model` and `output/generator`.

    Args:
        source: see `find_checkpoint`.
        output: a folder that does not exist yet.
        settings: JSON with the original's `bert_config`, `generator_config` and `pretraining_config`. Without it, the
            sizes are inferred from the shapes.
        vocab: the vocabulary file.
        repair_vocab: repair its line ends and misread characters, where nothing is lost.

    Raises:
        InputError: a file is missing or damaged, or does not fit the others; nothing has been written.
    """
    _refuse_existing(output)
    prefix = find_checkpoint(source)
    content: Any = None if settings is None else read_json(settings)
    repair = None if vocab is None else read_vocabulary(vocab, repair=repair_vocab)
    tensors = read_checkpoint(prefix)
    report = Conversion(str(source), str(output), "pytorch", tensors=len(tensors))
    models: dict[str, Model] = {}
    used: set[str] = set()
    with naming(prefix):
        parts = parts_in(tensors)
    for folder, part in parts.items():
        config = None
        if settings is not None:
            with naming(settings):
                config = config_from_tensorflow(content, part)
        with naming(prefix):
            models[folder] = fit(
                from_tensorflow(tensors, part), config, f"its {part.replace('_', ' ')}", report
            )
        used |= variables_of(tensors, part)
    for name in sorted(tensors.keys() - used):
        report.leave_out(name, unused_reason(name))
    report.used = len(used)
    step = tensors.get("global_step")
    if step is not None and step.size == 1 and step.dtype.kind == "i" and step.item() >= 0:
        report.global_step = step.item()
    if "generator" not in models:
        report.notes.append("the checkpoint has no generator, so there is no generator folder")
    report.notes += [
        f"{folder}: the checkpoint has no head for it, so it is the encoder alone"
        for folder, model in models.items()
        if model.model_class is ConvBertModel
    ]
    lower = None if content is None else content["pretraining_config"].get("do_lower_case")
    tokenizer = None if repair is None else build_tokenizer(repair, vocab, models, lower, report)
    report.models = [model.record(folder) for folder, model in models.items()]
    with atomic_folder(output) as draft:
        for folder, model in models.items():
            write_model(draft / folder, model, tokenizer)
        if settings is not None:
            shutil.copyfile(settings, draft / SETTINGS_FILE)
        _write_json(draft / RECORD_FILE, report.to_dict())
    return report


def convert_from_pytorch(
    source: Path,
    output: Path,
    *,
    config: Path | None = None,
    vocab: Path | None = None,
    repair_vocab: bool = False,
) -> Conversion:
    """Write the model in a folder or file of PyTorch's as an ordinary model folder.

    Args:
        source: a folder, or a file of `torch.save` or safetensors; see `read_weights`.
        output: a folder that does not exist yet.
        config: `config.json`; by default the one beside the weights. Without one, sizes are inferred from the shapes.
        vocab: the vocabulary file; by default the tokenizer beside the weights.
        repair_vocab: as in `convert_from_tensorflow`.

    Raises:
        InputError: as there.
    """
    _refuse_existing(output)
    repair = None if vocab is None else read_vocabulary(vocab, repair=repair_vocab)
    report = Conversion(str(source), str(output), "pytorch")
    model, folder = read_model(source, config, report)
    tokenizer = None
    if repair is not None:
        tokenizer = build_tokenizer(repair, vocab, {"the model": model}, None, report)
    elif folder is not None and any((folder / name).is_file() for name in TOKENIZER_FILES):
        tokenizer = read_tokenizer(folder, model, report)
    report.models = [model.record(".")]
    with atomic_folder(output) as draft:
        write_model(draft, model, tokenizer)
    return report


def convert_to_tensorflow(source: Path, output: Path) -> Conversion:
    """Write a pre-training folder, or one model folder, as a checkpoint of the original.

    Beside the checkpoint: `checkpoint`, which names it, `configure.json` and, where there is a tokenizer, `vocab.txt`.

    Args:
        source: a folder with `model` and `generator`, or one of them, or a model folder.
        output: the prefix, such as `tf/model.ckpt`.

    Raises:
        InputError: there is no model that the original has, or one of the files to write exists; nothing has been
            written.
    """
    if output.is_dir():
        raise InputError(f"{output}: is a folder; give a prefix, such as {output / 'model.ckpt'}")
    target = output.parent
    written = (
        f"{output.name}.index",
        f"{output.name}.data-00000-of-00001",
        "checkpoint",
        SETTINGS_FILE,
        "vocab.txt",
    )
    if there := [name for name in written if (target / name).exists()]:
        raise InputError(f"{target / there[0]}: exists already; choose another folder")
    report = Conversion(str(source), str(output), "tensorflow")
    models: dict[Part, Model] = {}
    tensors: dict[str, np.ndarray] = {}
    own_tables = False
    folders = _model_folders(source)
    for folder in folders:
        model, _ = read_model(folder, None, report)
        part = _part_of(model, folder, is_second=bool(models))
        own_tables = part == "generator" and _has_own_tables(models, model, folder)
        models[part] = model
        with naming(folder):
            tensors |= to_tensorflow(model.state, part, own_tables)
        report.models.append(model.record(folder.name if folder != source else "."))
    report.global_step = _stored_step(source)
    tensors["global_step"] = np.array(report.global_step or 0, np.int64)
    tokenizer = read_tokenizer(folders[0], next(iter(models.values())), report, optional=True)
    configs = {part: model.config for part, model in models.items()}
    lower = True if tokenizer is None else bool(tokenizer.do_lower_case)
    with naming(source):
        settings = _original_settings(source, configs, own_tables, lower)
    if any(not config.conv_reads_padding for config in configs.values()):
        report.notes.append("in the original, padding in a batch changes a text's result; here it does not")
    with atomic_folder(target) as draft:
        write_checkpoint(draft / output.name, tensors)
        _write_json(draft / SETTINGS_FILE, settings)
        if tokenizer is not None:
            tokenizer.save_vocabulary(str(draft))
    return report


def _part_of(model: Model, folder: Path, *, is_second: bool) -> Part:
    name = model.model_class.__name__
    if TIED in model.state:
        raise InputError(
            f"{folder}: {TIED} is not the word embedding (tie_word_embeddings), as in the original it is"
        )
    if name not in _CLASSES_OF_PARTS:
        raise InputError(
            f"{folder}: is a {name}, a head that the original's checkpoints do not have; "
            f"there are {', '.join(_CLASSES_OF_PARTS)}"
        )
    if not is_second:
        return _CLASSES_OF_PARTS[name]
    if name == "ConvBertForMaskedLM":
        return "generator"
    raise InputError(f"{folder}: is a {name}; a generator is a ConvBertForMaskedLM")


def _has_own_tables(models: Mapping[Part, Model], generator: Model, folder: Path) -> bool:
    """Whether the generator's embeddings are others than the discriminator's."""
    if "discriminator" not in models:
        raise InputError(
            f"{folder}: is a generator beside a masked language model; give one of the two folders"
        )
    ours, theirs = generator.state, models["discriminator"].state
    names = [name for name in ours if name.startswith(_TABLES)]
    if all(
        ours[name].shape == theirs[name].shape and torch.equal(ours[name], theirs[name]) for name in names
    ):
        return False
    if generator.config.embedding_size == generator.config.hidden_size:
        return True
    raise InputError(
        f"{folder}: its embeddings are not those of the model beside it, and embedding_size "
        f"({generator.config.embedding_size}) is not hidden_size ({generator.config.hidden_size}): the original knows "
        "no such generator; give one of the two folders"
    )


def _model_folders(source: Path) -> list[Path]:
    inside = [source / name for name in ("model", "generator") if (source / name / "config.json").is_file()]
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder")
    if not inside and not (source / "config.json").is_file():
        raise InputError(
            f"{source}: holds no model: there is neither a config.json nor a folder model with one"
        )
    return inside or [source]


def _stored_step(source: Path) -> int | None:
    """The step of the training that `source` comes from, as a conversion or a pre-training noted it."""
    for name, key in ((RECORD_FILE, "global_step"), ("metrics.json", "steps")):
        if (source / name).is_file():
            content = read_json(source / name)
            step = content.get(key) if isinstance(content, dict) else None
            if type(step) is int and 0 <= step < 2**63:
                return step
    return None


def _original_settings(
    source: Path, configs: Mapping[Part, ConvBertConfig], own_tables: bool, lower: bool
) -> dict[str, Any]:
    """The settings that `source` came with, as long as they describe these models, else new ones."""
    if (source / SETTINGS_FILE).is_file():
        content = read_json(source / SETTINGS_FILE)
        if describes(content, configs):
            return content
    return config_to_tensorflow(configs, own_tables=own_tables, do_lower_case=lower)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _refuse_existing(output: Path) -> None:
    if output.exists():
        raise InputError(f"{output}: exists already; choose another folder")
