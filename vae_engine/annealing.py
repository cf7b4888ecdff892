"""log p(x) between two bounds, by annealed importance sampling, forwards and backwards.

A path of densities leads from one that can be sampled, at beta = 0, to p(x, z) at beta = 1;
chains follow it by Hamiltonian transitions and gather a weight on the way (Neal 2001). Unlike
importance sampling, whose error grows with the distance of q from the true posterior, the
error falls with the number of temperatures. Run backwards from an exact draw of the posterior,
the same path gives an upper bound (Grosse, Ghahramani & Adams 2015). An exact draw is at hand
for simulated rows only: z ~ p(z), x ~ p(x | z) makes z a draw of p(z | x).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from vae_engine.diagnostics import effective_samples, log_mean_stderr
from vae_engine.hmc import Point, Terms, adapted, evaluate, kick, transition
from vae_engine.model import LatentModel
from vae_engine.noise import derived_seed, keyed_noise
from vae_engine.observation import observed

STEEPNESS = 4.0  # of the schedule: Wu et al.'s code
STARTS = ("posterior", "prior")
SETTLING = 10  # transitions at beta = 0, where the scale is known, before the tuning run
GAIN = 0.2  # of the adaptation in the tuning run: a step of 2 becomes 0.1 in 25 transitions
BEGIN, TUNE, UP, DOWN = range(4)  # streams of noise


@dataclass(frozen=True, kw_only=True)
class AnnealingPlan:
    """How to anneal.

    Costs rows × chains × leapfrog_steps × (temperatures + tuning_temperatures + 10) gradients.
    """

    seed: int
    temperatures: int = 100
    chains: int = 16
    leapfrog_steps: int = 4
    start: str = "posterior"  # or "prior": slower, and independent of the encoder
    tuning_temperatures: int = 30
    acceptance: float = 0.8
    rows_per_chunk: int = 32  # memory only: 16 chains × 32 rows × 784 pixels are 1.6 MB

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ValueError(f"start is {self.start!r}; choose from {list(STARTS)}")
        least = {
            "temperatures": 1,
            "chains": 2,
            "leapfrog_steps": 1,
            "tuning_temperatures": 1,
            "rows_per_chunk": 1,
        }
        for name, number in least.items():
            if getattr(self, name) < number:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be {number} or more"
                )
        if not 0 < self.acceptance < 1:
            raise ValueError(f"acceptance is {self.acceptance}; it must be between 0 and 1")


class Annealed(NamedTuple):
    """What annealing says about each row, in nats."""

    log_marginal_nats: Float[Tensor, " rows"]  # biased low: a lower bound in expectation
    stderr: Float[Tensor, " rows"]  # by the delta method over chains
    ess: Float[Tensor, " rows"]  # chains that count, between 1 and `chains`
    acceptance: Float[Tensor, " rows"]  # mean over chains and temperatures


class Sandwich(NamedTuple):
    """Two bounds on log p(x) of each simulated row, in nats."""

    lower_nats: Float[Tensor, " rows"]
    lower_stderr: Float[Tensor, " rows"]
    upper_nats: Float[Tensor, " rows"]
    upper_stderr: Float[Tensor, " rows"]
    acceptance: Float[Tensor, " rows"]

    @property
    def width_nats(self) -> Float[Tensor, " rows"]:
        """Upper minus lower: what is not known about log p(x). Negative by chance only."""
        return self.upper_nats - self.lower_nats


class Path(NamedTuple):
    """Densities from beta = 0 to 1: exp of (1 - beta) first + beta last, times the terms."""

    terms: Terms
    first: Float[Tensor, " terms"]
    last: Float[Tensor, " terms"]
    begin: Callable[[Tensor], Tensor]  # from N(0, I) noise to draws at beta = 0
    stddev: Callable[[float], Tensor]  # about what each latent has at beta: (rows, latents)

    def weights(self, beta: float) -> Float[Tensor, " terms"]:
        """Return the weight of each term at beta."""
        return torch.lerp(self.first, self.last, beta)


def sigmoid_schedule(temperatures: int) -> Float[Tensor, " points"]:
    """Betas from 0 to 1, dense at both ends, where the path moves fastest; float64.

    sigmoid(s (2 t / T - 1)), shifted and stretched to [0, 1], with s = 4: Wu et al. (2017).
    """
    t = torch.linspace(-STEEPNESS, STEEPNESS, temperatures + 1, dtype=torch.float64).sigmoid()
    return (t - t[0]) / (t[-1] - t[0])


@torch.no_grad()
def anneal(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    row_keys: Int64[Tensor, " rows"],
    plan: AnnealingPlan,
) -> Annealed:
    """Estimate log p(x) of each row by annealed importance sampling.

        log p(x)  ~  log mean_c w_c,   w_c = product_t f_t(z_{t-1}) / f_{t-1}(z_{t-1})

    Neal (2001), eq. 3, with z_0 drawn from q(z | x), or from p(z), and z_t from a Hamiltonian
    transition that leaves f_t invariant. w is unbiased for p(x), so its logarithm is biased
    low, and tightens with temperatures and chains. Step sizes are tuned in a run of their own
    and frozen. Grey pixels are binarized by (seed, row key) where the model says so.

    Noise is a function of (seed, row key), so neither the order of rows nor their chunks
    change a row's estimate, but where a rounding error turns an accept step.

    Raises:
        ValueError: `plan.start` is "prior" and p(z) is not N(0, I).
    """
    parts = []
    for rows, keys in zip(
        x.split(plan.rows_per_chunk), row_keys.split(plan.rows_per_chunk), strict=True
    ):
        path = path_of(model, observed(model, rows, keys, plan.seed), plan.start)
        sizes = _tuned_step_sizes(path, keys, plan, model.latents)
        log_w, acceptance = _upwards(path, keys, sizes, plan, model.latents)
        ess = effective_samples(log_w)
        parts.append(
            Annealed(_log_mean(log_w), log_mean_stderr(ess, plan.chains), ess, acceptance)
        )
    return Annealed(*(torch.cat(field) for field in zip(*parts, strict=True)))


@torch.no_grad()
def sandwich(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    z: Float[Tensor, "rows latents"],
    row_keys: Int64[Tensor, " rows"],
    plan: AnnealingPlan,
) -> Sandwich:
    """Bound log p(x) of rows that the model drew (`VAE.dream`) from both sides.

    The lower bound is `anneal`. The upper one starts every chain at the exact posterior draw z
    and goes the same path down:

        log p(x)  ~  -log mean_c 1 / w_c

    1 / w is unbiased for 1 / p(x), so this is biased high (Grosse et al. 2015, section 3).
    Chains of one row share z: their spread tells the error of the path, given z, and the
    spread over rows tells the rest; the mean over rows is a bound, a single row's may be off.
    """
    parts = []
    for rows, exact, keys in zip(
        x.split(plan.rows_per_chunk),
        z.split(plan.rows_per_chunk),
        row_keys.split(plan.rows_per_chunk),
        strict=True,
    ):
        path = path_of(model, observed(model, rows, keys, plan.seed), plan.start)
        sizes = _tuned_step_sizes(path, keys, plan, model.latents)
        up, acceptance = _upwards(path, keys, sizes, plan, model.latents)
        top = evaluate(path.terms, exact.expand(plan.chains, -1, -1))
        schedule = sigmoid_schedule(plan.temperatures).flip(0)
        down, _ = _followed(path, schedule, top, keys, sizes.flip(0), plan, DOWN)
        parts.append(
            Sandwich(
                _log_mean(up),
                log_mean_stderr(effective_samples(up), plan.chains),
                -_log_mean(down),
                log_mean_stderr(effective_samples(down), plan.chains),
                acceptance,
            )
        )
    return Sandwich(*(torch.cat(field) for field in zip(*parts, strict=True)))


def path_of(model: LatentModel, x: Shaped[Tensor, "rows features"], start: str) -> Path:
    """Return the geometric path from q(z | x), or from p(z), to p(x, z).

    Raises:
        ValueError: the path would start at a prior that is not N(0, I).
    """
    q = model.posterior(x)
    if start == "posterior":
        return Path(
            lambda z: (q.log_prob(z), model.log_prior(z), model.log_likelihood(x, z)),
            q.mean.new_tensor([1.0, 0.0, 0.0]),
            q.mean.new_tensor([0.0, 1.0, 1.0]),
            q.reparameterize,
            lambda _: q.stddev,
        )
    if not model.standard_prior:
        raise ValueError(
            "annealing from the prior needs p(z) = N(0, I), and this model learned its prior; "
            "start from the posterior instead"
        )
    return Path(
        lambda z: (model.log_prior(z), model.log_likelihood(x, z)),
        q.mean.new_tensor([1.0, 0.0]),
        q.mean.new_tensor([1.0, 1.0]),
        lambda noise: noise,
        # precision of the prior and of beta likelihoods, as far as q knows the likelihood's
        lambda beta: (1 + beta * (q.stddev**-2 - 1)).rsqrt(),
    )


def _begun(path: Path, keys: Tensor, stream: int, plan: AnnealingPlan, latents: int) -> Point:
    """Draw the chains at beta = 0."""
    seed = derived_seed(plan.seed, BEGIN, stream)
    noise = keyed_noise(seed, keys, 0, plan.chains, latents).to(path.first.dtype)
    return evaluate(path.terms, path.begin(noise))


def _upwards(
    path: Path, keys: Tensor, sizes: Tensor, plan: AnnealingPlan, latents: int
) -> tuple[Tensor, Tensor]:
    schedule = sigmoid_schedule(plan.temperatures)
    bottom = _begun(path, keys, UP, plan, latents)
    return _followed(path, schedule, bottom, keys, sizes, plan, UP)


def _followed(
    path: Path,
    schedule: Float[Tensor, " points"],
    point: Point,
    keys: Int64[Tensor, " rows"],
    sizes: Float[Tensor, "points rows"],
    plan: AnnealingPlan,
    stream: int,
) -> tuple[Float[Tensor, "chains rows"], Float[Tensor, " rows"]]:
    """Follow the path along `schedule`, up or down; return log weights and mean acceptance.

    Between two betas the weight moves, then the chains do; at the last one nothing is left
    to be weighed, so they stay.
    """
    seed = derived_seed(plan.seed, stream)
    log_w = torch.zeros(point.logs.shape[1:], dtype=torch.float64, device=point.z.device)
    acceptance = torch.zeros(len(keys), device=point.z.device)
    betas = schedule.tolist()
    for t in range(1, len(betas)):
        change = path.weights(betas[t]) - path.weights(betas[t - 1])
        log_w += point.log_density(change)
        if t == len(betas) - 1:
            break
        step = sizes[t][:, None] * path.stddev(betas[t])
        weights, random = path.weights(betas[t]), kick(seed, keys, t, point.z)
        point, taken = transition(path.terms, weights, point, random, step, plan.leapfrog_steps)
        acceptance += taken.mean(0)
    return log_w, acceptance / max(len(betas) - 2, 1)


def _tuned_step_sizes(
    path: Path, keys: Int64[Tensor, " rows"], plan: AnnealingPlan, latents: int
) -> Float[Tensor, "points rows"]:
    """Follow the path once, adapting; return each row's step size at every beta, in stddevs."""
    seed = derived_seed(plan.seed, TUNE)
    point = _begun(path, keys, TUNE, plan, latents)
    size = torch.full_like(point.z[0, :, 0], latents**-0.25)
    sizes = []
    betas = sigmoid_schedule(plan.tuning_temperatures).tolist()
    for t, beta in enumerate([0.0] * SETTLING + betas):
        step = size[:, None] * path.stddev(beta)
        weights, random = path.weights(beta), kick(seed, keys, t, point.z)
        point, taken = transition(path.terms, weights, point, random, step, plan.leapfrog_steps)
        size = adapted(size, taken, plan.acceptance, GAIN)
        sizes.append(size)
    nearest = torch.linspace(SETTLING, len(sizes) - 1, plan.temperatures + 1).round().long()
    return torch.stack(sizes)[nearest]


def _log_mean(log_w: Float[Tensor, "chains rows"]) -> Float[Tensor, " rows"]:
    return log_w.logsumexp(0) - math.log(len(log_w))
