"""The quick way to a row's log likelihood against the plain one, and against float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.exact import LinearGaussian, draws
from vae_engine.bernoulli_rows import log_likelihood_of, log_sigmoid_of_rows
from vae_engine.config import Column, ModelConfig
from vae_engine.model import VAE, build_model

close = torch.testing.assert_close


@given(st.integers(1, 900), st.floats(0.01, 60), st.integers(0, 2**16))
def test_a_row_is_the_sum_over_its_cells_for_every_number_of_cells(
    cells: int, size: float, seed: int
) -> None:
    t = draws(3, 2, cells, seed=seed) * size

    close(log_sigmoid_of_rows(t.clone()), functional.logsigmoid(t).sum(-1))


@pytest.mark.parametrize("size", [1e-3, 1.0, 8.0, 30.0])
def test_float32_loses_a_few_units_in_the_last_place(size: float) -> None:
    """784 cells: a sum in blocks errs by some ulps of the result; eight, with a margin of four."""
    t = draws(200, 1, 784) * size
    expected = functional.logsigmoid(t).sum(-1)

    found = log_sigmoid_of_rows(t.float()).double()
    assert ((found - expected).abs() / expected.abs()).max() < 32 * 2**-24


def test_confident_rows_do_not_underflow() -> None:
    """All wrong by 80 nats a cell, and all right by 80: -62,720 and 0."""
    right = torch.full((1, 1, 784), 80.0)

    assert log_sigmoid_of_rows(-right).item() == pytest.approx(-80 * 784)
    assert log_sigmoid_of_rows(right.clone()).item() == pytest.approx(0, abs=1e-30)


def images(binarization: str = "none", missing: bool = False) -> VAE:
    column = Column(
        name="image",
        likelihood="bernoulli",
        width=12,
        scale=255.0,
        image=(3, 4, 1),
        binarization=binarization,
        missing=missing,
    )
    return build_model(ModelConfig(columns=(column,), latents=2, hidden=(8,)), seed=0)


def test_a_vae_of_binary_pixels_takes_the_quick_way_to_the_same_number() -> None:
    model = images()
    x, z = model.sample(4, torch.Generator().manual_seed(0)), draws(5, 4, 2).float()

    with torch.inference_mode():
        quick = log_likelihood_of(model, x)
        assert quick.__name__ == "quick"
        close(quick(z), model.log_likelihood(x, z))
        close(quick(z), quick(z))


def test_whoever_needs_gradients_gets_them() -> None:
    model = images()
    x, z = model.sample(4, torch.Generator().manual_seed(0)), draws(5, 4, 2).float()
    log_likelihood_of(model, x)(z.requires_grad_()).sum().backward()

    assert z.grad is not None


def test_grey_missing_and_other_rows_take_the_models_own_way() -> None:
    grey = torch.full((4, 12), 100, dtype=torch.uint8)
    gaps = torch.full((4, 12), torch.nan)
    z = draws(5, 4, 2).float()
    linear = LinearGaussian(features=5, latents=2)
    with torch.inference_mode():
        for model, x in ((images("dynamic"), grey), (images(missing=True), gaps)):
            close(log_likelihood_of(model, x)(z), model.log_likelihood(x, z))
        close(
            log_likelihood_of(linear, linear.sample(4))(z.double()),
            linear.log_likelihood(linear.sample(4), z.double()),
        )
