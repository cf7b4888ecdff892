"""Densities against `torch.distributions`, and sums and integrals to one."""

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor, distributions

from tests.exact import draws
from tests.mutants import mutant
from vae_engine import densities

close = torch.testing.assert_close
LOGITS = draws(7, seed=1) * 3
COUNTS = torch.arange(9.0, dtype=torch.float64)


def bernoulli(d: ModuleType) -> None:
    x = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    close(d.bernoulli(x, LOGITS), distributions.Bernoulli(logits=LOGITS).log_prob(x))
    far = torch.tensor([-800.0, 800.0], dtype=torch.float64)  # B22: no probability is clamped
    close(d.bernoulli(torch.tensor([1.0, 0.0]).double(), far), -far.abs())


def normal(d: ModuleType) -> None:
    x, mean, log_scale = draws(3, 7, seed=2)
    close(
        d.normal(x, mean, log_scale),
        distributions.Normal(mean, log_scale.exp()).log_prob(x),
    )
    close(d.standard_normal(x), distributions.Normal(0.0, 1.0).log_prob(x))


def student_t(d: ModuleType) -> None:
    x, mean, log_scale, log_freedom = draws(4, 7, seed=3)
    freedom = 1 + log_freedom.exp()
    expected = distributions.StudentT(freedom, mean, log_scale.exp()).log_prob(x)
    close(d.student_t(x, freedom, mean, log_scale), expected)


def poisson(d: ModuleType) -> None:
    log_rate = draws(4, 1, seed=4)
    close(d.poisson(COUNTS, log_rate), distributions.Poisson(log_rate.exp()).log_prob(COUNTS))


def negative_binomial(d: ModuleType) -> None:
    log_mean, log_totals = draws(2, 4, 1, seed=5)
    for log_total in (log_totals, log_totals + 6):
        expected = distributions.NegativeBinomial(log_total.exp(), logits=log_mean - log_total)
        close(d.negative_binomial(COUNTS, log_mean, log_total), expected.log_prob(COUNTS))


def ordinal(d: ModuleType) -> None:
    location, thresholds = draws(5, seed=6), torch.tensor([-1.0, 0.2, 0.3, 4.0]).double()
    log_masses = d.ordinal_logits(location, thresholds)
    below = (thresholds - location[:, None]).sigmoid()
    edges = torch.cat([torch.zeros(5, 1), below, torch.ones(5, 1)], -1)
    close(log_masses.exp(), edges.diff(dim=-1))
    close(log_masses.logsumexp(-1), torch.zeros(5).double())


def continuous_bernoulli(d: ModuleType) -> None:
    """B20. Near 0 torch's own constant is a Taylor series of another order: 1e-6 is its error."""
    x = torch.rand(9, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = torch.tensor(
        [-8.0, -3.0, -0.6, -0.4, -1e-3, 0.0, 1e-3, 0.4, 0.6, 3.0, 8.0]
    ).double()
    expected = distributions.ContinuousBernoulli(logits=logits).log_prob(x)
    close(d.continuous_bernoulli(x, logits), expected, rtol=0, atol=2e-6)
    close(
        d.log_tilt(torch.tensor([-800.0, 800.0])),
        torch.tensor([-800.0, 800.0]).clamp(min=0) - math.log(800),
    )


def zero_inflated(d: ModuleType) -> None:
    mass = distributions.Poisson(torch.tensor(2.0).double())
    found = d.zero_inflated(COUNTS, mass.log_prob(COUNTS), torch.tensor(-0.5).double())
    share = 1 / (1 + math.exp(0.5))
    close(found.exp(), (1 - share) * mass.log_prob(COUNTS).exp() + share * (COUNTS == 0))


def discretized_logistic(d: ModuleType) -> None:
    """B21: 256 masses sum to one, for narrow and wide scales, inside and at both edges."""
    levels = torch.arange(256, dtype=torch.float64)[:, None]
    mean = torch.tensor([-3.0, 0.2, 100.3, 254.9, 300.0]).double()
    for log_scale in (-2.0, 0.0, 3.0, 6.0):
        scale = torch.tensor(log_scale).double()
        log_mass = d.discretized_logistic(levels, mean, scale, torch.tensor(255.0).double())
        close(log_mass.logsumexp(0), torch.zeros(5).double())
    edge = torch.sigmoid((0.5 - mean) * math.exp(-6))
    close(log_mass[0].exp(), edge)


LAWS = [
    bernoulli,
    normal,
    student_t,
    poisson,
    negative_binomial,
    ordinal,
    continuous_bernoulli,
    zero_inflated,
    discretized_logistic,
]

MUTANTS = {
    "bernoulli: a loss": ("return -functional.binary_cross", "return functional.binary_cross"),
    "bernoulli: mean over cells (B3)": ('reduction="none"', 'reduction="mean"'),
    "normal: constant dropped (B4)": ("- log_scale - 0.5 * LOG_2PI", "- log_scale"),
    "normal: scale outside the square (B11)": (
        "((x - mean) * (-log_scale).exp()).square() - log_scale",
        "(x - mean).square() * (-log_scale).exp() - log_scale",
    ),
    "normal: log scale dropped": (
        ".square() - log_scale - 0.5 * LOG_2PI",
        ".square() - 0.5 * LOG_2PI",
    ),
    "standard normal: constant dropped": ("-0.5 * (x.square() + LOG_2PI)", "-0.5 * x.square()"),
    "student: log scale dropped": ("constant - log_scale - half", "constant - half"),
    "student: freedom not under the square": (
        "standardized.square() / freedom)",
        "standardized.square())",
    ),
    "poisson: factorial dropped": ("log_rate.exp() - torch.lgamma(x + 1)", "log_rate.exp()"),
    "negative binomial: x not among the failures": (
        "- (x + total) * functional",
        "- total * functional",
    ),
    "negative binomial: total upside down": (
        "log_mean - log_total\n",
        "log_mean + log_total\n",
    ),
    "rising: half dropped": ("(x + far - 0.5) *", "(x + far) *"),
    "rising: series for all": ("total < STIRLING_FROM, direct", "total < 0.0, direct"),
    "continuous: constant dropped (B20)": (
        "return x * logits - log_tilt(logits)",
        "return x * logits - functional.softplus(logits)",
    ),
    "continuous: series for all": ("logits.abs() < 0.5  #", "logits.abs() < 5.0  #"),
    "zero inflated: zeros twice": (
        "return torch.where(x == 0, torch.logaddexp",
        "return torch.where(x <= 1, torch.logaddexp",
    ),
    "zero inflated: gate upside down": (
        "functional.logsigmoid(gate), counted)",
        "functional.logsigmoid(-gate), counted)",
    ),
    "discretized: edges closed (B21)": (
        "torch.where(x <= 0, below, torch.where(x >= highest, above, between))",
        "between",
    ),
    "discretized: one edge open (B21)": (
        "torch.where(x >= highest, above, between)",
        "between",
    ),
    "ordinal: widths dropped": ("middle + widths", "middle"),
}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_density_is_that_of_torch(law: object) -> None:
    assert callable(law)
    law(densities)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_breaks_a_law(name: str) -> None:
    changed = mutant(densities, *MUTANTS[name])
    broken = 0
    for law in LAWS:
        try:
            law(changed)
        except AssertionError:
            broken += 1

    assert broken


def integral(log_density: Tensor, step: float) -> float:
    return log_density.exp().sum().item() * step


def test_densities_integrate_to_one() -> None:
    grid = torch.arange(-4000.0, 4000.0, 0.01, dtype=torch.float64)
    one, half = torch.tensor(1.0).double(), torch.tensor(0.5).double()

    assert integral(densities.normal(grid, one, half), 0.01) == pytest.approx(1)
    # Tails of t beyond 4000 hold less than 1e-10 of the mass at 3 degrees of freedom.
    assert integral(densities.student_t(grid, 3 * one, one, half), 0.01) == pytest.approx(1)


def test_masses_sum_to_one() -> None:
    counts, one = torch.arange(3000.0, dtype=torch.float64), torch.tensor(1.0).double()

    assert integral(densities.poisson(counts, 2 * one), 1) == pytest.approx(1)
    assert integral(densities.negative_binomial(counts, 2 * one, -one), 1) == pytest.approx(1)
    assert integral(densities.bernoulli(counts[:2], 2 * one), 1) == pytest.approx(1)


@pytest.mark.parametrize("logit", [-20.0, -0.3, 0.0, 0.7, 8.0])
def test_a_continuous_bernoulli_is_a_density_and_a_cross_entropy_is_not(logit: float) -> None:
    """B20: the integral over [0, 1]; the cross-entropy of grey values misses it by far."""
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    logits = torch.tensor(logit).double()

    assert torch.trapezoid(
        densities.continuous_bernoulli(grid, logits).exp(), grid
    ).item() == pytest.approx(1)
    assert torch.trapezoid(densities.bernoulli(grid, logits).exp(), grid).item() < 0.6


def test_a_far_ordinal_location_keeps_a_finite_mass() -> None:
    thresholds = torch.tensor([0.0, 1.0])
    log_masses = densities.ordinal_logits(torch.tensor([-200.0, 200.0]), thresholds)

    assert log_masses.isfinite().all()
    assert log_masses[0, 2].item() == pytest.approx(-201)
    assert log_masses[1, 1].item() == pytest.approx(-199 + math.log(1 - math.exp(-1)))


@pytest.mark.parametrize("total", [0.01, 1.0, 15.9, 16.1, 1e3, 1e7])
def test_a_rising_product_and_its_slope_keep_their_digits_in_float32(total: float) -> None:
    """Of lgamma(1e7 + 3) - lgamma(1e7) there is none left, nor of the difference of digammas."""
    x = torch.arange(40.0)
    factors = total + torch.arange(40, dtype=torch.float64)
    known, slope = (
        torch.cat([torch.zeros(1), terms.cumsum(0)[:-1]])
        for terms in (factors.log(), 1 / factors)
    )
    leaf = torch.full((40,), total, requires_grad=True)
    found = densities.log_rising(leaf, x)
    (found_slope,) = torch.autograd.grad(found.sum(), leaf)

    torch.testing.assert_close(found.detach().double(), known, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_slope.double(), slope, rtol=1e-4, atol=1e-9)


def test_a_negative_binomial_of_a_large_total_is_a_poisson_in_float32() -> None:
    x, log_mean = torch.arange(40.0), torch.tensor(2.0)
    found = densities.negative_binomial(x, log_mean, torch.tensor(18.0))
    torch.testing.assert_close(found, densities.poisson(x, log_mean), rtol=1e-5, atol=1e-4)
