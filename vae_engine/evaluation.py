"""What a model is worth on rows it was not trained on: the ELBO and its parts, with errors.

Rate and distortion are the two terms of the bound (Alemi et al. 2018): elbo = -distortion - rate.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from vae_engine.binarization import binarized_for_evaluation
from vae_engine.model import VAE
from vae_engine.noise import keyed_noise
from vae_engine.objectives import draws_and_kl

ACTIVE_VARIANCE = 0.01  # Burda et al. (2016), section 5: Var_x(E_q[z]) of a unit in use


@dataclass(frozen=True)
class Total:
    """A sum over rows, with its squares and its rows. Totals add; means do not.

    Rows whose value is infinite are counted apart: a model gives them no probability that
    float32 can hold. Their number belongs beside any mean.
    """

    sum: float = 0.0
    squares: float = 0.0
    rows: int = 0
    impossible: int = 0  # of the rows

    @classmethod
    def of(cls, values: Float[Tensor, " rows"]) -> "Total":
        """Sum one batch, in float64: a float32 sum drifts after a million rows."""
        infinite = values.isinf()
        finite = values[~infinite].double()
        return cls(
            finite.sum().item(), finite.square().sum().item(), len(values), int(infinite.sum())
        )

    def __add__(self, other: "Total") -> "Total":
        return Total(
            self.sum + other.sum,
            self.squares + other.squares,
            self.rows + other.rows,
            self.impossible + other.impossible,
        )

    @property
    def mean(self) -> float:
        """The mean over all rows but the impossible; nan when there were none."""
        finite = self.rows - self.impossible
        return self.sum / finite if finite else math.nan

    @property
    def stderr(self) -> float:
        """Standard error of the mean over rows; nan below two rows."""
        finite = self.rows - self.impossible
        if finite < 2:
            return math.nan
        spread = max(self.squares - finite * self.mean**2, 0.0)
        return math.sqrt(spread / (finite - 1) / finite)


@dataclass(frozen=True)
class ElboReport:
    """The bound on held-out rows, in nats per row, and how the latents are used."""

    elbo: Total
    distortion: Total  # -E_q[log p(x|z)]
    rate: Total  # KL(q(z|x) || p(z))
    kl_per_latent: tuple[float, ...]  # nan where q or the prior does not factorize
    activity: tuple[float, ...]  # Var_x(E_q[z]) of each latent
    log_likelihood_per_column: dict[str, Total] = field(default_factory=dict)
    active_threshold: float = ACTIVE_VARIANCE

    @property
    def active_units(self) -> int:
        """Latents whose mean moves with the data."""
        return sum(variance > self.active_threshold for variance in self.activity)


@torch.inference_mode()
def evaluate(
    model: VAE,
    batches: Iterable[tuple[Shaped[Tensor, "_ features"], Int64[Tensor, " _"]]],
    *,
    samples: int,
    seed: int,
) -> ElboReport:
    """Evaluate the plain ELBO (beta = 1, whatever was trained) of every row of `batches`.

    The noise of a row is a function of (seed, row key), so batches may be of any size and order,
    and on any device: the model's is where the work is done. The standard error is over rows.

    Raises:
        ValueError: no rows came in.
    """
    elbo = distortion = rate = Total()
    kls = means = squares = torch.zeros(model.latents, dtype=torch.float64)
    columns = [Total()] * len(model.config.columns)
    device = model.head.weight.device
    for rows, keys in batches:
        x, row_keys = (part.to(device, non_blocking=True) for part in (rows, keys))
        x = binarized_for_evaluation(model.config, x, row_keys, seed)
        q = model.posterior(x)
        noise = keyed_noise(seed, row_keys, 0, samples, model.latents)
        z, divergence = draws_and_kl(model, q, noise)
        by_column = model.log_likelihood_per_column(x, z).mean(0)
        by_latent = q.kl_per_latent() if model.standard_prior else None
        log_likelihood = by_column.sum(-1)
        elbo += Total.of(log_likelihood - divergence)
        distortion += Total.of(-log_likelihood)
        rate += Total.of(divergence)
        kls = kls + (torch.nan if by_latent is None else by_latent.double().sum(0).cpu())
        means = means + q.mean.double().sum(0).cpu()
        squares = squares + q.mean.double().square().sum(0).cpu()
        columns = [
            sum_ + Total.of(part) for sum_, part in zip(columns, by_column.T, strict=True)
        ]
    if not elbo.rows:
        raise ValueError("evaluate needs at least one row; got none")
    activity = squares / elbo.rows - (means / elbo.rows).square()
    names = [column.name for column in model.config.columns]
    return ElboReport(
        elbo,
        distortion,
        rate,
        tuple((kls / elbo.rows).tolist()),
        tuple(activity.clamp(min=0).tolist()),
        dict(zip(names, columns, strict=True)),
    )
