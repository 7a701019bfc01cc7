"""The tokenizer backed by tokenizers."""

from __future__ import annotations

from typing import Any

from transformers import BertTokenizer

from convbert.tokenization.shared import TOO_SHORT, BertConventions, refuse_surrogates, save_rules
from convbert.tokenization.vocabulary import PathLike
from convbert.util.errors import InputError


class ConvBertTokenizerFast(BertConventions, BertTokenizer):
    """WordPiece backed by tokenizers: offsets, word numbers, overflow by stride, pairs, pre-split words.

    Args:
        vocab: token to id, or the path of a vocabulary file.
        vocab_file: the path of a vocabulary file, where `vocab` is not given.
        do_lower_case: lower-case the text. None: as `tokenizer_object` does, else yes, with a warning where the
            vocabulary looks cased.
        strip_accents: drop accents (non-spacing marks); None follows `do_lower_case`.
        tokenize_chinese_chars: make each CJK ideograph a word.
        max_input_chars_per_word: longer words become `unk_token`.
        unk_token, sep_token, pad_token, cls_token, mask_token: must be in the vocabulary; `pad_token` and
            `mask_token` may be None.
        tokenizer_object: rules other than BERT's, of tokenizers, in the place of the switches; for `from_pretrained`.
        kwargs: as in transformers, e.g. `model_max_length`, `padding_side`, `truncation_side`.

    Raises:
        InputError: the vocabulary is missing or cannot be used (see `load_vocabulary`).
    """

    def _arguments(self, vocabulary: dict[str, int], **kwargs: Any) -> dict[str, Any]:
        return {"vocab": vocabulary, **kwargs}

    def _base_vocabulary(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab(with_added_tokens=False)

    def _save_pretrained(
        self, save_directory: PathLike, file_names: tuple[str, ...], *_: Any, **named: Any
    ) -> tuple[str, ...]:
        """The one file that holds everything, written whole or not at all."""
        return save_rules(self.backend_tokenizer, save_directory, file_names, **named)

    def _encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> Any:
        try:
            return super()._encode_plus(text, text_pair, **kwargs)
        except TypeError:
            # tokenizers says only that the type is wrong
            refuse_surrogates(text)
            refuse_surrogates(text_pair)
            raise
        except Exception as error:
            if "Truncation error" not in str(error):
                raise
            raise InputError(TOO_SHORT) from error
        except BaseException as error:
            if "`stride` must be" not in str(error):  # a panic of tokenizers, which is no Exception
                raise
            sizes = f"stride ({kwargs.get('stride')}) and max_length ({kwargs.get('max_length')})"
            raise InputError(
                f"{sizes}: a stride must be shorter than the tokens that fit beside special ones"
            ) from None
