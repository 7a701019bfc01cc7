"""The linear head, and that it is the same in the form that is stored."""

import copy

import pytest
import torch

import tiny
from convbert import ConvBertForSequenceClassification, InputError
from convbert.finetuning.linear_head import fold_linear_head, use_linear_head
from convbert.model.heads.sequence_classification import ClassificationHead


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
@pytest.mark.parametrize("labels", [1, 3, 16])
def test_folding_changes_nothing(activation, labels):
    model = (
        ConvBertForSequenceClassification(tiny.config(num_labels=labels, hidden_act=activation))
        .double()
        .eval()
    )
    use_linear_head(model)
    model.classifier = model.classifier.double().requires_grad_(False)
    model.classifier.out_proj.bias.normal_()
    states = torch.randn(9, 32, dtype=torch.float64)
    expected = states @ model.classifier.out_proj.weight.T + model.classifier.out_proj.bias
    fold_linear_head(model)
    assert isinstance(model.classifier, ClassificationHead)
    torch.testing.assert_close(model.classifier(states), expected, atol=1e-12, rtol=0)


def test_folded_weights_have_the_names_that_transformers_knows():
    model = ConvBertForSequenceClassification(tiny.config())
    names = set(copy.deepcopy(model).state_dict())
    use_linear_head(model)
    assert set(model.state_dict()) != names
    fold_linear_head(model)
    assert set(model.state_dict()) == names


@pytest.mark.parametrize("changes", [{"hidden_act": "tanh"}, {"num_labels": 17}], ids=str)
def test_a_head_that_cannot_be_stored_is_refused(changes):
    model = ConvBertForSequenceClassification(tiny.config(**changes))
    with pytest.raises(InputError, match="head 'linear' cannot be stored"):
        use_linear_head(model)
