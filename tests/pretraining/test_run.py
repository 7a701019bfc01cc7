import itertools
import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from convbert import pipeline
from convbert.files.atomic import folder_lock
from convbert.model.heads.masked_lm import ConvBertForMaskedLM
from convbert.model.heads.replaced_token import ConvBertForPreTraining
from convbert.model.heads.sequence_classification import ConvBertForSequenceClassification
from convbert.pretraining.data import open_corpus
from convbert.pretraining.folder import RunFolder
from convbert.pretraining.masking import MaskingCollator
from convbert.pretraining.objectives import ReplacedTokenDetection
from convbert.pretraining.recipes import smoke
from convbert.pretraining.run import pretrain
from convbert.pretraining.vocabulary import load_tokenizer
from convbert.training import callbacks
from convbert.training.callbacks import HistoryFile
from convbert.training.trainer import ObjectiveTrainer
from convbert.util.errors import InputError


def plan(**changes):
    """Full precision, so that equal means equal; with dropout, so that its random numbers matter."""
    steps = {} if "max_minutes" in changes else {"max_steps": 8}
    intervals = {"save_every": 4, "log_every": 1, "evaluate_every": 4}
    return smoke(**{"vocab_size": 200, "bf16": False} | steps | intervals | changes)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and lose much where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(corpus, heldout_text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    messages: list[str] = []
    result = pretrain(plan(), corpus, folder, heldout=heldout_text, device="cpu", report=messages.append)
    return folder, result, messages


def losses(folder, figure="loss"):
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {entry["step"]: entry[figure] for entry in entries if "loss" in entry}


def test_a_run_leaves_two_model_folders_and_its_figures(finished):
    folder, result, messages = finished
    assert result.finished
    assert result.model_dir == folder / "model"
    for name in ("model", "generator"):
        assert {path.name for path in (folder / name).iterdir()} == {
            *("config.json", "model.safetensors", "README.md", "loss.png"),
            *("tokenizer.json", "tokenizer_config.json", "vocab.txt"),
        }
    assert json.loads((folder / "metrics.json").read_text()) == result.metrics
    assert result.metrics["steps"] == 8
    assert list(losses(folder)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert any("vocabulary" in message for message in messages)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_reported_figures_are_those_of_the_saved_models(finished):
    folder, result, _ = finished
    tokenizer = load_tokenizer(result.model_dir)
    heldout = open_corpus(folder / "data" / "heldout")
    collator = MaskingCollator(tokenizer, plan().masking, plan().heldout_seed, sampling=True)
    objective = ReplacedTokenDetection(
        ConvBertForPreTraining.from_pretrained(folder / "model"),
        ConvBertForMaskedLM.from_pretrained(folder / "generator"),
    ).eval()
    with torch.no_grad():
        outputs = objective(**collator(heldout.__getitems__(list(range(len(heldout))))))
    names = [name for name in outputs if name not in ("loss", "replaced_auc")]
    assert len(names) == 7
    for name in names:
        total, count = outputs[name].tolist()
        if count:
            assert result.metrics[f"heldout_{name}"] == pytest.approx(total / count, rel=1e-5), name
        else:
            assert f"heldout_{name}" not in result.metrics
    assert 0 < result.metrics["heldout_replaced_auc"] < 1
    assert result.metrics["heldout_masked_positions"] == outputs["masked_loss"][1]


def test_a_finished_run_says_so_even_where_its_corpus_is_gone(finished, heldout_text):
    folder, result, _ = finished
    said: list[str] = []
    again = pretrain(plan(), folder / "moved.txt", folder, heldout=heldout_text, report=said.append)
    assert (again.finished, again.metrics, again.model_dir) == (True, result.metrics, result.model_dir)
    assert said[0] == f"{folder}: this run has finished"
    assert said[1:] == [result.metrics["data_notes"]]  # what its texts lost


def test_the_discriminator_is_to_be_fine_tuned_and_the_generator_fills_masks(finished):
    folder, _, _ = finished
    _, report = ConvBertForSequenceClassification.from_pretrained(folder / "model", output_loading_info=True)
    assert all(name.startswith("classifier.") for name in report["missing_keys"])
    (best, *_) = pipeline("fill-mask", str(folder / "generator"))("the cat follows the [MASK] road .")
    assert best["token_str"] in load_tokenizer(folder / "generator").get_vocab()


@pytest.mark.parametrize(("name", "says"), [("model", "replaced"), ("generator", "fill-mask")])
def test_model_cards_say_recipe_and_figures(finished, name, says):
    card = (finished[0] / name / "README.md").read_text(encoding="utf-8")
    assert says in card.partition("## Held-out")[0]
    for words in ('"learning_rate": 0.001', '"mask_token_prob": 0.85', "| baseline bigram accuracy |"):
        assert words in card
    for figure in ("masked accuracy", "replaced auc", "replaced recall", "sampled accuracy"):
        assert f"| heldout {figure} |" in card


def test_masked_language_modelling_leaves_one_folder(finished, corpus, heldout_text, tmp_path):
    result = pretrain(
        plan(objective="mlm", max_steps=2),
        corpus,
        tmp_path / "out",
        tokenizer=finished[0] / "tokenizer",
        heldout=heldout_text,
        device="cpu",
        report=lambda message: None,
    )
    _, report = ConvBertForMaskedLM.from_pretrained(result.model_dir, output_loading_info=True)
    assert not any(report.values())
    assert not (tmp_path / "out" / "generator").exists()
    card = (result.model_dir / "README.md").read_text(encoding="utf-8")
    assert '"mask_token_prob": 0.8,' in card
    assert "| heldout masked accuracy |" in card
    assert "replaced" not in card.partition("## Recipe")[0]


def test_models_that_cannot_be_written_leave_neither_folder(finished, corpus, tmp_path, monkeypatch):
    def fail(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ConvBertForMaskedLM, "save_pretrained", fail)
    with pytest.raises(InputError, match=r"generator.*No space left"):
        pretrain(
            plan(max_steps=1),
            corpus,
            tmp_path / "out",
            tokenizer=finished[0] / "tokenizer",
            device="cpu",
            report=lambda message: None,
        )
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert not left & {"model", "generator", "metrics.json"}
    assert not any(name.startswith(".") for name in left)


def test_the_page_and_the_log_say_how_well_the_device_is_used(finished):
    folder, result, _ = finished
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "finished" in page
    assert "model-FLOPs utilisation" in page
    assert (
        page.count("<div class='card'>") == 12
    )  # six sentences with masks, and as the generator filled them
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    shares = [entry["mfu"] / entry["tokens_per_second"] for entry in entries if "mfu" in entry]
    assert len(shares) == result.metrics["steps"]
    assert shares == pytest.approx([shares[0]] * len(shares))


def test_a_page_that_cannot_be_written_does_not_end_the_run(corpus, finished, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").mkdir()  # in its place, so that nothing can be moved there
    (tmp_path / "out" / "plan.json").write_text((finished[0] / "plan.json").read_text())
    messages: list[str] = []
    tokenizer = load_tokenizer(finished[0] / "tokenizer")
    quiet = {"tokenizer": tokenizer, "device": "cpu", "report": messages.append}
    assert pretrain(plan(), corpus, tmp_path / "out", **quiet).finished
    assert any("report.html" in message for message in messages)
    assert any("5 of 8 steps warm up" in message for message in messages)


def test_a_finished_run_is_not_trained_again(finished, corpus, heldout_text):
    folder, result, _ = finished
    again = pretrain(plan(), corpus, folder, heldout=heldout_text, report=lambda message: None)
    assert again == result


def test_a_finished_run_is_not_made_longer(finished, corpus, heldout_text):
    folder, _, _ = finished
    before = (folder / "plan.json").read_text()
    with pytest.raises(InputError, match=r"has finished: max_steps was 8, now 16; .*--start-from"):
        pretrain(plan(max_steps=16), corpus, folder, heldout=heldout_text, report=lambda message: None)
    assert (folder / "plan.json").read_text() == before


def test_any_held_out_figure_can_choose_the_best_checkpoint(finished):
    _, result, _ = finished
    figures = {name.removeprefix("heldout_") for name in result.metrics if name.startswith("heldout_")}
    for figure in figures - {"masked_positions"}:  # a count, of the baselines
        assert plan(best_figure=figure).best_figure == figure


def test_a_best_figure_needs_heldout_text(corpus, tmp_path):
    with pytest.raises(InputError, match="no held-out text"):
        pretrain(plan(best_figure="masked_loss"), corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_best_checkpoint_becomes_the_model(corpus, heldout_text, tmp_path, monkeypatch):
    evaluate = ObjectiveTrainer.evaluate

    def worse_and_worse(self, *arguments, **options):
        return evaluate(self, *arguments, **options) | {"heldout_masked_loss": float(self.state.global_step)}

    monkeypatch.setattr(ObjectiveTrainer, "evaluate", worse_and_worse)
    quiet = {"heldout": heldout_text, "device": "cpu", "report": lambda message: None}
    result = pretrain(plan(best_figure="masked_loss"), corpus, tmp_path / "out", **quiet)
    assert (result.metrics["best_step"], result.metrics["steps"]) == (4, 8)
    at_4, at_8 = (load_file(tmp_path / f"out/checkpoint-{step}/model.safetensors") for step in (4, 8))
    written = load_file(tmp_path / "out/model/model.safetensors")
    name = "convbert.encoder.layer.0.output.dense.bias"
    assert torch.equal(written[name], at_4[f"discriminator.{name}"])
    assert not torch.equal(written[name], at_8[f"discriminator.{name}"])
    entries = map(json.loads, (tmp_path / "out/log.jsonl").read_text().splitlines())
    (first, _) = [entry for entry in entries if "heldout_masked_accuracy" in entry]
    assert result.metrics["heldout_masked_accuracy"] == first["heldout_masked_accuracy"]


def test_a_folder_with_something_else_is_refused(corpus, tmp_path):
    (tmp_path / "thesis.tex").touch()
    (tmp_path / ".git").mkdir()
    with pytest.raises(InputError, match="not empty, and holds no run"):
        pretrain(plan(), corpus, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", ".git"}


def test_a_run_keeps_what_others_put_into_its_folder_and_removes_its_own_drafts(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "plan.json.partial").touch()  # of a start that was killed
    assert folder.claim(plan())
    for name in (".git", "model/.saving-x1", "generator/.saving-x2", "tokenizer/.saving-x3"):
        (tmp_path / name).mkdir(parents=True)
    assert not folder.claim(plan())
    assert {path.name for path in tmp_path.rglob("*")} == {
        "plan.json",
        ".git",
        "model",
        "generator",
        "tokenizer",
    }
    with pytest.raises(InputError, match="best_figure was None, now masked_loss"):
        folder.claim(plan(best_figure="masked_loss"))


def test_held_out_text_that_is_trained_on_is_told(corpus, tmp_path):
    messages: list[str] = []
    with pytest.raises(InputError, match=r"report_to must be one of .*tensorboard.*; got 'carrier pigeons'"):
        pretrain(
            plan(report_to="carrier pigeons"),
            corpus,
            tmp_path / "out",
            heldout=corpus,
            report=messages.append,
        )
    assert any("train.txt is held out and trained on" in message for message in messages)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_and_resumed_run_is_the_unbroken_run(
    finished, corpus, heldout_text, tmp_path, monkeypatch, number
):
    unbroken, result, _ = finished
    quiet = {"heldout": heldout_text, "device": "cpu", "report": lambda message: None}
    with monkeypatch.context() as patch:

        def interrupt(self, args, state, control, **_):
            if state.global_step == 5:
                os.kill(os.getpid(), number)

        patch.setattr(HistoryFile, "on_log", interrupt)
        stopped = pretrain(plan(), corpus, tmp_path / "out", **quiet)
    assert stopped.stopped_by == number
    assert not (tmp_path / "out" / "model").exists()

    # Logged in step 5, so noticed at the end of step 6.
    assert (tmp_path / "out" / "checkpoint-6").exists()
    resumed = pretrain(plan(), corpus, tmp_path / "out", **quiet)
    assert resumed.finished
    assert losses(tmp_path / "out") == losses(unbroken)
    for kind in ("model", "generator"):
        ours, theirs = (
            load_file(folder / kind / "model.safetensors") for folder in (tmp_path / "out", unbroken)
        )
        assert ours.keys() == theirs.keys()
        assert all((ours[name] == theirs[name]).all() for name in ours)
    for figure in ("masked_loss", "replaced_loss", "replaced_auc"):
        assert resumed.metrics[f"heldout_{figure}"] == result.metrics[f"heldout_{figure}"]


def begin(folder, corpus, monkeypatch, **options):
    """A run that ends before its first step."""

    def give_up(self, *_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ObjectiveTrainer, "train", give_up)
        with pytest.raises(KeyboardInterrupt):
            pretrain(plan(), corpus, folder, device="cpu", report=lambda message: None, **options)


def test_another_plan_or_corpus_is_refused_with_what_differs(corpus, heldout_text, tmp_path, monkeypatch):
    begin(tmp_path, corpus, monkeypatch)
    quiet = {"device": "cpu", "report": lambda message: None}
    with pytest.raises(InputError, match=r"another plan: learning_rate was 0.001, now 0.5"):
        pretrain(plan(learning_rate=0.5), corpus, tmp_path, **quiet)
    with pytest.raises(InputError, match=r"another corpus: train was \d+ sequences.*, now \d+ sequences"):
        pretrain(plan(), heldout_text, tmp_path, **quiet)
    with pytest.raises(InputError, match=r"another corpus: heldout was None, now"):
        pretrain(plan(), corpus, tmp_path, heldout=heldout_text, **quiet)
    with pytest.raises(InputError, match=r"another corpus: sequences a step was 8, now 4"):
        pretrain(plan(batch_size=4), corpus, tmp_path, **quiet)
    assert pretrain(plan(batch_size=4, gradient_accumulation_steps=2), corpus, tmp_path, **quiet).finished


def test_a_folder_in_use_is_refused(corpus, tmp_path):
    with folder_lock(tmp_path, "training"), pytest.raises(InputError, match="another process is training"):
        pretrain(plan(), corpus, tmp_path)


def test_a_run_by_minutes_ends_by_the_clock(finished, corpus, tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(callbacks, "monotonic", lambda: 1.0 * next(ticks))  # a second passes at every look
    result = pretrain(
        plan(max_minutes=0.8, save_every=1000, warmup_steps=0),
        corpus,
        tmp_path,
        tokenizer=finished[0] / "tokenizer",
        device="cpu",
        report=lambda message: None,
    )
    assert result.finished
    assert (tmp_path / f"checkpoint-{result.metrics['steps']}").exists()
    assert not (tmp_path / "tokenizer").exists()
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for entry in (entry for entry in entries if "loss" in entry):
        # The logged rate is that of the step before, a few looks at the budget earlier.
        elapsed = entry["minutes"] / 0.8
        assert entry["learning_rate"] / 1e-3 == pytest.approx(1 - elapsed, abs=0.3)
    assert entries[-1]["minutes"] >= 0.8 - 2 / 60


def test_training_lowers_the_loss(corpus, finished, tmp_path):
    result = pretrain(
        plan(max_steps=40, learning_rate=1e-2, log_every=10, bf16="auto"),
        corpus,
        tmp_path,
        tokenizer=load_tokenizer(finished[0] / "tokenizer"),
        device="cpu",
        report=lambda message: None,
    )
    for figure in ("masked_loss", "replaced_loss"):
        found = losses(tmp_path, figure)
        assert found[40] < 0.8 * found[1], figure
    assert "heldout_masked_loss" not in result.metrics


@pytest.mark.parametrize(
    ("content", "message"), [("", "empty"), ("the cat follows the dog.\n" * 3, "less than one batch")]
)
def test_a_bad_corpus_leaves_the_folder_as_it_was(content, message, tmp_path):
    corpus = tmp_path / "text.txt"
    corpus.write_text(content)
    with pytest.raises(InputError, match=message):
        pretrain(plan(min_frequency=1), corpus, tmp_path / "out", report=lambda message: None)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_that_is_a_file_is_refused(corpus, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="is a file"):
        pretrain(plan(), corpus, tmp_path / "out")


def test_tensorboard_gets_the_curves(corpus, heldout_text, tmp_path):
    """Through Trainer's own callback; event files hold their tags as plain bytes."""
    changes = {"max_steps": 4, "save_every": 4, "evaluate_every": 4, "report_to": "tensorboard"}
    pretrain(plan(**changes), corpus, tmp_path / "run", heldout=heldout_text, device="cpu", report=print)
    (events,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    written = events.read_bytes()
    for tag in (b"train/loss", b"train/tokens_per_second", b"heldout_replaced_auc"):
        assert tag in written
