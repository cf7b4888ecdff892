"""From what a table looks like to a contract, with a reason for each guess.

The same table gives the same contract, always: `data.guesses` decides from exact counts and a
sample that depends on positions alone. A person's settings come first: a kind that is given
is taken, and only its details are worked out here.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.cells import is_bytes, is_list
from data.contract import (
    ENCODED_KINDS,
    KINDS,
    TIMESTAMP,
    ColumnContract,
    Contract,
    SpecError,
    clashes,
    near_miss,
    refuse_unknown,
)
from data.formats import SourceError
from data.guesses import (
    Seen,
    common,
    declared_shape,
    guess,
    has_rare,
    is_scalar,
    square_shape,
)
from data.profile import ColumnProfile
from data.survey import TOP, Survey

VERSION = 5  # raised when the rules change: the same file may then give another contract

SETTINGS = [field.name for field in fields(ColumnContract) if field.name not in ("name", "why")]


def infer_contract(
    survey: Survey,
    *,
    name: str,
    key: str | None = None,
    label: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    formats: Mapping[str, str] | None = None,
    nearly: Mapping[str, str] | None = None,
) -> Contract:
    """Guess the contract of a surveyed table; `overrides` maps columns to settings.

    `formats` are those of columns of text that were surveyed as what they say; `nearly` says of
    others what keeps them from it, for the reasons.

    Raises:
        SpecError: a setting names an unknown column or key.
        SourceError: no column can be encoded; says why of each.
    """
    settings = {column: dict(given) for column, given in (overrides or {}).items()}
    for kind, column in (("key", key), ("label", label)):
        if column is not None:
            settings.setdefault(column, {}).setdefault("kind", kind)
    refuse_unknown(settings, survey.schema.names, where="columns")
    written, almost = dict(formats or {}), dict(nearly or {})

    pairs = _sparse_pairs(survey.sample)
    scalars = tuple(field.name.lower() for field in survey.schema if is_scalar(field.type))
    taken = {given["kind"]: column for column, given in settings.items() if "kind" in given}
    columns = []
    for profile in survey.profile().columns:
        field = survey.schema.field(profile.name)
        length = (profile.lengths or (0, 0))[1]
        seen = Seen(
            profile=profile,
            type=field.type,
            note=bool((field.metadata or {}).get(b"annotation")),
            shape=declared_shape(survey.schema, profile.name, length),
            scaled_from=_scaled_from(field),
            places=pairs.get(profile.name),
            is_places=profile.name in pairs.values(),
            scalars=scalars,
            taken=taken,
        )
        given = settings.get(profile.name, {})
        found = _column(seen, given, survey)
        if said := written.get(profile.name, ""):
            found = replace(found, format=said, why=f"{found.why}; written as {said!r}")
        elif (said := almost.get(profile.name, "")) and "kind" not in given:
            found = replace(found, why=f"{found.why}; {said}")
        columns.append(found)
        taken.setdefault(columns[-1].kind, profile.name)
    if not any(column.kind in ENCODED_KINDS for column in columns):
        reasons = "".join(f"\n  {c.name}: {c.kind}, {c.why}" for c in columns)
        raise SourceError(
            f"{name!r} has no usable column:{reasons}\n"
            f"Add a column that varies from row to row, or give one its kind."
        )
    return Contract(name=name, columns=tuple(columns))


def _column(seen: Seen, settings: Mapping[str, Any], survey: Survey) -> ColumnContract:
    """What is given is taken; what is not is guessed, for the kind that is given if one is."""
    name = seen.profile.name
    refuse_unknown(settings, SETTINGS, where=f"columns.{name}")
    if "kind" in settings:
        kind, why = settings["kind"], "the spec says so"
        if kind not in KINDS:
            raise SpecError(f"columns.{name}: {near_miss('kind', kind, KINDS)}")
    else:
        guessed = guess(seen)
        kind, why = guessed.kind, guessed.why
        if clashes(name, kind):
            kind, why = "ignore", f"{why}; but features have a column of this name: rename it"
    details = {
        "nulls": "allow" if _has_gaps(seen.profile) and kind != "key" else "refuse",
        **(_scalar(seen, kind) if seen.is_scalar else _entries(seen, kind, survey)),
        **{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()},
    }
    return ColumnContract(**{"name": name, "why": why, **details, "kind": kind})


def _scaled_from(field: pa.Field) -> str | None:
    said = (field.metadata or {}).get(b"scaled_from")
    return None if said is None else said.decode()


def _has_gaps(profile: ColumnProfile) -> bool:
    return profile.nulls + profile.null_entries > 0


def _scalar(seen: Seen, kind: str) -> dict[str, Any]:
    """The type of a cell, and the categories where the kind has them."""
    dtype = str(seen.type)
    if pa.types.is_timestamp(seen.type):
        dtype = str(TIMESTAMP)
    elif pa.types.is_decimal(seen.type):
        dtype = "double"  # 15 digits; what is lost beyond them is far below any noise
    details: dict[str, Any] = {"dtype": dtype}
    if kind in ("binary", "categorical", "ordinal", "split"):
        values = [value for value, _ in seen.profile.top]
        rare = (
            kind == "categorical" and pa.types.is_string(seen.type) and has_rare(seen.profile)
        )
        details["categories"] = tuple(sorted((rare and common(seen.profile)) or values))
    if kind in ("binary", "categorical", "ordinal"):
        distinct = seen.profile.distinct
        details["other"] = rare or distinct is None or distinct > TOP
    return details


def _entries(seen: Seen, kind: str, survey: Survey) -> dict[str, Any]:
    """The type of an entry, and how many there are or how they lie."""
    if not (is_list(seen.type) or is_bytes(seen.type)):
        return {"dtype": str(seen.type)}
    details: dict[str, Any] = {"dtype": str(seen.entry)}
    length = (seen.profile.lengths or (0, 0))[1]
    if kind == "pixels":
        shape = seen.shape or square_shape(length)
        details |= dict(zip(("height", "width", "channels"), shape or (), strict=False))
        details |= {"min": 0, "max": _full_intensity(seen)}
        details["scaled"] = seen.scaled_from is not None
    elif kind == "count" and seen.places is not None:
        details |= {"indices": seen.places, "length": _sparse_length(seen.places, survey)}
    elif kind != "ignore":
        details["length"] = length
    return details


def _sparse_length(places: str, survey: Survey) -> int:
    """How many places there are: as the file says, else up to the last that was seen."""
    said = (survey.schema.field(places).metadata or {}).get(b"length")
    return int(said) if said else int(survey.profile()[places].max or 0) + 1


def _full_intensity(seen: Seen) -> int | float:
    """The value of a white pixel: what the type says, unless the data use much less of it."""
    brightest = seen.at(seen.profile.max)
    if seen.entry == pa.uint8():
        return 255 if brightest > 127 else max(int(brightest), 1)
    return 1.0 if brightest <= 1 else brightest


def _sparse_pairs(sample: pa.Table) -> dict[str, str]:
    """Find columns of counts and the columns that list their places: counts -> places."""
    lists = [
        field.name
        for field in sample.schema
        if pa.types.is_list(field.type) and pa.types.is_integer(field.type.value_type)
    ]
    pairs = {}
    for places in lists:
        before, found, after = places.partition("indices")
        for word in ("counts", "values", "data"):
            counts = before + word + after
            if found and counts in lists and _same_lengths(sample[places], sample[counts]):
                pairs[counts] = places
    return pairs


def _same_lengths(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    return bool(pc.list_value_length(one).equals(pc.list_value_length(other)))
