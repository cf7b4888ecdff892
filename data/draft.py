"""A spec to begin with: what was guessed of a source, each guess with its reason.

    text = draft_spec("adult.csv", name="adult")     # TOML with comments; it runs as it is

The spec says what inference found and nothing else, so that it leads to the same contract;
a person reads the comments and changes what is wrong.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from data.contract import ColumnContract, Contract
from data.csv_dialect import CsvDialect
from data.formats import Reading, SourceError
from data.guesses import ORDINAL_VALUES
from data.inference import infer_contract
from data.profile import ColumnProfile, Profile
from data.sources import open_source
from data.survey import Survey
from data.surveyed import surveyed

SHOWN_CATEGORIES = 12
SHOWN_CANDIDATES = 5
LABEL_VALUES = 50


def draft_spec(source: str, *, name: str, query: str | None = None) -> str:
    """Look at a source and write a spec for it.

    Raises:
        SourceError: it cannot be read, has no rows, or nothing that a model could read.
    """
    opened = open_source(source, query=query, reading=Reading())
    seen, formats, nearly = surveyed(opened, said={})
    if not seen.rows:
        raise SourceError(f"{opened.describe} has no rows; there is nothing to learn from")
    contract = infer_contract(seen, name=name, formats=formats, nearly=nearly)
    profile = seen.profile()
    lines = [
        _note(f"{opened.describe}: {seen.rows:,} rows, {len(contract.columns)} columns."),
        "# Each line was guessed from the data, for the reason beside it: correct what is wrong.",
        "",
        "[dataset]",
        f"name = {_toml(name)}",
        f"source = {_toml(source)}",
        *([f"query = {_toml(query)}"] if query else []),
        *_dialect(opened.csv),
        *_key(contract, profile, seen),
        *_label(contract, profile),
        "split = { valid = 0.1, test = 0.1 } # by a hash of the key: stable when rows are added",
        "",
        "[dataset.columns]",
        *(line for column in contract.columns for line in _column(column, profile)),
        "",
        "[training]",
        "seed = 0",
        "",
        "# [model], [evaluation], [encoding], [registry], [schedule]: chosen from the data, or",
        "# with their defaults, where they are left out. The README lists their keys.",
    ]
    return "\n".join(lines) + "\n"


def _dialect(csv: CsvDialect | None) -> list[str]:
    if csv is None:
        return []
    said = {**csv.to_mapping(), "header": csv.header}
    lines = [f"csv = {_inline(said)} # as found; later files are read alike"]
    if not csv.header:
        lines.append(
            "# the first line looks like the others, so columns are f0, f1, ...: header = true if it "
            "has names"
        )
    if csv.skip:
        lines.append(
            f"# the first {csv.skip} lines are no part of the table: skip = 0 if they are"
        )
    if csv.row_names:
        lines.append("# the first cell of each row has no name above it: rownames")
    if csv.nulls:
        lines.append("# nulls stand in columns of numbers: nulls = [] if they are no gaps")
    return lines


def _key(contract: Contract, profile: Profile, seen: Survey) -> list[str]:
    names = [column.name for column in profile.columns if _could_be_key(column, seen)]
    others = _listed([name for name in names if name != contract.key])
    if contract.key is not None:
        why = contract[contract.key].why
        note = _note(f"{why}; or: {others}" if others else why)
        return [f"key = {_toml(contract.key)} {note}"]
    line = "# no key: rows are named by file and position, and change places when the file does"
    return [line, *([_note(f"different in every row: {others}")] if others else [])]


def _could_be_key(column: ColumnProfile, seen: Survey) -> bool:
    kind = seen.schema.field(column.name).type
    is_name = pa.types.is_integer(kind) or pa.types.is_string(kind)
    return is_name and not column.nulls and column.sampled_distinct == column.sampled


def _label(contract: Contract, profile: Profile) -> list[str]:
    names = [
        column.name
        for column in reversed(profile.columns)  # a label stands last, more often than not
        if column.distinct is not None
        and 2 <= column.distinct <= LABEL_VALUES
        and contract[column.name].kind in ("binary", "categorical", "ordinal")
    ]
    others = _listed(names)
    if contract.label is not None:
        why = contract[contract.label].why
        note = _note(f"{why}; or: {others}" if others else why)
        return [f"label = {_toml(contract.label)} {note}"]
    if not others:
        return ["# no label: nothing to probe the features with"]
    could_be = f"one to probe the features with, never encoded, could be {others}"
    return [_note(f"no label; {could_be}")]


def _column(column: ColumnContract, profile: Profile) -> Iterator[str]:
    seen = profile[column.name]
    yield f"{_key_of(column.name)} = {_inline(_settings(column))} {_note(column.why)}"
    if column.kind == "ignore":
        return
    notes = []
    if seen.nulls:
        notes.append(f"{seen.nulls:,} null")
    if seen.null_entries:
        notes.append(f"{seen.null_entries:,} null entries")
    if seen.infinite:
        notes.append(
            f"{seen.infinite:,} infinite: they are refused, or null with infinite = 'null'"
        )
    if isinstance(seen.min, int | float) and seen.max is not None and column.max is None:
        notes.append(f"from {seen.min:.6g} to {seen.max:.6g}: bound it with min and max")
    if notes:
        yield _note(f"{column.name}: {'; '.join(notes)}")


def _settings(column: ColumnContract) -> dict[str, Any]:
    """What inference would find again, in the order in which people read it."""
    settings: dict[str, Any] = {"kind": column.kind}
    if column.format:
        settings["format"] = column.format
    if column.kind in ("ignore", "key", "label", "carry", "split"):
        return settings
    settings["nulls"] = column.nulls
    if column.kind == "pixels":
        settings |= {
            name: getattr(column, name) for name in ("height", "width", "channels", "max")
        }
    if column.indices is not None:
        settings |= {"indices": column.indices, "length": column.length}
    labels = column.categories or ()
    if labels and len(labels) <= max(SHOWN_CATEGORIES, ORDINAL_VALUES) and not column.other:
        settings["categories"] = list(labels)
    return settings


def _note(text: str) -> str:
    """A comment of one line, whatever characters the name of a column has."""
    return "# " + re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", "?", text)


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > SHOWN_CANDIDATES else ""
    return ", ".join(names[:SHOWN_CANDIDATES]) + more


def _inline(settings: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {_toml(value)}" for key, value in settings.items()) + " }"


def _key_of(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    """Write a value as TOML: its strings are JSON's, but for what TOML wants escaped too."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return repr(value)
