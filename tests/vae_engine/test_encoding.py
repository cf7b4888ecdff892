"""Features of a row depend on that row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.vae_engine.rows import grey, pictures, random_model, sampled, table
from vae_engine.encoding import encode

MODEL = random_model(table())
X = sampled(table(), 103)


def test_features_are_the_posterior_of_all_rows_in_order() -> None:
    """B24: rows out are rows in, the tail is encoded, and nothing is random."""
    mean, stddev = encode(MODEL, X, batch_rows=10)
    q = MODEL.posterior(X)

    assert mean.shape == stddev.shape == (103, 3)
    torch.testing.assert_close(mean, q.mean.detach())
    torch.testing.assert_close(stddev, q.stddev.detach())
    assert mean[-1].any()


@given(st.integers(1, 103), st.permutations(range(103)))
def test_neighbours_and_number_of_rows_change_no_bit(rows: int, order: list[int]) -> None:
    mean, stddev = encode(MODEL, X, batch_rows=32)
    index = torch.tensor(order)[:rows]
    some_mean, some_stddev = encode(MODEL, X[index], batch_rows=32)

    assert torch.equal(some_mean, mean[index])
    assert torch.equal(some_stddev, stddev[index])


@pytest.mark.parametrize("features", [784])
def test_wide_rows_keep_their_bits_in_other_places(features: int) -> None:
    """Matrix products take other paths at this size; the places in a batch must still be equal."""
    from vae_engine.config import Column, ModelConfig

    column = Column(name="v", likelihood="gaussian", width=features)
    model = random_model(ModelConfig(columns=(column,), latents=20, hidden=(500,)))
    x = torch.randn(700, features, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(700, generator=torch.Generator().manual_seed(1))[:600]

    mean, _ = encode(model, x, batch_rows=512)
    assert torch.equal(encode(model, x[order], batch_rows=512)[0], mean[order])


def test_no_rows_give_no_features() -> None:
    mean, stddev = encode(MODEL, X[:0])

    assert mean.shape == stddev.shape == (0, 3)


def test_grey_pictures_are_encoded_as_they_are() -> None:
    model, x = random_model(pictures()), grey(10)

    torch.testing.assert_close(encode(model, x)[0], model.posterior(x.float()).mean.detach())
