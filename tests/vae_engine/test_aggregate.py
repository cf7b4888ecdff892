"""The aggregated posterior, and what the latents know."""

import math

import pytest
import torch

from tests.exact import LinearGaussian, draws
from tests.mutants import mutant
from vae_engine import aggregate
from vae_engine.aggregate import log_aggregate, mutual_information
from vae_engine.posteriors import DiagonalNormal

close = torch.testing.assert_close


def weights_sum_to_one(a: object) -> None:
    """B12: a reference of equal posteriors is that posterior, however many there are."""
    one = DiagonalNormal(draws(1, 3), draws(1, 3, seed=1).exp())
    many = DiagonalNormal(one.mean.expand(7, -1), one.stddev.expand(7, -1))
    z = draws(2, 5, 3, seed=2)
    close(a.log_aggregate(many, z), one.log_prob(z))  # type: ignore[attr-defined]


def it_is_the_mixture_of_all(a: object) -> None:
    reference = DiagonalNormal(draws(4, 3), draws(4, 3, seed=1).exp())
    oracle = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=torch.zeros(4).double()),
        torch.distributions.Independent(
            torch.distributions.Normal(reference.mean, reference.stddev), 1
        ),
    )
    z = draws(2, 5, 3, seed=2)
    close(a.log_aggregate(reference, z), oracle.log_prob(z))  # type: ignore[attr-defined]


def others_are_all_rows_but_ones_own(a: object) -> None:
    reference = DiagonalNormal(draws(4, 3), draws(4, 3, seed=1).exp())
    z = draws(2, 4, 3, seed=2)
    found = a.log_aggregate_of_others(reference, z)  # type: ignore[attr-defined]
    for row in range(4):
        rest = [k for k in range(4) if k != row]
        others = DiagonalNormal(reference.mean[rest], reference.stddev[rest])
        alone = a.log_aggregate(others, z[:, row : row + 1])  # type: ignore[attr-defined]
        close(found[:, row : row + 1], alone)


LAWS = [weights_sum_to_one, it_is_the_mixture_of_all, others_are_all_rows_but_ones_own]
MUTANTS = {
    "sum for mean": ("log_mean(log_q, -1)", "log_q.logsumexp(-1)"),
    "mean of logs": ("log_mean(log_q, -1)", "log_q.mean(-1)"),
    "others: of all": ("log_q.scatter(1, own[:, None], -math.inf)", "log_q"),
    "others: of the sample, not of the row": ("% rows", "// samples % rows"),
    "others: as many as all": ("math.log(rows - 1)", "math.log(rows)"),
}


@pytest.mark.parametrize("law", LAWS)
def test_law(law: object) -> None:
    assert callable(law)
    law(aggregate)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_breaks_a_law(name: str) -> None:
    changed = mutant(aggregate, *MUTANTS[name])
    broken = 0
    for law in LAWS:
        try:
            law(changed)
        except AssertionError:
            broken += 1

    assert broken


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = DiagonalNormal(draws(4, 3), draws(4, 3, seed=1).exp())
    z = draws(2, 5, 3, seed=2)
    whole = log_aggregate(reference, z)
    monkeypatch.setattr(aggregate, "PAIRS", 9)

    close(log_aggregate(reference, z), whole)
    others_are_all_rows_but_ones_own(aggregate)


def test_information_is_that_of_a_gaussian_channel() -> None:
    """Under the exact posterior of 1,000 rows I(x; z) = -sum log(posterior variance) / 2: the
    aggregated posterior is the prior. Bias below latents / rows times a few; errors measured."""
    exact = LinearGaussian(features=5, latents=2, scale=1.0)
    found = mutual_information(exact, exact.sample(1000), torch.arange(1000), seed=0)

    truth = -0.5 * exact.variance.log().sum().item()
    for bound in found:
        assert abs(bound.mean - truth) < 4 * bound.stderr + 0.01
    assert found.least.mean < found.most.mean
    assert found.least.rows == found.most.rows == 1000


def test_information_ends_at_the_logarithm_of_the_rows() -> None:
    exact = LinearGaussian(features=5, latents=3, scale=1e-3)
    found = mutual_information(exact, exact.sample(50), torch.arange(50), seed=0)

    truth = -0.5 * exact.variance.log().sum().item()
    assert found.least.mean == pytest.approx(math.log(50), abs=1e-6)
    assert math.log(50) < truth < found.most.mean


@pytest.mark.parametrize("rows", [0, 1])
def test_a_row_alone_is_an_error(rows: int) -> None:
    exact = LinearGaussian(features=5, latents=3)

    with pytest.raises(ValueError, match="at least two rows"):
        mutual_information(exact, exact.sample(rows), torch.arange(rows), seed=0)
