"""Priors p(z), as modules: a prior may have parameters."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_engine import densities
from vae_engine.config import ModelConfig
from vae_engine.flows import FlowPrior
from vae_engine.hierarchy import LayeredPrior
from vae_engine.networks import Initial
from vae_engine.posteriors import Posterior


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


class Mixture(nn.Module):
    """p(z) = sum_k w_k N(z; m_k, diag s_k^2), all of it learned. Begins near N(0, I)."""

    standard = False

    def __init__(self, components: int, latents: int, generator: torch.Generator) -> None:
        super().__init__()
        self.log_weights = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(0.5 * torch.randn(components, latents, generator=generator))
        self.log_stddev = nn.Parameter(torch.zeros(components, latents))

    def log_prob(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log of the mixture's density."""
        by_component = densities.normal(z[..., None, :], self.mean, self.log_stddev).sum(-1)
        return (by_component + self.log_weights.log_softmax(0)).logsumexp(-1)

    def sample(self, rows: int, generator: torch.Generator) -> Float[Tensor, "rows latents"]:
        """Choose a component for each row and draw from it."""
        chosen = torch.multinomial(
            self.log_weights.softmax(0), rows, replacement=True, generator=generator
        )
        mean, stddev = self.mean[chosen], self.log_stddev[chosen].exp()
        noise = torch.randn(
            mean.shape, generator=generator, device=mean.device, dtype=mean.dtype
        )
        return mean + stddev * noise


class VampPrior(nn.Module):
    """p(z) = mean_k q(z | u_k): the posterior of K pseudo-inputs, which are learned.

    Tomczak & Welling (2018). The pseudo-inputs live where the encoder's first layer looks, so
    that one kind serves pixels, codes and missing cells alike. They begin as training rows.
    """

    standard = False

    def __init__(
        self,
        pseudo_inputs: Float[Tensor, "components width"],
        posterior_of: Callable[[Tensor], Posterior],
    ) -> None:
        super().__init__()
        self.pseudo_inputs = nn.Parameter(pseudo_inputs)
        self.posterior_of = posterior_of

    def log_prob(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log of the mean of the posteriors' densities."""
        components = len(self.pseudo_inputs)
        each = z.flatten(0, 1)[:, None].expand(-1, components, -1)
        log_q = self.posterior_of(self.pseudo_inputs).log_prob(each)
        return (log_q.logsumexp(-1) - math.log(components)).unflatten(0, z.shape[:2])

    def sample(self, rows: int, generator: torch.Generator) -> Float[Tensor, "rows latents"]:
        """Choose a pseudo-input for each row and draw from its posterior."""
        chosen = torch.randint(
            len(self.pseudo_inputs), (rows,), generator=generator, device=generator.device
        )
        q = self.posterior_of(self.pseudo_inputs[chosen])
        noise = torch.randn(
            (1, *q.mean.shape), generator=generator, device=q.mean.device, dtype=q.mean.dtype
        )
        return q.reparameterize(noise)[0]


Prior = StandardNormal | Mixture | VampPrior | FlowPrior | LayeredPrior


def build_prior(
    config: ModelConfig,
    initial: Initial,
    pseudo_inputs: Float[Tensor, "components width"] | None,
    posterior_of: Callable[[Tensor], Posterior],
) -> Prior:
    """Build the prior that `config` names; the last two arguments are for a VampPrior."""
    if config.upper_latents is not None:
        return LayeredPrior(config, initial)
    if config.prior == "standard":
        return StandardNormal(config.latents)
    if config.prior == "mixture":
        return Mixture(config.components, config.latents, initial.generator)
    if config.prior == "flow":
        return FlowPrior(config, initial.generator)
    assert pseudo_inputs is not None
    return VampPrior(pseudo_inputs, posterior_of)
