"""`explain.html`: attention maps and dynamic convolution kernels of every layer and head, for chosen examples."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convbert.finetuning.data import Feature
from convbert.model import ConvBertPreTrainedModel
from convbert.page import page
from convbert.tokenization import ConvBertTokenizerFast

_MOST_TOKENS = 64
"""Of longer texts the picture shows the first so many: a map of more tokens could not be read."""

_SCRIPT = """
const data = JSON.parse(document.getElementById('data').textContent);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
function draw(values, columns, rows, cell, title, xs, ys) {
  const figure = document.createElement('figure'), canvas = document.createElement('canvas');
  canvas.width = columns * cell; canvas.height = rows * cell;
  const pen = canvas.getContext('2d'), most = Math.max(1, ...values);
  for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) {
    const v = 255 * values[y * columns + x] / most;
    pen.fillStyle = `rgb(${255 - 0.85 * v},${255 - 0.6 * v},${255 - 0.2 * v})`;
    pen.fillRect(x * cell, y * cell, cell, cell);
  }
  canvas.onmousemove = e => {
    const x = Math.min(columns - 1, Math.floor(e.offsetX / cell)), y = Math.min(rows - 1, Math.floor(e.offsetY / cell));
    canvas.title = `${ys[y]} reads ${xs(x, y)}: ${(values[y * columns + x] / 255).toFixed(2)}`;
  };
  const caption = document.createElement('figcaption'), line = document.createElement('div');
  caption.textContent = `${title}, at most ${(most / 255).toFixed(2)}`;
  line.className = 'map';
  if (cell >= 11) for (const name of ys) {  // smaller ones could not be read
    const label = document.createElement('span'); label.textContent = name; label.style.height = `${cell}px`;
    label.style.lineHeight = `${cell}px`; line.append(label);
  }
  line.style.gridTemplateRows = `repeat(${rows}, ${cell}px)`;
  canvas.style.gridRow = `1 / span ${rows}`; line.append(canvas);
  figure.append(line, caption); return figure;
}
function show() {
  const example = data[document.getElementById('example').value];
  const layer = example.layers[document.getElementById('layer').value];
  const n = example.tokens.length, k = layer.taps;
  const cell = Math.max(5, Math.min(22, Math.floor(420 / n)));
  const names = example.tokens;
  document.getElementById('tokens').textContent = names.join(' ');
  const at = bytes(layer.attention), kernels = bytes(layer.kernels);
  document.getElementById('attention').replaceChildren(...Array.from({length: layer.heads}, (_, h) =>
    draw(at.slice(h * n * n, (h + 1) * n * n), n, n, cell, `attention head ${h + 1}`, x => names[x], names)));
  const shift = (k - 1) / 2;
  document.getElementById('kernels').replaceChildren(...Array.from({length: layer.heads}, (_, h) =>
    draw(kernels.slice(h * n * k, (h + 1) * n * k), k, n, cell, `convolution head ${h + 1}: taps ${-shift} to ${shift}`,
      (x, y) => names[y + x - shift] ?? 'nothing', names)));
}
for (const id of ['example', 'layer']) document.getElementById(id).onchange = show;
show();
"""


@torch.no_grad()
def explain_html(
    model: ConvBertPreTrainedModel,
    tokenizer: ConvBertTokenizerFast,
    features: Sequence[Feature],
    captions: Sequence[str],
) -> str:
    """A page that shows, for each example, how every layer mixes its tokens.

    Args:
        features: the examples; of choices, the first is shown.
        captions: what to call each.
    """
    shown = [{"caption": c, **_look(model, tokenizer, f)} for c, f in zip(captions, features, strict=True)]
    options = "".join(f"<option value={n}>{_attribute(c)}</option>" for n, c in enumerate(captions))
    layers = "".join(f"<option value={n}>layer {n + 1}</option>" for n in range(len(shown[0]["layers"])))
    longest = max(len(_ids(feature)[0]) for feature in features)
    cut = f" Of longer texts the first {_MOST_TOKENS} tokens are shown." if longest > _MOST_TOKENS else ""
    data = json.dumps(shown).replace("<", "\\u003c")
    return page(
        "How the model mixes tokens",
        "<p class='note'>A row is a token, and shows where it reads: the darker, the more, within each map. Point at a "
        f"cell for its tokens. Attention reads anywhere; a dynamic kernel mixes the neighbours of its token.{cut}</p>",
        f"<p><select id='example'>{options}</select> <select id='layer'>{layers}</select></p><p id='tokens'></p>",
        "<h2>Attention</h2><div class='grid' id='attention'></div>",
        "<h2>Dynamic convolution kernels</h2><div class='grid' id='kernels'></div>",
        f"<script type='application/json' id='data'>{data}</script><script>{_SCRIPT}</script>",
    )


def _look(
    model: ConvBertPreTrainedModel, tokenizer: ConvBertTokenizerFast, feature: Feature
) -> dict[str, Any]:
    ids, types = _ids(feature)
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
    layers = [
        {
            "heads": attention.shape[1],
            "taps": kernels.shape[-1],
            "attention": _pack(attention[0, :, shown, shown]),  # (H, T, T)
            "kernels": _pack(kernels[0, shown].transpose(0, 1)),  # (H, T, K)
        }
        for attention, kernels in zip(output.attentions, output.conv_kernels, strict=True)
    ]
    return {"tokens": tokenizer.convert_ids_to_tokens(ids[shown]), "layers": layers}


def _ids(feature: Feature) -> tuple[list[int], list[int]]:
    """Tokens and types of a text; of choices, those of the first."""
    if isinstance(feature.input_ids[0], list):
        return feature.input_ids[0], feature.token_type_ids[0]
    return feature.input_ids, feature.token_type_ids


def _pack(weights: Tensor) -> str:
    """Weights between 0 and 1 as bytes, in base 64."""
    return base64.b64encode(
        (weights.float() * 255).round().byte().cpu().contiguous().numpy().tobytes()
    ).decode()


def _attribute(text: str) -> str:
    from html import escape

    return escape(text if len(text) <= 80 else text[:80] + "...")
