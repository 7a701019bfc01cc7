"""A page that answers in the browser: transformers.js, the model in ONNX, and nothing from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

from convbert.util.errors import InputError

PACKAGE = "@huggingface/transformers"
VERSION = "^4.3.2"

DTYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8"}
"""Precision to what transformers.js calls it."""

_FILES = {
    f"{PACKAGE}/dist/transformers.min.js": "transformers.min.js",
    f"{PACKAGE}/LICENSE": "transformers.LICENSE",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
"""What the page needs of `node_modules`, and its name in the folder `vendor`."""


def write_page(folder: Path, precision: str, with_maps: bool, node_modules: str | None) -> None:
    """Put the page and what it runs on into a folder; the model belongs in `folder / "model"`.

    Args:
        precision: of the model, a key of `DTYPES`.
        with_maps: the model has `MAPS` as outputs.
        node_modules: a folder in which npm has installed transformers.js; None has npm fetch it.

    Raises:
        InputError: a file is not in `node_modules`; or npm is missing, or fails.
    """
    for file in resources.files("convbert.export").joinpath("page").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    page = {"dtype": DTYPES[precision], "maps": with_maps}
    (folder / "page.json").write_text(json.dumps(page) + "\n", encoding="utf-8")
    (folder / "vendor").mkdir()
    if node_modules is not None:
        _copy(Path(node_modules), folder / "vendor")
        return
    with tempfile.TemporaryDirectory() as place:
        _install(place)
        _copy(Path(place, "node_modules"), folder / "vendor")


def _copy(node_modules: Path, vendor: Path) -> None:
    for source, name in _FILES.items():
        if not (node_modules / source).is_file():
            raise InputError(
                f"{node_modules}: {source} is not there; install transformers.js with: npm install {PACKAGE}"
            )
        shutil.copyfile(node_modules / source, vendor / name)


def _install(place: str) -> None:
    remedy = f"install it somewhere with npm install {PACKAGE}, and name its folder (--node-modules)"
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"the page needs transformers.js, and there is no npm to fetch it: {remedy}")
    # Scripts of packages are not run: only files are wanted.
    words = [
        npm,
        "install",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--prefix",
        place,
        f"{PACKAGE}@{VERSION}",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        cause = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise InputError(f"npm could not fetch transformers.js ({cause}): {remedy}")
