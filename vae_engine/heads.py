"""From the encoder's outputs to a posterior: the counterpart of the likelihood families."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_engine.config import ModelConfig
from vae_engine.flows import FlowPosterior, conditional_flow
from vae_engine.hierarchy import ConditionalNormal, LayeredPosterior
from vae_engine.limits import squashed
from vae_engine.networks import Initial
from vae_engine.posteriors import DiagonalNormal, FullNormal, Posterior

LOG_STDDEV_RANGE = (-11.0, 6.0)  # of a posterior: its square stays a normal float32
CONTEXT = 32  # numbers a flow is told about the row


class Head(nn.Module, ABC):
    """q(z | x) as a function of `outputs` numbers that the encoder gives for each row."""

    outputs: int

    @abstractmethod
    def forward(self, outputs: Float[Tensor, "rows outputs"]) -> Posterior:
        """Return the posterior of each row."""


class DiagonalHead(Head):
    """Means and log standard deviations.  Eq. 9 and appendix C."""

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.outputs = 2 * latents

    def forward(self, outputs: Float[Tensor, "rows outputs"]) -> DiagonalNormal:
        """Return N(mean, diag(stddev^2))."""
        mean, log_stddev = outputs.chunk(2, -1)
        return DiagonalNormal(mean, squashed(log_stddev, *LOG_STDDEV_RANGE).exp())


class FullHead(Head):
    """Means and a Cholesky factor: L = diag(stddev) (I + N), with N strictly lower triangular."""

    rows: Tensor
    columns: Tensor

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.latents = latents
        self.outputs = 2 * latents + latents * (latents - 1) // 2
        rows, columns = torch.tril_indices(latents, latents, -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, outputs: Float[Tensor, "rows outputs"]) -> FullNormal:
        """Return N(mean, L L')."""
        mean, log_stddev, below = outputs.split(
            [self.latents, self.latents, self.outputs - 2 * self.latents], -1
        )
        unit = torch.eye(self.latents, dtype=outputs.dtype, device=outputs.device)
        unit = unit.expand(len(outputs), -1, -1).index_put(
            (
                torch.arange(len(outputs), device=outputs.device)[:, None],
                self.rows,
                self.columns,
            ),
            below,
        )
        stddev = squashed(log_stddev, *LOG_STDDEV_RANGE).exp()
        return FullNormal(mean, stddev[..., None] * unit)


class FlowHead(Head):
    """A diagonal Gaussian whose noise goes through a flow that is told about the row."""

    def __init__(self, config: ModelConfig, initial: Initial) -> None:
        super().__init__()
        self.latents = config.latents
        self.outputs = 2 * config.latents + CONTEXT
        self.flow = conditional_flow(config, CONTEXT, initial.generator)

    def forward(self, outputs: Float[Tensor, "rows outputs"]) -> FlowPosterior:
        """Return the law of mean + stddev * flow(noise; context)."""
        mean, log_stddev, context = outputs.split([self.latents, self.latents, CONTEXT], -1)
        base = DiagonalNormal(mean, squashed(log_stddev, *LOG_STDDEV_RANGE).exp())
        return FlowPosterior(base, self.flow, context)


class LayeredHead(Head):
    """Two stochastic layers: q(z1 | x) q(z2 | z1)."""

    def __init__(self, config: ModelConfig, initial: Initial) -> None:
        super().__init__()
        assert config.upper_latents is not None
        self.lower = DiagonalHead(config.latents)
        self.outputs = self.lower.outputs
        self.upper = ConditionalNormal(
            config.latents,
            config.upper_hidden,
            config.upper_latents,
            config.activation,
            initial,
        )

    def forward(self, outputs: Float[Tensor, "rows outputs"]) -> LayeredPosterior:
        """Return q(z1 | x), and with it the map to q(z2 | z1)."""
        return LayeredPosterior(self.lower(outputs), self.upper)


def build_head(config: ModelConfig, initial: Initial) -> Head:
    """Build the head that `config` names."""
    if config.upper_latents is not None:
        return LayeredHead(config, initial)
    if config.posterior == "diagonal":
        return DiagonalHead(config.latents)
    if config.posterior == "full":
        return FullHead(config.latents)
    return FlowHead(config, initial)
