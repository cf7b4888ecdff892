"""log p(x) by every estimator that a spec asks for: between two bounds, with error bars.

Importance sampling is biased low and says by k̂ which rows it cannot be trusted for; annealing
is biased low and tighter; the density estimator of the paper's appendix D is biased high.
Bidirectional annealing bounds log p(x) from both sides, on rows that the model drew itself,
for only there an exact draw from the posterior is known.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flows.handoff import Rows
from flows.progress import advance
from flows.spec import EvaluationSection
from vae_engine.adaptive import AdaptiveEstimate, EffortPlan, estimate_adaptively
from vae_engine.annealing import AnnealingPlan, anneal, sandwich
from vae_engine.density import DensityPlan, TooManyLatentsError, estimate_by_density
from vae_engine.diagnostics import most_trusted_k
from vae_engine.evaluation import Total
from vae_engine.marginal import MarginalEstimate, estimate_log_marginal
from vae_engine.model import VAE
from vae_engine.noise import step_generator

CHUNK_ROWS = 100  # between two progress reports
FIRST_SAMPLES = 100  # of each row, before effort goes where it is needed
K_EDGES = tuple(round(0.1 * k, 1) for k in range(11))  # of the histogram of k-hat


def as_mapping(total: Total) -> dict[str, Any]:
    """A mean over test rows with its standard error, as records and summaries hold it.

    `impossible_rows`, of the `rows`, are too improbable for a number, and not in the mean.
    """
    return {
        "nats": total.mean,
        "stderr": total.stderr,
        "rows": total.rows,
        "impossible_rows": total.impossible,
        "split": "test",
    }


def per_row(nats: Tensor) -> list[float | None]:
    """The value of each row, None where it is infinite, as a record can hold them."""
    return [value if math.isfinite(value) else None for value in nats.tolist()]


def log_marginal(
    settings: EvaluationSection, model: VAE, sample: Rows
) -> tuple[Tensor, Mapping[str, Any]]:
    """Importance sampling: log p(x) of each row, and what the record says of all.

    With `tolerance_nats` or `budget_s`, rows get samples as their error asks for, up to
    `importance_samples`; without, all get as many. Model and rows are on one device, which does the
    work; the result is on the CPU.
    """
    found: MarginalEstimate | AdaptiveEstimate
    adaptive = settings.tolerance_nats is not None or settings.budget_s is not None
    if adaptive:
        plan = EffortPlan(
            seed=settings.seed,
            tolerance_nats=settings.tolerance_nats or 0.0,
            first_samples=min(FIRST_SAMPLES, settings.importance_samples),
            most_samples=settings.importance_samples,
            budget_s=settings.budget_s,
        )
        found = estimate_adaptively(model, *sample.batch, plan)
        found = AdaptiveEstimate(*(field.cpu() for field in found))
        spent, met = found.samples.double(), found.met.double().mean().item()
    else:
        found = _sampled(settings, model, sample)
        spent, met = torch.full((len(sample.x),), float(settings.importance_samples)), None
    trusted = torch.tensor([most_trusted_k(int(samples)) for samples in spent.tolist()])
    doubted = (found.pareto_k > trusted).double().mean().item()
    value = as_mapping(Total.of(found.log_marginal_nats)) | {
        "importance_samples": settings.importance_samples,
        "mean_samples": spent.mean().item(),
        "row_stderr_nats": found.stderr[found.log_marginal_nats.isfinite()].median().item(),
        "ess": found.ess.median().item(),
        "untrusted_fraction": doubted,
        "tolerance_met_fraction": met,
        "pareto_k": _spread_of_k(found.pareto_k),
    }
    if adaptive:
        value["effort"] = _effort(settings, spent)
    return found.log_marginal_nats, value


def _spread_of_k(pareto_k: Tensor) -> dict[str, Any]:
    """How many rows have their k-hat below the first edge, between two, or above the last."""
    edges = torch.tensor(K_EDGES, dtype=pareto_k.dtype)
    known = pareto_k[~pareto_k.isnan()]
    rows = torch.bucketize(known, edges, right=True).bincount(minlength=len(edges) + 1)
    return {
        "edges": list(K_EDGES),
        "rows": rows.tolist(),
        "unknown_rows": len(pareto_k) - len(known),
    }


def _effort(settings: EvaluationSection, spent: Tensor) -> dict[str, Any]:
    """What adaptive effort was asked for, and the samples that rows got."""
    return {
        "tolerance_nats": settings.tolerance_nats,
        "budget_s": settings.budget_s,
        "fewest_samples": int(spent.min()),
        "median_samples": int(spent.median()),
        "most_samples": int(spent.max()),
        "samples": int(spent.sum()),
    }


def _sampled(settings: EvaluationSection, model: VAE, sample: Rows) -> MarginalEstimate:
    parts = []
    for done, (x, keys) in enumerate(sample.batches(CHUNK_ROWS)):
        parts.append(
            estimate_log_marginal(
                model, x, keys, samples=settings.importance_samples, seed=settings.seed
            )
        )
        advance("evaluate", done * CHUNK_ROWS + len(x), len(sample.x), "log p(x) of test rows")
    return MarginalEstimate(*(torch.cat(field).cpu() for field in zip(*parts, strict=True)))


def other_estimates(settings: EvaluationSection, model: VAE, sample: Rows) -> dict[str, Any]:
    """What the other estimators say; a key for each one that was asked for.

    An estimator that cannot be had for this model gives its reason under `refused`.
    """
    value: dict[str, Any] = {}
    refused: dict[str, str] = {}
    few = sample.first(settings.annealed_rows)
    if "annealing" in settings.estimators:
        advance("evaluate", 0, 1, f"annealing {len(few.x)} test rows")
        annealed = anneal(model, *few.batch, _annealing(settings))
        value["annealed"] = as_mapping(Total.of(annealed.log_marginal_nats))
    if "density" in settings.estimators:
        advance("evaluate", 0, 1, f"appendix D on {len(few.x)} test rows")
        try:
            density = estimate_by_density(model, *few.batch, DensityPlan(seed=settings.seed))
            value["density"] = as_mapping(Total.of(density.log_marginal_nats))
        except TooManyLatentsError as error:
            refused["density"] = str(error)
    if "bidirectional" in settings.estimators:
        advance("evaluate", 0, 1, f"bounding {settings.simulated_rows} simulated rows")
        value["bounds"] = _bounds(settings, model)
    return value | ({"refused": refused} if refused else {})


def _annealing(settings: EvaluationSection) -> AnnealingPlan:
    return AnnealingPlan(
        seed=settings.seed, temperatures=settings.temperatures, chains=settings.chains
    )


def _bounds(settings: EvaluationSection, model: VAE) -> dict[str, Any]:
    """Lower and upper bound on log p(x) of rows drawn from the model, and their distance."""
    rows = settings.simulated_rows
    x, z = model.dream(rows, step_generator(settings.seed, 0))
    found = sandwich(model, x, z, torch.arange(rows), _annealing(settings))
    named = {
        "lower": found.lower_nats,
        "upper": found.upper_nats,
        "width": found.width_nats,
    }
    return {
        name: as_mapping(Total.of(nats)) | {"split": "simulated"}
        for name, nats in named.items()
    }
