"""Cells on the real line: Gaussian, log-normal and Student's t."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_engine import densities
from vae_engine.config import Column
from vae_engine.likelihoods.family import Family, log_jacobian, logit, per_cell, unit_of
from vae_engine.limits import straightened

FLOOR = 0.01  # of the train spread (tables) or of the intensity range (pixels)
FREEDOM = 6.0  # degrees of it at the start: the rows take them up, or down
LOG_SCALE_MAX = 10.0  # a first bad step overflows no exponential


class NoiseScale(nn.Module):
    """One learned noise scale for each column, the same for every row: floor + exp(raw).

    K&W's eq. 12 lets the decoder choose the variance of every row, and then the bound grows
    without limit on a column that is nearly constant; a shared, floored scale cannot.
    """

    cell_column: Tensor

    def __init__(
        self, columns: Sequence[Column], stddev: Float[Tensor, " cells"], floor: float = FLOOR
    ) -> None:
        super().__init__()
        widths = [column.width for column in columns]
        shared = torch.stack([part.square().mean().sqrt() for part in stddev.split(widths)])
        self.raw = nn.Parameter((shared - floor).clamp(min=floor).log())
        self.floor = floor
        self.register_buffer("cell_column", _column_of_each_cell(columns), persistent=False)

    def forward(self) -> Float[Tensor, " cells"]:
        """Log scale of every cell, in the encoding of `x` (pixels: in intensities)."""
        return (self.floor + self.raw.exp()).log()[self.cell_column]


class Freedom(nn.Module):
    """Degrees of freedom of Student's t, learned for each column: 1 + exp(raw).

    Above 1, so that the mean exists.
    """

    cell_column: Tensor

    def __init__(self, columns: Sequence[Column], start: float) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.full((len(columns),), math.log(start - 1)))
        self.register_buffer("cell_column", _column_of_each_cell(columns), persistent=False)

    def forward(self) -> Float[Tensor, " cells"]:
        """Degrees of freedom of every cell."""
        return 1 + self.raw.exp()[self.cell_column]

    def draws(
        self, like: Float[Tensor, "samples rows cells"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """Bailey's (1994) polar method: t = cos(2 pi v) sqrt(freedom (u^(-2/freedom) - 1))."""
        u, v = torch.rand(
            (2, *like.shape), generator=generator, device=like.device, dtype=like.dtype
        )
        freedom = self()
        radius = (freedom * torch.expm1(-2 / freedom * (1 - u).log())).sqrt()
        return (2 * math.pi * v).cos() * radius


def _column_of_each_cell(columns: Sequence[Column]) -> Tensor:
    widths = torch.tensor([column.width for column in columns])
    return torch.arange(len(columns)).repeat_interleave(widths)


class FixedScale(nn.Module):
    """Noise scales that a person chose, in the encoding of `x` (pixels: in intensities)."""

    log_scale: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.register_buffer("log_scale", per_cell(columns, "stddev").log(), persistent=False)

    def forward(self) -> Float[Tensor, " cells"]:
        """Log scale of every cell."""
        return self.log_scale


class Location(nn.Module):
    """What the Gaussian families share: units, and the mean of pixels kept in (0, 1) (C.2)."""

    unit: Tensor
    pixels: Tensor

    def __init__(self, columns: Sequence[Column], mean: Float[Tensor, " cells"]) -> None:
        super().__init__()
        self.register_buffer("unit", unit_of(columns), persistent=False)
        bounded = [torch.full((c.width,), c.image is not None) for c in columns]
        self.register_buffer("pixels", torch.cat(bounded), persistent=False)
        self.all_pixels, self.any_pixels = bool(self.pixels.all()), bool(self.pixels.any())
        self.start = mean / self.unit

    def forward(self, outputs: Float[Tensor, "*a cells"]) -> Float[Tensor, "*a cells"]:
        """Return the location of each cell: a sigmoid for pixels, the output itself elsewhere."""
        if self.all_pixels:
            return outputs.sigmoid()
        if self.any_pixels:
            return torch.where(self.pixels, outputs.sigmoid(), outputs)
        return outputs

    def inverse(self) -> Float[Tensor, " cells"]:
        """Return the outputs whose locations are the train means."""
        return torch.where(self.pixels, logit(self.start), self.start)


class Gaussian(Family):
    """p(value | z) = N(value; shift + scale m(z), (scale s)^2).

    s is one number a column: learned, or the column's `stddev` where it has one.
    """

    jacobian: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        mean: Float[Tensor, " cells"],
        stddev: Float[Tensor, " cells"],
    ) -> None:
        super().__init__()
        self.outputs = sum(column.width for column in columns)
        self.location = Location(columns, mean)
        fixed = columns[0].stddev is not None
        self.log_scale: nn.Module = (
            FixedScale(columns) if fixed else NoiseScale(columns, stddev / self.location.unit)
        )
        self.register_buffer("jacobian", log_jacobian(columns), persistent=False)

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """log N(x; m, s^2), less the log Jacobian of the encoding."""
        log_scale = self.log_scale()
        residual = (x / self.location.unit - self.location(outputs)) * (-log_scale).exp()
        constant = log_scale + self.jacobian + 0.5 * densities.LOG_2PI
        return -0.5 * residual.square() - constant

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Return m(z)."""
        return self.location(outputs) * self.location.unit

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """m(z) + s noise."""
        noise = self._noise(outputs, generator)
        return (self.location(outputs) + self.log_scale().exp() * noise) * self.location.unit

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Return the train means."""
        return self.location.inverse()

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return _normal(like, generator)


class GaussianPerRow(Family):
    """p(value | z) with mean and scale both functions of z: eq. 12 and appendix C.2 as they stand.

    Two outputs a cell: mean and log scale. The scale is floored: without a floor the bound grows
    without limit where a cell can be predicted exactly.
    """

    jacobian: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        mean: Float[Tensor, " cells"],
        stddev: Float[Tensor, " cells"],
    ) -> None:
        super().__init__()
        self.location = Location(columns, mean)
        self.start = (stddev / self.location.unit - FLOOR).clamp(min=FLOOR).log()
        self.outputs = 2 * len(mean)
        self.register_buffer("jacobian", log_jacobian(columns), persistent=False)

    def _moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Location and log scale of each cell."""
        location, raw = outputs.chunk(2, -1)
        return self.location(location), (FLOOR + straightened(raw, LOG_SCALE_MAX).exp()).log()

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """log N(x; m, s^2), less the log Jacobian of the encoding."""
        location, log_scale = self._moments(outputs)
        return densities.normal(x / self.location.unit, location, log_scale) - self.jacobian

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Return m(z)."""
        return self._moments(outputs)[0] * self.location.unit

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """m(z) + s(z) noise."""
        location, log_scale = self._moments(outputs)
        noise = self._noise(location, generator)
        return (location + log_scale.exp() * noise) * self.location.unit

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Return the train means and the logs of the train spreads."""
        return torch.cat([self.location.inverse(), self.start])

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return _normal(like, generator)


class StudentTPerRow(GaussianPerRow):
    """Student's t around m(z) with scale s(z), and degrees of freedom learned for each column.

    Where the decoder meets a row unlike all others, it is sure of the wrong values: by a normal
    density such a row can cost hundreds of nats, more than all others have gained.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        mean: Float[Tensor, " cells"],
        stddev: Float[Tensor, " cells"],
    ) -> None:
        super().__init__(columns, mean, stddev)
        self.freedom = Freedom(columns, FREEDOM)

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """log t(x; freedom, m, s), less the log Jacobian of the encoding."""
        location, log_scale = self._moments(outputs)
        cells = x / self.location.unit
        return densities.student_t(cells, self.freedom(), location, log_scale) - self.jacobian

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return self.freedom.draws(like, generator)


class LogNormal(Family):
    """log(value) is Gaussian: value = exp(shift + scale x), x | z ~ N(m(z), s^2).

    The density of the value is that of x divided by d value / d x = scale * value.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        mean: Float[Tensor, " cells"],
        stddev: Float[Tensor, " cells"],
    ) -> None:
        super().__init__()
        self.of_log = Gaussian(columns, mean, stddev)
        self.outputs = self.of_log.outputs
        self.register_buffer("shift", per_cell(columns, "shift"), persistent=False)
        self.register_buffer("scale", per_cell(columns, "scale"), persistent=False)

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Return log N(x; m, s^2) - log(scale value)."""
        return self.of_log.log_prob(x, outputs) - (self.shift + self.scale * x)

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Return the median, encoded: the mean of a log-normal is mostly its tail."""
        return self.of_log.mean(outputs)

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows cells"]:
        """Draw the logarithm, encoded."""
        return self.of_log.sample(outputs, generator)

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Return the train means of the logarithm."""
        return self.of_log.initial_outputs()


class StudentT(Gaussian):
    """Student's t around m(z): tails that a few extreme cells do not drag the scale along.

    Scale and degrees of freedom are learned for each column.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        mean: Float[Tensor, " cells"],
        stddev: Float[Tensor, " cells"],
    ) -> None:
        super().__init__(columns, mean, stddev)
        self.freedom = Freedom(columns, 5.0)

    def log_prob(
        self, x: Float[Tensor, "rows cells"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows cells"]:
        """log t(x; freedom, m, s), less the log Jacobian of the encoding."""
        cells, location = x / self.location.unit, self.location(outputs)
        log_density = densities.student_t(cells, self.freedom(), location, self.log_scale())
        return log_density - self.jacobian

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return self.freedom.draws(like, generator)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
