"""On request, transformers' Auto classes and `transformers.pipeline` build our ConvBERT, not theirs."""

from __future__ import annotations

import transformers

from convbert.configuration import AUTO_MAP, ConvBertConfig
from convbert.files.atomic import PathLike, atomic_folder
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
    Where peft is installed, its methods get default target modules: those of BERT, and the values of the convolution
    with those of the attention. Calling it again changes nothing.
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
    _register_target_modules()


def _register_target_modules() -> None:
    try:
        from peft.utils import constants
    except ImportError:
        return
    for name, modules_of in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and name.endswith("_MODULES_MAPPING"):
            modules = modules_of.get("bert", [])
            added = ["conv_out_layer"] if "value" in modules else []
            if modules:
                modules_of.setdefault(ConvBertConfig.model_type, [*modules, *added])


def add_auto_map(folder: PathLike) -> None:
    """Let transformers build our classes for a model folder without `register_auto_classes`, where a reader says so.

    Writes `convbert_auto.py`, four lines that import this package, and its name to `config.json`. Who loads the folder
    with `trust_remote_code=True` runs them; without it, transformers goes on to build its own ConvBERT. Folders that
    are saved from such a model have both, too.

    Raises:
        InputError: there is no model's configuration in the folder, or it cannot be written.
    """
    config = ConvBertConfig.from_pretrained(folder)
    config.auto_map = dict(AUTO_MAP)
    with atomic_folder(folder) as draft:
        config.save_pretrained(draft)
