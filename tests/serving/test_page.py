"""The page at /, in a real browser: it shows what the library answers, and asks nobody outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import convbert

pytest.importorskip("fastapi", reason="needs the extra serve")

NODE_MODULES = os.environ.get("CONVBERT_NODE_MODULES", "")
"""Where playwright-core is installed: npm install --ignore-scripts playwright-core."""
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.filterwarnings("ignore::convbert.util.errors.DataWarning"),  # the page's own examples
    pytest.mark.skipif(CHROMIUM is None or shutil.which("node") is None, reason="needs Chromium and Node.js"),
    pytest.mark.skipif(
        not Path(NODE_MODULES, "playwright-core").is_dir(),
        reason="needs playwright-core (CONVBERT_NODE_MODULES)",
    ),
]
IN_CHROMIUM = """
import { chromium } from 'playwright-core';
const [executablePath, address, pictures] = process.argv.slice(2);
const quiet = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
  '--disable-background-networking', '--disable-component-update'];
const browser = await chromium.launch({ executablePath, args: quiet });
const page = await browser.newPage({ viewport: { width: 900, height: 900 } });
const outside = [], wrong = [], shown = {};
page.on('request', (request) => {
  if (!/^(data:|http:..127\\.0\\.0\\.1)/.test(request.url())) outside.push(request.url());
});
page.on('console', (message) => { if (message.type() === 'error') wrong.push(message.text()); });
page.on('pageerror', (error) => wrong.push(error.message));
const ended = async () => {
  await page.waitForFunction(() => !/Loading|^$/.test(document.getElementById('status').textContent));
  return page.textContent('#status');
};
const texts = (selector) => page.$$eval(selector, (found) => found.map((x) => x.textContent));
const picture = async (name) => {
  if (!pictures) return;
  await page.screenshot({ path: `${pictures}/${name}-900.png`, fullPage: true });
  await page.setViewportSize({ width: 380, height: 800 });
  await page.screenshot({ path: `${pictures}/${name}-380.png`, fullPage: true });
  await page.setViewportSize({ width: 900, height: 900 });
};
const clear = () => page.evaluate(() => { document.getElementById('status').textContent = ''; });
await page.goto(address);
await ended();
const choices = await texts('#choice option');
const steps = {
  'words: fill masks': 'the cat [MASK] on the mat .', 'reviews: classify': 'a cat ran\\na dog sat',
  'names: tag': 'the cat 😀 sat on the mat', 'questions: answer questions': 'the dog ran and the cat sat on a mat .',
  'choices: choose': 'on a mat .\\nand ran', 'words: compare lines': 'a cat sat\\na dog ran',
};
for (const [choice, text] of Object.entries(steps)) {
  await clear();
  await page.selectOption('#choice', { label: choice });
  await ended();
  await page.fill('#text', text);
  if (/questions|choices/.test(choice)) await page.fill('#question', 'the cat');
  await clear();
  if (choice.includes('tag')) await page.press('#text', 'Control+Enter'); else await page.click('button');
  shown[choice] = {
    status: await ended(), names: await texts('.bar .name'), values: await texts('.bar .value'),
    marks: await texts('mark'), cells: await texts('.similarities td:not(.corner)'), titles: await texts('.card h2'),
  };
  if (!(await page.$('details[open]'))) await page.click('summary');  // once: it stays open
  await page.waitForSelector('details .hint');
  await picture(choice.replace(/\\W+/g, '-'));
}
const maps = {};
const kinds = { attention: 'Attention', kernel: 'Dynamic kernels' };
for (const [kind, label] of Object.entries(kinds)) {
  await page.selectOption('.controls label:nth-child(1) select', { label });
  await page.selectOption('.controls label:nth-child(2) select', { label: '1' });
  await page.selectOption('.controls label:nth-child(3) select', { label: '2' });
  await page.waitForSelector('details [aria-busy=false]');
  maps[kind] = await page.$$eval(`table.${kind} td:not(.corner)`, (found) => found.map((x) => x.title));
  await picture(`maps-${kind}`);
}
await page.selectOption('#choice', { label: 'words: fill masks' });
await ended();
await page.fill('#text', 'no place');
await clear();
await page.click('button');
const refused = await ended();
await page.setViewportSize({ width: 380, height: 800 });
const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
await page.goto(`${address}docs`);
await page.waitForSelector('.card');
const routes = await texts('.card h2');
await page.screenshot(pictures ? { path: `${pictures}/docs-380.png` } : {});
const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
console.log(JSON.stringify({ shown, maps, choices, refused, outside, wrong, overflow, tooWide, routes }));
await browser.close();
"""


def same(titles: list[str], expected: list[str]) -> bool:
    """But for the last digit: weights come rounded."""
    pairs = [[title.rpartition(": ") for title in each] for each in zip(titles, expected, strict=True)]
    numbers = [[float(value.removesuffix(" %")) for *_, value in each] for each in pairs]
    return all(one[0] == other[0] for one, other in pairs) and all(abs(a - b) < 0.11 for a, b in numbers)


def test_the_page_answers_in_a_browser(server, folders, tmp_path):
    (tmp_path / "program.mjs").write_text(IN_CHROMIUM, encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    pictures = os.environ.get("CONVBERT_PICTURES", "")
    command = ["node", str(tmp_path / "program.mjs"), str(CHROMIUM), f"{server.url}/", pictures]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    shown = found["shown"]

    def pipe(task: str, name: str, **kwargs):
        return convbert.pipeline(task, folders[name], precision="fp32", **kwargs)

    masks = pipe("fill-mask", "words")("the cat [MASK] on the mat .")
    assert shown["words: fill masks"]["names"] == [x["token_str"] for x in masks]
    assert shown["words: fill masks"]["values"] == [f"{100 * x['score']:.1f} %" for x in masks]
    classes = pipe("text-classification", "reviews", top_k=None)(["a cat ran", "a dog sat"])
    assert shown["reviews: classify"]["names"] == [x["label"] for each in classes for x in each]
    assert shown["reviews: classify"]["titles"] == ["a cat ran", "a dog sat"]
    text = "the cat 😀 sat on the mat"
    spans = pipe("token-classification", "names", aggregation_strategy="simple")(text)
    assert spans
    assert shown["names: tag"]["marks"] == [
        f"{text[x['start'] : x['end']]}{x['entity_group']}" for x in spans
    ]
    context = "the dog ran and the cat sat on a mat ."
    answer = pipe("question-answering", "questions")(question="the cat", context=context)["answer"]
    asked = shown["questions: answer questions"]
    assert (asked["names"], asked["marks"]) == ([answer], [answer])
    cells = shown["words: compare lines"]["cells"]
    assert (cells[0], cells[3], cells[1] == cells[2]) == ("1.00", "1.00", True)
    rows = convbert.ConvBertTokenizerFast.from_pretrained(folders["words"])("a cat sat", return_tensors="pt")
    tokens = ["[CLS]", "a", "cat", "sat", "[SEP]"]
    with torch.no_grad():
        model = convbert.ConvBertForMaskedLM.from_pretrained(folders["words"])
        output = model(**rows, output_attentions=True, output_conv_kernels=True)
    around = ["outside the text", *tokens, "outside the text"]
    maps = {
        "attention": (output.attentions[0][0, 1], [tokens] * 5),
        "kernel": (output.conv_kernels[0][0, :, 1], [around[place : place + 3] for place in range(5)]),
    }
    for kind, (weights, read) in maps.items():
        expected = [
            f"{token} → {other}: {100 * weight:.1f} %"
            for token, others, row in zip(tokens, read, weights.tolist(), strict=True)
            for other, weight in zip(others, row, strict=True)
        ]
        assert same(found["maps"][kind], expected)
    assert all("ms" in each["status"] for each in shown.values())
    assert "[MASK]" in found["refused"]
    assert "POST /embed" in found["routes"]
    assert (found["outside"], found["overflow"], found["tooWide"]) == ([], 0, 0)
    assert [line for line in found["wrong"] if "422" not in line] == []  # the refused text is one
