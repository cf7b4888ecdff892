"""Pixels as what they are: whole numbers from 0 to a maximum."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vae_engine import densities
from vae_engine.config import Column
from vae_engine.likelihoods.categorical import gumbel_like
from vae_engine.likelihoods.family import Family, logit, per_cell

LOG_SCALE_MIN = -7.0  # of the range: a quarter of a grey level of 255
LOG_SCALE_START = math.log(0.1)


class DiscretizedLogistic(Family):
    """Log masses of grey levels under a mixture of logistics, each with its mean and scale.

    Salimans et al. (2017), *PixelCNN++*, without its autoregression: given z, cells are
    independent. Three outputs a cell for each component: weight, mean (kept within the range by
    a sigmoid), log scale; cells vary fastest. This is a mass, in nats, and compares with no density.
    """

    highest: Tensor

    def __init__(self, columns: Sequence[Column], mean: Float[Tensor, " cells"]) -> None:
        super().__init__()
        self.components = max(column.components for column in columns)
        self.cells = sum(column.width for column in columns)
        self.outputs = 3 * self.components * self.cells
        self.start = mean
        self.register_buffer("highest", per_cell(columns, "scale"), persistent=False)

    def _parameters_of(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, means and log scales, each (samples, rows, components, cells), in levels."""
        parts = outputs.unflatten(-1, (3, self.components, self.cells))
        weights, means, log_scales = parts.unbind(-3)
        levels = (
            self.highest.log() + LOG_SCALE_MIN + functional.softplus(log_scales - LOG_SCALE_MIN)
        )
        return weights.log_softmax(-2), means.sigmoid() * self.highest, levels

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Log of the mixed masses; see `densities.discretized_logistic`."""
        log_weights, means, log_scales = self._parameters_of(outputs)
        log_masses = densities.discretized_logistic(x[:, None], means, log_scales, self.highest)
        return (log_weights + log_masses).logsumexp(-2)

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Return the mean of the logistics, before they are rounded and cut to the range."""
        log_weights, means, _ = self._parameters_of(outputs)
        return (log_weights.exp() * means).sum(-2)

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """Choose a component, draw from its logistic, round."""
        log_weights, means, log_scales = self._parameters_of(outputs)
        chosen = (log_weights + gumbel_like(log_weights, generator)).argmax(-2, keepdim=True)
        u = torch.rand(
            chosen.shape, generator=generator, device=outputs.device, dtype=outputs.dtype
        )
        noise = torch.logit(u.clamp(1e-7, 1 - 1e-7))
        level = means.gather(-2, chosen) + log_scales.gather(-2, chosen).exp() * noise
        return level.squeeze(-2).round().clamp(min=0).minimum(self.highest)

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Equal weights, means spread around the train means, scales of a tenth of the range."""
        spread = (
            torch.linspace(-1, 1, self.components) if self.components > 1 else torch.zeros(1)
        )
        means = logit(self.start / self.highest) + spread[:, None]
        return torch.stack(
            [torch.zeros_like(means), means, torch.full_like(means, LOG_SCALE_START)]
        ).flatten()
