"""p(x | z) of a whole row: any mix of families, each column on its own scale, cells that may be missing.

Given z, columns are independent, so a row's log density is the sum over its observed cells.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vae_engine.config import Column, ModelConfig
from vae_engine.likelihoods.bernoulli import Bernoulli
from vae_engine.likelihoods.categorical import Categorical, Ordinal
from vae_engine.likelihoods.counts import NegativeBinomial, Poisson
from vae_engine.likelihoods.family import Family
from vae_engine.likelihoods.gaussian import Gaussian, LogNormal, StudentT
from vae_engine.statistics import Statistics

Moments = tuple[list[Column], Tensor, Tensor, list[Tensor]]

FAMILIES: dict[str, Callable[[Moments], Family]] = {
    "bernoulli": lambda m: Bernoulli(m[0], m[1]),
    "gaussian": lambda m: Gaussian(m[0], m[1], m[2]),
    "student_t": lambda m: StudentT(m[0], m[1], m[2]),
    "log_normal": lambda m: LogNormal(m[0], m[1], m[2]),
    "categorical": lambda m: Categorical(m[0], m[3]),
    "ordinal": lambda m: Ordinal(m[0], m[3]),
    "poisson": lambda m: Poisson(m[0], m[1]),
    "negative_binomial": lambda m: NegativeBinomial(m[0], m[1], m[2]),
}


class Block(nn.Module):
    """The columns of one family: where their cells are in `x` and which column each belongs to."""

    def __init__(self, config: ModelConfig, name: str, statistics: Statistics | None) -> None:
        super().__init__()
        self.columns = [k for k, c in enumerate(config.columns) if c.likelihood == name]
        columns = [config.columns[k] for k in self.columns]
        self.widths = [column.width for column in columns]
        entries = [
            config.starts[k] + j for k in self.columns for j in range(config.columns[k].width)
        ]
        self.cells = Cells(entries)
        # A wide column without missing cells (pixels) skips the mask: it costs a pass over memory.
        self.masked = any(column.missing or column.width == 1 for column in columns)
        index = torch.tensor(entries)
        if statistics is None:
            mean, stddev = _neutral_moments(columns)
        else:
            mean, stddev = statistics.mean[index], statistics.stddev[index]
        frequencies = [_frequencies_of(config, k, statistics) for k in self.columns]
        self.family = FAMILIES[name]((columns, mean, stddev, frequencies))

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


class Cells(nn.Module):
    """A choice of entries of `x`: a view where they are neighbours, a copy where they are not."""

    index: Tensor

    def __init__(self, entries: Sequence[int]) -> None:
        super().__init__()
        self.start, self.stop = entries[0], entries[-1] + 1
        self.neighbours = list(entries) == list(range(self.start, self.stop))
        self.register_buffer("index", torch.tensor(entries), persistent=False)

    def of(self, x: Shaped[Tensor, "*a features"]) -> Shaped[Tensor, "*a cells"]:
        """Return the chosen entries, in the order they were named."""
        if self.neighbours:
            return x[..., self.start : self.stop]
        return x.index_select(-1, self.index)


class RowLikelihood(nn.Module):
    """p(x | z) as a function of the decoder's outputs."""

    column_order: Tensor
    entry_order: Tensor

    def __init__(self, config: ModelConfig, statistics: Statistics | None) -> None:
        super().__init__()
        names = dict.fromkeys(column.likelihood for column in config.columns)
        self.blocks = nn.ModuleList(Block(config, name, statistics) for name in names)
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
