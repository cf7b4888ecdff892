"""From rows to latent features: the mean and the standard deviation of q(z | x)."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine.byte_products import ByteMap
from vae_engine.model import VAE, LatentModel
from vae_engine.networks import MLP
from vae_engine.posteriors import Posterior


class Encoder:
    """x -> (mean, stddev) of a model whose weights stay as they are from here on.

    Deterministic: nothing is drawn. Batches have a fixed number of rows and the last one is
    filled up, because a matrix product may round differently for another number of rows: so a
    row's features depend neither on its neighbours nor on how many rows there are. Grey
    pixels are given as they are; see `vae_engine.binarization`.
    """

    def __init__(self, model: LatentModel, *, batch_rows: int = 1024) -> None:
        self.latents = model.latents
        self.batch_rows = batch_rows
        self.posterior = posterior_map(model)

    @torch.inference_mode()
    def __call__(
        self, x: Shaped[Tensor, "rows features"]
    ) -> tuple[Float[Tensor, "rows latents"], Float[Tensor, "rows latents"]]:
        """Encode every row, in order: (mean, stddev), float32, where model and rows are."""
        mean, stddev = (
            torch.empty(len(x), self.latents, device=x.device) for _ in ("mean", "stddev")
        )
        for start in range(0, len(x), self.batch_rows):
            rows = x[start : start + self.batch_rows]
            filled = rows
            if len(rows) < self.batch_rows:
                filled = torch.cat([rows, rows[-1:].expand(self.batch_rows - len(rows), -1)])
            q = self.posterior(filled)
            mean[start : start + len(rows)] = q.mean[: len(rows)]
            stddev[start : start + len(rows)] = q.stddev[: len(rows)]
        return mean, stddev


def encode(
    model: LatentModel, x: Shaped[Tensor, "rows features"], *, batch_rows: int = 1024
) -> tuple[Float[Tensor, "rows latents"], Float[Tensor, "rows latents"]]:
    """Encode these rows: what `Encoder` does, which who has more to come would keep."""
    return Encoder(model, batch_rows=batch_rows)(x)


def posterior_map(
    model: LatentModel,
) -> Callable[[Shaped[Tensor, "rows features"]], Posterior]:
    """Return x -> q(z | x) without a gradient, of weights that stay as they are.

    The first affine map of an MLP has most of the work of encoding pixels, and is done on their
    bytes where the CPU can (`vae_engine.byte_products`).
    """
    if not isinstance(model, VAE) or not isinstance(model.encoder, MLP):
        return model.posterior
    body, first = model.encoder, model.encoder.first
    if first is None or model.projection is not None or not model.inputs.only_numbers:
        return model.posterior
    of_bytes = ByteMap.of(first.weight, first.bias, model.inputs.unit)
    if of_bytes is None:
        return model.posterior

    def posterior(x: Tensor) -> Posterior:
        if x.dtype != torch.uint8:
            return model.posterior(x)
        return model.posterior_of_hidden(body.after_first(of_bytes(x)))

    return posterior
