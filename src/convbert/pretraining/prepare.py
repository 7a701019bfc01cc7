"""The verb `prepare`: a corpus to a folder that training opens in a moment, with the tokenizer it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from convbert.files.atomic import atomic_folder, folder_lock, save_tokenizer
from convbert.pretraining.corpus.encoding import Vocabulary
from convbert.pretraining.corpus.prepare import Preparation, Watch
from convbert.pretraining.corpus.shards import Manifest
from convbert.pretraining.corpus.sources import PathLike, overview
from convbert.pretraining.data import SequenceDataset, tokenizer_fingerprint, vocabulary_of
from convbert.pretraining.vocabulary import load_tokenizer, train_wordpiece
from convbert.util.errors import InputError

Report = Callable[[str], None]


@dataclass(frozen=True)
class NewVocabulary:
    """A vocabulary to be learned from the corpus; see `train_wordpiece`."""

    vocab_size: int = 30_522
    lowercase: bool | None = None
    keep_accents: bool | None = None
    min_frequency: int = 2
    limit_alphabet: int | None = None


def prepare(
    preparation: Preparation,
    tokenizer: PathLike | NewVocabulary,
    *,
    report: Report = lambda message: None,
    watch: Watch = lambda progress: None,
) -> Manifest:
    """Tokenise a corpus once, into `preparation.folder`: `manifest.json`, `shards/` and `tokenizer/`.

    Called again after an interruption, it goes on and keeps the shards that are finished; called again after
    a change of the corpus, it keeps those that the change does not touch.

    Args:
        tokenizer: folder of a tokenizer, or the settings of a vocabulary to learn.
        report, watch: see `prepare_sequences`.

    Raises:
        InputError: the corpus is unusable, the folder holds something else, or another process is at it.
    """
    folder = preparation.folder
    for line in overview(preparation.source):  # what is not there, before a folder is
        report(f"corpus: {line}")
    loaded = None if isinstance(tokenizer, NewVocabulary) else load_tokenizer(tokenizer)
    with folder_lock(folder, "preparing a corpus"):
        preparation.check_folder()
        learned = None
        if loaded is None:
            loaded, learned = _learn(preparation, vars(tokenizer).copy(), report)
        vocabulary = vocabulary_of(loaded, learned)
        preparation.check_same(vocabulary)
        if not _holds(folder / "tokenizer", vocabulary):
            with atomic_folder(folder / "tokenizer") as draft:
                save_tokenizer(loaded, draft)
        if (manifest := preparation.finished(vocabulary, thorough=True)) is not None:
            report(f"{folder}: is complete")
        else:
            manifest = preparation.run(vocabulary, watch)
    for note in SequenceDataset(folder, manifest).notes():
        report(note)
    return manifest


def _learn(
    preparation: Preparation, settings: dict[str, Any], report: Report
) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    """The vocabulary that an earlier run in this folder learned by the same settings, or a new one; and the settings
    as they were noted."""
    folder = preparation.folder / "tokenizer"
    stored = Manifest.read(preparation.folder)
    if stored is not None:
        if stored.learned != settings:
            raise InputError(
                f"{preparation.folder}: was prepared with {_told(stored.learned)}, now {_told(settings)}; "
                "choose another folder"
            )
        return load_tokenizer(folder), stored.learned
    report(f"learning a vocabulary of {settings['vocab_size']}")
    learned = train_wordpiece(
        preparation.source,
        output_dir=folder,
        reading=preparation.reading,
        report=report,
        **settings,
    )
    return learned, settings


def _holds(folder: Path, vocabulary: Vocabulary) -> bool:
    """Whether this tokenizer is there; a kill may have left an empty folder, or the vocabulary of another try."""
    if not (folder / "vocab.txt").exists():  # the last file to come
        return False
    return tokenizer_fingerprint(load_tokenizer(folder)) == vocabulary.fingerprint


def _told(learned: dict[str, Any] | None) -> str:
    return f"a vocabulary learned by {learned}" if learned else "a given tokenizer"
