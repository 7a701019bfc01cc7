"""The server on Ray Serve: replicas on several machines, with autoscaling."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from convbert.util.errors import InputError
from convbert.util.optional import require


def ray_app(
    *models: str,
    api_key: str | None = None,
    min_replicas: int = 1,
    max_replicas: int = 4,
    cpus: float = 2,
    gpus: float = 0,
    **options: Any,
) -> Any:
    """An application for `serve.run` or `serve run FILE:NAME`; every replica is a whole server with a queue of its own.

    Args:
        models: folders, or NAME=FOLDER; none is the embedded model.
        min_replicas, max_replicas: between them, their number follows the open requests. One that dies is replaced.
        cpus, gpus: of a replica.
        options: fields of `convbert.serving.worker.Models`, such as `precision`.

    Raises:
        InputError: Ray Serve is not installed, or two models have one name.
    """
    require("serve", "ray_app")
    try:
        from ray import serve
    except ImportError as error:
        raise InputError('ray_app needs Ray Serve: pip install "convbert[serve]" "ray[serve]"') from error
    from convbert.serving.run import named
    from convbert.serving.worker import Models

    settings = Models(named(models), threads=max(1, int(cpus)), **options)

    def build() -> Any:
        from convbert.serving.app import create_app
        from convbert.serving.batching import Batcher

        # A replica is a process of its own already: it has a thread for the model.
        return create_app(Batcher(settings, make_pool=lambda: ThreadPoolExecutor(1)), api_key)

    deployment = serve.deployment(
        name="convbert",
        autoscaling_config={
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "target_ongoing_requests": 32,
        },
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
    )
    return deployment(serve.ingress(build)(type("ConvBert", (), {}))).bind()
