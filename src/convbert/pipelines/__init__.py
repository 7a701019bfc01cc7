"""From texts to answers: fill-mask, classification, tagging, question answering, embeddings."""

from convbert.pipelines.build import pipeline
from convbert.pipelines.feature_extraction import FeatureExtraction
from convbert.pipelines.fill_mask import FillMask
from convbert.pipelines.packed import PackedTexts
from convbert.pipelines.question_answering import QuestionAnswering
from convbert.pipelines.text_classification import TextClassification
from convbert.pipelines.token_classification import TokenClassification

__all__ = [
    "FeatureExtraction",
    "FillMask",
    "PackedTexts",
    "QuestionAnswering",
    "TextClassification",
    "TokenClassification",
    "pipeline",
]
