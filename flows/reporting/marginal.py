"""What the report says of log p(x) beside its value: how far to trust it, and what it took."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flows.reporting.charts import Axis, Chart, Curve, Mark, histogram, number, steps
from flows.reporting.records import Records
from vae_engine.diagnostics import most_trusted_k

TRUSTED, DOUBTFUL = 0.01, 0.1  # fraction of rows whose k-hat is too high


def trusted_k(records: Records) -> float:
    """The largest k-hat that the samples of a row, in the middle, can be trusted with."""
    marginal = records.evaluation["log_marginal"]
    effort = marginal.get("effort", {})
    return most_trusted_k(effort.get("median_samples", marginal["importance_samples"]))


def trust(records: Records) -> tuple[str, str]:
    """A word and a sentence on how far importance sampling can be believed here."""
    fraction = records.evaluation["untrusted_fraction"]
    share = f"of {fraction:.1%} of the rows k̂ is too high for their number of samples"
    if not fraction:
        return "good", f"Trustworthy: no row has k̂ above {number(trusted_k(records))}."
    if fraction <= TRUSTED:
        return "good", f"Trustworthy: {share}."
    if fraction <= DOUBTFUL:
        return "fair", f"Mostly trustworthy: {share}; their estimates may be too low."
    return "poor", f"Read it as a lower bound: {share}. More importance samples would help."


def row_histogram(records: Records) -> Chart:
    """log p(x) of each measured row, and what independent columns make of it."""
    seen = records.evaluation
    return histogram(
        "log p(x) of single rows",
        "nats",
        {
            "independent columns": _known(seen["independent_per_row"]),
            "this model": _known(seen["log_marginal_per_row"]),
        },
    )


def _known(nats: Sequence[float | None]) -> list[float]:
    """The values of the rows that are not impossible."""
    return [value for value in nats if value is not None]


def k_histogram(records: Records) -> Chart:
    """How heavy the tails of the importance weights are, row by row."""
    marginal = records.evaluation["log_marginal"]
    spread, limit = marginal["pareto_k"], trusted_k(records)
    edges, rows = spread["edges"], np.array(spread["rows"], np.float64)
    step = edges[1] - edges[0]
    axis = Axis(edges[0] - step, edges[-1] + step)
    unknown = spread["unknown_rows"]
    ends = f"below {number(edges[0])} and above {number(edges[-1])} count at the ends"
    return Chart(
        "k̂ of single rows",
        f"k-hat of {int(rows.sum()):,} rows, {marginal['untrusted_fraction']:.1%} of them "
        f"not trusted; the limit is {number(limit)}",
        "k̂, the shape of the tail of a row's importance weights",
        (Curve("rows", "t1", steps(rows / (rows.max() or 1.0)), area=True),),
        axis.ticks(),
        [],
        marks=(Mark(axis.percent(limit), f"limit {number(limit)}"),),
        note=f"{ends}; of {unknown:,} rows it is not known" if unknown else ends,
    )


def remarks(records: Records) -> list[str]:
    """What else there is to say of log p(x): effort, impossible rows, what was refused."""
    seen = records.evaluation
    marginal = seen["log_marginal"]
    said = []
    if effort := marginal.get("effort"):
        said.append(_effort(effort, marginal["tolerance_met_fraction"]))
    if impossible := marginal["impossible_rows"]:
        said.append(
            f"{impossible:,} of {marginal['rows']:,} rows are impossible under this model "
            f"(log p(x) is −∞): they hold values that it gives no probability. None is left out."
        )
    said += [f"{name} was refused: {why}." for name, why in seen.get("refused", {}).items()]
    return said


def _effort(effort: Mapping[str, Any], met: float) -> str:
    asked = []
    if effort["tolerance_nats"] is not None:
        asked.append(f"a standard error of {number(effort['tolerance_nats'])} nats a row")
    if effort["budget_s"] is not None:
        asked.append(f"{number(effort['budget_s'])} s")
    return (
        f"Effort went where it was needed, up to {' or '.join(asked)}: from "
        f"{effort['fewest_samples']:,} to {effort['most_samples']:,} importance samples a row, "
        f"{effort['median_samples']:,} in the middle; {met:.0%} of the rows met it."
    )
