// The parts that answers are shown with.

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

// A text with marked spans: start and end count characters; a background in place of the usual one where it is given.
export function passage(text, spans) {
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

// Where each token stands: transformers.js gives no offsets, so tokens are found in the text one after the other, in
// the form that an uncased tokenizer sees.
export function locate(text, tokens) {
  const plain = [];
  const places = [];
  [...text].forEach((character, index) => {
    for (const part of character.normalize("NFD").replace(/\p{Mn}/gu, "").toLowerCase()) {
      plain.push(part);
      places.push(index);
    }
  });
  const joined = plain.join("");
  let from = 0;
  return tokens.map((token) => {
    const word = token.replace(/^##/, "").normalize("NFD").replace(/\p{Mn}/gu, "").toLowerCase();
    const start = joined.indexOf(word, from);
    if (start < 0) return null;
    from = start + word.length;
    return [places[start], places[from - 1] + 1];
  });
}
