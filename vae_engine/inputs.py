"""From the matrix `x` to what the encoder's first layer sees.

Pixels are divided by their maximum, counts go through log(1 + x), codes become indicators,
and cells that may be missing bring a second input that says whether they were observed. An
unobserved cell is 0 in the first and in the second, so its value cannot leak in.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vae_engine.config import Column, ModelConfig
from vae_engine.likelihoods.rows import Cells

COUNTS = ("poisson", "negative_binomial")


class InputLayer(nn.Module):
    """x (rows, features) -> inputs (rows, width), the same for training and encoding."""

    unit: Tensor
    offsets: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        numbers = [k for k, c in enumerate(config.columns) if c.likelihood != "categorical"]
        codes = [k for k, c in enumerate(config.columns) if c.likelihood == "categorical"]
        entries = _entries(config, numbers)
        self.numbers = Cells(entries) if entries else None
        units = [
            torch.as_tensor(_unit(config.columns[k])).expand(config.columns[k].width)
            for k in numbers
        ]
        self.register_buffer(
            "unit", torch.cat(units) if units else torch.ones(0), persistent=False
        )
        self.scaled = bool((self.unit != 1).any())
        counts = [k for k in numbers if config.columns[k].likelihood in COUNTS]
        self.counts = (
            Cells([entries.index(e) for e in _entries(config, counts)]) if counts else None
        )
        marked = [k for k in numbers if config.columns[k].missing]
        self.marked = Cells(_entries(config, marked)) if marked else None
        # Tables may hold NaN even where none was announced: an unknown category, a null at encode time.
        self.may_be_nan = any(c.missing or c.width == 1 for c in config.columns)
        self.codes = Cells([config.starts[k] for k in codes]) if codes else None
        sizes = torch.tensor([0] + [config.columns[k].categories for k in codes])
        self.register_buffer("offsets", sizes.cumsum(0)[:-1], persistent=False)
        self.indicators = int(sizes.sum())
        self.width = len(entries) + len(_entries(config, marked)) + self.indicators

    def forward(
        self, x: Shaped[Tensor, "rows features"], dtype: torch.dtype
    ) -> Float[Tensor, "rows width"]:
        """Return the inputs in the precision of the network."""
        parts = []
        if self.numbers is not None:
            parts.append(self._scaled_numbers(self.numbers.of(x).to(dtype)))
        if self.marked is not None:
            parts.append((~self.marked.of(x).isnan()).to(dtype))
        if self.codes is not None:
            parts.append(self._indicators(self.codes.of(x), dtype))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def _scaled_numbers(self, cells: Tensor) -> Tensor:
        if self.may_be_nan:
            cells = cells.nan_to_num(0.0, posinf=torch.inf, neginf=-torch.inf)
        if self.scaled:
            cells = cells / self.unit
        if self.counts is not None:
            cells = cells.index_copy(-1, self.counts.index, self.counts.of(cells).log1p())
        return cells

    def _indicators(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        observed = ~codes.isnan()
        places = codes.nan_to_num(0.0).long() + self.offsets
        indicators = torch.zeros(len(codes), self.indicators, dtype=dtype, device=codes.device)
        return indicators.scatter_(-1, places, observed.to(dtype))


def _entries(config: ModelConfig, columns: list[int]) -> list[int]:
    return [config.starts[k] + j for k in columns for j in range(config.columns[k].width)]


def _unit(column: Column) -> Tensor | float:
    """What cells are divided by: the maximum of pixels and ordinals; the rest is standardized."""
    if column.image is not None or column.likelihood == "bernoulli":
        return torch.as_tensor(column.scale)
    return float(column.categories - 1) if column.likelihood == "ordinal" else 1.0
