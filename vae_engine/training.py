"""Training on one screen: a state, a step, a loop that yields.

The order of minibatches is a function of (seed, epoch), and the noise, the rate and the weight of
the KL are functions of (seed, step), so the state of a run is weights, optimizer moments and the
number of steps: a run that was killed and resumed from a checkpoint ends in the same weights,
bit for bit.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from vae_engine.ascent import Ascent, build_ascent
from vae_engine.binarization import binarized_for_training
from vae_engine.config import ModelConfig, TrainingPlan
from vae_engine.device_step import DeviceStep
from vae_engine.device_step import applies as asks_nothing
from vae_engine.distributed import ALONE, Ranks, check_divisible, divisible
from vae_engine.divergence import finite, judge
from vae_engine.explosion import Watch
from vae_engine.gradients import AutogradGradient, precision
from vae_engine.mcem import UPDATES, posterior_draws
from vae_engine.memory import Parts
from vae_engine.model import VAE, build_model
from vae_engine.noise import epoch_generator, step_generator
from vae_engine.objectives import draws_and_kl
from vae_engine.optimizers import build_optimizer
from vae_engine.schedule import learning_rate, newest_share, warmed_up
from vae_engine.statistics import Statistics
from vae_engine.written_out import WrittenOut, written_out


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
    parts: int = 1  # in which the batch was taken, for want of memory


@dataclass
class TrainState:
    """All that training changes, and what says how."""

    model: VAE
    optimizer: torch.optim.Optimizer
    plan: TrainingPlan
    ascent: Ascent
    autograd: AutogradGradient
    explicit: WrittenOut | None  # where it does for this model and plan
    on_device: DeviceStep | None = None  # where it does for this plan
    step: int = 0
    average: dict[str, Tensor] | None = None  # moving average of the weights, by name
    ranks: Ranks = ALONE
    rate_factor: float = 1.0  # of the plan's learning rate: less once it was too high
    watch: Watch = field(default_factory=Watch)

    @property
    def parts(self) -> Parts:
        """In how many parts a batch is taken."""
        return self.autograd.parts

    @property
    def gradient(self) -> AutogradGradient | WrittenOut:
        """The way the next step finds its gradient."""
        if self.explicit is not None and self.parts.count == 1:
            return self.explicit
        return self.autograd

    def take(self, other: "TrainState") -> None:
        """Go on from the weights, moments and step of a state of the same model and plan."""
        self.model.load_state_dict(other.model.state_dict())
        self.optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))
        for name, average in (self.average or {}).items():
            average.copy_((other.average or {})[name])
        self.step, self.watch = other.step, copy.deepcopy(other.watch)

    def wait(self) -> None:
        """Wait until the weights have moved that another thread is moving."""
        if self.explicit is not None:
            self.explicit.settle()

    def settle(self) -> tuple[float, float] | None:
        """Wait for what a device was told to do, and judge each step in its turn.

        Returns:
            The objective and the norm of the last step; None where there was nothing to wait for.

        Raises:
            DivergedError: see `train_step`. `step` is then where the weights are.
        """
        left = [] if self.on_device is None else self.on_device.read()
        if self.on_device is None or not left:
            return None
        begun = self.step - len(left)
        bad = (k for k, (value, norm, _) in enumerate(left) if not finite(value, norm))
        self.step = begun + next(bad, len(left))
        kept = left[min(self.step - begun, len(left) - 1)]
        for step, (value, norm, _) in enumerate(left, begun):
            judge(
                self.model,
                self.watch,
                self.on_device.batch(kept.rows),
                step=step + 1,
                objective=value,
                grad_norm=norm,
                warmed_up=warmed_up(self.plan, step),
                later=self.step - step,
            )
        return kept[:2]

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
    workers: int | None = None,
    compiled: bool = False,
) -> TrainState:
    """Return the state before the first step: a function of the arguments alone.

    `rows` is the number of training rows, for plans that depend on it: a prior over the
    weights, a schedule over epochs. With several `ranks`, each gets the same whole batches,
    and computes on its rows of them. With `workers`, a gradient that is written out spreads its
    rows over so many threads, instead of each product over PyTorch's: slower on idle cores, far
    faster on busy ones, and the same bits for any number of them. With `compiled`, the objective
    of steps on a GPU goes through `torch.compile`, which costs a minute at the start.

    Raises:
        ConfigError: plan and model do not go together, or `rows` is missing.
    """
    check_divisible(plan, ranks)
    ascent = build_ascent(config, plan, rows)
    model = build_model(config, seed=plan.seed, statistics=statistics).to(plan.device)
    ranks.share_(model.measured())  # another processor rounds otherwise
    optimizer = build_optimizer(model.parameters(), plan)
    autograd = AutogradGradient(model, ascent, optimizer, ranks, Parts())
    explicit = on_device = average = None
    if plan.average_decay is not None:
        average = {n: p.detach().clone() for n, p in model.named_parameters()}
    if ranks.world == 1:
        explicit = written_out(model, plan, optimizer, workers)
    if ranks.world == 1 and explicit is None and asks_nothing(plan):
        on_device = DeviceStep(model, ascent, optimizer, average, compiled=compiled)
    return TrainState(
        model,
        optimizer,
        plan,
        ascent,
        autograd,
        explicit,
        on_device,
        average=average,
        ranks=ranks,
    )


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
        DivergedError: the objective or its gradient is not finite, or the objective has for many
            steps been far worse than it was. The weights have not changed then. On a GPU it is
            raised at the next report, or by `settle`: from a number that is not finite on nothing
            has changed, but an explosion has gone on for as long.
    """
    with _alone(state):
        return _step(state, batch, report=report)


def _step(state: TrainState, batch: Batch, *, report: bool) -> StepReport | None:
    """Take the step, but for waiting until the weights have moved."""
    plan, model = state.plan, state.model
    generator = step_generator(plan.seed, state.step, plan.device)
    keys = batch.row_keys
    x = binarized_for_training(
        model.config,
        batch.x.to(plan.device, non_blocking=True),
        None if keys is None else keys.to(plan.device, non_blocking=True),
        generator,
    )
    noise = torch.randn(
        plan.samples, len(x), model.latents, generator=generator, device=plan.device
    )
    if report:
        state.wait()
    terms = _terms(state, x, noise) if report else None
    if plan.objective == "mcem":
        noise = posterior_draws(model, x, plan.samples, generator)
    rate = learning_rate(plan, state.step, state.ascent.total_steps) * state.rate_factor
    if _handed_over(state, x, noise, rate):
        state.step += 1
        found = state.settle() if report else None
    else:
        for _ in range(UPDATES if plan.objective == "mcem" else 1):
            found = _ascend(state, x, noise, generator, rate)
        state.step += 1
    if terms is None or found is None:
        return None
    value, norm = found
    return StepReport(state.step, value, *terms, norm, rate, state.parts.count)


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
    with _alone(state) as everyone:
        for batch in batches:
            report = _step(state, batch, report=(state.step + 1) % report_every == 0)
            if report is not None:
                with everyone():
                    yield report
    state.settle()


@contextmanager
def _alone(state: TrainState) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Leave the cores to the threads that take the steps; give them back for a while, and at last.

    The weights have moved where others have the cores.
    """
    with ExitStack() as stack:
        if state.explicit is None:
            yield nullcontext
            return
        alone = state.explicit.alone

        def begin() -> None:
            stack.enter_context(alone())
            stack.callback(state.wait)

        @contextmanager
        def everyone() -> Iterator[None]:
            stack.close()
            yield
            begin()

        begin()
        yield everyone


def _handed_over(state: TrainState, x: Tensor, noise: Tensor, rate: float) -> bool:
    """Tell a device to take the step; False where it is not to, or has no memory for it."""
    plan, device = state.plan, state.on_device
    if device is None:
        return False
    if device.full:
        state.settle()

    def attempt(parts: int) -> bool:
        if parts == 1:
            share = 0.0 if state.average is None else newest_share(plan, state.step)
            device.take(x, noise, rate=rate, share=share, step=state.step)
        return parts == 1

    handed_over = state.parts.run(attempt, len(x) if divisible(plan) else 1)
    if not handed_over:
        state.settle()
        device.release()
        state.on_device = None
    return handed_over


def _ascend(
    state: TrainState, x: Tensor, noise: Tensor, generator: torch.Generator, rate: float
) -> tuple[float, float]:
    """Update the weights once; return the objective and the norm of its gradient."""
    plan = state.plan
    value, norm = state.gradient.differentiate(x, noise, state.step, generator)
    judge(
        state.model,
        state.watch,
        (x, noise),
        step=state.step + 1,
        objective=value,
        grad_norm=norm,
        warmed_up=warmed_up(plan, state.step),
    )
    limit = plan.clip_norm
    state.gradient.update(rate, limit / norm if limit is not None and norm > limit else 1.0)
    if state.average is not None:
        state.wait()
        weights = [parameter.detach() for parameter in state.model.parameters()]
        torch._foreach_lerp_(
            list(state.average.values()), weights, newest_share(plan, state.step)
        )
    return value, norm


@torch.no_grad()
def _terms(state: TrainState, x: Tensor, noise: Tensor) -> tuple[float, float, float]:
    """ELBO, log likelihood and KL of one batch: means over rows, in nats."""
    model = state.model

    def attempt(parts: int) -> tuple[float, float]:
        log_likelihood = rate = 0.0
        for rows, draws in zip(
            x.tensor_split(parts), noise.tensor_split(parts, 1), strict=True
        ):
            share = len(rows) / len(x)
            with precision(state.plan):
                z, kl = draws_and_kl(model, model.posterior(rows), draws)
                log_likelihood += share * model.log_likelihood(rows, z).mean().item()
                rate += share * kl.mean().item()
        return log_likelihood, rate

    log_likelihood, rate = state.parts.run(attempt, len(x) if divisible(state.plan) else 1)
    return log_likelihood - rate, log_likelihood, rate
