"""ConvBERT: pre-train it, fine-tune it, run it fast.

Importing the package loads nothing heavy; each public name brings its own room along when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "ConvBertConfig": "configuration",
    "ConvBertForMaskedLM": "model.heads.masked_lm",
    "ConvBertForMultipleChoice": "model.heads.multiple_choice",
    "ConvBertForPreTraining": "model.heads.replaced_token",
    "ConvBertForQuestionAnswering": "model.heads.question_answering",
    "ConvBertForSequenceClassification": "model.heads.sequence_classification",
    "ConvBertForTokenClassification": "model.heads.token_classification",
    "ConvBertModel": "model.convbert",
    "ConvBertPreTrainedModel": "model.convbert",
    "ConvBertTokenizer": "tokenization",
    "ConvBertTokenizerFast": "tokenization",
    "InputError": "util.errors",
    "add_auto_map": "auto",
    "load": "inference.loading",
    "pipeline": "inference.pipelines",
    "register_auto_classes": "auto",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name == "embedded":
        return importlib.import_module("convbert.files.embedded")
    if name not in _HOMES:
        raise AttributeError(f"module 'convbert' has no attribute {name!r}")
    return getattr(importlib.import_module(f"convbert.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
