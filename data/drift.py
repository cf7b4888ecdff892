"""How far the rows of one snapshot have moved from those of another, column by column.

    psi           sum over bins of (p - q) log(p / q): the population stability index. Bins are
                  tenths of the reference, or its categories; one more is for missing cells, and
                  one for categories that the reference does not have
    ks            the largest gap between the two distribution functions (numbers only)
    wasserstein   how far a cell has to move on average, in standard deviations of the reference

A column has drifted where an index is large for a reader (0.2, as is usual; 0.1 for ks) and
larger than chance would have it once in a thousand columns: few rows look different by chance,
and among many rows every difference is significant. Rows are sampled by the hash of their key:
the same rows whenever somebody looks.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.cells import is_number, matrix, numbers
from data.contract import ColumnContract
from data.snapshot import Snapshot
from data.splits import hash_keys

SAMPLE_ROWS = 50_000
LARGE_PSI, LARGE_KS = 0.2, 0.1
NEW_SHARE = 0.01  # of rows with a category that is new, from which it is drift
BINS = 10
CHANCE_Z, CHANCE_KS = 3.09, 1.95  # quantiles at 0.999 of a normal, and of Kolmogorov's law
CODED = ("binary", "categorical", "ordinal")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """How far one column has moved."""

    name: str
    kind: str
    distance: float  # psi
    drifted: bool
    ks: float | None = None
    wasserstein: float | None = None
    null_share: tuple[float, float] = (0.0, 0.0)  # in the reference, and now
    new_categories: int = 0
    new_share: float = 0.0  # of the rows now

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for a record."""
        return asdict(self) | {"null_share": list(self.null_share)}


def column_drift(
    reference: Snapshot, new: Snapshot, *, split: str | None = "train"
) -> list[ColumnDrift]:
    """Compare every column that a model reads, and the label, with the reference's `split`."""
    contract = reference.contract
    compared = [*contract.encoded, *(c for c in contract.columns if c.kind == "label")]
    names = [name for column in compared for name in column.sources]
    before, now = _sample(reference, names, split), _sample(new, names, None)
    return [_drift(column, before[column.name], now[column.name]) for column in compared]


def _sample(snapshot: Snapshot, names: list[str], split: str | None) -> pa.Table:
    rows = snapshot.rows if split is None else snapshot.split_rows[split]
    share = min(1.0, SAMPLE_ROWS / max(1, rows))
    parts = []
    for part in snapshot.parts:
        table = snapshot.part_table(part, split=split, columns=[*names, snapshot.key])
        chosen = hash_keys(table[snapshot.key]) <= np.uint64(share * (2**64 - 2**11))
        parts.append(table.select(names).filter(pa.array(chosen)))
    return pa.concat_tables(parts).combine_chunks()


def _drift(
    column: ColumnContract, before: pa.ChunkedArray, now: pa.ChunkedArray
) -> ColumnDrift:
    cells = [_one(array) for array in (before, now)]
    if column.kind in CODED or (column.kind == "label" and not is_number(cells[0].type)):
        return _categories(column, *cells)
    return max(
        (_numbers(column, *pair) for pair in _entries(column, *cells)),
        key=lambda drift: drift.distance,
    )


def _entries(
    column: ColumnContract, before: pa.Array, now: pa.Array
) -> Iterator[tuple[Floats, Floats]]:
    """The numbers to compare: a picture by its mean, a sparse row by its sum, a vector by entry."""
    if column.kind == "pixels":
        yield _picture_means(before), _picture_means(now)
    elif column.indices is not None:
        yield _row_sums(before), _row_sums(now)
    elif column.length is not None:
        vectors = [_with_gaps(array) for array in (before, now)]
        for entry in range(column.length):
            yield vectors[0][:, entry], vectors[1][:, entry]
    else:
        yield numbers(before), numbers(now)


def _one(cells: pa.ChunkedArray) -> pa.Array:
    return cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells


def _with_gaps(cells: pa.Array) -> Floats:
    values = matrix(cells).astype(np.float64)
    values[cells.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return values


def _picture_means(cells: pa.Array) -> Floats:
    means = matrix(cells).mean(1, dtype=np.float64)
    return np.where(cells.is_null().to_numpy(zero_copy_only=False), np.nan, means)


def _row_sums(cells: pa.Array) -> Floats:
    sums = np.zeros(len(cells))
    rows = pc.list_parent_indices(cells).to_numpy()
    np.add.at(sums, rows, cells.flatten().to_numpy(zero_copy_only=False))
    return np.where(cells.is_null().to_numpy(zero_copy_only=False), np.nan, sums)


def _numbers(column: ColumnContract, before: Floats, now: Floats) -> ColumnDrift:
    seen = [values[~np.isnan(values)] for values in (before, now)]
    rows = (len(before), len(now))
    nulls = tuple(1 - len(v) / max(1, n) for v, n in zip(seen, rows, strict=True))
    edges: Floats = (
        np.unique(np.quantile(seen[0], np.arange(1, BINS) / BINS))
        if len(seen[0])
        else np.empty(0)
    )
    counts = [
        np.append(np.bincount(np.searchsorted(edges, v), minlength=len(edges) + 1), n - len(v))
        for v, n in zip(seen, rows, strict=True)
    ]
    index, limit = population_stability(*counts)
    gap, distance = ks_and_wasserstein(*seen)
    spread = float(seen[0].std()) if len(seen[0]) else 0.0
    far = gap is not None and gap > ks_limit(len(seen[0]), len(seen[1]))
    return ColumnDrift(
        name=column.name,
        kind=column.kind,
        distance=index,
        drifted=index > limit or far,
        ks=gap,
        wasserstein=None if distance is None else distance / (spread or 1.0),
        null_share=(nulls[0], nulls[1]),
    )


def _categories(column: ColumnContract, before: pa.Array, now: pa.Array) -> ColumnDrift:
    known = [value for value in pc.unique(before).to_pylist() if value is not None]
    counts = []
    for cells in (before, now):
        places = pc.index_in(cells, value_set=pa.array(known, before.type), skip_nulls=True)
        found = places.drop_null().to_numpy()
        nulls = cells.null_count
        new = len(cells) - len(found) - nulls
        counts.append(np.append(np.bincount(found, minlength=len(known)), [new, nulls]))
    index, limit = population_stability(*counts)
    strange = set(pc.unique(now).to_pylist()) - set(known) - {None}
    share = int(counts[1][-2]) / max(1, len(now))
    return ColumnDrift(
        name=column.name,
        kind=column.kind,
        distance=index,
        drifted=index > limit or share > NEW_SHARE,
        null_share=(before.null_count / max(1, len(before)), now.null_count / max(1, len(now))),
        new_categories=len(strange),
        new_share=share,
    )


def population_stability(
    before: npt.NDArray[np.int64], now: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """Return the index between two histograms, and the limit above which they differ.

    Without drift, index / (1 / rows + 1 / rows) is chi-squared with bins - 1 degrees of freedom.
    A bin that is empty in both is none; half a row in each keeps the logarithm finite.
    """
    used = (before + now) > 0
    rows = before.sum(), now.sum()
    if min(rows) == 0 or used.sum() < 2:
        return 0.0, LARGE_PSI
    p, q = ((counts[used] + 0.5) / (counts[used] + 0.5).sum() for counts in (before, now))
    chance = _chi_squared(int(used.sum()) - 1) * (1 / rows[0] + 1 / rows[1])
    return float(((q - p) * np.log(q / p)).sum()), max(LARGE_PSI, float(chance))


def _chi_squared(freedom: int) -> float:
    """The 0.999 quantile (Wilson & Hilferty 1931)."""
    ninth = 2 / (9 * freedom)
    return float(freedom * (1 - ninth + CHANCE_Z * ninth**0.5) ** 3)


def ks_and_wasserstein(before: Floats, now: Floats) -> tuple[float | None, float | None]:
    """Return the largest gap between two distribution functions, and the area between them."""
    if not len(before) or not len(now):
        return None, None
    every = np.sort(np.concatenate([before, now]))
    gaps = np.abs(
        np.searchsorted(np.sort(before), every, side="right") / len(before)
        - np.searchsorted(np.sort(now), every, side="right") / len(now)
    )
    return float(gaps.max()), float((gaps[:-1] * np.diff(every)).sum())


def ks_limit(before: int, now: int) -> float:
    """The gap above which two samples of so many rows differ, and a reader should care."""
    return max(LARGE_KS, CHANCE_KS * (1 / max(1, before) + 1 / max(1, now)) ** 0.5)
