"""Priors: densities, draws that have them, and where a VampPrior begins."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, distributions

from tests.mutants import mutant
from tests.vae_engine.rows import random_model
from tests.vae_engine.test_heads import BASE
from vae_engine import priors
from vae_engine.hierarchy import LayeredPrior
from vae_engine.model import VAE, build_model
from vae_engine.posteriors import DiagonalNormal
from vae_engine.statistics import Statistics

close = torch.testing.assert_close
KINDS = {
    "standard": BASE,
    "mixture": replace(BASE, prior="mixture"),
    "vamp": replace(BASE, prior="vamp"),
    "flow": replace(BASE, prior="flow"),
    "two layers": replace(BASE, upper_latents=2),
}


def made(kind: str) -> VAE:
    return random_model(KINDS[kind]).double()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_density_integrates_to_one(kind: str) -> None:
    """Importance integral over 40,000 draws of a wide t; its standard error is measured, z = 4."""
    model = made(kind)
    generator = torch.Generator().manual_seed(3)
    z = 3 * torch.randn(40_000, 1, model.latents, generator=generator, dtype=torch.float64)
    ratio = (model.log_prior(z) - distributions.Normal(0.0, 3.0).log_prob(z).sum(-1)).exp()

    assert abs(ratio.mean().item() - 1) < 4 * ratio.std().item() / 200


@pytest.mark.parametrize("kind", ["standard", "mixture", "vamp", "flow"])
@torch.no_grad()
def test_draws_have_the_density(kind: str) -> None:
    """E[p'(z) / p(z)] = 1 for any density p' that is narrower than p: here N(m, (s / 2)^2) about
    the draws' own mean and spread; the standard error is measured, z = 4."""
    model = made(kind)
    z = model.prior.sample(20_000, torch.Generator().manual_seed(4)).double()[:, None]
    other = distributions.Normal(z.mean(0), 0.5 * z.std(0))
    ratio = (other.log_prob(z).sum(-1) - model.log_prior(z)).exp()

    assert abs(ratio.mean().item() - 1) < 4 * ratio.std().item() / 20_000**0.5


@torch.no_grad()
def test_draws_of_two_layers_have_their_moments() -> None:
    """z2, and z1 standardized by what z2 says of it, are N(0, I): 20,000 draws, z = 4 for 25."""
    model = made("two layers")
    assert isinstance(model.prior, LayeredPrior)
    z = model.prior.sample(20_000, torch.Generator().manual_seed(4)).double()
    mean, log_stddev = model.prior.arrow(z[:, 3:])
    noise = torch.cat([(z[:, :3] - mean) * (-log_stddev).exp(), z[:, 3:]], -1)

    assert noise.mean(0).abs().max() < 4 / 20_000**0.5
    covariance = noise.T.cov() - torch.eye(5)
    assert covariance.abs().max() < 4 * (2 / 20_000) ** 0.5


def mixture_is_that_of_torch(p: object) -> None:
    module = p
    prior = module.Mixture(4, 3, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    with torch.no_grad():
        prior.log_weights.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
        prior.log_stddev.copy_(torch.linspace(-1, 1, 12).view(4, 3))
    z = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))
    normal = distributions.Normal(prior.mean, prior.log_stddev.exp())
    oracle = distributions.MixtureSameFamily(
        distributions.Categorical(logits=prior.log_weights),
        distributions.Independent(normal, 1),
    )
    close(prior.log_prob(z), oracle.log_prob(z))


def vamp_is_the_mean_of_posteriors(p: object) -> None:
    """B11."""

    def posterior_of(u: Tensor) -> DiagonalNormal:
        return DiagonalNormal(u[:, :3], u[:, 3:].exp())

    pseudo = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    prior = p.VampPrior(pseudo, posterior_of)  # type: ignore[attr-defined]
    z = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))
    normal = distributions.Normal(pseudo[:, :3], pseudo[:, 3:].exp())
    oracle = distributions.MixtureSameFamily(
        distributions.Categorical(logits=torch.zeros(4)), distributions.Independent(normal, 1)
    )
    close(prior.log_prob(z), oracle.log_prob(z))


LAWS = [mixture_is_that_of_torch, vamp_is_the_mean_of_posteriors]
MUTANTS = {
    "mixture: weights not normalized": ("self.log_weights.log_softmax(0)", "self.log_weights"),
    "mixture: mean over latents": ("self.log_stddev).sum(-1)", "self.log_stddev).mean(-1)"),
    "vamp: sum for mean": ("log_q.logsumexp(-1) - math.log(components)", "log_q.logsumexp(-1)"),
    "vamp: mean of logs": ("log_q.logsumexp(-1) - math.log(components)", "log_q.mean(-1)"),
}


@pytest.mark.parametrize("law", LAWS)
def test_law(law: object) -> None:
    assert callable(law)
    law(priors)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_breaks_a_law(name: str) -> None:
    changed = mutant(priors, *MUTANTS[name])
    broken = 0
    for law in LAWS:
        try:
            law(changed)
        except AssertionError:
            broken += 1

    assert broken


def test_a_vamp_prior_begins_with_training_rows() -> None:
    x = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    model = build_model(KINDS["vamp"], seed=0, statistics=Statistics.of(BASE, x))
    pseudo = model.get_parameter("prior.pseudo_inputs")

    close(pseudo, torch.cat([x, x[:2]]))
    assert "prior.pseudo_inputs" not in model.generative_parameters()


def test_a_copy_has_a_prior_of_its_own() -> None:
    """A VampPrior knows its encoder: that of the copy, or an average of weights mixes two models."""
    model = made("vamp")
    other = copy.deepcopy(model)
    z = torch.zeros(1, 2, 3, dtype=torch.float64)
    before = model.log_prior(z).detach()
    with torch.no_grad():
        other.head.bias.add_(1.0)

    close(model.log_prior(z), before)
    assert not torch.equal(other.log_prior(z), before)


def test_only_the_standard_prior_is_standard() -> None:
    assert {kind: made(kind).standard_prior for kind in KINDS} == {
        "standard": True,
        "mixture": False,
        "vamp": False,
        "flow": False,
        "two layers": False,
    }
