from __future__ import annotations

import torch
from torch import nn

from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertForPreTraining
from convbert.pretraining.samples import Probe


def sizes(tokenizer, **changes) -> ConvBertConfig:
    fields = {
        "vocab_size": len(tokenizer),
        "embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    return ConvBertConfig(**{**fields, "pad_token_id": tokenizer.pad_token_id, **changes})


def objective_of(**models: nn.Module) -> nn.Module:
    objective = nn.Module()
    for name, model in models.items():
        setattr(objective, name, model)
    return objective


def test_answers_are_the_models_own(heldout, tokenizer):
    """Each masked sentence alone, through the whole model, by hand."""
    model = ConvBertForMaskedLM(sizes(tokenizer))
    probe = Probe(heldout, tokenizer, sentences=3)
    samples = probe(objective_of(model=model.train()))
    assert samples.judged == ()
    assert model.training
    for sentence in samples.filled:
        ids = torch.tensor(tokenizer.convert_tokens_to_ids(list(sentence.tokens)))
        shown = ids.clone()
        shown[[answer.place for answer in sentence.answers]] = tokenizer.mask_token_id
        with torch.no_grad():
            shares = model.eval()(shown[None]).logits[0].softmax(-1)
        assert len(sentence.answers) == round(0.15 * len(sentence.tokens))
        for answer in sentence.answers:
            expected = shares[answer.place].topk(5)
            assert answer.truth == sentence.tokens[answer.place]
            assert [word for word, _ in answer.best] == tokenizer.convert_ids_to_tokens(
                expected.indices.tolist()
            )
            torch.testing.assert_close([share for _, share in answer.best], expected.values.tolist())
            truth = shares[answer.place, ids[answer.place]].item()
            torch.testing.assert_close(answer.truth_probability, truth)


def test_only_masked_places_are_replaced_and_the_judge_sees_them(heldout, tokenizer):
    generator = ConvBertForMaskedLM(sizes(tokenizer, hidden_size=16))
    judge = ConvBertForPreTraining(sizes(tokenizer))
    probe = Probe(heldout, tokenizer, sentences=4)
    samples = probe(objective_of(generator=generator, discriminator=judge))
    replaced = 0
    for filled, judged in zip(samples.filled, samples.judged, strict=True):
        assert judged.truth == filled.tokens
        masked = {answer.place for answer in filled.answers}
        changed = {n for n, (a, b) in enumerate(zip(judged.tokens, judged.truth, strict=True)) if a != b}
        assert changed <= masked
        replaced += len(changed)
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(judged.tokens))])
        with torch.no_grad():
            expected = judge.eval()(ids).logits[0].sigmoid().tolist()
        torch.testing.assert_close(list(judged.replaced), expected)
    assert replaced > 0  # a generator that has learned nothing hardly ever draws the truth


def test_a_run_that_is_looked_at_is_the_run_that_is_not(heldout, tokenizer):
    model = ConvBertForMaskedLM(sizes(tokenizer))
    probe = Probe(heldout, tokenizer)
    before = torch.get_rng_state()
    first, second = probe(objective_of(model=model)), probe(objective_of(model=model))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)
