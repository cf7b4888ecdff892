"""Every estimator against Gauss-Hermite quadrature, on a Bernoulli decoder of one and two latents.

A model that is trained, not made up: its posterior is neither Gaussian nor its encoder exact.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from vae_engine.adaptive import EffortPlan, estimate_adaptively
from vae_engine.annealing import AnnealingPlan, sandwich
from vae_engine.config import Column, ModelConfig, TrainingPlan
from vae_engine.density import DensityPlan, estimate_by_density
from vae_engine.marginal import estimate_log_marginal
from vae_engine.model import VAE
from vae_engine.training import fit, minibatches, new_state

KEYS = torch.arange(60)


class Case(NamedTuple):
    model: VAE
    x: Tensor
    z: Tensor
    exact: Tensor


def log_marginal_by_quadrature(model: VAE, x: Tensor, points: int = 100) -> Tensor:
    """log of the integral of N(z; 0, I) p(x | z), by Gauss-Hermite on a grid of z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    grid = torch.cartesian_prod(*[torch.tensor(nodes)] * model.latents)
    mass = torch.cartesian_prod(*[torch.tensor(weights / weights.sum())] * model.latents)
    log_mass = mass.view(-1, model.latents).log().sum(-1, keepdim=True)
    z = grid.view(-1, 1, model.latents).expand(-1, len(x), -1)
    with torch.inference_mode():
        return (model.log_likelihood(x, z) + log_mass).logsumexp(0)


@pytest.fixture(scope="module", params=[1, 2])
def case(request: pytest.FixtureRequest) -> Case:
    """Twelve pixels that go on one after the other along a hidden angle."""
    generator = torch.Generator().manual_seed(0)
    angle = 6 * torch.rand(1000, 1, generator=generator)
    chance = torch.sigmoid(2 * torch.cos(angle - torch.arange(12) / 2))
    pixels = Column(name="image", likelihood="bernoulli", width=12, image=(3, 4, 1))
    config = ModelConfig(columns=(pixels,), latents=request.param, hidden=(16,))
    plan = TrainingPlan(seed=0, steps=400, learning_rate=5e-3)
    state = new_state(config, plan)
    for _ in fit(state, minibatches(torch.bernoulli(chance, generator=generator), plan)):
        pass
    model = state.model.double()
    x, z = model.dream(60, generator)
    return Case(model, x.double(), z, log_marginal_by_quadrature(model, x.double()))


def test_quadrature_has_converged(case: Case) -> None:
    finer = log_marginal_by_quadrature(case.model, case.x, 140)

    torch.testing.assert_close(finer, case.exact, rtol=0, atol=1e-5)


def test_importance_sampling_agrees_within_a_hundredth_of_a_nat(case: Case) -> None:
    """K = 5,000: the mean over rows within 0.01, and rows within their errors (z = 4 of 60).

    With one latent each row is within 0.01; two latents have errors up to 0.015.
    """
    found = estimate_log_marginal(case.model, case.x, KEYS, samples=5000, seed=0)

    error = found.log_marginal_nats - case.exact
    assert abs(error.mean()) < 0.01
    assert (error.abs() < 4 * found.stderr + 1e-3).all()
    assert error.abs().max() < (0.01 if case.model.latents == 1 else 0.03)


def test_adaptive_sampling_agrees_within_the_tolerance_that_was_asked_for(case: Case) -> None:
    plan = EffortPlan(seed=0, tolerance_nats=0.02)
    found = estimate_adaptively(case.model, case.x, KEYS, plan)

    error = found.log_marginal_nats - case.exact
    assert found.met.double().mean() > 0.9
    assert (error[found.met].abs() < 4 * 0.02).all()


def test_appendix_d_agrees_within_its_errors(case: Case) -> None:
    """Means over rows, z = 3.3; an independent check, for it never asks for log q."""
    found = estimate_by_density(case.model, case.x, KEYS, DensityPlan(seed=0))

    error = found.log_marginal_nats - case.exact
    assert abs(error.sum()) < 3.3 * found.stderr.square().sum().sqrt()
    assert found.stderr.mean() < 0.1


def test_annealing_encloses_the_truth(case: Case) -> None:
    """Means over 60 simulated rows, each side with 3.3 of its errors; less than 0.1 apart."""
    plan = AnnealingPlan(seed=0, temperatures=40, tuning_temperatures=10, leapfrog_steps=2)
    found = sandwich(case.model, case.x, case.z, KEYS, plan)

    below, above = found.lower_nats - case.exact, found.upper_nats - case.exact
    assert below.mean() < 3.3 * below.std() / 60**0.5
    assert above.mean() > -3.3 * above.std() / 60**0.5
    assert found.width_nats.mean() < 0.1
