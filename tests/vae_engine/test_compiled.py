"""The compiled gradient is that of autograd, and its steps lead to the same weights."""

import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.vae_engine.rows import PICTURE, pictures, plan, random_model, sampled
from vae_engine import compiled as compiled_gradient
from vae_engine import written_out
from vae_engine.compiled import CompiledGradient
from vae_engine.compiled_step import SGEMM
from vae_engine.config import ModelConfig, TrainingPlan
from vae_engine.divergence import DivergedError
from vae_engine.model import VAE
from vae_engine.native import SCIPYS, pytorchs
from vae_engine.objectives import elbo_weighted
from vae_engine.optimizers import build_optimizer
from vae_engine.training import Batch, TrainState, fit, minibatches, new_state, train_step
from vae_engine.written_out import COMPILED

ROWS = 197  # four shares, not all alike
LARGE = replace(PICTURE, width=400, image=(20, 20, 1))  # wide enough to share columns
WIDE = pictures(columns=(LARGE,), hidden=(200, 30), activation="tanh")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small steps are compiled too."""
    monkeypatch.setattr(written_out, "LEAST_TERMS", 0)


def gradient_of(
    model: VAE, settled: TrainingPlan, threads: int, *, shared: bool = False
) -> CompiledGradient:
    optimizer = build_optimizer(model.parameters(), settled)
    return CompiledGradient(model, settled, optimizer, threads, shared=shared)


def rows_and_noise(config: ModelConfig, settled: TrainingPlan) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(settled.samples, ROWS, config.latents, generator=generator)
    return sampled(config, ROWS), noise


def check(
    model: VAE, x: Tensor, noise: Tensor, found: tuple[float, float], beta: float = 1.0
) -> None:
    """Compare the gradients of a model's parameters, and what was returned, with autograd's."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    objective = elbo_weighted(model, x, noise, beta=beta).mean()
    expected = torch.autograd.grad(-objective, parameters)
    for name, parameter, other in zip(names, parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, other, rtol=1e-4, atol=2e-5, msg=name)
    length = torch.cat([gradient.flatten() for gradient in expected]).norm()
    assert found[0] == pytest.approx(objective.item(), rel=1e-5)
    assert found[1] == pytest.approx(length.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("threads", "shared"), [(1, False), (2, False), (3, False), (1, True), (2, True)]
)
@pytest.mark.parametrize(
    ("config", "settings"),
    [
        *((pictures(activation=name, hidden=(16, 8)), {}) for name in COMPILED),
        (WIDE, {}),
        (WIDE, {"samples": 3, "beta": 0.3}),
        (pictures(hidden=()), {"samples": 2}),
    ],
)
def test_gradients_are_those_of_autograd(
    config: ModelConfig, settings: dict[str, Any], threads: int, shared: bool
) -> None:
    settled = plan(batch_rows=ROWS, **settings)
    model = random_model(config, spread=0.1)
    x, noise = rows_and_noise(config, settled)
    gradient = gradient_of(model, settled, threads, shared=shared)

    check(model, x, noise, gradient.differentiate(x, noise, 0, torch.Generator()), settled.beta)


@pytest.mark.parametrize("cpu", ["AuthenticAMD avx2", "AuthenticAMD avx512f", "GenuineIntel"])
def test_any_library_may_multiply(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_gradient, "processor", lambda: cpu)
    settled = plan(batch_rows=ROWS)
    model = random_model(WIDE, spread=0.1)
    x, noise = rows_and_noise(WIDE, settled)
    gradient = gradient_of(model, settled, 2)

    check(model, x, noise, gradient.differentiate(x, noise, 0, torch.Generator()))
    wide = "avx512f" in cpu
    assert (gradient.order[SGEMM] == SCIPYS) == (wide or pytorchs() is None)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("samples", [1, 3])
def test_the_number_of_workers_changes_no_bit(samples: int) -> None:
    """Four or eight shares of rows, and the head has fewer outputs than shares."""
    settled = plan(batch_rows=200, samples=samples, clip_norm=5.0)
    x = sampled(WIDE, 200)
    states = [new_state(WIDE, settled, workers=workers) for workers in (1, 2, 3)]
    for state in states:
        for batch in (Batch(x), Batch(x[:97])):
            train_step(state, batch)

    assert [getattr(state.explicit, "threads", None) for state in states] == [1, 2, 3]
    assert torch.equal(weights(states[0]), weights(states[1]))
    assert torch.equal(weights(states[0]), weights(states[2]))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("room", [10, ROWS])
def test_a_short_last_batch_has_its_own_gradient(room: int, shared: bool) -> None:
    """What the batch before it left in the arrays is no part of it, and arrays grow."""
    settled = plan(batch_rows=room, samples=2)
    model = random_model(WIDE, spread=0.1)
    x, noise = rows_and_noise(WIDE, settled)
    gradient = gradient_of(model, settled, 2, shared=shared)
    check(model, x, noise, gradient.differentiate(x, noise, 0, torch.Generator()))
    x, noise = x[:7], noise[:, :7]

    check(model, x, noise, gradient.differentiate(x, noise, 0, torch.Generator()))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.1, "betas": (0.5, 0.9), "epsilon": 1e-4},
        {"clip_norm": 5.0},  # the norm of these gradients is above
        {"average_decay": 0.5},
    ],
)
def test_training_goes_where_autograd_and_pytorch_go(settings: dict[str, Any]) -> None:
    ours, generic = (new_state(WIDE, plan(batch_rows=ROWS, **settings)) for _ in range(2))
    assert isinstance(ours.explicit, CompiledGradient)
    generic.explicit = None
    x = sampled(WIDE, ROWS)
    for _ in range(5):
        norms = [
            r.grad_norm for s in (ours, generic) if (r := train_step(s, Batch(x), report=True))
        ]

    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert norms[0] > 5
    models = (state.averaged_model() for state in (ours, generic))
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("compiled")
def test_weights_have_moved_when_a_report_comes() -> None:
    """Between reports a thread may still move them while the next batch is fetched."""
    settled = plan(batch_rows=10, steps=8)
    x = sampled(WIDE, 45)  # batches of 10, and one of 5
    one, other = new_state(WIDE, settled), new_state(WIDE, settled)
    seen = [weights(one) for _ in fit(one, minibatches(x, settled), report_every=2)]
    stepped = [(train_step(other, batch), weights(other)) for batch in minibatches(x, settled)]

    assert len(seen) == 4
    assert all(map(torch.equal, seen, [after for _, after in stepped[1::2]]))
    assert torch.equal(weights(one), weights(other))


def weights(state: TrainState) -> Tensor:
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


@pytest.mark.usefixtures("compiled")
def test_a_run_that_goes_on_from_another_ends_in_the_same_bits() -> None:
    """Loading moments puts others in the place of those that were there."""
    settled = plan(batch_rows=10, steps=6)
    x = sampled(WIDE, 40)
    whole, first, second = (new_state(WIDE, settled) for _ in range(3))
    batches = list(minibatches(x, settled))
    for batch in batches:
        train_step(whole, batch)
    for batch in batches[:3]:
        train_step(first, batch)
        train_step(second, batch)
    train_step(second, batches[3])  # and is thrown away
    second.take(first)
    for batch in batches[3:]:
        train_step(second, batch)

    assert torch.equal(weights(second), weights(whole))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", ["encoder.layers.0.weight", "tail.bias"])
def test_what_is_not_a_number_stops_the_training_before_anything_moves(name: str) -> None:
    state = new_state(WIDE, plan(batch_rows=10))
    with torch.no_grad():
        dict(state.model.named_parameters())[name].view(-1)[3] = torch.nan
    before = weights(state)
    x = sampled(WIDE, 10)
    x[:, 0] = 255.0  # a pixel that the first weight is for

    with pytest.raises(DivergedError):
        train_step(state, Batch(x))
    torch.testing.assert_close(weights(state), before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("compiled")
def test_autograd_may_take_a_step_in_between() -> None:
    """As it does where memory is short; it leaves no gradient behind."""
    state = new_state(WIDE, plan(batch_rows=ROWS))
    batch = Batch(sampled(WIDE, ROWS))
    train_step(state, batch)
    state.parts.count = 2
    train_step(state, batch)
    state.parts.count = 1
    assert state.explicit is not None
    x, noise = rows_and_noise(WIDE, state.plan)
    found = state.explicit.differentiate(x, noise, 2, torch.Generator())

    check(state.model, x, noise, found)


def test_threads_end_with_their_gradient() -> None:
    before = set(threading.enumerate())
    settled = plan(batch_rows=ROWS)
    gradient = gradient_of(random_model(WIDE), settled, 2)
    x, noise = rows_and_noise(WIDE, settled)
    gradient.differentiate(x, noise, 0, torch.Generator())
    time.sleep(0.1)  # the other thread goes home
    gradient.differentiate(x, noise, 0, torch.Generator())
    gradient.update(0.1, 1.0)
    gradient.settle()
    (thread,) = set(threading.enumerate()) - before
    del gradient
    thread.join(timeout=30)

    assert not thread.is_alive()
