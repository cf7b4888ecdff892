"""Cells that are one of two values."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vae_engine import densities
from vae_engine.config import Column
from vae_engine.likelihoods.family import Family, logit, per_cell


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
