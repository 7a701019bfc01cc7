"""The tokenizer in Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizer
from transformers.tokenization_utils_base import TruncationStrategy

from convbert.tokenization.shared import (
    TOO_SHORT,
    BertConventions,
    check_word_limit,
    refuse_surrogates,
    save_rules,
)
from convbert.tokenization.vocabulary import CONTINUATION, PathLike, build_vocabulary
from convbert.util.errors import InputError


class _CharacterTable(dict[int, str]):
    """What a rule makes of one character, by code point and asked once: an argument for `str.translate`."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code_point: int) -> str:
        self[code_point] = result = self._rule(chr(code_point))
        return result


# Which characters are controls, punctuation or accents depends on the edition of Unicode. Python's tables
# change with the interpreter; tokenizers carries several of its own, older ones for categories and newer ones
# for letter case. Both classes must cut a text alike on every interpreter, so the tables are read from
# tokenizers, one character at a time. Unassigned characters are kept.
_normalize_nothing = {
    "clean_text": False,
    "handle_chinese_chars": False,
    "strip_accents": False,
    "lowercase": False,
}
_clean_one = normalizers.BertNormalizer(**{**_normalize_nothing, "clean_text": True}).normalize_str
_strip_one = normalizers.BertNormalizer(**{**_normalize_nothing, "strip_accents": True}).normalize_str
_decompose = normalizers.NFD().normalize_str
_lower_case = normalizers.Lowercase().normalize_str
_pre_tokenize = pre_tokenizers.BertPreTokenizer().pre_tokenize_str

# The blocks of ideographs as tokenizers has them: extension E starts at 2B920 there, and at 2B820 in Unicode.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def _space_ideograph(character: str) -> str:
    is_ideograph = any(first <= ord(character) <= last for first, last in _IDEOGRAPHS)
    return f" {character} " if is_ideograph else character


def _space_punctuation(character: str) -> str:
    """A separator is dropped between two letters, punctuation becomes a piece of its own."""
    pieces = len(_pre_tokenize(f"a{character}a"))
    return {1: character, 2: " ", 3: f" {character} "}[pieces]


_CLEANED = _CharacterTable(_clean_one)  # controls and U+FFFD vanish, white space becomes a space
_IDEOGRAPHS_APART = _CharacterTable(_space_ideograph)
_WITHOUT_ACCENTS = _CharacterTable(_strip_one)
_PUNCTUATION_APART = _CharacterTable(_space_punctuation)


class ConvBertTokenizer(BertConventions, PreTrainedTokenizer):
    """The tokenizer written in Python, to read and to step through; its ids are `ConvBertTokenizerFast`'s.

    Takes the arguments of the fast one. It has no offsets.

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
        backend = kwargs.pop("tokenizer_object", None)
        if vocab is None:
            vocab = vocab_file
        named_tokens = {
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        self._vocabulary = build_vocabulary(
            vocab,
            named_tokens,
            kwargs.get("added_tokens_decoder", {}),
            kwargs.get("name_or_path"),
            guessed=do_lower_case is None and backend is None,
            accents_said=strip_accents is not None,
        )
        do_lower_case = do_lower_case is not False
        self._rules: Tokenizer | None = None if backend is None else _check_rules(backend)
        self._prefix = CONTINUATION if backend is None else backend.model.continuing_subword_prefix
        self._tokens = {index: token for token, index in self._vocabulary.items()}
        self.do_lower_case = do_lower_case
        self.strip_accents = strip_accents
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.max_input_chars_per_word = check_word_limit(max_input_chars_per_word)
        super().__init__(
            do_lower_case=do_lower_case,
            strip_accents=strip_accents,
            tokenize_chinese_chars=tokenize_chinese_chars,
            max_input_chars_per_word=max_input_chars_per_word,
            **named_tokens,
            **kwargs,
        )

    # -- text to tokens

    def tokenize(self, text: str, split_special_tokens: bool | None = None, **kwargs: Any) -> list[str]:
        """Cut a text into tokens of the vocabulary.

        Args:
            text: any text. Special tokens written in it are kept whole.
            split_special_tokens: True treats them as ordinary text; None follows the tokenizer's own setting.

        Raises:
            InputError: the text holds a lone surrogate.
        """
        refuse_surrogates(text)
        split_special = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        tokens = []
        for added, plain in _cut_at(self._verbatim_tokens, text, split_special):
            tokens += self._tokenize_plain(plain, split_special) if added is None else [added]
        return tokens

    def _tokenize_plain(self, text: str, split_special: bool) -> list[str]:
        """Tokens of a text without verbatim added tokens."""
        tokens = []
        for added, words in _cut_at(self._normalized_tokens, self.normalize(text), split_special):
            tokens += self._tokenize(words) if added is None else [added]
        return tokens

    def normalize(self, text: str) -> str:
        """Drop control characters, set ideographs apart, drop accents and lower-case, as the options say."""
        if self._rules is not None:
            normalizer = self._rules.normalizer
            return text if normalizer is None else normalizer.normalize_str(text)
        text = text.translate(_CLEANED)
        if self.tokenize_chinese_chars:
            text = text.translate(_IDEOGRAPHS_APART)
        if self.do_lower_case if self.strip_accents is None else self.strip_accents:
            text = _decompose(text).translate(_WITHOUT_ACCENTS)
        if self.do_lower_case:
            text = _lower_case(text)
        return text

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Tokens of a normalized text without added tokens."""
        return [piece for word in self.split_words(text) for piece in self._cut_word(word)]

    def split_words(self, text: str) -> list[str]:
        """Cut a normalized text at white space and around punctuation."""
        if self._rules is not None:
            pre_tokenizer = self._rules.pre_tokenizer
            words = [text] if pre_tokenizer is None else [w for w, _ in pre_tokenizer.pre_tokenize_str(text)]
        else:
            words = text.translate(_PUNCTUATION_APART).split(" ")
        return [word for word in words if word]

    def _cut_word(self, word: str) -> list[str]:
        """The longest piece that starts the word, then the longest that continues it, and so on."""
        unknown = [str(self.unk_token)]
        if len(word) > self.max_input_chars_per_word:
            return unknown
        pieces = []
        start = 0
        while start < len(word):
            prefix = self._prefix if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._vocabulary), None)
            if end is None:
                return unknown
            pieces.append(prefix + word[start:end])
            start = end
        return pieces

    # -- tokens added to the vocabulary, the special ones among them

    def _add_tokens(self, new_tokens: list[str] | list[AddedToken], special_tokens: bool = False) -> int:
        """As the base class, but it would lower-case an added token where tokenizers keeps it as it is."""
        known = self.get_vocab()
        size_before = len(known)
        for new in new_tokens:
            token = self._as_added_token(new, special_tokens)
            if not token.content or self._added_tokens_decoder.get(known.get(token.content, -1)) == token:
                continue
            index = known.setdefault(token.content, len(known))
            if token.special and token.content not in self.all_special_tokens:
                self._extra_special_tokens.append(token)
            self._added_tokens_decoder[index] = token
            self._added_tokens_encoder[token.content] = index
        self._update_trie()
        self._update_total_vocab_size()
        return len(known) - size_before

    def _as_added_token(self, token: str | AddedToken, special: bool) -> AddedToken:
        if isinstance(token, str):
            named = (named for named in self._special_tokens_map.values() if isinstance(named, AddedToken))
            token = next((named for named in named if named.content == token), token)
        if isinstance(token, str):
            special = special or token in self.all_special_tokens
            return AddedToken(token, special=special, normalized=not special)
        if special:
            token.special = True
        return token

    def _update_trie(self, unique_no_split_tokens: list[str] | None = None) -> None:
        """A verbatim token is searched in the text as given, any other in the normalized text."""
        added = self._added_tokens_decoder.values()
        verbatim = [token for token in added if not token.normalized]
        normalized = [token for token in added if token.normalized]
        self._verbatim_tokens = {token.content: token for token in verbatim}
        self._normalized_tokens = {self.normalize(token.content): token for token in normalized}

    # -- tokens and ids

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary, without added ones."""
        return len(self._vocabulary)

    def get_vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return {**self._vocabulary, **self._added_tokens_encoder}

    def _base_vocabulary(self) -> dict[str, int]:
        return self._vocabulary

    def _save_pretrained(
        self,
        save_directory: PathLike,
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        """`vocab.txt` and added tokens; rules other than BERT's fit a `tokenizer.json` alone."""
        if self._rules is None:
            return super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        backend = Tokenizer.from_str(self._rules.to_str())
        backend.add_tokens(list(self.added_tokens_decoder.values()))
        backend.post_processor = processors.BertProcessing(
            (str(self.sep_token), self.sep_token_id), (str(self.cls_token), self.cls_token_id)
        )
        return (*file_names, save_rules(backend, save_directory, filename_prefix, file_names[0]))

    def _convert_token_to_id(self, token: str) -> int:
        index = self._vocabulary.get(token)
        return self.unk_token_id if index is None else index

    def _convert_id_to_token(self, index: int) -> str | None:
        return self._tokens.get(index)

    def convert_tokens_to_string(self, tokens: list[str | None]) -> str:
        """Join pieces into words and words into a text, without the space before punctuation."""
        known = [token for token in tokens if token is not None]
        decoder = decoders.WordPiece(prefix=CONTINUATION) if self._rules is None else self._rules.decoder
        return decoder.decode(known)

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: str | TruncationStrategy = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Shorten one text or both, as the fast tokenizer does.

        Returns:
            The first text's ids, the second's, and what overflowed (nothing where both are shortened).

        Raises:
            InputError: the one text to shorten has not as many tokens to give.
        """
        strategy = TruncationStrategy(truncation_strategy)
        if pair_ids is None or num_tokens_to_remove <= 0:
            return super().truncate_sequences(ids, pair_ids, num_tokens_to_remove, strategy, stride)
        room = max(len(ids) + len(pair_ids) - num_tokens_to_remove, 0)
        if room == 0 or strategy == TruncationStrategy.LONGEST_FIRST:
            first, second = _share_room(len(ids), len(pair_ids), room)
            return self._truncate(ids, first), self._truncate(pair_ids, second), []
        shortened = ids if strategy == TruncationStrategy.ONLY_FIRST else pair_ids
        if len(shortened) <= num_tokens_to_remove:
            raise InputError(TOO_SHORT)
        return super().truncate_sequences(ids, pair_ids, num_tokens_to_remove, strategy, stride)

    def _truncate(self, ids: list[int], length: int) -> list[int]:
        return ids[len(ids) - length :] if self.truncation_side == "left" else ids[:length]

    def _encode_plus(self, *args: Any, return_offsets_mapping: bool = False, **kwargs: Any) -> Any:
        if return_offsets_mapping:
            raise InputError("ConvBertTokenizer has no offsets; use ConvBertTokenizerFast")
        return super()._encode_plus(*args, **kwargs)


def _check_rules(backend: Tokenizer) -> Tokenizer:
    """Texts are cut at added tokens before they come to the rules, which must not ask what stood before."""
    if (
        backend.pre_tokenizer is not None
        and b'"prepend_scheme":"first"' in backend.pre_tokenizer.__getstate__()
    ):
        raise InputError(
            "ConvBertTokenizer cannot follow a Metaspace pre-tokenizer with prepend_scheme 'first'; use "
            "ConvBertTokenizerFast"
        )
    return backend


def _cut_at(
    added_tokens: Mapping[str, AddedToken], text: str, split_special: bool
) -> Iterator[tuple[str | None, str]]:
    """Cut a text at added tokens, the longest first where several start at one place.

    Args:
        added_tokens: what to search for, and the token it stands for.
        split_special: pass over special tokens.

    Yields:
        (None, text between added tokens) and (added token, "").
    """
    start = 0
    spellings = sorted(filter(None, added_tokens), key=len, reverse=True)
    matches = re.finditer("|".join(map(re.escape, spellings)), text) if spellings else ()
    for match in matches:
        token = added_tokens[match[0]]
        begin, end = match.span()
        if (token.special and split_special) or (token.single_word and _touches_a_word(text, begin, end)):
            continue
        if token.lstrip:
            begin = len(text[:begin].rstrip())
        if token.rstrip:
            end = len(text) - len(text[end:].lstrip())
        yield None, text[start:begin]
        yield token.content, ""
        start = end
    yield None, text[start:]


def _share_room(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths to keep of two texts: the shorter one whole where that fits, else half the room for each."""
    shorter, longer = min(first, second), room - min(first, second)
    if longer < shorter:
        shorter = room // 2
        longer = room - shorter
    return (shorter, longer) if first <= second else (longer, shorter)


def _touches_a_word(text: str, begin: int, end: int) -> bool:
    neighbours = text[max(begin - 1, 0) : begin] + text[end : end + 1]
    return re.search(r"\w", neighbours) is not None
