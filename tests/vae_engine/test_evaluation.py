"""Evaluation: totals add, noise belongs to rows, and a unit in use is seen."""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.exact import draws
from tests.mutants import mutant
from tests.vae_engine.rows import grey, pictures, random_model, sampled, table
from vae_engine import evaluation
from vae_engine.evaluation import Total, evaluate
from vae_engine.noise import keyed_noise
from vae_engine.objectives import elbo
from vae_engine.posteriors import DiagonalNormal

MODEL = random_model(table())
X, KEYS = sampled(table(), 103), torch.arange(103) * 7919
close = torch.testing.assert_close


def totals_add_and_means_do_not(e: ModuleType) -> None:
    """B6: the mean of batches of any sizes is the mean of all rows, and so is its error."""
    values = draws(20)
    total = e.Total()
    for part in values.split([3, 16, 1]):
        total += e.Total.of(part)
    assert total.mean == pytest.approx(values.mean().item())
    assert total.stderr == pytest.approx(values.std().item() / math.sqrt(20))


def a_report_is_that_of_its_terms_by_hand(e: ModuleType) -> None:
    """B28."""
    batches = list(zip(X.split(40), KEYS.split(40), strict=True))
    report = e.evaluate(MODEL, batches, samples=4, seed=5)
    q = MODEL.posterior(X)
    assert isinstance(q, DiagonalNormal)
    z = q.reparameterize(keyed_noise(5, KEYS, 0, 4, 3))
    log_likelihood = MODEL.log_likelihood(X, z).mean(0)
    bound = elbo(MODEL, X, keyed_noise(5, KEYS, 0, 4, 3)).double()
    assert report.elbo.mean == pytest.approx(bound.mean().item(), rel=1e-5)
    assert report.elbo.stderr == pytest.approx(bound.std().item() / math.sqrt(103), rel=1e-4)
    assert report.distortion.mean == pytest.approx(-log_likelihood.mean().item(), rel=1e-5)
    assert report.rate.mean == pytest.approx(q.kl_from_prior().mean().item(), rel=1e-5)
    assert report.kl_per_latent == pytest.approx(q.kl_per_latent().mean(0).tolist(), rel=1e-5)
    assert report.activity == pytest.approx(q.mean.var(0, correction=0).tolist(), rel=1e-4)
    by_column = sum(total.mean for total in report.log_likelihood_per_column.values())
    assert by_column == pytest.approx(log_likelihood.mean().item(), rel=1e-5)


LAWS = [totals_add_and_means_do_not, a_report_is_that_of_its_terms_by_hand]
MUTANTS = {
    "total: mean of means (B6)": ("self.rows + other.rows", "self.rows + 1"),
    "total: last batch only (B7)": (
        "self.sum + other.sum,",
        "other.sum,",
    ),
    "total: squares of the sum": (
        "finite.square().sum().item()",
        "finite.sum().square().item()",
    ),
    "total: error of one row": ("(finite - 1) / finite)", "(finite - 1))"),
    "elbo: rate added": (
        "Total.of(log_likelihood - divergence)",
        "Total.of(log_likelihood + divergence)",
    ),
    "distortion: a log likelihood (B28)": (
        "Total.of(-log_likelihood)",
        "Total.of(log_likelihood)",
    ),
    "samples: one for all": (
        "keyed_noise(seed, row_keys, 0, samples,",
        "keyed_noise(seed, row_keys, 0, 1,",
    ),
    "noise: by place, not by key (B18)": (
        "keyed_noise(seed, row_keys, 0",
        "keyed_noise(seed, torch.arange(len(x)), 0",
    ),
    "activity: of draws": ("means = means + q.mean.double()", "means = means + z[0].double()"),
    "activity: second moment": (
        "activity = squares / elbo.rows - (means / elbo.rows).square()",
        "activity = squares / elbo.rows",
    ),
}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: Callable[[ModuleType], None]) -> None:
    law(evaluation)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_breaks_a_law(name: str) -> None:
    changed = mutant(evaluation, *MUTANTS[name])
    broken = 0
    for law in LAWS:
        try:
            law(changed)
        except AssertionError:
            broken += 1

    assert broken


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 2**16))
def test_totals_add_and_means_do_not(sizes: list[int], seed: int) -> None:
    """B6: the mean of batches of any sizes is the mean of all rows, and so is its error."""
    values = draws(sum(sizes) + 1, seed=seed)
    total = Total()
    for part in values.split([*sizes, 1]):
        total += Total.of(part)

    assert total.mean == pytest.approx(values.mean().item())
    assert total.stderr == pytest.approx(values.std().item() / math.sqrt(len(values)))


def test_a_total_of_nothing_has_no_mean() -> None:
    assert math.isnan(Total().mean)
    assert math.isnan(Total.of(torch.ones(1)).stderr)


@pytest.mark.parametrize("batch", [1, 10, 103])
def test_batches_change_nothing(batch: int) -> None:
    """B6: 103 rows in batches of 10 and of 103."""
    whole = evaluate(MODEL, [(X, KEYS)], samples=3, seed=5)
    found = evaluate(
        MODEL, zip(X.split(batch), KEYS.split(batch), strict=True), samples=3, seed=5
    )

    assert found.elbo.mean == pytest.approx(whole.elbo.mean, rel=1e-6)
    assert found.elbo.stderr == pytest.approx(whole.elbo.stderr, rel=1e-5)
    assert found.kl_per_latent == pytest.approx(whole.kl_per_latent, rel=1e-5)
    assert found.activity == pytest.approx(whole.activity, rel=1e-5)


@given(st.permutations(range(103)))
@settings(max_examples=15)
def test_the_order_of_rows_changes_nothing(order: list[int]) -> None:
    """B7, B18: noise belongs to the row, and no two rows share it."""
    index = torch.tensor(order)
    whole = evaluate(MODEL, [(X, KEYS)], samples=2, seed=5)
    found = evaluate(
        MODEL, zip(X[index].split(20), KEYS[index].split(20), strict=True), samples=2, seed=5
    )

    assert found.elbo.mean == pytest.approx(whole.elbo.mean, rel=1e-6)


def test_an_outlying_block_moves_the_mean_by_its_share() -> None:
    """B7: every batch counts, not the last one."""
    outlying = X.clone()
    outlying[:10, 4] += 100
    plain = evaluate(MODEL, zip(X.split(10), KEYS.split(10), strict=True), samples=2, seed=5)
    moved = evaluate(
        MODEL, zip(outlying.split(10), KEYS.split(10), strict=True), samples=2, seed=5
    )
    first = evaluate(MODEL, [(X[:10], KEYS[:10])], samples=2, seed=5)
    first_moved = evaluate(MODEL, [(outlying[:10], KEYS[:10])], samples=2, seed=5)

    share = (first_moved.elbo.sum - first.elbo.sum) / 103
    assert moved.elbo.mean - plain.elbo.mean == pytest.approx(share, rel=1e-4)


def test_the_report_adds_up() -> None:
    """B28: elbo is up, distortion and rate are down, and elbo = -distortion - rate."""
    report = evaluate(MODEL, [(X, KEYS)], samples=4, seed=5)
    bound = elbo(MODEL, X, keyed_noise(5, KEYS, 0, 4, 3))

    assert report.elbo.mean == pytest.approx(bound.mean().item(), rel=1e-5)
    assert report.elbo.mean == pytest.approx(
        -report.distortion.mean - report.rate.mean, rel=1e-6
    )
    assert sum(report.kl_per_latent) == pytest.approx(report.rate.mean, rel=1e-5)
    by_column = report.log_likelihood_per_column
    means = [total.mean for total in by_column.values()]
    assert sum(means) == pytest.approx(-report.distortion.mean, rel=1e-5)
    assert list(by_column) == [column.name for column in table().columns]


def test_a_unit_that_ignores_the_data_is_not_active() -> None:
    model = random_model(table())
    with torch.no_grad():
        model.head.weight[1] = 0

    report = evaluate(model, [(X, KEYS)], samples=1, seed=0)
    assert report.activity[1] == pytest.approx(0, abs=1e-9)
    assert report.active_units == 2


def test_grey_pictures_are_binarized_by_row_key() -> None:
    model, x = random_model(pictures()), grey(40)
    keys = torch.arange(40)
    whole = evaluate(model, [(x, keys)], samples=1, seed=2)
    turned = evaluate(model, [(x.flip(0), keys.flip(0))], samples=1, seed=2)

    assert turned.elbo.mean == pytest.approx(whole.elbo.mean, rel=1e-6)
    assert evaluate(model, [(x, keys)], samples=1, seed=3).elbo.mean != whole.elbo.mean


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        evaluate(MODEL, [], samples=1, seed=0)
