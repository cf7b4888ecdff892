"""How far importance weights can be trusted: per row, from the weights alone.

Three numbers for the estimate log mean_s w_s of one row: its standard error, the effective
number of samples, and the shape k of the tail of the weights. The first two come from sums
over the weights that were drawn; only k speaks of those that were not.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

MOST_TRUSTED_K = 0.7  # above it the error of an average falls too slowly to be measured
FEWEST_IN_TAIL = 5  # a shape fitted to fewer points says nothing
FLAT_NATS = 1e-4  # log weights this close are equal: float32 rounding of a sum near -100
ROWS_AT_ONCE = 256  # 256 rows × 44 candidates × 212 points in float64: 19 MB


def effective_samples(log_w: Float[Tensor, "samples rows"]) -> Float[Tensor, " rows"]:
    """Kish's effective number of samples: (sum w)^2 / sum w^2, between 1 and `samples`.

    0 where every weight is 0: nothing was drawn that could explain the row.
    """
    log_w = log_w.double()
    return effective_samples_of_sums(log_w.logsumexp(0), (2 * log_w).logsumexp(0))


def effective_samples_of_sums(
    log_sum: Float[Tensor, " rows"], log_sum_squares: Float[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Return what `effective_samples` returns, from log sum w and log sum w^2."""
    ratio = (2 * log_sum - log_sum_squares).exp()
    return torch.where(log_sum == -math.inf, torch.zeros_like(ratio), ratio)


def log_mean_stderr(effective: Float[Tensor, " rows"], samples: int) -> Float[Tensor, " rows"]:
    """Standard error of log mean_s w_s by the delta method, in nats.

        stderr(mean w) / mean w = sqrt((S / ESS - 1) / (S - 1))

    Honest while the weights have a variance (k < 0.5) and the result is below about half a
    nat; where no weight was above 0 it is infinite, and for one sample it is not known (nan).
    """
    if samples < 2:
        return torch.full_like(effective, math.nan)
    return ((samples / effective - 1).clamp_min(0) / (samples - 1)).sqrt()


def tail_samples(samples: int) -> int:
    """The number of largest weights that the tail is fitted to (Vehtari et al. 2024)."""
    return int(3 * samples**0.5) if samples > 225 else samples // 5


def most_trusted_k(samples: int) -> float:
    """Return the largest shape k at which `samples` weights give a reliable average.

    min(1 - 1 / log10(samples), 0.7): Vehtari et al. (2024), section 3.2.4.
    """
    return min(1 - 1 / math.log10(samples), MOST_TRUSTED_K) if samples > 1 else -math.inf


def pareto_k(log_w: Float[Tensor, "samples rows"]) -> Float[Tensor, " rows"]:
    """Fit a generalized Pareto distribution to the largest weights; return its shape k.

    A moment of order 1/k and above does not exist, so with k > 0.5 the weights have no
    variance, and with k > 0.7 (see `most_trusted_k`) the estimate must not be trusted.
    See `pareto_k_of_largest` for the special cases.
    """
    largest = log_w.double().topk(min(tail_samples(len(log_w)) + 1, len(log_w)), 0).values
    return pareto_k_of_largest(largest, len(log_w))


def pareto_k_of_largest(
    largest: Float[Tensor, "largest rows"], samples: int
) -> Float[Tensor, " rows"]:
    """Return k from the largest log weights alone: all that a stream of weights must keep.

    `largest` is sorted, largest first, and holds at least `tail_samples(samples) + 1` of the
    `samples` log weights of each row.

    Special cases: -inf where the tail is flat (equal weights: nothing can go wrong in it),
    inf where most of the tail is 0 beside the largest weight, nan where fewer than 25 samples leave no tail to fit.
    Whoever counts the rows that are not trusted must therefore count `not k <= limit`.
    """
    tail = tail_samples(samples)
    if tail < FEWEST_IN_TAIL:
        return torch.full_like(largest[0], math.nan)
    largest = largest[: tail + 1].double()
    weights = (largest - largest[0]).exp()  # nan where all are 0, or one is nan
    alone = (largest[0] == -math.inf) | (weights[-1 - tail // 4] == 0)
    flat = largest[0] - largest[-1] <= FLAT_NATS
    k = torch.full_like(largest[0], math.nan).masked_fill(flat, -math.inf)
    k = k.masked_fill(alone, math.inf)
    fit = ~(alone | flat | weights.isnan().any(0))
    if fit.any():
        excess = (weights[:-1, fit] - weights[-1, fit]).flip(0).T
        k[fit] = torch.cat([_shape(part) for part in excess.split(ROWS_AT_ONCE)])
    return k


def _shape(excess: Float[Tensor, "rows tail"]) -> Float[Tensor, " rows"]:
    """Fit a generalized Pareto distribution to sorted excesses, smallest first.

    Zhang & Stephens (2009): the posterior mean of theta = -k / sigma over a grid of
    candidates, then k given theta; with the prior of Vehtari et al. (2024), appendix G, which
    is worth ten points at k = 0.5. The sign is theirs: k > 0 is a heavy tail.
    """
    points = excess.shape[-1]
    grid = 30 + int(points**0.5)
    i = torch.arange(1, grid + 1, dtype=excess.dtype, device=excess.device)
    quartile = excess[:, int(points / 4 + 0.5) - 1]
    positive = excess.masked_fill(excess <= 0, math.inf).amin(-1)  # ties with the cutoff are 0
    spread = 3 * torch.where(quartile > 0, quartile, positive)
    theta = (1 - (grid / (i - 0.5)).sqrt()) / spread[:, None] + 1 / excess[:, -1:]

    k = torch.log1p(-theta[..., None] * excess[:, None]).mean(-1)
    log_likelihood = points * ((-theta / k).log() - k - 1)
    weight = log_likelihood.softmax(-1)
    weight = torch.where(weight < 10 * torch.finfo(weight.dtype).eps, 0, weight)
    best = (theta * weight).sum(-1) / weight.sum(-1)
    k = torch.log1p(-best[:, None] * excess).mean(-1)
    return (points * k + 5) / (points + 10)
