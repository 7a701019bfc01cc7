"""Damaged model folders: whatever is wrong with a file, a folder gives its model or one sentence."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import transformers

import convbert
import tiny
from fuzzing import damaged_bytes, damaged_json, outcome

TEXT = "the cat [MASK] on the mat ."
KINDS = {
    "ConvBertForMaskedLM": "fill-mask",
    "ConvBertForSequenceClassification": "text-classification",
    "ConvBertForTokenClassification": "token-classification",
    "ConvBertForMultipleChoice": "multiple-choice",
}
JSON_FILES = ("config.json", "model.safetensors.index.json", "generation_config.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def write_folders(root: Path) -> dict[str, Path]:
    """A sound folder of each kind, and of the first kind one in shards and one in torch's own format."""
    torch.manual_seed(0)
    tokenizer = convbert.ConvBertTokenizerFast(vocab={word: number for number, word in enumerate(tiny.WORDS)})
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "embedding_size": 8}
    for kind in KINDS:
        more = {"summary_type": "first", "summary_use_proj": True} if kind.endswith("Choice") else {}
        model = getattr(convbert, kind)(tiny.config(**sizes, **more))
        model.save_pretrained(root / kind)
        tokenizer.save_pretrained(root / kind)
        # Keys that are at their default are not written, and would never be damaged.
        written = model.config.to_dict() | {
            "num_labels": 2,
            "chunk_size_feed_forward": 0,
            "classifier_dropout": None,
        }
        written |= {"output_attentions": False, "problem_type": None, "torch_dtype": "float32"}
        (root / kind / "config.json").write_text(json.dumps(written))
        (root / kind / "generation_config.json").write_text('{"bos_token_id": 0, "_from_model_config": true}')
    first = next(iter(KINDS))
    for name in ("sharded", "torch"):
        shutil.copytree(root / first, root / name)
        (root / name / "model.safetensors").unlink()
    model = convbert.ConvBertForMaskedLM.from_pretrained(root / first)
    model.save_pretrained(root / "sharded", max_shard_size="8KB")
    torch.save(model.state_dict(), root / "torch" / "pytorch_model.bin")
    return {folder.name: folder for folder in root.iterdir()}


def damage(folders: dict[str, Path], place: Path, seed: int) -> tuple[str, str]:
    """Copy one of the folders to a place, damage one of its files, and say the class of its model and the file."""
    draw = random.Random(seed)
    file = draw.choice([*["config.json"] * 4, *JSON_FILES[1:], *WEIGHTS])
    name = draw.choice(list(KINDS))
    name = {"model.safetensors.index.json": "sharded", "pytorch_model.bin": "torch"}.get(file, name)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folders[name], place)
    path = place / file
    if file in WEIGHTS or draw.random() < 0.1:
        path.write_bytes(damaged_bytes(path.read_bytes(), seed))
    else:
        path.write_text(json.dumps(damaged_json(json.loads(path.read_text()), seed)), encoding="utf-8")
    return (name if name in KINDS else next(iter(KINDS))), file


def readers(kind: str, place: Path) -> dict[str, object]:
    """The ways into a folder."""
    task = KINDS[kind]
    ways = {
        "config": lambda: convbert.ConvBertConfig.from_pretrained(place),
        "from_pretrained": lambda: getattr(convbert, kind).from_pretrained(place),
        "load": lambda: convbert.load(place, task),
    }
    if task != "multiple-choice":
        ways["pipeline"] = lambda: convbert.pipeline(task, place)(TEXT)
    return ways


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return write_folders(tmp_path_factory.mktemp("sound"))


@pytest.fixture(autouse=True)
def quiet():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(before)
    transformers.logging.enable_progress_bar()


def test_sound_folders_are_answered(folders):
    for name, folder in folders.items():
        kind = name if name in KINDS else next(iter(KINDS))
        assert [outcome(call) for call in readers(kind, folder).values()] == ["answered"] * len(
            readers(kind, folder)
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [*range(48), 6813])
def test_a_damaged_folder_gives_an_answer_or_one_sentence(seed, folders, tmp_path):
    kind, _ = damage(folders, tmp_path / "model", seed)
    for call in readers(kind, tmp_path / "model").values():
        assert outcome(call) in ("answered", "refused")
