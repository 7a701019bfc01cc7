// One page for every task: reads model/config.json, loads the model with transformers.js, and shows its answers.
import { env, pipeline } from "./vendor/transformers.min.js";

env.allowLocalModels = true;
env.allowRemoteModels = false;
env.localModelPath = "./";
// The plain build: half the size of the one that transformers.js would fetch, which serves GPUs, too.
const runtime = new URL("vendor/ort-wasm-simd-threaded", location.href).href;
env.backends.onnx.wasm.wasmPaths = { mjs: `${runtime}.mjs`, wasm: `${runtime}.wasm` };

const LONGEST_BAR_LIST = 10;
const find = (id) => document.getElementById(id);

// What each head is called, what stands in the form at first, and how its answer is made and shown.
const TASKS = {
  ConvBertForMaskedLM: {
    task: "fill-mask", title: "Fill masks", hint: "Write [MASK] where a word is to be filled in.",
    text: "Plants create [MASK] through a process known as photosynthesis.", show: showMasks,
  },
  ConvBertForSequenceClassification: {
    task: "text-classification", title: "Classify a text", hint: "",
    text: "A warm and funny film.", show: showClasses,
  },
  ConvBertForTokenClassification: {
    task: "token-classification", title: "Tag a text", hint: "", text: "Ada Lovelace lived in London.", show: showTags,
  },
  ConvBertForQuestionAnswering: {
    task: "question-answering", title: "Ask a text", hint: "", question: "Where did she live?",
    text: "Ada Lovelace was a mathematician. She lived in London.", show: showAnswer,
  },
  ConvBertModel: {
    task: "feature-extraction", title: "Compare lines", hint: "One text a line; each is compared with each.",
    text: "A cat sat on the mat.\nA dog slept on the rug.\nShares fell on Monday.", show: showSimilarities,
  },
};

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

async function showMasks(run, text) {
  if (!text.includes("[MASK]")) throw new Error("The text has no [MASK].");
  const found = await run(text, { top_k: 5 });
  const masks = Array.isArray(found[0]) ? found : [found];
  return masks.map((candidates, number) => {
    const made = card(masks.length > 1 ? `[MASK] ${number + 1}` : "[MASK]");
    candidates.forEach(({ token_str, score }) => made.append(bar(token_str, score, candidates[0].score)));
    return made;
  });
}

async function showClasses(run, text) {
  const made = card();
  const found = await run(text, { top_k: null });
  found.slice(0, LONGEST_BAR_LIST).forEach(({ label, score }) => made.append(bar(label, score)));
  return [made];
}

// Where each token stands: transformers.js gives no offsets, so tokens are found in the text one after the other, in
// the form that an uncased tokenizer sees.
function locate(text, tokens) {
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

const kindOf = (label) => label.replace(/^[BILUSEM][-_]/, "");

async function showTags(run, text) {
  const found = await run(text, { ignore_labels: [] });
  const places = locate(text, found.map(({ word }) => word));
  const spans = [];
  found.forEach(({ entity, word }, number) => {
    const place = places[number];
    if (!place || entity === "O") return;
    const last = spans.at(-1);
    const goesOn = word.startsWith("##") || (last && /^[IEML][-_]/.test(entity) && kindOf(entity) === last.kind);
    const isNear = last && text.slice(last.end, place[0]).trim() === "";
    if (last && goesOn && isNear) last.end = place[1];
    else spans.push({ start: place[0], end: place[1], kind: kindOf(entity) });
  });
  return [passage(text, spans)];
}

function passage(text, spans) {
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

async function showAnswer(run, text, question) {
  if (!question.trim()) throw new Error("Ask a question.");
  const { answer, score } = await run(question, text);
  const start = text.toLowerCase().indexOf(answer.toLowerCase());
  const made = card();
  made.append(bar(answer || "(no answer)", score));
  if (start < 0 || !answer) return [made];
  const before = [...text.slice(0, start)].length;
  return [made, passage(text, [{ start: before, end: before + [...answer].length, kind: "" }])];
}

async function showSimilarities(run, text) {
  const lines = text.split("\n").filter((line) => line.trim());
  const vectors = (await run(lines, { pooling: "mean", normalize: true })).tolist();
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
  return [made];
}

function say(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

async function start() {
  const config = await (await fetch("model/config.json")).json();
  const page = TASKS[config.architectures?.[0]];
  if (!page) throw new Error(`This page has no form for ${config.architectures?.[0]}.`);
  find("title").textContent = document.title = page.title;
  const { dtype } = await (await fetch("page.json")).json();
  const run = await pipeline(page.task, "model", { dtype, device: "wasm" });
  find("text").value = page.text;
  find("hint").textContent = page.hint;
  if (page.question !== undefined) {
    find("question").value = page.question;
    find("question-field").hidden = false;
    find("text-label").textContent = "Context";
  }
  find("form").hidden = false;

  async function answer() {
    const begun = performance.now();
    try {
      const shown = await page.show(run, find("text").value, find("question").value);
      find("answer").replaceChildren(...shown);
      say(`Answered in ${Math.round(performance.now() - begun)} ms.`);
    } catch (error) {
      find("answer").replaceChildren();
      say(error.message, true);
    }
  }
  find("form").addEventListener("submit", (event) => { event.preventDefault(); answer(); });
  find("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) answer();
  });
  await answer();
}

start().catch((error) => say(`The model could not be loaded: ${error.message}`, true));
