"""Does the model make rows like those it saw? Each column's observed cells beside sampled ones.

The distance is the total variation of the two histograms: the share of rows that would have to
move to make them equal. Two samples of one distribution are not equal either; `by_chance` is
how far apart those would be expected to lie.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from data.cells import numbers
from data.encoding import CODED_KINDS, EncodedColumn, decode
from flows.reporting.charts import Axis, Tick, binned, number, steps
from flows.reporting.specimen import Specimen

COLUMNS = 60  # shown: those that differ most
CATEGORIES = 10  # bars; the rest share one
BINS, FEW_ROWS = 30, 900
WHOLE_BINS = 40  # of whole numbers
LONG_TAIL = 20  # medians
RANGE = (0.005, 0.995)  # of the observed cells; what lies outside counts at the ends
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bar:
    """A category's share among observed and among sampled rows."""

    name: str
    observed: float
    sampled: float
    widths: tuple[float, float]  # the same in percent of the largest category's


@dataclass(frozen=True)
class Marginal:
    """One column: bars for categories, outlines for numbers, means of entries for vectors."""

    name: str
    kind: str
    summary: str
    distance: float
    by_chance: float
    bars: tuple[Bar, ...] = ()
    outlines: tuple[str, str] | None = None  # observed, sampled
    ticks: tuple[Tick, ...] = ()
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Fidelity:
    """The columns that differ most, worst first."""

    rows: int  # observed
    columns: int  # compared
    by_chance: float  # the median of its columns
    marginals: tuple[Marginal, ...]


def compare_marginals(specimen: Specimen) -> Fidelity | None:
    """Draw as many rows from the model as the sample has; None where all columns are pictures."""
    columns = [column for column, _ in specimen.columns if not column.image]
    if not columns:
        return None
    with torch.inference_mode():
        drawn = specimen.model.sample(len(specimen.x), specimen.generator())
    marginals = [
        marginal(column, specimen.entries(column), specimen.entries(column, drawn))
        for column in columns
    ]
    by_chance = float(np.median([marginal.by_chance for marginal in marginals]))
    marginals.sort(key=lambda marginal: -marginal.distance)
    return Fidelity(len(specimen.x), len(columns), by_chance, tuple(marginals[:COLUMNS]))


def marginal(
    column: EncodedColumn,
    observed: npt.NDArray[np.float32],
    sampled: npt.NDArray[np.float32],
) -> Marginal:
    """Compare the entries of one column, rows × width, of observed and of sampled rows."""
    if column.kind in CODED_KINDS:
        return _bars(column, observed[:, 0], sampled[:, 0])
    if column.width > 1:
        return _dots(column, observed, sampled)
    return _outlines(column, *(_cells(column, entries) for entries in (observed, sampled)))


def _cells(column: EncodedColumn, entries: npt.NDArray[np.float32]) -> Values:
    """Entries in the units of the column, as it would store them; what is not there left out."""
    found = entries[np.isfinite(entries[:, 0])]
    values = numbers(decode(column, found)[column.name])
    return values[np.isfinite(values)]


def _bars(
    column: EncodedColumn,
    observed: npt.NDArray[np.float32],
    sampled: npt.NDArray[np.float32],
) -> Marginal:
    size = len(column.categories)
    ours, theirs = (
        np.bincount(codes[np.isfinite(codes)].astype(int), minlength=size)
        for codes in (observed, sampled)
    )
    n, m = max(int(ours.sum()), 1), max(int(theirs.sum()), 1)
    p, q = ours / n, theirs / m
    order = np.arange(size)
    if column.kind == "categorical":
        order = np.argsort(-p, kind="stable")
    shown = order if size <= CATEGORIES else order[: CATEGORIES - 1]
    shares = [(str(column.categories[k]), float(p[k]), float(q[k])) for k in shown.tolist()]
    if len(rest := order[len(shown) :]):
        shares.append((f"{len(rest)} others", float(p[rest].sum()), float(q[rest].sum())))
    top = max(max(a, b) for _, a, b in shares[: len(shown)]) or 1.0
    bars = [Bar(name, a, b, (_percent(a / top), _percent(b / top))) for name, a, b in shares]
    largest = bars[int(np.argmax([abs(bar.observed - bar.sampled) for bar in bars]))]
    return Marginal(
        column.name,
        column.kind,
        f"{column.name}: the largest difference is {largest.name}, "
        f"observed {largest.observed:.1%}, sampled {largest.sampled:.1%}",
        _distance(p, q),
        _by_chance(p, n, m),
        bars=tuple(bars),
    )


def _percent(share: float) -> float:
    return round(100 * min(share, 1.0), 2)


def _outlines(column: EncodedColumn, observed: Values, sampled: Values) -> Marginal:
    axis, edges = _bins(column, observed)
    p, q = (binned(axis.place(found), axis.place(edges)) for found in (observed, sampled))
    heights = (np.sqrt(p), np.sqrt(q)) if axis.scale == "log1p" else (p, q)
    top = max(float(height.max()) for height in heights) or 1.0
    medians = [
        float(np.median(found)) if len(found) else math.nan for found in (observed, sampled)
    ]
    return Marginal(
        column.name,
        f"{column.kind}; heights are square roots" if heights[0] is not p else column.kind,
        f"{column.name}: median observed {number(medians[0])}, sampled {number(medians[1])}",
        _distance(p, q),
        _by_chance(p, max(len(observed), 1), max(len(sampled), 1)),
        outlines=(steps(heights[0] / top), steps(heights[1] / top)),
        ticks=tuple(axis.ticks(3)),
    )


def _bins(column: EncodedColumn, observed: Values) -> tuple[Axis, Values]:
    """Bins over the observed range, equally wide on an axis that shows the column's shape.

    What the model takes for logarithmic is shown so; counts with a long tail by the logarithm
    of one more; whole numbers in a short range get bins of whole numbers.
    """
    count = BINS if len(observed) >= FEW_ROWS else max(8, round(math.sqrt(len(observed))))
    axis = Axis.around(np.quantile(observed, RANGE) if len(observed) else observed)
    if column.log and axis.low > 0:
        axis = Axis(axis.low, axis.high, "log")
        return axis, np.exp(np.linspace(math.log(axis.low), math.log(axis.high), count + 1))
    if column.kind == "count" and axis.high > LONG_TAIL * (1 + float(np.median(observed))):
        axis = Axis(0.0, axis.high, "log1p")
        steps_up = np.linspace(0.0, math.log1p(axis.high), count + 1)
        return axis, np.expm1(steps_up)
    if "int" in column.dtype and axis.high - axis.low >= 1:
        width = max(1, math.ceil((axis.high - axis.low + 1) / max(count, WHOLE_BINS)))
        count = math.ceil((axis.high - axis.low + 1) / width)
        edges = math.floor(axis.low) - 0.5 + width * np.arange(count + 1, dtype=np.float64)
        return Axis(float(edges[0]), float(edges[-1])), edges
    return axis, np.linspace(axis.low, axis.high, count + 1)


def _dots(
    column: EncodedColumn,
    observed: npt.NDArray[np.float32],
    sampled: npt.NDArray[np.float32],
) -> Marginal:
    """Means of the entries, observed across and sampled up; the distance is between means."""
    across, up = np.nanmean(observed, 0), np.nanmean(sampled, 0)
    axis = Axis.around(np.concatenate([across, up]))
    spread = float(np.nanstd(observed)) or 1.0
    places = np.column_stack([axis.place(across), 1 - axis.place(up)]) * 1000
    gaps = np.abs(across - up) / spread
    return Marginal(
        column.name,
        f"{column.kind} of {column.width:,}: the mean of each entry, observed across and sampled "
        f"up; the number is their mean distance in standard deviations",
        f"{column.name}: means of its {column.width:,} entries differ by "
        f"{number(float(gaps.mean()))} standard deviations on average",
        float(gaps.mean()),
        0.0,
        dots=tuple((round(x, 1), round(y, 1)) for x, y in places.tolist()[:2000]),
        ticks=tuple(axis.ticks(3)),
    )


def _distance(p: Values, q: Values) -> float:
    return float(np.abs(p - q).sum() / 2)


def _by_chance(p: Values, n: int, m: int) -> float:
    """The expected distance of two samples of p: half the sum of mean absolute deviations."""
    return float(np.sqrt(2 / math.pi * p * (1 - p) * (1 / n + 1 / m)).sum() / 2)
