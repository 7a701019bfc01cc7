"""What a worker holds and does: models behind pipelines, and portions of texts answered by them."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import torch

from convbert.configuration import ConvBertConfig
from convbert.inference.engine import MAX_TOKENS
from convbert.inference.loading import TASKS, find_model
from convbert.inference.pipelines import PackedPipeline, pipeline
from convbert.inference.pipelines.build import PIPELINES
from convbert.inference.precision import Precision
from convbert.inference.windows import Long
from convbert.serving.maps import stream_maps
from convbert.util.errors import DataWarning, InputError

EMBEDDING = "feature-extraction"
MAPS = "maps"
"""What every model can do beside the task of its head."""
LABELLING = ("text-classification", "token-classification")


@dataclass(frozen=True)
class Models:
    """What to serve, and how to run it.

    Args:
        sources: pairs of a name and a folder, or a name on the Hub; None is the embedded model.
        precision, device: see `convbert.load`.
        max_tokens: tokens in one batch.
        pooling: of embeddings, see `FeatureExtraction`.
        long: what is done with a text that is longer than its model reads, see `PackedPipeline`.
        threads: of a worker; 0 leaves the choice to PyTorch.
    """

    sources: tuple[tuple[str, str | None], ...] = (("convbert", None),)
    precision: Precision = "auto"
    device: str | None = None
    max_tokens: int = MAX_TOKENS
    pooling: str = "mean"
    long: Long = "windows"
    threads: int = 0


@dataclass(frozen=True)
class ModelInfo:
    """What clients may know of a model; `task` is the one that its head was trained for."""

    name: str
    task: str
    labels: list[str]
    max_length: int
    hidden_size: int
    num_layers: int
    dtype: str


class Job(NamedTuple):
    """What is asked of a text; texts of one job are answered together."""

    model: str
    task: str
    params: tuple[tuple[str, Any], ...] = ()


class BugError(Exception):
    """A text that made the worker raise what it should not have; the message names the exception alone."""


class Answered(NamedTuple):
    """A portion's answers, in its order, or an `InputError` or a `BugError` in place of one.

    `tokens` are those of each text, without special ones, and `unknown` of all of them those that are `[UNK]`.
    """

    answers: list[Any]
    tokens: list[int]
    unknown: int


def describe(models: Models) -> list[ModelInfo]:
    """Load the models of this process, and say what they are.

    Raises:
        InputError: see `convbert.pipeline`.
    """
    return [served.info for served in _load(models).values()]


def answer(models: Models, portion: Sequence[tuple[Job, Any]]) -> Answered:
    """Answer texts of any jobs, in batches within the budget of tokens."""
    loaded = _load(models)
    groups: dict[Job, list[int]] = defaultdict(list)
    for number, (job, _) in enumerate(portion):
        groups[job].append(number)
    answers: list[Any] = [None] * len(portion)
    tokens = [0] * len(portion)
    unknown = 0
    for job, numbers in groups.items():
        pipe = loaded[job.model].pipes[EMBEDDING if job.task == MAPS else job.task]
        before = pipe.unknown.unknown
        stream = partial(stream_maps, pipe) if job.task == MAPS else partial(pipe.stream, on_error="return")
        found = _answer_job(
            pipe, partial(stream, **dict(job.params)), [portion[number][1] for number in numbers]
        )
        for number, (each, length) in zip(numbers, found, strict=True):
            answers[number], tokens[number] = each, length
        unknown += pipe.unknown.unknown - before
    return Answered(answers, tokens, unknown)


def follow_parent() -> None:
    """Set up a process of workers: it ends when the server decides or dies, not at the signals of a terminal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


class _Served:
    """The pipelines of a model: that of its head, and vectors of its encoder."""

    def __init__(self, name: str, source: str | None, models: Models) -> None:
        folder = find_model(source)
        config = ConvBertConfig.from_pretrained(folder)
        of_class = {TASKS[task].model.__name__: task for task in reversed(PIPELINES)}  # the first of a class
        task = of_class.get((config.architectures or [""])[0], EMBEDDING)
        options: dict[str, Any] = {
            "device": models.device,
            "max_tokens": models.max_tokens,
            "long": models.long,
        }
        main = pipeline(task, folder, precision=models.precision, **options)
        self.pipes: dict[str, PackedPipeline] = {task: main}
        if task != EMBEDDING:
            self.pipes[EMBEDDING] = pipeline(EMBEDDING, main.model.base_model, main.tokenizer, **options)
        labels = config.id2label.values() if task in LABELLING else ()
        dtype = str(main.model.dtype).removeprefix("torch.")
        layers = config.num_hidden_layers
        self.info = ModelInfo(name, task, list(labels), main.max_length, config.hidden_size, layers, dtype)


@cache
def _load(models: Models) -> dict[str, _Served]:
    # Their sentences quote texts, which have no place in logs; the server counts unknown tokens itself.
    warnings.filterwarnings("ignore", category=DataWarning)
    if models.threads:
        torch.set_num_threads(models.threads)
    return {name: _Served(name, source, models) for name, source in models.sources}


def _answer_job(
    pipe: PackedPipeline, stream: Callable[..., Any], records: list[Any]
) -> list[tuple[Any, int]]:
    """Answers, with how many tokens each record has."""
    lengths: list[int] = []

    def counted() -> Iterator[Any]:
        for record in records:  # each is encoded before the next is asked for
            before = pipe.unknown.tokens
            yield record
            lengths.append(pipe.unknown.tokens - before)

    try:
        found = [_plain(each) for each in stream(counted())]
    except InputError as error:  # of the parameters
        return [(error, 0)] * len(records)
    except Exception as error:
        if len(records) > 1:  # one of them is to blame; the others are answered
            return [each for record in records for each in _answer_job(pipe, stream, [record])]
        return [(BugError(type(error).__name__), 0)]
    return list(zip(found, lengths, strict=True))


def _plain(value: Any) -> Any:
    """As lists, dictionaries and Python's numbers; a tensor as an array of fp32."""
    if isinstance(value, torch.Tensor):
        return value.float().numpy()
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.item() if hasattr(value, "item") else value
