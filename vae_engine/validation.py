"""What weights are judged by while they are trained: the ELBO, and the bound they are trained for.

An encoder of an importance-weighted bound gives its ELBO away for it (Rainforth et al. 2018): by
the ELBO, the best weights of such a run would be among the first.
"""

from collections.abc import Iterable
from typing import NamedTuple

from jaxtyping import Int64, Shaped
from torch import Tensor

from vae_engine.config import WEIGHTED, TrainingPlan
from vae_engine.evaluation import Total, evaluate
from vae_engine.marginal import estimate_log_marginal
from vae_engine.model import VAE


class Validation(NamedTuple):
    """Two bounds of held-out rows, in nats per row; higher is better."""

    elbo: Total
    iwae: Total | None  # of as many draws as an update has; None where none is trained for

    @property
    def judged(self) -> Total:
        """The bound that says which weights are best."""
        return self.elbo if self.iwae is None else self.iwae

    def metrics(self) -> dict[str, float]:
        """Each with its standard error, by name."""
        bounds = {name: total for name, total in self._asdict().items() if total is not None}
        means = {f"valid/{name}_nats": total.mean for name, total in bounds.items()}
        return means | {
            f"valid/{name}_nats_stderr": total.stderr for name, total in bounds.items()
        }


def validate(
    model: VAE,
    batches: Iterable[tuple[Shaped[Tensor, "_ features"], Int64[Tensor, " _"]]],
    plan: TrainingPlan,
) -> Validation:
    """Measure the rows of `batches` by beta = 1, with noise that is the same at every validation.

    Of the objectives in groups the IWAE bound (Burda et al. 2016, eq. 8) is that of all draws.

    Raises:
        ValueError: no rows came in.
    """
    rows = list(batches)
    elbo = evaluate(model, rows, samples=1, seed=plan.seed).elbo
    if plan.objective not in WEIGHTED:
        return Validation(elbo, None)
    iwae, device = Total(), model.head.weight.device
    for x, keys in rows:
        found = estimate_log_marginal(
            model,
            x.to(device),
            keys.to(device),
            samples=plan.samples,
            seed=plan.seed,
        )
        iwae += Total.of(found.log_marginal_nats)
    return Validation(elbo, iwae)
