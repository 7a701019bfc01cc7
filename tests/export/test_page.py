"""The page answers in a browser what the library answers, and asks nobody outside."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch

import convbert
import tiny
from convbert.cli import main

pytest.importorskip("onnxruntime", reason="needs the extra onnx")

NODE_MODULES = os.environ.get("CONVBERT_NODE_MODULES", "")
"""Where @huggingface/transformers and playwright-core are installed: npm install --ignore-scripts of both."""
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(
        not Path(NODE_MODULES, "@huggingface").is_dir(),
        reason="needs transformers.js (CONVBERT_NODE_MODULES)",
    ),
    pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js"),
]
SENTENCE = "the cat [MASK] on the mat ."
TOLERANCE = 1e-5

IN_NODE = """
import { env, pipeline } from '@huggingface/transformers';
env.allowRemoteModels = false;
env.localModelPath = process.argv[2];
const fill = await pipeline('fill-mask', 'model', { dtype: 'fp32' });
console.log(JSON.stringify(await fill(JSON.parse(process.argv[3]), { top_k: 3 })));
"""
IN_CHROMIUM = """
import { chromium } from 'playwright-core';
const quiet = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
  '--disable-background-networking', '--disable-component-update'];
const browser = await chromium.launch({ executablePath: process.argv[2], args: quiet });
const page = await browser.newPage();
const outside = [];
page.on('request', (request) => {
  if (!/^(data:|blob:|http:..127\\.0\\.0\\.1)/.test(request.url())) outside.push(request.url());
});
await page.goto(process.argv[3]);
const ended = () => page.waitForFunction(() => !/Loading|^$/.test(document.getElementById('status').textContent));
await ended();
await page.fill('#text', process.argv[4]);
await page.evaluate(() => { document.getElementById('status').textContent = ''; });
await page.click('button');
await ended();
console.log(JSON.stringify({
  names: await page.$$eval('.bar .name', (found) => found.map((x) => x.textContent)),
  values: await page.$$eval('.bar .value', (found) => found.map((x) => x.textContent)),
  cells: await page.$$eval('table.attention td:not(.corner)', (found) => found.map((x) => x.title)),
  status: await page.textContent('#status'),
  outside,
}));
await browser.close();
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("page")
    torch.manual_seed(0)
    folder = tiny.write_model(root / "model", num_hidden_layers=1)
    convbert.ConvBertForMaskedLM(tiny.config(num_hidden_layers=1, initializer_range=0.3)).save_pretrained(
        folder
    )
    words = ["--model", str(folder), "--format", "web", "--precision", "fp32", "--node-modules", NODE_MODULES]
    assert main(["export", *words, "--with-attentions", "--output", str(root / "site")]) == 0
    return root


def run_script(script: str, *words: str, at: Path) -> dict:
    """What a program of Node.js prints as JSON."""
    path = at / "program.mjs"
    path.write_text(script, encoding="utf-8")
    link = at / "node_modules"
    if not link.exists():
        link.symlink_to(NODE_MODULES)
    done = subprocess.run(["node", str(path), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_transformers_js_answers_as_the_library(site, tmp_path):
    fill = convbert.pipeline("fill-mask", model=str(site / "model"), precision="fp32", top_k=3)
    texts = [SENTENCE, "a [MASK] ."]
    found = run_script(IN_NODE, f"{site / 'site'}/", json.dumps(texts), at=tmp_path)
    for ours, theirs in zip(fill(texts), found, strict=True):
        assert [x["token"] for x in theirs] == [x["token"] for x in ours]
        assert [x["score"] for x in theirs] == pytest.approx([x["score"] for x in ours], abs=TOLERANCE)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_answers_in_a_browser(site, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        found = run_script(IN_CHROMIUM, str(CHROMIUM), address, SENTENCE, at=tmp_path)
        server.shutdown()
    ours = convbert.pipeline("fill-mask", model=str(site / "model"), precision="fp32", top_k=5)(SENTENCE)
    assert found["names"] == [x["token_str"] for x in ours], found
    assert found["values"] == [f"{100 * x['score']:.1f} %" for x in ours]
    assert found["outside"] == []
    tokens = ["[CLS]", *SENTENCE.split(), "[SEP]"]
    assert [title.rpartition(":")[0] for title in found["cells"]] == [
        f"{token} → {read}" for token in tokens for read in tokens
    ]


def test_a_folder_without_the_package_is_named(site, tmp_path, capsys):
    words = ["--model", str(site / "model"), "--format", "web", "--node-modules", str(tmp_path)]
    assert main(["export", *words, "--output", str(tmp_path / "out")]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
