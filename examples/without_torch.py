"""Run an exported classifier with onnxruntime, tokenizers and numpy alone: neither PyTorch nor this library.

convbert export --model runs/reviews/model --output exported
python examples/without_torch.py exported "a warm and funny film" "two lost hours"
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def main(folder: str, *texts: str) -> None:
    labels = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["id2label"]
    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    tokenizer.enable_padding()
    session = onnxruntime.InferenceSession(str(Path(folder, "onnx/model.onnx")))
    encoded = tokenizer.encode_batch(list(texts))
    arrays = {
        "input_ids": [text.ids for text in encoded],
        "attention_mask": [text.attention_mask for text in encoded],
        "token_type_ids": [text.type_ids for text in encoded],
    }
    (logits,) = session.run(None, {name: np.array(rows) for name, rows in arrays.items()})
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    for text, scores in zip(texts, exponentials / exponentials.sum(axis=-1, keepdims=True), strict=True):
        print(f"{scores.max():.2f} {labels[str(scores.argmax())]}  {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
