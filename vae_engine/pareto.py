"""Pareto k-hat: how far the largest importance weights of a row can be trusted.

Vehtari, Simpson, Gelman, Yao & Gabry (2024), *Pareto smoothed importance sampling*: the largest
weights follow a generalized Pareto law of shape k; the estimate behaves up to k = 0.5, is usable
up to 0.7, and beyond that more samples hardly help. The fit is Zhang & Stephens' (2009).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

PRIOR_WEIGHT, PRIOR_SHAPE = 10, 0.5  # Vehtari et al., appendix: a weak pull of k towards 0.5
LEAST_TAIL = 5  # fewer exceedances than this say nothing about a tail


def tail_length(samples: int) -> int:
    """Return how many of the largest weights are fitted: min(samples / 5, 3 sqrt(samples))."""
    return math.ceil(min(samples / 5, 3 * math.sqrt(samples)))


def pareto_k(
    largest: Float[Tensor, "tail_and_cutoff rows"],
) -> Float[Tensor, " rows"]:
    """Fit k to the largest log weights of each row, sorted from high to low.

    The last of them is the cutoff: the rest are measured from it. nan where fewer than
    LEAST_TAIL weights came; 0 where all are equal, as under an exact posterior.
    """
    tail = largest.shape[0] - 1
    if tail < LEAST_TAIL:
        return torch.full_like(largest[0], torch.nan)
    weights = (largest.double() - largest[0].double()).exp()
    exceedances = (weights[:-1] - weights[-1]).flip(0)  # ascending
    flat = exceedances[-1] <= 1e-12
    shape = _generalized_pareto_shape(torch.where(flat, 1.0, exceedances.clamp(min=1e-300)))
    return torch.where(flat, 0.0, shape).to(largest.dtype)


def _generalized_pareto_shape(x: Float[Tensor, "n rows"]) -> Float[Tensor, " rows"]:
    """Zhang & Stephens' empirical Bayes estimate of k, pulled weakly towards 0.5; x ascending."""
    n = x.shape[0]
    grid = 30 + int(math.sqrt(n))
    steps = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device)[:, None]
    quartile = x[int(n / 4 + 0.5) - 1]
    b = (1 - torch.sqrt(grid / (steps - 0.5))) / (3 * quartile) + 1 / x[-1]
    k = torch.log1p(-b[:, None] * x).mean(1)
    log_likelihood = n * (torch.log(-b / k) - k - 1)
    weights = log_likelihood.softmax(0)
    shape = torch.log1p(-(weights * b).sum(0) * x).mean(0)
    return (n * shape + PRIOR_WEIGHT * PRIOR_SHAPE) / (n + PRIOR_WEIGHT)
