"""How often an exported model fills a mask with the same first token as the library in fp32.

    python scripts/exported_agreement.py tests/data/sentences.txt tests/data/heldout.txt

Every seventh token of each line is masked; batches of 8 lines are padded.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

import convbert
from convbert.export import export
from convbert.files import embedded
from convbert.inference.runtimes import ONNX_FILES, open_runtime

EVERY, BATCH = 7, 8


def main() -> None:
    model = convbert.load(precision="fp32", device="cpu")
    tokenizer = convbert.ConvBertTokenizerFast.from_pretrained(embedded.folder())
    lines = [line for path in sys.argv[1:] for line in Path(path).read_text("utf-8").splitlines() if line]
    with tempfile.TemporaryDirectory() as folder:
        precisions = ["fp32", "fp16", "int8", "int8-dynamic"]
        export(None, f"{folder}/out", precision=precisions)
        runs = {name: open_runtime("onnx", Path(folder, "out/onnx", ONNX_FILES[name])) for name in precisions}
        same, places = dict.fromkeys(precisions, 0), 0
        for start in range(0, len(lines), BATCH):
            texts = lines[start : start + BATCH]
            batch = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
            ids = batch["input_ids"]
            is_seventh = torch.arange(ids.shape[1]) % EVERY == EVERY - 1
            masked = is_seventh & (ids != tokenizer.pad_token_id) & (ids != tokenizer.sep_token_id)
            ids[masked] = tokenizer.mask_token_id
            with torch.no_grad():
                expected = model(**batch).logits[masked].argmax(-1).numpy()
            places += len(expected)
            arrays = {name: x.numpy() for name, x in batch.items()}
            for name, run in runs.items():
                same[name] += int((run(arrays)["logits"][masked.numpy()].argmax(-1) == expected).sum())
    for name, count in same.items():
        print(f"{name}: same first token at {count:,} of {places:,} masked places, {count / places:.2%}")


if __name__ == "__main__":
    main()
