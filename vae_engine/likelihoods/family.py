"""What every likelihood family does, and the small things that all of them need."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_engine.config import Column


class Family(nn.Module, ABC):
    """p(x | z) of a block of columns that share one kind of density.

    `outputs` numbers of the decoder for each row parameterize the block; parameters that are
    shared by all rows (noise scales, thresholds) live in the module. Cells arrive in the
    encoding of `x`, unobserved ones as 0 (the caller leaves them out of every sum); densities
    leave in the units of the original columns.
    """

    outputs: int

    @abstractmethod
    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Log density or mass of each cell, in nats."""

    @abstractmethod
    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Expected cell in the encoding of `x`; for codes, the most probable one."""

    @abstractmethod
    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """Draw cells in the encoding of `x`."""

    @abstractmethod
    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Return the outputs that describe the marginals of the training rows, without z."""


def per_cell(columns: Sequence[Column], name: str) -> Float[Tensor, " cells"]:
    """Spread the setting `name` (shift or scale) of each column over its cells."""
    parts = [
        torch.as_tensor(getattr(c, name), dtype=torch.float32).expand(c.width) for c in columns
    ]
    return torch.cat(parts)


def unit_of(columns: Sequence[Column]) -> Float[Tensor, " cells"]:
    """What cells of pixels are divided by to be intensities in [0, 1]; 1 for other columns."""
    one = torch.ones(1)
    parts = [per_cell([c], "scale") if c.image else one.expand(c.width) for c in columns]
    return torch.cat(parts)


def log_jacobian(columns: Sequence[Column]) -> Float[Tensor, " cells"]:
    """Log of d value / d x: the density of the value is that of x, divided by this derivative.

    Pixels are measured in intensities, which is what their likelihood models: nothing to add.
    """
    parts = [torch.zeros(c.width) if c.image else _log_scales(c) for c in columns]
    return torch.cat(parts)


def _log_scales(column: Column) -> Float[Tensor, " cells"]:
    """In float32, which need not hold the scales themselves."""
    return torch.as_tensor(column.scale, dtype=torch.float64).log().float().expand(column.width)


def logit(share: Float[Tensor, "*a"]) -> Float[Tensor, "*a"]:
    """Log odds, of shares kept within (0.001, 0.999) as in Burda et al.'s code."""
    return torch.logit(share.clamp(0.001, 0.999))
