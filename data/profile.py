"""What a snapshot's columns look like, in numbers: computed once, kept as JSON, read by people.

Counts, nulls, extremes and moments are exact. Quantiles, skewness and, for columns with very
many values, the top categories come from a sample of rows that is a pure function of the
rows' positions (see `data.survey`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from data.contract import UnknownNameError, near_miss
from data.publication import check_format, json_by_lines

FORMAT, VERSION = "latent-features/profile", 1


@dataclass(frozen=True, kw_only=True)
class ColumnProfile:
    """One column. `nulls` counts NaN too; moments are of finite cells, or of list entries."""

    name: str
    dtype: str
    rows: int
    nulls: int
    null_entries: int = 0  # of lists that are not null
    infinite: int = 0
    distinct: int | None = None  # None: more than were counted
    sampled: int = 0  # cells in the sample of rows, nulls aside
    sampled_distinct: int = 0  # different values among them
    min: float | str | None = None
    max: float | str | None = None
    mean: float | None = None
    stddev: float | None = None
    skewness: float | None = None
    log_skewness: float | None = None  # of log(value), where all are positive
    quantiles: dict[str, float] | None = None
    top: tuple[tuple[Any, int], ...] = ()  # (value, count), most frequent first
    top_estimated: bool = False
    counts_rows: bool = False  # each value is the one before plus one
    lengths: tuple[int, int] | None = None  # shortest and longest list
    near_extreme: float | None = None  # share of pixels <= 10 % or >= 90 % of the brightest
    two_values: bool | None = None  # whether pixels take two values only
    mean_image: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """All columns of a table."""

    rows: int
    columns: tuple[ColumnProfile, ...]

    def __getitem__(self, name: str) -> ColumnProfile:
        """Return the profile of column `name`."""
        for column in self.columns:
            if column.name == name:
                return column
        raise UnknownNameError(
            near_miss("column", name, [column.name for column in self.columns])
        )

    def to_json(self) -> str:
        """Write the profile for people, reports and `from_json`: one column a line."""
        head = {"format": FORMAT, "format_version": VERSION, "rows": self.rows}
        return json_by_lines(head, "columns", (_present(vars(each)) for each in self.columns))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            FormatError: not a profile, or one from a newer version.
        """
        document = json.loads(text)
        check_format(document, "the profile", format=FORMAT, version=VERSION)
        return cls(
            rows=document["rows"],
            columns=tuple(ColumnProfile(**_tuples(entry)) for entry in document["columns"]),
        )


def _present(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    read = dict(entry)
    read["top"] = tuple((value, count) for value, count in entry.get("top", ()))
    for key in ("lengths", "mean_image"):
        if key in read:
            read[key] = tuple(read[key])
    return read
