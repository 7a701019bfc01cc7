"""What both tokenizers share: their arguments, where special tokens go, and what lies in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from convbert.files.atomic import atomic_write
from convbert.tokenization.vocabulary import VOCABULARY_FILE, PathLike, build_vocabulary
from convbert.util.errors import InputError

TOKENIZER_FILE = "tokenizer.json"


class BertConventions:
    """Comes before the class of transformers, which gets what `_arguments` makes of its own arguments."""

    vocab_files_names = {"vocab_file": VOCABULARY_FILE, "tokenizer_file": TOKENIZER_FILE}  # noqa: RUF012
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # noqa: RUF012

    is_fast: bool
    backend_tokenizer: Tokenizer
    cls_token_id: int
    sep_token_id: int
    _arguments: Callable[..., dict[str, Any]]
    _base_vocabulary: Callable[[], dict[str, int]]

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
        backend, added_tokens = kwargs.get("tokenizer_object"), kwargs.get("added_tokens_decoder", {})
        vocab = vocab_file if vocab is None else vocab
        if vocab is None and backend is not None:  # from `train_new_from_iterator`, whose new rows it holds
            vocab, added_tokens = backend.get_vocab(with_added_tokens=False), {}
        named_tokens = {
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        guessed = do_lower_case is None and backend is None
        accents_said = strip_accents is not None
        name = kwargs.get("name_or_path")
        vocabulary = build_vocabulary(vocab, named_tokens, added_tokens, name, guessed, accents_said)
        if not isinstance(max_input_chars_per_word, int) or max_input_chars_per_word < 1:
            raise InputError(
                f"max_input_chars_per_word must be a whole number of at least 1, got {max_input_chars_per_word!r}"
            )
        self.do_lower_case, self.strip_accents = do_lower_case is not False, strip_accents
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.max_input_chars_per_word = max_input_chars_per_word
        super().__init__(  # type: ignore[call-arg]  # of a class of transformers
            do_lower_case=self.do_lower_case,
            strip_accents=strip_accents,
            tokenize_chinese_chars=tokenize_chinese_chars,
            max_input_chars_per_word=max_input_chars_per_word,
            **named_tokens,
            **self._arguments(vocabulary, **kwargs),
        )
        if self.is_fast:
            model = self.backend_tokenizer.model
            model.max_input_chars_per_word, model.unk_token = max_input_chars_per_word, str(unk_token)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: PathLike, *args: Any, **kwargs: Any) -> Any:
        """Load from a folder, a single `vocab.txt` or `tokenizer.json`, or a name on the Hub.

        The folder may come from either class here, from transformers' `BertTokenizer`, or from tokenizers;
        `tokenizer.json` comes before `vocab.txt` where both are present, and its rules are used as they are. Keyword
        arguments override what the folder says.

        Raises:
            InputError: a file is damaged, or says what these tokenizers cannot do; the message names it.
        """
        from convbert.tokenization.files import check_config  # pydantic takes long to import

        config = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "", "tokenizer_config.json")
        if config.is_file():
            check_config(config)  # transformers looks into it before it calls us back
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"{pretrained_model_name_or_path}: a tokenizer file there is damaged: {error}"
            ) from error

    @classmethod
    def _from_pretrained(
        cls,
        resolved_vocab_files: dict[str, str | None],
        name: str,
        init: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Called by `from_pretrained` with the files it found."""
        from convbert.tokenization.files import read_files

        files = {key: resolved_vocab_files.pop(key, None) for key in _JSON_FILES}
        files["tokenizer_file"] = kwargs.pop("tokenizer_file", None) or files["tokenizer_file"]
        kwargs = {key: value for key, value in kwargs.items() if value is not None or key not in _UNSAID}
        arguments = read_files(files, kwargs)
        given = kwargs.pop("additional_special_tokens", None) or kwargs.pop("extra_special_tokens", None)
        if given is not None:  # beside those of the folder
            given = given.values() if isinstance(given, dict) else given
            special = {str(token): token for token in [*arguments.get("extra_special_tokens", ()), *given]}
            kwargs["extra_special_tokens"] = list(special.values())
        if "vocab" in arguments:
            resolved_vocab_files.pop("vocab_file", None)
        elif (
            resolved_vocab_files.get("vocab_file") is None
            and kwargs.get("vocab") is None
            and not kwargs.get("vocab_file")
        ):
            raise InputError(f"{name}: neither {TOKENIZER_FILE} nor {VOCABULARY_FILE} is there")
        return super()._from_pretrained(resolved_vocab_files, name, {**init, **arguments}, *args, **kwargs)  # type: ignore[misc]

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        """Called by `from_pretrained` for the constructor's arguments, which are ready."""
        return kwargs

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`[CLS] first [SEP]`, or `[CLS] first [SEP] second [SEP]`, as ids."""
        ids = [self.cls_token_id, *token_ids_0, self.sep_token_id]
        if token_ids_1 is not None:
            ids += [*token_ids_1, self.sep_token_id]
        return ids

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 where `build_inputs_with_special_tokens` puts a special token, 0 for a token of the text.

        With `already_has_special_tokens`, `token_ids_0` is a finished sequence: 1 for each special id.
        """
        if already_has_special_tokens:
            return super().get_special_tokens_mask(token_ids_0, token_ids_1, True)  # type: ignore[misc]
        mask = [1, *([0] * len(token_ids_0)), 1]
        if token_ids_1 is not None:
            mask += [*([0] * len(token_ids_1)), 1]
        return mask

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """0 for `[CLS] first [SEP]`, 1 for `second [SEP]`."""
        types = [0] * (len(token_ids_0) + 2)
        if token_ids_1 is not None:
            types += [1] * (len(token_ids_1) + 1)
        return types

    def save_vocabulary(self, save_directory: PathLike, filename_prefix: str | None = None) -> tuple[str]:
        """Write `vocab.txt` (with `filename_prefix-` before its name, if given), without added tokens, and return its
        path, as a tuple of one. Refuses a vocabulary that does not fit a file of lines: ids with gaps, a token that is
        blank or holds a newline.
        """
        folder = Path(save_directory)
        if not folder.is_dir():
            raise InputError(f"{folder}: is not a folder to save a vocabulary in")
        path = folder / (f"{filename_prefix}-{VOCABULARY_FILE}" if filename_prefix else VOCABULARY_FILE)
        vocabulary = self._base_vocabulary()
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        for line, token in enumerate(tokens):
            if vocabulary[token] != line:
                raise InputError(f"{path}: no token has id {line}, and a vocabulary file cannot have a gap")
            if not token or "\n" in token or token.endswith("\r"):
                raise InputError(f"{path}: token {token!r} (id {line}) does not fit on one line")
        _write(path, "".join(f"{token}\n" for token in tokens))
        return (str(path),)


_UNSAID = ("do_lower_case", "tokenize_chinese_chars", "max_input_chars_per_word")  # where they are None
_JSON_FILES = ("tokenizer_config_file", "special_tokens_map_file", "added_tokens_file", "tokenizer_file")


def save_rules(
    backend: Tokenizer,
    folder: PathLike,
    files: tuple[str, ...],
    legacy_format: bool | None = None,
    filename_prefix: str | None = None,
) -> tuple[str, ...]:
    """Write `tokenizer.json`, and add it to `files`, of which the first is the configuration that is there already.

    Where its rules are others than BERT's, the configuration sends other readers there: its class would build BERT's.
    """
    from convbert.tokenization.files import are_berts
    from convbert.util.schema import read_json

    path = Path(folder, f"{filename_prefix}-{TOKENIZER_FILE}" if filename_prefix else TOKENIZER_FILE)
    _write(path, backend.to_str(pretty=True))
    prefix = backend.model.continuing_subword_prefix
    if not are_berts(backend.normalizer, backend.pre_tokenizer, backend.decoder, prefix):
        config = {**read_json(files[0]), "tokenizer_class": "PreTrainedTokenizerFast"}
        _write(Path(files[0]), json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return (*files, str(path))


def _write(path: Path, text: str) -> None:
    try:
        atomic_write(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


TOO_SHORT = (
    "truncating only one text of the pair is not enough to reach max_length: the other is too long; "
    "truncate the other one, or take truncation='longest_first'"
)

_SURROGATE = re.compile("[\ud800-\udfff]")


def refuse_surrogates(text: Any) -> None:
    """Half a UTF-16 pair is a code point that is no character; text read with `surrogateescape` has them."""
    if isinstance(text, str):
        found = _SURROGATE.search(text)
        if found:
            raise InputError(
                f"the text is not valid Unicode: character {found.start()} is a lone surrogate "
                f"(U+{ord(found[0]):04X}); decode its bytes as UTF-8, with errors='replace' where needed"
            )
    elif isinstance(text, (list, tuple)):
        for part in text:
            refuse_surrogates(part)
