// How answers are drawn: the same on the page that runs in the browser and on that of the server.
const LONGEST_BAR_LIST = 10;

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function card(title, ...content) {
  const made = element("div", "card");
  if (title) made.append(element("h2", "", title));
  made.append(...content);
  return made;
}

// A bar is as long as its share of the longest.
export function bar(name, share, longest = 1) {
  const row = element("div", "bar");
  const track = element("div", "track");
  const fill = element("div", "fill");
  fill.style.width = `${Math.max(0, Math.min(1, share / longest)) * 100}%`;
  track.append(fill);
  row.append(element("span", "name", name), track, element("span", "value", `${(share * 100).toFixed(1)} %`));
  return row;
}

export const shade = (share) =>
  `color-mix(in srgb, var(--accent) ${Math.round(Math.max(0, Math.min(1, share)) * 75)}%, transparent)`;

// A text with marked spans: start and end count characters; with a background in place of the usual one.
function passage(text, spans) {
  const characters = [...text];
  const body = element("div", "passage");
  let done = 0;
  for (const { start, end, kind, background, title } of spans) {
    body.append(characters.slice(done, start).join(""));
    const marked = element("mark", "", characters.slice(start, end).join(""));
    if (kind) marked.append(element("small", "", kind));
    if (background) marked.style.background = background;
    if (title) marked.title = title;
    body.append(marked);
    done = end;
  }
  body.append(characters.slice(done).join(""));
  return body;
}

// A table in a frame that scrolls sideways. Cells are [text, share of the darkest, title].
export function heatMap(className, columns, rows) {
  const table = element("table", className);
  if (columns) {
    const head = element("tr");
    head.append(element("td", "corner"), ...columns.map((name) => {
      const cell = element("th");
      cell.scope = "col";
      cell.append(element("span", "", name));
      return cell;
    }));
    table.append(head);
  }
  for (const { name, cells } of rows) {
    const row = element("tr");
    const head = element("th", "", name);
    head.scope = "row";
    head.title = name;
    row.append(head, ...cells.map(([text, share, title]) => {
      const cell = element("td", "", text);
      cell.style.background = shade(share);
      if (title) cell.title = title;
      return cell;
    }));
    table.append(row);
  }
  const frame = element("div", "scroll");
  frame.tabIndex = 0; // scrolls by keyboard
  frame.append(table);
  return frame;
}

// Candidates of each mask, best first.
export function drawMasks(masks) {
  return masks.map((candidates, number) => card(
    masks.length > 1 ? `[MASK] ${number + 1}` : "[MASK]",
    ...candidates.map(({ token_str, score }) => bar(token_str, score, candidates[0].score)),
  ));
}

export function drawClasses(found, title) {
  return card(title, ...found.slice(0, LONGEST_BAR_LIST).map(({ label, score }) => bar(label, score)));
}

export const drawPassage = (text, spans) => card("", passage(text, spans));

// The answer, and where it stands.
export function drawAnswer(text, { answer, score, start, end }) {
  const made = card("", bar(answer || "(no answer)", score));
  return answer && start >= 0 ? [made, drawPassage(text, [{ start, end }])] : [made];
}

// Cosines of vectors of length 1, each line with each.
export function drawSimilarities(lines, vectors) {
  const rows = lines.map((name, row) => ({
    name: `${row + 1}  ${name}`,
    cells: vectors.map((vector) => {
      const value = vector.reduce((sum, x, index) => sum + x * vectors[row][index], 0);
      return [value.toFixed(2), value];
    }),
  }));
  return card("Cosine similarity", heatMap("similarities", lines.map((_, number) => `${number + 1}`), rows));
}
