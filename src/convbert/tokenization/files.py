"""The JSON files of a tokenizer's folder: checked at the door, and turned into a constructor's arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convbert.tokenization.rules import read_tokenizer_file, with_rules
from convbert.tokenization.schemas import NAMED, AddedTokens, Config, NamedTokens, Token
from convbert.util.errors import InputError
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
