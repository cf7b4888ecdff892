"""Two stochastic layers, as in Burda et al.'s 2-layer models: z = (z1, z2), x depends on z1.

p(z2) = N(0, I),   p(z1 | z2) = N(m(z2), diag s(z2)^2),   q(z | x) = q(z1 | x) q(z2 | z1)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_engine import densities
from vae_engine.config import ModelConfig
from vae_engine.limits import squashed
from vae_engine.networks import MLP, Initial, frozen, linear
from vae_engine.posteriors import DiagonalNormal

LOG_STDDEV_RANGE = (-7.0, 4.0)

Moments = tuple[Tensor, Tensor]


class ConditionalNormal(nn.Module):
    """N(b; m(a), diag s(a)^2): the arrow from one stochastic layer to another."""

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        outputs: int,
        activation: str,
        initial: Initial,
    ) -> None:
        super().__init__()
        self.body = MLP(inputs, hidden, activation, initial)
        self.affine = linear(self.body.outputs, 2 * outputs, initial)

    def forward(
        self, a: Float[Tensor, "*n inputs"]
    ) -> tuple[Float[Tensor, "*n outputs"], Float[Tensor, "*n outputs"]]:
        """Mean and log standard deviation of b."""
        outputs = self.affine(self.body(a))
        if outputs.dtype in (torch.float16, torch.bfloat16):
            outputs = outputs.float()
        mean, log_stddev = outputs.chunk(2, -1)
        return mean, squashed(log_stddev, *LOG_STDDEV_RANGE)


@dataclass(frozen=True)
class LayeredPosterior:
    """q(z1 | x) q(z2 | z1); the first coordinates of z are z1."""

    lower: DiagonalNormal
    upper: Callable[[Tensor], Moments]

    @property
    def mean(self) -> Float[Tensor, "rows latents"]:
        """E[z1 | x], and the mean of z2 at that z1."""
        return torch.cat([self.lower.mean, self.upper(self.lower.mean)[0]], -1)

    @property
    def stddev(self) -> Float[Tensor, "rows latents"]:
        """Standard deviation of z1 given x, and of z2 given the mean of z1."""
        return torch.cat([self.lower.stddev, self.upper(self.lower.mean)[1].exp()], -1)

    def reparameterize(
        self, noise: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows latents"]:
        """z1 = g(noise1, x), then z2 = m(z1) + s(z1) noise2."""
        first = self.lower.mean.shape[-1]
        z1 = self.lower.reparameterize(noise[..., :first])
        mean, log_stddev = self.upper(z1)
        return torch.cat([z1, mean + log_stddev.exp() * noise[..., first:]], -1)

    def log_prob(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log q(z1 | x) + log q(z2 | z1)."""
        first = self.lower.mean.shape[-1]
        z1, z2 = z[..., :first], z[..., first:]
        return self.lower.log_prob(z1) + densities.normal(z2, *self.upper(z1)).sum(-1)

    def kl_from_prior(self) -> None:
        """Return None: there is no closed form."""

    def kl_per_latent(self) -> None:
        """Return None: there is no closed form."""

    def reparameterize_with_log_prob(
        self, noise: Float[Tensor, "samples rows latents"]
    ) -> tuple[Float[Tensor, "samples rows latents"], Float[Tensor, "samples rows"]]:
        """z = g(noise, x) and log q(z | x)."""
        z = self.reparameterize(noise)
        return z, self.log_prob(z)

    def detached(self) -> "LayeredPosterior":
        """Return the same distribution, whose parameters pass no gradient on; z1 still does."""
        upper = frozen(self.upper) if isinstance(self.upper, nn.Module) else self.upper
        return LayeredPosterior(self.lower.detached(), upper)


class LayeredPrior(nn.Module):
    """p(z2) p(z1 | z2)."""

    standard = False

    def __init__(self, config: ModelConfig, initial: Initial) -> None:
        super().__init__()
        assert config.upper_latents is not None
        self.lower_latents, self.upper_latents = config.latents, config.upper_latents
        self.arrow = ConditionalNormal(
            config.upper_latents,
            config.upper_hidden[::-1],
            config.latents,
            config.activation,
            initial,
        )

    def log_prob(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log p(z2) + log p(z1 | z2)."""
        z1, z2 = z[..., : self.lower_latents], z[..., self.lower_latents :]
        conditional = densities.normal(z1, *self.arrow(z2)).sum(-1)
        return densities.standard_normal(z2).sum(-1) + conditional

    def sample(self, rows: int, generator: torch.Generator) -> Float[Tensor, "rows latents"]:
        """Draw z2 from N(0, I), then z1 given it."""
        noise = torch.randn(
            rows,
            self.lower_latents + self.upper_latents,
            generator=generator,
            device=generator.device,
            dtype=self.arrow.affine.weight.dtype,
        )
        z2 = noise[:, self.lower_latents :]
        mean, log_stddev = self.arrow(z2)
        return torch.cat([mean + log_stddev.exp() * noise[:, : self.lower_latents], z2], -1)
