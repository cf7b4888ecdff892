"""The gradient of a step's objective by autograd, whatever the objective.

`vae_engine.explicit` has the same two methods for one common case, written out.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vae_engine.ascent import Ascent
from vae_engine.config import TrainingPlan
from vae_engine.distributed import Ranks, divisible
from vae_engine.memory import Parts
from vae_engine.model import VAE
from vae_engine.optimizers import gradients_of
from vae_engine.schedule import beta


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
        begun = generator.get_state()

        def attempt(parts: int) -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=rows.device)
            for some, theirs in zip(
                rows.tensor_split(parts), draws.tensor_split(parts, 1), strict=True
            ):
                generator.set_state(begun)
                with precision(plan):
                    objective = self.ascent.objective(
                        self.model, some, theirs, beta(plan, step), generator
                    )
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
