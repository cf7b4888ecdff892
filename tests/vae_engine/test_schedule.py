"""Rates and weights of the KL, as functions of the step."""

import pytest

from tests.vae_engine.rows import plan
from vae_engine.schedule import beta, free_nats, learning_rate, warmed_up


def test_a_constant_rate_needs_no_length() -> None:
    assert learning_rate(plan(learning_rate=0.3), 10**6, None) == 0.3


def test_a_cosine_falls_from_the_rate_to_nothing() -> None:
    rates = [
        learning_rate(plan(learning_rate=0.3, schedule="cosine"), k, 100) for k in range(101)
    ]

    assert rates[0] == 0.3
    assert rates[50] == pytest.approx(0.15)
    assert rates[100] == pytest.approx(0)
    assert rates == sorted(rates, reverse=True)


def test_burdas_stages_are_three_times_as_long_each() -> None:
    """B27: 3280 epochs in stages of 3^i, at the rates the paper rounds to."""
    settled = plan(learning_rate=1e-3, schedule="iwae")
    rates = [learning_rate(settled, k, 3280) for k in range(3280)]
    lengths = [rates.count(rate) for rate in dict.fromkeys(rates)]

    assert lengths == [1, 3, 9, 27, 81, 243, 729, 2187]
    assert [round(rate, 5) for rate in dict.fromkeys(rates)] == [
        1e-3, 7.2e-4, 5.2e-4, 3.7e-4, 2.7e-4, 1.9e-4, 1.4e-4, 1e-4
    ]  # fmt: skip
    assert learning_rate(plan(learning_rate=1e-3, schedule="iwae"), 4000, 3280) == rates[-1]


def test_nats_are_free_as_long_as_the_plan_says() -> None:
    assert [free_nats(plan(free_nats=0.5, free_steps=2), k) for k in range(4)] == [
        0.5,
        0.5,
        0,
        0,
    ]
    assert free_nats(plan(free_nats=0.5), 10**6) == 0.5
    assert free_nats(plan(), 0) == 0


def test_warm_up_is_a_line_to_beta() -> None:
    assert [beta(plan(beta=2.0, warmup_steps=4), k) for k in range(6)] == [0.5, 1, 1.5, 2, 2, 2]
    assert [warmed_up(plan(warmup_steps=4), k) for k in range(5)] == [False] * 3 + [True] * 2
    assert warmed_up(plan(), 0)
    assert beta(plan(), 0) == 1
