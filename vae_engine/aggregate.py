"""What the latents know about the rows: the aggregated posterior, and mutual information.

    q(z) = mean_j q(z | x_j),   I(x; z) = E[log q(z | x) - log q(z)]

The mean goes over a stated set of reference rows, all of them in every average: estimators that
take the rest of a minibatch for the data set need weights that are easily wrong (issue 1 of
rtqichen/beta-tcvae), and are bounded by the logarithm of the batch.
"""

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


def log_aggregate(
    reference: Posterior, z: Float[Tensor, "samples rows latents"]
) -> Float[Tensor, "samples rows"]:
    """log q(z) = log mean_j q(z | x_j), over the rows of `reference`."""
    rows = len(reference.mean)
    parts = [
        log_mean(reference.log_prob(part[:, None].expand(-1, rows, -1)), -1)
        for part in z.flatten(0, 1).split(max(1, PAIRS // rows))
    ]
    return torch.cat(parts).unflatten(0, z.shape[:2])


@torch.inference_mode()
def mutual_information(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    row_keys: Int64[Tensor, " rows"],
    *,
    seed: int,
    samples: int = 1,
) -> Total:
    """Estimate I(x; z) under q, in nats, with the rows themselves as the reference.

    At most log(rows), however much the latents know: state the number of rows with it. What the
    rate (the KL of the bound) has above it is KL(q(z) || p(z)), the misfit of the prior
    (Hoffman & Johnson 2016).

    Returns:
        The total of log q(z | x) - log q(z) over rows, one draw or the mean of several each.

    Raises:
        ValueError: no rows came in.
    """
    if not len(x):
        raise ValueError("mutual_information needs at least one row; got none")
    q = model.posterior(observed(model, x, row_keys, seed))
    noise = keyed_noise(seed, row_keys, 0, samples, model.latents)
    z, log_q = q.reparameterize_with_log_prob(noise)
    return Total.of((log_q - log_aggregate(q, z)).mean(0))
