"""Where a batch does not fit into memory, it is taken in parts, and the step is the same."""

from typing import Any

import pytest
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from tests.vae_engine.rows import plan, sampled, table
from vae_engine.memory import Parts, is_out_of_memory
from vae_engine.model import VAE
from vae_engine.training import Batch, TrainState, new_state, train_step

ROWS, FIT = 16, 5  # in parts of four rows


class Crowded(VAE):
    """A model whose decoder has room for a few rows only."""

    def log_likelihood(
        self, x: Shaped[Tensor, "rows features"], z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        if len(x) > FIT:
            raise torch.OutOfMemoryError(f"{len(x)} rows")
        return super().log_likelihood(x, z)


def begun(crowded: bool, **settings: Any) -> TrainState:
    weights = "variational" if settings.get("objective") == "full_bayes" else "point"
    state = new_state(table(weights=weights), plan(**settings), rows=ROWS)
    state.explicit = None
    if crowded:
        state.model.__class__ = Crowded
    return state


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective": "iwae", "samples": 3},
        {"beta": 0.5, "weight_prior": True},
        {"objective": "full_bayes"},
        {
            "free_nats": 3.0
        },  # of 3.6, 7.8 and 1.3 in the whole batch; 2.0, 2.7 and 0.6 in a part
    ],
)
def test_a_step_in_parts_is_the_step_of_the_whole_batch(settings: dict[str, Any]) -> None:
    """In float64, for its digits: Adam makes much of the last ones."""
    torch.set_default_dtype(torch.float64)
    try:
        x = sampled(table(), ROWS)
        whole, parts = (begun(crowded, **settings) for crowded in (False, True))
        for _ in range(3):
            one = train_step(whole, Batch(x), report=True)
            other = train_step(parts, Batch(x), report=True)
    finally:
        torch.set_default_dtype(torch.float32)

    assert one is not None
    assert other is not None
    assert (one.parts, other.parts) == (1, 4)
    assert other.objective_nats == pytest.approx(one.objective_nats, rel=1e-9)
    assert other.elbo_nats == pytest.approx(one.elbo_nats, rel=1e-9)
    assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-9)
    for mine, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert mine.dtype == torch.float64
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


def test_an_objective_that_is_no_mean_over_rows_is_not_taken_apart() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        train_step(begun(True, objective="wake_sleep"), Batch(sampled(table(), ROWS)))


def test_what_does_not_fit_row_by_row_is_an_error() -> None:
    def attempt(parts: int) -> None:
        raise torch.OutOfMemoryError(f"{parts} parts")

    with pytest.raises(torch.OutOfMemoryError, match="8 parts"):
        Parts().run(attempt, most=8)


def test_other_errors_are_not_about_memory() -> None:
    def attempt(parts: int) -> None:
        raise RuntimeError("shapes differ")

    parts = Parts()
    with pytest.raises(RuntimeError, match="shapes"):
        parts.run(attempt, most=8)
    assert parts.count == 1


def test_an_allocation_that_the_host_refuses_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)

    assert is_out_of_memory(caught.value)
