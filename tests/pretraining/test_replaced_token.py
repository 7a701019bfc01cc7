"""Replaced token detection, put together by hand from full logits. The original's numbers: `tests/parity`."""

import json

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from sklearn.metrics import roc_auc_score

from convbert.configuration import ConvBertConfig
from convbert.conversion.settings import config_from_tensorflow
from convbert.model.heads.masked_lm import ConvBertForMaskedLM
from convbert.model.heads.replaced_token import ConvBertForPreTraining
from convbert.pretraining.masking import IGNORED, MaskingCollator
from convbert.pretraining.objectives import ReplacedTokenDetection, build_objective, generator_config
from convbert.pretraining.recipes import smoke
from convbert.training.metrics import MetricMeter
from convbert.util.errors import InputError
from golden import GOLDEN

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def build(tokenizer, **changes) -> ReplacedTokenDetection:
    """Weights larger than at the start, so that the generator prefers some tokens to others."""
    torch.manual_seed(0)
    plan = smoke(**{**NO_DROPOUT, "initializer_range": 0.2, **changes})
    return build_objective(plan, plan.model_config(len(tokenizer)))


@pytest.fixture
def objective(tokenizer):
    return build(tokenizer)


@pytest.fixture
def batch(sequences, tokenizer):
    """Three full sequences and the three shortest."""
    collator = MaskingCollator(tokenizer, smoke().masking, seed=0, sampling=True)
    items = sequences.__getitems__(list(range(len(sequences))))
    shortest = sorted(items, key=lambda item: len(item["input_ids"]))[:3]
    return collator([*items[:3], *shortest])


def recomputes(model) -> bool:
    return all(layer.gradient_checkpointing for layer in model.convbert.encoder.layer)


def corrupted_by(objective, batch):
    """What the discriminator is shown, with its padding."""
    seen = []
    hook = objective.discriminator.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(inputs["input_ids"]), with_kwargs=True
    )
    outputs = objective(**{name: x for name, x in batch.items() if x.dim() == 2})
    hook.remove()
    return seen[0], outputs


class TestLossAndFigures:
    @pytest.mark.parametrize("training", [True, False])
    def test_by_hand(self, objective, batch, training):
        corrupted, outputs = corrupted_by(objective.train(training), batch)
        objective.eval()
        labels, real = batch["labels"], batch["attention_mask"].bool()
        masked = labels != IGNORED
        context = {"attention_mask": batch["attention_mask"]}
        guesses = objective.generator(batch["input_ids"], **context).logits
        masked_loss = F.cross_entropy(guesses[masked], labels[masked])
        original = torch.where(masked, labels, batch["input_ids"])
        replaced = corrupted != original
        judged = objective.discriminator(corrupted, **context).logits
        replaced_loss = F.binary_cross_entropy_with_logits(judged[real], replaced[real].float())

        torch.testing.assert_close(outputs["loss"], masked_loss + 50 * replaced_loss)
        assert not (replaced & ~masked).any()
        assert replaced.any()
        suspected, n_masked, n_real = judged > 0, int(masked.sum()), int(real.sum())
        found = int((replaced & suspected)[real].sum())
        expected = {
            "masked_loss": (masked_loss.item() * n_masked, n_masked),
            "masked_accuracy": ((guesses.argmax(-1) == labels).sum(), n_masked),
            "sampled_accuracy": (n_masked - replaced.sum(), n_masked),
            "replaced_loss": (replaced_loss.item() * n_real, n_real),
            "replaced_accuracy": ((replaced == suspected)[real].sum(), n_real),
            "replaced_precision": (found, suspected[real].sum()),
            "replaced_recall": (found, replaced.sum()),
        }
        assert set(outputs) == {"loss", "replaced_auc", *expected}
        for name, pair in expected.items():
            assert outputs[name].tolist() == pytest.approx([float(x) for x in pair], rel=1e-5), name

    def test_area_under_the_curve_over_batches_is_that_of_all_tokens(self, tokenizer, sequences):
        objective = build(tokenizer).eval()
        collator = MaskingCollator(tokenizer, smoke().masking, seed=0, sampling=True)
        meter, scores, truth = MetricMeter(), [], []
        for start in range(0, 40, 8):
            batch = collator(sequences.__getitems__(list(range(start, start + 8))))
            with torch.no_grad():
                corrupted, outputs = corrupted_by(objective, batch)
                logits = objective.discriminator(corrupted, attention_mask=batch["attention_mask"]).logits
            real = batch["attention_mask"].bool()
            original = torch.where(batch["labels"] != IGNORED, batch["labels"], batch["input_ids"])
            meter.add({"auc": outputs["replaced_auc"]})
            scores.append(logits[real])
            truth.append((corrupted != original)[real])
        expected = roc_auc_score(torch.cat(truth), torch.cat(scores))
        assert meter.means()["auc"] == pytest.approx(expected, abs=2e-3)

    def test_weights(self, tokenizer, batch):
        parts = {
            weights: build(tokenizer, generator_weight=weights[0], discriminator_weight=weights[1])(**batch)
            for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 7.0))
        }
        one, other, both = (outputs["loss"] for outputs in parts.values())
        torch.testing.assert_close(both, 2 * one + 7 * other)

    def test_parts_of_a_step_add_up_to_the_loss_of_one_batch(self, objective, batch):
        """Rows differ in length and in masks, so that a mean of means would not do."""
        whole = objective.eval()(**batch)["loss"]
        rows = [row_of(batch, row) for row in range(6)]
        counts = [objective.loss_counts(**row) for row in rows]
        assert len({tuple(count.tolist()) for count in counts}) > 1
        total = torch.stack(counts).sum(0).double()
        assert torch.equal(total, objective.loss_counts(**batch).double())
        parts = [objective(**row, loss_counts=total)["loss"] for row in rows]
        torch.testing.assert_close(torch.stack(parts).sum(), whole)

    def test_a_draw_that_hits_the_truth_replaces_nothing(self, objective, batch):
        outputs = objective(**batch, sampled_ids=batch["labels"])
        assert outputs["replaced_recall"].tolist() == [0, 0]
        asked, count = outputs["sampled_accuracy"].tolist()
        assert asked == count > 0

    def test_half_precision_keeps_losses_in_fp32(self, objective, batch):
        exact = objective.eval()(**batch)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = objective(**batch)
        assert all(value.dtype == torch.float32 for value in rounded.values())
        assert rounded["masked_loss"][0].item() == pytest.approx(exact["masked_loss"][0].item(), rel=0.02)

    def test_traced_by_the_compiler_gives_the_same(self, objective, batch):
        torch._dynamo.reset()
        expected = objective.eval()(**batch)
        compiled = torch.compile(objective, backend="eager")(**batch)
        for name, value in expected.items():
            if name != "replaced_auc":  # a logit on the edge of a bin may fall on either side
                torch.testing.assert_close(compiled[name], value, rtol=1e-5, atol=1e-5, msg=name)
        torch._dynamo.reset()


def row_of(batch, row):
    """A batch of one, without what the collator has counted in the whole batch."""
    return {name: x[row : row + 1] for name, x in batch.items() if x.dim() == 2}


class TestDraws:
    def test_do_not_depend_on_the_batch(self, objective, batch):
        together, _ = corrupted_by(objective.eval(), batch)
        for row in range(len(together)):
            alone, _ = corrupted_by(objective, row_of(batch, row))
            assert torch.equal(alone[0], together[row])

    def test_numbers_are_needed(self, objective, batch):
        del batch["sample_uniforms"]
        with pytest.raises(InputError, match="sample_uniforms"):
            objective(**batch)


class TestGradients:
    @pytest.mark.parametrize("masks", [True, False])
    def test_every_parameter_has_one_in_every_batch(self, tokenizer, batch, masks):
        """As distributed training and the optimizer need it."""
        objective = build(tokenizer)
        if not masks:
            batch["labels"].fill_(IGNORED)
            batch["masked_positions"] = batch["masked_positions"][:0]
        objective(**batch)["loss"].backward()
        assert [name for name, x in objective.named_parameters() if x.grad is None] == []
        assert all(torch.isfinite(x.grad).all() for x in objective.parameters())

    def test_the_discriminator_teaches_the_generator_nothing(self, tokenizer, batch):
        objective = build(tokenizer, generator_weight=0.0)
        objective(**batch)["loss"].backward()
        shared = set(objective.discriminator.parameters())
        assert not any(x.grad.any() for x in objective.generator.parameters() if x not in shared)
        assert objective.discriminator.convbert.embeddings.LayerNorm.weight.grad.any()

    def test_checkpointing_changes_nothing(self, tokenizer, batch):
        """With dropout: its random numbers are drawn again when a layer runs again."""
        results = []
        for checkpointing in (False, True):
            objective = build(
                tokenizer,
                gradient_checkpointing=checkpointing,
                hidden_dropout_prob=0.1,
                attention_probs_dropout_prob=0.1,
            ).train()
            assert recomputes(objective.generator) is checkpointing
            assert recomputes(objective.discriminator) is checkpointing
            torch.manual_seed(1)
            loss = objective(**batch)["loss"]
            loss.backward()
            results.append((loss, {name: x.grad for name, x in objective.named_parameters()}))
        (plain, expected), (loss, gradients) = results
        assert torch.equal(loss, plain)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6, msg=name)


class TestGenerator:
    @pytest.mark.parametrize(
        ("config", "fraction", "expected"),
        [
            (ConvBertConfig.small(), 0.25, {"hidden_size": 64, "num_attention_heads": 1, "head_size": 64}),
            (
                ConvBertConfig.medium_small(),
                0.25,
                {"hidden_size": 96, "num_attention_heads": 2, "head_size": 48},
            ),
            (ConvBertConfig.base(), 1 / 3, {"hidden_size": 256, "num_attention_heads": 4, "head_size": 64}),
        ],
    )
    def test_sizes_of_the_published_models(self, config, fraction, expected):
        generator = generator_config(config, fraction)
        assert {name: getattr(generator, name) for name in expected} == expected
        assert generator.intermediate_size == 4 * generator.hidden_size
        for name in ("num_hidden_layers", "embedding_size", "num_groups", "conv_kernel_size", "head_ratio"):
            assert getattr(generator, name) == getattr(config, name)
        assert (generator.attention_head_size is None) == (generator.num_attention_heads > 1)

    @pytest.mark.parametrize(("folder", "fraction"), [("set_a", 0.5), ("set_b", 0.5), ("set_d", 1 / 3)])
    def test_is_what_the_original_derived(self, folder, fraction):
        settings = json.loads((GOLDEN / folder / "original_config.json").read_text())
        derived = generator_config(config_from_tensorflow(settings, "discriminator"), fraction)
        assert derived.to_dict() == config_from_tensorflow(settings, "generator").to_dict()

    def test_layers_of_its_own(self):
        generator = generator_config(ConvBertConfig.small(), 0.5, 0.25)
        assert (generator.num_hidden_layers, generator.embedding_size) == (3, 128)

    def test_fractions_that_give_no_whole_heads_are_refused(self):
        with pytest.raises(InputError, match=r"generator_hidden_size=0\.3 .* hidden_size \(77\) .* \(1\.2\)"):
            generator_config(ConvBertConfig.small(), 0.3)

    def test_shares_the_tables_and_their_norm_and_nothing_else(self, objective):
        ours = dict(objective.discriminator.named_parameters())
        shared = {
            name
            for name, parameter in objective.generator.named_parameters()
            if any(parameter is other for other in ours.values())
        }
        embeddings = "convbert.embeddings"
        assert shared == {
            *(f"{embeddings}.{table}_embeddings.weight" for table in ("word", "position", "token_type")),
            *(f"{embeddings}.LayerNorm.weight", f"{embeddings}.LayerNorm.bias"),
        }
        words = ours[f"{embeddings}.word_embeddings.weight"]
        assert objective.generator.generator_lm_head.weight is words
        assert "convbert.embeddings_project.weight" in dict(objective.generator.named_parameters())

    def test_unequal_embeddings_cannot_be_shared(self):
        config = smoke().model_config(50)
        other = smoke().model_config(60)
        with pytest.raises(InputError, match="vocab_size: 50 and 60"):
            ReplacedTokenDetection(ConvBertForPreTraining(config), ConvBertForMaskedLM(other))


class TestFiles:
    def test_both_are_ordinary_folders(self, objective, batch, tmp_path):
        objective.eval()
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        for name, kind in (("model", ConvBertForPreTraining), ("generator", ConvBertForMaskedLM)):
            model = objective.models()[name]
            model.save_pretrained(tmp_path / name)
            again, report = kind.from_pretrained(tmp_path / name, output_loading_info=True)
            assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys"))
            assert again.config.attention_head_size == model.config.attention_head_size
            with torch.no_grad():
                torch.testing.assert_close(again.eval()(**inputs).logits, model(**inputs).logits)

    def test_transformers_loads_the_discriminator(self, objective, batch, tmp_path):
        objective.discriminator.eval().save_pretrained(tmp_path)
        theirs, report = transformers.ConvBertModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"]
        inputs = {"input_ids": batch["input_ids"][:, :8]}
        with torch.no_grad():
            states = objective.discriminator.convbert(**inputs).last_hidden_state
            torch.testing.assert_close(theirs.eval()(**inputs).last_hidden_state, states, atol=1e-5, rtol=0)

    def test_a_checkpoint_restores_what_is_shared(self, tokenizer, objective, tmp_path):
        safetensors.torch.save_model(objective, str(tmp_path / "model.safetensors"))
        again = build(tokenizer)
        with torch.no_grad():
            for parameter in again.parameters():
                parameter.zero_()
        safetensors.torch.load_model(again, str(tmp_path / "model.safetensors"))
        for (name, ours), theirs in zip(again.named_parameters(), objective.parameters(), strict=True):
            assert torch.equal(ours, theirs), name
        assert again.generator.convbert.embeddings is again.discriminator.convbert.embeddings


def test_starts_as_the_original():
    """Both encoders and both heads: the initialisers in the original's modeling.py and run_pretraining.py."""
    plan = smoke(embedding_size=48, hidden_size=64, generator_hidden_size=0.5, conv_kernel_size=9)
    objective = build_objective(plan, plan.model_config(3000))
    glorot = ("embeddings_project.weight", "dense_prediction.weight")
    truncated = 0.8796  # standard deviation of a normal cut at two of its own
    seen = set()
    for name, parameter in objective.named_parameters():
        values = parameter.detach().flatten()
        kind = "bias" if name.endswith("bias") else "norm" if "LayerNorm" in name else "table"
        if kind == "bias":
            assert not values.any(), name
        elif kind == "norm":
            assert (values == 1).all(), name
        elif name.endswith(glorot):
            kind, limit = "glorot", (6 / sum(parameter.shape)) ** 0.5
            assert 0.85 * limit < values.abs().max() <= limit, name
        else:
            kind = "depthwise" if "depthwise" in name else kind
            std = 1 / 9 if kind == "depthwise" else 0.02
            assert values.abs().max() <= 2 * std, name
            if len(values) > 500:
                assert values.std().item() == pytest.approx(truncated * std, rel=0.1), name
        seen.add((name.partition(".")[0], kind))
    kinds = {"bias", "norm", "glorot", "depthwise", "table"}
    assert seen == {(part, kind) for part in ("discriminator", "generator") for kind in kinds}
