import numpy as np
import pytest
import torch

from convbert.pretraining.masking import uniform
from convbert.pretraining.objectives import sample_tokens

WORDS = 40


@pytest.fixture
def logits():
    return 2 * torch.randn(1, WORDS)


def evenly(count: int) -> torch.Tensor:
    """The middles of `count` equal parts of [0, 1]: a token of probability p is drawn p × count times, within one."""
    return (torch.arange(count) + 0.5) / count


def draw_many(logits, uniforms):
    """Counts of the tokens that one row draws at all the numbers given."""
    drawn = sample_tokens(logits.expand(len(uniforms), -1), uniforms)
    return drawn.bincount(minlength=WORDS)


def test_each_token_gets_its_share_of_the_numbers(logits):
    counts = draw_many(logits, evenly(5000))
    assert (counts - 5000 * logits[0].double().softmax(0)).abs().max() <= 1.01


def test_hashed_numbers_draw_from_the_softmax(logits):
    """Chi-square with the numbers of the collator; 72 is its 99.9th percentile at 39 degrees of freedom."""
    draws, positions = np.arange(200, dtype=np.uint64), np.arange(100, dtype=np.uint64)
    numbers = uniform(0, 3, draws[:, None], positions)
    counts = draw_many(logits, torch.from_numpy(numbers).flatten().float())
    expected = 20_000 * logits[0].double().softmax(0)
    assert ((counts - expected) ** 2 / expected).sum() < 72


def test_the_ends_of_the_table_hold_no_impossible_token():
    logits = torch.tensor([[-torch.inf, 1.0, -torch.inf, 2.0, -torch.inf]]).expand(3, -1)
    assert sample_tokens(logits, torch.tensor([0.0, 1.0, 1 - 2**-24])).tolist() == [1, 3, 3]


def test_a_vocabulary_of_full_size_is_reached_to_its_end():
    flat = torch.zeros(1, 30522)
    drawn = sample_tokens(flat.expand(3, -1), torch.tensor([0.0, 0.5, 1.0]))
    assert drawn.tolist() == [0, pytest.approx(15261, abs=1), pytest.approx(30521, abs=1)]


def test_rows_do_not_know_each_other():
    logits, numbers = torch.randn(6, WORDS), torch.rand(6)
    together = sample_tokens(logits, numbers)
    alone = [sample_tokens(logits[row : row + 1], numbers[row : row + 1]) for row in range(6)]
    assert torch.equal(together, torch.cat(alone))
    assert sample_tokens(logits[:0], numbers[:0]).shape == (0,)


def test_low_precision_draws_what_its_values_say_in_fp32():
    logits, numbers = torch.randn(50, WORDS).bfloat16(), torch.rand(50)
    assert torch.equal(sample_tokens(logits, numbers), sample_tokens(logits.float(), numbers))


def test_logits_are_left_alone_and_get_no_gradient():
    logits = torch.randn(3, WORDS, requires_grad=True)
    before = logits.detach().clone()
    drawn = sample_tokens(logits, torch.rand(3))
    assert not drawn.requires_grad
    assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_draw_a_token_of_the_table(bad):
    drawn = sample_tokens(torch.full((2, WORDS), bad), torch.tensor([0.3, 1.0]))
    assert ((drawn >= 0) & (drawn < WORDS)).all()
