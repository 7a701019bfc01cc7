"""The JSON files of a tokenizer's folder: checked at the door, and turned into a constructor's arguments."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from convbert.errors import DataWarning, InputError
from convbert.schema import Schema, check, read_json
from convbert.tokenization.vocabulary import CONTINUATION, LARGEST_ID, check_mapping

_Id = Annotated[int, Field(ge=0, le=LARGEST_ID)]
_Count = Annotated[int, Field(ge=1, le=LARGEST_ID)]
_Text = Annotated[str, Field(min_length=1)]
_Length = Annotated[float, Field(ge=1)]  # transformers writes 1e30 for no limit
_Side = Literal["left", "right"]


class _Token(Schema):
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


class _NumberedToken(_Token):
    id: _Id


def _as_token(token: Any) -> Any:
    if not isinstance(token, (str, dict, _Token)):
        raise PydanticCustomError("token", "Input should be a token: text, or an object with its content")
    return {"content": token} if isinstance(token, str) else token


_AnyToken = Annotated[_Token, BeforeValidator(_as_token)]


def _as_list(tokens: Any) -> Any:
    return list(tokens.values()) if isinstance(tokens, dict) else tokens


_Tokens = Annotated[list[_AnyToken], BeforeValidator(_as_list)]


class _NamedTokens(Schema):
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
        for name in self.model_fields_set & set(_NAMED):
            token: _Token | None = getattr(self, name)
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
        return [token.added(special=True) for token in [*tokens, *(_Token(content=text) for text in texts)]]


_NAMED = tuple(name for name in _NamedTokens.model_fields if name.endswith("_token"))


class _Config(_NamedTokens):
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
    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^[0-9]{1,10}$")], _Token] | None = None
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


_SWITCHES = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
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


class _AddedTokens(Schema):
    """added_tokens.json, under a name"""

    tokens: dict[_Text, _Id]


class _Model(Schema):
    vocab: dict[str, _Id]
    unk_token: _Text = "[UNK]"
    continuing_subword_prefix: str = CONTINUATION
    max_input_chars_per_word: _Count = 100


class _Direction(Schema):
    direction: Literal["Left", "Right"] | None = None


class _TokenizerFile(Schema):
    """tokenizer.json"""

    model: _Model
    added_tokens: list[_NumberedToken] | None = None
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None
    truncation: _Direction | None = None
    padding: _Direction | None = None


def check_config(path: object) -> None:
    """Refuse a damaged tokenizer_config.json.

    Raises:
        InputError: naming file and field.
    """
    check(_Config, read_json(str(path)), path)


def read_files(files: Mapping[str, str | None], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the files of a folder say, as arguments of a constructor.

    tokenizer_config.json comes before the files of early releases, and those before tokenizer.json. An added token of
    any file is kept.

    Args:
        files: paths by transformers' names for them; None where there is no such file.
        asked: arguments that the caller gives beside the folder.

    Returns:
        Arguments, among them `added_tokens_decoder`; for a `tokenizer.json` also `vocab`, and `tokenizer_object`
        where its rules are others than BERT's.

    Raises:
        InputError: a file is damaged, or says what these tokenizers cannot do; the message names it.
    """
    config_file, map_file = files.get("tokenizer_config_file"), files.get("special_tokens_map_file")
    config = check(_Config, read_json(config_file), config_file) if config_file else _Config()
    named = check(_NamedTokens, read_json(map_file), map_file) if map_file else _NamedTokens()
    arguments = {**named.named(), **config.arguments()}
    if config.added_tokens_decoder is None:  # an early release: its map is the last word
        arguments |= named.named()
    extra = {token.content: token for token in [*config.extra(), *named.extra()]}
    tokens: dict[int, _Token] = {}
    if tokenizer_file := files.get("tokenizer_file"):
        content = _read_tokenizer_file(tokenizer_file)
        arguments = _with_rules(content, tokenizer_file, arguments, asked)
        _collect(tokens, ((token.id, token) for token in content.added_tokens or []), tokenizer_file)
    if added_file := files.get("added_tokens_file"):
        added = check(_AddedTokens, {"tokens": read_json(added_file)}, added_file).tokens
        known = {token.content: token for token in tokens.values()}
        _collect(
            tokens,
            ((index, known.get(text) or _Token(content=text)) for text, index in added.items()),
            added_file,
        )
    decoder = config.added_tokens_decoder or {}
    _collect(tokens, ((int(number), token) for number, token in decoder.items()), config_file)
    roles = {str(arguments[name]) for name in _NAMED if arguments.get(name) is not None}
    added_tokens = {
        index: token.added(token.content in extra or token.content in roles)
        for index, token in tokens.items()
    }
    extra |= {token.content: token for token in added_tokens.values() if token.special}
    if extra := {text: token for text, token in extra.items() if text not in roles}:
        arguments["extra_special_tokens"] = list(extra.values())
    return {**arguments, "added_tokens_decoder": added_tokens}


def _collect(tokens: dict[int, _Token], found: Iterable[tuple[int, _Token]], source: object) -> None:
    """Add the tokens of a file to those of the files before it; the later file decides how a token is searched."""
    for index, token in found:
        if index in tokens and tokens[index].content != token.content:
            raise InputError(
                f"{source}: added token {token.content!r} has id {index}, which is {tokens[index].content!r} already"
            )
        tokens[index] = token


# ------------------------------------------------------------------------- the rules of a tokenizer.json


def _read_tokenizer_file(path: str) -> _TokenizerFile:
    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    if isinstance(model, dict):
        # Files of early releases do not name the type of their model.
        kind = model.get("type", "BPE" if "merges" in model else "WordPiece")
        if kind != "WordPiece":
            raise InputError(f"{path}: holds a {kind!s:.60} model; ConvBERT's tokenizers read WordPiece")
    checked = check(_TokenizerFile, content, path)
    check_mapping(checked.model.vocab, (), path)
    return checked


def _with_rules(
    content: _TokenizerFile, path: str, arguments: dict[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """`arguments` and, where they are silent, what a `tokenizer.json` says."""
    model = content.model
    rules = {part: _read_part(content, part, path) for part in _PARTS}
    normalizer = rules["normalizer"]
    own: dict[str, Any] = {
        "vocab": model.vocab,
        "unk_token": model.unk_token,
        "max_input_chars_per_word": model.max_input_chars_per_word,
    }
    for name, setting in (("padding_side", content.padding), ("truncation_side", content.truncation)):
        if setting is not None and setting.direction is not None:
            own[name] = setting.direction.lower()
    if isinstance(normalizer, normalizers.BertNormalizer):
        values = (normalizer.lowercase, normalizer.strip_accents, normalizer.handle_chinese_chars)
        own |= dict(zip(_SWITCHES, values, strict=True))
    else:
        effect = _guarded(lambda: _effect_of(normalizer, rules["pre_tokenizer"]), path, "normalizer")
        _check_switches(effect, arguments, asked, path)
        arguments = {name: value for name, value in arguments.items() if name not in effect}
        own |= effect
    merged = {**own, **arguments}
    wanted = {**merged, **asked}
    if "cls_token" not in asked and "sep_token" not in asked:
        _check_post_processor(rules["post_processor"], wanted, content, path)
    if not are_berts(normalizer, rules["pre_tokenizer"], rules["decoder"], model.continuing_subword_prefix):
        merged["tokenizer_object"] = _build(model, rules, wanted)
    return merged


_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
Result = TypeVar("Result")


def _read_part(content: _TokenizerFile, part: str, path: str) -> Any:
    """tokenizers' object for one part of the rules, read beside an empty vocabulary."""
    model = {"type": "WordPiece", "vocab": {}, "unk_token": "", "continuing_subword_prefix": ""}
    frame = {"model": {**model, "max_input_chars_per_word": 1}, part: getattr(content, part)}
    return getattr(_guarded(lambda: Tokenizer.from_str(json.dumps(frame)), path, part), part)


def _guarded(call: Callable[[], Result], path: str, part: str) -> Result:
    """tokenizers raises bare Exceptions, and panics, which are none."""
    try:
        return call()
    except BaseException as error:
        if (
            type(error) is Exception
            or type(error).__name__ == "PanicException"
            or isinstance(error, (TypeError, ValueError))
        ):
            raise InputError(f"{path}: {part}: cannot be used: {error}") from error
        raise


def _effect_of(normalizer: Any, pre_tokenizer: Any) -> dict[str, bool]:
    """What rules other than BERT's amount to, in the words of BERT's switches."""
    normalize = normalizer.normalize_str if normalizer else str
    ideographs = normalize("中中")
    words = pre_tokenizer.pre_tokenize_str(ideographs) if pre_tokenizer else [ideographs]
    is_lower = "a" in normalize("A")
    return dict(zip(_SWITCHES, (is_lower, normalize("é").strip() == "e", len(words) > 1), strict=True))


def _check_switches(
    effect: dict[str, bool], arguments: Mapping[str, Any], asked: Mapping[str, Any], path: str
) -> None:
    for name, is_so in effect.items():
        if asked.get(name) not in (None, is_so):
            raise InputError(
                f"{path}: has a normalizer of its own, which amounts to {name}={is_so}; {name}={asked[name]} "
                "cannot be had with it"
            )
        # That ideographs stand apart is what BERT's tokenizers write unasked.
        if name != "tokenize_chinese_chars" and arguments.get(name) not in (None, is_so):
            warnings.warn(
                f"{path}: its own normalizer is used, which amounts to {name}={is_so}; tokenizer_config.json says "
                f"{name}={arguments[name]}",
                DataWarning,
                stacklevel=2,
            )


def _check_post_processor(
    processor: Any, arguments: Mapping[str, Any], content: _TokenizerFile, path: str
) -> None:
    """Refuse rules that do not put [CLS] first and [SEP] after each text, as the models here expect it."""
    if processor is None:
        return
    ids = {token.content: token.id for token in content.added_tokens or []} | content.model.vocab
    first, last = (
        ids.get(str(arguments.get(f"{name}_token", f"[{name.upper()}]"))) for name in ("cls", "sep")
    )
    if first is None or last is None:
        return  # the constructor says so
    state = json.loads(processor.__getstate__())
    for template in state.get("processors", [state]):  # tokenizers would panic
        pieces = [*template.get("single", ()), *template.get("pair", ())]
        used = {piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece}
        if missing := used - set(template.get("special_tokens", ())):
            raise InputError(f"{path}: post_processor.special_tokens: {min(missing)!r} is missing")
    text = 1 + max(first, last)
    probe = Tokenizer(models.WordLevel({"a": text}, unk_token="a")).encode("a")

    def process() -> tuple[list[int], list[int], list[int]]:
        pair = processor.process(probe, probe)
        return processor.process(probe).ids, pair.ids, pair.type_ids

    one, two, types = _guarded(process, path, "post_processor")
    if (one, two) != ([first, text, last], [first, text, last, text, last]) or types != [0, 0, 0, 1, 1]:
        raise InputError(
            f"{path}: post_processor: {type(processor).__name__} does not make [CLS] text [SEP], and [CLS] text [SEP] "
            "text [SEP] of types 0 and 1, which ConvBERT's models read"
        )


def are_berts(normalizer: Any, pre_tokenizer: Any, decoder: Any, prefix: str) -> bool:
    """Whether such rules are BERT's, up to its switches, so that the constructors make them from those."""
    return (
        isinstance(normalizer, normalizers.BertNormalizer)
        and normalizer.clean_text
        and isinstance(pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and prefix == CONTINUATION
        and (
            decoder is None
            or (
                isinstance(decoder, decoders.WordPiece) and decoder.prefix == CONTINUATION and decoder.cleanup
            )
        )
    )


def _build(model: _Model, rules: Mapping[str, Any], arguments: Mapping[str, Any]) -> Tokenizer:
    """tokenizers' object with the rules of the file; the constructors add the special tokens."""
    backend = Tokenizer(
        models.WordPiece(
            model.vocab,
            unk_token=str(arguments["unk_token"]),
            continuing_subword_prefix=model.continuing_subword_prefix,
        )
    )
    normalizer = rules["normalizer"]
    if isinstance(normalizer, normalizers.BertNormalizer):
        lower, strip, apart = (arguments[name] for name in _SWITCHES)
        normalizer = normalizers.BertNormalizer(normalizer.clean_text, apart, strip, lower)
    if normalizer is not None:
        backend.normalizer = normalizer
    if rules["pre_tokenizer"] is not None:
        backend.pre_tokenizer = rules["pre_tokenizer"]
    backend.decoder = rules["decoder"] or decoders.WordPiece(prefix=model.continuing_subword_prefix)
    return backend
