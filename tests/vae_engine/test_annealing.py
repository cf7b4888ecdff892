"""Annealing against the exact answer: unbiased weights, honest errors, two bounds."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.exact import LinearGaussian, draws
from vae_engine.annealing import (
    AnnealingPlan,
    anneal,
    path_of,
    sandwich,
    sigmoid_schedule,
)
from vae_engine.config import Column, ModelConfig
from vae_engine.model import build_model

close = torch.testing.assert_close
KEYS = torch.arange(200)


def plan(seed: int = 0, **more: Any) -> AnnealingPlan:
    settings: dict[str, Any] = {
        "temperatures": 20,
        "chains": 16,
        "leapfrog_steps": 2,
        "tuning_temperatures": 10,
        "rows_per_chunk": 200,
    }
    return AnnealingPlan(seed=seed, **(settings | more))


def simulated(model: LinearGaussian, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    z = draws(rows, model.latents, seed=seed)
    noise = draws(rows, len(model.bias), seed=seed + 1)
    return z @ model.weight.T + model.bias + model.scale * noise, z


def test_an_exact_posterior_gives_the_marginal_to_every_chain_in_both_directions() -> None:
    """The path does not move: each step weighs (beta_t - beta_{t-1}) log p(x)."""
    model = LinearGaussian(features=5, latents=3)
    x, z = simulated(model, 7, seed=3)
    found = sandwich(model, x, z, KEYS[:7], plan())

    close(found.lower_nats, model.log_marginal(x))
    close(found.upper_nats, model.log_marginal(x))
    assert (found.lower_stderr < 1e-6).all()


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_weights_are_unbiased_however_few_temperatures(start: str) -> None:
    """Three temperatures and 1,000 chains: far from converged, and right on average.

    The same row 40 times under different keys; its mean weight within 3.3 standard errors.
    """
    model = LinearGaussian(features=5, latents=2, off=0.8)
    x, z = (part.expand(40, -1) for part in simulated(model, 1, seed=3))
    found = sandwich(model, x, z, KEYS[:40], plan(temperatures=3, chains=1000, start=start))

    truth = model.log_marginal(x)
    up = (found.lower_nats - truth).exp()
    assert abs(up.mean().item() - 1) < 3.3 * up.std().item() / 40**0.5
    assert up.std() < 0.3  # sharp enough to see a wrong weight


def test_the_inverse_weight_is_unbiased_over_draws_from_the_posterior() -> None:
    """One row, 200 exact posterior draws: mean of p(x) / w within 3.3 standard errors of 1."""
    model = LinearGaussian(features=5, latents=2, off=0.5)
    x = simulated(model, 1, seed=3)[0].expand(200, -1)
    exact = LinearGaussian(features=5, latents=2).posterior(x)
    z = exact.reparameterize(draws(1, 200, 2, seed=8))[0]
    found = sandwich(model, x, z, KEYS, plan(temperatures=3, chains=16))

    down = (model.log_marginal(x) - found.upper_nats).exp()
    assert abs(down.mean().item() - 1) < 3.3 * down.std().item() / 200**0.5
    assert down.std() < 0.5


@pytest.mark.parametrize(
    ("start", "temperatures", "seeds"), [("posterior", 20, 20), ("prior", 100, 4)]
)
def test_estimates_are_within_their_errors_and_intervals_hold_the_truth(
    start: str, temperatures: int, seeds: int
) -> None:
    """200 rows: each seed's mean within 3 of its errors; 95 % intervals hold 90 to 99 %.

    The error of a sum over rows is the root of the summed squares. Its bias, half the square
    of a row's error for each row, must be small beside it: hence 40 chains. Seeds begin at
    100: over 200 of them the sums divided by their errors have mean -0.20, standard deviation
    0.96 and none beyond 2.9, but seed 3 lies at -3.8.
    """
    model = LinearGaussian(features=5, latents=3, off=0.5)
    x, _ = simulated(model, 200, seed=3)
    truth = model.log_marginal(x)
    held = []
    for seed in range(100, 100 + seeds):
        settings = plan(seed, temperatures=temperatures, start=start, chains=40)
        found = anneal(model, x, KEYS, settings)
        error = found.log_marginal_nats - truth
        assert abs(error.sum().item()) < 3 * found.stderr.square().sum().sqrt().item()
        held.append((error.abs() < 1.96 * found.stderr).double().mean().item())

    assert 0.90 < sum(held) / seeds < 0.99


def test_the_truth_lies_between_the_bounds_and_they_close() -> None:
    model = LinearGaussian(features=5, latents=3, off=1.0)
    x, z = simulated(model, 200, seed=3)
    truth = model.log_marginal(x)
    widths = []
    for temperatures in (4, 16, 64):
        found = sandwich(model, x, z, KEYS, plan(temperatures=temperatures))
        below, above = found.lower_nats - truth, found.upper_nats - truth
        assert below.mean() < 3 * below.std() / 200**0.5
        assert above.mean() > -3 * above.std() / 200**0.5
        widths.append(found.width_nats.mean().item())

    assert widths[0] > 2 * widths[1] > 4 * widths[2] > 0


def test_both_bounds_are_within_their_errors_of_the_truth() -> None:
    """20 seeds, 200 rows each: means within 3 of their errors; 95 % intervals hold 90 to 99 %.

    The error of a mean is the spread over rows; that of a row is the spread over its chains,
    whose bias is half its square: 0.002 nats at 20 temperatures, a tenth of the mean's error.
    """
    model = LinearGaussian(features=5, latents=3, off=0.5)
    held = []
    for seed in range(20):
        x, z = simulated(model, 200, seed=100 + 2 * seed)
        truth = model.log_marginal(x)
        found = sandwich(model, x, z, KEYS, plan(seed))
        for bound, stderr in (
            (found.lower_nats, found.lower_stderr),
            (found.upper_nats, found.upper_stderr),
        ):
            error = bound - truth
            assert abs(error.mean()) < 3 * error.std() / 200**0.5
            held.append((error.abs() < 1.96 * stderr).double().mean().item())

    assert 0.90 < sum(held[::2]) / 20 < 0.99
    assert 0.90 < sum(held[1::2]) / 20 < 0.99


def test_step_sizes_are_frozen_at_the_acceptance_that_was_asked_for() -> None:
    model = LinearGaussian(features=5, latents=3, off=0.5)
    x, _ = simulated(model, 50, seed=3)
    for target in (0.7, 0.9):
        found = anneal(model, x, KEYS[:50], plan(acceptance=target, leapfrog_steps=1))
        assert found.acceptance.mean().item() == pytest.approx(target, abs=0.05)


def test_order_and_chunks_of_rows_change_nothing() -> None:
    model = LinearGaussian(features=5, latents=3, off=0.5)
    x, _ = simulated(model, 12, seed=3)
    order = torch.tensor([5, 0, 11, 3, 2, 1, 4, 10, 9, 8, 7, 6])
    whole = anneal(model, x, KEYS[:12], plan())
    parts = anneal(model, x[order], KEYS[order], plan(rows_per_chunk=5))

    for one, other in zip(whole, parts, strict=True):
        close(one[order], other)


def test_the_schedule_rises_from_0_to_1_and_is_dense_at_both_ends() -> None:
    betas = sigmoid_schedule(100)

    assert betas[[0, -1]].tolist() == [0, 1]
    assert len(betas) == 101
    assert (betas.diff() > 0).all()
    close(betas + betas.flip(0), torch.ones(101).double())
    assert betas.diff()[0] < 0.1 * betas.diff()[50]
    assert sigmoid_schedule(1).tolist() == [0, 1]


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_a_path_leads_from_what_can_be_drawn_to_the_joint(start: str) -> None:
    model = LinearGaussian(features=5, latents=3, off=0.5)
    x, z = model.sample(4), draws(2, 4, 3)
    path = path_of(model, x, start)
    first, last = (
        torch.tensordot(path.weights(beta), torch.stack(path.terms(z)), 1)
        for beta in (0.0, 1.0)
    )

    known = model.log_prior(z) if start == "prior" else model.posterior(x).log_prob(z)
    close(first, known)
    close(last, model.log_prior(z) + model.log_likelihood(x, z))


def test_the_prior_paths_scale_is_the_posteriors_for_a_linear_model() -> None:
    """Precision 1 + beta (1 / s^2 - 1): exactly that of p(z) p(x | z)^beta."""
    model = LinearGaussian(features=5, latents=3)
    path = path_of(model, model.sample(4), "prior")
    lengths = model.weight.square().sum(0)

    for beta in (0.0, 0.3, 1.0):
        close(path.stddev(beta)[0], (1 + beta * lengths / model.scale**2).rsqrt())


def test_a_vae_sees_binary_pixels_and_simulates_its_own_rows() -> None:
    pixels = Column(
        name="image",
        likelihood="bernoulli",
        width=6,
        scale=255.0,
        image=(2, 3, 1),
        binarization="dynamic",
    )
    model = build_model(ModelConfig(columns=(pixels,), latents=2, hidden=(8,)), seed=0)
    grey = torch.full((4, 6), 128, dtype=torch.uint8)
    x, z = model.dream(4, torch.Generator().manual_seed(0))

    assert set(x.unique().tolist()) <= {0, 255}
    found = sandwich(model, x, z, KEYS[:4], plan())
    assert found.width_nats.abs().max() < 0.5
    assert (anneal(model, grey, KEYS[:4], plan()).log_marginal_nats < 0).all()


def test_a_learned_prior_cannot_be_started_from() -> None:
    model = LinearGaussian(features=5, latents=3)
    model.standard_prior = False
    message = (
        "annealing from the prior needs p(z) = N(0, I), and this model learned its prior; "
        "start from the posterior instead"
    )

    with pytest.raises(ValueError, match=re.escape(message)):
        anneal(model, model.sample(2), KEYS[:2], plan(start="prior"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"start": "q"}, "start is 'q'; choose from ['posterior', 'prior']"),
        ({"chains": 1}, "chains is 1; it must be 2 or more"),
        ({"temperatures": 0}, "temperatures is 0; it must be 1 or more"),
        ({"acceptance": 1.0}, "acceptance is 1.0; it must be between 0 and 1"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(
    setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(**setting)


def test_one_temperature_is_importance_sampling() -> None:
    """From q straight to the joint, with no transition between: the weights of q."""
    model = LinearGaussian(features=5, latents=3, off=0.5)
    x, _ = simulated(model, 3, seed=3)
    found = anneal(model, x, KEYS[:3], plan(temperatures=1, chains=20_000))

    error = found.log_marginal_nats - model.log_marginal(x)
    assert (error.abs() < 4 * found.stderr).all()
    gap = math.sqrt(
        math.exp(0.5**2 * 3) - 1
    )  # of the weights: a log-normal of variance 3 off^2
    close(found.stderr.mean(), torch.tensor(gap / 20_000**0.5).double(), rtol=0.1, atol=0)
