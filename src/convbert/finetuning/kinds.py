"""The former name of `convbert.finetuning.adapters.adapter_of`, for scripts that import it."""

from convbert.finetuning.adapters import adapter_of as kind_of

__all__ = ["kind_of"]
