// What the tokens of a text read: attention between all of them, and the dynamic kernels, which weigh each token's
// neighbours. An export with --with-attentions has them as outputs.
import { card, element, heatMap } from "./draw.js";

const MOST_TOKENS = 64;
const percent = (share) => `${(share * 100).toFixed(1)} %`;

export async function showMaps(run, text, pair) {
  const { attentions, conv_kernels: kernels } = await run.model.forward(
    run.tokenizer(text, { text_pair: pair, truncation: true }),
  );
  const [, layers, heads, length] = attentions.dims;
  const size = kernels.dims[4];
  const shown = Math.min(length, MOST_TOKENS);
  const tokens = run.tokenizer.tokenize(text, { pair, add_special_tokens: true }).slice(0, shown);
  const weights = {
    attention: (layer, head, from, to) => attentions.data[((layer * heads + head) * length + from) * length + to],
    kernel: (layer, head, from, place) => kernels.data[((layer * length + from) * heads + head) * size + place],
  };

  const what = choice("Show", [["attention", "Attention"], ["kernel", "Dynamic kernels"]], 0);
  const layer = choice("Layer", [...Array(layers).keys()].map((n) => [n, `${n + 1}`]), layers - 1);
  const head = choice("Head", [["mean", "mean"], ...[...Array(heads).keys()].map((n) => [n, `${n + 1}`])], 0);
  const place = element("div");
  const legend = element("p", "hint");

  function draw() {
    const [kind, number] = [what.value(), Number(layer.value())];
    const chosen = head.value() === "mean" ? [...Array(heads).keys()] : [Number(head.value())];
    const weight = (from, to) => chosen.reduce((sum, h) => sum + weights[kind](number, h, from, to), 0) / chosen.length;
    const width = kind === "attention" ? tokens.length : size;
    const values = tokens.map((_, from) => [...Array(width).keys()].map((to) => weight(from, to)));
    const largest = Math.max(...values.flat());
    const neighbour = (from, to) => (kind === "attention" ? to : from + to - (size >> 1));
    const rows = tokens.map((name, from) => ({
      name,
      cells: values[from].map((value, to) => {
        const read = tokens[neighbour(from, to)] ?? "";
        const told = `${name} → ${read || "outside the text"}: ${percent(value)}`;
        return [kind === "attention" ? "" : read, value / largest, told];
      }),
    }));
    const offsets = [...Array(size).keys()].map((n) => n - (size >> 1)).map((n) => (n > 0 ? `+${n}` : `${n}`));
    place.replaceChildren(heatMap(kind, kind === "attention" ? tokens : offsets, rows));
    const more = length > tokens.length ? ` The first ${tokens.length} of ${length} tokens.` : "";
    legend.textContent = `Each row is a token, and says how much of each ${
      kind === "attention" ? "token" : "neighbour"} it reads. The darkest cell is ${percent(largest)}.${more}`;
  }

  const controls = element("div", "controls");
  controls.append(what.label, layer.label, head.label);
  controls.addEventListener("change", draw);
  draw();
  return [card("What each token reads", controls, place, legend)];
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
