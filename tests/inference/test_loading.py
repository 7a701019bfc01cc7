"""`convbert.load`: the class of the task, ready to run, or one sentence that says why not."""

import pytest
import torch
import transformers.models.convbert as theirs

import convbert
import tiny
from convbert import InputError
from convbert.files import embedded
from convbert.inference.loading import TASKS
from helpers import assert_close

CLASSES = {
    "fill-mask": theirs.ConvBertForMaskedLM,
    "text-classification": theirs.ConvBertForSequenceClassification,
    "token-classification": theirs.ConvBertForTokenClassification,
    "question-answering": theirs.ConvBertForQuestionAnswering,
    "multiple-choice": theirs.ConvBertForMultipleChoice,
    "feature-extraction": theirs.ConvBertModel,
    "sentence-similarity": theirs.ConvBertModel,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What transformers' own classes save; their library has no discriminator, so that one is ours."""
    torch.manual_seed(0)
    made = {task: tmp_path_factory.mktemp(task) for task in TASKS}
    config = theirs.ConvBertConfig(**tiny.config().to_diff_dict())
    for task, model_class in CLASSES.items():
        model_class(config).save_pretrained(made[task])
    convbert.ConvBertForPreTraining(tiny.config()).save_pretrained(made["replaced-token-detection"])
    return made


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_model_ready_to_run(task, folders):
    model = convbert.load(folders[task], task, precision="fp32")
    assert type(model) is TASKS[task].model
    assert not any(module.training for module in model.modules())
    assert model.name_or_path == str(folders[task])
    stored = TASKS[task].model.from_pretrained(folders[task]).eval()
    weights, ids = stored.state_dict(), torch.arange(5, 17).view(2, 6)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.named_parameters())
    with torch.inference_mode():
        states, expected = (each.base_model(ids).last_hidden_state for each in (model, stored))
    assert_close(states, expected, torch.float32)


def test_without_a_source_it_is_the_embedded_model():
    model = convbert.load(precision="fp32")
    assert isinstance(model, convbert.ConvBertForMaskedLM)
    assert model.name_or_path == str(embedded.folder())
    assert isinstance(convbert.load(task="feature-extraction"), convbert.ConvBertModel)
    with pytest.raises(InputError, match="multiple-choice needs a model that was fine-tuned for it"):
        convbert.load(task="multiple-choice")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("int8", torch.float32)]
)
@pytest.mark.filterwarnings("ignore::convbert.util.errors.SlowerWarning")
def test_precision(name, dtype):
    model = convbert.load(precision=name)
    assert model.dtype == dtype
    assert bool(model.base_model.encoder.freezer.num_int8) == (name == "int8")


def test_a_warning_points_at_the_caller(monkeypatch):
    monkeypatch.setattr("convbert.inference.precision.supports_bfloat16", lambda device: False)
    with pytest.warns(convbert.util.errors.SlowerWarning) as caught:
        convbert.load(precision="bf16")
    assert caught[0].filename == __file__


def test_bad_choices_are_named(folders, tmp_path):
    with pytest.raises(InputError, match="no task 'translation'; there are fill-mask"):
        convbert.load(task="translation")
    with pytest.raises(InputError, match="precision must be one of auto, fp32, bf16, int8; got 'fp16'"):
        convbert.load(precision="fp16")
    with pytest.raises(InputError, match="device 'abacus' cannot be used"):
        convbert.load(device="abacus")
    with pytest.raises(InputError, match="int8 cannot run here: it runs on a CPU, not on meta"):
        convbert.load(precision="int8", device="meta")
    with pytest.raises(InputError, match="was not trained for token-classification"):
        convbert.load(folders["fill-mask"], "ner")
    with pytest.raises(InputError, match=f"{tmp_path}: holds no model"):
        convbert.load(tmp_path)
    (tmp_path / "generator").symlink_to(folders["fill-mask"])
    with pytest.raises(InputError, match=r"holds no model: .*; .*/generator can be meant"):
        convbert.load(tmp_path)
    with pytest.raises(InputError, match="nosuch: there is no such folder; a name on the Hub has an owner"):
        convbert.load("nosuch")
