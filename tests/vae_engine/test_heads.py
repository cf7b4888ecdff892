"""Posteriors that encoders make: laws that hold for every kind, whatever its family."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, distributions

from tests.vae_engine.rows import random_model
from vae_engine.config import Column, ModelConfig
from vae_engine.model import VAE
from vae_engine.objectives import elbo, elbo_sampled

close = torch.testing.assert_close
BASE = ModelConfig(
    columns=(Column(name="v", likelihood="gaussian", width=5),),
    latents=3,
    hidden=(16,),
    upper_hidden=(8,),
    transform_hidden=(8,),
    components=7,
)
KINDS = {
    "diagonal": BASE,
    "full": replace(BASE, posterior="full"),
    "iaf": replace(BASE, posterior="iaf"),
    "spline": replace(BASE, posterior="spline"),
    "two layers": replace(BASE, upper_latents=2),
}


def made(kind: str) -> VAE:
    return random_model(KINDS[kind]).double()


def x(rows: int = 6) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def noise_for(model: VAE, samples: int, rows: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(samples, rows, model.latents, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_log_density_is_the_volume_of_the_draw(kind: str) -> None:
    """log q(z) = log N(noise) - log |det dz / d noise|, the determinant by autograd."""
    model = made(kind)
    q, noise = model.posterior(x(1)), noise_for(model, 1, rows=1)

    jacobian = torch.autograd.functional.jacobian(
        lambda n: q.reparameterize(n[None, None])[0, 0], noise[0, 0]
    )
    base = distributions.Normal(0.0, 1.0).log_prob(noise).sum()
    expected = base - torch.linalg.slogdet(jacobian).logabsdet
    z, log_q = q.reparameterize_with_log_prob(noise)
    close(log_q[0, 0], expected)
    close(
        q.log_prob(z)[0, 0], expected, rtol=1e-5, atol=1e-5
    )  # a flow is inverted by bisection


@pytest.mark.parametrize("kind", KINDS)
def test_density_integrates_to_one(kind: str) -> None:
    """Importance integral over 40,000 draws of a wide Gaussian around the mean; its own standard
    error is measured, z = 4."""
    model = made(kind)
    q = model.posterior(x(1))
    wide = distributions.Normal(q.mean.detach(), 2 * q.stddev.detach() + 0.3)
    z = wide.mean + wide.stddev * noise_for(model, 40_000, rows=1)

    with torch.no_grad():
        ratio = (q.log_prob(z) - wide.log_prob(z).sum(-1)).exp()
    assert abs(ratio.mean().item() - 1) < 4 * ratio.std().item() / 200


@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_stddev_are_those_of_draws(kind: str) -> None:
    """Over 20,000 draws. A flow's are taken from 256 fixed ones: errors of 1/16 of a stddev, times
    z = 4 for 18 numbers; those of the upper layer are at the mean of the lower, so only the lower
    is compared."""
    model = random_model(KINDS[kind], spread=0.1).double()
    q = model.posterior(x())
    with torch.no_grad():
        z = q.reparameterize(noise_for(model, 20_000))
    rough = 0.25 if kind in ("iaf", "spline") else 0.03

    error = (q.mean - z.mean(0))[:, :3] / z.std(0)[:, :3]
    assert error.abs().max() < rough
    assert (q.stddev / z.std(0) - 1)[:, :3].abs().max() < rough


@pytest.mark.parametrize("kind", KINDS)
def test_a_detached_posterior_is_the_same(kind: str) -> None:
    model = made(kind)
    q = model.posterior(x())
    z = q.reparameterize(noise_for(model, 4)).detach()

    close(q.detached().log_prob(z), q.log_prob(z))
    close(q.detached().detached().log_prob(z), q.log_prob(z))
    assert q.log_prob(z).requires_grad
    assert not q.detached().log_prob(z).requires_grad
    assert q.detached().log_prob(z.requires_grad_()).requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_mix(kind: str) -> None:
    model = made(kind)
    noise = noise_for(model, 3)
    together = model.posterior(x()).reparameterize(noise)
    alone = [
        model.posterior(x()[k : k + 1]).reparameterize(noise[:, k : k + 1]) for k in range(6)
    ]

    close(together, torch.cat(alone, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_estimators_a_and_b_agree_in_the_mean(kind: str) -> None:
    """The difference is KL sampled less KL exact; 4,000 draws, its standard error measured, z = 4."""
    model = made(kind)
    noise = noise_for(model, 4000)
    with torch.no_grad():
        difference = elbo(model, x(), noise) - elbo_sampled(model, x(), noise)
        q = model.posterior(x())
        z, log_q = q.reparameterize_with_log_prob(noise)
        stderr = (log_q - model.log_prior(z)).std(0) / 4000**0.5
    assert (difference.abs() <= 4 * stderr + 1e-9).all()
    assert (q.kl_from_prior() is not None) == (kind in ("diagonal", "full"))
    assert (q.kl_per_latent() is not None) == (kind == "diagonal")


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_same_at_every_call(kind: str) -> None:
    model = made(kind)

    assert torch.equal(model.posterior(x()).mean, model.posterior(x()).mean)
    assert torch.equal(model.posterior(x()).stddev, model.posterior(x()).stddev)


def test_building_a_flow_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    made("iaf")
    made("spline")

    assert torch.equal(torch.random.get_rng_state(), state)
