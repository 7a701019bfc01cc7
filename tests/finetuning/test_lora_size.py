from __future__ import annotations

import pytest

import tiny
from convbert import ConvBertForSequenceClassification, InputError
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.warm_start import add_adapters


def test_a_rank_above_the_model_s_width_is_refused_before_memory_is_taken():
    model = ConvBertForSequenceClassification(tiny.config())
    with pytest.raises(InputError, match="lora_rank"):
        add_adapters(model, FinetuningPlan(lora_rank=10**9))
