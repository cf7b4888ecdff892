"""From the matrix `x` to what the encoder's first layer sees.

Pixels are divided by their maximum, counts go through log(1 + x), codes become indicators (or,
where there are many, learned vectors), and cells that may be missing bring a second input that
says whether they were observed. An unobserved cell is 0 in the first and in the second, and an
unobserved code has no indicator and no vector, so nothing of what was there can leak in.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from vae_engine.cells import Cells, entries_of
from vae_engine.config import Column, ModelConfig
from vae_engine.networks import Initial

COUNTS = ("poisson", "negative_binomial", "zero_inflated_negative_binomial")
PIXELS = ("bernoulli", "continuous_bernoulli", "discretized_logistic")  # cells are 0..scale


class InputLayer(nn.Module):
    """x (rows, features) -> inputs (rows, width), the same for training and encoding.

    The inputs are, in this order: numbers, marks of the observed, indicators, embeddings.
    """

    unit: Tensor
    offsets: Tensor
    first_rows: Tensor
    vectors: nn.Parameter

    def __init__(self, config: ModelConfig, initial: Initial) -> None:
        super().__init__()
        columns = config.columns
        numbers = [k for k, c in enumerate(columns) if c.likelihood != "categorical"]
        codes = [k for k, c in enumerate(columns) if c.likelihood == "categorical"]
        few = [k for k in codes if columns[k].categories <= config.one_hot_up_to]
        many = [k for k in codes if columns[k].categories > config.one_hot_up_to]
        counts = [k for k in numbers if columns[k].likelihood in COUNTS]
        marked = [k for k in numbers if columns[k].missing]

        entries = entries_of(config, numbers)
        self.numbers = Cells(entries) if entries else None
        self.counts = (
            Cells([entries.index(e) for e in entries_of(config, counts)]) if counts else None
        )
        self.marked = Cells(entries_of(config, marked)) if marked else None
        self.codes = Cells([config.starts[k] for k in few]) if few else None
        self.words = Cells([config.starts[k] for k in many]) if many else None

        units = [torch.as_tensor(_unit(columns[k])).expand(columns[k].width) for k in numbers]
        unit = torch.cat(units) if units else torch.ones(0)
        self.register_buffer("unit", unit, persistent=False)
        self.scaled = bool((unit != 1).any())
        # Tables may hold NaN even where none was announced: a null or an unknown category at
        # encode time.
        self.may_be_nan = any(c.missing or c.width == 1 for c in columns)

        sizes = torch.tensor([0] + [columns[k].categories for k in few])
        self.register_buffer("offsets", sizes.cumsum(0)[:-1], persistent=False)
        self.indicators = int(sizes.sum())
        tables = torch.tensor([0] + [columns[k].categories for k in many])
        self.register_buffer("first_rows", tables.cumsum(0)[:-1], persistent=False)
        self.register_parameter("vectors", None)
        if many:
            shape = (int(tables.sum()), config.embedding_width)
            self.vectors = nn.Parameter(torch.randn(shape, generator=initial.generator))

        places = {entry: place for place, entry in enumerate(entries)}
        self.place_of = {k: places[config.starts[k]] for k in numbers}
        owners = [k for k in numbers for _ in range(columns[k].width)]
        owners += [k for k in marked for _ in range(columns[k].width)]
        owners += [k for k in few for _ in range(columns[k].categories)]
        self.fixed = len(owners)  # inputs that no training changes come first
        owners += [k for k in many for _ in range(config.embedding_width)]
        self.owners = tuple(owners)  # the column of each input
        self.width = len(owners)
        # Each input is a cell divided by its unit, if it is not missing.
        self.only_numbers = not (counts or marked or codes)

    def forward(
        self, x: Shaped[Tensor, "rows features"], dtype: torch.dtype
    ) -> Float[Tensor, "rows width"]:
        """Return the inputs in the precision of the network."""
        parts = []
        if self.numbers is not None:
            numbers = self.numbers.of(x)
            fresh = numbers.dtype != dtype
            parts.append(self._scaled_numbers(numbers.to(dtype), fresh=fresh))
        if self.marked is not None:
            parts.append((~self.marked.of(x).isnan()).to(dtype))
        if self.codes is not None:
            parts.append(self._indicators(self.codes.of(x), dtype))
        if self.words is not None:
            parts.append(self._embedded(self.words.of(x)))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def _scaled_numbers(self, cells: Tensor, *, fresh: bool) -> Tensor:
        """`fresh` cells are nobody else's, and may be written over."""
        if self.may_be_nan:
            cells = cells.nan_to_num(0.0, posinf=torch.inf, neginf=-torch.inf)
            fresh = True
        if self.scaled:
            cells = cells.div_(self.unit) if fresh else cells / self.unit
        if self.counts is not None:
            cells = cells.index_copy(-1, self.counts.index, self.counts.of(cells).log1p())
        return cells

    def _indicators(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        observed = ~codes.isnan()
        places = _whole(codes) + self.offsets
        indicators = torch.zeros(len(codes), self.indicators, dtype=dtype, device=codes.device)
        return indicators.scatter_(-1, places, observed.to(dtype))

    def _embedded(self, codes: Tensor) -> Tensor:
        vectors = self.vectors[_whole(codes) + self.first_rows]
        return torch.where(codes.isnan()[..., None], 0.0, vectors).flatten(1)


def _whole(codes: Float[Tensor, "rows columns"]) -> Int[Tensor, "rows columns"]:
    """Codes as indices; an unobserved one as 0, to be left out by the caller."""
    return codes.nan_to_num(0.0).long()


def _unit(column: Column) -> Tensor | float:
    """What cells are divided by: the maximum of pixels and ordinals; the rest is standardized."""
    if column.image is not None or column.likelihood in PIXELS:
        return torch.as_tensor(column.scale)
    return float(column.categories - 1) if column.likelihood == "ordinal" else 1.0
