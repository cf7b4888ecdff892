"""Which entries of `x` belong to something."""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from vae_engine.config import ModelConfig


def entries_of(config: ModelConfig, columns: Sequence[int]) -> list[int]:
    """Return the entries of `x` that the columns of these numbers own, in their order."""
    return [config.starts[k] + j for k in columns for j in range(config.columns[k].width)]


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
