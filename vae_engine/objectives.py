"""Every bound as a pure function of (model, x, noise): nats per row, higher is better.

`noise` is drawn from N(0, I) by the caller, one vector for each sample of each row, so that a
bound is a function of its arguments: the same noise gives the same number. Whoever wants a
mean over rows, or a loss, takes it.
"""

import math

from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine.model import LatentModel
from vae_engine.posteriors import ClosedFormPosterior, DiagonalNormal, Posterior


def elbo(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
) -> Float[Tensor, " rows"]:
    """Estimate the evidence lower bound with the KL term exact where it has a closed form.

    The SGVB-B estimator, eq. 7 (eq. 10 for a diagonal Gaussian posterior):

        elbo(x) = -KL(q(z|x) || p(z)) + mean_s log p(x | z_s),   z_s = g(noise_s, x)

    Unbiased for the ELBO for every number of samples; a lower bound on log p(x) in
    expectation, not for every draw. Where the KL has no closed form (a learned prior, a flow)
    it is sampled, which makes this estimator A.

    Returns:
        Nats per row; higher is better.
    """
    q = model.posterior(x)
    z = q.reparameterize(noise)
    return model.log_likelihood(x, z).mean(0) - kl(model, q, z)


def elbo_sampled(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
) -> Float[Tensor, " rows"]:
    """Estimate the evidence lower bound with every term sampled.

    The SGVB-A estimator, eq. 6:

        elbo(x) = mean_s [ log p(x, z_s) - log q(z_s | x) ]

    Unbiased for the ELBO, like `elbo`; its variance differs, and vanishes where q is the true
    posterior.

    Returns:
        Nats per row; higher is better.
    """
    return log_weights(model, x, noise).mean(0)


def iwae(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
) -> Float[Tensor, " rows"]:
    """Estimate the importance-weighted bound of as many samples as there is noise.

    Burda, Grosse & Salakhutdinov (2016), eq. 8:

        iwae_k(x) = log mean_s w_s,   w_s = p(x, z_s) / q(z_s | x)

    A lower bound on log p(x) in expectation that tightens with k; k = 1 is the ELBO. The value
    is the bound itself, never the sum of weighted log weights that has its gradient.

    Returns:
        Nats per row; higher is better.
    """
    return log_weights(model, x, noise).logsumexp(0) - math.log(noise.shape[0])


def log_weights(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
) -> Float[Tensor, "samples rows"]:
    """log w_s = log p(x | z_s) + log p(z_s) - log q(z_s | x),   z_s = g(noise_s, x).

    The average of w over draws from q is p(x), without bias.
    """
    return log_weights_of(model, x, model.posterior(x), noise)


def log_weights_of(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    q: Posterior,
    noise: Float[Tensor, "samples rows latents"],
) -> Float[Tensor, "samples rows"]:
    """Log weights under a posterior that is at hand: many chunks of draws encode a row once."""
    z = q.reparameterize(noise)
    return model.log_likelihood(x, z) + model.log_prior(z) - q.log_prob(z)


def kl(
    model: LatentModel, q: Posterior, z: Float[Tensor, "samples rows latents"]
) -> Float[Tensor, " rows"]:
    """KL(q(z|x) || p(z)): exact in closed form, else the mean of log q - log p over draws `z`.

    Either way without bias; the sampled one may be negative for a draw.
    """
    if model.standard_prior and isinstance(q, ClosedFormPosterior):
        return q.kl_from_prior()
    return (q.log_prob(z) - model.log_prior(z)).mean(0)


def kl_per_latent(model: LatentModel, q: Posterior) -> Float[Tensor, "rows latents"] | None:
    """Exact KL of each latent; None where q or the prior does not factorize over latents."""
    if model.standard_prior and isinstance(q, DiagonalNormal):
        return q.kl_per_latent()
    return None


OBJECTIVES = {"elbo": elbo, "elbo_sampled": elbo_sampled, "iwae": iwae}
