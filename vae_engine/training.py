"""Training on one screen: a state, a step, a loop that yields.

The order of minibatches is a function of (seed, epoch), and the noise, the rate and the weight of
the KL are functions of (seed, step), so the state of a run is weights, optimizer moments and the
number of steps: a run that was killed and resumed from a checkpoint ends in the same weights,
bit for bit.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from vae_engine.ascent import Ascent, build_ascent
from vae_engine.binarization import binarized_for_training
from vae_engine.config import ModelConfig, TrainingPlan
from vae_engine.distributed import ALONE, Ranks, check_divisible
from vae_engine.divergence import diagnosis
from vae_engine.mcem import UPDATES, posterior_draws
from vae_engine.model import VAE, build_model
from vae_engine.noise import epoch_generator, step_generator
from vae_engine.objectives import draws_and_kl
from vae_engine.optimizers import build_optimizer
from vae_engine.schedule import learning_rate
from vae_engine.statistics import Statistics


class DivergedError(RuntimeError):
    """A bound or a gradient is not finite; the weights are still those before the step."""


class Batch(NamedTuple):
    """Some rows of the training split; keys are needed only for static binarization."""

    x: Shaped[Tensor, "rows features"]
    row_keys: Int64[Tensor, " rows"] | None = None


class StepReport(NamedTuple):
    """What one step did, in nats per row; the terms are those of its batch before the update."""

    step: int
    objective_nats: float  # what was maximized
    elbo_nats: float  # the plain bound, whatever was maximized
    log_likelihood_nats: float
    kl_nats: float
    grad_norm: float
    learning_rate: float


@dataclass
class TrainState:
    """All that training changes, and what says how."""

    model: VAE
    optimizer: torch.optim.Optimizer
    plan: TrainingPlan
    ascent: Ascent
    step: int = 0
    average: dict[str, Tensor] | None = None  # moving average of the weights, by name
    ranks: Ranks = ALONE

    def averaged_model(self) -> VAE:
        """Return the model to evaluate and to keep: a copy with the average, if there is one."""
        if self.average is None:
            return self.model
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average, strict=False)
        return model


def new_state(
    config: ModelConfig,
    plan: TrainingPlan,
    statistics: Statistics | None = None,
    *,
    rows: int | None = None,
    ranks: Ranks = ALONE,
) -> TrainState:
    """Return the state before the first step: a function of the arguments alone.

    `rows` is the number of training rows, for plans that depend on it: a prior over the
    weights, a schedule over epochs. With several `ranks`, each gets the same whole batches,
    and computes on its rows of them.

    Raises:
        ConfigError: plan and model do not go together, or `rows` is missing.
    """
    check_divisible(plan, ranks)
    ascent = build_ascent(config, plan, rows)
    model = build_model(config, seed=plan.seed, statistics=statistics).to(plan.device)
    optimizer = build_optimizer(model.parameters(), plan)
    state = TrainState(model, optimizer, plan, ascent, ranks=ranks)
    if plan.average_decay is not None:
        state.average = {n: p.detach().clone() for n, p in model.named_parameters()}
    return state


def batch_indices(
    rows: int,
    batch_rows: int,
    seed: int,
    epoch: int,
    start_step: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Int64[Tensor, " _"]]:
    """Yield the row numbers of each minibatch of one epoch, from batch `start_step` on.

    A permutation that depends on (seed, epoch) alone, moved to `device` once; every row occurs
    once, and the last batch is short where `batch_rows` does not divide `rows`.
    """
    order = torch.randperm(rows, generator=epoch_generator(seed, epoch)).to(device)
    yield from order.split(batch_rows)[start_step:]


def minibatches(
    x: Shaped[Tensor, "rows features"],
    plan: TrainingPlan,
    row_keys: Int64[Tensor, " rows"] | None = None,
    start_step: int = 0,
) -> Iterator[Batch]:
    """Yield the batches of a whole run on rows in memory, from step `start_step` to its end."""
    steps_an_epoch = -(-len(x) // plan.batch_rows)
    step, end = start_step, plan.total_steps(len(x))
    while step < end:
        epoch, first = divmod(step, steps_an_epoch)
        order = batch_indices(len(x), plan.batch_rows, plan.seed, epoch, first, x.device)
        for index in order:
            if step == end:
                return
            keys = None if row_keys is None else row_keys.index_select(0, index)
            yield Batch(x.index_select(0, index), keys)
            step += 1


def train_step(state: TrainState, batch: Batch, *, report: bool = False) -> StepReport | None:
    """Take one ascent step on the mean objective of the rows of `batch`; mutates `state`.

    Monte Carlo EM takes several, on the same draws of z. With `report`, the terms of the plain
    bound are evaluated too, on the same noise.

    Raises:
        DivergedError: the objective or its gradient is not finite. Nothing has changed then.
    """
    plan, model = state.plan, state.model
    generator = step_generator(plan.seed, state.step, plan.device)
    rows = batch.x.to(plan.device, non_blocking=True)
    x = binarized_for_training(model.config, rows, batch.row_keys, generator)
    noise = torch.randn(
        plan.samples, len(x), model.latents, generator=generator, device=plan.device
    )
    terms = _terms(model, x, noise, plan) if report else None
    if plan.objective == "mcem":
        noise = posterior_draws(model, x, plan.samples, generator)
    rate = learning_rate(plan, state.step, state.ascent.total_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    for _ in range(UPDATES if plan.objective == "mcem" else 1):
        value, norm = _ascend(state, x, noise, generator)
    state.step += 1
    return None if terms is None else StepReport(state.step, value, *terms, norm, rate)


def fit(
    state: TrainState, batches: Iterable[Batch], *, report_every: int = 50
) -> Iterator[StepReport]:
    """Train on `batches`, yielding a report every `report_every` steps.

    There are no callbacks. The caller's loop body logs, evaluates and checkpoints, and stops early
    by leaving the loop:

        for report in fit(state, minibatches(x, plan, start_step=state.step)):
            log(report)

    Raises:
        DivergedError: see `train_step`.
    """
    for batch in batches:
        report = train_step(state, batch, report=(state.step + 1) % report_every == 0)
        if report is not None:
            yield report


def precision(plan: TrainingPlan) -> AbstractContextManager[object]:
    """Return the context of forward passes: bfloat16 products, or nothing."""
    if plan.precision == "bfloat16":
        return torch.autocast(torch.device(plan.device).type, dtype=torch.bfloat16)
    return nullcontext()


def _ascend(
    state: TrainState, x: Tensor, noise: Tensor, generator: torch.Generator
) -> tuple[float, float]:
    """Update the weights once; return the objective and the norm of its gradient."""
    plan, model = state.plan, state.model
    rows, draws, share = state.ranks.rows_of(x, noise)
    with precision(plan):
        objective = state.ascent.objective(model, rows, draws, state.step, generator)
    objective = objective * share if share < 1 else objective
    parameters = state.optimizer.param_groups[0]["params"]
    state.optimizer.zero_grad(set_to_none=True)
    (-objective).backward()  # the one place where the sign turns: we minimize -objective
    gradients = [p.grad for p in parameters if p.grad is not None]
    objective = objective.detach()
    state.ranks.sum_([*gradients, objective])
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    value, grad_norm = torch.stack([objective.to(norm.dtype), norm]).tolist()  # waits
    if not (abs(value) < torch.inf and grad_norm < torch.inf):
        raise DivergedError(
            diagnosis(
                model, x, noise, step=state.step + 1, objective=value, grad_norm=grad_norm
            )
        )
    if plan.clip_norm is not None and grad_norm > plan.clip_norm:
        torch._foreach_mul_(gradients, plan.clip_norm / grad_norm)
    state.optimizer.step()
    if state.average is not None and plan.average_decay is not None:
        decay = min(
            plan.average_decay, (1 + state.step) / (10 + state.step)
        )  # forget the start
        weights = [parameter.detach() for parameter in parameters]
        torch._foreach_lerp_(list(state.average.values()), weights, 1 - decay)
    return value, grad_norm


@torch.no_grad()
def _terms(
    model: VAE, x: Tensor, noise: Tensor, plan: TrainingPlan
) -> tuple[float, float, float]:
    """ELBO, log likelihood and KL of one batch: means over rows, in nats."""
    with precision(plan):
        z, kl = draws_and_kl(model, model.posterior(x), noise)
        log_likelihood = model.log_likelihood(x, z).mean().item()
        rate = kl.mean().item()
    return log_likelihood - rate, log_likelihood, rate
