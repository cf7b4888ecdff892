"""Rows as an estimate sees them, whatever kind of model it is given."""

from jaxtyping import Int64, Shaped
from torch import Tensor

from vae_engine.binarization import binarized_for_evaluation
from vae_engine.model import VAE, LatentModel


def observed(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    row_keys: Int64[Tensor, " rows"],
    seed: int,
) -> Shaped[Tensor, "rows features"]:
    """Binarize grey pixels where the model's configuration says so, by (seed, row key) alone.

    Estimators that are given the same seed see the same pictures; a model without a
    configuration (a `LatentModel` of the caller's) sees `x` itself.
    """
    if isinstance(model, VAE):
        return binarized_for_evaluation(model.config, x, row_keys, seed)
    return x
