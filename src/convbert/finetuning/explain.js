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
