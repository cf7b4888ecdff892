"""The gradient of a step's objective by autograd, whatever the objective.

`vae_engine.explicit` has the same two methods for one common case, written out.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vae_engine.ascent import Ascent, Cost
from vae_engine.config import TrainingPlan
from vae_engine.distributed import Ranks, divisible
from vae_engine.memory import Parts
from vae_engine.model import VAE
from vae_engine.optimizers import gradients_of


@dataclass(frozen=True)
class AutogradGradient:
    """One pass forward and one back; several, on parts of the batch, where memory is short."""

    model: VAE
    ascent: Ascent
    optimizer: torch.optim.Optimizer
    ranks: Ranks
    parts: Parts

    def differentiate(
        self,
        x: Shaped[Tensor, "rows features"],
        noise: Float[Tensor, "samples rows latents"],
        step: int,
        generator: torch.Generator,
    ) -> tuple[float, float]:
        """Return the objective, nats per row, and the norm of its gradient, which is kept.

        In parts, the objective is the mean of theirs, weighted by their rows: all parts see the
        same draws of what rows share, so that the step is the same but for rounding.
        """
        plan = self.ascent.plan
        rows, draws, share = self.ranks.rows_of(x, noise)
        begun, cost = generator.get_state(), Cost.at(plan, step)
        if cost.free_nats and self.ranks.world > 1:
            cost = cost._replace(mean_kl=self._mean_kl(rows, share))

        def attempt(parts: int) -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            total, paid = torch.zeros((), device=rows.device), cost
            if cost.free_nats and cost.mean_kl is None and parts > 1:
                paid = cost._replace(mean_kl=self._mean_kl_in(parts, rows))
            for some, theirs in zip(
                rows.tensor_split(parts), draws.tensor_split(parts, 1), strict=True
            ):
                generator.set_state(begun)
                with precision(plan):
                    objective = self.ascent.objective(self.model, some, theirs, paid, generator)
                objective = objective * (share * len(some) / len(rows))
                (-objective).backward()  # the one place where the sign turns: -objective falls
                total += objective.detach()
            return total

        objective = self.parts.run(attempt, len(rows) if divisible(plan) else 1)
        gradients = self._gradients()
        self.ranks.sum_([*gradients, objective])
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        value, grad_norm = torch.stack([objective.to(norm.dtype), norm]).tolist()  # waits
        return value, grad_norm

    def _mean_kl(
        self, rows: Shaped[Tensor, "rows features"], share: float
    ) -> Float[Tensor, " latents"]:
        """KL of each latent, averaged over the batch, of which these rows are a share."""
        mean = self.parts.run(lambda parts: self._mean_kl_in(parts, rows), len(rows)) * share
        self.ranks.sum_([mean])
        return mean

    @torch.no_grad()
    def _mean_kl_in(self, parts: int, rows: Tensor) -> Tensor:
        total = torch.zeros((), device=rows.device)
        for some in rows.tensor_split(parts):
            with precision(self.ascent.plan):
                by_latent = self.model.posterior(some).kl_per_latent()
            assert by_latent is not None  # `build_ascent` has looked
            total = total + by_latent.sum(0)
        return total / len(rows)

    def update(self, rate: float, factor: float) -> None:
        """Take one step of the optimizer against `factor` times the gradient."""
        if factor != 1:
            torch._foreach_mul_(self._gradients(), factor)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def _gradients(self) -> list[Tensor]:
        return gradients_of(self.optimizer.param_groups[0]["params"])


def precision(plan: TrainingPlan) -> AbstractContextManager[object]:
    """Return the context of forward passes: bfloat16 products, or nothing."""
    if plan.precision == "bfloat16":
        return torch.autocast(torch.device(plan.device).type, dtype=torch.bfloat16)
    return nullcontext()
