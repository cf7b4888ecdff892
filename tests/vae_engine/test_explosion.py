"""A training that has left for good is noticed; one that is rough, or only slow, is not."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.vae_engine.rows import pictures, plan, sampled, table
from vae_engine import checkpoint
from vae_engine.divergence import ExplodedError
from vae_engine.explosion import WINDOW, Watch
from vae_engine.training import Batch, TrainState, fit, new_state, train_step


def when(*objectives: float) -> int | None:
    """The step at which the watch has seen an explosion."""
    watch = Watch()
    return next((k for k, nats in enumerate(objectives) if watch.exploded(nats)), None)


def test_an_objective_that_stays_far_below_its_best_has_exploded() -> None:
    """Once more than half of the window is bad."""
    assert when(*[-100.0] * 40, *[-5000.0] * 40) == 40 + WINDOW // 2


def test_a_first_step_that_ruins_everything_is_noticed() -> None:
    """What it was before any weight moved is what it is compared with."""
    assert when(-100.0, *[-1e9] * 40) == WINDOW - 1


def test_bad_batches_are_no_explosion() -> None:
    assert when(*([-100.0] * 9 + [-1e9]) * 20) is None


def test_a_training_that_gets_a_little_worse_is_no_explosion() -> None:
    """A KL that is warmed up costs its nats; bounds near 0, and above it, have room too."""
    assert when(*[-100.0 - k for k in range(300)]) is None
    assert when(*[0.5 - k / 40 for k in range(300)]) is None
    assert when(*[30.0 - k / 3 for k in range(300)]) is None


def test_a_warm_up_that_ends_far_below_where_it_began_is_no_explosion() -> None:
    """At weight 0 the KL is free: an objective near 0 says nothing about the bound to come."""
    watch = Watch()
    warming = [watch.exploded(-10.0 * (k == 0), warmed_up=False) for k in range(60)]

    assert not any(warming)
    assert not any(watch.exploded(-60.0) for _ in range(60))
    assert any(watch.exploded(-1e4) for _ in range(60))


def test_far_too_high_a_rate_ends_in_an_error_that_says_where() -> None:
    x = sampled(pictures(), 50)
    state = new_state(pictures(), plan(learning_rate=1e3))

    with pytest.raises(ExplodedError, match=r"(?s)diverged at step \d+: .*times worse"):
        list(fit(state, [Batch(x)] * 200))
    assert state.step >= WINDOW - 1


def test_the_watch_and_the_factor_of_the_rate_survive_a_resume(tmp_path: Path) -> None:
    def begun() -> TrainState:
        return new_state(table(), plan())

    x, state = sampled(table(), 16), begun()
    state.rate_factor, state.parts.count = 0.25, 2
    report = train_step(state, Batch(x), report=True)
    assert report is not None
    assert report.learning_rate == 0.25 * state.plan.learning_rate
    assert report.parts == 2
    saved = checkpoint.save(tmp_path, state, {})
    resumed = begun()
    checkpoint.load_latest(tmp_path, resumed)

    assert resumed.watch == state.watch == Watch([report.objective_nats], report.objective_nats)
    assert (resumed.rate_factor, resumed.parts.count) == (0.25, 2)
    description = json.loads((saved / "state.json").read_text())
    assert description["course"]["watch"] == dataclasses.asdict(state.watch)


def test_a_state_takes_up_where_another_is() -> None:
    x = sampled(pictures(), 16)
    one, other = (new_state(pictures(), plan(average_decay=0.9)) for _ in range(2))
    for _ in range(3):
        train_step(one, Batch(x))
    other.take(one)
    reports = [train_step(state, Batch(x), report=True) for state in (one, other)]

    assert reports[0] == reports[1]
    assert reports[0] is not None
    assert reports[0].step == 4
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
