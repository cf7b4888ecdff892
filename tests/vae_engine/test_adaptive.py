"""Effort goes where the error is, and the estimates are those of as many samples."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.exact import LinearGaussian
from vae_engine.adaptive import EffortPlan, estimate_adaptively
from vae_engine.diagnostics import most_trusted_k
from vae_engine.marginal import estimate_log_marginal
from vae_engine.posteriors import DiagonalNormal

close = torch.testing.assert_close
KEYS = torch.arange(200)


class PartlyWrong(LinearGaussian):
    """The linear-Gaussian model whose q is right for half of the rows and off for the others."""

    def wrong(self, x: Tensor) -> Tensor:
        return x[:, 0] > self.bias[0]

    def posterior(self, x: Tensor) -> DiagonalNormal:
        mean, stddev = super().posterior(x)
        return DiagonalNormal(mean + 0.7 * stddev * self.wrong(x)[:, None], stddev)


def plan(**more: Any) -> EffortPlan:
    return EffortPlan(**({"seed": 3, "tolerance_nats": 0.05, "most_samples": 5000} | more))


def test_effort_goes_to_the_rows_that_need_it() -> None:
    model = PartlyWrong(features=5, latents=3)
    x = model.sample(200)
    found = estimate_adaptively(model, x, KEYS, plan())

    wrong = model.wrong(x)
    assert (found.samples[~wrong] == 100).all()
    assert found.samples[wrong].double().mean() > 800
    assert (found.stderr[found.met] <= 0.05).all()
    assert found.met.double().mean() > 0.9


def test_a_row_has_the_estimate_of_as_many_samples_as_it_got() -> None:
    model = PartlyWrong(features=5, latents=3)
    x = model.sample(200)
    found = estimate_adaptively(model, x, KEYS, plan())

    for samples in found.samples.unique().tolist():
        rows = found.samples == samples
        fixed = estimate_log_marginal(model, x[rows], KEYS[rows], samples=samples, seed=3)
        for here, there in zip(found[:4], fixed, strict=True):
            close(here[rows], there)


@pytest.mark.parametrize(("tolerance", "samples"), [(0.0, 5000), (math.inf, 100)])
def test_the_tolerance_decides_between_the_least_and_the_most(
    tolerance: float, samples: int
) -> None:
    """Rows whose k-hat is doubted at first go on under any tolerance."""
    model = LinearGaussian(features=5, latents=3, off=0.1)
    found = estimate_adaptively(
        model, model.sample(50), KEYS[:50], plan(tolerance_nats=tolerance)
    )

    settled = found.samples == samples
    assert settled.double().mean() > (0.99 if tolerance == 0 else 0.5)
    assert (found.pareto_k[found.met] <= 0.7).all()


def test_a_row_that_k_doubts_goes_on_however_small_its_error() -> None:
    model = PartlyWrong(features=5, latents=3)
    found = estimate_adaptively(model, model.sample(200), KEYS, plan(tolerance_nats=math.inf))

    limits = torch.tensor([most_trusted_k(s) for s in found.samples.tolist()]).double()
    assert (found.samples > 100).any()
    assert ((found.pareto_k <= limits) == found.met).all()


def test_order_of_rows_changes_nothing() -> None:
    model = PartlyWrong(features=5, latents=3)
    x = model.sample(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    whole = estimate_adaptively(model, x, KEYS[:30], plan())
    turned = estimate_adaptively(model, x[order], KEYS[order], plan())

    for one, other in zip(whole, turned, strict=True):
        close(one[order], other)


def test_without_time_every_row_still_has_its_first_samples() -> None:
    model = LinearGaussian(features=5, latents=3, off=1.0)
    x = model.sample(200)
    found = estimate_adaptively(model, x, KEYS, plan(tolerance_nats=0.0, budget_s=0.0))

    assert (found.samples == 100).all()
    assert found.log_marginal_nats.isfinite().all()


def test_a_short_budget_is_spent_on_the_worst_rows() -> None:
    model = PartlyWrong(features=5, latents=3)
    x = model.sample(200)
    settings = {"tolerance_nats": 0.0, "most_samples": 10**6, "budget_s": 0.3}
    found = estimate_adaptively(model, x, KEYS, plan(**settings))

    wrong = model.wrong(x)
    assert found.samples.max() < 10**6
    assert found.samples[wrong].min() >= found.samples[~wrong].max()


def test_estimates_are_within_their_errors() -> None:
    """Of 200 rows: the sum's error within 3; the bias is half the square of 0.05 a row, 0.25."""
    model = PartlyWrong(features=5, latents=3)
    x = model.sample(200)
    found = estimate_adaptively(model, x, KEYS, plan(tolerance_nats=0.03))

    error = found.log_marginal_nats - model.log_marginal(x)
    assert abs(error.sum()) < 3 * found.stderr.square().sum().sqrt()


def test_no_rows_is_an_error() -> None:
    model = LinearGaussian(features=5, latents=3)

    with pytest.raises(ValueError, match="at least one row"):
        estimate_adaptively(model, model.sample(0), KEYS[:0], plan())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tolerance_nats": -1.0}, "tolerance_nats is -1.0; it must be 0 or more"),
        (
            {"first_samples": 9000},
            "first_samples is 9000 and most_samples 5000; the first must be 2 or more, and the "
            "second no less than it",
        ),
        ({"budget_s": -1.0}, "budget_s is -1.0; it must be 0 or more, or left out"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(
    setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(**setting)
