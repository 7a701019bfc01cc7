"""WordPiece in Python."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizer
from transformers.tokenization_utils_base import TruncationStrategy

from convbert.tokenization.shared import TOO_SHORT, BertConventions, refuse_surrogates, save_rules
from convbert.tokenization.vocabulary import CONTINUATION, PathLike
from convbert.util.errors import InputError


class ConvBertTokenizer(BertConventions, PreTrainedTokenizer):
    """WordPiece in Python, to read and to step through; its ids are `ConvBertTokenizerFast`'s.

    Takes the arguments of the fast one. It has no offsets. Which characters are controls, punctuation or accents, and
    what lower case is, depends on the edition of Unicode: both classes ask tokenizers.

    Raises:
        InputError: the vocabulary is missing or cannot be used (see `load_vocabulary`).
    """

    def _arguments(
        self, vocabulary: dict[str, int], tokenizer_object: Tokenizer | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        self._vocabulary = vocabulary
        self._tokens = {index: token for token, index in vocabulary.items()}
        self._has_own_rules = tokenizer_object is not None
        self._rules = self._berts_rules() if tokenizer_object is None else _check_rules(tokenizer_object)
        self._prefix = self._rules.model.continuing_subword_prefix
        return kwargs

    def _berts_rules(self) -> Tokenizer:
        rules = Tokenizer(models.WordPiece())
        rules.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=self.tokenize_chinese_chars,
            strip_accents=self.strip_accents,
            lowercase=self.do_lower_case,
        )
        rules.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        rules.decoder = decoders.WordPiece(prefix=CONTINUATION)
        return rules

    # -- text to tokens

    def tokenize(self, text: str, split_special_tokens: bool | None = None, **kwargs: Any) -> list[str]:
        """Tokens of any text; special tokens written in it are kept whole, unless `split_special_tokens` says
        otherwise.

        Raises:
            InputError: the text holds a lone surrogate.
        """
        refuse_surrogates(text)
        split_special = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        tokens: list[str] = []
        for verbatim, plain in _cut_at(self._verbatim_tokens, text, split_special):
            if verbatim is not None:
                tokens.append(verbatim)
                continue
            for added, words in _cut_at(self._normalized_tokens, self.normalize(plain), split_special):
                tokens += self._tokenize(words) if added is None else [added]
        return tokens

    def normalize(self, text: str) -> str:
        """Drop control characters, set ideographs apart, drop accents and lower-case, as the options say."""
        return text if self._rules.normalizer is None else self._rules.normalizer.normalize_str(text)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Tokens of a normalized text without added tokens."""
        return [piece for word in self.split_words(text) for piece in self._cut_word(word)]

    def split_words(self, text: str) -> list[str]:
        """Cut a normalized text at white space and around punctuation."""
        rule = self._rules.pre_tokenizer
        words = [text] if rule is None else [word for word, _ in rule.pre_tokenize_str(text)]
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
        self, save_directory: PathLike, file_names: tuple[str, ...], *given: Any, **named: Any
    ) -> tuple[str, ...]:
        """`vocab.txt` and added tokens; rules other than BERT's fit a `tokenizer.json` alone."""
        if not self._has_own_rules:
            return super()._save_pretrained(save_directory, file_names, *given, **named)
        backend = Tokenizer.from_str(self._rules.to_str())
        backend.add_tokens(list(self.added_tokens_decoder.values()))
        backend.post_processor = processors.BertProcessing(
            (str(self.sep_token), self.sep_token_id), (str(self.cls_token), self.cls_token_id)
        )
        return save_rules(backend, save_directory, file_names, **named)

    def _convert_token_to_id(self, token: str) -> int:
        index = self._vocabulary.get(token)
        return self.unk_token_id if index is None else index

    def _convert_id_to_token(self, index: int) -> str | None:
        return self._tokens.get(index)

    def convert_tokens_to_string(self, tokens: list[str | None]) -> str:
        """Join pieces into words and words into a text, without the space before punctuation."""
        return self._rules.decoder.decode([token for token in tokens if token is not None])

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: str | TruncationStrategy = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Shorten one text or both as the fast tokenizer does, to both texts' ids and what overflowed (nothing where
        both are shortened).

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
    """Cut a text at added tokens, the longest first where several start at one place: (None, text between them) and
    (added token, "").
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
