"""Baselines against the densities they must equal, in the units of every estimate."""

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, NegativeBinomial, Normal, Poisson, StudentT

from tests.exact import LinearGaussian, draws
from tests.mutants import mutant
from vae_engine import baselines
from vae_engine.baselines import factor_analysis, fit_factors, independent_columns
from vae_engine.config import Column, ModelConfig

close = torch.testing.assert_close
KEYS = torch.arange(10_000)
SINGLE = torch.ones(6, dtype=torch.int64)


def keyed(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, KEYS[: len(x)]


def one(likelihood: str, **more: object) -> ModelConfig:
    column = Column.from_mapping(
        {"name": "a", "likelihood": likelihood, **more}, source="this test"
    )
    return ModelConfig(columns=(column,))


def test_a_real_column_is_normal_in_its_own_units() -> None:
    value = 40 + 12 * draws(5000, 1)
    x = ((value - 30) / 7).float()
    found = independent_columns(
        one("gaussian", shift=30.0, scale=7.0), keyed(x), keyed(x[:50]), seed=0
    )

    expected = Normal(value.mean(), value.std(correction=0)).log_prob(value[:50, 0])
    close(found, expected.float(), rtol=1e-4, atol=1e-4)


def test_the_units_of_the_encoding_do_not_matter() -> None:
    """B23: the same values standardized in two ways have the same density."""
    value = (3 + 2 * draws(4000, 2)).float()
    results = []
    for shift, scale in ((0.0, 1.0), (5.0, 9.0)):
        column = {"likelihood": "gaussian", "shift": shift, "scale": scale}
        config = ModelConfig(
            columns=tuple(
                Column.from_mapping({"name": n, **column}, source="this test") for n in "ab"
            )
        )
        x = keyed((value - shift) / scale)
        results.append(
            (
                independent_columns(config, x, x, seed=0),
                factor_analysis(config, x, x, latents=1, seed=0),
            )
        )

    close(results[0][0], results[1][0], rtol=0, atol=2e-3)
    close(results[0][1], results[1][1], rtol=0, atol=2e-3)


def test_a_positive_column_is_log_normal_in_its_own_units() -> None:
    x = draws(5000, 1).float()
    found = factor_analysis(
        one("log_normal", shift=2.0, scale=0.5), keyed(x), keyed(x[:50]), latents=1, seed=0
    )

    log_value = 2 + 0.5 * x.double()
    expected = Normal(log_value.mean(), log_value.std(correction=0)).log_prob(log_value[:50])
    close(found, (expected - log_value[:50])[:, 0].float(), rtol=1e-3, atol=2e-3)


def test_codes_have_their_frequencies() -> None:
    x = torch.tensor([0.0, 0, 0, 1, 1, 2, math.nan])[:, None]
    found = independent_columns(one("categorical", categories=4), keyed(x), keyed(x), seed=0)

    shares = (
        torch.tensor([4.0, 4, 4, 3, 3, 2, 10]) / 10
    )  # each code once more; a gap costs nothing
    close(found, shares.log())


def test_counts_have_their_mean_and_variance() -> None:
    generator = torch.Generator().manual_seed(1)
    rate = 4 * torch._standard_gamma(torch.full((5000, 1), 2.0), generator=generator) / 2
    x = torch.poisson(rate, generator=generator)
    mean, variance = x.mean(), x.var(correction=0)

    total = mean**2 / (variance - mean)
    expected = NegativeBinomial(total, logits=mean.log() - total.log()).log_prob(x[:, 0])
    for likelihood in ("negative_binomial", "zero_inflated_negative_binomial"):
        found = independent_columns(one(likelihood), keyed(x), keyed(x), seed=0)
        close(found, expected, rtol=1e-3, atol=1e-3)
    expected = Poisson(mean).log_prob(x[:, 0])
    close(independent_columns(one("poisson"), keyed(x), keyed(x), seed=0), expected)


def test_a_heavy_tailed_column_has_its_mean_and_variance() -> None:
    x = draws(5000, 1).float()
    found = independent_columns(one("student_t"), keyed(x), keyed(x), seed=0)

    expected = StudentT(5.0, x.mean(), x.std(correction=0) * 0.6**0.5).log_prob(x[:, 0])
    close(found, expected, rtol=1e-3, atol=1e-3)

    found = independent_columns(one("student_t_per_row"), keyed(x), keyed(x), seed=0)
    expected = Normal(x.mean(), x.std(correction=0)).log_prob(x[:, 0])
    close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("policy", ["dynamic", "threshold"])
def test_grey_pixels_are_binarized_as_the_model_sees_them(policy: str) -> None:
    """All at 70 % of white: a fair-weather coin under chance, always white under a threshold."""
    pixels = {"width": 4, "image": [2, 2, 1], "scale": 255.0, "binarization": policy}
    x = torch.full((5000, 4), 178, dtype=torch.uint8)
    found = independent_columns(one("bernoulli", **pixels), keyed(x), keyed(x), seed=0)

    share = {"dynamic": 178 / 255, "threshold": 0.999}[policy]
    entropy = share * math.log(share) + (1 - share) * math.log(1 - share)
    if policy == "threshold":
        entropy = math.log(share)
    # standard error of 20,000 coins: 0.84 / 141 each; four to a row, z = 3.3
    assert found.mean().item() == pytest.approx(4 * entropy, abs=3.3 * 4 * 0.006)


def the_density_is_that_of_a_normal_with_gaps(m: ModuleType) -> None:
    """Every pattern of missing cells against the marginal of the full covariance."""
    weight, bias, noise = draws(5, 2), draws(5, seed=1), draws(5, seed=2).square() + 0.1
    y = draws(32, 5, seed=3)
    patterns = torch.arange(32)[:, None].bitwise_and(2 ** torch.arange(5)) > 0
    y[~patterns] = math.nan

    found = m.Factors(weight, bias, noise).log_prob(y)
    covariance = weight @ weight.T + noise.diag()
    for k, seen in enumerate(patterns[1:], 1):
        normal = MultivariateNormal(bias[seen], covariance[seen][:, seen])
        close(found[k], normal.log_prob(y[k, seen]))
    close(found[0], torch.zeros(()).double())


def no_step_of_em_loses(m: ModuleType) -> None:
    model = LinearGaussian(features=6, latents=2)
    y = model.sample(500)
    y[draws(500, 6, seed=9) > 0.5] = math.nan
    patterns = m._Patterns.of(y)
    factors = m.Factors(draws(6, 2), draws(6, seed=4), torch.ones(6).double())
    before = -math.inf
    for _ in range(30):
        expected = m._expect(factors, patterns)
        assert expected.log_prob.mean() > before - 1e-9
        before = expected.log_prob.mean()
        factors = m._maximize(expected, patterns, SINGLE, torch.full((6,), 1e-6).double())


def em_finds_the_model_that_drew_the_rows(m: ModuleType) -> None:
    """The fit's mean log density on its own rows is above the truth's, by about parameters / 2N.

    23 free parameters over 2 × 5,000 rows are 0.0023 nats; a chi-squared's 99.9 % are twice that.
    Gaps cost rows, so twice again.
    """
    model = LinearGaussian(features=6, latents=2)
    full = model.sample(5000)
    y = full.clone()
    y[draws(5000, 6, seed=9) > 0.8] = math.nan

    excess = m.fit_factors(y, 2, SINGLE).log_prob(full) - model.log_marginal(full)
    assert abs(excess.mean()) < 4 * 23 / 10_000


LAWS = [
    the_density_is_that_of_a_normal_with_gaps,
    no_step_of_em_loses,
    em_finds_the_model_that_drew_the_rows,
]
MUTANTS = {
    "sign of the determinant": ("constant = log_det +", "constant = -log_det +"),
    "no 2 pi": ("noise.log() + LOG_2PI", "noise.log()"),
    "explained distance added": (
        "(residual.square() / noise).sum(-1) -",
        "(residual.square() / noise).sum(-1) +",
    ),
    "moments without covariance": (
        "+= of_pattern * expected.covariance",
        "+= 0 * expected.covariance",
    ),
    "noise over all rows": ("sums[1].clamp(min=1)", "len(patterns.filled)"),
    "gaps count as zeros": (
        "torch.where(patterns.observed, patterns.filled - bias, 0.0)\n    pull",
        "patterns.filled - bias\n    pull",
    ),
}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: object) -> None:
    assert callable(law)
    law(baselines)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_breaks_a_law(name: str) -> None:
    changed = mutant(baselines, *MUTANTS[name])
    broken = 0
    for law in LAWS:
        try:
            law(changed)
        except (AssertionError, RuntimeError):
            broken += 1

    assert broken


def test_columns_that_belong_together_are_better_joined() -> None:
    """Two real columns with correlation 0.8 and a code: the joint gain is -log(1 - 0.8^2) / 2."""
    z = draws(20_000, 2)
    real = torch.stack([z[:, 0], 0.8 * z[:, 0] + 0.6 * z[:, 1]], -1)
    x = torch.cat([real, (draws(20_000, 1, seed=5) > 0).double()], -1).float()
    config = ModelConfig(
        columns=(
            Column(name="a", likelihood="gaussian"),
            Column(name="code", likelihood="categorical", categories=2),
            Column(name="b", likelihood="gaussian"),
        )
    )
    train, test = (
        (x[:4000, [0, 2, 1]], KEYS[:4000]),
        (x[4000:, [0, 2, 1]], KEYS.repeat(2)[:16_000]),
    )

    joint = factor_analysis(config, train, test, latents=1, seed=0)
    assert joint is not None
    gain = joint - independent_columns(config, train, test, seed=0)
    # a row's gain varies by 0.9, so its mean by 0.007; z = 3.3, and 5 parameters / 4000
    assert gain.mean().item() == pytest.approx(-0.5 * math.log(1 - 0.64), abs=0.026)


def test_a_margin_that_is_always_black_does_not_make_a_test_row_impossible() -> None:
    x = torch.zeros(200, 6)
    x[:, 2:] = 0.5 + 0.1 * draws(200, 4).float()
    seen = torch.full((1, 6), 0.5)
    config = one("gaussian", width=6, image=[2, 3, 1])

    found = factor_analysis(config, keyed(x), keyed(seen), latents=2, seed=0)
    assert found is not None
    assert found.item() > -200


def test_masses_have_nothing_to_be_joined() -> None:
    x = keyed(torch.zeros(10, 1))

    assert factor_analysis(one("bernoulli"), x, x, latents=2, seed=0) is None


def test_more_factors_than_cells_are_not_asked_for() -> None:
    assert fit_factors(draws(100, 3), 10, SINGLE[:3]).weight.shape == (3, 2)
    assert fit_factors(draws(100, 1), 10, SINGLE[:1]).weight.shape == (1, 1)


def test_fewer_rows_than_cells_are_fitted_as_if_each_came_thrice() -> None:
    """The covariance is the same, and found from the smaller of two matrices."""
    y = draws(20, 3) @ draws(3, 50) + 0.3 * draws(20, 50)
    widths = torch.ones(50, dtype=torch.int64)

    few, many = (fit_factors(rows, 3, widths) for rows in (y, y.repeat(3, 1)))

    close(few.log_prob(y), many.log_prob(y), rtol=1e-6, atol=1e-4)
