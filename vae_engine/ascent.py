"""What a plan maximizes at a step: the one place where names of objectives become functions."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vae_engine import objectives
from vae_engine.config import ConfigError, ModelConfig, TrainingPlan
from vae_engine.full_bayes import draw_weight_noise, full_bayes
from vae_engine.model import VAE
from vae_engine.schedule import beta, free_nats

PLAIN = {
    "elbo_sticking": objectives.elbo_sticking,
    "iwae": objectives.iwae,
    "iwae_doubly_reparameterized": objectives.iwae_doubly_reparameterized,
    "mcem": objectives.complete_data,
}
DRAWING = ("full_bayes", "wake_sleep", "mcem")  # more than noise: weights, rows or chains
GROUPED = {"miwae": objectives.miwae, "piwae": objectives.piwae}


class Cost(NamedTuple):
    """What the KL costs in an update: see `objectives.elbo_weighted`."""

    beta: float | Tensor = 1.0
    free_nats: float | Tensor = 0.0
    mean_kl: Tensor | None = None

    @classmethod
    def at(cls, plan: TrainingPlan, step: int) -> "Cost":
        """In the update after `step` updates."""
        return cls(beta(plan, step), free_nats(plan, step))

    @property
    def plain(self) -> bool:
        """Whether it is the KL itself; what a device knows may become something else."""
        if isinstance(self.beta, Tensor) or isinstance(self.free_nats, Tensor):
            return False
        return self.beta == 1 and self.free_nats == 0


@dataclass(frozen=True)
class Ascent:
    """A plan's objective, for a data set of `rows` rows (None where nothing depends on it)."""

    plan: TrainingPlan
    rows: int | None

    @property
    def total_steps(self) -> int | None:
        """Updates of the whole run, where they are known."""
        if self.plan.steps is not None or self.rows is not None:
            return self.plan.total_steps(self.rows or 0)
        return None

    def objective(
        self,
        model: VAE,
        x: Shaped[Tensor, "rows features"],
        noise: Float[Tensor, "samples rows latents"],
        cost: Cost,
        generator: torch.Generator | None,
    ) -> Float[Tensor, ""]:
        """Return what an update raises, nats per row.

        `noise` is N(0, I), or the E step's draws of z in Monte Carlo EM. Only objectives in
        `DRAWING` need a generator.
        """
        bound = self._bounds(model, x, noise, cost, generator).mean()
        if self.plan.weight_prior:  # MAP: `full_data_bound` and the prior, both divided by N
            assert self.rows is not None
            prior = objectives.log_weight_prior(model.generative_parameters().values())
            bound = bound + prior / self.rows
        return bound

    def _bounds(
        self,
        model: VAE,
        x: Tensor,
        noise: Tensor,
        cost: Cost,
        generator: torch.Generator | None,
    ) -> Float[Tensor, " rows"]:
        plan = self.plan
        if plan.objective in PLAIN:
            return PLAIN[plan.objective](model, x, noise)
        if plan.objective in GROUPED:
            assert plan.groups is not None
            return GROUPED[plan.objective](model, x, noise, groups=plan.groups)
        if plan.objective == "full_bayes":
            assert self.rows is not None
            assert generator is not None
            weight_noise = draw_weight_noise(model, generator)
            return full_bayes(model, x, noise, weight_noise, self.rows)
        if plan.objective == "wake_sleep":
            assert generator is not None
            return objectives.wake_sleep(model, x, noise, model.dream(len(x), generator))
        if not cost.plain:
            return objectives.elbo_weighted(model, x, noise, **cost._asdict())
        plain = objectives.elbo if plan.objective == "elbo" else objectives.elbo_sampled
        return plain(model, x, noise)


def has_kl_of_each_latent(config: ModelConfig) -> bool:
    """Whether KL(q(z|x) || p(z)) is a sum over latents, whose first nats can be free."""
    factorized = (config.posterior, config.prior, config.upper_latents)
    return factorized == ("diagonal", "standard", None)


def build_ascent(config: ModelConfig, plan: TrainingPlan, rows: int | None) -> Ascent:
    """Check that the plan can train this model.

    Raises:
        ConfigError: the objective needs something that the model or the caller did not bring.
    """
    bayes, variational = plan.objective == "full_bayes", config.weights == "variational"
    if bayes != variational:
        raise ConfigError(
            f"objective {plan.objective!r} and weights {config.weights!r} do not go together: "
            f"full_bayes trains variational weights, and nothing else does"
        )
    if rows is None and (bayes or plan.weight_prior):
        raise ConfigError("a prior over the weights needs the number of training rows")
    if rows is None and plan.steps is None and plan.schedule != "constant":
        raise ConfigError(f"schedule {plan.schedule!r} over epochs needs the number of rows")
    if plan.free_nats and not has_kl_of_each_latent(config):
        raise ConfigError(
            "free_nats needs a KL of each latent: posterior 'diagonal', prior 'standard', one layer"
        )
    return Ascent(plan, rows)
