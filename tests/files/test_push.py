"""`convbert push` against a Hub that is played: what would go, what goes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

import tiny
from convbert import InputError
from convbert.cli import main
from convbert.files.push import plan_upload, push


class Hub:
    """What was sent to it."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal, self.made, self.commits = refusal, [], []

    def create_repo(self, name, **options):
        if self.refusal is not None:
            raise self.refusal
        self.made.append((name, options))
        return SimpleNamespace(repo_id=f"me/{name.split('/')[-1]}")

    def create_commit(self, name, operations, commit_message):
        self.commits.append((name, {each.path_in_repo: each.path_or_fileobj for each in operations}))


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tiny.write_model(tmp_path / "model")
    (path / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# Mine\n")
    (path / "onnx").mkdir()
    (path / "onnx" / "model.onnx").write_bytes(b"graph")
    (path / ".lock").touch()
    (path / ".cache").mkdir()
    (path / ".cache" / "secret").touch()
    return path


def test_the_folder_goes_whole_in_one_commit(folder):
    hub = Hub()
    push(plan_upload(folder, "me/mine", {"license": "mit", "language": "en"}), private=True, api=hub)
    ((name, sent),) = hub.commits
    assert hub.made == [("me/mine", {"private": True, "exist_ok": True})]
    assert name == "me/mine"
    names = {"config.json", "model.safetensors", "onnx/model.onnx", "tokenizer.json", "tokenizer_config.json"}
    assert sent.keys() == names | {"README.md"}
    card = ModelCard(sent.pop("README.md").decode())
    assert (card.data.license, card.data.language, card.data.library_name) == ("mit", "en", "transformers")
    assert card.text.strip() == "# Mine"
    assert all(Path(path).read_bytes() == (folder / name).read_bytes() for name, path in sent.items())
    assert "mit" not in (folder / "README.md").read_text()


def test_a_folder_without_a_card_gets_one_that_says_how_to_load_it(folder):
    (folder / "README.md").unlink()
    assert "register_auto_classes()" in plan_upload(folder, "me/mine", {}).card


def test_dry_run_shows_what_would_go_and_needs_no_network(folder, capsys):
    command = ["push", "--model", str(folder), "me/mine", "--license", "mit", "--dry-run"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("model.safetensors", "onnx/model.onnx", "# Mine", "license: mit"))
    assert "secret" not in out
    assert main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["files"]["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert shown["files"]["README.md"] == len(shown["card"].encode())


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (("model", "me/mine"), "cannot be reached"),
        (("model", "me/my/mine"), "me/my/mine"),
        (("none", "me/mine"), "none"),
    ],
)
def test_one_sentence_for_what_cannot_go(folder, names, wrong, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert main(["push", "--model", *names, "--license", "mit"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert wrong in line


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "onnx" / "model.onnx").unlink()
    with pytest.raises(InputError, match="no weights"):
        plan_upload(folder, "me/mine", {})


def test_a_card_with_a_broken_head_is_named(folder):
    (folder / "README.md").write_text("---\nlicense: [mit\n---\n# Mine\n")
    with pytest.raises(InputError, match=r"README\.md"):
        plan_upload(folder, "me/mine", {})


def test_what_the_hub_refuses_is_said_in_one_sentence(folder):
    answer = SimpleNamespace(headers={}, request=None, status_code=401)
    refusal = HfHubHTTPError("401 Client Error: Unauthorized\n\nInvalid username", response=answer)
    with pytest.raises(
        InputError, match=r"me/mine: the Hub refuses .*Unauthorized Invalid username.*hf auth login"
    ):
        push(plan_upload(folder, "me/mine", {}), api=Hub(refusal))
