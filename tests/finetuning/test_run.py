"""Whole runs with a tiny model: every kind of task, resume, seeds, adapters, and the folder that is left."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

import convbert
import processes
import tiny
from convbert import ConvBertForSequenceClassification
from convbert.cli import main
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.data import Example, run_features
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.run import Files, finetune
from convbert.finetuning.tasks import TASKS, find_task
from convbert.finetuning.warm_start import build_model, target_modules
from convbert.training.callbacks import ProgressLine
from labelled import sentence, write_objects, write_sentences

FAST = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "max_length": 32, "dropout": 0.0, "bf16": False}
LONGER = {"learning_rate": 4e-3, "epochs": 2}
TRAIN, DEV = 256, 16
"""Examples: many in few epochs, as every epoch ends with a checkpoint."""


def train(task: str, start: Path, folder: Path, files: Files, **options):
    overrides = {**FAST, **options.pop("overrides", {})}
    return finetune(
        find_task(task),
        files,
        folder / "run",
        model=str(start),
        device="cpu",
        overrides=overrides,
        report=lambda message: None,
        **options,
    )


def sst2_files(folder: Path) -> Files:
    return Files(folder / "train.tsv", (folder / "dev.tsv",))


@pytest.fixture(scope="module")
def trained(start, tmp_path_factory) -> Path:
    """A finished run on a task that can be learned; it has two seeds."""
    folder = tmp_path_factory.mktemp("trained")
    write_sentences(folder / "train.tsv", TRAIN)
    write_sentences(folder / "dev.tsv", DEV)
    train("sst2", start, folder, sst2_files(folder), seeds=2, explain=True)
    return folder


def test_a_run_learns_and_leaves_what_was_promised(trained):
    run = trained / "run"
    names = {path.name for path in run.iterdir()}
    assert {
        "model",
        "metrics.json",
        "dev_predictions.jsonl",
        "report.html",
        "explain.html",
        "run.json",
    } <= names
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["scores"]["dev"]["accuracy"] == 1.0
    assert metrics["baseline"]["accuracy"] == 0.5
    assert set(metrics["seeds"]) == {"0", "1"}
    assert metrics["collapsed_seeds"] == []
    card = (run / "model" / "README.md").read_text()
    assert "accuracy | 1.0000" in card
    assert '"layer_decay": 1.0' in card
    assert f"| train | `train.tsv` | {TRAIN} |\n| dev | `dev.tsv` | {DEV} |" in card
    assert f"Trained by `convbert finetune` from `model`, {time.strftime('%Y-')}" in card
    assert f"torch {torch.__version__}" in card
    assert not list(run.glob("seed-*/checkpoint-*"))


def test_predictions_are_those_of_the_model_in_the_folder(trained):
    lines = (trained / "run/dev_predictions.jsonl").read_text().splitlines()
    found = FinetunedModel.load(str(trained / "run/model"), device="cpu")
    split = found.split("dev", trained / "dev.tsv")
    again = split.predict(found.model)
    assert [json.loads(line)["answer"] for line in lines] == [prediction["answer"] for prediction in again]


def test_transformers_opens_the_folder_and_gives_the_same_labels(trained):
    """Each text alone by default; the padded batch, too, where ours is told to read padding."""
    folder = trained / "run/model"
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert theirs.config.id2label == {0: "negative", 1: "positive"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [sentence(number)[0] for number in range(16)]
    ours = ConvBertForSequenceClassification.from_pretrained(folder).eval()
    leaking = ConvBertForSequenceClassification.from_pretrained(folder, conv_reads_padding=True).eval()
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        alone = torch.cat([theirs(**tokenizer(text, return_tensors="pt")).logits for text in texts])
        torch.testing.assert_close(ours(**batch).logits, alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(leaking(**batch).logits, theirs(**batch).logits, atol=1e-5, rtol=0)
        assert (leaking(**batch).logits.argmax(-1) == theirs(**batch).logits.argmax(-1)).all()


def test_the_batches_of_scoring_do_not_matter(trained):
    found = FinetunedModel.load(str(trained / "run/model"), device="cpu")
    split = found.split("dev", trained / "dev.tsv")
    one_by_one = run_features(found.model, split.adapter, split.features, max_tokens=1)
    packed = run_features(found.model, split.adapter, split.features, max_tokens=10_000)
    for alone, together in zip(one_by_one, packed, strict=True):
        assert abs(alone - together).max() < 1e-5


def test_plain_trainer_reaches_the_same(start, trained, tmp_path):
    """transformers' Trainer with our class, padded batches, the same rates: both learn the task."""
    finetuned = FinetunedModel.load(str(trained / "run/model"), device="cpu")
    adapter, tokenizer = finetuned.adapter, finetuned.tokenizer
    features = adapter.features(adapter.read(trained / "train.tsv"), tokenizer, finetuned.plan, training=True)
    model = ConvBertForSequenceClassification.from_pretrained(start, num_labels=2)
    arguments = TrainingArguments(
        str(tmp_path),
        num_train_epochs=FAST["epochs"],
        learning_rate=3e-3,
        per_device_train_batch_size=8,
        report_to=[],
        use_cpu=True,
    )
    Trainer(
        model, arguments, train_dataset=features, data_collator=lambda batch: adapter.collate(batch, 0)
    ).train()
    split = finetuned.split("dev", trained / "dev.tsv")
    assert split.score(split.predict(model)) == {"accuracy": 1.0}


# ------------------------------------------------------------------------------------- every kind of task


def rows_of(kind: str, number: int) -> dict:
    text, label = sentence(number)
    words = text.split()
    return {
        "regression": {"text": text, "label": 10 + 4 * int(label)},
        "multi-label-classification": {"text": text, "labels": ["animal", f"is{label}"]},
        "entities": {"tokens": words, "tags": ["B-X" if word in ("cat", "dog") else "O" for word in words]},
        "tagging": {"tokens": words, "tags": [word[:1] for word in words]},
        "multiple-choice": {
            "text": text,
            "choices": ["a cat", "a dog"][:: 1 if label == "1" else -1],
            "label": 1 - int(label),
        },
        "question-answering": {
            "question": "a cat",
            "context": text,
            "answers": {"text": [words[1]], "answer_start": [4]},
        },
    }[kind]


def files_of(kind: str, folder: Path) -> Files:
    """Labelled data of a kind, in JSON Lines."""
    train, dev = (
        write_objects(folder / f"{name}.jsonl", [rows_of(kind, n) for n in range(count)])
        for name, count in (("train", 2 * TRAIN), ("dev", DEV))
    )
    return Files(train, (dev,))


GOOD_SCORES = {
    "regression": 0.8,
    "multi-label-classification": 0.95,
    "entities": 0.9,
    "tagging": 0.9,
    "multiple-choice": 0.9,
    "question-answering": 90,
}


@pytest.mark.parametrize("kind", GOOD_SCORES)
def test_every_kind_end_to_end(kind, start, tmp_path, capsys):
    files = files_of(kind, tmp_path)
    result = train(kind, start, tmp_path, files, overrides=LONGER)
    scores = result.metrics["scores"]["dev"]
    assert next(iter(scores.values())) >= GOOD_SCORES[kind], scores
    losses = [entry["dev_loss"] for entry in history(tmp_path / "run") if "dev_loss" in entry]
    assert 0 <= losses[-1] < 0.5
    report = (tmp_path / "run/report.html").read_text()
    assert "<script" not in report
    assert "http" not in report.replace("http://www.w3.org", "")
    # The folder alone is scored as the run was.
    words = ["evaluate", "--model", str(result.model_dir), "--file", str(files.dev[0]), "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["scores"]["dev"]
    assert again == pytest.approx(scores, abs=1e-4)
    assert_predict_says_the_same(result.model_dir, files.dev[0], tmp_path)
    if kind == "regression":
        assert_answers_are_in_the_unit_of_the_data(result.model_dir)


def assert_predict_says_the_same(model: Path, dev: Path, folder: Path) -> None:
    """`convbert predict` on the dev file gives the answers that were scored; a useless line harms no other."""
    answers, lines = folder / "answers.jsonl", dev.read_text().splitlines()
    (folder / "lines.jsonl").write_text("\n".join([lines[0], '{"other": 1}', *lines[1:]]))
    words = [
        "predict",
        "--model",
        str(model),
        "--input",
        str(folder / "lines.jsonl"),
        "--output",
        str(answers),
    ]
    assert main([*words, "--device", "cpu", "--precision", "fp32"]) == 0  # as it was scored, on any processor
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert "error" in found.pop(1)
    expected = [json.loads(line) for line in (folder / "run/dev_predictions.jsonl").read_text().splitlines()]
    for ours, scored in zip(found, expected, strict=True):
        if isinstance(scored["answer"], float):
            scored["answer"] = pytest.approx(scored["answer"], abs=1e-3)
        assert ours["answer"] == scored["answer"]


def assert_answers_are_in_the_unit_of_the_data(model: Path) -> None:
    theirs = AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    with torch.no_grad():
        values = [theirs(**tokenizer(sentence(n)[0], return_tensors="pt")).logits.item() for n in range(4)]
    assert values == pytest.approx([14, 10, 14, 10], abs=1.0)


def test_a_regression_that_goes_on_begins_where_it_was(tmp_path):
    """The head is in the unit of the data, and what is trained on is not."""
    config = tiny.config(num_labels=1, problem_type="regression")
    torch.manual_seed(0)
    model = ConvBertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    adapter = adapter_of(TASKS["regression"])
    adapter.learn([Example("here", "0", {}, target) for target in (9_000.0, 12_000.0, 9_500.0)])
    again = build_model(
        str(tmp_path / "model"), model.config, adapter, FinetuningPlan(dropout=None), keep_head=True
    )
    ids = torch.tensor([[2, 5, 7, 3]])
    with torch.no_grad():
        expected, standardised = model(ids).logits, again.eval()(ids).logits
        torch.testing.assert_close(standardised, (expected - adapter.mean) / adapter.deviation)
        adapter.rescale(again, to_data=True)
        torch.testing.assert_close(again(ids).logits, expected, atol=1e-3, rtol=0)


# ------------------------------------------------------------------------------------------- the course


def history(run: Path, seed: int = 0) -> list[dict]:
    return [json.loads(line) for line in (run / f"seed-{seed}/log.jsonl").read_text().splitlines()]


class StopAtStep20(ProgressLine):
    """A signal comes while training goes on."""

    def on_log(self, args, state, control, logs=None, **more):
        if state.global_step == 20:
            signal.raise_signal(signal.SIGTERM)


def test_a_stopped_run_goes_on_to_the_same_end(start, sst2, tmp_path, monkeypatch, capsys):
    """With dropout: the states of all random numbers are taken up again."""
    settings = ["--set", "epochs=2", "--set", "log_every=1", "--set", "bf16=false"]

    def run(name: str, *more: str) -> int:
        words = ["finetune", "--task", "sst2", "--data", str(sst2), "--model", str(start), "--device", "cpu"]
        return main([*words, "--output", str(tmp_path / name), *settings, "--set", "batch_size=8", *more])

    assert run("whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr("convbert.finetuning.seed.ProgressLine", StopAtStep20)
        assert run("parts") == 130
    assert len(history(tmp_path / "parts")) < 25
    assert not (tmp_path / "parts/model").exists()
    capsys.readouterr()
    assert run("parts", "--resume", "--set", "layer_decay=0.5") == 2
    assert "this run was started otherwise: layer_decay was 1.0, now 0.5" in capsys.readouterr().err
    labels = (sst2 / "train.tsv").read_text()
    (sst2 / "train.tsv").write_text(labels.replace("\t0\n", "\t1\n", 1))
    assert run("parts") == 2
    assert f"{sst2 / 'train.tsv'} held other data" in capsys.readouterr().err
    (sst2 / "train.tsv").write_text(labels)
    assert run("parts") == 0
    losses = [
        [entry["loss"] for entry in history(tmp_path / name) if "loss" in entry]
        for name in ("whole", "parts")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    weights = [
        ConvBertForSequenceClassification.from_pretrained(tmp_path / n / "model") for n in ("whole", "parts")
    ]
    for ours, theirs in zip(*(model.parameters() for model in weights), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_early_stopping_ends_a_run_that_gets_no_better(start, sst2, tmp_path, monkeypatch):
    """And it stays ended when it is killed before its model is written."""
    plan = {"epochs": 6, "evaluations_per_epoch": 4, "patience": 6}

    def give_up(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("convbert.finetuning.seed.write_predictions", give_up)
        with pytest.raises(KeyboardInterrupt):
            train("sst2", start, tmp_path, sst2_files(sst2), overrides=plan)
    before = history(tmp_path / "run")
    result = train("sst2", start, tmp_path, sst2_files(sst2), overrides=plan, resume=True)
    assert history(tmp_path / "run") == before
    assert result.metrics["seeds"][0]["steps"] == before[-1]["step"] < 6 * TRAIN // 8
    assert result.metrics["scores"]["dev"]["accuracy"] == 1.0


def test_the_best_checkpoint_is_kept(start, sst2, tmp_path):
    """A rate that ruins what was learned: the last model is worse than the one that is kept."""
    plan = {"epochs": 2, "evaluations_per_epoch": 4}
    result = train("sst2", start, tmp_path, sst2_files(sst2), overrides=plan)
    scores = [entry["dev_accuracy"] for entry in history(tmp_path / "run") if "dev_accuracy" in entry]
    assert result.metrics["scores"]["dev"]["accuracy"] == max(scores)


def test_what_went_wrong_is_said(start, sst2, tmp_path):
    """A text that was cut, and a seed that has collapsed."""
    with (sst2 / "train.tsv").open("a") as more:
        more.write(f"{'the cat ' * 20}\t1\n")
    said: list[str] = []
    result = finetune(
        TASKS["sst2"],
        sst2_files(sst2),
        tmp_path / "run",
        model=str(start),
        device="cpu",
        overrides={**FAST, "learning_rate": 1e-9, "epochs": 1, "seed": 5},
        report=said.append,
    )
    assert result.metrics["collapsed_seeds"] == [5]
    assert any("seed 5 has collapsed" in line for line in said)
    cut = f"train: 1 of {TRAIN + 1} texts are longer than max_length (32 tokens) and are cut"
    assert [line for line in said if "are cut" in line] == [
        cut,
        cut,
    ]  # before training, and in the closing lines


def test_adapters_train_act_and_merge(start, sst2, tmp_path):
    result = train("sst2", start, tmp_path, sst2_files(sst2), overrides={"lora_rank": 4})
    assert result.metrics["scores"]["dev"]["accuracy"] == 1.0
    before = convbert.ConvBertModel.from_pretrained(start)
    after = ConvBertForSequenceClassification.from_pretrained(result.model_dir)
    targets = {f"{name}.weight" for name in target_modules(after)}
    assert (
        len(targets) == 2 * 8
    )  # query, key, value, kernel, value of the convolution, output, and the feed-forward two
    for name, parameter in before.named_parameters():
        moved = not torch.equal(parameter, after.get_parameter(f"convbert.{name}"))
        assert moved == (f"convbert.{name}" in targets), name


def test_grouped_layers_are_no_targets():
    grouped = ConvBertForSequenceClassification(
        convbert.ConvBertConfig.medium_small(num_hidden_layers=1, vocab_size=9)
    )
    assert not [
        name for name in target_modules(grouped) if "intermediate" in name or name.endswith("0.output.dense")
    ]


def test_a_linear_head_is_learned_and_opens_in_transformers(start, sst2, tmp_path):
    result = train("sst2", start, tmp_path, sst2_files(sst2), overrides={"head": "linear"})
    assert result.metrics["scores"]["dev"]["accuracy"] == 1.0
    theirs = AutoModelForSequenceClassification.from_pretrained(result.model_dir).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(result.model_dir)
    with torch.no_grad():
        said = [
            theirs(**tokenizer(sentence(n)[0], return_tensors="pt")).logits.argmax().item() for n in range(8)
        ]
    assert said == [int(sentence(n)[1]) for n in range(8)]
    # One linear layer in two: the second only subtracts.
    assert theirs.classifier.out_proj.weight.unique().tolist() == [-1.0, 0.0, 1.0]


def test_two_processes_train_one_model(start, sst2, tmp_path):
    words = ["finetune", "--task", "sst2", "--data", str(sst2), "--model", str(start), "--device", "cpu"]
    words += [word for name, value in FAST.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    words += ["--output", str(tmp_path / "run")]
    (stdout, stderr), other = processes.torchrun(main, words, logs=tmp_path / "logs")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["scores"]["dev"]["accuracy"] == 1.0
    assert metrics["seeds"]["0"]["steps"] == 3 * TRAIN // 8
    assert stdout == f"{tmp_path / 'run/model'}\n"
    assert "recipe: " in stderr
    assert other[0] == ""
    assert "recipe: " not in other[1]
