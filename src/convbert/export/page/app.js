// One page for every task: reads model/config.json, loads the model with transformers.js, and shows its answers.
import { env, pipeline } from "./vendor/transformers.min.js";
import { card } from "./draw.js";
import { MOST_TOKENS, drawMaps } from "./maps.js";
import { TASKS } from "./tasks.js";

env.allowLocalModels = true;
env.allowRemoteModels = false;
env.localModelPath = "./";
// The plain build: half the size of the one that transformers.js would fetch, which serves GPUs, too.
const runtime = new URL("vendor/ort-wasm-simd-threaded", location.href).href;
env.backends.onnx.wasm.wasmPaths = { mjs: `${runtime}.mjs`, wasm: `${runtime}.wasm` };

const find = (id) => document.getElementById(id);

function say(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

function fillForm(page) {
  find("title").textContent = document.title = page.title;
  find("text").value = page.text;
  find("hint").textContent = page.hint ?? "";
  if (page.label) find("text-label").textContent = page.label;
  if (page.other !== undefined) {
    find("other").value = page.other;
    find("other-label").textContent = page.first ?? page.second;
    find("other-field").hidden = false;
    if (page.second) find("text-field").after(find("other-field"));
  }
  find("form").hidden = false;
}

async function showMaps(run, text, pair) {
  const { attentions, conv_kernels: kernels } = await run.model.forward(
    run.tokenizer(text, { text_pair: pair, truncation: true }),
  );
  const [, layers, , length] = attentions.dims;
  const tokens = run.tokenizer.tokenize(text, { pair, add_special_tokens: true }).slice(0, Math.min(length, MOST_TOKENS));
  const shown = [0, tokens.length];
  return card("What each token reads", ...await drawMaps(layers, async (layer) => ({
    tokens, length,
    attentions: (await attentions.slice(0, layer, null, shown, shown)).tolist(),
    kernels: (await kernels.slice(0, layer, shown)).tolist(),
  })));
}

async function start() {
  const config = await (await fetch("model/config.json")).json();
  const page = TASKS[config.architectures?.[0]];
  if (!page) throw new Error(`This page has no form for ${config.architectures?.[0]}.`);
  const { dtype, maps } = await (await fetch("page.json")).json();
  const run = await pipeline(page.task, "model", { dtype, device: "wasm" });
  fillForm(page);

  async function answer() {
    const begun = performance.now();
    const [text, other] = [find("text").value, find("other").value];
    try {
      if (!text.trim()) throw new Error("Write a text.");
      const shown = await page.show(run, text, other);
      say(`Answered in ${Math.round(performance.now() - begun)} ms.`);
      if (maps) shown.push(await showMaps(run, ...(page.first ? [other, text] : [text, other.trim() || null])));
      find("answer").replaceChildren(...shown);
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
