"""log p(x) by importance sampling, in bounded memory, with its error and a warning where it lies.

Chunks of draws and of rows are the caller's memory, never part of the answer: the noise of a row
is a function of (seed, row key, draw), and weights are summed as they come.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from vae_engine.diagnostics import (
    effective_samples_of_sums,
    log_mean_stderr,
    pareto_k_of_largest,
    tail_samples,
)
from vae_engine.model import VAE, LatentModel
from vae_engine.noise import keyed_noise
from vae_engine.objectives import log_weights_of
from vae_engine.observation import observed

OUTPUTS_AT_ONCE = (400_000, 40_000_000)  # of the decoder, on a CPU and on a GPU


class MarginalEstimate(NamedTuple):
    """What importance sampling says about each row, in nats."""

    log_marginal_nats: Float[Tensor, " rows"]  # biased low, less so with every sample
    stderr: Float[Tensor, " rows"]  # of log_marginal_nats, by the delta method
    ess: Float[Tensor, " rows"]  # samples that count: (sum w)^2 / sum w^2
    pareto_k: Float[Tensor, " rows"]  # above 0.7, do not trust the row's estimate


def log_marginal(
    chunks_of_log_weights: Iterable[Float[Tensor, "_ rows"]],
) -> Float[Tensor, " rows"]:
    """Importance-sampling estimate of log p(x) from any number of chunks of weights.

        log p(x)  ~  log mean_s w_s          (Burda et al. 2016, section 3)

    Biased low by Jensen's inequality and consistent: the bias goes to zero as the number of
    samples grows. Chunks may differ in size; the divisor is the number of weights that came
    in, never the number that was asked for.

    Raises:
        ValueError: no chunk came in.
    """
    return summarize(chunks_of_log_weights, samples=0).log_marginal_nats


def summarize(
    chunks_of_log_weights: Iterable[Float[Tensor, "_ rows"]], *, samples: int
) -> MarginalEstimate:
    """Stream chunks of log weights into the estimate, its error, ESS and k-hat.

    `samples` is how many are to come: it says how many of the largest k-hat needs to keep, and
    nothing else. Fewer or more change the estimate rightly and make k-hat nan.

    Raises:
        ValueError: no chunk came in.
    """
    total = squares = largest = None
    count, kept = 0, tail_samples(samples) + 1
    for log_w in chunks_of_log_weights:
        part, part_squares = log_w.logsumexp(0), (2 * log_w).logsumexp(0)
        total = part if total is None else torch.logaddexp(total, part)
        squares = part_squares if squares is None else torch.logaddexp(squares, part_squares)
        seen = log_w if largest is None else torch.cat([largest, log_w])
        largest = seen.topk(min(kept, len(seen)), 0).values
        count += log_w.shape[0]
    if total is None or squares is None or largest is None:
        raise ValueError("log_marginal needs at least one chunk of log weights; got none")
    ess = effective_samples_of_sums(total, squares)
    k = pareto_k_of_largest(largest, count) if count == samples else total * math.nan
    return MarginalEstimate(
        total - math.log(count), log_mean_stderr(ess, count), ess, k.to(total.dtype)
    )


@torch.inference_mode()
def estimate_log_marginal(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    row_keys: Int64[Tensor, " rows"],
    *,
    samples: int,
    seed: int,
    rows_per_chunk: int | None = None,
    samples_per_chunk: int | None = None,
) -> MarginalEstimate:
    """Estimate log p(x) of each row from `samples` draws of q(z | x).

    Grey pixels are binarized by (seed, row key) where the model says so. The estimate of a row
    is the same, up to rounding, for any order of rows and any chunk sizes; chunks stay in the
    processor's cache unless the caller says otherwise.

    Raises:
        ValueError: no rows came in.
    """
    if not len(x):
        raise ValueError("estimate_log_marginal needs at least one row; got none")
    outputs = model.likelihood.outputs if isinstance(model, VAE) else x.shape[1]
    evaluations = OUTPUTS_AT_ONCE[x.device.type == "cuda"] // outputs + 1
    draws = samples_per_chunk or min(samples, evaluations)
    size = rows_per_chunk or max(1, evaluations // draws)
    parts = []
    for rows, keys in zip(x.split(size), row_keys.split(size), strict=True):
        rows = observed(model, rows, keys, seed)
        q = model.posterior(rows)
        chunks = (
            log_weights_of(model, rows, q, keyed_noise(seed, keys, a, b, model.latents))
            for a, b in pairwise([*range(0, samples, draws), samples])
        )
        parts.append(summarize(chunks, samples=samples))
    return MarginalEstimate(*(torch.cat(field) for field in zip(*parts, strict=True)))
