"""Grey pixels into black and white, by the policy that is stored with the model.

    none       cells are 0 or `scale` already; anything between has no Bernoulli likelihood
    dynamic    white with probability x / scale, drawn afresh at every training step; evaluation
               draws once for each (seed, row key), so that two models see the same pictures
    static     drawn once for each row key, the same in training and evaluation
    threshold  white above half of `scale`

Cells that are 0 or `scale` stay what they are under every policy. Encoding for features does not
come here: the encoder is given the intensity itself, which is the mean of what it was trained on,
so that features have no noise of binarization in them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from vae_engine.config import Column, ModelConfig
from vae_engine.noise import coarse_uniform, derived_seed, keyed_uniform

STATIC_SEED = 0  # static binarization belongs to the data, not to a run


def binarized_for_training(
    config: ModelConfig,
    x: Shaped[Tensor, "rows features"],
    row_keys: Int64[Tensor, " rows"] | None,
    generator: torch.Generator,
) -> Shaped[Tensor, "rows features"]:
    """Return the rows that one training step sees; `generator` is that step's.

    Raises:
        ValueError: a column is binarized statically and no row keys came with the rows.
    """

    def uniform(column: Column, start: int) -> Tensor:
        if column.binarization == "dynamic":
            return coarse_uniform(len(x), column.width, generator)
        if row_keys is None:
            raise ValueError(
                f"column {column.name!r} is binarized statically, by row key; give the row keys "
                f"with each batch"
            )
        return keyed_uniform(derived_seed(STATIC_SEED, start), row_keys, column.width)

    return _binarized(config, x, uniform)


def binarized_for_evaluation(
    config: ModelConfig,
    x: Shaped[Tensor, "rows features"],
    row_keys: Int64[Tensor, " rows"],
    seed: int,
) -> Shaped[Tensor, "rows features"]:
    """Return the rows that an estimate sees: a function of (seed, row key) and the row alone."""

    def uniform(column: Column, start: int) -> Tensor:
        base = STATIC_SEED if column.binarization == "static" else seed
        return keyed_uniform(derived_seed(base, start), row_keys, column.width)

    return _binarized(config, x, uniform)


def _binarized(
    config: ModelConfig, x: Tensor, uniform: Callable[[Column, int], Tensor]
) -> Tensor:
    grey = [
        (column, start)
        for column, start in zip(config.columns, config.starts, strict=True)
        if column.binarization != "none"
    ]
    if len(grey) == len(config.columns) == 1:
        return _white(*grey[0], x, uniform)
    if grey:
        x = x.float() if x.dtype == torch.uint8 else x.clone()
        for column, start in grey:
            cells = x[:, start : start + column.width]
            cells.copy_(_white(column, start, cells, uniform))
    return x


def _white(
    column: Column, start: int, cells: Tensor, uniform: Callable[[Column, int], Tensor]
) -> Float[Tensor, "rows cells"]:
    """Return cells of 0 and `scale`; a missing cell stays missing."""
    scale = _scale(column, cells.device)
    if column.binarization == "threshold":
        binary = (cells > 0.5 * scale).float() * scale
    else:  # the ceiling of cells / scale - uniform, which is above -1 and at most 1
        binary = cells / scale
        binary = binary.sub_(uniform(column, start)).ceil_().mul_(scale)
    return torch.where(cells.isnan(), torch.nan, binary) if column.missing else binary


def _scale(column: Column, device: torch.device) -> Float[Tensor, "*cells"]:
    """A tensor even of one number, for a division by it rounds as it should on any device.

    One number is filled in there: nobody waits for a copy.
    """
    if isinstance(column.scale, tuple):
        return torch.tensor(column.scale, device=device)
    return torch.full((), float(column.scale), device=device)
