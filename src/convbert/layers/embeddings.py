"""Word + position + token type, norm, dropout."""

from __future__ import annotations

from torch import Tensor, nn

from convbert.ops import dropout
from convbert.ops._torch_internals import is_listened_to


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
        if type(self.dropout) is not nn.Dropout or is_listened_to(self.dropout):
            return self.dropout(normed)
        return dropout(normed, self.dropout.p) if self.dropout.training else normed

    def is_listened_to(self) -> bool:
        """Whether somebody sees, or has replaced, what these modules read or return: as (B, T, E) by custom.

        Aside from the table of words, which can be read in that shape alone.
        """
        kinds = (Embeddings, nn.Embedding, nn.LayerNorm, nn.Dropout)
        modules = [module for module in self.modules() if module is not self.word_embeddings]
        return any(type(module) not in kinds or is_listened_to(module) for module in modules)
