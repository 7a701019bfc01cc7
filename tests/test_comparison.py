"""The contender without convolution is ELECTRA's encoder, and the page says what the cells gave."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ElectraConfig, ElectraModel

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import comparison
import comparison_page
from comparison_page import Cell, Result, Settings

import tiny
from convbert import ConvBertModel
from convbert.layers import MixedAttention


@pytest.fixture(scope="module")
def pair():
    config = tiny.config()
    with comparison.attention_only():
        ours = ConvBertModel(config).eval()
    theirs = ElectraModel(
        ElectraConfig(
            vocab_size=config.vocab_size,
            embedding_size=config.embedding_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_position_embeddings,
            attn_implementation="eager",
        )
    ).eval()
    return ours, theirs


def test_the_encoder_is_electras(pair):
    ours, theirs = pair
    assert set(ours.state_dict()) == set(theirs.state_dict()) - {"embeddings.position_ids"}
    ours.load_state_dict(theirs.state_dict())
    ids, mask = torch.randint(5, 18, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask).last_hidden_state * mask[..., None]
        torch.testing.assert_close(
            ours(ids, attention_mask=mask).last_hidden_state, expected, atol=1e-5, rtol=1e-5
        )


def test_its_operations_are_counted(pair):
    _, theirs = pair
    with FlopCounterMode(display=False) as counter:
        theirs(torch.randint(5, 18, (1, 9)))
    assert sum(comparison.attention_only_flops(tiny.config(), 9).values()) == counter.get_total_flops()


def test_outside_the_block_encoders_are_convberts():
    assert type(ConvBertModel(tiny.config()).encoder.layer[0].attention.self) is MixedAttention


def result(contender: str, seed: int, score: float, budget: str = "tokens") -> Result:
    metrics = {
        "steps": 100,
        "tokens_seen": 1_000_000,
        "minutes": 2.0,
        "heldout_masked_accuracy": score / 2,
        "heldout_replaced_auc": score / 4,
        "torch": "2",
        "transformers": "5",
        "device": "cpu",
    }
    return Result(Cell(contender, budget, seed), {}, metrics, {"cola": score, "sst2": score}, [])


SETTINGS = Settings("corpus", "heldout", "tasks", ("cola", "sst2"), "tiny", 1_000_000, {})


@pytest.mark.parametrize(
    ("theirs", "word"),
    [
        ((0.50, 0.52, 0.51), "better"),
        ((0.80, 0.81, 0.79), "worse"),
        ((0.4, 0.9, 0.5), "no clear difference"),
        ((0.5,), "on one seed, which says little"),
    ],
)
@pytest.mark.parametrize("pair", comparison_page.PAIRS, ids=" ".join)
def test_the_verdict_is_as_the_scores_are(theirs, word, pair):
    results = [
        result(name, seed, score)
        for name, scores in zip(pair, ((0.60, 0.61, 0.62), theirs), strict=True)
        for seed, score in enumerate(scores)
    ]
    lines = comparison_page.verdict(results).split("\n\n")
    assert len(lines) == (2 if comparison_page.PAIRS[pair] else 1)
    for line in lines:
        assert line.strip().startswith(f"{pair[0]} against {pair[1]}, ")
        assert word in line
    shared = statistics.mean(a - b for a, b in zip((0.60, 0.61, 0.62), theirs, strict=False))
    assert f"mean of the tasks: {shared:+.3f}" in lines[0]


def test_the_page_has_a_row_for_each_contender(tmp_path):
    results = [result(name, seed, 0.5) for name in ("electra", "convbert") for seed in range(2)]
    text = comparison_page.render(SETTINGS, results, "width 8", "picture.png")
    assert "| convbert | 2 | 100 | 1.0 | 0.250 ± 0.000 | 0.125 ± 0.000 | 0.500 ± 0.000 |" in text
    assert text.index("| convbert |") < text.index("| electra |")
    comparison_page.draw(SETTINGS, results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
