"""The JSON files of a tokenizer's folder, turned into a constructor's arguments; the rules of a `tokenizer.json` are
BERT's, up to its switches, or its own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from convbert.tokenization.schemas import (
    NAMED,
    SWITCHES,
    AddedTokens,
    Config,
    Model,
    NamedTokens,
    Token,
    TokenizerFile,
)
from convbert.tokenization.vocabulary import CONTINUATION, check_mapping
from convbert.util.errors import DataWarning, InputError
from convbert.util.schema import check, read_json


def check_config(path: object) -> None:
    """Refuse a damaged tokenizer_config.json, by file and field."""
    check(Config, read_json(str(path)), path)


def read_files(files: Mapping[str, str | None], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the files of a folder say, as arguments of a constructor; `asked` are those that the caller gives beside
    it.

    tokenizer_config.json comes before the files of early releases, and those before tokenizer.json. An added token of
    any file is kept, in `added_tokens_decoder`. A `tokenizer.json` gives `vocab`, and `tokenizer_object` where its
    rules are others than BERT's.

    Raises:
        InputError: a file is damaged, or says what these tokenizers cannot do; the message names it.
    """
    config_file, map_file = files.get("tokenizer_config_file"), files.get("special_tokens_map_file")
    config = check(Config, read_json(config_file), config_file) if config_file else Config()
    named = check(NamedTokens, read_json(map_file), map_file) if map_file else NamedTokens()
    arguments = {**named.named(), **config.arguments()}
    if config.added_tokens_decoder is None:  # an early release: its map is the last word
        arguments |= named.named()
    extra = {token.content: token for token in [*config.extra(), *named.extra()]}
    tokens: dict[int, Token] = {}
    if tokenizer_file := files.get("tokenizer_file"):
        content = read_tokenizer_file(tokenizer_file)
        arguments = with_rules(content, tokenizer_file, arguments, asked)
        _collect(tokens, ((token.id, token) for token in content.added_tokens or []), tokenizer_file)
    if added_file := files.get("added_tokens_file"):
        added = check(AddedTokens, {"tokens": read_json(added_file)}, added_file).tokens
        known = {token.content: token for token in tokens.values()}
        _collect(
            tokens,
            ((index, known.get(text) or Token(content=text)) for text, index in added.items()),
            added_file,
        )
    decoder = config.added_tokens_decoder or {}
    _collect(tokens, ((int(number), token) for number, token in decoder.items()), config_file)
    roles = {str(arguments[name]) for name in NAMED if arguments.get(name) is not None}
    added_tokens = {
        index: token.added(token.content in extra or token.content in roles)
        for index, token in tokens.items()
    }
    extra |= {token.content: token for token in added_tokens.values() if token.special}
    if extra := {text: token for text, token in extra.items() if text not in roles}:
        arguments["extra_special_tokens"] = list(extra.values())
    return {**arguments, "added_tokens_decoder": added_tokens}


def _collect(tokens: dict[int, Token], found: Iterable[tuple[int, Token]], source: object) -> None:
    """Add the tokens of a file to those of the files before it; the later file decides how a token is searched."""
    for index, token in found:
        if index in tokens and tokens[index].content != token.content:
            raise InputError(
                f"{source}: added token {token.content!r} has id {index}, which is {tokens[index].content!r} already"
            )
        tokens[index] = token


def read_tokenizer_file(path: str) -> TokenizerFile:
    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    if isinstance(model, dict):
        # Files of early releases do not name the type of their model.
        kind = model.get("type", "BPE" if "merges" in model else "WordPiece")
        if kind != "WordPiece":
            raise InputError(f"{path}: holds a {kind!s:.60} model; ConvBERT's tokenizers read WordPiece")
    checked = check(TokenizerFile, content, path)
    check_mapping(checked.model.vocab, (), path)
    return checked


def with_rules(
    content: TokenizerFile, path: str, arguments: dict[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """`arguments` and, where they are silent, what a `tokenizer.json` says."""
    model = content.model
    rules = {part: _read_part(content, part, path) for part in _PARTS}
    _try_out(rules, path)
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
        own |= dict(zip(SWITCHES, values, strict=True))
    else:
        effect = _effect_of(normalizer, rules["pre_tokenizer"])
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


def _read_part(content: TokenizerFile, part: str, path: str) -> Any:
    """tokenizers' object for one part of the rules, read beside an empty vocabulary."""
    model = {"type": "WordPiece", "vocab": {}, "unk_token": "", "continuing_subword_prefix": ""}
    frame = {"model": {**model, "max_input_chars_per_word": 1}, part: getattr(content, part)}
    return getattr(_guarded(lambda: Tokenizer.from_str(json.dumps(frame)), path, part), part)


def _try_out(rules: Mapping[str, Any], path: str) -> None:
    """Some numbers and patterns are refused only when a text comes along."""
    text = "A cat's 12 naïve 中中 \u200b!"
    for part, method, argument in (
        ("normalizer", "normalize_str", text),
        ("pre_tokenizer", "pre_tokenize_str", text),
        ("decoder", "decode", ["a", "##b", "▁c", "."]),
        ("decoder", "decode", [""]),
        ("decoder", "decode", []),
    ):
        if rules[part] is not None:
            _guarded(partial(getattr(rules[part], method), argument), path, part)


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
    return dict(zip(SWITCHES, (is_lower, normalize("é").strip() == "e", len(words) > 1), strict=True))


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
    processor: Any, arguments: Mapping[str, Any], content: TokenizerFile, path: str
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


def _build(model: Model, rules: Mapping[str, Any], arguments: Mapping[str, Any]) -> Tokenizer:
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
        lower, strip, apart = (arguments[name] for name in SWITCHES)
        normalizer = normalizers.BertNormalizer(normalizer.clean_text, apart, strip, lower)
    if normalizer is not None:
        backend.normalizer = normalizer
    if rules["pre_tokenizer"] is not None:
        backend.pre_tokenizer = rules["pre_tokenizer"]
    backend.decoder = rules["decoder"] or decoders.WordPiece(prefix=model.continuing_subword_prefix)
    return backend
