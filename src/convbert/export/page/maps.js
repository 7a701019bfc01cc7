// What the tokens of a text read: attention between all of them, and the dynamic kernels, which weigh each token's
// neighbours; for a layer and a head.
import { element, heatMap } from "./draw.js";

export const MOST_TOKENS = 64;
const percent = (share) => `${(share * 100).toFixed(1)} %`;
const range = (count) => [...Array(count).keys()];

// read(layer) gives { tokens, length, attentions: [head][from][to], kernels: [from][head][place] }; only the first tokens
// of a text of that length may be among them.
export async function drawMaps(layers, read) {
  let found = await read(layers - 1);
  const what = choice("Show", [["attention", "Attention"], ["kernel", "Dynamic kernels"]], 0);
  const layer = choice("Layer", range(layers).map((n) => [n, `${n + 1}`]), layers - 1);
  const heads = range(found.attentions.length);
  const head = choice("Head", [["mean", "mean"], ...heads.map((n) => [n, `${n + 1}`])], 0);
  const place = element("div");
  const legend = element("p", "hint");

  function draw() {
    const { tokens, length, attentions, kernels } = found;
    const isAttention = what.value() === "attention";
    const size = kernels[0][0].length;
    const chosen = head.value() === "mean" ? heads : [Number(head.value())];
    const weight = (from, to) => chosen.reduce(
      (sum, h) => sum + (isAttention ? attentions[h][from][to] : kernels[from][h][to]), 0) / chosen.length;
    const values = tokens.map((_, from) => range(isAttention ? tokens.length : size).map((to) => weight(from, to)));
    const largest = Math.max(...values.flat());
    const rows = tokens.map((name, from) => ({
      name,
      cells: values[from].map((value, to) => {
        const read = tokens[isAttention ? to : from + to - (size >> 1)] ?? "";
        const told = `${name} → ${read || "outside the text"}: ${percent(value)}`;
        return [isAttention ? "" : read, value / largest, told];
      }),
    }));
    const offsets = range(size).map((n) => n - (size >> 1)).map((n) => (n > 0 ? `+${n}` : `${n}`));
    place.replaceChildren(heatMap(what.value(), isAttention ? tokens : offsets, rows));
    const more = length > tokens.length ? ` The first ${tokens.length} of ${length} tokens.` : "";
    legend.textContent = `Each row is a token, and says how much of each ${
      isAttention ? "token" : "neighbour"} it reads. The strongest is ${percent(largest)}.${more}`;
  }

  async function change() {
    const wanted = layer.value();
    place.ariaBusy = true;
    try {
      const next = await read(Number(wanted));
      if (wanted !== layer.value()) return; // a newer one is on its way
      found = next;
      draw();
    } catch (error) {
      legend.textContent = error.message;
    }
    place.ariaBusy = false;
  }

  const controls = element("div", "controls");
  controls.append(what.label, layer.label, head.label);
  controls.addEventListener("change", change);
  draw();
  return [controls, place, legend];
}

function choice(name, options, selected) {
  const label = element("label", "", name);
  const select = element("select");
  options.forEach(([value, text], number) => {
    const option = element("option", "", text);
    option.value = value;
    option.selected = number === selected;
    select.append(option);
  });
  label.append(select);
  return { label, value: () => select.value };
}
