"""The gradient written out is that of autograd, and its steps lead to the same weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.vae_engine.processor import needs_halves
from tests.vae_engine.rows import MIXED, pictures, plan, random_model, sampled, table
from vae_engine import products
from vae_engine.config import ACTIVATIONS, Column, ModelConfig, TrainingPlan
from vae_engine.explicit import ExplicitGradient, applies
from vae_engine.objectives import elbo, elbo_weighted
from vae_engine.optimizers import build_optimizer, fused_update
from vae_engine.training import Batch, TrainState, new_state, train_step

ROWS = 200  # two shares
VECTOR = ModelConfig(
    columns=(Column(name="v", likelihood="gaussian", width=5),), latents=3, hidden=(16,)
)


def found(
    config: ModelConfig, settled: TrainingPlan, workers: int | None = None
) -> list[Tensor]:
    """Gradients of one step by parameter, and behind them the objective and the norm."""
    model = random_model(config)
    x, noise = rows_and_noise(config, settled)
    optimizer = build_optimizer(model.parameters(), settled)
    gradient = ExplicitGradient(model, settled, optimizer, workers)
    reported = gradient.differentiate(x, noise, 0, torch.Generator())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [*gradients, *map(torch.tensor, reported)]


def rows_and_noise(config: ModelConfig, settled: TrainingPlan) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(settled.samples, ROWS, config.latents, generator=generator)
    return sampled(config, ROWS), noise


@pytest.mark.parametrize("least_terms", [0, 10_000_000])  # 0: all products by oneDNN
@pytest.mark.parametrize(
    ("config", "settings"),
    [
        *((pictures(activation=name, hidden=(16, 8)), {}) for name in ACTIVATIONS),
        (pictures(), {"samples": 3, "beta": 0.3}),
        (pictures(hidden=()), {}),
        (VECTOR, {"samples": 2}),
        (replace(VECTOR, principal_components=2), {}),
        (pictures(principal_components=4), {}),
        (table(), {"beta": 2.0}),
        (table(), {"free_nats": 10.0}),  # some latents cost more, and some less
        (VECTOR, {"free_nats": 0.5, "beta": 0.5, "samples": 2}),
        (VECTOR, {"free_nats": 0.5, "free_steps": 1}),
        (table(columns=MIXED[2:3]), {}),  # one binary column: it may be missing
    ],
)
def test_gradients_are_those_of_autograd(
    config: ModelConfig,
    settings: dict[str, Any],
    least_terms: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "least_terms", lambda: least_terms)
    settled = plan(batch_rows=ROWS, **settings)
    *gradients, value, norm = found(config, settled)
    model = random_model(config)
    x, noise = rows_and_noise(config, settled)
    objective = elbo_weighted(
        model, x, noise, beta=settled.beta, free_nats=settled.free_nats
    ).mean()
    expected = torch.autograd.grad(-objective, list(model.parameters()))

    for (name, _), one, other in zip(
        model.named_parameters(), gradients, expected, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5, msg=name)
    torch.testing.assert_close(value, objective.detach(), rtol=1e-5, atol=1e-5)
    length = torch.cat([gradient.flatten() for gradient in expected]).norm()
    torch.testing.assert_close(norm, length, rtol=1e-4, atol=0)


@needs_halves
@pytest.mark.parametrize("samples", [1, 3])
def test_half_precision_rounds_large_products_alone(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two digits and a half of each factor: as near to the gradient as autocast comes."""
    monkeypatch.setattr(products, "least_terms", lambda: 0)
    config = pictures(hidden=(64,), activation="tanh")
    full, half = (
        torch.cat([part.flatten() for part in found(config, settled)[:-2]])
        for settled in (
            plan(batch_rows=ROWS, samples=samples, precision=p) for p in ("float32", "bfloat16")
        )
    )
    model, settled = random_model(config), plan(batch_rows=ROWS, samples=samples)
    x, noise = rows_and_noise(config, settled)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective = elbo_weighted(model, x, noise, beta=1.0).mean()
    by_autocast = torch.autograd.grad(-objective, list(model.parameters()))
    error = (half - full).norm() / full.norm()
    usual = (torch.cat([part.flatten() for part in by_autocast]) - full).norm() / full.norm()

    assert 0 < error < min(0.01, 1.5 * usual)


@pytest.mark.parametrize("least_terms", [0, 10_000_000])  # 0: all products by oneDNN
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad"])
def test_training_goes_where_autograd_goes(
    optimizer: str, least_terms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipped too: the norm of these gradients is above 5."""
    monkeypatch.setattr(products, "least_terms", lambda: least_terms)
    settings = {"batch_rows": ROWS, "optimizer": optimizer, "clip_norm": 5.0}
    config = pictures(activation="tanh")
    written_out, generic = (new_state(config, plan(**settings)) for _ in range(2))
    generic.explicit = None
    x = sampled(config, ROWS)
    for _ in range(5):
        for state in (written_out, generic):
            train_step(state, Batch(x))

    assert written_out.explicit is not None
    for one, other in zip(
        written_out.model.parameters(), generic.model.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("least_terms", [0, 10_000_000])
@pytest.mark.parametrize("config", [pictures(hidden=(16, 8)), table()])
def test_the_number_of_workers_changes_no_bit(
    config: ModelConfig, least_terms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "least_terms", lambda: least_terms)
    alone, three = (found(config, plan(batch_rows=ROWS), workers) for workers in (1, 3))

    assert all(torch.equal(one, other) for one, other in zip(alone, three, strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_workers_may_be_more_than_layers(optimizer: str) -> None:
    """Four shares of rows, and two layers: two of the workers have none to move."""
    settings = {"batch_rows": ROWS, "optimizer": optimizer, "clip_norm": 0.1}
    config = pictures(hidden=())
    one, four = (new_state(config, plan(**settings), workers=k) for k in (1, 4))
    assert isinstance(four.explicit, ExplicitGradient)
    assert four.explicit.workers.count > len(four.explicit.tasks)
    x = sampled(config, ROWS)
    for state in (one, four):
        for _ in range(3):
            train_step(state, Batch(x))

    for a, b in zip(one.model.parameters(), four.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("room", [10, ROWS])
def test_a_short_last_batch_has_its_own_gradient(room: int) -> None:
    """What the batch before it left in the buffers is no part of it, and buffers grow."""
    config = pictures()
    settled = plan(batch_rows=room)
    model = random_model(config)
    x, noise = rows_and_noise(config, settled)
    optimizer = build_optimizer(model.parameters(), settled)
    gradient = ExplicitGradient(model, settled, optimizer, 2)
    gradient.differentiate(x, noise, 0, torch.Generator())
    value, _ = gradient.differentiate(x[:7], noise[:, :7], 0, torch.Generator())
    objective = elbo(model, x[:7], noise[:, :7]).mean()

    assert value == pytest.approx(objective.item(), rel=1e-5)
    (expected,) = torch.autograd.grad(-objective, [model.head.weight])
    torch.testing.assert_close(model.head.weight.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (pictures(), {"objective": "iwae", "samples": 2}),
        (pictures(), {"free_nats": 0.1}),
        (pictures(posterior="full"), {}),
        (pictures(prior="mixture"), {}),
        (pictures(network="conv", hidden=(4,)), {}),
        (table(one_hot_up_to=3), {}),  # categories with learned vectors
    ],
)
def test_what_is_not_written_out_goes_by_autograd(
    config: ModelConfig, settings: dict[str, Any]
) -> None:
    state = new_state(config, plan(**settings))

    assert not applies(state.model, state.plan)
    assert state.gradient is state.autograd


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad"])
def test_a_fused_update_is_the_step_of_its_optimizer(optimizer: str) -> None:
    settled = plan(optimizer=optimizer, weight_decay=0.1 if optimizer == "adamw" else 0.0)
    states: list[TrainState] = []
    for by_hand in (False, True):
        state = new_state(pictures(), settled)
        generator = torch.Generator().manual_seed(0)
        parameters = list(state.model.parameters())
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for rate in (0.1, 0.01):
            if by_hand:
                fused_update(state.optimizer, parameters, settled)(rate)
            else:
                state.optimizer.param_groups[0]["lr"] = rate
                state.optimizer.step()
        states.append(state)
    one, other = (state.model.state_dict() for state in states)

    assert all(torch.equal(one[name], other[name]) for name in one)
