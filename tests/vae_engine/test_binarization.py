"""Binarization: by step in training, by row key in evaluation, idempotent always."""

from dataclasses import replace

import pytest
import torch

from tests.vae_engine.rows import PICTURE, grey, pictures
from vae_engine.binarization import binarized_for_evaluation, binarized_for_training
from vae_engine.config import Column, ModelConfig
from vae_engine.noise import step_generator

X, KEYS = grey(500), torch.arange(500)


def policy(name: str) -> ModelConfig:
    return pictures(columns=(replace(PICTURE, binarization=name),))


@pytest.mark.parametrize("name", ["dynamic", "static", "threshold"])
def test_cells_become_black_or_white_and_stay_so(name: str) -> None:
    once = binarized_for_evaluation(policy(name), X, KEYS, seed=1)
    again = binarized_for_evaluation(policy(name), once, KEYS, seed=9)
    trained = binarized_for_training(policy(name), once, KEYS, step_generator(1, 1))

    assert set(once.unique().tolist()) == {0.0, 255.0}
    assert torch.equal(again, once)
    assert torch.equal(trained, once)


def test_white_has_the_probability_of_the_intensity() -> None:
    """Standard error of the mean over 6,000 cells below 0.5 / 77 = 0.0065; z = 3.3."""
    for binary in (
        binarized_for_evaluation(policy("dynamic"), X, KEYS, seed=1),
        binarized_for_training(policy("dynamic"), X, None, step_generator(1, 1)),
    ):
        assert abs(binary.mean() - X.float().mean()).item() / 255 < 0.022


def test_dynamic_is_drawn_afresh_in_training_and_by_row_in_evaluation() -> None:
    first, second = (
        binarized_for_training(policy("dynamic"), X, None, step_generator(1, s)) for s in (1, 2)
    )
    seen = binarized_for_evaluation(policy("dynamic"), X, KEYS, seed=1)

    assert not torch.equal(first, second)
    assert torch.equal(
        binarized_for_evaluation(policy("dynamic"), X[100:], KEYS[100:], seed=1), seen[100:]
    )


def test_static_is_the_same_in_training_and_evaluation() -> None:
    trained = binarized_for_training(policy("static"), X, KEYS, step_generator(1, 1))

    assert torch.equal(trained, binarized_for_evaluation(policy("static"), X, KEYS, seed=7))
    with pytest.raises(ValueError, match="give the row keys with each batch"):
        binarized_for_training(policy("static"), X, None, step_generator(1, 1))


def test_threshold_is_half_the_scale() -> None:
    assert torch.equal(
        binarized_for_evaluation(policy("threshold"), X, KEYS, seed=1), (X > 127.5) * 255.0
    )


def test_other_columns_are_left_alone_and_missing_cells_stay_missing() -> None:
    columns = (
        Column(name="age", likelihood="gaussian"),
        replace(PICTURE, missing=True),
        Column(name="height", likelihood="gaussian"),
    )
    x = torch.cat([torch.full((9, 1), 0.3), grey(9).float(), torch.full((9, 1), -0.7)], -1)
    x[2, 5] = torch.nan
    before = x.clone()
    binary = binarized_for_evaluation(ModelConfig(columns=columns), x, KEYS[:9], seed=1)

    assert torch.equal(binary[:, [0, -1]], x[:, [0, -1]])
    assert binary[2, 5].isnan()
    assert binary.isnan().sum() == 1
    torch.testing.assert_close(x, before, equal_nan=True, rtol=0, atol=0)
