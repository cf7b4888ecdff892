"""Normalizing flows as posteriors and as a prior, built of zuko's transformations.

zuko is imported inside the functions that need it: importing it switches off the argument
checks of `torch.distributions` for the whole process, and most models have no flow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_engine import densities
from vae_engine.config import ModelConfig
from vae_engine.networks import frozen
from vae_engine.posteriors import DiagonalNormal

MOMENT_DRAWS = 256  # fixed noise, antithetic, from which features' mean and stddev are taken


class FlowMap(nn.Module):
    """An invertible map and the log volume it adds: (x, context) -> (y, log |det dy / dx|)."""

    def __init__(self, transform: nn.Module, generator: torch.Generator) -> None:
        """Draw every parameter from `generator`, uniform in +-1 / sqrt(inputs) as torch does."""
        super().__init__()
        self.transform = transform
        with torch.no_grad():
            for parameter in transform.parameters():
                bound = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.0
                uniform = torch.rand(parameter.shape, generator=generator)
                parameter.copy_(bound * (2 * uniform - 1))

    def forward(
        self,
        x: Float[Tensor, "*n latents"],
        context: Float[Tensor, "rows context"] | None = None,
        *,
        backwards: bool = False,
    ) -> tuple[Float[Tensor, "*n latents"], Float[Tensor, "*n"]]:
        """Map x, or map it back."""
        with torch.autocast(x.device.type, enabled=False):
            there = self.transform(context)
            y, log_volume = (there.inv if backwards else there).call_and_ladj(x)
        return y, log_volume


def conditional_flow(config: ModelConfig, context: int, generator: torch.Generator) -> FlowMap:
    """Build the flow of a posterior; noise to z is its fast direction.

    iaf: an autoregressive affine flow in the direction of Kingma et al. (2016), one pass from
    noise to z, `latents` passes back. spline: rational-quadratic coupling layers (Durkan et
    al. 2019), two passes either way.
    """
    import zuko  # see the top of this file

    settings: dict[str, Any] = {
        "features": config.latents,
        "context": context,
        "transforms": config.transforms,
        "hidden_features": config.transform_hidden,
    }
    with torch.random.fork_rng(devices=[]):  # zuko would move the global generator on
        if config.posterior == "iaf":
            flow = zuko.flows.MAF(**settings)
        else:
            flow = zuko.flows.NSF(**settings, passes=2)
    return FlowMap(flow.transform, generator)


def unconditional_flow(config: ModelConfig, generator: torch.Generator) -> FlowMap:
    """Build the flow of a prior: an autoregressive spline; z to noise is its fast direction."""
    import zuko  # see the top of this file

    with torch.random.fork_rng(devices=[]):
        flow = zuko.flows.NSF(
            features=config.latents,
            transforms=config.transforms,
            hidden_features=config.transform_hidden,
        )
    return FlowMap(flow.transform, generator)


@dataclass(frozen=True)
class FlowPosterior:
    """q(z | x): the law of z = mean + stddev * flow(noise; context), noise ~ N(0, I)."""

    base: DiagonalNormal
    flow: Callable[..., tuple[Tensor, Tensor]]
    context: Float[Tensor, "rows context"]

    @cached_property
    def _moments(self) -> DiagonalNormal:
        """Mean and standard deviation over fixed antithetic draws: the same at every call."""
        latents = self.base.mean.shape[-1]
        generator = torch.Generator().manual_seed(0)
        half = torch.randn(MOMENT_DRAWS // 2, 1, latents, generator=generator)
        noise = torch.cat([half, -half]).to(self.base.mean)
        z = self.reparameterize(noise.expand(-1, len(self.base.mean), -1))
        return DiagonalNormal(z.mean(0), z.std(0))

    @property
    def mean(self) -> Float[Tensor, "rows latents"]:
        """E[z | x], over fixed draws."""
        return self._moments.mean

    @property
    def stddev(self) -> Float[Tensor, "rows latents"]:
        """Standard deviation of z given x, over fixed draws."""
        return self._moments.stddev

    def reparameterize(
        self, noise: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows latents"]:
        """z = mean + stddev * flow(noise; context)."""
        return self.reparameterize_with_log_prob(noise)[0]

    def reparameterize_with_log_prob(
        self, noise: Float[Tensor, "samples rows latents"]
    ) -> tuple[Float[Tensor, "samples rows latents"], Float[Tensor, "samples rows"]]:
        """Z and log q(z | x) = log N(noise; 0, I) - log |det dz / d noise|, in one pass."""
        u, log_volume = self.flow(noise, self.context)
        log_q = densities.standard_normal(noise).sum(-1) - log_volume
        return self.base.reparameterize(u), log_q - self.base.stddev.log().sum(-1)

    def log_prob(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log q(z | x) of any z: the flow is run backwards."""
        u = (z - self.base.mean) / self.base.stddev
        noise, log_volume = self.flow(u, self.context, backwards=True)
        log_q = densities.standard_normal(noise).sum(-1) + log_volume
        return log_q - self.base.stddev.log().sum(-1)

    def kl_from_prior(self) -> None:
        """Return None: there is no closed form."""

    def kl_per_latent(self) -> None:
        """Return None: there is no closed form."""

    def detached(self) -> "FlowPosterior":
        """Return the same distribution, whose parameters pass no gradient on."""
        flow = frozen(self.flow) if isinstance(self.flow, nn.Module) else self.flow
        return FlowPosterior(self.base.detached(), flow, self.context.detach())


class FlowPrior(nn.Module):
    """p(z): the law of z whose image under the flow is N(0, I)."""

    standard = False

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.latents = config.latents
        self.flow = unconditional_flow(config, generator)

    def log_prob(
        self, z: Float[Tensor, "samples rows latents"]
    ) -> Float[Tensor, "samples rows"]:
        """log N(flow(z); 0, I) + log |det d flow / dz|."""
        noise, log_volume = self.flow(z)
        return densities.standard_normal(noise).sum(-1) + log_volume

    def sample(self, rows: int, generator: torch.Generator) -> Float[Tensor, "rows latents"]:
        """Draw noise and run the flow backwards."""
        like = next(self.flow.parameters())
        noise = torch.randn(
            rows, self.latents, generator=generator, device=generator.device, dtype=like.dtype
        )
        z: Tensor = self.flow(noise, backwards=True)[0]
        return z
