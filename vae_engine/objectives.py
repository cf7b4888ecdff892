"""Every bound as a pure function of (model, x, noise): nats per row, higher is better.

`noise` is drawn from N(0, I) by the caller, one vector for each sample of each row, so that a
bound is a function of its arguments: the same noise gives the same number. Whoever wants a
mean over rows, or a loss, takes it. Where a bound's gradient is not that of its value (the
sticking, doubly reparameterized and partial ones), the value is the bound all the same.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine import densities
from vae_engine.model import LatentModel
from vae_engine.posteriors import Posterior


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
    z, kl = draws_and_kl(model, model.posterior(x), noise)
    return model.log_likelihood(x, z).mean(0) - kl


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


def elbo_sticking(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
) -> Float[Tensor, " rows"]:
    """Estimator A with the lower-variance gradient of Roeder, Wu & Duvenaud (2017).

    The parameters of q are held fixed inside log q(z | x), where their gradient (the score) has
    mean 0 and only adds noise. What is left goes through z alone, and is 0 for every draw
    where q is the true posterior ("sticking the landing").

    Returns:
        Nats per row; higher is better. The value is that of `elbo_sampled`.
    """
    return _path_log_weights(model, x, noise)[0].mean(0)


def elbo_weighted(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
    *,
    beta: float | Float[Tensor, ""],
    free_nats: float | Float[Tensor, ""] = 0.0,
    mean_kl: Float[Tensor, " latents"] | None = None,
) -> Float[Tensor, " rows"]:
    """Estimate the bound with its KL weighted by beta, and the first nats of each latent free.

        log p(x | z) - beta sum_j max(free_nats, KL_j)

    beta: Higgins et al. (2017); rising from 0 it is KL warm-up (Sonderby et al. 2016). Free
    bits: Kingma et al. (2016), eq. 15, with KL_j the mean over the rows of the batch (`mean_kl`,
    where these are some of them); a row's number has its own KL_j where that mean exceeds the
    free nats. For training only: this is a bound on log p(x) for beta >= 1 alone, and models
    are selected by `elbo`.

    Returns:
        Nats per row; higher is better.

    Raises:
        ValueError: free nats were asked of a KL that does not split into latents.
    """
    q = model.posterior(x)
    z, kl = draws_and_kl(model, q, noise)
    if isinstance(free_nats, Tensor) or free_nats:
        by_latent = q.kl_per_latent() if model.standard_prior else None
        if by_latent is None:
            raise ValueError(
                "free nats need a KL of each latent: a diagonal posterior and the standard prior"
            )
        costs = (by_latent.mean(0) if mean_kl is None else mean_kl) > free_nats
        kl = torch.where(costs, by_latent, free_nats).sum(-1)
    return model.log_likelihood(x, z).mean(0) - beta * kl


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
    return log_mean(log_weights(model, x, noise))


def iwae_doubly_reparameterized(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
) -> Float[Tensor, " rows"]:
    """Estimate the importance-weighted bound, with the gradient of Tucker et al. (2019), DReG.

    With normalized weights v_s, the gradient is sum_s v_s d log w_s for the generative model
    and sum_s v_s^2 (d log w_s / d z_s) dz_s for q: unbiased like that of `iwae`, but its signal
    does not vanish as samples grow (Rainforth et al. 2018).

    Returns:
        Nats per row; higher is better. The value is that of `iwae`.
    """
    log_w, z = _path_log_weights(model, x, noise)
    weights = log_w.detach().softmax(0)
    if z.requires_grad:
        z.register_hook(lambda gradient: weights[..., None] * gradient)
    return _with_gradient_of(log_mean(log_w), (weights * log_w).sum(0))


def miwae(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
    *,
    groups: int,
) -> Float[Tensor, " rows"]:
    """Average `groups` independent importance-weighted bounds: MIWAE(M, K).

    Rainforth et al. (2018): the noise is M groups of K samples in sequence. (M, 1) is
    estimator A with M samples, (1, K) is IWAE.

    Returns:
        Nats per row; higher is better.
    """
    return log_mean(log_weights(model, x, noise).unflatten(0, (groups, -1)), 1).mean(0)


def piwae(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
    *,
    groups: int,
) -> Float[Tensor, " rows"]:
    """Train p by IWAE over all samples and q by MIWAE over `groups` of them: PIWAE(M, K).

    Rainforth et al. (2018), section 5: a tighter bound helps the generative model and drowns
    the encoder's gradient in noise, so each gets its own. With weights a_s for p and b_s for q,
    the gradient is that of

        sum_s (a_s - b_s) log p(x, z_s held fixed) + b_s (log p(x, z_s) - log q(z_s | x))

    Returns:
        Nats per row; higher is better. The value is that of `iwae`.
    """
    z, log_q = model.posterior(x).reparameterize_with_log_prob(noise)
    log_joint = model.log_likelihood(x, z) + model.log_prior(z)
    fixed = z.detach()
    log_joint_fixed = model.log_likelihood(x, fixed) + model.log_prior(fixed)
    log_w = (log_joint - log_q).detach()
    for_p = log_w.softmax(0)
    for_q = (log_w.unflatten(0, (groups, -1)).softmax(1) / groups).flatten(0, 1)
    mixed = (for_p - for_q) * log_joint_fixed + for_q * (log_joint - log_q)
    return _with_gradient_of(log_mean(log_w), mixed.sum(0))


def wake_sleep(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
    dream: tuple[Shaped[Tensor, "_ features"], Float[Tensor, "_ latents"]],
) -> Float[Tensor, " rows"]:
    """Return both phases of wake-sleep (Hinton et al. 1995) for one simultaneous step.

        wake:   mean_s log p(x, z_s), z_s ~ q(z | x) held fixed     moves p alone
        sleep:  mean log q(z | x), (x, z) = `dream` drawn from p     moves q alone

    Not a bound on anything: the sleep phase minimizes KL(p || q), the other way round. The
    baseline of K&W's figures 2 and 3.

    Returns:
        Nats per row; the phases' sum, the mean of the sleep phase in every row.
    """
    dreamt_x, dreamt_z = (part.detach() for part in dream)
    z = model.posterior(x).reparameterize(noise).detach()
    wake = (model.log_likelihood(x, z) + model.log_prior(z)).mean(0)
    return wake + model.posterior(dreamt_x).log_prob(dreamt_z[None]).mean()


def complete_data(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    z: Float[Tensor, "samples rows latents"],
) -> Float[Tensor, " rows"]:
    """mean_s log p(x, z_s), for z_s ~ p(z | x): the M step of Monte Carlo EM.

    Not a bound: its gradient for p is that of log p(x) if z is drawn from the true posterior.

    Returns:
        Nats per row; higher is better.
    """
    return (model.log_likelihood(x, z) + model.log_prior(z)).mean(0)


def full_data_bound(bounds: Float[Tensor, " rows"], total_rows: int) -> Float[Tensor, ""]:
    """Estimate the bound of the whole data set from that of a minibatch of M of its N rows.

    Eq. 8: (N / M) sum of the bounds. Unbiased where rows are drawn uniformly.
    """
    return total_rows * bounds.mean()


def log_weight_prior(parameters: Iterable[Tensor]) -> Float[Tensor, ""]:
    """Log density of all parameters under N(0, I): added to `full_data_bound` it makes MAP."""
    return torch.stack([densities.standard_normal(p).sum() for p in parameters]).sum()


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
    z, log_q = q.reparameterize_with_log_prob(noise)
    return model.log_likelihood(x, z) + model.log_prior(z) - log_q


def log_mean(log_w: Float[Tensor, "*n"], axis: int = 0) -> Float[Tensor, "*m"]:
    """Log of the mean of w along an axis."""
    return log_w.logsumexp(axis) - math.log(log_w.shape[axis])


def draws_and_kl(
    model: LatentModel, q: Posterior, noise: Float[Tensor, "samples rows latents"]
) -> tuple[Float[Tensor, "samples rows latents"], Float[Tensor, " rows"]]:
    """Draws of q, and KL(q(z|x) || p(z)): exact in closed form, else the mean over these draws.

    Either way without bias; a sampled KL may be negative.
    """
    exact = q.kl_from_prior() if model.standard_prior else None
    if exact is not None:
        return q.reparameterize(noise), exact
    z, log_q = q.reparameterize_with_log_prob(noise)
    return z, (log_q - model.log_prior(z)).mean(0)


def _path_log_weights(
    model: LatentModel, x: Tensor, noise: Tensor
) -> tuple[Float[Tensor, "samples rows"], Float[Tensor, "samples rows latents"]]:
    """Log weights whose gradient reaches q through its draws alone, and the draws."""
    q = model.posterior(x)
    z = q.reparameterize(noise)
    log_q = q.detached().log_prob(z)
    return model.log_likelihood(x, z) + model.log_prior(z) - log_q, z


def _with_gradient_of(
    value: Float[Tensor, " rows"], surrogate: Float[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Return a number that is `value` and moves as `surrogate` does."""
    return value.detach() + surrogate - surrogate.detach()
