"""What the tokens of a text read in a layer, for heat maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from convbert.inference.pipelines import PackedPipeline
from convbert.util.errors import InputError

MOST_TOKENS = 64
"""Of a text, as many are shown; the model reads all of it."""


def stream_maps(
    pipe: PackedPipeline, records: Iterable[Any], layer: int
) -> Iterator[dict[str, Any] | InputError]:
    """The maps of each text or {"text": ..., "text_pair": ...}, cut where it is too long for the model.

    Args:
        pipe: whose model is the encoder.

    Yields:
        `tokens` (t); `length`, how many there are; `attentions` (H, t, t), of row i what token i reads of each; and
        `conv_kernels` (t, H, K), of each token the weights of its neighbours. All heads, rounded to 4 places.
    """
    for record in records:
        pair = record if isinstance(record, dict) else {"text": record}
        try:
            (tokens,) = pipe.encode(**pair, long="cut")
            rows = {"input_ids": tokens.input_ids, "token_type_ids": tokens.token_type_ids}
            with torch.no_grad():
                found = pipe.model(
                    **{name: torch.tensor([ids], device=pipe.model.device) for name, ids in rows.items()},
                    output_attentions=True,
                    output_conv_kernels=True,
                    return_dict=True,
                )
        except InputError as error:
            yield error
            continue
        words = pipe.tokenizer.convert_ids_to_tokens(tokens.input_ids[:MOST_TOKENS])
        yield {
            "tokens": words,
            "length": len(tokens.input_ids),
            "attentions": _rounded(found.attentions[layer][0, :, :MOST_TOKENS, :MOST_TOKENS]),
            "conv_kernels": _rounded(found.conv_kernels[layer][0, :MOST_TOKENS]),
        }


def _rounded(weights: Tensor) -> list[Any]:
    return weights.double().cpu().numpy().round(4).tolist()
