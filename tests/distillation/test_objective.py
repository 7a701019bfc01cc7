"""The losses, against the formulas written out."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

import tiny
from convbert import ConvBertForSequenceClassification, ConvBertForTokenClassification, ConvBertModel
from convbert.distillation.objective import SentenceObjective, TaskObjective


def batch(lengths=(7, 3, 5)) -> dict[str, torch.Tensor]:
    mask = torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths])
    return {"input_ids": torch.randint(5, len(tiny.WORDS), mask.shape) * mask, "attention_mask": mask}


def test_sentence_loss_is_cosine_and_similarities():
    model = ConvBertModel(tiny.config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
    texts, targets = batch(), torch.nn.functional.normalize(torch.randn(3, 32), dim=1)
    found = SentenceObjective(model, similarity_weight=5.0)(**texts, targets=targets.half())
    with torch.no_grad():
        rows = [
            model(input_ids=ids[None, : int(mask.sum())]).last_hidden_state[0].mean(0)
            for ids, mask in zip(texts["input_ids"], texts["attention_mask"], strict=True)
        ]
    vectors, wanted = torch.stack(rows), targets.half().float()
    cosines = cosine_similarity(vectors, wanted)
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    errors = (unit @ unit.T - wanted @ wanted.T) ** 2
    torch.testing.assert_close(found["loss"], (1 - cosines).mean() + 5 * errors.mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        found["cosine"], torch.stack((cosines.sum(), torch.tensor(3.0))), rtol=1e-5, atol=1e-6
    )
    found["loss"].backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "pooler" not in name)


def kl(theirs: np.ndarray, own: np.ndarray) -> np.ndarray:
    return (theirs * (np.log(theirs) - np.log(own))).sum(-1)


def softmax(logits: torch.Tensor) -> np.ndarray:
    powers = np.exp(logits.double().numpy())
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    "problem", ["single_label_classification", "multi_label_classification", "regression"]
)
def test_task_loss(problem):
    config = tiny.config(
        num_labels=1 if problem == "regression" else 3, problem_type=problem, initializer_range=0.5
    )
    teacher, student = (ConvBertForSequenceClassification(config).eval() for _ in range(2))
    texts = batch()
    found = TaskObjective(student, teacher, temperature=2.0, hidden_weight=0.0, layers=[])(**texts)
    with torch.no_grad():
        own, theirs = student(**texts).logits, teacher(**texts).logits
    if problem == "regression":
        wanted = float(((own - theirs) ** 2).mean() / np.var(theirs.numpy()))
    elif problem == "single_label_classification":
        wanted = float(4 * kl(softmax(theirs / 2), softmax(own / 2)).mean())
    else:
        yes = [(torch.sigmoid(logits / 2)).double().numpy() for logits in (theirs, own)]
        pairs = [np.stack((p, 1 - p), -1) for p in yes]
        wanted = float(4 * kl(*pairs).sum(-1).mean())
    assert found["loss"].item() == pytest.approx(wanted, rel=1e-4)
    if problem == "regression":
        assert "agreement" not in found
        return
    several = problem == "multi_label_classification"
    answers = [logits > 0 if several else logits.argmax(-1, keepdim=True) for logits in (own, theirs)]
    assert found["agreement"].tolist() == [(answers[0] == answers[1]).all(-1).sum().item(), 3]


def test_tags_of_padding_do_not_count_and_states_do():
    config = tiny.config(num_labels=3, initializer_range=0.5)
    teacher, student = (ConvBertForTokenClassification(config).eval() for _ in range(2))
    texts = batch()
    objective = TaskObjective(student, teacher, temperature=1.0, hidden_weight=2.0, layers=[0, 1])
    loss = objective(**texts)["loss"].item()
    soft, errors = [], []
    with torch.no_grad():
        for ids, mask in zip(texts["input_ids"], texts["attention_mask"], strict=True):
            own, theirs = (
                model(input_ids=ids[None, : int(mask.sum())], output_hidden_states=True)
                for model in (student, teacher)
            )
            soft += list(kl(softmax(theirs.logits[0]), softmax(own.logits[0])))
            pairs = zip(own.hidden_states[1:], theirs.hidden_states[1:], strict=True)
            errors.append(torch.stack([(a - b)[0].square().mean(-1) for a, b in pairs]))
    wanted = np.mean(soft) + 2 * torch.cat(errors, dim=1).mean().item()
    assert loss == pytest.approx(wanted, rel=1e-4)
    assert not any(name.startswith("_teacher") for name in objective.state_dict())
