"""What a raw table must look like: names, kinds, ranges, null policy, key.

A contract is inferred once (`data.inference`), reviewed by a person, versioned, and kept with
every snapshot and every model. `data.checking` holds tables against it. Names, order and
kinds decide what the model sees; `why` is for the reader and changes nothing.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self
from zoneinfo import available_timezones

import pyarrow as pa

from data.csv_dialect import CsvDialect
from data.publication import check_format, digest_of, json_by_lines
from data.splits import ROLES, role_of
from data.written import format_of

FORMAT, VERSION = "latent-features/contract", 1

ENCODED_KINDS = (
    "continuous",
    "positive",
    "binary",
    "categorical",
    "ordinal",
    "count",
    "pixels",
    "vector",
)
CARRIED_KINDS = ("key", "label", "carry", "timestamp", "split")
KINDS = (*ENCODED_KINDS, *CARRIED_KINDS, "ignore")

CHOICES = {
    "nulls": ("allow", "refuse"),
    "infinite": ("refuse", "null"),
    "unreadable": ("refuse", "null"),
    "outside": ("refuse", "clip"),
    "scaling": ("standard", "quantile"),
}
LATER = {"format": "", "scaled": False, "unreadable": "refuse"}  # and what they are by default
CYCLES = ("day", "week", "year")

OTHER = "(other)"  # the category that rare values share
ROW_ID = "row_id"  # the key of a table that has none: file name and position
OF_FEATURES = re.compile(
    r"model_version|event_timestamp|elbo_nats|z_(mean|stddev|sample_\d+)(_\d+)?"
)
TIMESTAMP = pa.timestamp("us", tz="UTC")

Scalar = str | int | float | bool


class SpecError(ValueError):
    """A person's settings name something that does not exist or does not fit."""


class UnknownNameError(KeyError):
    """There is nothing of that name; the message offers the near miss."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError's own text is quoted


@dataclass(frozen=True, kw_only=True)
class ColumnContract:
    """One column of the raw table.

    `dtype` is the Arrow type of a cell as the snapshot stores it; for pixels and vectors,
    the type of one entry. `min` and `max` bound a cell (`None` = open); for pixels `max` is
    full intensity. `length` is the number of entries of a vector, or of a wide count whose
    non-zero places are listed in the column `indices`.

    A time is stored in UTC; one that names no zone is read as the wall clock of `timezone`.
    It is encoded only where `cycles` says how: as the place in the day, week or year.

    `format` says how numbers or times are written in text (see `data.written`).
    """

    name: str
    kind: str
    dtype: str
    nulls: str = "refuse"  # or "allow"
    infinite: str = "refuse"  # or "null": an infinite cell is one that was not observed
    outside: str = "refuse"  # or "clip": a cell below min or above max is moved there
    min: float | None = None
    max: float | None = None
    categories: tuple[Scalar, ...] | None = None
    other: bool = False  # values outside `categories` share one more category
    max_unknown: float = 0.05  # the share of unseen categories above which data are refused
    height: int | None = None
    width: int | None = None
    channels: int | None = None
    scaled: bool = False  # pictures of any size are scaled to height × width
    length: int | None = None
    indices: str | None = None
    scaling: str = "standard"  # or "quantile": as a normal, by the train rows' quantiles
    timezone: str = "UTC"
    cycles: tuple[str, ...] = ()
    format: str = ""  # of a column of text, how its numbers or times are written
    unreadable: str = "refuse"  # or "null": a cell that is written otherwise
    why: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SpecError(f"column {self.name!r}: {near_miss('kind', self.kind, KINDS)}")
        for setting, allowed in CHOICES.items():
            chosen = getattr(self, setting)
            if chosen not in allowed:
                raise SpecError(
                    f"column {self.name!r}: {setting} must be "
                    f"{' or '.join(map(repr, allowed))}, not {chosen!r}"
                )
        self._check_cycles()
        if self.format:
            check_format_of(self.name, self.format)
        if self.kind in ("binary", "categorical", "ordinal") and not self.categories:
            raise SpecError(
                f"column {self.name!r} is {self.kind} and needs its categories, "
                f"for instance categories = ['a', 'b']"
            )
        if self.kind == "split":
            self._check_roles()
        if self.kind == "pixels" and None in (self.height, self.width, self.channels):
            raise SpecError(f"column {self.name!r}: pixels need height, width and channels")
        if self.kind == "vector" and self.length is None:
            raise SpecError(f"column {self.name!r}: a vector needs its length")

    def _check_cycles(self) -> None:
        for cycle in self.cycles:
            if cycle not in CYCLES:
                raise SpecError(f"column {self.name!r}: {near_miss('cycle', cycle, CYCLES)}")
        if self.cycles and self.kind not in ("timestamp", "carry"):
            raise SpecError(
                f"column {self.name!r} is {self.kind}; cycles are of a time, "
                f"whose kind is 'timestamp' or 'carry'"
            )
        if self.timezone != "UTC" and self.timezone not in available_timezones():
            zones = near_miss("timezone", self.timezone, sorted(available_timezones()))
            raise SpecError(f"column {self.name!r}: {zones}")

    def _check_roles(self) -> None:
        roles = {value: role_of(value) for value in self.categories or ()}
        if None in roles.values() or "train" not in roles.values():
            raise SpecError(
                f"column {self.name!r} is to split the rows, but its values are "
                f"{list(roles)[:10]}: each must be one of {', '.join(ROLES)}, and some 'train'"
            )

    @property
    def is_encoded(self) -> bool:
        """Whether the model sees it."""
        return self.kind in ENCODED_KINDS or bool(self.cycles)

    @property
    def entries(self) -> int:
        """The number of entries of the model's input that one cell fills."""
        if self.cycles:
            return 2 * len(self.cycles)
        if self.kind == "pixels":
            return (self.height or 0) * (self.width or 0) * (self.channels or 0)
        return self.length or 1

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the raw columns it is read from."""
        return (self.name,) if self.indices is None else (self.name, self.indices)

    @property
    def stored_type(self) -> pa.DataType:
        """The Arrow type of the column in a snapshot."""
        entry = arrow_type(self.dtype)
        if self.kind == "pixels":
            return (
                pa.binary(self.entries)
                if entry == pa.uint8()
                else pa.list_(entry, self.entries)
            )
        if self.indices is not None:
            return pa.list_(entry)
        return entry if self.length is None else pa.list_(entry, self.length)

    def revised(self, settings: Mapping[str, Any]) -> Self:
        """Return this column with a person's settings in place of the guesses.

        Raises:
            SpecError: a setting is unknown.
        """
        known = [field.name for field in fields(self) if field.name not in ("name", "why")]
        refuse_unknown(settings, known, where=f"columns.{self.name}")
        changed: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in settings.items()
        }
        return replace(self, **changed, why="the spec says so")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The columns of a raw table, in order.

    `extra` is what happens to columns that it does not know. `csv` is the dialect of the file
    it was made from; like the reasons, it is no part of what identifies the contract.
    """

    name: str
    columns: tuple[ColumnContract, ...]
    version: int = 1
    extra: str = "ignore"  # or "refuse"
    csv: CsvDialect | None = None

    def __post_init__(self) -> None:
        if self.extra not in ("ignore", "refuse"):
            raise SpecError(
                f"contract {self.name!r}: extra must be 'ignore' or 'refuse', "
                f"not {self.extra!r}"
            )
        for kind in ("key", "label", "timestamp", "split"):
            names = [column.name for column in self.columns if column.kind == kind]
            if len(names) > 1:
                raise SpecError(
                    f"contract {self.name!r} has {len(names)} columns of kind {kind} {names}; "
                    f"keep one and make the others kind = 'carry' or 'ignore'"
                )
        for column in self.columns:
            if clashes(column.name, column.kind):
                raise SpecError(
                    f"column {column.name!r} cannot be of kind {column.kind!r}: a table of "
                    f"features has a column of that name; rename it, or set kind = 'ignore'"
                )
        if not self.encoded:
            kinds = {column.name: column.kind for column in self.columns}
            raise SpecError(
                f"{self.name!r} has no usable column: {kinds}; a model needs at least one of "
                f"{', '.join(ENCODED_KINDS)}"
            )

    @cached_property
    def encoded(self) -> tuple[ColumnContract, ...]:
        """The columns that go into the model's input, in order."""
        return tuple(column for column in self.columns if column.is_encoded)

    @cached_property
    def kept(self) -> tuple[ColumnContract, ...]:
        """The columns that a snapshot stores: all that are not ignored."""
        return tuple(column for column in self.columns if column.kind != "ignore")

    @cached_property
    def inputs(self) -> Self:
        """The contract of the model's input alone: what raw rows need to be encoded."""
        return replace(self, columns=self.encoded)

    @property
    def key(self) -> str | None:
        """The name of the key column, if the source has one."""
        return self._name_of("key")

    @property
    def label(self) -> str | None:
        """The name of the label column: carried along, never encoded."""
        return self._name_of("label")

    @property
    def timestamp(self) -> str | None:
        """The name of the column that says when each row happened."""
        return self._name_of("timestamp")

    @property
    def split(self) -> str | None:
        """The name of the column that says which rows train, validate and test."""
        return self._name_of("split")

    @property
    def carried(self) -> tuple[str, ...]:
        """The names of the columns that only travel along, the key and label aside."""
        return tuple(column.name for column in self.columns if column.kind == "carry")

    @cached_property
    def digest(self) -> str:
        """What identifies the contract: everything but the reasons."""
        columns = [{**vars(column), "why": ""} for column in self.columns]
        for column in columns:  # as they were before there were such settings
            for later, default in LATER.items():
                if column[later] == default:
                    del column[later]
        return digest_of(
            {
                "name": self.name,
                "version": self.version,
                "extra": self.extra,
                "columns": columns,
            }
        )

    def __getitem__(self, name: str) -> ColumnContract:
        """Return the column `name`."""
        for column in self.columns:
            if column.name == name:
                return column
        raise UnknownNameError(
            near_miss("column", name, [column.name for column in self.columns])
        )

    def to_json(self) -> str:
        """Write the contract for people and for `from_json`: one column a line."""
        head = {
            "format": FORMAT,
            "format_version": VERSION,
            "name": self.name,
            "version": self.version,
            "extra": self.extra,
            "csv": None if self.csv is None else self.csv.to_mapping(),
        }
        columns = (
            {key: value for key, value in vars(column).items() if value not in (None, "", ())}
            for column in self.columns
        )
        return json_by_lines(head, "columns", columns)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            FormatError: not a contract, or one from a newer version.
        """
        document = json.loads(text)
        check_format(document, "the contract", format=FORMAT, version=VERSION)
        return cls(
            name=document["name"],
            version=document["version"],
            extra=document.get("extra", "ignore"),
            csv=CsvDialect.of(document["csv"]) if document.get("csv") else None,
            columns=tuple(_column(entry) for entry in document["columns"]),
        )

    def _name_of(self, kind: str) -> str | None:
        return next((column.name for column in self.columns if column.kind == kind), None)


def clashes(name: str, kind: str) -> bool:
    """Whether a column would meet one of the same name in a snapshot or among the features."""
    if name == "split":
        return kind not in ("split", "ignore")
    return kind in ("key", "label", "carry") and OF_FEATURES.fullmatch(name) is not None


def arrow_type(name: str) -> pa.DataType:
    """Return the Arrow type that a contract names.

    Raises:
        SpecError: Arrow has no such type.
    """
    if name.startswith("timestamp"):
        return TIMESTAMP
    try:
        return pa.type_for_alias(name)
    except ValueError:
        raise SpecError(f"{name!r} is not an Arrow type such as 'int64' or 'double'") from None


def check_format_of(column: str, said: str) -> None:
    """Raise SpecError where a column's format is none."""
    try:
        format_of(said)
    except ValueError as error:
        raise SpecError(f"column {column!r}: {error}") from None


def near_miss(noun: str, name: str, known: Iterable[str]) -> str:
    """Say that `name` is unknown, and what was perhaps meant."""
    return f"unknown {noun} {name!r}; {hint(name, known)}"


def hint(name: str, known: Iterable[str]) -> str:
    """Say what was perhaps meant by `name`, or what there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def refuse_unknown(settings: Mapping[str, Any], known: Iterable[str], *, where: str) -> None:
    """Raise SpecError for the first key of `settings` that is not in `known`."""
    known = list(known)
    for key in settings:
        if key not in known:
            raise SpecError(f"{where}: {near_miss('key', key, known)}")


def _column(entry: Mapping[str, Any]) -> ColumnContract:
    read: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    return ColumnContract(**read)
