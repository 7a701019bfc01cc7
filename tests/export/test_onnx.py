"""A model in ONNX Runtime gives transformers' answers without padding, and the same ones in a padded batch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import convbert
import tiny
from convbert import InputError
from convbert.cli import main
from convbert.export import export
from convbert.export.graph import traceable
from convbert.export.parity import check_parity

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

HEADS = {
    "ConvBertModel": convbert.ConvBertModel,
    "ConvBertForMaskedLM": convbert.ConvBertForMaskedLM,
    "ConvBertForSequenceClassification": convbert.ConvBertForSequenceClassification,
    "ConvBertForTokenClassification": convbert.ConvBertForTokenClassification,
    "ConvBertForQuestionAnswering": convbert.ConvBertForQuestionAnswering,
    "ConvBertForMultipleChoice": convbert.ConvBertForMultipleChoice,
    "ConvBertForPreTraining": convbert.ConvBertForPreTraining,
}
LENGTHS = (13, 7, 1)
DOCS = Path(__file__).parents[2] / "docs" / "export.md"


def write(folder: Path, head: str, **changes: object) -> Path:
    """A model with this head, with weights large enough for differences to show."""
    changes = {"num_hidden_layers": 1, "max_position_embeddings": 512, "conv_kernel_size": 9, **changes}
    tiny.write_model(folder, **changes)
    more = {"num_labels": 3} if "SequenceC" in head or "TokenC" in head else {}
    torch.manual_seed(0)
    model = HEADS[head](tiny.config(initializer_range=0.3, summary_type="first", **{**changes, **more}))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The masked-language model in every precision, with attention maps."""
    root = tmp_path_factory.mktemp("exported")
    write(root / "model", "ConvBertForMaskedLM", num_hidden_layers=2)
    export(
        root / "model",
        root / "out",
        precision=["fp32", "fp16", "int8", "int8-dynamic"],
        with_attentions=True,
    )
    return root


def session(folder: Path, name: str = "model.onnx") -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(folder / "onnx" / name), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("head", HEADS)
def test_every_head_answers_as_transformers_does(head, tmp_path):
    folder = write(tmp_path / "model", head, num_groups=2 if head == "ConvBertModel" else 1)
    found = export(folder, tmp_path / "out").parity["fp32"]  # up to 512 tokens, padded and alone
    assert found.difference <= 1e-5
    assert found.alone <= 1e-6
    running = session(tmp_path / "out")
    names = [output.name for output in running.get_outputs()]
    model = HEADS[head].from_pretrained(folder).eval()
    batch = traceable(model).sample(LENGTHS, seed=3)
    padded = dict(zip(names, running.run(names, {name: x.numpy() for name, x in batch.items()}), strict=True))
    theirs = getattr(transformers.models.convbert, head, None)
    oracle = model if theirs is None else theirs.from_pretrained(folder).eval()
    if head in PIPELINES:
        assert_pipelines_agree(PIPELINES[head], folder, tmp_path / "out")
    for row, length in enumerate(LENGTHS):
        if head == "ConvBertForMultipleChoice":
            alone = {name: x[row : row + 1] for name, x in batch.items()}
            oracle = model  # theirs reads padding, and choices come padded
        else:
            alone = {name: x[row : row + 1, :length] for name, x in batch.items()}
        with torch.no_grad():
            expected = oracle(**alone)
        for name in names:
            wanted = expected[name][0].numpy()
            found = padded[name][row] if wanted.ndim == 0 else padded[name][row][: len(wanted)]
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))


def flat(answer: object) -> list[object]:
    """The leaves of an answer, in order."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list):
        return [leaf for part in answer for leaf in flat(part)]
    return [answer]


PIPELINES = {
    "ConvBertModel": "feature-extraction",
    "ConvBertForMaskedLM": "fill-mask",
    "ConvBertForSequenceClassification": "text-classification",
    "ConvBertForTokenClassification": "token-classification",
    "ConvBertForQuestionAnswering": "question-answering",
}


def assert_pipelines_agree(task: str, model: Path, exported: Path) -> None:
    """The pipeline of the exported model and that of the original, over texts of several lengths."""
    texts = ["the cat sat .", "a dog ran on the mat and the cat sat .", "a cat ."]
    inputs: list[object] = [f"{text} [MASK]" if task == "fill-mask" else text for text in texts]
    if task == "question-answering":
        inputs = [{"question": "a cat", "context": text} for text in texts]
    ours = convbert.pipeline(task, model=model, precision="fp32")(inputs)
    theirs = convbert.pipeline(task, model=exported, runtime="onnx")(inputs)
    for left, right in zip(flat(ours), flat(theirs), strict=True):
        assert left == (pytest.approx(right, abs=1e-5) if isinstance(left, float | np.floating) else right)


def test_precisions_come_near_to_fp32(exported):
    batch = {name: x.numpy() for name, x in _sample(exported).items()}
    mask = batch["attention_mask"].astype(bool)
    answers = {
        name: session(exported / "out", name).run(None, batch)[0][mask]
        for name in ("model.onnx", "model_fp16.onnx", "model_quantized.onnx", "model_int8.onnx")
    }
    reference = answers.pop("model.onnx")
    for name, found in answers.items():
        distance = np.sqrt(((found - reference) ** 2).mean()) / reference.std()
        assert 0 < distance < (0.5 if name == "model_int8.onnx" else 0.05), name


def _sample(exported: Path) -> dict[str, torch.Tensor]:
    model = convbert.ConvBertForMaskedLM.from_pretrained(exported / "model").eval()
    return traceable(model).sample(LENGTHS, seed=3)


def test_attention_maps_and_kernels_are_outputs_on_request(exported):
    ids = torch.randint(5, len(tiny.WORDS), (1, 7))
    batch = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
    running = session(exported / "out")
    names = [output.name for output in running.get_outputs()]
    found = dict(zip(names, running.run(None, {name: x.numpy() for name, x in batch.items()}), strict=True))
    with torch.no_grad():
        theirs = transformers.ConvBertForMaskedLM.from_pretrained(
            exported / "model", attn_implementation="eager"
        )(**batch, output_attentions=True)
        ours = convbert.ConvBertForMaskedLM.from_pretrained(exported / "model")(
            **batch, output_conv_kernels=True
        )
    assert names == ["logits", "attentions", "conv_kernels"]
    for name, layers in (("attentions", theirs.attentions), ("conv_kernels", ours.conv_kernels)):
        np.testing.assert_allclose(found[name], torch.stack(layers, 1).numpy(), rtol=0, atol=1e-5)


DOCUMENTED = re.search(r"```python\n(import numpy.+?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[1]
NEEDED = ("numpy", "numpy.libs", "onnxruntime", "tokenizers", "flatbuffers", "google", "packaging")


def test_the_ten_lines_of_the_documentation(exported, tmp_path):
    """With onnxruntime, tokenizers, numpy and what these need; nothing else can be imported."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in NEEDED:
        place = Path(np.__file__).parents[1] / name
        if place.exists():
            (packages / name).symlink_to(place)
    (tmp_path / "exported").symlink_to(exported / "out")
    program = f"import sys; sys.path.append({str(packages)!r})\n{DOCUMENTED}\nprint(logits.shape)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert re.match(rf"\(2, \d+, {len(tiny.WORDS)}\)", done.stdout), done.stderr


def test_the_folder_opens_in_transformers(exported):
    config = json.loads((exported / "out/config.json").read_text())
    assert config["architectures"] == ["ConvBertForMaskedLM"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "out")
    assert tokenizer("the cat").input_ids == [2, 5, 7, 3]


def test_a_graph_that_answers_otherwise_is_refused(exported):
    model = convbert.ConvBertForMaskedLM.from_pretrained(exported / "model").eval()
    running = session(exported / "out")

    def wrong(batch):
        logits = running.run(None, batch)[0]
        logits[..., -1, 3] += 0.01 * np.abs(logits).max()
        return {"logits": logits}

    def leaking(batch):
        return {"logits": running.run(None, batch)[0] + 0.001 * batch["input_ids"].shape[1]}

    for run in (wrong, leaking):
        with pytest.raises(InputError, match="fp32"):
            check_parity(traceable(model), run, "fp32")


def test_weights_beyond_the_size_of_a_file_lie_beside_it(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("convbert.export.onnx.LARGEST_FILE", 1000)
    done = export(exported / "model", tmp_path / "out", precision=["fp32", "int8"])  # checked in the runtime
    assert {"onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_quantized.onnx"} <= done.files.keys()
    assert done.files["onnx/model.onnx_data"] > 10_000


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"task": "text-classification"}, "ConvBertForMaskedLM"),
        ({"runtime": "tensorrt"}, "tensorrt"),
        ({"runtime": "openvino"}, "openvino_model.xml"),
        ({"precision": "int4"}, "int4"),
        ({"device": "meta"}, "device"),
        ({"model": None}, "model="),
    ],
)
def test_what_a_runtime_cannot_do_is_named(arguments, named, exported):
    with pytest.raises(InputError, match=named):
        convbert.pipeline(**{"task": "fill-mask", "model": exported / "out", "runtime": "onnx", **arguments})


def test_a_damaged_graph_is_named(exported, tmp_path):
    shutil.copytree(exported / "out", tmp_path / "out")
    damaged = tmp_path / "out/onnx/model.onnx"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.onnx"):
        convbert.pipeline("fill-mask", model=tmp_path / "out", runtime="onnx", precision="fp32")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--format", "tflite"], "tflite"),
        (["--precision", "int4"], "int4"),
        (["--model", "{missing}"], "missing"),
        (["--opset", "3"], "3"),
        (["--output", "{there}"], "there"),
        (["--format", "openvino", "--opset", "20"], "opset"),
        (["--node-modules", "{missing}"], "node_modules"),
        (["--format", "openvino", "--with-attentions"], "with_attentions"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(words, named, exported, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    places = {"missing": tmp_path / "missing", "there": tmp_path / "there"}
    arguments = ["--model", str(exported / "model"), "--output", str(tmp_path / "out")]
    assert main(["export", *arguments, *(word.format(**places) for word in words)]) == 2
    assert named in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_missing_extra_is_named(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("convbert.util.optional.find_spec", lambda name: None)
    assert main(["export", "--model", str(exported / "model"), "--output", str(tmp_path / "out")]) == 2
    assert "convbert[onnx]" in capsys.readouterr().err
