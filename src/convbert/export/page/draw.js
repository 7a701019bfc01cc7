// How answers are drawn: the same on the page that runs in the browser and on that of the server.
const LONGEST_BAR_LIST = 10;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function card(title) {
  const made = element("div", "card");
  if (title) made.append(element("h2", "", title));
  return made;
}

// A bar is as long as its share of the longest.
function bar(name, share, longest = 1) {
  const row = element("div", "bar");
  const track = element("div", "track");
  const fill = element("div", "fill");
  fill.style.width = `${Math.max(0, Math.min(1, share / longest)) * 100}%`;
  track.append(fill);
  row.append(element("span", "name", name), track, element("span", "value", `${(share * 100).toFixed(1)} %`));
  return row;
}

// Candidates of each mask, best first.
export function drawMasks(masks) {
  return masks.map((candidates, number) => {
    const made = card(masks.length > 1 ? `[MASK] ${number + 1}` : "[MASK]");
    candidates.forEach(({ token_str, score }) => made.append(bar(token_str, score, candidates[0].score)));
    return made;
  });
}

export function drawClasses(found, title) {
  const made = card(title);
  found.slice(0, LONGEST_BAR_LIST).forEach(({ label, score }) => made.append(bar(label, score)));
  return made;
}

// A text with marked spans; `start` and `end` count characters, not halves of them.
export function drawPassage(text, spans) {
  const characters = [...text];
  const made = card();
  const body = element("div", "passage");
  let done = 0;
  for (const { start, end, kind } of spans) {
    body.append(characters.slice(done, start).join(""));
    const marked = element("mark", "", characters.slice(start, end).join(""));
    if (kind) marked.append(element("small", "", kind));
    body.append(marked);
    done = end;
  }
  body.append(characters.slice(done).join(""));
  made.append(body);
  return made;
}

// The answer, and where it stands.
export function drawAnswer(text, { answer, score, start, end }) {
  const made = card();
  made.append(bar(answer || "(no answer)", score));
  return answer && start >= 0 ? [made, drawPassage(text, [{ start, end, kind: "" }])] : [made];
}

// Cosines of vectors of length 1, each line with each.
export function drawSimilarities(lines, vectors) {
  const made = card("Cosine similarity");
  const scroll = element("div", "scroll");
  const table = element("table");
  lines.forEach((line, row) => {
    const cells = element("tr");
    const head = element("th", "", line);
    head.scope = "row";
    cells.append(head);
    lines.forEach((_, column) => {
      const value = vectors[row].reduce((sum, x, index) => sum + x * vectors[column][index], 0);
      const cell = element("td", "", value.toFixed(2));
      cell.style.background = `color-mix(in srgb, var(--accent) ${Math.round(Math.max(0, value) * 60)}%, transparent)`;
      cells.append(cell);
    });
    table.append(cells);
  });
  scroll.append(table);
  made.append(scroll);
  return made;
}
