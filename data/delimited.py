"""CSV and its kin: what type each column has. How they are written is found in `data.dialect`.

A CSV file has no types of its own. Theirs are found by reading the whole file once and
widening where a later row asks for it (integer, then float, then text), so that what a column
is does not depend on where the first odd value stands. Integers that int64 cannot hold would
become rounded floats on the way: such a column is refused unless its type is declared.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data.cells import reaches_int64
from data.contract import CsvDialect
from data.dialect import found_dialect
from data.formats import Opened, Reading, SourceError
from data.quarantine import look

WIDER = {"null": "int64", "int64": "double"}  # anything else widens to string
BLOCK_BYTES = 4 << 20  # whose types Arrow guesses
TEXTS, FLOATS = ("string", "large_string"), ("double", "float")  # types that may be declared
WHOLE = r"^\s*[+-]?\d+\s*$"


def open_csv(path: Path, reading: Reading) -> Opened:
    """Open a text table, in the dialect that is given, frozen or found.

    Raises:
        SourceError: it is plainly of another dialect than the frozen one, or a column holds
            integers beyond int64.
    """
    dialect = _agreed(path, reading)
    text = {name: "string" for name, kind in reading.types.items() if kind in TEXTS}
    floats = {name for name, kind in reading.types.items() if kind in FLOATS}
    types = dict(text)
    while (seen := _look(path, dialect, types)).misfit is not None:
        comma = _has_comma(seen.cell) and "," not in (dialect.delimiter, dialect.decimal)
        if comma and reading.frozen is None and "decimal" not in reading.csv:
            dialect = CsvDialect(dialect.encoding, dialect.delimiter, ",")
            types = dict(text)
        else:
            types[seen.misfit] = WIDER.get(seen.kind, "string")
    for column in sorted({*seen.giants} - floats):
        _refuse_giant_integers(path, dialect, column)
    with _reader(path, dialect, types) as opened:
        return Opened(opened.schema, lambda: iter(_reader(path, dialect, types)), dialect)


def _agreed(path: Path, reading: Reading) -> CsvDialect:
    if reading.frozen is None:
        return found_dialect(path, reading.csv)[0]
    found, sure = found_dialect(path, {})
    for name in (field.name for field in fields(CsvDialect) if field.name in sure):
        now, then = getattr(found, name), getattr(reading.frozen, name)
        if now != then:
            raise SourceError(
                f"{path} has {name} {now!r}, the contract was made with {then!r}; "
                f"convert the file, or set csv = {{ {name} = {now!r} }} in the spec"
            )
    return reading.frozen


def _has_comma(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?\d+,\d+\s*", text) is not None


def _reader(
    path: Path,
    dialect: CsvDialect,
    types: Mapping[str, str],
    columns: list[str] | None = None,
    *,
    threads: bool = True,
) -> Any:
    return pa.csv.open_csv(
        path,
        read_options=pa.csv.ReadOptions(
            block_size=BLOCK_BYTES, encoding=dialect.encoding, use_threads=threads
        ),
        parse_options=pa.csv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.type_for_alias(kind) for name, kind in types.items()},
            include_columns=columns,
            decimal_point=dialect.decimal,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


class _Seen(NamedTuple):
    """What came of reading a whole file: the column that does not fit its type, or none.

    `giants` are the columns of floats that hold more than int64 does.
    """

    misfit: str | None
    kind: str
    cell: str
    giants: list[str]


def _look(path: Path, dialect: CsvDialect, types: Mapping[str, str]) -> _Seen:
    return _Seen(*look(read_through, path, asdict(dialect), types))


def read_through(path: Path, dialect: Mapping[str, str], types: Mapping[str, str]) -> _Seen:
    """Read a file to its end, or to the first cell that does not fit its column.

    Columns that `types` does not name have the type that Arrow guesses from the first block.

    Raises:
        pyarrow.ArrowInvalid: a row has more or fewer cells than the header.
    """
    chosen = CsvDialect(**dialect)
    try:
        return _seen(_reader(path, chosen, types))
    except pa.ArrowInvalid:
        for _ in _reader(path, chosen, types, threads=False):
            pass  # one thread counts rows, and its error says which
        raise


def _seen(opened: Any) -> _Seen:
    giants: set[str] = set()
    with opened:
        names = opened.schema.names
        floats = [field.name for field in opened.schema if pa.types.is_floating(field.type)]
        try:
            for batch in opened:
                giants.update(name for name in floats if reaches_int64(batch[name]))
        except pa.ArrowInvalid as error:
            found = re.search(r"In CSV column #(\d+).*conversion error", str(error))
            if found is None:
                raise
            cell = re.search(r"invalid value '(.*)'", str(error), re.DOTALL)
            misfit = int(found[1])
            kind = str(opened.schema.types[misfit])
            return _Seen(names[misfit], kind, cell[1] if cell else "", [])
    return _Seen(None, "", "", sorted(giants))


def _refuse_giant_integers(path: Path, dialect: CsvDialect, column: str) -> None:
    for batch in _reader(path, dialect, {column: "string"}, [column]):
        whole = batch.filter(pc.match_substring_regex(batch[column], WHOLE))[column]
        if len(whole) and reaches_int64(whole.cast(pa.float64())):
            raise SourceError(
                f"{path}: column {column!r} holds integers beyond int64, which a float would "
                f'round; keep them as text with columns.{column} = {{ dtype = "string" }}, '
                f'or accept that with columns.{column} = {{ dtype = "double" }}'
            )
