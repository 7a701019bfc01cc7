"""The tokenizer backed by tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken
from transformers import BertTokenizer

from convbert.tokenization.shared import (
    TOO_SHORT,
    BertConventions,
    check_word_limit,
    refuse_surrogates,
    save_rules,
)
from convbert.tokenization.vocabulary import PathLike, build_vocabulary
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

    def __init__(
        self,
        vocab: PathLike | Mapping[str, int] | None = None,
        *,
        vocab_file: PathLike | None = None,
        do_lower_case: bool | None = None,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        max_input_chars_per_word: int = 100,
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken | None = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken | None = "[MASK]",
        **kwargs: Any,
    ) -> None:
        kwargs.pop("tokenizer_file", None)
        backend = kwargs.get("tokenizer_object")
        added_tokens = kwargs.get("added_tokens_decoder", {})
        if vocab is None:
            vocab = vocab_file
        if vocab is None and backend is not None:  # from `train_new_from_iterator`, whose new rows it holds
            vocab, added_tokens = backend.get_vocab(with_added_tokens=False), {}
        named_tokens = {
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        vocabulary = build_vocabulary(
            vocab,
            named_tokens,
            added_tokens,
            kwargs.get("name_or_path"),
            guessed=do_lower_case is None and backend is None,
            accents_said=strip_accents is not None,
        )
        do_lower_case = do_lower_case is not False
        self.max_input_chars_per_word = check_word_limit(max_input_chars_per_word)
        super().__init__(
            vocab=vocabulary,
            do_lower_case=do_lower_case,
            strip_accents=strip_accents,
            tokenize_chinese_chars=tokenize_chinese_chars,
            max_input_chars_per_word=max_input_chars_per_word,
            **named_tokens,
            **kwargs,
        )
        self.backend_tokenizer.model.max_input_chars_per_word = max_input_chars_per_word
        self.backend_tokenizer.model.unk_token = str(unk_token)

    def _base_vocabulary(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab(with_added_tokens=False)

    def _save_pretrained(
        self,
        save_directory: PathLike,
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        """The one file that holds everything, written whole or not at all."""
        path = save_rules(self.backend_tokenizer, save_directory, filename_prefix, file_names[0])
        return (*file_names, path)

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
