"""Early stopping follows one bound and survives a restart."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from vae_engine.stopping import EarlyStopping


def test_the_first_validation_is_the_best_so_far_however_bad() -> None:
    """B26: there is no best before it."""
    stopping = EarlyStopping(patience=2)

    assert stopping.offer(10, -1e30)
    assert (stopping.best_nats, stopping.best_step) == (-1e30, 10)


def test_patience_counts_validations_without_a_better_one() -> None:
    stopping = EarlyStopping(patience=2)
    offers = [stopping.offer(k, nats) for k, nats in enumerate([-5.0, -4.0, -4.0, math.nan])]

    assert offers == [True, True, False, False]
    assert stopping.exhausted
    assert stopping.best_step == 1
    assert stopping.offer(9, -3.0)
    assert not stopping.exhausted


def test_no_validation_of_the_warm_up_counts_against_patience() -> None:
    """Weights that are not yet trained for the bound may well lower it."""
    stopping = EarlyStopping(patience=2, after_step=5)
    for step, nats in enumerate([-4.0, -5.0, -6.0, -7.0, -8.0, -9.0, -8.5]):
        stopping.offer(step, nats)

    assert not stopping.exhausted
    assert stopping.best_step == 0
    stopping.offer(7, -8.0)
    assert stopping.exhausted


def test_without_patience_it_never_ends() -> None:
    stopping = EarlyStopping(patience=None)
    for k in range(100):
        stopping.offer(k, -float(k))

    assert not stopping.exhausted
    assert stopping.best_step == 0


@given(st.lists(st.floats(-1e3, 0), max_size=12), st.integers(0, 12))
def test_a_restart_changes_nothing(values: list[float], at: int) -> None:
    straight, first = EarlyStopping(patience=3), EarlyStopping(patience=3)
    for k, nats in enumerate(values):
        straight.offer(k, nats)
    for k, nats in enumerate(values[:at]):
        first.offer(k, nats)
    resumed = EarlyStopping.from_mapping(json.loads(json.dumps(first.to_mapping())), patience=3)
    for k, nats in enumerate(values[at:], start=len(values[:at])):
        resumed.offer(k, nats)

    assert resumed == straight
