"""docs/ecosystem.md: its programs run, each library where it is installed, and do what the page says.

They register classes for the whole process, and so run in one of their own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "ecosystem.md"
CHECKS = {
    "sentence-transformers": """
        import numpy as np
        assert type(model[0].auto_model) is convbert.ConvBertModel
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert all(np.isfinite(losses)) and losses[-1] < losses[0] / 2, losses
        texts = ["Where is Paris?", "Plants turn light into sugar, and animals eat the plants, and so on."]
        alone = np.stack([model.encode(text) for text in texts])
        np.testing.assert_allclose(model.encode(texts), alone, atol=1e-5)
        np.testing.assert_allclose(again.encode(texts), alone, atol=1e-6)
        assert str(again[0].auto_model.dtype) == "torch.float32"
        assert type(reranker.model) is convbert.ConvBertForSequenceClassification
        pairs = [("Where is Paris?", "Paris is the capital of France."), ("What?", "Water.")]
        np.testing.assert_allclose(reranker.predict(pairs)[0], scores[0], atol=1e-5)
        reranker.save_pretrained("reranker")
        loaded = CrossEncoder("reranker", device="cpu")
        np.testing.assert_allclose(loaded.predict(pairs), reranker.predict(pairs), atol=1e-6)
    """,
    "SetFit": """
        assert type(model.model_body[0].auto_model) is convbert.ConvBertModel
        assert set(model.predict(["Hail.", "Rice."])) <= {"weather", "food"}
    """,
    "PEFT": """
        trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
        for layer in ("query", "value", "conv_out_layer"):
            assert any(f".{layer}.lora_A" in name for name in trained), layer
        assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
        wide = {name.split(".lora_A")[0] for name, _ in everywhere.named_parameters() if ".lora_A" in name}
        linear = {n for n, m in tagger.named_modules() if hasattr(m, "lora_A")}
        assert len(wide) == len(linear) == 8 * 6 + 1 and not any("classifier" in name for name in wide)
        assert logits.shape == (2, 2)
    """,
    "KeyBERT": "assert len(keywords) == 3 and all(word in text.lower() for word, _ in keywords)",
    "BERTopic": "assert len(found) == len(texts)",
    "captum": """
        assert attributions.shape == inputs.shape and inner.shape[:2] == inputs.shape
        assert attributions.abs().sum() > 0 and not attributions[~mask.bool()].any()
    """,
    "SHAP": "assert values.shape[-1] == 2",
    "Loading convbert's classes without a line of code": """
        assert type(model) is convbert.ConvBertForMaskedLM
        model.save_pretrained("saved")
        again = AutoModelForMaskedLM.from_pretrained("saved", trust_remote_code=True)
        assert type(again) is convbert.ConvBertForMaskedLM
    """,
}
MODULES = {
    "sentence-transformers": "sentence_transformers",
    "SetFit": "setfit",
    "PEFT": "peft",
    "KeyBERT": "keybert",
    "BERTopic": "bertopic",
    "captum": "captum",
    "SHAP": "shap",
    "Loading convbert's classes without a line of code": "transformers",
}
RUNNER = """
import contextlib, json, os, sys, traceback
found = {}
for name, program in json.load(sys.stdin).items():
    try:
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(program, name, "exec"), {"__name__": "__main__"})
        found[name] = "ok"
    except BaseException:
        found[name] = traceback.format_exc()
print(json.dumps(found))
"""


def programs() -> dict[str, str]:
    """Heading to its program, where its library is here; the one that must not find classes registered is first."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for section in reversed(sections):
        title, _, text = section.partition("\n")
        blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        if blocks and find_spec(MODULES[title]):
            check = "\n".join(line.removeprefix("        ") for line in CHECKS[title].splitlines())
            found[title] = "\n".join((*blocks, check))
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNNER],
        input=json.dumps(programs()),
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("ecosystem"),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("title", CHECKS)
def test_the_program_of_the_page_runs(title, outcomes):
    if not find_spec(MODULES[title]):
        pytest.skip(
            f"{title} is not installed; pip install 'convbert[ecosystem]' brings what installs quickly"
        )
    assert outcomes[title] == "ok", outcomes[title]
