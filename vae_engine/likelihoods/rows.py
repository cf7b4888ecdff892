"""p(x | z) of a whole row: any mix of families, each column on its own scale, cells that may be missing.

Given z, columns are independent, so a row's log density is the sum over its observed cells.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vae_engine.cells import Cells, entries_of
from vae_engine.config import Column, ModelConfig
from vae_engine.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from vae_engine.likelihoods.categorical import Categorical, Ordinal
from vae_engine.likelihoods.counts import (
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from vae_engine.likelihoods.family import Family
from vae_engine.likelihoods.gaussian import (
    Gaussian,
    GaussianPerRow,
    LogNormal,
    StudentT,
    StudentTPerRow,
)
from vae_engine.likelihoods.pixels import DiscretizedLogistic
from vae_engine.statistics import Statistics

Moments = tuple[list[Column], Tensor, Tensor, list[Tensor]]

FAMILIES: dict[str, Callable[[Moments], Family]] = {
    "bernoulli": lambda m: Bernoulli(m[0], m[1]),
    "continuous_bernoulli": lambda m: ContinuousBernoulli(m[0], m[1]),
    "gaussian": lambda m: Gaussian(m[0], m[1], m[2]),
    "gaussian_per_row": lambda m: GaussianPerRow(m[0], m[1], m[2]),
    "student_t": lambda m: StudentT(m[0], m[1], m[2]),
    "student_t_per_row": lambda m: StudentTPerRow(m[0], m[1], m[2]),
    "log_normal": lambda m: LogNormal(m[0], m[1], m[2]),
    "categorical": lambda m: Categorical(m[0], m[3]),
    "ordinal": lambda m: Ordinal(m[0], m[3]),
    "poisson": lambda m: Poisson(m[0], m[1]),
    "negative_binomial": lambda m: NegativeBinomial(m[0], m[1], m[2]),
    "zero_inflated_negative_binomial": lambda m: ZeroInflatedNegativeBinomial(m[0], m[1], m[2]),
    "discretized_logistic": lambda m: DiscretizedLogistic(m[0], m[1]),
}


class Block(nn.Module):
    """The columns of one family: where their cells are in `x` and which column each belongs to."""

    def __init__(
        self, config: ModelConfig, members: list[int], statistics: Statistics | None
    ) -> None:
        super().__init__()
        self.columns = members
        columns = [config.columns[k] for k in members]
        self.widths = [column.width for column in columns]
        entries = entries_of(config, members)
        self.cells = Cells(entries)
        # A wide column without missing cells (pixels) skips the mask: it costs a pass over memory.
        self.masked = any(column.missing or column.width == 1 for column in columns)
        index = torch.tensor(entries)
        if statistics is None:
            mean, stddev = _neutral_moments(columns)
        else:
            mean, stddev = statistics.mean[index], statistics.stddev[index]
        frequencies = [_frequencies_of(config, k, statistics) for k in self.columns]
        family = FAMILIES[columns[0].likelihood]
        self.family = family((columns, mean, stddev, frequencies))

    def log_prob(
        self, x: Shaped[Tensor, "rows features"], outputs: Float[Tensor, "samples rows _"]
    ) -> Float[Tensor, "samples rows cells"]:
        """Log density of each cell of this block; 0 where it was not observed."""
        cells = self.cells.of(x).to(outputs.dtype)
        if not self.masked:
            return self.family.log_prob(cells, outputs)
        observed = ~cells.isnan()
        log_prob = self.family.log_prob(torch.where(observed, cells, 0.0), outputs)
        return torch.where(observed, log_prob, 0.0)

    def by_column(
        self, cells: Float[Tensor, "samples rows cells"]
    ) -> Float[Tensor, "samples rows columns"]:
        """Sum the cells of each column."""
        if max(self.widths) == 1:
            return cells
        return torch.stack([part.sum(-1) for part in cells.split(self.widths, -1)], -1)


class RowLikelihood(nn.Module):
    """p(x | z) as a function of the decoder's outputs."""

    column_order: Tensor
    entry_order: Tensor

    def __init__(self, config: ModelConfig, statistics: Statistics | None) -> None:
        super().__init__()
        groups: dict[object, list[int]] = {}
        for k, column in enumerate(config.columns):
            groups.setdefault(_together(column), []).append(k)
        self.blocks = nn.ModuleList(Block(config, g, statistics) for g in groups.values())
        self.splits = [block.family.outputs for block in self._blocks()]
        self.outputs = sum(self.splits)
        columns = [k for block in self._blocks() for k in block.columns]
        entries = torch.cat([block.cells.index for block in self._blocks()])
        self.register_buffer("column_order", torch.tensor(columns).argsort(), persistent=False)
        self.register_buffer("entry_order", entries.argsort(), persistent=False)

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _parts(self, outputs: Tensor) -> list[tuple[Block, Tensor]]:
        if outputs.dtype in (torch.float16, torch.bfloat16):
            outputs = outputs.float()  # log densities lose too much in half precision
        return list(zip(self._blocks(), outputs.split(self.splits, -1), strict=True))

    def outputs_of(self, column: int) -> tuple[int, int]:
        """Return where the outputs of the block of this column start and stop."""
        k = next(k for k, block in enumerate(self._blocks()) if column in block.columns)
        return sum(self.splits[:k]), sum(self.splits[: k + 1])

    def log_prob(
        self, x: Shaped[Tensor, "rows features"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows"]:
        """log p(x | z) of the observed cells of each row, in nats of the original columns."""
        parts = [block.log_prob(x, part).sum(-1) for block, part in self._parts(outputs)]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def log_prob_per_column(
        self, x: Shaped[Tensor, "rows features"], outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows columns"]:
        """The same by column, in the order of the configuration; the sum over columns is `log_prob`."""
        parts = [
            block.by_column(block.log_prob(x, part)) for block, part in self._parts(outputs)
        ]
        return torch.cat(parts, -1)[..., self.column_order]

    def mean(
        self, outputs: Float[Tensor, "samples rows outputs"]
    ) -> Float[Tensor, "samples rows features"]:
        """Expected row in the encoding of `x`; the most probable code where a cell is a code."""
        parts = [block.family.mean(part) for block, part in self._parts(outputs)]
        return torch.cat(parts, -1)[..., self.entry_order]

    def sample(
        self, outputs: Float[Tensor, "samples rows outputs"], generator: torch.Generator
    ) -> Float[Tensor, "samples rows features"]:
        """Draw rows in the encoding of `x`."""
        parts = [block.family.sample(part, generator) for block, part in self._parts(outputs)]
        return torch.cat(parts, -1)[..., self.entry_order]

    def initial_outputs(self) -> Float[Tensor, " outputs"]:
        """Return the outputs that describe the marginals of the training rows."""
        return torch.cat([block.family.initial_outputs() for block in self._blocks()])


def _together(column: Column) -> object:
    """Return the key under which columns share a block: pixels stand alone, for their decoder does."""
    alone = column.name if column.image is not None else None
    return column.likelihood, column.stddev is not None, alone


def _neutral_moments(columns: Sequence[Column]) -> tuple[Tensor, Tensor]:
    """Return moments for a model without train statistics: standardized cells, grey pixels."""
    middle = [
        torch.full((c.width,), 0.5 * float(torch.as_tensor(c.scale).mean()))
        if c.image or c.likelihood == "bernoulli"
        else torch.full(
            (c.width,), 1.0 if c.likelihood in ("poisson", "negative_binomial") else 0.0
        )
        for c in columns
    ]
    spread = [
        torch.full((c.width,), float(torch.as_tensor(c.scale).mean()) if c.image else 1.0)
        for c in columns
    ]
    return torch.cat(middle), torch.cat(spread)


def _frequencies_of(config: ModelConfig, k: int, statistics: Statistics | None) -> Tensor:
    """Return the code frequencies of column k; equal ones where nothing is known."""
    known = statistics.frequencies[k] if statistics is not None else None
    categories = max(config.columns[k].categories, 1)
    return torch.full((categories,), 1 / categories) if known is None else known
