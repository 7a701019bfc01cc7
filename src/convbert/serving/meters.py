"""What `/metrics` says, in the words of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Meters:
    """The counters of a server.

    Args:
        waiting: how many texts wait at the moment.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"convbert_{name}", text, labels, registry=self.registry)

        self.requests = counter("requests", "Requests answered.", "path", "status")
        self.texts = counter("texts", "Texts answered.")
        self.tokens = counter("tokens", "Tokens of these texts, without special ones.")
        self.unknown = counter("unknown_tokens", "How many of them are [UNK].")
        self.restarts = counter("worker_restarts", "Workers that ended and were replaced.")
        self.seconds = Histogram(
            "convbert_request_seconds", "From a request to its answer.", ["path"], registry=self.registry
        )
        self.batch = Histogram(
            "convbert_batch_texts",
            "Texts handed to a worker together.",
            buckets=[1, 2, 4, 8, 16, 32, 64, 128, 256],
            registry=self.registry,
        )
        Gauge("convbert_queue_texts", "Texts that wait.", registry=self.registry).set_function(waiting)

    def count(self, texts: int, tokens: int, unknown: int) -> None:
        """Count a portion."""
        self.batch.observe(texts)
        self.texts.inc(texts)
        self.tokens.inc(tokens)
        self.unknown.inc(unknown)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
