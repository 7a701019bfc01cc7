"""On request, transformers' Auto classes and `transformers.pipeline` build our ConvBERT, not theirs."""

from __future__ import annotations

import transformers

from convbert.configuration import ConvBertConfig
from convbert.model.convbert import ConvBertModel
from convbert.model.heads.masked_lm import ConvBertForMaskedLM
from convbert.model.heads.multiple_choice import ConvBertForMultipleChoice
from convbert.model.heads.question_answering import ConvBertForQuestionAnswering
from convbert.model.heads.replaced_token import ConvBertForPreTraining
from convbert.model.heads.sequence_classification import ConvBertForSequenceClassification
from convbert.model.heads.token_classification import ConvBertForTokenClassification
from convbert.tokenization import ConvBertTokenizer, ConvBertTokenizerFast

_MODELS = {
    transformers.AutoModel: ConvBertModel,
    transformers.AutoModelForMaskedLM: ConvBertForMaskedLM,
    transformers.AutoModelForMultipleChoice: ConvBertForMultipleChoice,
    transformers.AutoModelForPreTraining: ConvBertForPreTraining,
    transformers.AutoModelForQuestionAnswering: ConvBertForQuestionAnswering,
    transformers.AutoModelForSequenceClassification: ConvBertForSequenceClassification,
    transformers.AutoModelForTokenClassification: ConvBertForTokenClassification,
}


def register_auto_classes() -> None:
    """Put our classes in the place of transformers' for the model type "convbert", in this process.

    The model type is theirs as well: until the process ends, the Auto classes no longer build their ConvBERT.
    Calling it again changes nothing.
    """
    transformers.AutoConfig.register(ConvBertConfig.model_type, ConvBertConfig, exist_ok=True)
    for auto_class, model_class in _MODELS.items():
        auto_class.register(ConvBertConfig, model_class, exist_ok=True)
    transformers.AutoTokenizer.register(
        ConvBertConfig,
        slow_tokenizer_class=ConvBertTokenizer,
        fast_tokenizer_class=ConvBertTokenizerFast,
        exist_ok=True,
    )
