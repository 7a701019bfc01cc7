"""Counting `[UNK]`: a model answers about a text of unknown words as confidently as about any other."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from convbert.util.errors import DataWarning

WARNING_SHARE = 0.05
"""From this share of `[UNK]` on, results are not to be trusted without a look."""
_USELESS_SHARE = 0.99


class UnknownTokens:
    """How many of some texts' `tokens` (without special ones) are `unknown`, and the beginning of the first such text.

    Args:
        tokenizer: the one that cuts the texts; None where others count, see `merge`.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self._unk_id: Any = getattr(tokenizer, "unk_token_id", None)
        self._word_limit = getattr(tokenizer, "max_input_chars_per_word", 100)
        self._special_ids = set(getattr(tokenizer, "all_special_ids", ())) - {self._unk_id}
        self.tokens, self.unknown, self.example = 0, 0, ""
        self._is_said = False

    def add(self, ids: Iterable[int], text: str) -> None:
        """Count the ids of a text, with or without special tokens."""
        own = [index for index in ids if index not in self._special_ids]
        unknown = own.count(self._unk_id)
        self.merge(len(own), unknown, text if unknown else "")

    def merge(self, tokens: int, unknown: int, example: str) -> None:
        """Count what others have counted, with a text that has an `[UNK]`, if there is one."""
        self.tokens += tokens
        self.unknown += unknown
        self.example = self.example or (example if len(example) <= 40 else f"{example[:40]}...")

    @property
    def share(self) -> float:
        """`[UNK]` among all tokens, 0 to 1."""
        return self.unknown / self.tokens if self.tokens else 0.0

    @property
    def is_everything(self) -> bool:
        """Whether there is hardly anything but `[UNK]`, 99 % or more: nothing can be learned from that."""
        return self.share >= _USELESS_SHARE

    def sentence(self) -> str | None:
        """What a person should know of it; None where the share is small."""
        if self.share < WARNING_SHARE:
            return None
        words = f" of {self.example!r}" if self.example else ""
        # What has no space in it may be known piece by piece, but is too long to be looked up.
        is_one_word = self.example.endswith("...") and not any(map(str.isspace, self.example))
        hint = (
            f" (a word of more than {self._word_limit} characters is [UNK] as a whole)" if is_one_word else ""
        )
        return (
            f"{self.share:.1%} of the tokens are [UNK]: the tokenizer does not know words{words}{hint}. "
            "Use a model or a tokenizer for this language"
        )

    def warn_once(self, stacklevel: int = 2) -> None:
        """Warn, the first time that the share is not small."""
        if not self._is_said and (sentence := self.sentence()):
            self._is_said = True
            warnings.warn(sentence, DataWarning, stacklevel=stacklevel + 1)
