"""Cells that are one of two values."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vae_engine import densities
from vae_engine.config import Column
from vae_engine.likelihoods.family import Family, log_jacobian, logit, per_cell


class Bernoulli(Family):
    """p(x | z) = product of Bernoulli(x / scale; sigmoid(logits)).  Eq. 11, on logits.

    Cells are 0 or `scale` (1 for a binary column, 255 for 8-bit pixels). Grey cells have no
    Bernoulli likelihood: they are binarized before they come here (`vae_engine.binarization`).
    """

    unit: Tensor

    def __init__(self, columns: Sequence[Column], mean: Float[Tensor, " cells"]) -> None:
        super().__init__()
        self.outputs = sum(column.width for column in columns)
        self.start = mean
        self.register_buffer("unit", per_cell(columns, "scale"), persistent=False)
        self.scaled = bool((self.unit != 1).any())

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """x log p + (1 - x) log(1 - p), on logits."""
        return densities.bernoulli(x / self.unit if self.scaled else x, outputs)

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Probability of the upper value, times that value."""
        return outputs.sigmoid() * self.unit

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """Draw each cell by its own probability."""
        return torch.bernoulli(outputs.sigmoid(), generator=generator) * self.unit

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Log odds of the train means."""
        return logit(self.start / self.unit)


class ContinuousBernoulli(Family):
    """p(x | z) on [0, scale] with density l e^(l u) / (e^l - 1), u = x / scale, l = logits.

    For grey pixels that should stay grey: unlike a cross-entropy on grey values it integrates to
    one. Pixels are measured in intensities; other columns in their own units.
    """

    unit: Tensor
    jacobian: Tensor

    def __init__(self, columns: Sequence[Column], mean: Float[Tensor, " cells"]) -> None:
        super().__init__()
        self.outputs = sum(column.width for column in columns)
        self.start = mean
        self.register_buffer("unit", per_cell(columns, "scale"), persistent=False)
        self.register_buffer("jacobian", log_jacobian(columns), persistent=False)

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """u l - log((e^l - 1) / l), less the log of the unit where it is not intensity."""
        return densities.continuous_bernoulli(x / self.unit, outputs) - self.jacobian

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Expected intensity, 1 / (1 - e^-l) - 1 / l, times the unit."""
        return tilted_mean(outputs) * self.unit

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """Invert the distribution function: u = log(1 + v (e^l - 1)) / l."""
        v = torch.rand(
            outputs.shape, generator=generator, device=outputs.device, dtype=outputs.dtype
        )
        size = outputs.abs().clamp(min=1e-4)  # below, it is uniform to the last digit
        draw = torch.log1p(v * torch.expm1(-size)) / -size  # for l < 0, mirrored for l > 0
        return torch.where(outputs > 0, 1 - draw, draw) * self.unit

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Logits whose expected intensity is the train mean, by bisection."""
        target = (self.start / self.unit).clamp(0.001, 0.999)
        low, high = torch.full_like(target, -1100.0), torch.full_like(target, 1100.0)
        for _ in range(50):
            middle = 0.5 * (low + high)
            above = tilted_mean(middle) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return 0.5 * (low + high)


def tilted_mean(logits: Float[Tensor, "*a"]) -> Float[Tensor, "*a"]:
    """Mean of the density proportional to e^(l u) on [0, 1]: 1 / (1 - e^-l) - 1 / l."""
    near = logits.abs() < 0.1
    safe = torch.where(near, 1.0, logits)
    far = -1 / torch.expm1(-safe) - 1 / safe
    return torch.where(near, 0.5 + logits / 12 - logits.pow(3) / 720, far)
