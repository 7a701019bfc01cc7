"""Word + position + token type, norm, dropout."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from convbert.layers.linear import is_plain
from convbert.ops import dropout


class Embeddings(nn.Module):
    """The three tables of BERT, of a width that may be smaller than the model's.

    Args:
        vocab_size, num_positions, num_token_types: rows of the tables.
        width: their columns E.
        padding_index: row of the word table that stays zero and gets no gradient.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_positions: int,
        num_token_types: int,
        width: int,
        padding_index: int | None,
        norm_eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, width, padding_idx=padding_index)
        self.position_embeddings = nn.Embedding(num_positions, width)
        self.token_type_embeddings = nn.Embedding(num_token_types, width)
        self.LayerNorm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, position_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """Sum of the three.

        Args:
            words: (B, T) or (N,) ids, or their vectors (B, T, E) or (N, E).
            position_ids, token_type_ids: ids of a shape that broadcasts against the words'.

        Returns:
            (B, T, E) or (N, E).
        """
        if not words.is_floating_point():
            words = self.word_embeddings(words)
        total = words + self.position_embeddings(position_ids) + self.token_type_embeddings(token_type_ids)
        normed = self.LayerNorm(total)
        if is_plain(self.dropout, nn.Dropout):
            return dropout(normed, self.dropout.p) if self.dropout.training else normed
        return self.dropout(normed)

    def is_listened_to(self) -> bool:
        """Whether somebody sees, or has replaced, what these modules read or return: as (B, T, E) by custom."""
        parts = (self.word_embeddings, self.position_embeddings, self.token_type_embeddings)
        is_plain_here = (
            is_plain(self, Embeddings)
            and is_plain(self.LayerNorm, nn.LayerNorm)
            and is_plain(self.dropout, nn.Dropout)
            and all(is_plain(part, nn.Embedding) for part in parts)
        )
        return not is_plain_here or bool(_global_forward_hooks or _global_forward_pre_hooks)
