"""Limits hold, and a gradient leads back from beyond them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.vae_engine.rows import MIXED, plan, random_model, sampled, table
from vae_engine.limits import squashed, straightened
from vae_engine.posteriors import DiagonalNormal
from vae_engine.training import Batch, new_state, train_step


@given(st.floats(-1e4, 1e4))
def test_what_is_squashed_stays_within_and_keeps_its_order_and_slope(value: float) -> None:
    x = torch.tensor([value, value + 1], dtype=torch.float64, requires_grad=True)
    y = squashed(x, -11.0, 6.0)
    y.sum().backward()

    assert -11 < y[0] < y[1] < 6
    assert x.grad is not None
    assert (x.grad > 1e-7).all()
    assert (x.grad <= 1).all()


def test_small_numbers_are_hardly_squashed() -> None:
    x = torch.tensor([-0.01, 0.0, 0.01])

    torch.testing.assert_close(squashed(x, -11.0, 6.0), x, rtol=2e-3, atol=0)


@given(st.floats(-1e4, 1e4))
def test_what_is_straightened_is_itself_below_and_a_tangent_of_its_exponential_above(
    value: float,
) -> None:
    x = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    y = straightened(x, 20.0)
    y.backward()

    expected = value if value <= 20 else 20 + torch.tensor(value - 20).log1p().item()
    torch.testing.assert_close(y.item(), expected, rtol=1e-6, atol=1e-9)
    assert x.grad is not None
    assert 0 < x.grad <= 1


def test_a_unit_far_beyond_the_limit_comes_back() -> None:
    """A log stddev that one step threw to 40 (a clamp would hold it there for ever)."""
    config = table(columns=MIXED[:1], hidden=(8,))
    state = new_state(config, plan(learning_rate=0.3))
    with torch.no_grad():
        state.model.head.bias[3] = 40.0
    x = sampled(config, 64)
    before = state.model.posterior(x).stddev[:, 0].mean().item()
    for _ in range(150):
        train_step(state, Batch(x))
    q = state.model.posterior(x)

    assert isinstance(q, DiagonalNormal)
    assert before > 50
    assert q.stddev[:, 0].mean() < 2


def test_a_rate_far_beyond_the_limit_has_a_gradient() -> None:
    model = random_model(table())
    with torch.no_grad():
        model.tail.bias.add_(100)
    log_likelihood = model.log_likelihood(sampled(table(), 8), torch.zeros(1, 8, 3))
    log_likelihood.sum().backward()
    counts = [model.likelihood.outputs_of(k)[0] for k in (4, 5)]

    assert log_likelihood.isfinite().all()
    assert model.tail.bias.grad is not None
    assert (model.tail.bias.grad[counts] < 0).all()
