"""The encoder and its heads against transformers' ConvBERT, an offline twin with the same random weights."""

from __future__ import annotations

import pytest
import torch
import transformers.models.convbert as theirs

import convbert
import tiny
from convbert import ConvBertConfig, ConvBertForSequenceClassification, ConvBertModel, InputError
from helpers import assert_close

SIZES = {
    "small-like": {"embedding_size": 16},
    "medium-like": {"embedding_size": 16, "hidden_size": 48, "num_attention_heads": 8, "num_groups": 2},
    "base-like": {"embedding_size": 32},
    "kernel-7": {"embedding_size": 16, "conv_kernel_size": 7},
    "ratio-4": {"embedding_size": 16, "head_ratio": 4},
    "ratio-above-heads": {"embedding_size": 16, "head_ratio": 8},
}
HEADS = [
    "ConvBertModel",
    "ConvBertForMaskedLM",
    "ConvBertForSequenceClassification",
    "ConvBertForMultipleChoice",
    "ConvBertForTokenClassification",
    "ConvBertForQuestionAnswering",
]
LENGTHS = [24, 17, 9, 5, 1]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def settings(size: str, **extra):
    shared = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        "pad_token_id": 0,
    }
    return {**shared, **SIZES[size], **extra}


def twins(head: str, size: str, **extra):
    """Theirs and ours, with the same weights: large enough that a mix-up shows."""
    reference = getattr(theirs, head)(theirs.ConvBertConfig(**settings(size))).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(0, 0.2 if parameter.dim() > 1 else 0.3)
    model = getattr(convbert, head)(ConvBertConfig(**settings(size, **extra))).eval()
    model.load_state_dict(reference.state_dict(), strict=True)
    return reference, model


def batch(head: str, lengths=LENGTHS):
    """Ids, types and mask (B, T), or (B, 2, T) for multiple choice; the padding holds arbitrary ids."""
    shape = (len(lengths), max(lengths))
    mask = torch.arange(shape[1])[None] < torch.tensor(lengths)[:, None]
    inputs = {
        "input_ids": torch.randint(1, 99, shape),
        "token_type_ids": torch.randint(0, 2, shape),
        "attention_mask": mask.long(),
    }
    if head == "ConvBertForMultipleChoice":
        inputs = {name: torch.stack([x, x.flip(0)], dim=1) for name, x in inputs.items()}
    return inputs


def outputs(model, **inputs):
    """The tensors a head is used for, by name."""
    result = model(**inputs)
    names = ("last_hidden_state", "logits", "start_logits", "end_logits")
    return {name: result[name] for name in names if name in result}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("head", HEADS)
class TestParity:
    @torch.no_grad()
    def test_equal_without_padding(self, head, size):
        reference, model = twins(head, size)
        inputs = batch(head, [24, 24, 24])
        inputs.pop("attention_mask")
        for name, expected in outputs(reference, **inputs).items():
            assert_close(outputs(model, **inputs)[name], expected, torch.float32)

    @torch.no_grad()
    def test_equal_with_padding_where_the_convolution_reads_it(self, head, size):
        reference, model = twins(head, size, conv_reads_padding=True)
        inputs = batch(head)
        for name, expected in outputs(reference, **inputs).items():
            assert_close(outputs(model, **inputs)[name], expected, torch.float32)

    @torch.no_grad()
    def test_padded_rows_equal_each_text_alone(self, head, size):
        reference, model = twins(head, size)
        inputs = batch(head)
        together = outputs(model, **inputs)
        del inputs["attention_mask"]
        for row, length in enumerate(LENGTHS):
            if head == "ConvBertForMultipleChoice":  # its first choice is as long as the row says
                alone = {name: x[row : row + 1, :1, :length] for name, x in inputs.items()}
            else:
                alone = {name: x[row : row + 1, :length] for name, x in inputs.items()}
            for name, expected in outputs(reference, **alone).items():
                actual = together[name][row][: expected.shape[1]]
                assert_close(actual, expected[0], torch.float32, f"{name}, {length} tokens")

    def test_gradients_equal(self, head, size):
        reference, model = twins(head, size)
        inputs = batch(head, [24, 24])
        inputs.pop("attention_mask")
        for network in (reference, model):
            sum((x.double() ** 2).sum() for x in outputs(network, **inputs).values()).backward()
        ours = dict(model.named_parameters())
        for name, parameter in reference.named_parameters():
            expected, actual = parameter.grad, ours[name].grad
            if expected is None:
                assert actual is None
                continue
            # The bias of the key cancels in the softmax: its gradient is rounding noise of about 1e-6.
            assert (actual - expected).norm() <= 1e-4 * expected.norm() + 1e-5, name


@pytest.mark.parametrize("size", SIZES)
def test_fp64_parity(size):
    reference, model = twins("ConvBertModel", size)
    inputs = batch("ConvBertModel", [24, 24])
    with torch.no_grad():
        actual, expected = model.double()(**inputs)[0], reference.double()(**inputs)[0]
    assert_close(actual, expected, torch.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("head", HEADS)
def test_checkpoints_load_either_way(head, size, tmp_path):
    reference, model = twins(head, size)
    reference.save_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    for library, folder in ((convbert, "theirs"), (theirs, "ours")):
        loaded, report = getattr(library, head).from_pretrained(tmp_path / folder, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        expected = reference.state_dict()
        assert all(torch.equal(x, expected[name]) for name, x in loaded.state_dict().items())


@torch.no_grad()
def test_multiple_choice_reads_a_real_token():
    reference, model = twins("ConvBertForMultipleChoice", "small-like")
    ids = torch.randint(1, 99, (1, 2, 9))
    mask = torch.ones_like(ids)
    mask[0, 1, 4:] = 0
    together = model(ids, attention_mask=mask).logits[0]
    for choice, length in enumerate([9, 4]):
        alone = reference(ids[:, choice : choice + 1, :length]).logits[0, 0]
        assert_close(together[choice], alone, torch.float32)


@pytest.mark.parametrize("kind", ["first", "mean", "last", "cls_index"])
@torch.no_grad()
def test_multiple_choice_summary_types(kind):
    reference, model = twins("ConvBertForMultipleChoice", "small-like")
    reference.sequence_summary.summary_type = model.sequence_summary.kind = kind
    ids = torch.randint(1, 99, (2, 3, 9))
    assert_close(model(ids).logits, reference(ids).logits, torch.float32)
    padded = torch.nn.functional.pad(ids, (0, 4))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 4))
    assert_close(model(padded, attention_mask=mask).logits, model(ids).logits, torch.float32)


class TestForms:
    """Every way through the encoder gives the same states."""

    @pytest.fixture
    def model(self):
        return twins("ConvBertModel", "medium-like")[1]

    @pytest.fixture
    def inputs(self):
        return batch("ConvBertModel")

    @torch.no_grad()
    def test_packed_input_equals_padded(self, model, inputs):
        mask = inputs["attention_mask"].bool()
        padded = model(**inputs).last_hidden_state[mask]
        row = {name: inputs[name][mask][None] for name in ("input_ids", "token_type_ids")}
        position_ids = torch.cat([torch.arange(n) for n in LENGTHS])[None]
        bounds = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
        number = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))[None]
        for packing in (
            {"position_ids": position_ids},
            {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 24, "max_length_k": 24},
            {"cu_seq_lens_q": bounds, "position_ids": position_ids},
            {"seq_idx": number},
        ):
            assert_close(model(**row, **packing)[0][0], padded, torch.float32, str(list(packing)))

    @torch.no_grad()
    def test_flattening_collator(self, model, inputs):
        from transformers import DataCollatorWithFlattening

        rows = [{"input_ids": inputs["input_ids"][i, :n].tolist()} for i, n in enumerate(LENGTHS)]
        flat = DataCollatorWithFlattening(return_flash_attn_kwargs=True)(rows)
        flat.pop("labels")
        del inputs["token_type_ids"]
        padded = model(**inputs).last_hidden_state[inputs["attention_mask"].bool()]
        assert_close(model(**flat)[0][0], padded, torch.float32)

    @pytest.mark.usefixtures("poisoned_memory")
    @pytest.mark.parametrize("kind", ["dense", "unpadded", "padded"])
    def test_reference_backend(self, inputs, kind):
        """The fast convolutions against the definition, in training mode, with the gradient of every parameter."""
        model = twins("ConvBertModel", "small-like", **NO_DROPOUT)[1].train()
        if kind == "dense":
            del inputs["attention_mask"]
        results = []
        for model.conv_backend in ("reference", "fast"):
            model.zero_grad()
            states = model(**inputs, output_attentions=kind == "padded").last_hidden_state
            states.square().sum().backward()
            results.append([states.detach(), *(p.grad for p in model.parameters())])
        assert_close(results[1][0], results[0][0], torch.float32)
        for expected, actual in zip(*(grads for _, *grads in results), strict=True):
            assert (actual - expected).norm() <= 1e-4 * expected.norm() + 1e-5

    @pytest.mark.parametrize("side", ["left", "right", "hole"])
    @torch.no_grad()
    def test_eager_padded_equals_unpadded(self, model, inputs, side):
        mask = inputs["attention_mask"]
        if side == "left":
            mask = mask.flip(1)
        if side == "hole":
            mask[0, 4:7] = 0
        inputs["attention_mask"] = mask
        eager = model(**inputs, output_attentions=True, output_hidden_states=True, output_conv_kernels=True)
        unpadded = model(**inputs, output_hidden_states=True, output_conv_kernels=True)
        assert eager.attentions[0].shape == (5, 4, 24, 24)
        assert eager.conv_kernels[0].shape == (5, 24, 4, 9)
        for a, b in zip(
            (*eager.hidden_states, *eager.conv_kernels),
            (*unpadded.hidden_states, *unpadded.conv_kernels),
            strict=True,
        ):
            assert_close(b, a, torch.float32)
        assert not unpadded.last_hidden_state[~mask.bool()].any()

    @torch.no_grad()
    def test_conv_kernels_are_the_weights_that_were_used(self, model):
        ids = torch.randint(1, 99, (1, 12))
        caught = {}
        attention = model.encoder.layer[0].attention.self
        attention.conv_out_layer.register_forward_hook(lambda _, __, out: caught.update(value=out))
        attention.register_forward_hook(lambda _, __, out: caught.update(context=out.context))
        kernel = model(ids, output_conv_kernels=True).conv_kernels[0]
        value = torch.nn.functional.pad(caught["value"].unflatten(-1, (4, -1)), (0, 0, 0, 0, 4, 4))
        mixed = sum(kernel[..., k, None] * value[:, k : k + 12] for k in range(9))
        assert_close(caught["context"][..., 24:], mixed.flatten(-2), torch.float32)

    @torch.no_grad()
    def test_all_padding_row_and_batch(self, model, inputs):
        inputs["attention_mask"][3] = 0
        states = model(**inputs).last_hidden_state
        assert torch.isfinite(states).all()
        assert not states[3].any()
        inputs["attention_mask"][:] = 0
        assert not model(**inputs).last_hidden_state.any()
        assert torch.isfinite(model(**inputs, output_attentions=True).last_hidden_state).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
    @torch.no_grad()
    def test_a_damaged_text_leaves_the_others_alone(self, model, dtype):
        vectors, mask = (
            torch.randn(3, 24, 16, dtype=dtype),
            torch.arange(24) < torch.tensor([[24], [7], [11]]),
        )
        healthy = model.to(dtype)(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
        vectors[1, 3] = torch.nan
        states = model(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
        assert torch.equal(states[[0, 2]], healthy[[0, 2]])
        assert torch.isnan(states[1, :7]).all()

    @torch.no_grad()
    def test_no_sequences(self, model):
        assert model(torch.zeros(0, 7, dtype=torch.long)).last_hidden_state.shape == (0, 7, 48)

    def test_packed_row_of_no_sequences(self, model):
        nothing = torch.zeros(1, 0, dtype=torch.long)
        bounds = torch.zeros(1, dtype=torch.int32)
        states = model.train()(nothing, cu_seq_lens_q=bounds, max_length_q=0).last_hidden_state
        assert states.shape == (1, 0, 48)
        states.sum().backward()
        assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("masked", [True, False], ids=["padded", "unpadded"])
    def test_low_precision_trains_on_extreme_inputs(self, model, dtype, masked):
        """Vectors of +-1e4, a row of padding, a text shorter than the kernel: states and gradients are numbers."""
        lengths = torch.tensor([[24], [0], [2]])
        vectors = (torch.randint(-1, 2, (3, 24, 16)) * 1e4).to(dtype).requires_grad_()
        states = (
            model.to(dtype)
            .train()(
                inputs_embeds=vectors, attention_mask=torch.arange(24) < lengths, output_attentions=masked
            )
            .last_hidden_state
        )
        states.float().square().mean().backward()
        assert not states[1].any()
        for x in (states, vectors.grad, *(p.grad for p in model.parameters() if p.grad is not None)):
            assert torch.isfinite(x).all()

    def test_training_gradients_do_not_depend_on_padding(self, model, inputs):
        """Train mode (dropout off by value, not by mode): padded batch against the sum over texts alone."""
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for layer in model.encoder.layer:
            layer.attention.self.dropout = 0.0
        model.train()
        model(**inputs)[0].square().sum().backward()
        together = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        for row, length in enumerate(LENGTHS):
            text = {k: v[row : row + 1, :length] for k, v in inputs.items() if k != "attention_mask"}
            model(**text)[0].square().sum().backward()
        for name, parameter in model.named_parameters():
            error = (parameter.grad - together[name]).norm()
            assert error <= 1e-4 * parameter.grad.norm() + 1e-5, name

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @torch.no_grad()
    def test_low_precision_stays_near(self, model, inputs, dtype):
        expected = model(**inputs)[0]
        actual = model.to(dtype)(**inputs)[0]
        assert (actual - expected).norm() < 0.05 * expected.norm()

    @torch.no_grad()
    def test_compiled_padded(self, model, inputs):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert_close(compiled(**inputs)[0], model(**inputs)[0], torch.float32)


class TestLogitsToKeep:
    @pytest.fixture
    def model(self):
        return twins("ConvBertForMaskedLM", "small-like")[1]

    def test_only_what_is_asked(self, model):
        inputs = batch("ConvBertForMaskedLM")
        keep = (torch.rand(5, 24) < 0.2) & inputs["attention_mask"].bool()
        full = model(**inputs).logits
        assert_close(model(**inputs, logits_to_keep=keep).logits, full[keep], torch.float32)

    def test_training_computes_labelled_positions(self, model):
        inputs = batch("ConvBertForMaskedLM")
        labels = torch.full((5, 24), -100)
        labels[0, 3], labels[2, 1] = 7, 8
        evaluated = model(**inputs, labels=labels)
        trained = model.train()(**inputs, labels=labels)
        assert evaluated.logits.shape == (5, 24, 99)
        assert trained.logits.shape == (2, 99)
        expected = torch.nn.functional.cross_entropy(evaluated.logits[labels != -100], torch.tensor([7, 8]))
        assert_close(evaluated.loss, expected, torch.float32)


class TestDiscriminator:
    def test_loss_counts_real_tokens(self):
        model = convbert.ConvBertForPreTraining(ConvBertConfig(**settings("small-like"))).eval()
        inputs = batch("ConvBertForPreTraining")
        labels = torch.randint(0, 2, (5, 24))
        result = model(**inputs, labels=labels)
        real = inputs["attention_mask"].bool()
        expected = torch.nn.functional.binary_cross_entropy(
            torch.sigmoid(result.logits[real]), labels[real].float()
        )
        assert result.logits.shape == (5, 24)
        assert_close(result.loss, expected, torch.float32)
        labels[~real] = 1 - labels[~real]
        assert torch.equal(model(**inputs, labels=labels).loss, result.loss)


class TestQuestionAnswering:
    def test_loss_does_not_depend_on_padding(self):
        model = twins("ConvBertForQuestionAnswering", "small-like")[1]
        ids = torch.randint(1, 99, (1, 9))
        answer = {"start_positions": torch.tensor([2]), "end_positions": torch.tensor([4])}
        alone = model(ids, **answer).loss
        padded = torch.nn.functional.pad(ids, (0, 5))
        mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 5))
        assert_close(model(padded, attention_mask=mask, **answer).loss, alone, torch.float32)

    def test_refuses_packed_rows(self):
        """A classification or a QA loss is per text: a packed row would pass for a single one."""
        answer = {"start_positions": torch.tensor([2]), "end_positions": torch.tensor([4])}
        for head, extra in (
            ("ConvBertForQuestionAnswering", answer),
            ("ConvBertForSequenceClassification", {}),
        ):
            model = twins(head, "small-like")[1]
            ids = torch.randint(1, 99, (1, 9))
            bounds = torch.tensor([0, 4, 9], dtype=torch.int32)
            with pytest.raises(InputError, match="not a packed one"):
                model(ids, cu_seq_lens_q=bounds, **extra)
            with pytest.raises(InputError, match="not a packed one"):
                model(ids, position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]), **extra)

    def test_needs_two_labels(self):
        with pytest.raises(InputError, match="num_labels=2"):
            convbert.ConvBertForQuestionAnswering(ConvBertConfig(**settings("small-like"), num_labels=3))


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("regression", torch.rand(5)),
        ("single_label_classification", torch.randint(0, 3, (5,))),
        ("multi_label_classification", torch.randint(0, 2, (5, 3)).float()),
    ],
)
@pytest.mark.parametrize("named", [True, False], ids=["named", "guessed"])
def test_classification_losses(problem, labels, named):
    extra = {
        "num_labels": 1 if problem == "regression" else 3,
        "problem_type": problem if named else None,
    }
    config = settings("small-like", **extra)
    reference = theirs.ConvBertForSequenceClassification(theirs.ConvBertConfig(**config)).eval()
    model = convbert.ConvBertForSequenceClassification(ConvBertConfig(**config)).eval()
    model.load_state_dict(reference.state_dict())
    inputs = batch("", [24] * 5)
    actual, expected = model(**inputs, labels=labels), reference(**inputs, labels=labels)
    assert_close(actual.loss, expected.loss, torch.float32)
    assert model.config.problem_type == extra["problem_type"], "forward must not edit the config"


class TestOtherPromises:
    def test_gradient_checkpointing_changes_nothing(self):
        model = ConvBertModel(ConvBertConfig(**settings("small-like", hidden_dropout_prob=0.0)))
        for layer in model.encoder.layer:
            layer.attention.self.dropout = 0.0
        inputs, grads = batch("ConvBertModel"), []
        model.train()
        for _ in range(2):
            model.zero_grad()
            model(**inputs)[0].square().sum().backward()
            grads.append([p.grad.clone() for p in model.parameters()])
            model.gradient_checkpointing_enable()
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))

    def test_resize_token_embeddings_resizes_head_and_bias(self):
        model = convbert.ConvBertForMaskedLM(ConvBertConfig(**settings("small-like")))
        model.resize_token_embeddings(120)
        assert model.generator_lm_head.bias.shape == (120,)
        assert model.generator_lm_head.weight is model.convbert.embeddings.word_embeddings.weight
        assert model(torch.tensor([[119]])).logits.shape == (1, 1, 120)

    def test_sharded_half_precision_round_trip(self, tmp_path):
        model = twins("ConvBertForMaskedLM", "small-like")[1].half()
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        loaded = convbert.ConvBertForMaskedLM.from_pretrained(tmp_path, dtype="auto")
        assert loaded.dtype == torch.float16
        assert all(torch.equal(x, model.state_dict()[name]) for name, x in loaded.state_dict().items())

    def test_tuple_by_configuration(self):
        for head in [*HEADS[1:3], *HEADS[4:], "ConvBertForPreTraining"]:
            config = ConvBertConfig(**settings("small-like"), return_dict=False)
            assert isinstance(getattr(convbert, head)(config).eval()(torch.tensor([[1, 2]])), tuple)

    def test_positions_of_one_row(self):
        model = twins("ConvBertModel", "small-like")[1]
        ids = torch.tensor([[5, 6, 7]])
        assert_close(model(ids, position_ids=torch.arange(3))[0], model(ids)[0], torch.float32)

    def test_tuple_on_request(self):
        model = twins("ConvBertModel", "small-like")[1]
        states, hidden = model(torch.tensor([[1, 2]]), return_dict=False, output_hidden_states=True)
        assert torch.equal(states, hidden[-1])

    def test_inputs_embeds(self):
        model = twins("ConvBertModel", "small-like")[1]
        inputs = batch("ConvBertModel")
        expected = model(**inputs)[0]
        vectors = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert_close(model(inputs_embeds=vectors, **inputs)[0], expected, torch.float32)

    def test_starts_as_the_original(self):
        """Truncated normals; depthwise filters with standard deviation 1/K (not transformers' 0.02)."""
        config = ConvBertConfig(**settings("small-like", hidden_size=128, intermediate_size=512))
        model = convbert.ConvBertForPreTraining(config)
        layer = model.convbert.encoder.layer[0]
        dense = layer.intermediate.dense.weight
        assert dense.abs().max() <= 0.04
        assert 0.0165 < dense.std() < 0.0187  # 0.02 cut at two standard deviations is 0.0176
        filters = layer.attention.self.key_conv_attn_layer.depthwise.weight
        assert 0.85 / 9 < filters.std() / 0.88 < 1.15 / 9
        glorot = model.convbert.embeddings_project.weight
        assert glorot.abs().max() > 0.9 * (6 / (16 + 128)) ** 0.5
        assert not model.convbert.embeddings.word_embeddings.weight[0].any()
        biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
        assert not any(bias.any() for bias in biases)


def test_refuses_by_name():
    model = ConvBertModel(ConvBertConfig(**settings("small-like")))
    ids = torch.randint(1, 99, (2, 10))
    for inputs, message in [
        ({"input_ids": ids + 99}, r"input_ids \(vocab_size = 99\) holds"),
        ({"input_ids": ids - 200}, r"input_ids \(vocab_size = 99\) holds"),
        ({"input_ids": ids.repeat(1, 5)}, r"50 tokens is longer than max_position_embeddings \(40\)"),
        (
            {"input_ids": ids, "attention_mask": torch.ones(2, 9)},
            r"shape of the input \(2, 10\), got \(2, 9\)",
        ),
        ({"input_ids": ids, "token_type_ids": ids}, "token_type_ids"),
        ({"input_ids": ids, "position_ids": ids + 40}, "position_ids"),
        ({}, "exactly one of input_ids and inputs_embeds"),
        ({"input_ids": ids[0]}, r"\(batch, length\), got \(10,\)"),
        ({"input_ids": ids[:1], "cu_seq_lens_q": torch.tensor([0, 9])}, "must run from 0 to 10"),
        ({"input_ids": ids[:1], "cu_seq_lens_q": torch.tensor([0, 7, 3, 10])}, "without going back"),
        (
            {"input_ids": ids[:1], "cu_seq_lens_q": torch.tensor([0, 7, 10]), "max_length_q": 6},
            "cu_seq_lens_q .* 7 tokens, but max_length_q is 6",
        ),
        ({"input_ids": ids, "cu_seq_lens_q": torch.tensor([0, 20])}, "packed batch is one row"),
    ]:
        with pytest.raises(InputError, match=message):
            model(**inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"position_ids": torch.zeros(4, 3, dtype=torch.long)},
            r"position_ids must have .* \(1, 3\), got \(4, 3\)",
        ),
        (
            {"token_type_ids": torch.zeros(1, 2, dtype=torch.long)},
            r"token_type_ids must have .*, got \(1, 2\)",
        ),
        ({"positions_to_keep": torch.ones(3, dtype=torch.bool)}, r"must be \(1, 3\), got \(3,\)"),
        ({"cu_seq_lens_q": torch.empty(0, dtype=torch.int32)}, r"must be \(sequences \+ 1,\), got \(0,\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_of_another_shape_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        ConvBertModel(tiny.config())(torch.tensor([[5, 6, 7]]), **arguments)


def test_a_label_is_not_read_from_padding():
    model = ConvBertForSequenceClassification(tiny.config()).eval()
    with pytest.raises(InputError, match="pad on the right"):
        model(torch.tensor([[0, 5, 6]]), attention_mask=torch.tensor([[0, 1, 1]]))


def test_the_number_of_a_layer_may_be_0():
    out = ConvBertModel(tiny.config()).eval()(torch.tensor([[5, 6, 7]]), output_hidden_states=0)
    assert [state is not None for state in out.hidden_states] == [True] + [False] * (
        len(out.hidden_states) - 1
    )


@pytest.mark.parametrize("train", [True, False])
def test_shapes_on_the_meta_device(train):
    with torch.device("meta"):
        model = ConvBertModel(tiny.config()).train(train)
        ids, mask = torch.ones(2, 9, dtype=torch.long), torch.ones(2, 9, dtype=torch.long)
        for inputs in ({}, {"attention_mask": mask}):
            assert model(ids, **inputs).last_hidden_state.shape == (2, 9, model.config.hidden_size)
        row = {"cu_seq_lens_q": torch.zeros(3, dtype=torch.int32), "max_length_q": 9}
        assert model(ids.view(1, 18), **row).last_hidden_state.shape == (1, 18, model.config.hidden_size)
