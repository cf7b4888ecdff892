"""Training: the same state gives the same numbers, whatever happened in between."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.vae_engine.rows import MIXED, grey, pictures, plan, sampled, table
from vae_engine import checkpoint
from vae_engine.config import OBJECTIVES, ConfigError
from vae_engine.divergence import DivergedError
from vae_engine.evaluation import evaluate
from vae_engine.model import VAE
from vae_engine.statistics import Statistics
from vae_engine.training import (
    Batch,
    StepReport,
    TrainState,
    batch_indices,
    fit,
    minibatches,
    new_state,
    train_step,
)

KEYS = torch.arange(100)


def trained(x: Tensor, state: TrainState) -> TrainState:
    for _ in fit(state, minibatches(x, state.plan, start_step=state.step)):
        pass
    return state


def weights(model: VAE) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    x = sampled(table(), 50)
    one, two, other = (
        weights(trained(x, new_state(table(), plan(seed=s))).model) for s in (1, 1, 2)
    )

    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_resuming_in_the_middle_of_an_epoch_equals_going_straight_through(
    tmp_path: Path,
) -> None:
    """B26, B27: 50 rows in batches of 16 make epochs of four steps; the run dies after six."""
    x = sampled(table(), 50)
    straight = trained(x, new_state(table(), plan(steps=20)))
    first = trained(x, new_state(table(), plan(steps=6)))
    checkpoint.save(tmp_path, first, {})
    resumed = new_state(table(), plan(steps=20))
    checkpoint.load_latest(tmp_path, resumed)
    trained(x, resumed)

    assert resumed.step == 20
    assert torch.equal(weights(resumed.model), weights(straight.model))


def test_training_raises_the_bound() -> None:
    x = grey(100)
    state = new_state(pictures(), plan(steps=300), Statistics.of(pictures(), x))
    before = evaluate(state.model, [(x, KEYS)], samples=20, seed=0).elbo
    after = evaluate(trained(x, state).model, [(x, KEYS)], samples=20, seed=0).elbo

    assert after.mean > before.mean + 5 * before.stderr


def test_an_epoch_is_a_permutation_of_all_rows_and_a_function_of_seed_and_epoch() -> None:
    """B27: the order differs between epochs and the short last batch is not dropped."""
    epoch = [batch.tolist() for batch in batch_indices(50, 16, seed=1, epoch=0)]

    assert [len(batch) for batch in epoch] == [16, 16, 16, 2]
    assert sorted(row for batch in epoch for row in batch) == list(range(50))
    assert epoch == [batch.tolist() for batch in batch_indices(50, 16, seed=1, epoch=0)]
    assert epoch[2:] == [
        b.tolist() for b in batch_indices(50, 16, seed=1, epoch=0, start_step=2)
    ]
    assert epoch != [batch.tolist() for batch in batch_indices(50, 16, seed=1, epoch=1)]
    assert epoch != [batch.tolist() for batch in batch_indices(50, 16, seed=2, epoch=0)]


def test_a_run_has_as_many_steps_as_its_plan() -> None:
    x = grey(50)

    assert len(list(minibatches(x, plan(steps=7)))) == 7
    assert len(list(minibatches(x, plan(steps=None, epochs=2)))) == 8
    assert len(list(minibatches(x, plan(steps=7), start_step=5))) == 2
    assert not list(minibatches(x, plan(steps=7), start_step=7))


def test_fewer_rows_than_a_batch_still_train() -> None:
    x = grey(5)
    state = trained(x, new_state(pictures(), plan(steps=None, epochs=3)))

    assert state.step == 3


def test_the_loss_does_not_depend_on_how_often_a_row_is_repeated() -> None:
    """B5: a batch of the same rows twice has the same mean bound; the noise is the same too."""
    x = sampled(table(), 8)
    state, again = (new_state(table(), plan()) for _ in range(2))
    one = train_step(state, Batch(x[:1]), report=True)
    other = train_step(again, Batch(x[:1]), report=True)

    assert one == other
    assert isinstance(one, StepReport)
    assert one.objective_nats == pytest.approx(one.elbo_nats, rel=1e-5)
    assert one.elbo_nats == pytest.approx(one.log_likelihood_nats - one.kl_nats, rel=1e-5)


def test_reports_come_every_so_many_steps() -> None:
    state = new_state(pictures(), plan(steps=20))

    steps = [r.step for r in fit(state, minibatches(grey(50), state.plan), report_every=6)]
    assert steps == [6, 12, 18]


@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_a_number_that_is_not_finite_stops_before_the_step_and_says_where(
    activation: str,
) -> None:
    config = table(activation=activation)
    x = sampled(config, 16)
    x[4, 7] = torch.inf
    state = new_state(config, plan())
    before = weights(state.model)

    with pytest.raises(DivergedError) as caught:
        train_step(state, Batch(x))
    message = str(caught.value)
    assert "training diverged at step 1: objective" in message
    assert "worst rows of the batch: 4 (" in message
    assert "infinite cells: change, in 1 rows of the batch, the first of them 4\n" in message
    assert torch.equal(weights(state.model), before)
    assert state.step == 0


def test_a_column_that_no_one_can_model_is_named() -> None:
    """Finite cells, far outside of what the likelihood can give a finite gradient for."""
    x = sampled(table(), 16)
    x[4, 0] = 1e30
    state = new_state(table(activation="tanh"), plan())

    with pytest.raises(DivergedError) as caught:
        train_step(state, Batch(x))
    assert "worst columns: age (-inf)" in str(caught.value)
    assert "worst rows of the batch: 4 (-inf)" in str(caught.value)
    assert "infinite cells" not in str(caught.value)


def test_a_gradient_is_clipped_to_its_norm() -> None:
    x = sampled(table(), 16)
    free, clipped = (new_state(table(), plan(clip_norm=c)) for c in (None, 1e-3))
    one = train_step(free, Batch(x), report=True)
    other = train_step(clipped, Batch(x), report=True)

    assert one is not None
    assert other is not None
    assert one.grad_norm == other.grad_norm  # what is reported is the norm before clipping
    squares = sum(
        p.grad.square().sum() for p in clipped.model.parameters() if p.grad is not None
    )
    assert float(squares) ** 0.5 == pytest.approx(1e-3, rel=1e-4)


OBJECTIVE_SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"objective": name, "samples": 4} for name in OBJECTIVES},
    "miwae": {"objective": "miwae", "samples": 4, "groups": 2},
    "piwae": {"objective": "piwae", "samples": 4, "groups": 2},
    "beta and warm-up": {"beta": 0.5, "warmup_steps": 30},
    "free nats": {"free_nats": 0.1},
    "free nats at first": {"free_nats": 0.1, "free_steps": 10},
    "maximum a posteriori": {"weight_prior": True},
    "adagrad": {"optimizer": "adagrad", "learning_rate": 0.1},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01},
    "moving average": {"average_decay": 0.9},
    "cosine": {"schedule": "cosine"},
}


@pytest.mark.parametrize("name", OBJECTIVE_SETTINGS)
def test_every_way_to_train_raises_its_objective_and_resumes_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    """Means of the first and of the last five of 30 steps; 60 rows, so batches differ little."""
    settings, steps = OBJECTIVE_SETTINGS[name], 2 if name == "mcem" else 30
    weight_kind = "variational" if name == "full_bayes" else "point"
    config = table(columns=MIXED[:3], hidden=(8,), weights=weight_kind)
    x = sampled(config, 60)

    def begun() -> TrainState:
        settled = plan(batch_rows=30, **{"steps": steps, **settings})
        return new_state(config, settled, Statistics.of(config, x), rows=60)

    straight = begun()
    reports = list(fit(straight, minibatches(x, straight.plan), report_every=1))
    nats = [report.objective_nats for report in reports]
    assert sum(nats[-5:]) > sum(nats[:5]) or name == "mcem"

    first = begun()
    for batch in islice(minibatches(x, first.plan), steps // 2):
        train_step(first, batch)
    checkpoint.save(tmp_path, first, {})
    resumed = begun()
    checkpoint.load_latest(tmp_path, resumed)
    trained(x, resumed)
    assert torch.equal(weights(resumed.model), weights(straight.model))
    kept, other = (weights(s.averaged_model()) for s in (resumed, straight))
    assert torch.equal(kept, other)


def test_a_moving_average_follows_the_weights() -> None:
    """The first update counts for 9 / 10, and later ones for less, down to 1 - decay."""
    x = grey(16)
    state = new_state(pictures(), plan(average_decay=0.99))
    first = weights(state.model)
    train_step(state, Batch(x))
    second = weights(state.model)

    torch.testing.assert_close(weights(state.averaged_model()), 0.1 * first + 0.9 * second)
    assert state.averaged_model() is not state.model
    assert new_state(pictures(), plan()).averaged_model().config == pictures()


def test_a_prior_over_weights_pulls_by_one_nth() -> None:
    """MAP: the gradient of the mean bound differs by -theta / N, for the generative weights alone."""
    x = sampled(table(), 16)
    plain, pulled = (
        new_state(table(), plan(weight_prior=w, clip_norm=None), rows=40) for w in (False, True)
    )
    before = {name: p.detach().clone() for name, p in plain.model.named_parameters()}
    for state in (plain, pulled):
        train_step(state, Batch(x))
    generative = plain.model.generative_parameters()
    for (name, one), two in zip(
        plain.model.named_parameters(), pulled.model.parameters(), strict=True
    ):
        if one.grad is None or two.grad is None:
            continue
        expected = before[name] / 40 if name in generative else torch.zeros_like(before[name])
        torch.testing.assert_close(two.grad - one.grad, expected, rtol=1e-4, atol=1e-5)


def test_rates_are_those_of_the_schedule() -> None:
    x = grey(16)
    state = new_state(pictures(), plan(steps=4, schedule="cosine", learning_rate=0.01))
    rates = [r.learning_rate for r in fit(state, minibatches(x, state.plan), report_every=1)]

    assert rates == pytest.approx([0.01, 0.01 * 0.853553, 0.005, 0.01 * 0.146447], rel=1e-5)


def test_the_report_has_the_plain_bound_whatever_is_maximized() -> None:
    """B25: a warm-up of the KL moves the objective and not the ELBO that selects models."""
    x = sampled(table(), 16)
    plain, warm = (new_state(table(), plan(warmup_steps=w)) for w in (0, 10))
    one, two = (train_step(s, Batch(x), report=True) for s in (plain, warm))

    assert one is not None
    assert two is not None
    assert one.elbo_nats == two.elbo_nats
    assert two.objective_nats == pytest.approx(
        two.log_likelihood_nats - 0.1 * two.kl_nats, rel=1e-5
    )


@pytest.mark.parametrize(
    ("config", "settings", "fault"),
    [
        ({}, {"objective": "full_bayes"}, "do not go together"),
        ({"weights": "variational"}, {}, "do not go together"),
        ({}, {"weight_prior": True}, "needs the number of training rows"),
        ({}, {"steps": None, "epochs": 2, "schedule": "cosine"}, "needs the number of rows"),
        ({"prior": "mixture"}, {"free_nats": 0.1}, "free_nats needs a KL of each latent"),
    ],
)
def test_plans_that_cannot_train_a_model_are_refused(
    config: dict[str, Any], settings: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        new_state(table(**config), plan(**settings))


def test_half_precision_keeps_densities_in_full() -> None:
    x = sampled(table(), 16)
    full, half = (new_state(table(), plan(precision=p)) for p in ("float32", "bfloat16"))
    exact, rough = (train_step(s, Batch(x), report=True) for s in (full, half))

    assert exact is not None
    assert rough is not None
    assert rough.elbo_nats == pytest.approx(exact.elbo_nats, rel=0.02)
