"""Approximate posteriors q(z | x), as values: what an encoder says about each row."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from vae_engine import densities


@runtime_checkable
class Posterior(Protocol):
    """q(z | x), one distribution per row, reparameterized by standard normal noise."""

    @property
    def mean(self) -> Float[Tensor, "rows latents"]:
        """E[z | x]."""
        ...

    @property
    def stddev(self) -> Float[Tensor, "rows latents"]:
        """Square root of Var[z | x], each latent alone."""
        ...

    def reparameterize(
        self, noise: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows latents"]:
        """z = g(noise, x), noise ~ N(0, I).  Eq. 4."""
        ...

    def log_prob(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log q(z | x)."""
        ...


@runtime_checkable
class ClosedFormPosterior(Posterior, Protocol):
    """A posterior whose KL from N(0, I) has a closed form."""

    def kl_from_prior(self) -> Float[Tensor, " rows"]:
        """KL(q(z | x) || N(0, I)) in nats."""
        ...


class DiagonalNormal(NamedTuple):
    """q(z | x) = N(z; mean, diag(stddev^2)), one per row.  Eq. 9."""

    mean: Float[Tensor, "rows latents"]
    stddev: Float[Tensor, "rows latents"]

    def reparameterize(
        self, noise: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows latents"]:
        """z = g(noise, x) = mean + stddev * noise, noise ~ N(0, I).  Eq. 4."""
        return self.mean + self.stddev * noise

    def log_prob(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log q(z | x), summed over latents."""
        return densities.normal(z, self.mean, self.stddev.log()).sum(-1)

    def kl_from_prior(self) -> Float[Tensor, " rows"]:
        """KL(q(z | x) || N(0, I)) in nats.  Appendix B, with the sign of a KL."""
        return self.kl_per_latent().sum(-1)

    def kl_per_latent(self) -> Float[Tensor, "rows latents"]:
        """KL of each latent; they add, because q and the prior both factorize."""
        variance = self.stddev.square()
        return 0.5 * (self.mean.square() + variance - 1 - variance.log())
