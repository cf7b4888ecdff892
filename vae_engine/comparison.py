"""Which of two models explains the same rows better, and whether that could be chance."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

FEWEST_ROWS = 5  # below, the interval is everything: the quantile is not accurate there


@dataclass(frozen=True)
class Comparison:
    """The mean over rows of log p(x) under the first model less that under the second, in nats.

    A row to which one model alone gives no probability (log p(x) = -inf) decides the mean:
    -inf where it is the first, inf where it is the second, nan where each fails somewhere. A
    row impossible under both is a tie: it counts as 0. No row is dropped; `shared_*` are the
    same figures over the rows that both allow, for a person to read, not for a decision.
    """

    difference_nats: float
    stderr: float  # nan where the difference is not finite
    low_nats: (
        float  # the interval at `confidence`, both sides; (-inf, inf) where nothing is known
    )
    high_nats: float
    confidence: float
    rows: int
    impossible_under_first: int
    impossible_under_second: int
    impossible_under_both: int
    shared_difference_nats: float
    shared_stderr: float

    @property
    def first_is_better(self) -> bool:
        """Whether all of the interval is above 0."""
        return self.low_nats > 0


def paired_difference(
    first_nats: Float[Tensor, " rows"],
    second_nats: Float[Tensor, " rows"],
    *,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two models by log p(x) of the same rows, in the same order.

    Row by row, because rows differ far more than models do: the spread of the difference is
    what counts, and an unpaired test would drown it in the spread of rows. The error of each
    row's own estimate is part of that spread; its bias is not. Importance sampling is biased
    low, more for the model with the worse encoder: compare estimates whose k-hat is trusted,
    or give both models the same effort and say so.

    Raises:
        ValueError: no rows, a confidence outside (0, 1), or a log p(x) that is nan or inf.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")
    first, second = first_nats.double(), second_nats.double()
    if not len(first):
        raise ValueError("a comparison needs at least one row; got none")
    for name, nats in (("first", first), ("second", second)):
        wrong = int((nats.isnan() | (nats == math.inf)).sum())
        if wrong:
            raise ValueError(
                f"log p(x) of {wrong} of {len(nats)} rows is nan or inf under the {name} model; "
                f"such a model cannot be compared: look for inputs outside its training range"
            )
    no_first, no_second = first == -math.inf, second == -math.inf
    difference = torch.where(no_first & no_second, 0.0, first - second)
    shared = (first - second)[~(no_first | no_second)]
    mean, stderr = _mean_and_stderr(difference)
    low, high = _interval(mean, stderr, len(first), confidence)
    shared_mean, shared_stderr = _mean_and_stderr(shared)
    return Comparison(
        mean,
        stderr,
        low,
        high,
        confidence,
        len(first),
        int((no_first & ~no_second).sum()),
        int((no_second & ~no_first).sum()),
        int((no_first & no_second).sum()),
        shared_mean,
        shared_stderr,
    )


def _mean_and_stderr(values: Float[Tensor, " rows"]) -> tuple[float, float]:
    """nan where they are not known."""
    if not len(values):
        return math.nan, math.nan
    spread = values.std().item() if len(values) > 1 else math.nan
    return values.mean().item(), spread / math.sqrt(len(values))


def _interval(mean: float, stderr: float, rows: int, confidence: float) -> tuple[float, float]:
    if math.isinf(mean):
        return mean, mean
    if math.isnan(mean) or rows < FEWEST_ROWS:
        return -math.inf, math.inf
    reach = student_quantile(0.5 + 0.5 * confidence, rows - 1) * stderr
    return mean - reach, mean + reach


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, by the expansion of Cornish and Fisher around the normal one.

    Abramowitz & Stegun 26.7.5. Within 1 % from 4 degrees of freedom on at 99 %, and better
    where there are more.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))
