"""Laws of the weights' diagnostics, and their equality with an independent implementation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vae_engine.diagnostics import (
    effective_samples,
    log_mean_stderr,
    most_trusted_k,
    pareto_k,
    pareto_k_of_largest,
    tail_samples,
)

TAILS = {
    "normal": lambda g, s: g.normal(size=s) * g.uniform(0.01, 5),
    "pareto": lambda g, s: np.log1p(g.pareto(g.uniform(0.3, 5), size=s)),
    "bounded": lambda g, s: np.log(g.uniform(size=s)),
    "heavier than pareto": lambda g, s: g.standard_t(3, size=s) * g.uniform(0.1, 3),
    "shifted": lambda g, s: g.normal(size=s) * 3 - 1e3,
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("samples", [25, 200, 1000, 2025])
def test_the_shape_is_that_of_arviz_on_fifty_vectors_of_weights(
    tail: str, samples: int
) -> None:
    """Five tails times four sizes times fifty: a thousand vectors of weights."""
    from arviz_stats.base import array_stats  # type: ignore[attr-defined]  # half a second

    numbers = np.random.default_rng(samples)
    log_w = np.stack([TAILS[tail](numbers, samples) for _ in range(50)])

    _, expected = array_stats.psislw(-log_w, axis=-1)
    np.testing.assert_allclose(pareto_k(torch.tensor(log_w.T)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [-0.5, 0.2, 0.7, 1.5])
def test_the_shape_of_a_pareto_distribution_is_recovered(shape: float) -> None:
    """Standard error (1 + k) / sqrt(tail) (Smith 1987), over 64 rows; z = 3.3; prior's pull."""
    u = torch.rand(10_000, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    log_w = torch.log1p((u.pow(-shape) - 1) / shape)

    tolerance = 3.3 * (1 + shape) / math.sqrt(tail_samples(10_000) * 64)
    pull = 10 * abs(shape - 0.5) / (tail_samples(10_000) + 10)
    assert abs(pareto_k(log_w).mean().item() - shape) < tolerance + pull


def test_equal_weights_have_no_tail_and_do_not_raise() -> None:
    equal = torch.zeros(1000, 1)
    rounded = torch.randn(1000, 1, generator=torch.Generator().manual_seed(1)) * 1e-5 - 100

    assert pareto_k(torch.cat([equal, rounded], 1)).tolist() == [-math.inf, -math.inf]
    torch.testing.assert_close(effective_samples(equal), torch.tensor([1e3]).double())
    torch.testing.assert_close(
        log_mean_stderr(effective_samples(equal), 1000), torch.zeros(1).double()
    )


def test_a_row_that_no_draw_explains_is_not_trusted() -> None:
    log_w = torch.full((1000, 1), -math.inf)

    assert pareto_k(log_w).tolist() == [math.inf]
    assert effective_samples(log_w).tolist() == [0]
    assert log_mean_stderr(effective_samples(log_w), 1000).tolist() == [math.inf]


def test_a_row_that_few_draws_explain_is_not_trusted() -> None:
    log_w = torch.full((1000, 1), -math.inf)
    log_w[:3, 0] = torch.tensor([0.0, -3.0, -4.0])

    assert pareto_k(log_w).tolist() == [math.inf]


def test_ties_at_the_cutoff_do_not_break_the_fit() -> None:
    log_w = torch.full((1000, 1), -1.0)
    log_w[:5, 0] = torch.arange(5.0)

    assert pareto_k(log_w).isfinite().all()


def test_what_is_not_a_number_stays_visible() -> None:
    log_w = torch.zeros(1000, 2)
    log_w[3, 0] = math.nan

    assert pareto_k(log_w)[0].isnan()
    assert effective_samples(log_w)[0].isnan()


def test_too_few_samples_have_a_shape_that_is_not_known() -> None:
    assert pareto_k(torch.randn(24, 3)).isnan().all()
    assert pareto_k(torch.randn(25, 3)).isfinite().all()


def test_fifty_effective_samples_are_fifty_equal_weights() -> None:
    log_w = torch.full((400, 1), -math.inf)
    log_w[:50] = 7.0

    torch.testing.assert_close(effective_samples(log_w), torch.tensor([50.0]).double())


@given(st.integers(0, 2**16), st.floats(-1e3, 1e3))
def test_a_factor_on_all_weights_changes_nothing(seed: int, shift: float) -> None:
    log_w = torch.randn(300, 2, generator=torch.Generator().manual_seed(seed)).double() * 2

    torch.testing.assert_close(pareto_k(log_w + shift), pareto_k(log_w))
    torch.testing.assert_close(effective_samples(log_w + shift), effective_samples(log_w))


def test_the_shape_needs_the_largest_weights_only() -> None:
    log_w = torch.randn(5000, 3, generator=torch.Generator().manual_seed(1))
    largest = log_w.topk(tail_samples(5000) + 40, 0).values

    torch.testing.assert_close(
        pareto_k_of_largest(largest, 5000), pareto_k(log_w), rtol=0, atol=0
    )


def test_the_standard_error_is_the_spread_of_repeated_estimates() -> None:
    """2,000 repetitions know a standard deviation to 1/sqrt(4000); z = 3.3 makes 5.2 %.

    The delta method adds var(w) / (2 mean^2 S) = 0.2 % here, and the mean of estimated
    standard errors lies a little below; 7 % covers all three.
    """
    log_w = torch.randn(400, 2000, generator=torch.Generator().manual_seed(1)).double() * 0.8
    estimates = log_w.logsumexp(0) - math.log(400)

    stderr = log_mean_stderr(effective_samples(log_w), 400)
    assert stderr.mean().item() == pytest.approx(estimates.std().item(), rel=0.07)


def test_one_sample_has_an_error_that_is_not_known() -> None:
    assert log_mean_stderr(effective_samples(torch.zeros(1, 2)), 1).isnan().all()


def test_the_limit_on_k_rises_with_the_samples_up_to_seven_tenths() -> None:
    assert most_trusted_k(100) == pytest.approx(0.5)
    assert most_trusted_k(5000) == 0.7
    assert most_trusted_k(1) == -math.inf


def test_the_standard_error_of_two_weights_by_hand() -> None:
    """Weights 1 and 3: mean 2, variance of a weight 2, of their mean 1; 1 / 2 of the mean."""
    log_w = torch.tensor([[1.0], [3.0]]).double().log()

    torch.testing.assert_close(
        log_mean_stderr(effective_samples(log_w), 2), torch.tensor([0.5]).double()
    )
