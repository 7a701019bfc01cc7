"""Runs that begin with trained weights."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from convbert import ConvBertForMaskedLM, ConvBertTokenizer, ConvBertTokenizerFast
from convbert.cli import main
from convbert.files import embedded
from convbert.pretraining.corpus.prepare import Preparation
from convbert.pretraining.objectives import build_objective
from convbert.pretraining.prepare import prepare
from convbert.pretraining.recipes import recipe, smoke
from convbert.pretraining.run import pretrain
from convbert.pretraining.vocabulary import load_tokenizer
from convbert.pretraining.warm_start import check_warm_start, warm_start
from convbert.util.errors import InputError

FIELDS = {"vocab_size": 200, "bf16": False, "max_steps": 4, "save_every": 2, "log_every": 1}


@pytest.fixture(scope="module")
def first(corpus, tmp_path_factory):
    """A finished run with replaced token detection."""
    folder = tmp_path_factory.mktemp("first") / "run"
    pretrain(smoke(**FIELDS), corpus, folder, device="cpu", report=lambda message: None)
    return folder


def vocab_size(run):
    return len((run / "model/vocab.txt").read_text(encoding="utf-8").splitlines())


def objective_of(plan, run):
    torch.manual_seed(5)
    return build_objective(plan, plan.model_config(vocab_size(run)))


def assert_holds(model, folder):
    """The model's weights are those stored in the folder, to the last bit."""
    stored, own = load_file(folder / "model.safetensors"), model.state_dict()
    assert stored
    for name, weight in stored.items():
        assert torch.equal(own[name], weight), name


def test_both_models_begin_where_the_other_run_ended(first):
    plan = smoke(**FIELDS, start_from=str(first / "model"), start_generator_from=str(first / "generator"))
    objective = objective_of(plan, first)
    warm_start(objective, plan)
    assert_holds(objective.discriminator, first / "model")
    assert_holds(objective.generator, first / "generator")
    # Loading must not undo the sharing.
    assert objective.generator.convbert.embeddings is objective.discriminator.convbert.embeddings
    assert (
        objective.generator.generator_lm_head.weight
        is objective.discriminator.convbert.embeddings.word_embeddings.weight
    )


def test_a_generator_that_is_not_given_starts_anew_on_the_given_embeddings(first):
    plan = smoke(**FIELDS, start_from=str(first / "model"))
    objective, untouched = objective_of(plan, first), objective_of(plan, first)
    warm_start(objective, plan)
    assert_holds(objective.discriminator, first / "model")
    ours = objective.generator.convbert.encoder.state_dict()
    for name, weight in untouched.generator.convbert.encoder.state_dict().items():
        assert torch.equal(ours[name], weight)


def test_a_discriminator_can_become_a_masked_language_model_with_a_new_head(first):
    plan = smoke(**FIELDS, objective="mlm", start_from=str(first / "model"))
    objective = objective_of(plan, first)
    warm_start(objective, plan)
    stored = load_file(first / "model/model.safetensors")
    own = objective.model.state_dict()
    encoder = [name for name in stored if name.startswith("convbert.")]
    assert encoder
    assert all(torch.equal(own[name], stored[name]) for name in encoder)


def test_a_run_goes_on_training_what_it_began_with(first, corpus, tmp_path):
    """The first logged loss is that of the given weights, with their vocabulary; a resumed run does not begin again."""
    messages: list[str] = []
    plan = smoke(**FIELDS, start_from=str(first / "model"), start_generator_from=str(first / "generator"))
    pretrain(plan, corpus, tmp_path / "run", device="cpu", report=messages.append)
    assert any("begins with the weights" in message for message in messages)
    assert not (tmp_path / "run/tokenizer").exists()
    vocabulary = "model/vocab.txt"
    assert (tmp_path / "run" / vocabulary).read_bytes() == (first / vocabulary).read_bytes()
    assert "began with the weights" in (tmp_path / "run/model/README.md").read_text()

    # Killed after its second step: it goes on from there.
    for left in ("model", "generator", "checkpoint-4"):
        shutil.rmtree(tmp_path / "run" / left)
    (tmp_path / "run/metrics.json").unlink()
    before = load_file(first / "model/model.safetensors")
    messages.clear()
    pretrain(plan, corpus, tmp_path / "run", device="cpu", report=messages.append)
    assert not any("begins with the weights" in message for message in messages)
    after = load_file(tmp_path / "run/model/model.safetensors")
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_the_embedded_model_fits_its_recipe():
    plan = recipe("embedded", start_from="embedded")
    objective = build_objective(plan, plan.model_config(12_288))
    check_warm_start(plan, load_tokenizer(embedded.folder()))
    warm_start(objective, plan)
    given = ConvBertForMaskedLM.from_pretrained(embedded.folder(), dtype=torch.float32).state_dict()
    for name, weight in objective.model.state_dict().items():
        assert torch.equal(weight, given[name])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 64}, "hidden_size is 32 there, 64 here"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 2 there, 3 here"),
        ({"conv_kernel_size": 5}, "conv_kernel_size is 9 there, 5 here"),
    ],
)
def test_another_architecture_is_refused_and_the_field_named(first, changes, said):
    plan = smoke(**FIELDS, **changes, start_from=str(first / "model"))
    with pytest.raises(InputError, match=said):
        check_warm_start(plan, load_tokenizer(first / "model"))


def test_another_vocabulary_is_refused_before_the_corpus_is_read(first, corpus, tmp_path, tokenizer):
    plan = smoke(**FIELDS, start_from="embedded", num_hidden_layers=6)
    with pytest.raises(InputError, match="vocab_size is 12288 there"):
        pretrain(plan, corpus, tmp_path / "run", tokenizer=tokenizer, report=lambda message: None)
    assert not list((tmp_path / "run").iterdir())


def test_models_of_two_runs_cannot_share_their_embeddings(first, corpus, tmp_path):
    second = tmp_path / "second"
    pretrain(smoke(**FIELDS, seed=1), corpus, second, device="cpu", report=lambda message: None)
    plan = smoke(**FIELDS, start_from=str(first / "model"), start_generator_from=str(second / "generator"))
    with pytest.raises(InputError, match="other embeddings"):
        warm_start(objective_of(plan, first), plan)


def test_a_generator_needs_a_plan_with_one(first):
    with pytest.raises(InputError, match="this plan has no generator"):
        smoke(objective="mlm", start_generator_from=str(first / "generator"))


@pytest.mark.parametrize("source", ["not/a/folder", "{corpus}"])
def test_the_command_line_names_a_source_that_is_none(source, corpus, tmp_path, capsys):
    source = source.format(corpus=corpus)
    code = main(
        [
            *("pretrain", "--recipe", "smoke", "--corpus", str(corpus), "--output", str(tmp_path / "run")),
            *("--start-from", source),
        ]
    )
    assert code == 2
    assert source in capsys.readouterr().err


def reordered(folder, first, **rules):
    """A tokenizer of the model's words, the ordinary ones in the opposite order."""
    words = (first / "model/vocab.txt").read_text(encoding="utf-8").splitlines()
    words = [*words[:5], *reversed(words[5:])]
    ConvBertTokenizerFast(vocab={word: row for row, word in enumerate(words)}, **rules).save_pretrained(
        folder
    )
    return folder


def same_words(folder, first, **rules):
    words = (first / "model/vocab.txt").read_text(encoding="utf-8").splitlines()
    ConvBertTokenizerFast(vocab={word: row for row, word in enumerate(words)}, **rules).save_pretrained(
        folder
    )
    return folder


@pytest.mark.parametrize("which", ["start_from", "start_generator_from"])
def test_other_words_in_as_many_rows_are_refused(first, corpus, tmp_path, which):
    plan = smoke(**FIELDS, **{which: str(first / ("model" if which == "start_from" else "generator"))})
    words = reordered(tmp_path / "words", first)
    with pytest.raises(InputError, match=r"row 5 is .* there, .* here"):
        pretrain(plan, corpus, tmp_path / "run", tokenizer=words, report=lambda message: None)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    "rules", [{"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
def test_other_rules_for_the_same_words_are_refused(first, tmp_path, rules):
    plan = smoke(**FIELDS, start_from=str(first / "model"))
    words = load_tokenizer(same_words(tmp_path / "words", first, **rules))
    with pytest.raises(InputError, match="other rules"):
        check_warm_start(plan, words)


def test_the_same_words_and_rules_are_taken_in_either_class_and_without_a_tokenizer_beside_the_weights(
    first, tmp_path
):
    words = load_tokenizer(same_words(tmp_path / "words", first))
    check_warm_start(smoke(**FIELDS, start_from=str(first / "model")), words)
    slow = ConvBertTokenizer.from_pretrained(first / "model")
    check_warm_start(smoke(**FIELDS, start_from=str(first / "model")), slow)
    shutil.copytree(first / "model", tmp_path / "bare")
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        (tmp_path / "bare" / name).unlink()
    check_warm_start(smoke(**FIELDS, start_from=str(tmp_path / "bare")), words)


def test_a_corpus_prepared_with_other_words_is_refused(first, corpus, tmp_path):
    words = reordered(tmp_path / "words", first)
    packing = smoke(**FIELDS).packing
    prepare(Preparation(corpus, tmp_path / "prepared", packing), words)
    plan = smoke(**FIELDS, start_from=str(first / "model"))
    with pytest.raises(InputError, match="another vocabulary"):
        pretrain(plan, tmp_path / "prepared", tmp_path / "run", report=lambda message: None)


@pytest.mark.parametrize("choice", [{"lowercase": False}, {"keep_accents": True}])
def test_a_given_vocabulary_has_decided_case_and_accents(first, corpus, tokenizer, tmp_path, choice):
    (name,) = choice
    quiet = {"device": "cpu", "report": lambda message: None}
    with pytest.raises(InputError, match=name):
        pretrain(smoke(**FIELDS, **choice), corpus, tmp_path / "a", tokenizer=tokenizer, **quiet)
    with pytest.raises(InputError, match=name):
        pretrain(smoke(**FIELDS, **choice, start_from=str(first / "model")), corpus, tmp_path / "b", **quiet)


@pytest.fixture(scope="module")
def accented(tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "accents.txt"
    text.write_text(
        "\n".join(["The old Café in München likes a señor near the river."] * 60), encoding="utf-8"
    )
    return text


@pytest.mark.parametrize(
    ("options", "piece", "missing"),
    [
        (["--cased"], "M", None),
        (["--lowercase", "--strip-accents"], "u", "ü"),
        (["--lowercase", "--keep-accents"], "ü", "M"),
    ],
)
@pytest.mark.parametrize("verb", ["pretrain", "prepare"])
def test_case_and_accents_are_options_of_both_commands(
    accented, tmp_path, capsys, options, piece, missing, verb
):
    command = [verb, "--corpus", str(accented), "--output", str(tmp_path / "out"), *options]
    if verb == "pretrain":
        command += ["--recipe", "smoke", "--device", "cpu", "--max-steps", "1"]
    else:
        command += ["--vocab-size", "300"]
    assert main(command) == 0
    vocabulary = (tmp_path / "out/tokenizer/vocab.txt").read_text(encoding="utf-8").splitlines()
    assert piece in vocabulary
    assert missing not in vocabulary
    assert main(command) == 0
    assert main([*command, "--cased" if "--lowercase" in options else "--lowercase"]) == 2
    assert "lowercase" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["pretrain", "prepare"])
def test_what_the_vocabulary_is_like_is_said(accented, tmp_path, capsys, verb):
    command = [verb, "--corpus", str(accented), "--output", str(tmp_path / "out")]
    main([*command, *(["--recipe", "smoke", "--max-steps", "1"] if verb == "pretrain" else [])])
    said = capsys.readouterr().err
    assert "--keep-accents" in said
    assert "[UNK]: 0.00%" in said
