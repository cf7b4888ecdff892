"""Sums over rows are those of one pass, exact where they are whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.moments import Moments, Pixels


@given(st.lists(st.floats(-1e3, 1e3), max_size=20), st.lists(st.floats(-1e3, 1e3), max_size=20))
def test_moments_of_parts_merge_to_those_of_the_whole(
    one: list[float], other: list[float]
) -> None:
    merged = Moments.of(np.array(one, float))
    merged.merge(Moments.of(np.array(other, float)))
    values = np.array(one + other, float)

    assert merged.count == len(values)
    if len(values):
        assert merged.mean == pytest.approx(values.mean(), abs=1e-9)
        assert merged.stddev == pytest.approx(values.std(), abs=1e-6)
        assert (merged.min, merged.max) == (values.min(), values.max())


def test_moments_do_not_cancel_far_from_zero() -> None:
    """The textbook formula E[x²] - E[x]² gives a variance of 0, or a negative one, here."""
    values = 1e9 + np.arange(1000) % 2

    merged = Moments()
    for part in np.split(values, 10):
        merged.merge(Moments.of(part))
    assert merged.stddev == pytest.approx(0.5)


@pytest.mark.parametrize("shape", [(0, 5), (1, 7), (300, 3), (4097, 3), (8193, 1), (600, 784)])
@pytest.mark.parametrize("brightest", [255, 1])
def test_pixels_are_counted_and_summed_one_by_one(
    shape: tuple[int, int], brightest: int
) -> None:
    """An odd number of them, too, though they are counted in pairs; the sum is beyond 16 bits."""
    images = np.full(shape, brightest, np.uint8)
    images[::2] = np.random.default_rng(0).integers(0, 256, images[::2].shape)
    found = Pixels.of(images)

    assert found.counts.tolist() == np.bincount(images.ravel(), minlength=256).tolist()
    assert (found.total == images.sum(0, dtype=np.uint64)).all()
    assert found.images == len(images)
