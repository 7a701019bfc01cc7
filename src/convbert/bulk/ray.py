"""Answers by a Ray cluster, on Ray Data: actors hold the model, and die and come back without harm."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convbert.bulk.answering import Answered, Answering, Write, answer_block
from convbert.bulk.blocks import Inputs, Position, one
from convbert.bulk.tables import with_answers
from convbert.finetuning.cells import Row
from convbert.util.errors import InputError
from convbert.util.optional import require
from convbert.util.workers import ray_cluster

if TYPE_CHECKING:
    import pyarrow as pa

_READERS = 4
"""Files that are read at a time, far faster than they are answered."""


def predict_dataset(
    ds: Any,
    model: str | None = None,
    *,
    embeddings: str | None = None,
    columns: dict[str, str | None] | None = None,
    precision: str = "auto",
    device: str | None = None,
    long: str | None = None,
    workers: int | None = None,
    batch_size: int = 1024,
) -> Any:
    """Answer the rows of a Ray dataset with a fine-tuned model, or turn a text of each into a vector.

    Batches are Arrow tables and are packed by tokens inside. The order of the rows is kept where Ray is told to:
    `ds.context.execution_options.preserve_order = True`.

    Args:
        ds: a `ray.data.Dataset`. Every machine of the cluster has convbert.
        model: a folder that all of them see, or a name on the Hub; None is the embedded model, for vectors.
        embeddings: "mean", "max" or "first", see `FeatureExtraction`.
        columns: role to column, as {"text": "review"}; by default those that the model was trained on.
        precision, device: see `convbert.load`.
        long: "windows", "cut" or "refuse", of texts that are too long; None is as the model was trained.
        workers: actors at most, which share the CPUs; by default one a GPU, or one a CPU where there is none.
        batch_size: rows that an actor takes at a time.

    Returns:
        The dataset with the columns of the answers, as `convbert predict` names them (`embedding` is a fixed-size list
        of C fp32), and `error`, which is null where there is an answer. A column that was there under such a name is
        called `input_...`.

    Raises:
        InputError: Ray is missing, or the arguments contradict each other.
    """
    require("ray", "predict_dataset")
    answering = Answering(model, embeddings, columns, precision, device, long)
    return ds.map_batches(
        _TableActor,
        fn_constructor_args=(_everywhere(answering),),
        batch_size=batch_size,
        batch_format="pyarrow",
        **_resources(workers, device),
    )


def answer_by_ray(
    inputs: Inputs, start: Position, answering: Answering, write: Write, workers: int | None
) -> Iterator[Answered]:
    """Answers in the order of the files, which every machine of the cluster must see.

    Args:
        start: go on after this.
        workers: see `predict_dataset`.

    Raises:
        InputError: there is no cluster, or it failed, or a file is damaged.
    """
    with ray_cluster():
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own line shows the progress
        files = inputs.after(start)
        ds = ray.data.from_items(files, override_num_blocks=len(files))
        ds.context.execution_options.preserve_order = True
        ds.context.target_max_block_size = 1  # a row is a block of lines, or its answers: enough for a task
        ds.context.enable_progress_bars = False
        ds.context.raise_original_map_exception = True
        readers = ray.data.TaskPoolStrategy(size=_READERS)
        answered = ds.map_batches(inputs.read_batch, batch_size=1, num_cpus=0, compute=readers).map_batches(
            _BlockActor,
            fn_constructor_args=(_everywhere(answering), write),
            batch_size=1,
            batch_format="numpy",
            **_resources(workers, answering.device),
        )
        for batch in answered.iter_batches(batch_size=1, batch_format="numpy"):
            yield batch["answered"][0]


class _BlockActor:
    def __init__(self, answering: Answering, write: Write) -> None:
        self.reader, self.write = answering.load(_threads()), write

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"answered": one(answer_block(self.reader, self.write, batch["block"][0]))}


class _TableActor:
    def __init__(self, answering: Answering) -> None:
        self.reader = answering.load(_threads())

    def __call__(self, table: pa.Table) -> pa.Table:
        roles = {"id", "text", *self.reader.columns, *self.reader.columns.values()}
        wanted = roles.union(*(role.split(",") for role in roles))  # choices have several columns
        cells = table.select([name for name in table.column_names if name in wanted]).to_pylist()
        answers = list(self.reader.answer(Row("the row", each) for each in cells))
        self.reader.counts.unknown.warn_once()
        return with_answers(dict(zip(table.column_names, table.columns, strict=True)), answers)


def _everywhere(answering: Answering) -> Answering:
    """The same for processes that are started in other folders."""
    model = answering.model
    return replace(answering, model=os.path.abspath(model)) if model and os.path.exists(model) else answering


def _threads() -> int:
    """Those of the CPUs that Ray gives an actor."""
    return int(os.environ.get("OMP_NUM_THREADS", 1))


def _resources(workers: int | None, device: str | None) -> dict[str, Any]:
    """An actor a GPU, or a CPU, or a share of the CPUs; at first one, then as many as find room."""
    import ray

    if not ray.is_initialized():
        raise InputError("there is no connection to Ray: ray.init() comes first")
    total = ray.cluster_resources()
    gpus = 0 if (device or "").startswith("cpu") else int(total.get("GPU", 0))
    cpus = max(1, int(total.get("CPU", 1)))
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    most = workers or gpus or cpus
    return {
        "compute": ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        "num_gpus": 1 if gpus else 0,
        "num_cpus": 1 if gpus else max(1, min(cpus // most, max(nodes, default=1))),
    }
