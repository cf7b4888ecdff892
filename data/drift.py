"""Do new rows still look like the rows that a model was trained on? Column by column.

    baseline = baseline_of(snapshot)                 # counts of the train rows, in JSON
    report = drift_of(open_source("new.parquet"), snapshot, baseline)
    report.verdict                                   # "stable", "watch" or "drifted"

Numbers are counted between quantiles of the train rows, categories by name; images, vectors
and wide counts by the mean and the spread of their entries. Counts of parts add up to counts
of the whole. A column has drifted where a statistic is both large and beyond chance:

    statistic                                   watch   drifted   chance (one in a thousand)
    population stability index (deciles)         0.10      0.25   chi-square of its bins
    Kolmogorov-Smirnov distance (256 bins)       0.10      0.20   1.95 · sqrt(1/n + 1/m)
    change of the share of nulls                 0.02      0.10   3.29 standard errors
    share of categories never seen               0.00      0.05   none: one is one

Nothing here shows a value: a report travels to logs and trackers.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.cells import is_fixed, is_list, is_number, matrix, numbers
from data.checking import Breach, Checker
from data.contract import Contract
from data.publication import check_format
from data.quantiles import ValueSample
from data.snapshot import Snapshot
from data.sources import Source

FORMAT, VERSION = "latent-features/drift-baseline", 1

BINS, DECILES = 256, 10
VERDICTS = ("stable", "watch", "drifted")
LIMITS = {"psi": (0.1, 0.25), "ks": (0.1, 0.2), "nulls": (0.02, 0.1), "unseen": (0.0, 0.05)}
SKIPPED = ("key", "timestamp", "carry")
Z = 3.29  # standard errors of a chance of one in a thousand

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How often each bin or category of one measured column occurred.

    Bin k holds values v with edges[k - 1] < v <= edges[k]. The last count of categories is of
    those that are not listed.
    """

    name: str
    edges: tuple[float, ...] | None = None
    labels: tuple[Any, ...] | None = None
    counts: tuple[int, ...] = ()
    nulls: int = 0

    @property
    def rows(self) -> int:
        """The number of rows, nulls included."""
        return sum(self.counts) + self.nulls

    def empty(self) -> Self:
        """The same bins with nothing in them."""
        width = len(self.edges) + 1 if self.edges is not None else len(self.labels or ()) + 1
        return replace(self, counts=(0,) * width, nulls=0)

    def merge(self, other: Self) -> Self:
        """Add the counts of other rows."""
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return replace(self, counts=counts, nulls=self.nulls + other.nulls)

    def of(self, cells: Any) -> Self:
        """Count other cells in these bins: floats with NaN for null, or categories."""
        if self.labels is not None:
            known = pa.array(self.labels, cells.type)
            places = pc.index_in(cells.drop_null(), value_set=known).fill_null(len(known))
            counts = np.bincount(places.to_numpy(), minlength=len(known) + 1)
            return replace(self, counts=tuple(counts.tolist()), nulls=cells.null_count)
        assert self.edges is not None, "a tally has edges or labels"
        seen = cells[~np.isnan(cells)]
        bins = np.searchsorted(np.array(self.edges), seen)
        counts = np.bincount(bins, minlength=len(self.edges) + 1)
        return replace(self, counts=tuple(counts.tolist()), nulls=len(cells) - len(seen))


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What the rows that a model learned from looked like."""

    fingerprint: str
    tallies: tuple[Tally, ...]

    def to_json(self) -> str:
        """Write the baseline for `from_json`."""
        tallies = [asdict(tally) for tally in self.tallies]
        head = {"format": FORMAT, "format_version": VERSION, "fingerprint": self.fingerprint}
        return json.dumps({**head, "tallies": tallies}, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            FormatError: not a baseline, or one from a newer version.
        """
        document = json.loads(text)
        check_format(document, "the baseline", format=FORMAT, version=VERSION)
        entries: list[dict[str, Any]] = [
            {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
            for entry in document["tallies"]
        ]
        tallies = tuple(Tally(**entry) for entry in entries)
        return cls(fingerprint=document["fingerprint"], tallies=tallies)


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """How one measured column of new rows differs from the baseline."""

    column: str
    verdict: str
    why: str
    rows: int
    psi: float
    ks: float | None = None  # None for categories
    nulls_before: float = 0.0  # shares of rows
    nulls_now: float = 0.0
    unseen: float | None = None  # share of categories never seen; None for numbers


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """All columns, and whether the model still knows what it is looking at."""

    rows: int
    columns: tuple[ColumnDrift, ...]
    breaches: tuple[Breach, ...] = field(default=())

    @property
    def verdict(self) -> str:
        """The worst of all columns; a breach of the contract is drift."""
        found = [VERDICTS.index(column.verdict) for column in self.columns]
        return VERDICTS[max([*found, 2 if self.breaches else 0])]

    def to_mapping(self) -> dict[str, Any]:
        """The report as plain values, for JSON and trackers."""
        return {
            "verdict": self.verdict,
            "rows": self.rows,
            "columns": [asdict(column) for column in self.columns],
            "breaches": [str(breach) for breach in self.breaches],
        }


def baseline_of(snapshot: Snapshot, split: str = "train") -> Baseline:
    """Count the rows of a split: categories in all, numbers in a sample of 65,536 rows."""
    labels = _labels_of(snapshot)
    tallies = {name: Tally(name=name, labels=known).empty() for name, known in labels.items()}
    samples: dict[str, _Sampled] = {}
    for batch in _without_skipped(snapshot.batches(split=split), snapshot.contract):
        for name, cells in _measured(batch, labels).items():
            if name in labels:
                tallies[name] = tallies[name].merge(tallies[name].of(cells))
            else:
                samples.setdefault(name, _Sampled()).add(cells)
    tallies |= {name: sample.tally(name) for name, sample in samples.items()}
    return Baseline(fingerprint=snapshot.fingerprint, tallies=tuple(tallies.values()))


class _Sampled:
    """The sample of a column, and how many of all its cells are null."""

    def __init__(self) -> None:
        self._sample, self._rows, self._nulls = ValueSample(), 0, 0

    def add(self, cells: npt.NDArray[np.float64]) -> None:
        self._sample.add(cells, self._rows)
        self._rows += len(cells)
        self._nulls += int(np.isnan(cells).sum())

    def tally(self, name: str) -> Tally:
        """Count the sample between its own quantiles, and nulls in proportion to it."""
        values = self._sample.values
        shares = np.arange(1, BINS) / BINS
        edges = np.unique(np.quantile(values, shares)) if len(values) else np.empty(0)
        counted = Tally(name=name, edges=tuple(edges.tolist())).of(values)
        seen = self._rows - self._nulls
        nulls = round(self._nulls * len(values) / seen) if seen else self._nulls
        return replace(counted, nulls=nulls)


def tallied(batches: Iterable[pa.Table], like: Baseline) -> tuple[Tally, ...]:
    """Count conformed rows in the bins of a baseline; a column that is absent counts nothing."""
    found = {tally.name: tally.empty() for tally in like.tallies}
    labels = {tally.name: tally.labels for tally in like.tallies if tally.labels is not None}
    for batch in batches:
        for name, cells in _measured(batch, labels).items():
            if name in found:
                found[name] = found[name].merge(found[name].of(cells))
    return tuple(found.values())


def _without_skipped(
    batches: Iterable[pa.Table | pa.RecordBatch], contract: Contract
) -> Iterator[pa.Table | pa.RecordBatch]:
    """Leave out what is different in every row by design, and what travels along unread."""
    wanted = [c.name for c in contract.kept if c.kind not in SKIPPED]
    for batch in batches:
        yield batch.select([name for name in wanted if name in batch.schema.names])


def _asked_of(source: Source, contract: Contract) -> Contract:
    """The contract; new rows need not say whether they train or test."""
    asked = [c for c in contract.columns if c.kind != "split" or c.name in source.schema.names]
    return replace(contract, columns=tuple(asked))


def drift_of(source: Source, snapshot: Snapshot, baseline: Baseline) -> DriftReport:
    """Hold the rows of a source against a baseline, and against the snapshot's contract.

    A breach ends nothing: what was found is in the report.
    """
    checker = Checker(_asked_of(source, snapshot.contract))
    now = tallied(map(checker.add, source.batches()), baseline)
    columns = tuple(map(compare, baseline.tallies, now))
    return DriftReport(rows=checker.rows, columns=columns, breaches=tuple(checker.breaches()))


def compare(before: Tally, now: Tally) -> ColumnDrift:
    """Say how the counts of new rows differ from those of the baseline."""
    old, new = np.array(before.counts), np.array(now.counts)
    share_before, share_now = _share(before.nulls, before.rows), _share(now.nulls, now.rows)
    found = {"nulls": (abs(share_now - share_before), _chance_of_share(before, now))}
    unseen = None
    if before.labels is None:
        found["psi"] = _stability(*_deciles(old, new))
        found["ks"] = _distance(old, new)
    else:
        found["psi"] = _stability(old[:-1], new[:-1])
        unseen = _share(int(new[-1]), int(new.sum()))
        found["unseen"] = (max(0.0, unseen - _share(int(old[-1]), int(old.sum()))), 0.0)
    verdict, why = _judged(found) if now.rows else ("drifted", "the column is missing")
    return ColumnDrift(
        column=before.name,
        verdict=verdict,
        why=why,
        rows=now.rows,
        psi=found["psi"][0],
        ks=found["ks"][0] if "ks" in found else None,
        nulls_before=share_before,
        nulls_now=share_now,
        unseen=unseen,
    )


Found = tuple[float, float]  # a statistic, and what chance alone may give


def _judged(found: Mapping[str, Found]) -> tuple[str, str]:
    """The worst verdict, and the statistics that led to it."""
    verdicts = {}
    for name, (value, chance) in found.items():
        watch, drifted = LIMITS[name]
        if value > max(watch, chance):
            verdicts[name] = "drifted" if value > drifted else "watch"
    worst = max(verdicts.values(), key=VERDICTS.index, default="stable")
    reasons = [f"{name} {found[name][0]:.3g}" for name in verdicts if verdicts[name] == worst]
    return worst, ", ".join(reasons) or "within limits, or within chance"


def _stability(old: Counts, new: Counts) -> Found:
    """The population stability index: Σ (p - q) log(p / q), half a count added to each bin.

    Without drift, PSI / (1/n + 1/m) has about a chi-square distribution.
    """
    n, m, bins = int(old.sum()), int(new.sum()), len(old)
    if not n or not m or bins < 2:
        return 0.0, 0.0
    p = (old + 0.5) / (n + 0.5 * bins)
    q = (new + 0.5) / (m + 0.5 * bins)
    chance = (bins - 1 + Z * np.sqrt(2 * (bins - 1))) * (1 / n + 1 / m)
    return float(((p - q) * np.log(p / q)).sum()), float(chance)


def _distance(old: Counts, new: Counts) -> Found:
    """The largest distance of the distribution functions, at the edges of the bins."""
    n, m = int(old.sum()), int(new.sum())
    if not n or not m:
        return 0.0, 0.0
    apart = np.abs(old.cumsum() / n - new.cumsum() / m).max()
    return float(apart), float(1.95 * np.sqrt(1 / n + 1 / m))


def _deciles(old: Counts, new: Counts) -> tuple[Counts, Counts]:
    """Join bins until each holds about a tenth of the old rows."""
    middle = old.cumsum() - old / 2
    group = np.minimum((middle / max(old.sum(), 1) * DECILES).astype(int), DECILES - 1)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return np.add.reduceat(old, starts), np.add.reduceat(new, starts)


def _chance_of_share(before: Tally, now: Tally) -> float:
    rows = before.rows + now.rows
    if not before.rows or not now.rows:
        return 0.0
    share = (before.nulls + now.nulls) / rows
    return float(Z * np.sqrt(share * (1 - share) * (1 / before.rows + 1 / now.rows)))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


Measured = dict[str, Any]  # floats with NaN for null, or an Arrow array of categories


def _measured(batch: pa.Table | pa.RecordBatch, labels: Mapping[str, Any]) -> Measured:
    """What is counted of each column that is there."""
    found: Measured = {}
    for name in batch.schema.names:
        cells = _joined(batch[name])
        if name in labels:
            found[name] = cells
        elif is_number(cells.type):
            found[name] = numbers(cells)
        elif is_fixed(cells.type):
            values = matrix(cells).astype(np.float64)
            values[cells.is_null().to_numpy(zero_copy_only=False)] = np.nan
            found |= {f"{name}.mean": values.mean(1), f"{name}.stddev": values.std(1)}
        elif is_list(cells.type):
            found |= _of_sparse(name, cells)
    return found


def _of_sparse(name: str, counts: pa.Array) -> Measured:
    """The total of a wide count, and how many of its places are not zero."""
    rows = pc.list_parent_indices(counts).to_numpy()
    totals = np.bincount(rows, numbers(counts.flatten()), minlength=len(counts))
    lengths = numbers(pc.list_value_length(counts))
    return {
        f"{name}.total": np.where(np.isnan(lengths), np.nan, totals),
        f"{name}.seen": lengths,
    }


def _joined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _labels_of(snapshot: Snapshot) -> dict[str, tuple[Any, ...]]:
    """The categories of the columns that have some; of a label, the values that were seen."""
    labels = {c.name: c.categories for c in snapshot.contract.kept if c.categories is not None}
    label = snapshot.contract.label
    if label is not None and (seen := snapshot.profile[label]).distinct is not None:
        kind = snapshot.contract[label].stored_type
        if is_number(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind):
            labels.setdefault(label, tuple(sorted(value for value, _ in seen.top)))
    return labels
