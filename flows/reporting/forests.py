"""Estimates one under the other, each with its 95 % interval over rows, on a common axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.reporting.charts import Axis, Tick
from flows.reporting.records import Records

INTERVAL = 1.96  # standard errors on each side
MOVED_LATENTS = 5  # shown: those that moved most


@dataclass(frozen=True)
class ForestRow:
    """An estimate with its interval, placed on a common axis."""

    label: str
    value: str
    stderr: str
    at: float
    left: float
    width: float
    tone: str
    note: str


@dataclass(frozen=True)
class Forest:
    """Estimates of the same thing, one under the other."""

    rows: list[ForestRow]
    ticks: list[Tick]


def marginal_forest(records: Records) -> Forest:
    """What is known of log p(x) of test rows, from the crudest model to this one."""
    seen = records.evaluation
    samples = f"{seen['log_marginal']['importance_samples']:,} importance samples a row"
    named = [
        ("independent columns", seen["independent"], "t7", "each column by itself"),
        ("factor analysis", seen.get("factor_analysis"), "t7", "linear, of the same width"),
        ("ELBO", seen["elbo"], "t0", "a lower bound"),
        ("log p(x)", seen["log_marginal"], "t1", samples),
        ("log p(x), annealed", seen.get("annealed"), "t2", "annealed importance sampling"),
        ("log p(x), appendix D", seen.get("density"), "t2", "a fitted density; errs upwards"),
    ]
    return _forest([row for row in named if row[1] is not None])


def bounds_forest(records: Records) -> Forest | None:
    """The two bounds around log p(x) of rows drawn from the model, where they were measured."""
    bounds = records.evaluation.get("bounds")
    if bounds is None:
        return None
    return _forest(
        [
            ("upper bound", bounds["upper"], "t2", "annealing back from the true latents"),
            ("lower bound", bounds["lower"], "t2", "annealing towards them"),
        ]
    )


def stability_forest(records: Records) -> Forest | None:
    """How well the features of two trainings predict each other, where a second was asked for."""
    found = records.evaluation.get("stability")
    if found is None:
        return None
    named = [
        (label, {"nats": found[name], "stderr": found[f"{name}_stderr"]}, "t0", "")
        for name, label in (
            ("first_from_second", "these features from the second's"),
            ("second_from_first", "the second's features from these"),
        )
    ]
    return _forest(named, (0.0, 1.0), 3)


def comparison_forest(records: Records) -> Forest | None:
    """This model minus the champion of then, where the gate kept the numbers."""
    gate = records.gate or {}
    comparison = gate.get("comparison")
    if comparison is None:
        return None
    difference = {"nats": comparison["difference_nats"], "stderr": comparison["stderr"]}
    label = f"this model − version {gate['champion_before']}"
    return _forest([(label, difference, "t1", f"{comparison['rows']:,} test rows")], (0.0,))


def drift_forests(records: Records) -> list[tuple[str, Forest]]:
    """How new rows look to the model, where it could be asked: the bound, and its latents."""
    seen = (records.drift or {}).get("model")
    if seen is None:
        return []
    bound = {"nats": seen["elbo_shift_nats"], "stderr": seen["elbo_shift_nats_stderr"]}
    before, now = seen["rows"]
    rows = f"{now:,} new rows, {before:,} test rows"
    shifts, errors = seen["latent_shift"], seen["latent_shift_stderr"]
    order = sorted(range(len(shifts)), key=lambda k: -seen["latent_ks"][k])[:MOVED_LATENTS]
    latents = [
        (
            f"latent {k}",
            {"nats": shifts[k], "stderr": errors[k]},
            "t0",
            f"KS {seen['latent_ks'][k]:.2f}",
        )
        for k in order
    ]
    return [
        (
            "ELBO of new rows minus that of test rows, nats",
            _forest([(f"KS {seen['elbo_ks']:.2f}", bound, "t1", rows)], (0.0,)),
        ),
        ("Latents that moved most, standard deviations", _forest(latents, (0.0,))),
    ]


def probe_forests(records: Records) -> list[tuple[str, Forest]]:
    """What each probe reads from latents, from PCA and from all columns; 0 is knowing nothing."""
    found = []
    for probe in records.evaluation["probe"]:
        named = [
            (label, {"nats": probe[name], "stderr": probe[f"{name}_stderr"]}, tone, "")
            for name, label, tone in (
                ("latents", "latents", "t0"),
                ("pca", "PCA of the same width", "t7"),
                ("inputs", "all columns", "t7"),
            )
        ]
        kind, score = probe_name(probe)
        rows = f"{probe['train_rows']:,} rows to fit, {probe['test_rows']:,} to score"
        title = f"{kind}: {score}, {rows}; chance {probe['chance']:.3f}"
        found.append((title[:1].upper() + title[1:], _forest(named, (probe["chance"], 1.0), 3)))
    return found


def probe_name(probe: Mapping[str, Any]) -> tuple[str, str]:
    """Which small model a probe is, and how it is scored: "knn_accuracy" in words."""
    kind, _, score = probe["name"].partition("_")
    score = {"ami": "adjusted mutual information", "r2": "R²"}.get(score, score)
    return {"knn": "nearest neighbors"}.get(kind, kind), score


def _forest(
    named: Sequence[tuple[str, Mapping[str, Any], str, str]],
    shown: tuple[float, ...] = (),
    decimals: int = 2,
) -> Forest:
    """Estimates on an axis that holds them, their intervals, and the values `shown`."""
    ends = list(shown)
    for _, estimate, _, _ in named:
        reach = INTERVAL * estimate["stderr"]
        ends += [estimate["nats"] - reach, estimate["nats"] + reach]
    axis = Axis.around(ends)
    room = 0.04 * (axis.high - axis.low)
    axis = Axis(axis.low - room, axis.high + room)
    rows = []
    for label, estimate, tone, note in named:
        reach = INTERVAL * estimate["stderr"]
        left, right = (axis.percent(estimate["nats"] + side * reach) for side in (-1, 1))
        rows.append(
            ForestRow(
                label,
                f"{estimate['nats']:.{decimals}f}".replace("-", "−"),
                f"± {estimate['stderr']:.{decimals}f}",
                axis.percent(estimate["nats"]),
                left,
                round(right - left, 2),
                tone,
                note,
            )
        )
    return Forest(rows, axis.ticks())
