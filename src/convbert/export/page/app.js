// One page for every task: reads model/config.json, loads the model with transformers.js, and shows its answers.
import { drawAnswer, drawClasses, drawMasks, drawPassage, drawSimilarities } from "./draw.js";
import { env, pipeline } from "./vendor/transformers.min.js";

env.allowLocalModels = true;
env.allowRemoteModels = false;
env.localModelPath = "./";
// The plain build: half the size of the one that transformers.js would fetch, which serves GPUs, too.
const runtime = new URL("vendor/ort-wasm-simd-threaded", location.href).href;
env.backends.onnx.wasm.wasmPaths = { mjs: `${runtime}.mjs`, wasm: `${runtime}.wasm` };

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

async function showMasks(run, text) {
  if (!text.includes("[MASK]")) throw new Error("The text has no [MASK].");
  const found = await run(text, { top_k: 5 });
  return drawMasks(Array.isArray(found[0]) ? found : [found]);
}

async function showClasses(run, text) {
  return [drawClasses(await run(text, { top_k: null }))];
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
  return [drawPassage(text, spans)];
}

async function showAnswer(run, text, question) {
  if (!question.trim()) throw new Error("Ask a question.");
  const { answer, score } = await run(question, text);
  const found = text.toLowerCase().indexOf(answer.toLowerCase());
  const start = found < 0 ? found : [...text.slice(0, found)].length;
  return drawAnswer(text, { answer, score, start, end: start + [...answer].length });
}

async function showSimilarities(run, text) {
  const lines = text.split("\n").filter((line) => line.trim());
  const vectors = (await run(lines, { pooling: "mean", normalize: true })).tolist();
  return [drawSimilarities(lines, vectors)];
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
