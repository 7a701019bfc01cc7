"""Damaged tokenizer folders: both classes give an answer or one sentence, never anything else."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from tests.fuzzing import damaged_bytes, damaged_json, outcome
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from convbert.tokenization import SPECIAL_TOKENS, ConvBertTokenizer, ConvBertTokenizerFast

WORDS = [*SPECIAL_TOKENS, "[E1]", "the", "cat", "Cat", "##s", "é", "e", ".", "sat", "中"]
CASES = 220
TEXTS = ["the Cat <drug> sats [E1] é.", "中 covid\ta", ""]


def write_legacy(folder: Path) -> None:
    """`vocab.txt` and the JSON files of early releases."""
    size = len(WORDS)
    files = {
        "added_tokens.json": {"<drug>": size, "covid": size + 1},
        "special_tokens_map.json": {
            "unk_token": "[UNK]",
            "mask_token": {"content": "[MASK]", "lstrip": True, "normalized": False},
            "additional_special_tokens": ["[E1]"],
        },
        "tokenizer_config.json": {
            "do_lower_case": True,
            "max_len": 64,
            "init_inputs": [],
            "never_split": None,
        },
    }
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def write_own(folder: Path) -> None:
    """A `tokenizer.json` with rules of its own, and a configuration of today."""
    backend = Tokenizer(models.WordPiece({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace("x", "y"), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.add_special_tokens(["[E1]"])
    backend.add_tokens([AddedToken("<drug>", normalized=False), AddedToken("covid")])
    backend.enable_truncation(4)
    backend.enable_padding(length=6)
    backend.save(str(folder / "tokenizer.json"))
    config = {
        **{f"{name.strip('[]').lower()}_token": name for name in SPECIAL_TOKENS},
        "added_tokens_decoder": {
            str(index): {"content": token.content, "special": token.special, "lstrip": False}
            for index, token in backend.get_added_tokens_decoder().items()
        },
        "extra_special_tokens": ["[E1]"],
        "model_max_length": 64,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def use(kind, folder: Path) -> None:
    """Load, encode, decode, save, and load again: the same ids."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = kind.from_pretrained(folder)
        ids = [tokenizer(text, "the cat", verbose=False)["input_ids"] for text in TEXTS]
        tokenizer.decode(ids[0], skip_special_tokens=True)
        tokenizer.save_pretrained(folder / "again")
        again = kind.from_pretrained(folder / "again")
        assert [again(text, "the cat", verbose=False)["input_ids"] for text in TEXTS] == ids


def damage(folder: Path, seed: int) -> str:
    """Damage one file of the folder; its name."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    path = files[seed % len(files)]
    if path.suffix == ".json" and seed % 3:
        path.write_text(json.dumps(damaged_json(json.loads(path.read_text()), seed)))
    else:
        path.write_bytes(damaged_bytes(path.read_bytes(), seed))
    return path.name


@pytest.mark.parametrize("write", [write_legacy, write_own])
def test_damaged_folders_give_an_answer_or_a_sentence(tmp_path, write):
    found = Counter()
    for seed in range(CASES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        write(folder)
        damage(folder, seed)
        kind = (ConvBertTokenizer, ConvBertTokenizerFast)[seed // 7 % 2]
        found[outcome(partial(use, kind, folder))] += 1
    assert set(found) == {"answered", "refused"}, found


@pytest.mark.parametrize("write", [write_legacy, write_own])
@pytest.mark.parametrize("kind", [ConvBertTokenizer, ConvBertTokenizerFast])
def test_an_undamaged_folder_answers(tmp_path, write, kind):
    write(tmp_path)
    assert outcome(lambda: use(kind, tmp_path)) == "answered"
