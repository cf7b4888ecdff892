"""Priors p(z), as modules: a prior may have parameters."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_engine import densities


class StandardNormal(nn.Module):
    """p(z) = N(z; 0, I)."""

    standard = True

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.latents = latents

    def log_prob(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log p(z), summed over latents."""
        return densities.standard_normal(z).sum(-1)

    def sample(self, rows: int, generator: torch.Generator) -> Float[Tensor, "rows latents"]:
        """Draw z for `rows` rows."""
        return torch.randn(rows, self.latents, generator=generator, device=generator.device)
