"""From rows to latent features: the mean and the standard deviation of q(z | x)."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine.model import LatentModel


@torch.inference_mode()
def encode(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    *,
    batch_rows: int = 1024,
) -> tuple[Float[Tensor, "rows latents"], Float[Tensor, "rows latents"]]:
    """Encode every row, in order: (mean, stddev), float32, on the device of model and rows.

    Deterministic: nothing is drawn. Batches have a fixed number of rows and the last one is
    filled up, because a matrix product may round differently for another number of rows: so a
    row's features depend neither on its neighbours nor on how many rows there are. Grey
    pixels are given as they are; see `vae_engine.binarization`.
    """
    mean, stddev = (
        torch.empty(len(x), model.latents, device=x.device) for _ in ("mean", "stddev")
    )
    for start in range(0, len(x), batch_rows):
        rows = x[start : start + batch_rows]
        filled = rows
        if len(rows) < batch_rows:
            filled = torch.cat([rows, rows[-1:].expand(batch_rows - len(rows), -1)])
        q = model.posterior(filled)
        mean[start : start + len(rows)] = q.mean[: len(rows)]
        stddev[start : start + len(rows)] = q.stddev[: len(rows)]
    return mean, stddev
