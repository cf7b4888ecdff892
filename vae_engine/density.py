"""log p(x) from posterior samples and a density fitted to them: appendix D of the paper.

It needs no encoder beyond a place to start, so it judges models whose q is poor; and it errs
upwards where importance sampling errs downwards, so that the two together bracket a small
model's log p(x). Its limit is the dimension of z: see `TooManyLatentsError`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from vae_engine.densities import LOG_2PI
from vae_engine.diagnostics import effective_samples, log_mean_stderr
from vae_engine.hmc import Point, Terms, adapted, evaluate, kick, transition
from vae_engine.model import LatentModel
from vae_engine.noise import derived_seed, keyed_noise
from vae_engine.observation import observed

MOST_LATENTS = (
    4  # appendix D: "good estimates ... as long as the dimensionality is low (less then 5)"
)
GAIN = (
    0.3  # of the adaptation of step sizes at first; it falls with the root of the transitions
)
BEGIN, MOVE = range(2)  # streams of noise


class TooManyLatentsError(ValueError):
    """A density in more than four dimensions is not known from a few hundred samples."""


@dataclass(frozen=True, kw_only=True)
class DensityPlan:
    """How to sample each row's posterior: half of the chains to fit to, half to judge by.

    Costs rows × chains × leapfrog_steps × (burn_in + states) gradients.
    """

    seed: int
    chains: int = 64
    states: int = 10  # of each chain
    burn_in: int = 50  # transitions from q to the posterior; step sizes are tuned in them
    leapfrog_steps: int = 4
    acceptance: float = 0.9
    rows_per_chunk: int = 64  # memory only

    def __post_init__(self) -> None:
        least = {
            "chains": 4,
            "states": 1,
            "burn_in": 2,
            "leapfrog_steps": 1,
            "rows_per_chunk": 1,
        }
        for name, number in least.items():
            if getattr(self, name) < number:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be {number} or more"
                )
        if self.chains % 2:
            raise ValueError(
                f"chains is {self.chains}; half of them fit, half judge: make it even"
            )
        if not 0 < self.acceptance < 1:
            raise ValueError(f"acceptance is {self.acceptance}; it must be between 0 and 1")


class DensityEstimate(NamedTuple):
    """What appendix D says about each row, in nats."""

    log_marginal_nats: Float[Tensor, " rows"]  # biased high: the inverse of a mean
    stderr: Float[Tensor, " rows"]  # by the delta method over chains
    inside: Float[Tensor, " rows"]  # share of new samples where the fitted density is above 0
    acceptance: Float[Tensor, " rows"]


@torch.no_grad()
def estimate_by_density(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    row_keys: Int64[Tensor, " rows"],
    plan: DensityPlan,
) -> DensityEstimate:
    """Estimate log p(x) of each row by the marginal likelihood estimator of appendix D.

    1. Sample z from p(z | x) by Hamiltonian Monte Carlo.
    2. Fit a density f(z) to these samples.
    3. Sample new z, and

        log p(x)  ~  -log mean_l [ f(z_l) / p(x, z_l) ],   z_l ~ p(z | x)

    f is a full Gaussian, cut off at the ellipsoid that holds some 95 % of it (Geweke 1999): the
    paper leaves f open, and where f has the heavier tail the mean has no variance. Chains
    start at q(z | x) and are independent; half of them fit, the other half are the new samples
    and their spread the error. New states of the same chains are not new enough (0.005 nats low
    with 4 latents), and to swap the halves and average hides their common error (87 % coverage).

    Biased high, as a mean is inverted; consistent in the samples, if the chains reach every
    mode of the posterior. Grey pixels are binarized by (seed, row key) where the model says
    so, and the estimate of a row depends on (seed, row key) alone but for rounding.

    Raises:
        TooManyLatentsError: the model has more than four latents.
    """
    if model.latents > MOST_LATENTS:
        raise TooManyLatentsError(
            f"the model has {model.latents} latents, and appendix D's estimator fits a density "
            f"to posterior samples, which is reliable for {MOST_LATENTS} at most: in more "
            f"dimensions the fit misses the posterior and the estimate runs high. Use importance "
            f"sampling or annealing."
        )
    parts = []
    for rows, keys in zip(
        x.split(plan.rows_per_chunk), row_keys.split(plan.rows_per_chunk), strict=True
    ):
        parts.append(_estimate(model, observed(model, rows, keys, plan.seed), keys, plan))
    return DensityEstimate(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _estimate(
    model: LatentModel, x: Tensor, keys: Int64[Tensor, " rows"], plan: DensityPlan
) -> DensityEstimate:
    q = model.posterior(x)
    noise = keyed_noise(derived_seed(plan.seed, BEGIN), keys, 0, plan.chains, model.latents)

    def terms(z: Tensor) -> tuple[Tensor]:
        return (model.log_prior(z) + model.log_likelihood(x, z),)

    point = evaluate(terms, q.reparameterize(noise.to(q.mean.dtype)))
    point, step = _burnt_in(terms, point, q.stddev, keys, plan)
    samples, log_joint, acceptance = _sampled(terms, point, step, keys, plan)
    fitted_to, judged = samples.chunk(2, 1)
    log_density = TruncatedNormal.fitted(fitted_to.flatten(0, 1)).log_prob(judged)
    log_ratio = log_density.double() - log_joint.chunk(2, 1)[1]  # -inf outside
    of_chain = log_ratio.logsumexp(0) - math.log(plan.states)
    return DensityEstimate(
        math.log(len(of_chain)) - of_chain.logsumexp(0),
        log_mean_stderr(effective_samples(of_chain), len(of_chain)),
        (log_ratio > -math.inf).double().mean((0, 1)),
        acceptance,
    )


def _burnt_in(
    terms: Terms,
    point: Point,
    stddev: Float[Tensor, "rows latents"],
    keys: Int64[Tensor, " rows"],
    plan: DensityPlan,
) -> tuple[Point, Float[Tensor, "rows latents"]]:
    """Leave q, tuning each row's step size; return the chains and the frozen steps."""
    size = torch.ones_like(stddev[:, 0])
    sizes = []
    for t in range(plan.burn_in):
        random = kick(derived_seed(plan.seed, MOVE), keys, t, point.z)
        step = size[:, None] * stddev
        point, taken = transition(
            terms, step.new_ones(1), point, random, step, plan.leapfrog_steps
        )
        size = adapted(size, taken, plan.acceptance, GAIN * (1 + t) ** -0.5)
        sizes.append(size)
    settled = torch.stack(sizes[plan.burn_in // 2 :]).log().mean(0).exp()
    return point, settled[:, None] * stddev


def _sampled(
    terms: Terms,
    point: Point,
    step: Float[Tensor, "rows latents"],
    keys: Int64[Tensor, " rows"],
    plan: DensityPlan,
) -> tuple[
    Float[Tensor, "states chains rows latents"],
    Float[Tensor, "states chains rows"],
    Float[Tensor, " rows"],
]:
    """Take `states` transitions after the burn-in, and keep every state."""
    samples, log_joint, acceptance = [], [], []
    for t in range(plan.burn_in, plan.burn_in + plan.states):
        random = kick(derived_seed(plan.seed, MOVE), keys, t, point.z)
        point, taken = transition(
            terms, step.new_ones(1), point, random, step, plan.leapfrog_steps
        )
        samples.append(point.z)
        log_joint.append(point.logs[0])
        acceptance.append(taken.mean(0))
    return torch.stack(samples), torch.stack(log_joint), torch.stack(acceptance).mean(0)


class TruncatedNormal(NamedTuple):
    """A Gaussian for each row, cut off at an ellipsoid around its mean and renormalized."""

    mean: Float[Tensor, "rows latents"]
    triangle: Float[Tensor, "rows latents latents"]  # Cholesky factor of the covariance

    @classmethod
    def fitted(cls, z: Float[Tensor, "samples rows latents"]) -> "TruncatedNormal":
        """Match mean and covariance of the samples of each row."""
        mean = z.mean(0)
        residual = (z - mean).transpose(0, 1)
        covariance = residual.mT @ residual / (len(z) - 1)
        least = 1e-6 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        return cls(mean, torch.linalg.cholesky(covariance + least * identity))

    @property
    def radius_squared(self) -> float:
        """Where the ellipsoid ends: mean + 2 standard deviations of chi-squared, about 95 %."""
        latents = self.mean.shape[-1]
        return latents + 2 * math.sqrt(2 * latents)

    def log_prob(
        self, z: Float[Tensor, "*samples rows latents"]
    ) -> Float[Tensor, "*samples rows"]:
        """log f(z); -inf outside the ellipsoid."""
        half = 0.5 * torch.tensor([self.mean.shape[-1], self.radius_squared], dtype=z.dtype)
        log_held = torch.special.gammainc(half[0], half[1]).log().to(z.device)
        solved = torch.linalg.solve_triangular(
            self.triangle, (z - self.mean)[..., None], upper=False
        )[..., 0]
        distance = solved.square().sum(-1)
        log_det = self.triangle.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_normal = -0.5 * (distance + z.shape[-1] * LOG_2PI) - log_det
        return torch.where(distance < self.radius_squared, log_normal - log_held, -math.inf)
