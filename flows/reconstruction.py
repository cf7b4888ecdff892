"""How well each column comes back: reconstruction error, in a unit that a person can judge."""

from typing import Any

import torch
from torch import Tensor

from flows.handoff import Rows
from vae_engine.config import Column
from vae_engine.encoding import encode
from vae_engine.model import VAE

CODES = ("categorical", "ordinal", "bernoulli")


@torch.inference_mode()
def reconstruction_errors(model: VAE, rows: Rows) -> dict[str, dict[str, Any]]:
    """The error of E[x | z] at the posterior mean of z, over the observed cells of each column.

    `wrong`: the share of cells whose category or value is another. `rmse`: the root mean
    squared error; of pixels in intensity from 0 to 1, of other numbers as a share of the
    column's standard deviation among the test rows, so that 1 is no better than the mean.
    """
    mean, _ = encode(model, rows.x)
    back = torch.cat([model.reconstruct(z) for z in mean.split(4096)])
    errors = {}
    for column, start in zip(model.config.columns, model.config.starts, strict=True):
        entries = slice(start, start + column.width)
        errors[column.name] = _error(
            column, rows.x[:, entries].double(), back[:, entries].double()
        )
    return errors


def _error(column: Column, seen: Tensor, back: Tensor) -> dict[str, Any]:
    observed = ~seen.isnan()
    cells, guesses = seen[observed], back[observed]
    if not len(cells):
        return {"measure": "rmse", "value": None, "cells": 0}
    if column.likelihood in CODES and column.image is None:
        measure, value = "wrong", (cells != guesses.round()).double().mean()
    elif column.image is not None:
        scale = torch.as_tensor(column.scale).max()
        measure, value = "rmse", ((cells - guesses) / scale).square().mean().sqrt()
    else:
        spread = cells.std(correction=0).clamp(min=1e-12)
        measure, value = "rmse", (cells - guesses).square().mean().sqrt() / spread
    return {"measure": measure, "value": value.item(), "cells": len(cells)}
