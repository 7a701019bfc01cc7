"""From texts to answers: fill-mask, classification, tagging, question answering, choices, embeddings."""

from convbert.inference.pipelines.base import PackedPipeline
from convbert.inference.pipelines.build import pipeline
from convbert.inference.pipelines.feature_extraction import FeatureExtraction
from convbert.inference.pipelines.fill_mask import FillMask
from convbert.inference.pipelines.multiple_choice import MultipleChoice
from convbert.inference.pipelines.question_answering import QuestionAnswering
from convbert.inference.pipelines.text_classification import TextClassification
from convbert.inference.pipelines.token_classification import TokenClassification

__all__ = [
    "FeatureExtraction",
    "FillMask",
    "MultipleChoice",
    "PackedPipeline",
    "QuestionAnswering",
    "TextClassification",
    "TokenClassification",
    "pipeline",
]
