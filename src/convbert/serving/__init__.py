"""A server: models behind HTTP, with dynamic batching by tokens."""

from convbert.serving.ray import ray_app

__all__ = ["ray_app"]
