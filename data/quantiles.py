"""A strictly rising map that makes a column's train rows look normal, and its inverse.

Knots stand at quantiles of the train rows; between them the map is straight, and beyond the
outermost ones it goes on with their mean slope: no value is cut off, and every value has its
own score. Where many rows have one value, their score is the mean of what they would have had.
"""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from data.survey import rank_of

SAMPLE_ROWS = 65_536
KNOTS = 257
# Of the outer knots, which lie within the extremes. Below it the slope of the map overflows: one
# value, not two.
SMALLEST_SPREAD = 5e-101

Floats = npt.NDArray[np.float64]
Knots = tuple[tuple[float, ...], tuple[float, ...]]  # values, scores; both rise


class ValueSample:
    """Values of rows chosen by the hash of their position: batches change nothing."""

    def __init__(self) -> None:
        self._ranks = np.empty(0, np.uint64)
        self.values: Floats = np.empty(0)  # in the order of their ranks

    def add(self, values: Floats, first_row: int) -> None:
        """Add the values of the rows from `first_row` on; NaN is none."""
        ranks = rank_of(np.arange(first_row, first_row + len(values), dtype=np.uint64))
        seen = ~np.isnan(values)
        ranks = np.concatenate([self._ranks, ranks[seen]])
        kept = np.argsort(ranks)[:SAMPLE_ROWS]
        self._ranks = ranks[kept]
        self.values = np.concatenate([self.values, values[seen]])[kept]

    def knots(self) -> Knots | None:
        """Return values and scores of the knots; None where fewer than two values were seen."""
        if not len(self.values):
            return None
        shares = (np.arange(KNOTS) + 0.5) / KNOTS
        scores = np.array([NormalDist().inv_cdf(share) for share in shares])
        values, first, counts = np.unique(
            np.quantile(self.values, shares), return_index=True, return_counts=True
        )
        if values[-1] - values[0] < SMALLEST_SPREAD:
            return None
        return tuple(values.tolist()), tuple((np.add.reduceat(scores, first) / counts).tolist())


def scores_of(values: Floats, knots: Knots) -> Floats:
    """Return the scores of `values`; NaN stays NaN."""
    return _mapped(values, np.array(knots[0]), np.array(knots[1]))


def values_at(scores: Floats, knots: Knots) -> Floats:
    """Return the values whose scores these are."""
    return _mapped(scores, np.array(knots[1]), np.array(knots[0]))


def _mapped(x: Floats, from_: Floats, to: Floats) -> Floats:
    slope = (to[-1] - to[0]) / (from_[-1] - from_[0])
    below, above = np.minimum(x - from_[0], 0), np.maximum(x - from_[-1], 0)
    return np.interp(x, from_, to) + slope * (below + above)
