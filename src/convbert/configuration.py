"""ConvBertConfig: the keys and defaults of transformers' ConvBERT, two of our own, and the published sizes."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from convbert.files.config import ConfigFile, read_config_file
from convbert.files.damage import translate_errors
from convbert.files.weights import stored_labels
from convbert.util.errors import InputError
from convbert.util.schema import check

AUTO_MAP = {"AutoConfig": "convbert_auto.ConvBertConfig"}
_AUTO_CODE = '''\
"""Has transformers build convbert's classes, where this folder is loaded with trust_remote_code=True."""

from convbert import ConvBertConfig, register_auto_classes  # pip install convbert

register_auto_classes()
'''


@strict
class ConvBertConfig(PreTrainedConfig):
    """Sizes and switches of a ConvBERT encoder.

    Keys and defaults are those of transformers' `ConvBertConfig`, so that either library reads what the other
    wrote (a key equal to its default is left out of `config.json`). Two keys are ours: `attention_head_size`
    and `conv_reads_padding`; both are written only when set. A published checkpoint:
    [YituTech/conv-bert-base](https://huggingface.co/YituTech/conv-bert-base).

    Args:
        vocab_size: rows of the word embedding.
        embedding_size: width of the three embedding tables; projected to `hidden_size` where the two differ.
        hidden_size: model width C.
        num_hidden_layers: encoder layers.
        num_attention_heads: heads of the BERT this model replaces. `num_attention_heads // head_ratio` of them
            (at least one) are kept as attention heads, and as many span-convolution heads stand beside them.
        head_ratio: gamma in the paper (section 3.3), at least 1.
        attention_head_size: width D of one head. None derives it as transformers does,
            `(hidden_size // n) // 2` for n kept heads; the original uses `hidden_size / num_attention_heads`, which
            differs unless the effective ratio is 2.
        conv_kernel_size: taps K of the span convolution, odd.
        num_groups: groups of the feed-forward layers (section 3.3, grouped linear operator).
        intermediate_size: width of the feed-forward layer.
        conv_reads_padding: True restores the behaviour of transformers and of the original, where the convolution
            window reads the states of padding tokens and a text's result depends on its batch.
        hidden_act: this, `hidden_dropout_prob`, `attention_probs_dropout_prob`, `max_position_embeddings`,
            `type_vocab_size`, `initializer_range`, `layer_norm_eps`, `classifier_dropout`, `pad_token_id`,
            `bos_token_id`, `eos_token_id` and `tie_word_embeddings` are as in transformers.

    Raises:
        InputError: two fields contradict each other, or a value cannot be built; the message names both.
    """

    model_type = "convbert"
    # transformers' Trainer joins what it evaluates over batches, whose lengths differ.
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "conv_kernels"]  # noqa: RUF012 (transformers')

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    embedding_size: int = 768
    head_ratio: int = 2
    conv_kernel_size: int = 9
    num_groups: int = 1
    classifier_dropout: float | int | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    attention_head_size: int | None = None
    conv_reads_padding: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self._check()

    @property
    def num_kept_heads(self) -> int:
        """Heads H of each branch: so many attention heads, and as many span-convolution heads."""
        return max(1, self.num_attention_heads // self.head_ratio)

    @property
    def head_size(self) -> int:
        """Width D of one head, given or derived."""
        if self.attention_head_size is not None:
            return self.attention_head_size
        return (self.hidden_size // self.num_kept_heads) // 2

    @property
    def is_classifier(self) -> bool:
        """The head of the model that this comes from has a row for each label."""
        return any("Classification" in name for name in self.architectures or ())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers', with errors that name the folder.

        Raises:
            InputError: no such folder, one of another model, or a damaged `config.json`.
        """
        folder = pretrained_model_name_or_path
        with translate_errors(folder):
            found = super().from_pretrained(folder, *args, **kwargs)
            if isinstance(folder, (str, os.PathLike)) and not kwargs.keys() & {"num_labels", "id2label"}:
                _count_labels(
                    found[0] if isinstance(found, tuple) else found,
                    Path(folder, kwargs.get("subfolder") or ""),
                )
            return found

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers', from the forms that old and hand-made files have, see `read_config_file`.

        Raises:
            InputError: it is of another model, or a key has another type or range.
        """
        content = read_config_file(config_dict)
        if kwargs.get("num_labels") not in (None, len(content.get("id2label") or ())):
            content.pop("id2label", None)
            content.pop("label2id", None)
        return super().from_dict({name: x for name, x in content.items() if cls._may_set(name)}, **kwargs)

    @classmethod
    def _may_set(cls, name: str) -> bool:
        """Whether a key of a file may become an attribute: not one that is code, or transformers' own."""
        if name in {field.name for field in fields(cls)} | {"num_labels", "output_attentions", "torch_dtype"}:
            return True
        return name.isidentifier() and name[0] != "_" and not hasattr(cls, name)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Called by transformers for code that came with a folder. Ours need not be copied into the next one."""

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As transformers' own; see `convbert.add_auto_map`."""
        if getattr(self, "auto_map", None):
            self.auto_map = dict(AUTO_MAP)  # from the Hub, it names the repository that it came from
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            Path(save_directory, "convbert_auto.py").write_text(_AUTO_CODE, encoding="utf-8")
        super().save_pretrained(save_directory, *args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As transformers' own, with our two keys left out while they are unset."""
        keys = super().to_dict()
        for name in ("attention_head_size", "conv_reads_padding"):
            if not keys.get(name):
                keys.pop(name, None)
        return keys

    def _check(self) -> None:
        fields = {name: getattr(self, name) for name in ConfigFile.model_fields if name in _FIELDS}
        check(ConfigFile, fields, "the configuration")
        if self.conv_kernel_size % 2 == 0:
            raise InputError(
                f"conv_kernel_size must be odd, so that a window has a middle; got {self.conv_kernel_size}"
            )
        if self.hidden_act not in ACT2FN:
            raise InputError(
                f"hidden_act must be one of {', '.join(sorted(ACT2FN))}; got {self.hidden_act!r}"
            )
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise InputError(
                f"pad_token_id ({self.pad_token_id}) must be below vocab_size ({self.vocab_size})"
            )
        if self.is_decoder or self.add_cross_attention:
            raise InputError("ConvBERT is an encoder: is_decoder and add_cross_attention must be False")

    def check_sizes(self) -> None:
        """What only holds between fields, and is therefore checked when a model is built: fields may be set one by one.

        Raises:
            InputError: a size that does not divide another; the message names both.
        """
        if self.attention_head_size is None and self.hidden_size % (2 * self.num_kept_heads):
            raise InputError(
                f"hidden_size ({self.hidden_size}) must be a multiple of 2 x {self.num_kept_heads} heads "
                f"(num_attention_heads={self.num_attention_heads} // head_ratio={self.head_ratio}), "
                "or attention_head_size must be given"
            )
        for name in ("hidden_size", "intermediate_size"):
            if getattr(self, name) % self.num_groups:
                raise InputError(
                    f"{name} ({getattr(self, name)}) must be a multiple of num_groups ({self.num_groups})"
                )

    @classmethod
    def small(cls, **overrides: Any) -> ConvBertConfig:
        """ConvBERT-small of the paper (14 M parameters)."""
        return cls(**{**_SMALL, **overrides})

    @classmethod
    def medium_small(cls, **overrides: Any) -> ConvBertConfig:
        """ConvBERT-medium-small of the paper (17 M parameters): wider, with grouped feed-forward layers."""
        return cls(**{**_MEDIUM_SMALL, **overrides})

    @classmethod
    def base(cls, **overrides: Any) -> ConvBertConfig:
        """ConvBERT-base of the paper (106 M parameters)."""
        return cls(**{**_BASE, **overrides})


def _count_labels(config: ConvBertConfig, folder: Path) -> None:
    """Where labels have no names of their own, there are as many as the stored head has rows."""
    names = config.id2label or {}
    are_numbers = all(name == f"LABEL_{number}" for number, name in names.items())
    if config.is_classifier and folder.is_dir() and are_numbers:
        config.num_labels = stored_labels(folder) or config.num_labels


def original_head_size(hidden_size: int, num_attention_heads: float, head_ratio: int) -> int | None:
    """`attention_head_size` for a model of the original: its head width, `hidden_size / num_attention_heads`.

    None where the derived width is the same. The heads of the original's generators are those of the discriminator
    times a fraction, and so a float.

    Raises:
        InputError: the width does not divide by the heads.
    """
    size = hidden_size / num_attention_heads if num_attention_heads >= 1 else 0.0
    if size < 1 or abs(size - round(size)) > 1e-6:
        raise InputError(
            f"hidden_size ({hidden_size}) must be a multiple of num_attention_heads ({num_attention_heads:g})"
        )
    kept_heads = max(1, int(num_attention_heads / head_ratio))
    return None if 2 * kept_heads * round(size) == hidden_size else round(size)


_FIELDS = set(ConvBertConfig.__annotations__)
# [PAD] is row 0 of the published vocabulary; transformers' class default of 1 is kept for files alone.
_SMALL = {
    "embedding_size": 128,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "pad_token_id": 0,
}
_MEDIUM_SMALL = {
    "embedding_size": 128,
    "hidden_size": 384,
    "num_attention_heads": 8,
    "intermediate_size": 1536,
    "num_groups": 2,
    "pad_token_id": 0,
}
_BASE = {"pad_token_id": 0}
