"""Who encodes chunks: this process, several on this machine, or a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from functools import partial

from convbert.pretraining.corpus.encoding import Encoder
from convbert.pretraining.corpus.reading import Chunk
from convbert.pretraining.corpus.shards import Counts
from convbert.util.workers import in_order, processes, ray_cluster

Encoded = tuple[bytes, Counts]


def encode_in_order(
    chunks: Iterable[Chunk], encoder: Encoder, workers: int, engine: str = "local"
) -> Generator[tuple[Chunk, Encoded]]:
    """Yield every chunk with what became of it; of as many chunks as there are workers, and two, at a time.

    Args:
        workers: processes; 1 encodes here, on the tokenizer's own threads. With Ray, the cluster's CPUs count.

    Raises:
        InputError: a chunk cannot be encoded, a worker died, or there is no cluster.
    """
    if engine == "ray":
        yield from _by_ray(chunks, encoder)
    elif workers == 1:
        yield from ((chunk, encoder.encode(chunk)) for chunk in chunks)
    else:
        with processes(partial(_encode_by, encoder), workers) as submit:
            yield from in_order(chunks, submit, workers)


def _encode_by(encoder: Encoder) -> Callable[[Chunk], Encoded]:
    return encoder.encode


def _by_ray(chunks: Iterable[Chunk], encoder: Encoder) -> Generator[tuple[Chunk, Encoded]]:
    """Tasks rather than Ray Data: chunks are read one after the other, and keep their order."""
    with ray_cluster():
        import ray

        shared = ray.put(encoder)
        task = ray.remote(num_cpus=1)(_encode_remotely)
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        yield from in_order(chunks, lambda chunk: task.remote(shared, chunk).future(), cpus)


def _encode_remotely(encoder: Encoder, chunk: Chunk) -> Encoded:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return encoder.encode(chunk)
