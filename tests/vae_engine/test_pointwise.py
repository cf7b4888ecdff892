"""Compiled functions of one number, beside float64."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from vae_engine.networks import ACTIVATIONS
from vae_engine.pointwise import NAMES, activate, exponential, log_of_one_and
from vae_engine.written_out import COMPILED as COMPILED_ACTIVATIONS

NUMBERS = np.linspace(-87, 88, 20_001).astype(np.float32)


def applied(kind: str, x: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], ...]:
    y = np.array(x, np.float32)
    bend = np.full_like(y, 7)
    activate(NAMES.index(kind), y, bend)
    return y, bend


def test_exponential_keeps_its_digits() -> None:
    found = np.array([exponential(x) for x in NUMBERS])

    np.testing.assert_allclose(found, np.exp(NUMBERS.astype(np.float64)), rtol=2e-7)


@pytest.mark.parametrize(("x", "ends"), [(-1e30, -87.0), (1e30, 88.0)])
def test_exponential_stays_in_the_range_of_normal_numbers(x: float, ends: float) -> None:
    assert exponential(np.float32(x)) == exponential(np.float32(ends))
    assert np.isfinite(exponential(np.float32(x)))


def test_logarithm_keeps_its_digits() -> None:
    small = np.concatenate([np.linspace(0, 1, 10_001), np.logspace(-30, 0, 2_001)]).astype("f4")
    found = np.array([log_of_one_and(e) for e in small])

    np.testing.assert_allclose(found, np.log1p(small.astype(np.float64)), rtol=3e-7)


@pytest.mark.parametrize("kind", NAMES[1:])
def test_activations_and_their_slopes_are_those_of_the_networks(kind: str) -> None:
    """To what a sum of numbers near 1 loses of a small one: 4e-7 of 1, not of itself."""
    x = torch.linspace(-30, 30, 4_001, dtype=torch.float64, requires_grad=True)
    y = ACTIVATIONS[kind]()(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    found, bend = applied(kind, x.detach().numpy())

    np.testing.assert_allclose(found, y.detach(), rtol=4e-7, atol=4e-7)
    np.testing.assert_allclose(bend, slope, rtol=4e-7, atol=4e-7)


def test_without_an_activation_nothing_is_touched() -> None:
    found, bend = applied("none", [-1, 2])

    assert found.tolist() == [-1, 2]
    assert bend.tolist() == [7, 7]


@pytest.mark.parametrize("kind", NAMES[1:])
def test_what_is_not_a_number_stays_none(kind: str) -> None:
    """Divergence is found by it."""
    found, _ = applied(kind, [1.0, np.nan, *[0.5] * 14])

    assert np.isnan(found).tolist() == [False, True, *[False] * 14]
    assert np.isnan(exponential(np.float32("nan")))


def test_what_is_chosen_by_name_is_there() -> None:
    assert set(COMPILED_ACTIVATIONS) == set(NAMES[1:])
