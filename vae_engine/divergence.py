"""Where a number stopped being finite: the text of a DivergedError."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine.model import VAE
from vae_engine.objectives import draws_and_kl

WORST = 3  # columns and rows that are named


@torch.no_grad()
def diagnosis(
    model: VAE,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
    *,
    step: int,
    objective: float,
    grad_norm: float,
) -> str:
    """Say at which step, in which term, and which columns and rows of the batch are to blame.

    Rows are named by their position in the batch; values are never shown, for they may be private.
    """
    z, rate = draws_and_kl(model, model.posterior(x), noise)
    by_column = model.log_likelihood_per_column(x, z).mean(0)
    by_row = by_column.sum(-1) - rate
    names = [column.name for column in model.config.columns]
    lines = [
        f"training diverged at step {step}: objective {objective:.6g} nats per row, gradient "
        f"norm {grad_norm:.6g}. The weights are those before the step.",
        f"  terms: log likelihood {by_column.sum(-1).mean():.6g}, KL {rate.mean():.6g}",
        f"  worst columns: {_worst(by_column.mean(0), names)}",
        f"  worst rows of the batch: {_worst(by_row, [str(k) for k in range(len(x))])}",
        *_infinite(model, x),
        "Lower the learning rate or clip_norm, or look for values in those columns that are "
        "outside the likelihood's support.",
    ]
    return "\n".join(lines)


def _infinite(model: VAE, x: Shaped[Tensor, "rows features"]) -> list[str]:
    """Name the columns that hold infinite cells, and the first row of each."""
    lines = []
    for column, start in zip(model.config.columns, model.config.starts, strict=True):
        rows = x[:, start : start + column.width].isinf().any(-1).nonzero().flatten().tolist()
        if rows:
            lines.append(
                f"  infinite cells: {column.name}, in {len(rows)} rows of the batch, the first of "
                f"them {rows[0]}"
            )
    return lines


def _worst(nats: Float[Tensor, " _"], names: list[str]) -> str:
    """Name the lowest few; a number that is not finite is lower than any that is."""
    order = nats.nan_to_num(-torch.inf, posinf=-torch.inf).argsort(stable=True)[:WORST]
    return ", ".join(f"{names[k]} ({nats[k]:.6g})" for k in order.tolist())
