"""Approximate posteriors q(z | x), as values: what an encoder says about each row."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
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

    def reparameterize_with_log_prob(
        self, noise: Float[Tensor, "samples rows latents"]
    ) -> tuple[Float[Tensor, "samples rows latents"], Float[Tensor, "samples rows"]]:
        """z = g(noise, x) and log q(z | x): for a flow far cheaper together than apart."""
        ...

    def kl_from_prior(self) -> Float[Tensor, " rows"] | None:
        """KL(q(z | x) || N(0, I)) in nats; None where it has no closed form."""
        ...

    def kl_per_latent(self) -> Float[Tensor, "rows latents"] | None:
        """KL from N(0, 1) of each latent; None where q does not factorize, or has no closed form."""
        ...

    def detached(self) -> "Posterior":
        """Return the same distribution, whose parameters pass no gradient on."""
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

    def reparameterize_with_log_prob(
        self, noise: Float[Tensor, "samples rows latents"]
    ) -> tuple[Float[Tensor, "samples rows latents"], Float[Tensor, "samples rows"]]:
        """z = g(noise, x) and log q(z | x)."""
        z = self.reparameterize(noise)
        return z, self.log_prob(z)

    def detached(self) -> "DiagonalNormal":
        """Return the same distribution, whose parameters pass no gradient on."""
        return DiagonalNormal(self.mean.detach(), self.stddev.detach())


class FullNormal(NamedTuple):
    """q(z | x) = N(z; mean, L L'), one per row; L = scale_tril is lower triangular."""

    mean: Float[Tensor, "rows latents"]
    scale_tril: Float[Tensor, "rows latents latents"]

    @property
    def stddev(self) -> Float[Tensor, "rows latents"]:
        """Square root of the diagonal of L L'."""
        return self.scale_tril.square().sum(-1).sqrt()

    def reparameterize(
        self, noise: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows latents"]:
        """z = mean + L noise."""
        return self.mean + (self.scale_tril @ noise[..., None]).squeeze(-1)

    def log_prob(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log N(L^-1 (z - mean); 0, I) - log |L|."""
        centred = (z - self.mean)[..., None]
        noise = torch.linalg.solve_triangular(self.scale_tril, centred, upper=False)
        return densities.standard_normal(noise.squeeze(-1)).sum(-1) - self._log_volume()

    def kl_from_prior(self) -> Float[Tensor, " rows"]:
        """KL(q(z | x) || N(0, I)) = (|L|^2 + |mean|^2 - latents) / 2 - log |L|."""
        squares = self.scale_tril.square().sum((-2, -1)) + self.mean.square().sum(-1)
        return 0.5 * (squares - self.mean.shape[-1]) - self._log_volume()

    def kl_per_latent(self) -> None:
        """Return None: latents depend on each other."""

    def reparameterize_with_log_prob(
        self, noise: Float[Tensor, "samples rows latents"]
    ) -> tuple[Float[Tensor, "samples rows latents"], Float[Tensor, "samples rows"]]:
        """z = g(noise, x) and log q(z | x)."""
        z = self.reparameterize(noise)
        return z, self.log_prob(z)

    def detached(self) -> "FullNormal":
        """Return the same distribution, whose parameters pass no gradient on."""
        return FullNormal(self.mean.detach(), self.scale_tril.detach())

    def _log_volume(self) -> Float[Tensor, " rows"]:
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
