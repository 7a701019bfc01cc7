"""From a corpus to the texts of a distillation: its sentences, each once, and some whole paragraphs."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from zlib import crc32

from convbert.distillation.plan import DistillationPlan
from convbert.pretraining.corpus.reading import CorpusReader, Reading
from convbert.pretraining.corpus.sources import Corpus, find_sources

_BETWEEN_SENTENCES = re.compile(
    r"""(?: (?<=[.!?…]) | (?<=[.!?…]["'”’)\]]) ) \s+ (?=["'“‘(\[¿¡]*[^\Wa-zß-öø-ÿ_])  # . The next
      | (?<=[。！？]) (?![”’」』）]) \s*""",
    re.VERBOSE,
)
_SHORTEST = 3
"""Characters of a text: less is a number or a mark of a list."""


def read_texts(
    corpus: Corpus, plan: DistillationPlan, reading: Reading, *, cuts_sentences: bool = True
) -> list[str]:
    """At most `plan.max_texts` texts, shuffled by `plan.seed`: sentences and some paragraphs, or paragraphs alone.

    Raises:
        InputError: unusable sources, see `CorpusReader`.
    """
    reader = CorpusReader(find_sources(corpus), reading)
    share = round(plan.paragraph_share * 2**32)
    found: dict[str, None] = {}
    for paragraph in reader.paragraphs():
        sentences = list(split_sentences(paragraph)) if cuts_sentences else [paragraph]
        if len(sentences) > 1 and crc32(paragraph.encode()) < share:
            sentences.append(paragraph)
        found.update((" ".join(text.split()), None) for text in sentences if len(text) >= _SHORTEST)
    texts = list(found)
    random.Random(plan.seed).shuffle(texts)
    return texts[: plan.max_texts]


def split_sentences(paragraph: str) -> Iterator[str]:
    """Yield the sentences of a paragraph: cut where a mark that ends one comes before a capital or a digit.

    Abbreviations cut, too, and a script without capitals hardly ever does: for texts to learn from, either is good.
    """
    yield from filter(None, map(str.strip, _BETWEEN_SENTENCES.split(paragraph)))
