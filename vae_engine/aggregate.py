"""What the latents know about the rows: the aggregated posterior, and mutual information.

    q(z) = mean_j q(z | x_j),   I(x; z) = E[log q(z | x) - log q(z)]

The mean goes over a stated set of reference rows, all of them in every average: estimators that
take the rest of a minibatch for the data set need weights that are easily wrong (issue 1 of
rtqichen/beta-tcvae), and are bounded by the logarithm of the batch.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from vae_engine.evaluation import Total
from vae_engine.model import LatentModel
from vae_engine.noise import keyed_noise
from vae_engine.objectives import log_mean
from vae_engine.observation import observed
from vae_engine.posteriors import Posterior

PAIRS = 100_000  # of a draw and a reference row, evaluated at once


class Information(NamedTuple):
    """Totals over rows between whose means I(x; z) lies, in nats."""

    least: Total  # at most log(rows), however much the latents know
    most: Total


def log_aggregate(
    reference: Posterior, z: Float[Tensor, "samples rows latents"]
) -> Float[Tensor, "samples rows"]:
    """log q(z) = log mean_j q(z | x_j), over the rows of `reference`."""
    parts = [log_mean(log_q, -1) for log_q in _by_row(reference, z)]
    return torch.cat(parts).unflatten(0, z.shape[:2])


def log_aggregate_of_others(
    reference: Posterior, z: Float[Tensor, "samples rows latents"]
) -> Float[Tensor, "samples rows"]:
    """The same for draws of each row of `reference`, over all of its rows but that one."""
    samples, rows = z.shape[:2]
    parts, start = [], 0
    for log_q in _by_row(reference, z):
        own = torch.arange(start, start + len(log_q), device=z.device) % rows
        others = log_q.scatter(1, own[:, None], -math.inf)
        parts.append(others.logsumexp(-1) - math.log(rows - 1))
        start += len(log_q)
    return torch.cat(parts).unflatten(0, (samples, rows))


@torch.inference_mode()
def mutual_information(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    row_keys: Int64[Tensor, " rows"],
    *,
    seed: int,
    samples: int = 1,
) -> Information:
    """Bound I(x; z) under q from both sides, in nats, with the rows themselves as the reference.

    With each row among its reference the estimate is too low in expectation, and at most
    log(rows); with the others alone it is too high (Poole et al. 2019: InfoNCE with a known
    conditional, and leaving one out). What the rate (the KL of the bound) has above I(x; z) is
    KL(q(z) || p(z)), the misfit of the prior (Hoffman & Johnson 2016): so the rate is no less
    than it either.

    Returns:
        The totals of log q(z | x) - log q(z) over rows, one draw or the mean of several each.

    Raises:
        ValueError: fewer than two rows came in.
    """
    if len(x) < 2:
        raise ValueError(f"mutual_information needs at least two rows; got {len(x)}")
    q = model.posterior(observed(model, x, row_keys, seed))
    noise = keyed_noise(seed, row_keys, 0, samples, model.latents)
    z, log_q = q.reparameterize_with_log_prob(noise)
    return Information(
        least=Total.of((log_q - log_aggregate(q, z)).mean(0)),
        most=Total.of((log_q - log_aggregate_of_others(q, z)).mean(0)),
    )


def _by_row(reference: Posterior, z: Tensor) -> Iterator[Float[Tensor, "draws rows"]]:
    """log q(z | x_j) of every draw, some draws at a time, for each row j of `reference`."""
    rows = len(reference.mean)
    for part in z.flatten(0, 1).split(max(1, PAIRS // rows)):
        yield reference.log_prob(part[:, None].expand(-1, rows, -1))
