"""What the JSON files of a tokenizer's folder may hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from tokenizers import AddedToken

from convbert.tokenization.vocabulary import CONTINUATION, LARGEST_ID
from convbert.util.schema import Schema

_Id = Annotated[int, Field(ge=0, le=LARGEST_ID)]
_Count = Annotated[int, Field(ge=1, le=LARGEST_ID)]
_Text = Annotated[str, Field(min_length=1)]
_Length = Annotated[float, Field(ge=1)]  # transformers writes 1e30 for no limit
_Side = Literal["left", "right"]


class Token(Schema):
    content: _Text
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    special: bool = False

    def added(self, special: bool = False) -> AddedToken:
        special = special or self.special
        return AddedToken(
            self.content,
            single_word=self.single_word,
            lstrip=self.lstrip,
            rstrip=self.rstrip,
            normalized=not special if self.normalized is None else self.normalized,
            special=special,
        )


class NumberedToken(Token):
    id: _Id


def _as_token(token: Any) -> Any:
    if not isinstance(token, (str, dict, Token)):
        raise PydanticCustomError("token", "Input should be a token: text, or an object with its content")
    return {"content": token} if isinstance(token, str) else token


_AnyToken = Annotated[Token, BeforeValidator(_as_token)]


def _as_list(tokens: Any) -> Any:
    return list(tokens.values()) if isinstance(tokens, dict) else tokens


_Tokens = Annotated[list[_AnyToken], BeforeValidator(_as_list)]


class NamedTokens(Schema):
    """special_tokens_map.json"""

    unk_token: _AnyToken | None = None
    sep_token: _AnyToken | None = None
    pad_token: _AnyToken | None = None
    cls_token: _AnyToken | None = None
    mask_token: _AnyToken | None = None
    bos_token: _AnyToken | None = None
    eos_token: _AnyToken | None = None
    extra_special_tokens: _Tokens | None = None
    additional_special_tokens: _Tokens | None = None

    def named(self) -> dict[str, str | AddedToken | None]:
        """Argument name to token, for those that the file names; what is nothing but text stays so."""
        found: dict[str, str | AddedToken | None] = {}
        for name in self.model_fields_set & set(NAMED):
            token: Token | None = getattr(self, name)
            if token is not None and token.model_fields_set == {"content"}:
                found[name] = token.content
            else:
                found[name] = None if token is None else token.added(special=True)
        return found

    def extra(self) -> list[AddedToken]:
        """Special tokens without a role of their own, those under other names ("entity_token") among them."""
        others = (self.model_extra or {}).items()
        texts = [text for name, text in others if name.endswith("_token") and isinstance(text, str) and text]
        tokens = [*(self.extra_special_tokens or []), *(self.additional_special_tokens or [])]
        return [token.added(special=True) for token in [*tokens, *(Token(content=text) for text in texts)]]


NAMED = tuple(name for name in NamedTokens.model_fields if name.endswith("_token"))


class Config(NamedTokens):
    """tokenizer_config.json"""

    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool | None = None
    max_input_chars_per_word: _Count | None = None
    model_max_length: _Length | None = None
    max_len: _Length | None = None
    padding_side: _Side | None = None
    truncation_side: _Side | None = None
    model_input_names: list[Literal["input_ids", "token_type_ids", "attention_mask"]] | None = None
    clean_up_tokenization_spaces: bool | None = None
    split_special_tokens: bool | None = None
    chat_template: Any = None
    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^[0-9]{1,10}$")], Token] | None = None
    fast_tokenizer_files: list[Annotated[str, Field(pattern=r"^[^/\\]+$")]] | None = None

    def arguments(self) -> dict[str, Any]:
        """What a constructor takes of it; anything else in the file is of no use to these tokenizers."""
        found = {name: value for name in _PASSED if (value := getattr(self, name)) is not None}
        if "strip_accents" in self.model_fields_set:
            found["strip_accents"] = self.strip_accents  # None has a meaning
        if "model_input_names" in found:  # transformers pads by the first
            found["model_input_names"] = list(dict.fromkeys(["input_ids", *found["model_input_names"]]))
        if isinstance(self.chat_template, str):
            found["chat_template"] = self.chat_template
        if length := self.model_max_length or self.max_len:  # as early releases called it
            found["model_max_length"] = int(length)
        return {**found, **self.named()}


SWITCHES = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
_PASSED = (
    *(
        "do_lower_case",
        "tokenize_chinese_chars",
        "max_input_chars_per_word",
        "padding_side",
        "truncation_side",
    ),
    *("model_input_names", "clean_up_tokenization_spaces", "split_special_tokens"),
)


class AddedTokens(Schema):
    """added_tokens.json, under a name"""

    tokens: dict[_Text, _Id]


class Model(Schema):
    vocab: dict[str, _Id]
    unk_token: _Text = "[UNK]"
    continuing_subword_prefix: str = CONTINUATION
    max_input_chars_per_word: _Count = 100


class _Direction(Schema):
    direction: Literal["Left", "Right"] | None = None


class TokenizerFile(Schema):
    """tokenizer.json"""

    model: Model
    added_tokens: list[NumberedToken] | None = None
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None
    truncation: _Direction | None = None
    padding: _Direction | None = None
