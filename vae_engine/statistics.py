"""What the training rows say before training: where the decoder should start.

Output biases and noise scales begin at the train means and spreads, so that the first step already
models the marginals and no step is spent on finding them (Burda et al. 2016 do this for pixels).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine.config import ModelConfig
from vae_engine.projection import MOST_ROWS

EXAMPLES = 1000  # of which a prior is made; principal components are found from more


@dataclass(frozen=True)
class Statistics:
    """Moments of the observed cells of each entry of `x`, and frequencies of each code."""

    mean: Float[Tensor, " features"]
    stddev: Float[Tensor, " features"]
    frequencies: tuple[Float[Tensor, " _"] | None, ...]  # by column; None where x is no code
    grey: tuple[str, ...]  # bernoulli columns that hold more than their two extremes
    examples: Shaped[
        Tensor, "_ features"
    ]  # a few of the rows, for a prior that is made of rows, and for principal components

    @classmethod
    def of(cls, config: ModelConfig, x: Tensor) -> "Statistics":
        """Measure training rows (rows, features), or a sample of them, in float64."""
        examples = MOST_ROWS if config.principal_components else EXAMPLES
        mean, stddev = torch.zeros(config.features), torch.ones(config.features)
        frequencies: list[Tensor | None] = []
        grey = []
        for column, start in zip(config.columns, config.starts, strict=True):
            entries = slice(start, start + column.width)
            cells = x[:, entries].double()
            observed = ~cells.isnan()
            count = observed.sum(0).clamp(min=1)
            centre = cells.nan_to_num(0.0).sum(0) / count
            spread = torch.where(observed, cells - centre, 0.0).square().sum(0) / count
            mean[entries], stddev[entries] = centre.float(), spread.sqrt().float()
            frequencies.append(
                _frequencies(cells, column.categories) if column.categories else None
            )
            if column.likelihood == "bernoulli":
                extreme = (cells == 0) | (cells == torch.as_tensor(column.scale).double())
                grey += [column.name] if bool((observed & ~extreme).any()) else []
        return cls(mean, stddev, tuple(frequencies), tuple(grey), _evenly(x, examples))


def _evenly(x: Tensor, rows: int) -> Tensor:
    """At most so many of the rows, evenly spaced: a file may be sorted by what they are."""
    if len(x) <= rows:
        return x.clone()
    return x[torch.arange(rows) * len(x) // rows]


def _frequencies(codes: Tensor, categories: int) -> Tensor:
    """Share of each code among the observed, each counted once more than it occurs (Laplace)."""
    observed = codes[~codes.isnan()].long()
    counts = torch.bincount(observed, minlength=categories)[:categories] + 1.0
    return (counts / counts.sum()).float()
