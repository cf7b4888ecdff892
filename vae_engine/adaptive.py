"""log p(x) by importance sampling, with effort where it is needed.

Rows differ by orders of magnitude in how many samples they need. All begin with a few; those
whose error or k-hat is still high get as many again, and so on, until each row has met the
tolerance, the most that may be spent on one row, or the end of the time.
"""

import math
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from vae_engine.diagnostics import most_trusted_k
from vae_engine.marginal import (
    MarginalEstimate,
    Tally,
    chunks_of_log_weights,
    pairs_at_once,
)
from vae_engine.model import LatentModel
from vae_engine.observation import observed


@dataclass(frozen=True, kw_only=True)
class EffortPlan:
    """How exact is exact enough, and what it may cost."""

    seed: int
    tolerance_nats: float = 0.1  # standard error of each row's estimate
    first_samples: int = 100
    most_samples: int = 50_000  # of one row
    budget_s: float | None = (
        None  # after the first samples of every row, which are always drawn
    )

    def __post_init__(self) -> None:
        if not self.tolerance_nats >= 0:
            raise ValueError(f"tolerance_nats is {self.tolerance_nats}; it must be 0 or more")
        if not 2 <= self.first_samples <= self.most_samples:
            raise ValueError(
                f"first_samples is {self.first_samples} and most_samples {self.most_samples}; "
                f"the first must be 2 or more, and the second no less than it"
            )
        if self.budget_s is not None and not self.budget_s >= 0:
            raise ValueError(f"budget_s is {self.budget_s}; it must be 0 or more, or left out")


class AdaptiveEstimate(NamedTuple):
    """What importance sampling says about each row, in nats, and what it took."""

    log_marginal_nats: Float[Tensor, " rows"]  # biased low, less so with every sample
    stderr: Float[Tensor, " rows"]  # of log_marginal_nats, by the delta method
    ess: Float[Tensor, " rows"]
    pareto_k: Float[Tensor, " rows"]
    samples: Int64[Tensor, " rows"]
    met: Bool[Tensor, " rows"]  # the tolerance, with a k-hat that can be trusted


@torch.inference_mode()
def estimate_adaptively(
    model: LatentModel,
    x: Shaped[Tensor, "rows features"],
    row_keys: Int64[Tensor, " rows"],
    plan: EffortPlan,
) -> AdaptiveEstimate:
    """Estimate log p(x) of each row from as many draws of q(z | x) as its error asks for.

    A row stops when its standard error is within the tolerance and its k-hat within what so
    many samples can be trusted with; a row that k-hat doubts goes on however small its error
    looks, because an error read from weights that miss the tail is too small. Each round
    doubles the samples, the worst rows first, and draws are those of `estimate_log_marginal`:
    a row that ended with S samples has the estimate that S samples give.

    To stop on what was drawn biases the error low for rows that seem easy by chance; k-hat
    limits that, and `first_samples` more so. Without a budget the result of a row depends on
    (seed, row key) and the row alone; with one, also on the machine's speed.

    Raises:
        ValueError: no rows came in.
    """
    if not len(x):
        raise ValueError("estimate_adaptively needs at least one row; got none")
    work = _Work(model, x, row_keys, plan, _nothing_known(len(x), x.device))
    tally = Tally.empty(len(x), samples=plan.most_samples, device=x.device)
    active = torch.arange(len(x), device=x.device)
    goal, deadline = plan.first_samples, math.inf
    while len(active):
        tally = work.draw(active, tally, goal, deadline)
        if goal == plan.first_samples and plan.budget_s is not None:
            deadline = perf_counter() + plan.budget_s
        if goal == plan.most_samples or perf_counter() > deadline:
            break
        error = work.result.stderr[active].nan_to_num(math.inf)
        order = error.argsort(descending=True, stable=True)
        order = order[~work.result.met[active[order]]]
        active, tally = active[order], tally.rows(order)
        goal = min(2 * goal, plan.most_samples)
    return work.result


class _Work(NamedTuple):
    """What is to be estimated, how, and what is known so far."""

    model: LatentModel
    x: Shaped[Tensor, "rows features"]
    row_keys: Int64[Tensor, " rows"]
    plan: EffortPlan
    result: AdaptiveEstimate  # written in place

    def draw(
        self, active: Int64[Tensor, " active"], tally: Tally, goal: int, deadline: float
    ) -> Tally:
        """Bring the active rows up to `goal` samples, writing down each; stop at the deadline."""
        pairs = pairs_at_once(self.model, self.x)
        size = max(1, pairs // (goal - tally.samples))
        parts = []
        for index in torch.arange(len(active), device=self.x.device).split(size):
            rows, part = active[index], tally.rows(index)
            keys = self.row_keys[rows]
            for log_w in chunks_of_log_weights(
                self.model,
                observed(self.model, self.x[rows], keys, self.plan.seed),
                keys,
                seed=self.plan.seed,
                first=tally.samples,
                last=goal,
                samples_per_chunk=max(1, pairs // size),
            ):
                part = part.plus(log_w)
            parts.append(part)
            self.write(rows, part.estimate(), goal)
            if perf_counter() > deadline:
                break
        return Tally.joined(parts)

    def write(
        self, rows: Int64[Tensor, " chosen"], estimate: MarginalEstimate, samples: int
    ) -> None:
        """Write down the estimate of some rows, and whether it is good enough."""
        for field, value in zip(self.result, estimate, strict=False):
            field[rows] = value
        self.result.samples[rows] = samples
        self.result.met[rows] = (estimate.stderr <= self.plan.tolerance_nats) & (
            estimate.pareto_k <= most_trusted_k(samples)
        )


def _nothing_known(rows: int, device: torch.device) -> AdaptiveEstimate:
    unknown = torch.full((4, rows), math.nan, dtype=torch.float64, device=device)
    nats, stderr, ess, pareto_k = unknown
    return AdaptiveEstimate(
        nats,
        stderr,
        ess,
        pareto_k,
        torch.zeros(rows, dtype=torch.int64, device=device),
        torch.zeros(rows, dtype=torch.bool, device=device),
    )
