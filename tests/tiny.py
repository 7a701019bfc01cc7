"""A model folder of a few kilobytes, with a vocabulary of a few words, for tests that run whole commands."""

from __future__ import annotations

from pathlib import Path

import torch

from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, "the", "a", "cat", "dog", "sat", "ran", "on", "to", "mat", "house", "and", ".", "##s")
POSITIONS = 32


def config(**changes: object) -> ConvBertConfig:
    """Two layers of width 32."""
    sizes = {
        "vocab_size": len(WORDS),
        "embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": POSITIONS,
        "conv_kernel_size": 3,
        "pad_token_id": 0,
    }
    return ConvBertConfig(**{**sizes, **changes})


def write_model(folder: Path, **changes: object) -> Path:
    """A random masked-language model and its tokenizer."""
    torch.manual_seed(0)
    ConvBertForMaskedLM(config(**changes)).save_pretrained(folder)
    ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


def write_corpus(path: Path, documents: int = 60) -> Path:
    """Documents of three lines each."""
    lines = ("the cat sat on the mat and the dog ran to the house .",) * 3
    path.write_text("\n\n".join("\n".join(lines) for _ in range(documents)) + "\n", encoding="utf-8")
    return path
