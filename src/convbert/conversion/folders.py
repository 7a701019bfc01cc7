"""What a conversion reads and writes beside TensorFlow's files: model folders, and the record of what was done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from convbert.configuration import ConvBertConfig
from convbert.conversion.architecture import (
    ASSUMED,
    OF_HEADS,
    TIED,
    ModelClass,
    check_fits,
    check_values,
    find_class,
    infer_config,
)
from convbert.conversion.rename import list_names
from convbert.conversion.vocabulary import Repair
from convbert.files.atomic import save_tokenizer
from convbert.files.weights import read_weights
from convbert.model.convbert import ConvBertModel
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError
from convbert.util.schema import read_json

_PREFIX = "convbert."
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


@dataclass
class ModelRecord:
    """One model that was converted.

    Args:
        folder: where it is; "." for the output itself.
        architecture: name of its class.
        parameters: numbers in its tensors.
        tensors: that it was made of.
        sizes: of its configuration.
        inferred: fields of the configuration that the shapes showed; empty where there was a configuration.
        assumed: fields that nothing showed.
    """

    folder: str
    architecture: str
    parameters: int
    tensors: int
    sizes: dict[str, Any]
    inferred: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, Any] = field(default_factory=dict)


@dataclass
class Conversion:
    """What was done.

    Args:
        source, output: as given.
        format: of the output, "pytorch" or "tensorflow".
        models: one for each encoder.
        tensors: in the source.
        used: of these.
        unused: names of the others, by the reason.
        global_step: of the original's training; None where nothing tells.
        vocabulary: tokens, and what was repaired; None without one.
        notes: what else a reader should know, as sentences.
    """

    source: str
    output: str
    format: str
    models: list[ModelRecord] = field(default_factory=list)
    tensors: int = 0
    used: int = 0
    unused: dict[str, list[str]] = field(default_factory=dict)
    global_step: int | None = None
    vocabulary: dict[str, int] | None = None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def leave_out(self, name: str, reason: str) -> None:
        """Note a tensor that is not used."""
        self.unused.setdefault(reason, []).append(name)


@dataclass
class Model:
    """A model as it is written: tensors in fp32 under the published names, below `convbert.` for the encoder."""

    model_class: ModelClass
    config: ConvBertConfig
    state: dict[str, Tensor]
    inferred: dict[str, Any]

    def record(self, folder: str) -> ModelRecord:
        names = ("num_hidden_layers", "hidden_size", "embedding_size", "num_attention_heads", "head_ratio")
        more = ("conv_kernel_size", "num_groups", "vocab_size", "max_position_embeddings")
        return ModelRecord(
            folder=folder,
            architecture=self.model_class.__name__,
            parameters=sum(tensor.numel() for tensor in self.state.values()),
            tensors=len(self.state),
            sizes={name: getattr(self.config, name) for name in (*names, *more)},
            inferred=self.inferred,
            assumed={"head_ratio": self.config.head_ratio, **ASSUMED} if self.inferred else {},
        )


def fit(state: Mapping[str, Tensor], config: ConvBertConfig | None, where: str, report: Conversion) -> Model:
    """The model that tensors are: by its configuration or, without one, by their shapes.

    Args:
        state: under the published names, those of the encoder below `convbert.`.
        where: what the tensors are, for messages.

    Raises:
        InputError: tensors are missing, unknown, of another shape, or no finite floats.
    """
    model_class = find_class(state, None if config is None else config.architectures)
    inferred: dict[str, Any] = {}
    if config is None:
        config, inferred = infer_config(state, model_class)
    names = check_fits(model_class, config, state, where)
    foreign = []
    for name in sorted(state.keys() - names):
        if name.endswith("position_ids"):
            report.leave_out(name, "buffer, made anew")
        elif name.startswith(OF_HEADS):
            report.leave_out(name, f"head that a {model_class.__name__} does not have")
        else:
            foreign.append(name)
    if foreign:
        raise InputError(
            f"{where} holds tensors that a {model_class.__name__} of its configuration does not have: "
            f"{list_names(foreign)}"
        )
    kept = check_values({name: state[name] for name in names}, where)
    types = {str(state[name].dtype).removeprefix("torch.") for name in names} - {"float32"}
    note = f"stored in {', '.join(sorted(types))}, written in float32"
    if types and note not in report.notes:
        report.notes.append(note)
    return Model(model_class, config, kept, inferred)


def read_model(source: Path, config_path: Path | None, report: Conversion) -> tuple[Model, Path | None]:
    """A model, and the folder of its configuration, if it has one."""
    weights = read_weights(source)
    folder = source if source.is_dir() else source.parent
    if config_path is None and (folder / "config.json").is_file():
        config_path = folder / "config.json"
    config = None if config_path is None else _read_config(config_path)
    with naming(weights.file):
        model = fit(weights.state, config, "the model", report)
    for name in weights.beside:
        report.leave_out(name, "beside the model")
    report.tensors += len(weights.state) + len(weights.beside)
    report.used += len(model.state)
    report.notes += [f"{weights.file.name}: {change}" for change in weights.changes]
    if model.config.tie_word_embeddings:
        model.state.pop(TIED, None)
    return model, folder if config_path is not None else None


def _read_config(path: Path) -> ConvBertConfig:
    content = read_json(path)
    if isinstance(content, dict) and "bert_config" in content:
        raise InputError(
            f"{path}: is the original's configuration; for weights of PyTorch, give a config.json"
        )
    with naming(path):
        return ConvBertConfig.from_dict(content)


def build_tokenizer(
    repair: Repair, path: Path | None, models: Mapping[str, Model], lower: bool | None, report: Conversion
) -> ConvBertTokenizerFast:
    vocabulary = repair.vocabulary
    for model in models.values():
        _check_vocabulary(len(vocabulary), model, path, report)
    if lower is None:
        tokenizer = ConvBertTokenizerFast(vocab=vocabulary)
        cased = "uncased" if tokenizer.do_lower_case else "cased"
        report.notes.append(f"{path}: taken for {cased}; nothing tells which it is")
    else:
        tokenizer = ConvBertTokenizerFast(vocab=vocabulary, do_lower_case=lower)
    report.vocabulary = {"tokens": len(vocabulary)} | {
        name: getattr(repair, name) for name in ("crlf", "restored", "completed")
    }
    return tokenizer


def read_tokenizer(
    folder: Path, model: Model, report: Conversion, *, optional: bool = False
) -> ConvBertTokenizerFast | None:
    if optional and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        report.notes.append(f"{folder}: holds no tokenizer, so there is no vocab.txt")
        return None
    tokenizer = ConvBertTokenizerFast.from_pretrained(folder)
    _check_vocabulary(len(tokenizer), model, folder, report)
    report.vocabulary = {"tokens": len(tokenizer)}
    return tokenizer


def _check_vocabulary(tokens: int, model: Model, path: Path | None, report: Conversion) -> None:
    rows = model.config.vocab_size
    if tokens > rows:
        raise InputError(f"{path}: has {tokens} tokens, and the model's vocab_size is {rows}")
    note = f"{path}: has {tokens} tokens for the {rows} rows of the word embedding"
    if tokens < rows and note not in report.notes:
        report.notes.append(note)


def write_model(folder: Path, model: Model, tokenizer: ConvBertTokenizerFast | None) -> None:
    folder.mkdir(exist_ok=True)
    config, state = model.config, model.state
    if model.model_class is ConvBertModel:
        state = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
    config.architectures = [model.model_class.__name__]
    config.dtype = "float32"
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder, config.max_position_embeddings)


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Put the name of a file in front of what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise error if str(where) in str(error) else InputError(f"{where}: {error}") from error
