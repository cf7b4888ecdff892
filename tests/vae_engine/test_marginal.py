"""log p(x): the constants, the chunks and the order change nothing."""

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.exact import LinearGaussian, draws
from tests.mutants import mutant
from vae_engine import marginal
from vae_engine.diagnostics import effective_samples, log_mean_stderr, pareto_k
from vae_engine.marginal import estimate_log_marginal, log_marginal, summarize

close = torch.testing.assert_close
KEYS = torch.arange(100, 112)


def constant_weights_give_that_constant(m: ModuleType) -> None:
    """B13, B14: for every number of samples and every size of chunk."""
    for sizes in ([1], [10], [4, 4, 2], [300, 300, 300, 100]):
        chunks = [torch.full((n, 3), -97.25) for n in sizes]
        close(m.log_marginal(chunks), torch.full((3,), -97.25))


def every_chunk_counts(m: ModuleType) -> None:
    """B7: the last one is not the only one."""
    chunks = [torch.full((2, 1), 0.0), torch.full((2, 1), -1000.0)]
    close(m.log_marginal(chunks), torch.tensor([math.log(0.5)]))
    close(m.log_marginal(chunks[::-1]), torch.tensor([math.log(0.5)]))


LAWS = [constant_weights_give_that_constant, every_chunk_counts]
MUTANTS = {
    "divisor dropped": ("self.log_sum - math.log(self.samples)", "self.log_sum"),
    "divisor counts chunks": ("self.samples + len(log_w)", "self.samples + 1"),
    "mean of chunk means (B6)": (
        "torch.logaddexp(self.log_sum, log_w.logsumexp(0))",
        "torch.logaddexp(self.log_sum, log_w.logsumexp(0) - math.log(len(log_w)))",
    ),
    "sum of logs": (
        "torch.logaddexp(self.log_sum, log_w.logsumexp(0))",
        "self.log_sum.nan_to_num(neginf=0) + log_w.logsumexp(0)",
    ),
    "last chunk only (B7)": (
        "torch.logaddexp(self.log_sum, log_w.logsumexp(0))",
        "log_w.logsumexp(0)",
    ),
}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: object) -> None:
    assert callable(law)
    law(marginal)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_breaks_a_law(name: str) -> None:
    changed = mutant(marginal, *MUTANTS[name])
    broken = 0
    for law in LAWS:
        try:
            law(changed)
        except AssertionError:
            broken += 1

    assert broken


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(0, 2**16))
def test_chunking_does_not_change_the_estimate(sizes: list[int], seed: int) -> None:
    log_w = draws(sum(sizes), 3, seed=seed) * 30

    close(log_marginal(log_w.split(sizes)), log_marginal([log_w]))


@given(st.floats(-1e4, 1e4), st.integers(0, 2**16))
def test_a_shift_of_the_weights_shifts_the_estimate(shift: float, seed: int) -> None:
    log_w = draws(9, 3, seed=seed)

    close(log_marginal([log_w + shift]), log_marginal([log_w]) + shift)


def test_the_summary_is_that_of_all_weights_at_once() -> None:
    log_w = draws(1000, 4) * 2
    found = summarize(log_w.split([300, 300, 300, 100]), samples=1000)

    effective = effective_samples(log_w)
    close(found.ess, effective)
    close(found.stderr, log_mean_stderr(effective, 1000))
    close(found.pareto_k, pareto_k(log_w))


def test_a_k_of_more_weights_than_announced_is_not_given() -> None:
    found = summarize([draws(100, 2)], samples=50)

    assert found.pareto_k.isnan().all()
    close(found.ess, effective_samples(draws(100, 2)))


def test_sums_are_taken_in_float64_and_given_back_as_they_came() -> None:
    """A million float32 weights of 1: a float32 sum of chunks drifts."""
    found = summarize([torch.full((1000, 1), -0.1)] * 1000, samples=0)

    assert found.log_marginal_nats.dtype == torch.float32
    close(found.log_marginal_nats, torch.tensor([-0.1]), rtol=0, atol=1e-8)


def test_no_weights_is_an_error() -> None:
    with pytest.raises(ValueError, match="log_marginal needs at least one chunk"):
        log_marginal([])


def test_an_exact_posterior_needs_one_sample() -> None:
    exact = LinearGaussian(features=5, latents=3)
    x = exact.sample(12)
    found = estimate_log_marginal(exact, x, KEYS, samples=30, seed=0)

    close(found.log_marginal_nats, exact.log_marginal(x))
    close(found.ess, torch.full((12,), 30.0).double())
    assert (found.stderr < 1e-6).all()


@given(st.permutations(range(12)), st.integers(1, 12), st.integers(5, 70))
@settings(max_examples=20)
def test_order_and_chunks_change_nothing(order: list[int], rows: int, samples: int) -> None:
    loose = LinearGaussian(features=5, latents=3, off=0.5)
    x, index = loose.sample(12), torch.tensor(order)
    whole = estimate_log_marginal(
        loose, x, KEYS, samples=64, seed=3, rows_per_chunk=12, samples_per_chunk=64
    )
    parts = estimate_log_marginal(
        loose,
        x[index],
        KEYS[index],
        samples=64,
        seed=3,
        rows_per_chunk=rows,
        samples_per_chunk=samples,
    )

    for there, here in zip(whole, parts, strict=True):
        close(here, there[index], equal_nan=True)


def test_the_estimate_rises_to_the_marginal() -> None:
    """Means over 12 rows x 200 seeds; off = 1 makes log w vary by 3: the gaps are far larger
    than their errors (0.04 at 1 sample), and at 2,000 samples the bias is below 0.02."""
    loose = LinearGaussian(features=5, latents=3, off=1.0)
    x = loose.sample(12).repeat(200, 1)
    keys = torch.arange(2400)
    one, ten, many = (
        estimate_log_marginal(
            loose, x, keys, samples=s, seed=0, rows_per_chunk=2400
        ).log_marginal_nats.mean()
        for s in (1, 10, 2000)
    )
    truth = loose.log_marginal(x).mean()

    assert one + 0.5 < ten + 0.2 < many < truth + 0.01
    assert many > truth - 0.02


def test_estimates_are_within_their_errors_and_intervals_hold_the_truth() -> None:
    """200 rows, 20 seeds: each seed's sum within 3 of its errors; 90 to 99 % coverage.

    The error of a sum is the root of the summed squares. Its bias is half the square of a row's
    error (0.024 at 2,000 samples) for each row: a sixth of the error of the sum.
    """
    loose = LinearGaussian(features=5, latents=3, off=0.5)
    x, keys = loose.sample(200), torch.arange(200)
    truth = loose.log_marginal(x)
    held = []
    for seed in range(20):
        found = estimate_log_marginal(loose, x, keys, samples=2000, seed=seed)
        error = found.log_marginal_nats - truth
        assert abs(error.sum().item()) < 3 * found.stderr.square().sum().sqrt().item()
        held.append((error.abs() < 1.96 * found.stderr).double().mean().item())

    assert 0.90 < sum(held) / 20 < 0.99


def test_no_rows_is_an_error() -> None:
    exact = LinearGaussian(features=5, latents=3)

    with pytest.raises(ValueError, match="at least one row"):
        estimate_log_marginal(exact, exact.sample(0), KEYS[:0], samples=5, seed=0)
