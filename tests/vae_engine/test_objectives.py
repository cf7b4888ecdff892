"""The bounds against a model whose log p(x) is known, and against planted defects.

Every law takes the module under test, so that it can be run on mutants of its source as well:
MUTANTS lists them, and each must break at least one law.
"""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from tests.exact import LinearGaussian, draws
from tests.mutants import mutant
from vae_engine import objectives

close = torch.testing.assert_close


def model(off: float = 0.0) -> LinearGaussian:
    return LinearGaussian(features=5, latents=3, scale=0.7, off=off)


def every_weight_is_the_marginal_when_the_posterior_is_exact(o: ModuleType) -> None:
    """q = p(z|x) makes log w constant in z: no tolerance for Monte Carlo is needed."""
    exact = model()
    x = exact.sample(8)
    log_w = o.log_weights(exact, x, draws(4, 8, 3))
    close(log_w, exact.log_marginal(x).expand(4, 8))


def sampled_bounds_are_the_marginal_for_every_draw_when_the_posterior_is_exact(
    o: ModuleType,
) -> None:
    exact = model()
    x = exact.sample(8)
    for bound in (o.elbo_sampled, o.iwae):
        close(bound(exact, x, draws(3, 8, 3)), exact.log_marginal(x))


def the_gap_of_the_elbo_is_the_kl_to_the_true_posterior(o: ModuleType) -> None:
    """Eq. 1: log p(x) = KL(q || p(z|x)) + ELBO.

    Antithetic noise cancels the linear term. The quadratic one of B, whose standard deviation is
    below 1 nat, is averaged over 20,000 pairs: standard error 0.007; times z = 4 for 16
    comparisons, 0.03. For A it cancels too.
    """
    loose = model(off=0.3)
    x = loose.sample(8)
    noise = draws(20_000, 8, 3)
    noise = torch.cat([noise, -noise])
    for bound in (o.elbo, o.elbo_sampled):
        gap = loose.log_marginal(x) - bound(loose, x, noise)
        close(gap, torch.full((8,), loose.kl_to_truth()).double(), rtol=0, atol=0.03)


def estimators_a_and_b_agree_in_the_mean(o: ModuleType) -> None:
    """Their difference, KL sampled less KL exact, has standard deviation below 2.2 nats a draw:
    over 40,000 draws and 8 rows a standard error of 0.004; 3.3 of them is 0.013."""
    loose = model(off=0.5)
    x, noise = loose.sample(8), draws(40_000, 8, 3)
    difference = o.elbo(loose, x, noise) - o.elbo_sampled(loose, x, noise)
    assert abs(difference.mean().item()) < 0.013


def more_samples_tighten_the_importance_weighted_bound(o: ModuleType) -> None:
    """ELBO <= IWAE_5 <= IWAE_50 <= log p(x), on means over 4,000 draws of each of 8 rows."""
    loose = model(off=1.0)
    x = loose.sample(8).repeat_interleave(4000, 0)
    one, five, fifty = (o.iwae(loose, x, draws(k, len(x), 3)).mean() for k in (1, 5, 50))
    assert one + 0.3 < five < fifty - 0.1 < loose.log_marginal(x).mean() - 0.1


def importance_weights_average_to_the_marginal(o: ModuleType) -> None:
    """E[w] = p(x) without bias: 200,000 draws of weights whose log has variance off^2 * 3 = 0.27,
    so a relative standard error of sqrt(e^0.27 - 1) / 450 = 0.0013; 3.3 of them is 0.004."""
    loose = model(off=0.3)
    x = loose.sample(2)
    close(o.iwae(loose, x, draws(200_000, 2, 3)), loose.log_marginal(x), rtol=0, atol=0.0043)


def one_sample_makes_the_importance_weighted_bound_the_elbo(o: ModuleType) -> None:
    loose = model(off=0.3)
    x, noise = loose.sample(8), draws(1, 8, 3)
    close(o.iwae(loose, x, noise), o.elbo_sampled(loose, x, noise))


def bounds_are_per_row_and_rows_do_not_mix(o: ModuleType) -> None:
    """B5, B7: the number of a row is the same alone and in company."""
    loose = model(off=0.3)
    x, noise = loose.sample(8), draws(5, 8, 3)
    for bound in (o.elbo, o.elbo_sampled, o.iwae):
        together = bound(loose, x, noise)
        alone = [bound(loose, x[k : k + 1], noise[:, k : k + 1]) for k in range(8)]
        assert together.shape == (8,)
        close(together, torch.cat(alone))


LAWS: list[Callable[[ModuleType], None]] = [
    every_weight_is_the_marginal_when_the_posterior_is_exact,
    sampled_bounds_are_the_marginal_for_every_draw_when_the_posterior_is_exact,
    the_gap_of_the_elbo_is_the_kl_to_the_true_posterior,
    estimators_a_and_b_agree_in_the_mean,
    more_samples_tighten_the_importance_weighted_bound,
    importance_weights_average_to_the_marginal,
    one_sample_makes_the_importance_weighted_bound_the_elbo,
    bounds_are_per_row_and_rows_do_not_mix,
]

MUTANTS = {
    "elbo: KL added, not subtracted": (
        "mean(0) - kl(model, q, z)",
        "mean(0) + kl(model, q, z)",
    ),
    "elbo: likelihood summed over samples": (
        "model.log_likelihood(x, z).mean(0) - kl",
        "model.log_likelihood(x, z).sum(0) - kl",
    ),
    "elbo: mean over rows too (B5)": (
        "model.log_likelihood(x, z).mean(0) - kl",
        "model.log_likelihood(x, z).mean() - kl",
    ),
    "elbo_sampled: sum over samples": (
        "log_weights(model, x, noise).mean(0)",
        "log_weights(model, x, noise).sum(0)",
    ),
    "iwae: divisor dropped": (".logsumexp(0) - math.log(noise.shape[0])", ".logsumexp(0)"),
    "iwae: wrong divisor (B13, B14)": (
        "math.log(noise.shape[0])",
        "math.log(noise.shape[0] + 1)",
    ),
    "weights: q not divided out": (
        "model.log_likelihood(x, z) + model.log_prior(z) - q.log_prob(z)",
        "model.log_likelihood(x, z) + model.log_prior(z)",
    ),
    "weights: prior dropped": ("+ model.log_prior(z) - q.log_prob(z)", "- q.log_prob(z)"),
    "weights: sign reversed (B10)": (
        "return model.log_likelihood(x, z) + model.log_prior(z) - q.log_prob(z)",
        "return q.log_prob(z) - model.log_likelihood(x, z) - model.log_prior(z)",
    ),
    "kl: halved": ("return q.kl_from_prior()", "return 0.5 * q.kl_from_prior()"),
}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: Callable[[ModuleType], None]) -> None:
    law(objectives)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_breaks_a_law(name: str) -> None:
    changed = mutant(objectives, *MUTANTS[name])

    assert any(broken(law, changed) for law in LAWS)


def broken(law: Callable[[ModuleType], None], module: ModuleType) -> bool:
    try:
        law(module)
    except (AssertionError, RuntimeError):  # a mutant may give another shape
        return True
    return False


def test_no_prior_of_its_own_means_the_kl_is_sampled() -> None:
    """A closed form is that of N(0, I); under another prior it would be the wrong number."""
    loose = model(off=0.3)
    x, noise = loose.sample(8), draws(5, 8, 3)
    loose.standard_prior = False

    close(objectives.elbo(loose, x, noise), objectives.elbo_sampled(loose, x, noise))


def test_noise_of_the_wrong_shape_is_refused() -> None:
    """Noise (4, 1, 3) for 8 rows would broadcast silently and share its draws."""
    exact = model()

    with pytest.raises(Exception, match="noise"):
        objectives.elbo(exact, exact.sample(8), draws(4, 1, 3))


def test_the_bound_is_what_a_hand_computes_on_two_by_three() -> None:
    """B1, B2, B3, B4: one row of three features and two latents, every constant by hand."""
    exact = LinearGaussian(features=3, latents=2, off=0.4)
    x, noise = exact.sample(1), draws(1, 1, 2)
    q = exact.posterior(x)
    z = (q.mean + q.stddev * noise[0])[0]
    residual = x[0] - exact.weight @ z - exact.bias
    log_likelihood = sum(
        -0.5 * (r / 0.7) ** 2 - math.log(0.7) - 0.5 * math.log(2 * math.pi)
        for r in residual.tolist()
    )
    divergence = sum(
        0.5 * (m**2 + s**2 - 1 - math.log(s**2))
        for m, s in zip(q.mean[0].tolist(), q.stddev[0].tolist(), strict=True)
    )

    assert objectives.elbo(exact, x, noise).item() == pytest.approx(log_likelihood - divergence)
