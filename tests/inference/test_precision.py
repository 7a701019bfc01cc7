"""Which numbers a model computes in: what "auto" takes, what is refused, and what each precision does to answers."""

import warnings

import pytest
import torch

import convbert
import tiny
from convbert import InputError
from convbert.inference import precision
from convbert.inference.precision import automatic, set_precision, why_not, why_slow
from convbert.model import frozen as inference
from convbert.util.errors import SlowerWarning
from helpers import masked_sentences

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PRECISIONS = ["fp32", "bf16", "int8"]
pytestmark = pytest.mark.filterwarnings("ignore::convbert.util.errors.SlowerWarning")


@pytest.fixture
def hardware(monkeypatch):
    """Answer for the hardware: does it multiply bf16, and which instructions has it?"""

    def answer(bf16: bool, instructions: str = "AVX2") -> None:
        monkeypatch.setattr(precision, "supports_bfloat16", lambda device: bf16)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)

    return answer


@pytest.fixture
def every_layer_is_wide(monkeypatch):
    monkeypatch.setattr(inference, "SMALLEST_INT8_LAYER", 0)


@pytest.mark.parametrize("bf16", [True, False])
def test_auto_gives_the_same_answers_on_every_processor(hardware, bf16):
    hardware(bf16)
    types = (torch.float32, torch.float16, torch.bfloat16)
    assert [automatic(CPU, dtype)[0] for dtype in types] == ["fp32"] * 3
    assert [automatic(GPU, dtype)[0] for dtype in types] == ["fp32", "fp16", "bf16"]
    for stored in types:
        model = convbert.ConvBertModel(tiny.config()).to(stored)
        set_precision(model, "auto", CPU)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_what_is_slower_here_is_said_once(hardware, every_layer_is_wide):
    hardware(bf16=False, instructions="DEFAULT")
    model = convbert.ConvBertModel(tiny.config())
    with pytest.warns(SlowerWarning, match="bf16 is slower than fp32 here: this processor has no bf16"):
        set_precision(model, "bf16", CPU)
    with pytest.warns(SlowerWarning, match="int8 is slower than fp32 here: .* AVX2") as caught:
        set_precision(model, "int8", CPU)
    assert len(caught) == 1
    hardware(bf16=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("auto", "fp32", "bf16", "int8"):
            set_precision(convbert.ConvBertModel(tiny.config()), name, CPU)
    assert why_slow("int8", CPU) is None


def test_int8_without_a_wide_layer_is_fp32_and_says_so():
    model = convbert.ConvBertModel(tiny.config())
    with pytest.warns(SlowerWarning, match="int8 is fp32 here: no linear layer of this model is wide enough"):
        set_precision(model, "int8", CPU)
    assert model.encoder.freezer.num_int8 == 0


def test_what_cannot_run_is_refused_with_the_reason(monkeypatch):
    model = convbert.ConvBertModel(tiny.config())
    with pytest.raises(InputError, match="must be one of auto, fp32, bf16, int8; got 'fp8'"):
        set_precision(model, "fp8", CPU)
    with pytest.raises(InputError, match="int8 cannot run here: it runs on a CPU, not on cuda"):
        set_precision(model, "int8", GPU)
    assert why_not("bf16", GPU) is None
    monkeypatch.setattr(precision.compiled, "why_missing", lambda: "no kernels")
    with pytest.raises(InputError, match="int8 cannot run here: no kernels"):
        set_precision(model, "int8", CPU)


def test_int8_is_for_the_encoder_alone(every_layer_is_wide):
    model = convbert.ConvBertForMaskedLM(tiny.config())
    set_precision(model, "int8", CPU)
    assert model.convbert.encoder.freezer.num_int8 == 2 * 6  # all linear layers
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.generator_lm_head.weight is model.convbert.embeddings.word_embeddings.weight
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("name", "closeness"), [("bf16", 0.02), ("int8", 0.05)])
def test_states_are_close_to_fp32s(name, closeness, every_layer_is_wide):
    """A padded batch, a rectangle and a packed row."""
    exact = convbert.ConvBertModel(tiny.config(initializer_range=0.1, hidden_size=64)).eval()
    model = convbert.ConvBertModel(exact.config).eval()
    model.load_state_dict(exact.state_dict())
    set_precision(model, name, CPU)
    ids = torch.randint(5, len(tiny.WORDS), (3, 20))
    mask = torch.arange(20) < torch.tensor([[20], [7], [13]])
    bounds = torch.tensor([0, 8, 20], dtype=torch.int32)
    for inputs in (
        {"input_ids": ids},
        {"input_ids": ids, "attention_mask": mask},
        {"input_ids": ids[:1], "cu_seq_lens_q": bounds, "max_length_q": 12},
    ):
        with torch.no_grad():
            found, expected = model(**inputs).last_hidden_state, exact(**inputs).last_hidden_state
        assert found.shape == expected.shape
        assert (found.float() - expected).norm() < closeness * expected.norm()


def test_int8_does_not_depend_on_the_batch(every_layer_is_wide):
    model = convbert.ConvBertModel(tiny.config(initializer_range=0.3)).eval()
    set_precision(model, "int8", CPU)
    ids, mask = torch.randint(5, len(tiny.WORDS), (2, 20)), torch.ones(2, 20)
    mask[1, 9:] = 0
    with torch.no_grad():
        together = model(ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(together[1:, :9], model(ids[1:, :9]).last_hidden_state)


@pytest.fixture(scope="module")
def fp32_answers():
    return convbert.pipeline("fill-mask", precision="fp32", top_k=2)(masked_sentences())


@pytest.mark.parametrize("name", ["bf16", "int8"])
def test_the_embedded_model_gives_the_same_answers_but_for_near_ties(name, fp32_answers):
    found = convbert.pipeline("fill-mask", precision=name, top_k=1)(masked_sentences())
    others = [
        best for (other,), best in zip(found, fp32_answers, strict=True) if other["token"] != best[0]["token"]
    ]
    assert len(others) <= 0.04 * len(found)
    assert all(best["score"] < 1.1 * second["score"] for best, second in others)
