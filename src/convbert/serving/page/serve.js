// The page of the server: asks /info what is served, sends texts to the routes, and draws the answers.
import { drawAnswer, drawClasses, drawMasks, drawPassage, drawSimilarities, element } from "./draw.js";
import { drawMaps } from "./maps.js";

const find = (id) => document.getElementById(id);
const linesOf = (text) => text.split("\n").filter((line) => line.trim());

// What stands in the form at first, what is sent (and, of it, what heat maps are of), and how the answer is drawn.
const TASKS = {
  "fill-mask": {
    title: "fill masks", path: "fill-mask", hint: "Write [MASK] where a word is to be filled in.",
    text: "Plants create [MASK] through a process known as photosynthesis.",
    draw: (found) => drawMasks(Array.isArray(found[0]) ? found : [found]),
  },
  "text-classification": {
    title: "classify", path: "classify", hint: "One text a line.", text: "A warm and funny film.",
    inputs: linesOf, mapped: ([line]) => line, draw: (found, text) => found.map((each, number) => drawClasses(each, linesOf(text)[number])),
  },
  "token-classification": {
    title: "tag", path: "tag", hint: "", text: "Ada Lovelace lived in London.",
    draw: (found, text) => [drawPassage(text, found.map((span) => ({ ...span, kind: span.entity_group ?? span.entity })))],
  },
  "question-answering": {
    title: "answer questions", path: "answer", hint: "", question: "Where did she live?",
    questionLabel: "Question", label: "Context", text: "Ada Lovelace was a mathematician. She lived in London.",
    inputs: (context, question) => ({ question, context }),
    mapped: ({ question, context }) => ({ text: question, text_pair: context }), draw: (found, text) => drawAnswer(text, found),
  },
  "multiple-choice": {
    title: "choose", path: "choose", hint: "One choice a line.", question: "She put the kettle on and",
    questionLabel: "Beginning", label: "Choices", text: "made tea.\nflew to the moon.",
    inputs: (choices, text) => ({ text, choices: linesOf(choices) }),
    mapped: ({ text, choices }) => ({ text, text_pair: choices[0] }), draw: (found) => [drawClasses(found)],
  },
  "feature-extraction": {
    title: "compare lines", path: "embed", hint: "One text a line; each is compared with each.",
    text: "A cat sat on the mat.\nA dog slept on the rug.\nShares fell on Monday.",
    inputs: linesOf, mapped: ([line]) => line, draw: (found, text) => [drawSimilarities(linesOf(text), found)],
  },
};

function say(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (find("key").value) headers.Authorization = `Bearer ${find("key").value}`;
  const response = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  if (response.status === 401) find("key-field").hidden = false;
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

let choices = [];
let asked = 0;
let isUnfolded = false;

function choose() {
  const { task } = choices[find("choice").value];
  find("text").value = task.text;
  find("hint").textContent = task.hint;
  find("question").value = task.question ?? "";
  find("question-field").hidden = task.question === undefined;
  find("question-label").textContent = task.questionLabel;
  find("text-label").textContent = task.label ?? "Text";
  find("answer").replaceChildren();
}

async function load() {
  const { models } = await ask("info");
  choices = models.flatMap(({ name, task, num_layers: layers }) =>
    [...new Set([task, "feature-extraction"])].map((each) => ({ model: name, layers, task: TASKS[each] })));
  find("choice").replaceChildren(...choices.map(({ model, task }, number) => new Option(`${model}: ${task.title}`, number)));
  choose();
}

// Heat maps, computed once somebody opens them.
function foldedMaps(model, layers, inputs) {
  const made = element("details", "card");
  made.append(element("summary", "", "What each token reads"));
  const read = async (layer) => {
    const { conv_kernels: kernels, ...found } = await ask("maps", { model, inputs, layer });
    return { ...found, kernels };
  };
  made.addEventListener("toggle", async () => {
    isUnfolded = made.open;
    if (!made.open || made.childElementCount > 1) return;
    const shown = element("div");
    made.append(shown);
    try {
      shown.replaceChildren(...await drawMaps(layers, read));
    } catch (error) {
      shown.replaceChildren(element("p", "hint", error.message));
    }
  });
  made.open = isUnfolded;
  return made;
}

async function answer() {
  const number = ++asked;
  const begun = performance.now();
  try {
    if (!choices.length) await load();
    const { model, layers, task } = choices[find("choice").value];
    const text = find("text").value;
    const inputs = task.inputs ? task.inputs(text, find("question").value) : text;
    const found = await ask(task.path, { model, inputs });
    if (number !== asked) return; // a newer one is on its way
    const maps = foldedMaps(model, layers, task.mapped ? task.mapped(inputs) : inputs);
    find("answer").replaceChildren(...task.draw(found, text), maps);
    say(`Answered in ${Math.round(performance.now() - begun)} ms.`);
  } catch (error) {
    if (number !== asked) return;
    find("answer").replaceChildren();
    say(error.message, true);
  }
}

find("form").addEventListener("submit", (event) => { event.preventDefault(); answer(); });
find("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); answer(); }
});
find("choice").addEventListener("change", () => { choose(); answer(); });
find("form").hidden = false;
answer();
