"""Cells that count: Poisson and negative binomial."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vae_engine import densities
from vae_engine.config import Column
from vae_engine.likelihoods.family import Family
from vae_engine.likelihoods.paced import Paced
from vae_engine.limits import straightened

LOG_RATE_MAX = 20.0  # e^20 = 4.9e8: a first bad step overflows no exponential
LOG_TOTAL_MAX = 16.0  # e^16 = 8.9e6: a Poisson, and nothing in the counts to stop a total there


class Poisson(Family):
    """p(x | z) = Poisson(x; exp(output))."""

    def __init__(self, columns: Sequence[Column], mean: Float[Tensor, " cells"]) -> None:
        super().__init__()
        self.outputs = sum(column.width for column in columns)
        self.start = mean

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """x log rate - rate - log x!."""
        return densities.poisson(x, straightened(outputs, LOG_RATE_MAX))

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Return the rate."""
        return straightened(outputs, LOG_RATE_MAX).exp()

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """Draw a count by its rate."""
        return torch.poisson(self.mean(outputs), generator=generator)

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Log train means."""
        return self.start.clamp(min=1e-3).log()


class NegativeBinomial(Family):
    """p(x | z) = NB(x; mean exp(output), total): variance mean + mean^2 / total.

    `total` (the inverse dispersion) is learned for each cell and the same for every row.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        mean: Float[Tensor, " cells"],
        stddev: Float[Tensor, " cells"],
    ) -> None:
        super().__init__()
        self.rate = Poisson(columns, mean)
        self.outputs = self.rate.outputs
        excess = (stddev.square() - mean).clamp(min=1e-3)
        self.log_total = Paced((mean.square() / excess).clamp(1e-2, 1e3).log())

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Log mass of each count; see `densities.negative_binomial`."""
        return densities.negative_binomial(
            x, straightened(outputs, LOG_RATE_MAX), self._log_total()
        )

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Return the mean, exp(output)."""
        return self.rate.mean(outputs)

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """Draw the rate from its Gamma, then a Poisson count."""
        total = self._log_total().exp().expand(outputs.shape)
        rate = torch._standard_gamma(total, generator=generator) / total * self.mean(outputs)
        return torch.poisson(rate, generator=generator)

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Log train means."""
        return self.rate.initial_outputs()

    def _log_total(self) -> Float[Tensor, " cells"]:
        return straightened(self.log_total(), LOG_TOTAL_MAX)


class ZeroInflatedNegativeBinomial(Family):
    """p(x | z) = pi [x = 0] + (1 - pi) NB(x): two outputs a cell, log mean and logit of pi."""

    def __init__(
        self,
        columns: Sequence[Column],
        mean: Float[Tensor, " cells"],
        stddev: Float[Tensor, " cells"],
    ) -> None:
        super().__init__()
        self.counted = NegativeBinomial(columns, mean, stddev)
        self.outputs = 2 * self.counted.outputs

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Log mass of each count; see `densities.zero_inflated`."""
        log_mean, gate = outputs.chunk(2, -1)
        return densities.zero_inflated(x, self.counted.log_prob(x, log_mean), gate)

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Return (1 - pi) times the mean of the counted."""
        log_mean, gate = outputs.chunk(2, -1)
        return (-gate).sigmoid() * self.counted.mean(log_mean)

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """Draw a count, then whether it is a zero instead."""
        log_mean, gate = outputs.chunk(2, -1)
        counted = torch.bernoulli((-gate).sigmoid(), generator=generator)
        return counted * self.counted.sample(log_mean, generator)

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Log train means, and few zeros of the other kind: pi = 0.05."""
        log_mean = self.counted.initial_outputs()
        return torch.cat([log_mean, torch.full_like(log_mean, -3.0)])
