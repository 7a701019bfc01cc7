"""`explain.html`: attention maps and dynamic convolution kernels of every layer and head, for chosen examples."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from convbert.finetuning.data import Feature
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.report.page import facts, note, page
from convbert.tokenization import ConvBertTokenizerFast

_MOST_TOKENS = 64
"""Of longer texts the picture shows the first so many: a map of more tokens could not be read."""
_CAPTION = 80
"""Characters of an example in the list to choose from."""


@torch.no_grad()
def explain_html(
    model: ConvBertPreTrainedModel,
    tokenizer: ConvBertTokenizerFast,
    features: Sequence[Feature],
    captions: Sequence[str],
    about: Mapping[str, Any] | None = None,
) -> str:
    """A page that shows, for each example (of choices, the first), how every layer mixes its tokens; `about` are facts
    for its head.
    """
    shown = [{"caption": c, **_look(model, tokenizer, f)} for c, f in zip(captions, features, strict=True)]
    options = "".join(
        f"<option value={n}>{escape(c if len(c) <= _CAPTION else c[:_CAPTION] + ' …')}</option>"
        for n, c in enumerate(captions)
    )
    layers = "".join(f"<option value={n}>layer {n + 1}</option>" for n in range(len(shown[0]["layers"])))
    longest = max(len(feature.texts[0].input_ids) for feature in features)
    cut = f" Of longer texts the first {_MOST_TOKENS} tokens are shown." if longest > _MOST_TOKENS else ""
    script = resources.files(__package__).joinpath("explain.js").read_text(encoding="utf-8")
    data = json.dumps(shown, allow_nan=False).replace("<", "\\u003c")
    return page(
        "How the model mixes tokens",
        facts(about or {}),
        note(
            "A row is a token, and shows which tokens it reads: the darker, the more. Attention may "
            "read any token: columns are tokens, too. A dynamic convolution kernel mixes a token with its neighbours: "
            f"columns are places before (-) and after it (+). Point at a cell for its number.{cut}"
        ),
        f"<p><select id='example' aria-label='example'>{options}</select> "
        f"<select id='layer' aria-label='layer'>{layers}</select></p><p id='tokens' dir='auto'></p>",
        "<h2>Attention</h2><p class='note' id='attention-scale'></p><div class='grid' id='attention'></div>",
        "<h2>Dynamic convolution kernels</h2><p class='note' id='kernels-scale'></p>"
        "<div class='grid' id='kernels'></div>",
        f"<script type='application/json' id='data'>{data}</script><script>{script}</script>",
    )


def _look(
    model: ConvBertPreTrainedModel, tokenizer: ConvBertTokenizerFast, feature: Feature
) -> dict[str, Any]:
    ids, types, *_ = feature.texts[0]
    shown = slice(_MOST_TOKENS)
    was_training = model.training
    model.eval()
    output = model.base_model(
        torch.tensor([ids], device=model.device),
        token_type_ids=torch.tensor([types], device=model.device),
        output_attentions=True,
        output_conv_kernels=True,
    )
    model.train(was_training)

    def packed(weights: Tensor) -> str:
        """Weights between 0 and 1 as bytes, in base 64."""
        numbers = (weights.float() * 255).round().byte().cpu().contiguous().numpy()
        return base64.b64encode(numbers.tobytes()).decode()

    layers = [
        {
            "heads": attention.shape[1],
            "taps": kernels.shape[-1],
            "attention": packed(attention[0, :, shown, shown]),  # (H, T, T)
            "kernels": packed(kernels[0, shown].transpose(0, 1)),  # (H, T, K)
        }
        for attention, kernels in zip(output.attentions, output.conv_kernels, strict=True)
    ]
    return {"tokens": tokenizer.convert_ids_to_tokens(ids[shown]), "layers": layers}
