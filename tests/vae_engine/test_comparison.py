"""Paired differences: who is better, how sure, and what an impossible row does."""

import math
import re

import pytest
import torch
from scipy import stats

from tests.exact import draws
from vae_engine.comparison import paired_difference, student_quantile

LOST = -math.inf


def test_a_constant_gain_is_seen_through_rows_that_differ_a_hundred_times_more() -> None:
    rows = 100 * draws(500)
    gain = 0.3 + 0.1 * draws(500, seed=1)
    found = paired_difference(rows + gain, rows)

    assert found.difference_nats == pytest.approx(gain.mean().item())
    assert found.stderr == pytest.approx(gain.std().item() / math.sqrt(500))
    assert found.first_is_better
    assert not paired_difference(rows, rows + gain).first_is_better
    assert paired_difference(rows, rows + gain).high_nats < 0


def test_the_same_model_is_not_better() -> None:
    found = paired_difference(draws(500), draws(500))

    assert found.difference_nats == 0
    assert not found.first_is_better


@pytest.mark.parametrize("rows", [6, 30, 300])
def test_the_interval_holds_the_truth_as_often_as_it_says(rows: int) -> None:
    """2,000 repetitions; a share of 0.95 has a standard error of 0.005, z = 3.3."""
    differences = 0.2 + draws(2000, rows)
    intervals = [paired_difference(d, torch.zeros(rows).double()) for d in differences]

    held = sum(found.low_nats < 0.2 < found.high_nats for found in intervals) / 2000
    assert held == pytest.approx(0.95, abs=0.016)


@pytest.mark.parametrize("probability", [0.8, 0.975, 0.995])
@pytest.mark.parametrize("freedom", [4, 9, 100])
def test_the_quantile_is_that_of_students_t(probability: float, freedom: int) -> None:
    expected = stats.t.ppf(probability, freedom)

    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=0.01)


def test_a_row_impossible_under_the_first_decides_against_it() -> None:
    found = paired_difference(torch.tensor([5.0] * 9 + [LOST]), torch.zeros(10))

    assert (found.difference_nats, found.low_nats, found.high_nats) == (LOST, LOST, LOST)
    assert not found.first_is_better
    assert (found.impossible_under_first, found.impossible_under_second) == (1, 0)
    assert found.shared_difference_nats == 5


def test_a_row_impossible_under_the_second_decides_for_the_first() -> None:
    found = paired_difference(torch.zeros(10), torch.tensor([5.0] * 9 + [LOST]))

    assert found.difference_nats == math.inf
    assert found.first_is_better
    assert found.impossible_under_second == 1


def test_two_models_that_each_fail_somewhere_cannot_be_ranked() -> None:
    found = paired_difference(
        torch.tensor([9.0] * 8 + [LOST, 0]), torch.tensor([0.0] * 8 + [0, LOST])
    )

    assert math.isnan(found.difference_nats)
    assert (found.low_nats, found.high_nats) == (-math.inf, math.inf)
    assert not found.first_is_better
    assert (found.shared_difference_nats, found.rows) == (9, 10)


def test_a_row_impossible_under_both_is_a_tie_and_counts() -> None:
    found = paired_difference(
        torch.tensor([2.0] * 9 + [LOST]), torch.tensor([0.0] * 9 + [LOST])
    )

    assert found.difference_nats == pytest.approx(1.8)
    assert found.shared_difference_nats == 2
    assert (found.rows, found.impossible_under_both) == (10, 1)


def test_few_rows_decide_nothing() -> None:
    found = paired_difference(torch.full((4,), 9.0), torch.zeros(4))

    assert (found.low_nats, found.high_nats) == (-math.inf, math.inf)
    assert not found.first_is_better


def test_what_is_no_number_is_refused() -> None:
    message = (
        "log p(x) of 2 of 3 rows is nan or inf under the second model; such a model cannot be "
        "compared: look for inputs outside its training range"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        paired_difference(torch.zeros(3), torch.tensor([0.0, math.nan, math.inf]))


def test_no_rows_and_no_confidence_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        paired_difference(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match=r"confidence is 1\.0; it must be between 0 and 1"):
        paired_difference(torch.zeros(3), torch.zeros(3), confidence=1.0)
