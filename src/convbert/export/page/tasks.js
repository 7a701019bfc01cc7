// What each head is called, what stands in the form at first, and how its answer is made and shown.
import {
  bar, card, drawAnswer, drawClasses, drawMasks, drawPassage, drawSimilarities, element, shade,
} from "./draw.js";

export const TASKS = {
  ConvBertForMaskedLM: {
    task: "fill-mask", title: "Fill masks", hint: "Write [MASK] where a word is to be filled in.",
    text: "Plants create [MASK] through a process known as photosynthesis.", show: showMasks,
  },
  ConvBertForSequenceClassification: {
    task: "text-classification", title: "Classify a text", second: "Second text (for models of pairs)", other: "",
    text: "A warm and funny film.", show: showClasses,
  },
  ConvBertForTokenClassification: {
    task: "token-classification", title: "Tag a text", text: "Ada Lovelace lived in London.", show: showTags,
  },
  ConvBertForQuestionAnswering: {
    task: "question-answering", title: "Ask a text", first: "Question", other: "Where did she live?", label: "Context",
    text: "Ada Lovelace was a mathematician. She lived in London.", show: showAnswer,
  },
  // transformers.js has no classes for these two; its encoder runs any graph.
  ConvBertForMultipleChoice: {
    task: "feature-extraction", title: "Choose", first: "Beginning", other: "She put the kettle on and",
    label: "Choices", hint: "One choice a line.", text: "made tea.\nflew to the moon.", show: showChoices,
  },
  ConvBertForPreTraining: {
    task: "feature-extraction", title: "Find replaced words", hint: "The darker a word, the less it belongs there.",
    text: "The chef ate the meal and served it to the guests.", show: showReplaced,
  },
  ConvBertModel: {
    task: "feature-extraction", title: "Compare lines", hint: "One text a line; each is compared with each.",
    text: "A cat sat on the mat.\nA dog slept on the rug.\nShares fell on Monday.", show: showSimilarities,
  },
};

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

function softmax(scores) {
  const largest = Math.max(...scores);
  const parts = scores.map((x) => Math.exp(x - largest));
  const sum = parts.reduce((a, b) => a + b);
  return parts.map((x) => x / sum);
}

const linesOf = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

async function showMasks(run, text) {
  if (!text.includes("[MASK]")) throw new Error("The text has no [MASK].");
  const found = await run(text, { top_k: 5 });
  return drawMasks(Array.isArray(found[0]) ? found : [found]);
}

async function showClasses(run, text, second) {
  const { logits } = await run.model(run.tokenizer(text, { text_pair: second.trim() || null, truncation: true }));
  const [scores] = logits.tolist();
  const { id2label, problem_type: problem } = run.model.config;
  if (problem === "regression") {
    return [card("", ...scores.map((score) => element("p", "number", score.toFixed(3))))];
  }
  const are_independent = problem === "multi_label_classification" || scores.length === 1;
  const shares = are_independent ? scores.map(sigmoid) : softmax(scores);
  const found = shares.map((score, number) => ({ label: id2label?.[number] ?? `LABEL_${number}`, score }));
  return [drawClasses(found.sort((a, b) => b.score - a.score))];
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

async function showChoices(run, text, beginning) {
  const choices = linesOf(text);
  if (choices.length < 2) throw new Error("Write two choices or more, one a line.");
  const inputs = run.tokenizer(choices.map(() => beginning), { text_pair: choices, padding: true, truncation: true });
  for (const name of Object.keys(inputs)) inputs[name] = inputs[name].unsqueeze(0);
  const { logits } = await run.model.forward(inputs);
  return [card("", ...softmax(logits.tolist()[0]).map((share, number) => bar(choices[number], share)))];
}

async function showReplaced(run, text) {
  const { logits } = await run.model.forward(run.tokenizer(text, { truncation: true }));
  const shares = logits.tolist()[0].map(sigmoid);
  const places = locate(text, run.tokenizer.tokenize(text, { add_special_tokens: true }).slice(0, shares.length));
  const spans = places.flatMap((place, number) => {
    const told = `${(shares[number] * 100).toFixed(1)} %`;
    return place ? [{ start: place[0], end: place[1], background: shade(shares[number]), title: told }] : [];
  });
  return [drawPassage(text, spans)];
}

async function showSimilarities(run, text) {
  const lines = linesOf(text);
  if (!lines.length) throw new Error("Write a text.");
  const vectors = (await run(lines, { pooling: "mean", normalize: true })).tolist();
  return [drawSimilarities(lines, vectors)];
}
