"""When a training has diverged, and the text that says where."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine.explosion import TIMES_WORSE, Watch
from vae_engine.model import VAE
from vae_engine.objectives import draws_and_kl

WORST = 3  # columns and rows that are named


class DivergedError(RuntimeError):
    """A bound or a gradient is not finite; the weights are still those before the step."""


class ExplodedError(DivergedError):
    """The weights have left for good, by finite rows: a lower learning rate may keep them."""


def finite(objective: float, grad_norm: float) -> bool:
    """Whether a step may be taken."""
    return abs(objective) < torch.inf and grad_norm < torch.inf


def judge(
    model: VAE,
    watch: Watch,
    batch: tuple[Shaped[Tensor, "rows features"], Float[Tensor, "samples rows latents"]],
    *,
    step: int,
    objective: float,
    grad_norm: float,
    warmed_up: bool = True,
    later: int = 0,
) -> None:
    """Take note of what a step has come to, before it is taken or, on a device, `later` steps on.

    Raises:
        DivergedError: a number is not finite, and no rate is to blame.
        ExplodedError: one is, or the objective has been far worse than it was for many steps.
    """
    whole = finite(objective, grad_norm)
    if whole and not watch.exploded(objective, warmed_up=warmed_up):
        return
    x, noise = batch
    text = diagnosis(
        model, x, noise, step=step, objective=objective, grad_norm=grad_norm, later=later
    )
    if not whole and (step == 1 or x.isinf().any()):
        raise DivergedError(text)
    if whole:
        text += f"\nIts running median is {TIMES_WORSE:g} times worse than at its best."
    raise ExplodedError(text)


@torch.no_grad()
def diagnosis(
    model: VAE,
    x: Shaped[Tensor, "rows features"],
    noise: Float[Tensor, "samples rows latents"],
    *,
    step: int,
    objective: float,
    grad_norm: float,
    later: int = 0,
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
        f"norm {grad_norm:.6g}. "
        + (
            f"The device was asked {later} steps later: weights, batch and terms are of then."
            if later
            else "The weights are those before the step."
        ),
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
