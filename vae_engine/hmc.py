"""Hamiltonian Monte Carlo over z, for thousands of rows and several chains of each at once.

The density is a weighted sum of log terms (log prior, log likelihood, log q, ...), so that a
path of densities, as annealing needs it, is a path of weights and costs no evaluation anew.

Every chain has its own momentum and its own accept step; step sizes belong to rows and may
differ between latents: leapfrog with step e_i in coordinate i is leapfrog with step 1 on
z_i / e_i, so it stays reversible and volume preserving. Sizes are adapted in runs of their own
and are constants in every run whose draws count: adapting while counting would bias it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vae_engine.noise import derived_seed, keyed_noise, keyed_uniform

Terms = Callable[
    [Tensor], tuple[Tensor, ...]
]  # z (chains, rows, latents) -> (chains, rows) each


class Point(NamedTuple):
    """Where the chains are, and what each term and its gradient are there."""

    z: Float[Tensor, "chains rows latents"]
    logs: Float[Tensor, "terms chains rows"]
    gradients: Float[Tensor, "terms chains rows latents"]

    def log_density(self, weights: Float[Tensor, " terms"]) -> Float[Tensor, "chains rows"]:
        """The weighted sum of the terms: the log of an unnormalized density."""
        return torch.tensordot(weights, self.logs, 1)

    def gradient(
        self, weights: Float[Tensor, " terms"]
    ) -> Float[Tensor, "chains rows latents"]:
        """d log_density / d z."""
        return torch.tensordot(weights, self.gradients, 1)


class Kick(NamedTuple):
    """All that is random in one transition of every chain."""

    momentum: Float[Tensor, "chains rows latents"]  # from N(0, I)
    uniform: Float[Tensor, "chains rows"]  # from [0, 1): below the acceptance, the end is taken
    stretch: Float[Tensor, "rows 1"]  # from [0.5, 1.5): a factor on the step size


class Transition(NamedTuple):
    """One step of every chain."""

    point: Point
    acceptance: Float[Tensor, "chains rows"]  # the probability that the proposal was taken


def evaluate(terms: Terms, z: Float[Tensor, "chains rows latents"]) -> Point:
    """Evaluate every term and its gradient at z."""
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        logs = terms(z)
        gradients = [torch.autograd.grad(log.sum(), z, retain_graph=True)[0] for log in logs]
    return Point(z.detach(), torch.stack(logs).detach(), torch.stack(gradients))


def leapfrog(
    terms: Terms,
    weights: Float[Tensor, " terms"],
    point: Point,
    momentum: Float[Tensor, "chains rows latents"],
    step_size: Float[Tensor, "rows _"],
    steps: int,
) -> tuple[Point, Float[Tensor, "chains rows latents"]]:
    """Follow Hamilton's equations for `steps` steps; the energy error is O(step_size^2).

    Neal (2011), eqs. 2.28-2.30. Reversible: from the end with the momentum negated it leads
    back to the start.
    """
    for _ in range(steps):
        half = momentum + 0.5 * step_size * point.gradient(weights)
        point = evaluate(terms, point.z + step_size * half)
        momentum = half + 0.5 * step_size * point.gradient(weights)
    return point, momentum


def transition(
    terms: Terms,
    weights: Float[Tensor, " terms"],
    point: Point,
    kick: Kick,
    step_size: Float[Tensor, "rows _"],
    steps: int,
) -> Transition:
    """Move every chain once; the density of `weights` is invariant, and detailed balance holds.

    Trajectories differ in length, because those of one length may return to where they began
    for ever: half the period of a Gaussian turns z into -z whatever the momentum. A trajectory
    that ends where the density is not a number is rejected.
    """
    end, last = leapfrog(terms, weights, point, kick.momentum, kick.stretch * step_size, steps)
    before = point.log_density(weights) - 0.5 * kick.momentum.square().sum(-1)
    after = end.log_density(weights) - 0.5 * last.square().sum(-1)
    acceptance = (after - before).exp().nan_to_num(0.0).clamp(max=1.0)
    taken = kick.uniform < acceptance
    return Transition(
        Point(
            torch.where(taken[..., None], end.z, point.z),
            torch.where(taken, end.logs, point.logs),
            torch.where(taken[..., None], end.gradients, point.gradients),
        ),
        acceptance,
    )


def kick(
    seed: int,
    row_keys: Int64[Tensor, " rows"],
    number: int,
    z: Float[Tensor, "chains rows latents"],
) -> Kick:
    """Draw for transition `number`: a function of (seed, row key, number) alone.

    `z` says how many chains and latents there are, and in what precision.
    """
    chains, _, latents = z.shape
    momentum = keyed_noise(seed, row_keys, number * chains, (number + 1) * chains, latents)
    uniform = keyed_uniform(derived_seed(seed, number), row_keys, chains + 1).to(z.dtype)
    return Kick(momentum.to(z.dtype), uniform[:, :chains].T, 0.5 + uniform[:, chains:])


def adapted(
    step_size: Float[Tensor, " rows"],
    acceptance: Float[Tensor, "chains rows"],
    target: float,
    gain: float,
) -> Float[Tensor, " rows"]:
    """Move each row's step size towards the target acceptance: log e += gain (mean - target)."""
    return step_size * (gain * (acceptance.mean(0) - target)).exp()
