"""A model whose every answer is known in closed form: the oracle of the estimators' tests.

    z ~ N(0, I),   x | z ~ N(W z + b, scale^2 I)   =>   x ~ N(b, W W' + scale^2 I)

    p(z | x) = N(V W' (x - b) / scale^2, V),   V = (I + W' W / scale^2)^-1

With orthogonal columns in W, V is diagonal and the true posterior is in the diagonal family, so a
bound can be made tight on purpose, or loosened by a known amount.
"""

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vae_engine.posteriors import DiagonalNormal

LOG_2PI = math.log(2 * math.pi)


def draws(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class LinearGaussian:
    """The linear-Gaussian model with q = p(z | x), moved off by `off` standard deviations."""

    standard_prior = True

    def __init__(
        self, features: int, latents: int, scale: float = 0.7, off: float = 0.0, seed: int = 0
    ) -> None:
        directions, _ = torch.linalg.qr(draws(features, latents, seed=seed))
        lengths = torch.linspace(0.5, 1.5, latents, dtype=torch.float64)
        self.latents, self.scale, self.off = latents, scale, off
        self.weight = directions * lengths
        self.bias = draws(features, seed=seed + 1)
        self.variance = 1 / (1 + lengths.square() / scale**2)

    def posterior(self, x: Tensor) -> DiagonalNormal:
        """The true posterior, its mean shifted by `off` of its standard deviations."""
        stddev = self.variance.sqrt().expand(len(x), -1)
        mean = self.variance * ((x - self.bias) @ self.weight) / self.scale**2
        return DiagonalNormal(mean + self.off * stddev, stddev)

    def log_prior(self, z: Tensor) -> Tensor:
        return (-0.5 * (z.square() + LOG_2PI)).sum(-1)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        residual = (x - (z @ self.weight.T + self.bias)) / self.scale
        return (-0.5 * (residual.square() + LOG_2PI) - math.log(self.scale)).sum(-1)

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x), exactly."""
        identity = torch.eye(len(self.bias), dtype=torch.float64)
        covariance = self.weight @ self.weight.T + self.scale**2 * identity
        return MultivariateNormal(self.bias, covariance).log_prob(x)

    def kl_to_truth(self) -> float:
        """KL(q || p(z | x)), which is the gap of the ELBO (eq. 1)."""
        return 0.5 * self.off**2 * self.latents

    def sample(self, rows: int, seed: int = 2) -> Tensor:
        """Rows of x from the model."""
        z = draws(rows, self.latents, seed=seed)
        noise = draws(rows, len(self.bias), seed=seed + 1)
        return z @ self.weight.T + self.bias + self.scale * noise
