"""Appendix D against the exact answer, inside its limit, and its refusal beyond it."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from tests.exact import LinearGaussian, draws
from vae_engine.density import (
    DensityPlan,
    TooManyLatentsError,
    TruncatedNormal,
    estimate_by_density,
)
from vae_engine.marginal import estimate_log_marginal

close = torch.testing.assert_close
KEYS = torch.arange(200)


def plan(seed: int = 0, **more: Any) -> DensityPlan:
    settings: dict[str, Any] = {
        "chains": 40,
        "states": 5,
        "burn_in": 20,
        "leapfrog_steps": 3,
        "rows_per_chunk": 200,
    }
    return DensityPlan(seed=seed, **(settings | more))


@pytest.mark.parametrize(("latents", "seeds"), [(1, 4), (2, 20), (4, 4)])
def test_estimates_are_within_their_errors_and_intervals_hold_the_truth(
    latents: int, seeds: int
) -> None:
    """200 rows: each seed's mean within 3 of its errors; 95 % intervals hold 90 to 99 %.

    The error of a sum over rows is the root of the summed squares. 20 chains judge, and
    Student's t with 19 degrees of freedom is within 1.96 in 93.5 %.
    """
    model = LinearGaussian(features=5, latents=latents, off=0.5)
    x = model.sample(200)
    truth = model.log_marginal(x)
    held = []
    for seed in range(seeds):
        found = estimate_by_density(model, x, KEYS, plan(seed))
        error = found.log_marginal_nats - truth
        assert abs(error.sum().item()) < 3 * found.stderr.square().sum().sqrt().item()
        held.append((error.abs() < 1.96 * found.stderr).double().mean().item())

    assert 0.90 < sum(held) / seeds < 0.99


def test_it_errs_upwards_where_importance_sampling_errs_downwards() -> None:
    """Few chains, and a q that is far off: the truth lies between the two means."""
    model = LinearGaussian(features=5, latents=2, off=1.5)
    x = model.sample(200)
    truth = model.log_marginal(x).mean()

    above = estimate_by_density(model, x, KEYS, plan(chains=12, states=1))
    below = estimate_log_marginal(model, x, KEYS, samples=6, seed=0)
    assert below.log_marginal_nats.mean() < truth < above.log_marginal_nats.mean()


def test_the_posterior_is_reached_from_a_q_that_is_off() -> None:
    """q is three of its standard deviations away; 95 % of new samples lie in the ellipsoid."""
    model = LinearGaussian(features=5, latents=2, off=3.0)
    x = model.sample(50)
    found = estimate_by_density(model, x, KEYS[:50], plan(burn_in=60))

    assert found.inside.mean().item() == pytest.approx(0.95, abs=0.02)
    assert found.acceptance.mean().item() == pytest.approx(0.9, abs=0.05)
    error = found.log_marginal_nats - model.log_marginal(x)
    assert abs(error.sum()) < 3.3 * found.stderr.square().sum().sqrt()


def test_order_and_chunks_of_rows_change_nothing() -> None:
    model = LinearGaussian(features=5, latents=2, off=0.5)
    x, order = model.sample(7), torch.tensor([4, 0, 6, 3, 1, 5, 2])
    whole = estimate_by_density(model, x, KEYS[:7], plan())
    parts = estimate_by_density(model, x[order], KEYS[order], plan(rows_per_chunk=3))

    for one, other in zip(whole, parts, strict=True):
        close(one[order], other)


def correlated(*shape: int) -> Tensor:
    mixing = torch.tensor([[1.0, 0.0], [0.9, 0.3]]).double()
    return draws(*shape, 2) @ mixing.T + torch.tensor([3.0, -1.0]).double()


def test_a_fitted_density_is_the_normal_inside_and_nothing_outside() -> None:
    z = correlated(5000, 1)
    fitted = TruncatedNormal.fitted(z)
    normal = MultivariateNormal(z[:, 0].mean(0), z[:, 0].T.cov())

    ratio = fitted.log_prob(z)[:, 0] - normal.log_prob(z[:, 0])
    inside = ratio > -math.inf
    held = 1 - math.exp(
        -fitted.radius_squared / 2
    )  # of chi-squared with two degrees of freedom
    assert inside.double().mean().item() == pytest.approx(held, abs=0.01)
    close(ratio[inside], torch.full_like(ratio[inside], -math.log(held)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("latents", [1, 2, 3, 4])
def test_a_fitted_density_integrates_to_one(latents: int) -> None:
    """Importance sampling from a wider normal: 40,000 weights of spread < 3, z = 3.3."""
    fitted = TruncatedNormal.fitted(draws(500, 1, latents))
    z = 1.3 * draws(40_000, 1, latents, seed=1)
    log_base = -0.5 * ((z / 1.3).square() + math.log(2 * math.pi)).sum(-1) - latents * math.log(
        1.3
    )

    weights = (fitted.log_prob(z) - log_base).exp()
    assert weights.std() < 3
    assert abs(weights.mean().item() - 1) < 3.3 * weights.std().item() / 200


def test_more_than_four_latents_are_refused_with_a_reason() -> None:
    model = LinearGaussian(features=8, latents=5)
    message = (
        "the model has 5 latents, and appendix D's estimator fits a density to posterior "
        "samples, which is reliable for 4 at most: in more dimensions the fit misses the "
        "posterior and the estimate runs high. Use importance sampling or annealing."
    )

    with pytest.raises(TooManyLatentsError, match=re.escape(message)):
        estimate_by_density(model, model.sample(2), KEYS[:2], plan())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"chains": 7}, "chains is 7; half of them fit, half judge: make it even"),
        ({"chains": 2}, "chains is 2; it must be 4 or more"),
        ({"acceptance": 0.0}, "acceptance is 0.0; it must be between 0 and 1"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(
    setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(**setting)
