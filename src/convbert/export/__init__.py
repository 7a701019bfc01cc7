"""A model for other runtimes: traced once, written as they read it, and checked there before it is kept."""

from convbert.export.run import Exported, export

__all__ = ["Exported", "export"]
