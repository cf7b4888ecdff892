"""Is a table what its contract says? Every breach at once, counted, located, never quoted.

A breach names a column, what is wrong, how many cells, up to five rows (by key where there is
one), and the way out. It shows no cell: errors travel to logs and trackers where data must not.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.cell_checks import bad_numbers, bad_places
from data.cells import is_fixed, is_number, null_entries
from data.conform import MisfitError, conform_column, conform_indices
from data.contract import ROW_ID, ColumnContract, Contract, hint
from data.duplicates import Duplicates
from data.policies import read, rounded_decimals, treated
from data.splits import hash_keys

Mask = npt.NDArray[np.bool_]

SHOWN_ROWS = 5

WAYS_OUT = {
    "unreadable": "write them like the others, correct format, or set unreadable = 'null'",
    "null": "fill them, or set nulls = 'allow'",
    "all_null": "every cell is null; nothing can be learned from it, set kind = 'ignore'",
    "infinite": "make them null or finite, or set infinite = 'null'",
    "below_min": "correct them, lower min, or set outside = 'clip'",
    "above_max": "correct them, raise max, or set outside = 'clip'",
    "not_positive": "correct them, or set kind = 'continuous'",
    "negative": "correct them, or set kind = 'continuous'",
    "fraction": "correct them, or set kind = 'continuous'",
    "too_large": "scale them down, or set kind = 'continuous' or 'positive'",
    "inexact": "a double holds integers up to 2**53; set kind = 'ignore', or give them as text",
    "unknown_category": "correct them, add them to categories, or raise max_unknown",
    "bad_places": "give each row as many indices as counts, all within length",
    "null_split": "say of every row whether it trains, validates or tests",
    "null_key": "give every row a key",
    "duplicate_key": "make keys unique, or leave key out to number the rows",
    "extra_column": "add it to the contract, or set extra = 'ignore'",
}


@dataclass(frozen=True, kw_only=True)
class Breach:
    """One way in which a table breaks its contract."""

    column: str
    code: str
    count: int
    rows: tuple[str, ...]
    advice: str

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.column}: {self.advice}"
        where = ", ".join(self.rows) + (", ..." if self.count > len(self.rows) else "")
        return (
            f"{self.column}: {self.count} × {self.code.replace('_', ' ')} "
            f"(rows {where}); {self.advice}"
        )


class ContractError(ValueError):
    """A table breaks its contract; `breaches` lists every way."""

    def __init__(self, source: str, contract: Contract, breaches: Sequence[Breach]) -> None:
        self.breaches = tuple(breaches)
        super().__init__(
            f"{source} breaks contract {contract.name!r} (version {contract.version}) "
            f"in {len(breaches)} place{'s'[: len(breaches) != 1]}:\n  "
            + "\n  ".join(map(str, breaches))
            + "\nCorrect the source, or change the contract and raise its version."
        )


@dataclass
class Tally:
    """How many cells, and the first rows they were found in."""

    count: int = 0
    rows: list[str] = field(default_factory=list)


class Checker:
    """Holds tables, one after the other, against a contract."""

    def __init__(self, contract: Contract, *, first_row: int = 0) -> None:
        self.contract = contract
        self.first_row = first_row
        self.rows = 0
        self.extra: list[str] = []
        self._found: dict[tuple[str, str], Tally] = {}
        self._nulls: Counter[str] = Counter()
        self._treated: Counter[str] = Counter()
        self._misfits: dict[str, Breach] = {}
        self._keys = Duplicates()

    def add(self, table: pa.Table | pa.RecordBatch) -> pa.Table:
        """Check the next rows; return them as the contract stores them.

        Columns that do not fit are left out of what is returned; `breaches` says why.
        """
        names = self._names_of_rows(table)
        pairs = zip(table.schema.names, table.columns, strict=True)
        raw = {name: _chunked(cells) for name, cells in pairs}
        known = {source for column in self.contract.columns for source in column.sources}
        self.extra = sorted({*self.extra, *(raw.keys() - known - {ROW_ID})})
        kept: dict[str, pa.Array] = {}
        if ROW_ID in raw:
            kept[ROW_ID] = raw[ROW_ID]
        for column in self.contract.kept:
            cells, unreadable = self._conform(raw, column, names)
            kept |= cells
            if all(source in kept for source in column.sources):
                self._check(kept, column, names, unreadable)
        self.rows += len(table)
        return pa.table(kept)

    def merge(self, other: Self) -> None:
        """Add the rows that another checker saw just behind this one."""
        self.extra = sorted({*self.extra, *other.extra})
        for place, theirs in other._found.items():
            tally = self._found.setdefault(place, Tally())
            tally.count += theirs.count
            tally.rows += theirs.rows[: SHOWN_ROWS - len(tally.rows)]
        self._nulls.update(other._nulls)
        self._treated.update(other._treated)
        self._misfits = {**other._misfits, **self._misfits}
        self._keys.merge(other._keys)
        self.rows += other.rows

    def breaches(self) -> list[Breach]:
        """List every breach of all rows seen, in the order of the contract's columns."""
        found = [
            Breach(
                column=column,
                code=code,
                count=tally.count,
                rows=tuple(tally.rows),
                advice=WAYS_OUT[code],
            )
            for (column, code), tally in self._found.items()
            if not self._is_tolerable(column, code, tally)
        ]
        order = [column.name for column in self.contract.columns]
        codes = list(WAYS_OUT)
        found.sort(key=lambda breach: codes.index(breach.code))
        found = sorted([*self._misfits.values(), *found], key=lambda b: order.index(b.column))
        return found + self._duplicates() + self._extras()

    def all_null(self) -> list[Breach]:
        """List the encoded columns of which no cell was observed: useless to train on."""
        return [
            Breach(
                column=column.name,
                code="all_null",
                count=self.rows,
                rows=(),
                advice=WAYS_OUT["all_null"],
            )
            for column in self.contract.encoded
            if self.rows and self._nulls[column.name] == self.rows
        ]

    def tolerated(self) -> dict[str, int]:
        """Count what a policy lets pass, as "<column>.<policy>".

        `null`, `null_entries` (of vectors that are not null), `unknown` (a category),
        `infinite` and `unreadable` (taken for null), `clipped`, `rounded` (decimals that a double
        does not hold).
        """
        counts = {f"{column}.null": count for column, count in self._nulls.items() if count}
        counts |= +self._treated
        for (column, code), tally in self._found.items():
            if self._is_tolerable(column, code, tally):
                counts[f"{column}.unknown"] = tally.count
        return counts

    @property
    def failed(self) -> bool:
        """Whether a breach is certain already, whatever the rows to come."""
        return bool(self._misfits) or any(code != "unknown_category" for _, code in self._found)

    def _conform(
        self, raw: dict[str, pa.ChunkedArray], column: ColumnContract, names: Sequence[object]
    ) -> tuple[dict[str, pa.Array], Mask]:
        """Return the column's cells as stored, and which of them are null for they cannot be read."""
        missing = [source for source in column.sources if source not in raw]
        try:
            if missing:
                raise MisfitError(f"missing; {hint(missing[0], raw)}")
            found, unreadable, passed = read(raw[column.name], column)
            self._note(column.name, "unreadable", unreadable, names)
            conformed, counts = treated(conform_column(found, column), column)
            counts |= {"unreadable": passed, "rounded": rounded_decimals(found, conformed.type)}
            self._treated.update(
                {f"{column.name}.{code}": n for code, n in counts.items() if n}
            )
            cells = {column.name: conformed}
            if column.indices is not None:
                cells[column.indices] = conform_indices(raw[column.indices])
        except MisfitError as error:
            code = "missing_column" if missing else "wrong_type"
            self._misfits.setdefault(
                column.name,
                Breach(
                    column=column.name,
                    code=code,
                    count=len(names),
                    rows=(),
                    advice=str(error),
                ),
            )
            return {}, np.zeros(0, bool)
        return cells, unreadable

    def _check(
        self,
        kept: dict[str, pa.Array],
        column: ColumnContract,
        names: Sequence[object],
        unreadable: Mask,
    ) -> None:
        cells = kept[column.name]
        if column.kind == "key":
            self._note(column.name, "null_key", pc.is_null(cells), names)
            valid = np.flatnonzero(cells.is_valid())
            self._keys.add(hash_keys(cells.drop_null()), self.first_row + self.rows + valid)
            return
        gaps = null_entries(cells)
        if column.kind == "split":
            self._note(column.name, "null_split", pc.is_null(cells), names)
        elif column.nulls == "allow":
            self._nulls[column.name] += cells.null_count
            self._treated.update({f"{column.name}.null_entries": int(gaps.sum())})
        elif column.is_encoded:
            missing = cells.is_null().to_numpy(zero_copy_only=False) | (gaps > 0)
            if len(unreadable):
                missing &= ~unreadable
            self._note(column.name, "null", missing, names)
        if column.categories is not None and not column.other:
            known = pc.is_in(cells, value_set=pa.array(column.categories, cells.type))
            unknown = pc.and_(pc.invert(known), pc.is_valid(cells))
            self._note(column.name, "unknown_category", unknown, names)
        elif column.indices is not None:
            bad = bad_places(cells, kept[column.indices], column.entries)
            self._note(column.name, "bad_places", bad, names)
        elif is_number(cells.type) or is_fixed(cells.type):
            for code, mask in bad_numbers(cells, column):
                self._note(column.name, code, mask, names)

    def _note(
        self,
        column: str,
        code: str,
        mask: pa.Array | Mask,
        names: Sequence[object],
    ) -> None:
        bad = np.flatnonzero(mask)
        if not len(bad):
            return
        tally = self._found.setdefault((column, code), Tally())
        tally.count += len(bad)
        for row in bad[: SHOWN_ROWS - len(tally.rows)]:
            tally.rows.append(str(names[row]))

    def _is_tolerable(self, column: str, code: str, tally: Tally) -> bool:
        contract = self.contract[column]
        return (
            code == "unknown_category"
            and contract.kind not in ("binary", "split")
            and tally.count <= contract.max_unknown * self.rows
        )

    def _names_of_rows(self, table: pa.Table | pa.RecordBatch) -> Sequence[object]:
        for name in (self.contract.key, ROW_ID):
            if name is not None and name in table.schema.names:
                return _Names(table[name])
        start = self.first_row + self.rows
        return range(start, start + len(table))

    def _duplicates(self) -> list[Breach]:
        if self.contract.key is None:
            return []
        again = self._keys.rows()
        if not len(again):
            return []
        return [
            Breach(
                column=self.contract.key,
                code="duplicate_key",
                count=len(again),
                rows=tuple(f"number {row}" for row in again[:SHOWN_ROWS]),
                advice=WAYS_OUT["duplicate_key"],
            )
        ]

    def _extras(self) -> list[Breach]:
        if self.contract.extra != "refuse":
            return []
        advice = WAYS_OUT["extra_column"]
        return [
            Breach(
                column=name,
                code="extra_column",
                count=self.rows,
                rows=(),
                advice=f"not in the contract; {advice}",
            )
            for name in self.extra
        ]


def check(table: pa.Table, contract: Contract) -> list[Breach]:
    """List every way in which a whole table breaks its contract."""
    checker = Checker(contract)
    checker.add(table)
    return checker.breaches()


def conform(table: pa.Table, contract: Contract, *, source: str = "the table") -> pa.Table:
    """Return a whole table as its contract stores it.

    Raises:
        ContractError: it breaks the contract; lists every breach.
    """
    checker = Checker(contract)
    conformed = checker.add(table)
    if breaches := checker.breaches():
        raise ContractError(source, contract, breaches)
    return conformed


def _chunked(cells: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return cells if isinstance(cells, pa.ChunkedArray) else pa.chunked_array([cells])


class _Names(Sequence[object]):
    """Keys of rows as text, made only for the few rows that an error shows."""

    def __init__(self, keys: pa.Array | pa.ChunkedArray) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]
        return str(self._keys[int(row)].as_py())
