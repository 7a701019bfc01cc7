"""`explain.html`: attention maps and dynamic convolution kernels of every layer and head, for chosen examples."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
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

_SCRIPT = """
const data = JSON.parse(document.getElementById('data').textContent);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const make = (tag, kind, text) => {
  const made = document.createElement(tag); made.className = kind; made.textContent = made.title = text; return made;
};
function draw(values, most, rows, columns, cell, caption, tip) {
  const figure = make('figure', '', ''), map = make('div', 'map', ''), canvas = document.createElement('canvas');
  canvas.width = columns.length * cell; canvas.height = rows.length * cell;
  const pen = canvas.getContext('2d');
  values.forEach((value, place) => {
    const v = 255 * value / most;
    pen.fillStyle = `rgb(${255 - 0.85 * v},${255 - 0.6 * v},${255 - 0.2 * v})`;
    pen.fillRect(place % columns.length * cell, Math.floor(place / columns.length) * cell, cell, cell);
  });
  canvas.onmousemove = e => {
    const x = Math.min(columns.length - 1, Math.floor(e.offsetX / cell));
    const y = Math.min(rows.length - 1, Math.floor(e.offsetY / cell));
    canvas.title = `${rows[y]} reads ${tip(x, y)}: ${(values[y * columns.length + x] / 255).toFixed(2)}`;
  };
  map.style.gridTemplateColumns = `max-content repeat(${columns.length}, ${cell}px)`;
  map.style.gridTemplateRows = `auto repeat(${rows.length}, ${cell}px)`;
  map.style.lineHeight = `${cell}px`;
  const put = (name, kind, row, column) => {
    const label = make('span', kind, name); label.style.gridArea = `${row} / ${column}`; map.append(label);
  };
  columns.forEach((name, x) => put(name, 'column', 1, x + 2));
  rows.forEach((name, y) => put(name, 'row', y + 2, 1));
  canvas.style.gridArea = `2 / 2 / span ${rows.length} / span ${columns.length}`; map.append(canvas);
  figure.append(make('figcaption', '', caption), map); return figure;
}
function show() {
  const example = data[document.getElementById('example').value];
  const layer = example.layers[document.getElementById('layer').value];
  const n = example.tokens.length, k = layer.taps, shift = (k - 1) / 2, names = example.tokens;
  const cell = Math.max(12, Math.min(22, Math.floor(420 / n)));
  document.getElementById('tokens').textContent = names.join(' ');
  const maps = (id, packed, columns, caption, tip) => {
    const values = bytes(packed), size = n * columns.length, most = values.reduce((a, b) => Math.max(a, b), 1);
    const scale = `White is 0, the darkest blue ${(most / 255).toFixed(2)}, in every head of this layer.`;
    document.getElementById(`${id}-scale`).textContent = scale;
    document.getElementById(id).replaceChildren(...Array.from({length: layer.heads}, (_, h) =>
      draw(values.slice(h * size, (h + 1) * size), most, names, columns, cell, `${caption} head ${h + 1}`, tip)));
  };
  maps('attention', layer.attention, names, 'attention', x => names[x]);
  const taps = Array.from({length: k}, (_, x) => x < shift ? `${x - shift}` : x > shift ? `+${x - shift}` : 'itself');
  maps('kernels', layer.kernels, taps, 'convolution', (x, y) => names[y + x - shift] ?? 'nothing');
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
    about: Mapping[str, Any] | None = None,
) -> str:
    """A page that shows, for each example, how every layer mixes its tokens.

    Args:
        features: the examples; of choices, the first is shown.
        captions: what to call each.
        about: facts for the head of the page: model, task, data.
    """
    shown = [{"caption": c, **_look(model, tokenizer, f)} for c, f in zip(captions, features, strict=True)]
    options = "".join(
        f"<option value={n}>{escape(c if len(c) <= _CAPTION else c[:_CAPTION] + ' …')}</option>"
        for n, c in enumerate(captions)
    )
    layers = "".join(f"<option value={n}>layer {n + 1}</option>" for n in range(len(shown[0]["layers"])))
    longest = max(len(_ids(feature)[0]) for feature in features)
    cut = f" Of longer texts the first {_MOST_TOKENS} tokens are shown." if longest > _MOST_TOKENS else ""
    data = json.dumps(shown).replace("<", "\\u003c")
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
