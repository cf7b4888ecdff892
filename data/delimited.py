"""CSV and its kin: what type each column has. How they are written is found in `data.dialect`.

A CSV file has no types of its own. Theirs are found by reading the whole file once and
widening where a later row asks for it (integer, then float, then text), so that what a column
is does not depend on where the first odd value stands. Integers that int64 cannot hold would
become rounded floats on the way: such a column is refused unless its type is declared.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data.cells import reaches_int64
from data.csv_dialect import CsvDialect
from data.dialect import BLANK, MARKS, described, names_of, squeezed
from data.formats import Opened, Reading, SourceError
from data.packed import codec_of, unpacked
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
    dialect, is_open = _agreed(path, reading)
    text = {name: "string" for name, kind in reading.types.items() if kind in TEXTS}
    floats = {name for name, kind in reading.types.items() if kind in FLOATS}
    types, said = dict(text), "nulls" in reading.csv
    while (seen := _look(path, dialect, types)).misfit is not None:
        comma = _has_comma(seen.cell) and "," not in (dialect.delimiter, dialect.decimal)
        if comma and is_open:
            dialect = replace(dialect, decimal=",")
            types = dict(text)
        elif _is_new_mark(seen.cell, dialect) and reading.frozen is None and not said:
            dialect = replace(dialect, nulls=(*dialect.nulls, seen.cell.strip()))
        else:
            types[seen.misfit] = WIDER.get(seen.kind, "string")
    for column in sorted({*seen.giants} - floats):
        _refuse_giant_integers(path, dialect, column)
    with _reader(path, dialect, types) as opened:
        return Opened(opened.schema, lambda: iter(_reader(path, dialect, types)), dialect)


def dialect_of(path: Path, given: Mapping[str, Any]) -> tuple[CsvDialect, frozenset[str]]:
    """What `data.dialect.found_dialect` finds, in the child: packed bytes are unpacked for it."""
    dialect, sure = look(described, path, dict(given))
    return CsvDialect.of(dialect), frozenset(sure)


def _agreed(path: Path, reading: Reading) -> tuple[CsvDialect, bool]:
    """The dialect to read with, and whether nothing yet has told its decimal mark."""
    if reading.frozen is None:
        found, sure = dialect_of(path, reading.csv)
        return found, "decimal" not in sure
    found, sure = dialect_of(path, {})
    for name in (field.name for field in fields(CsvDialect) if field.name in sure):
        now, then = getattr(found, name), getattr(reading.frozen, name)
        if now == then:
            continue
        if name == "header":
            raise SourceError(
                f"{path} has {'names' if now else 'cells like any'} in its first line, other than "
                f"what the contract was made with; convert the file, or, if it is as it was, set "
                f"csv = {{ header = {str(then).lower()} }} in the spec"
            )
        raise SourceError(
            f"{path} has {name} {now!r}, the contract was made with {then!r}; "
            f"convert the file, or set csv = {{ {name} = {json.dumps(now)} }} in the spec"
        )
    # There may be more lines before the table, or fewer.
    return replace(reading.frozen, skip=found.skip), False


def _is_new_mark(cell: str, dialect: CsvDialect) -> bool:
    return cell.strip() in {*MARKS} - {*dialect.nulls}


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
        _bytes_of(path, dialect),
        read_options=pa.csv.ReadOptions(
            block_size=BLOCK_BYTES,
            encoding=dialect.encoding,
            use_threads=threads,
            column_names=names_of(path, dialect) if dialect.row_names else None,
            skip_rows=dialect.skip + int(dialect.row_names),
            autogenerate_column_names=not dialect.header,
        ),
        parse_options=pa.csv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.type_for_alias(kind) for name, kind in types.items()},
            include_columns=columns,
            decimal_point=dialect.decimal,
            null_values=_nulls(dialect),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _bytes_of(path: Path, dialect: CsvDialect) -> Any:
    """What Arrow reads: the file itself, unless something is to be done to its bytes."""
    if dialect.delimiter == BLANK:
        return pa.PythonFile(_Squeezed(unpacked(path)), mode="r")
    codec = codec_of(path)
    return pa.CompressedInputStream(pa.OSFile(str(path)), codec) if codec else path


class _Squeezed:
    """A file of text whose cells have one blank between them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._ready = file, b""

    @property
    def closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        self._file.close()

    __del__ = close  # Arrow does not say when it has read enough

    def read(self, size: int) -> bytes:
        while len(self._ready) < size and (lines := self._file.readlines(size)):
            self._ready += squeezed(b"".join(lines))
        taken, self._ready = self._ready[:size], self._ready[size:]
        return taken


def _nulls(dialect: CsvDialect) -> list[str]:
    """Arrow's own marks, and those of the dialect with and without a blank beside them."""
    edges = [(before, behind) for before in ("", " ") for behind in ("", " ")]
    mine = [f"{before}{mark}{behind}" for mark in dialect.nulls for before, behind in edges]
    return [*pa.csv.ConvertOptions().null_values, *mine]


class _Seen(NamedTuple):
    """What came of reading a whole file: the column that does not fit its type, or none.

    `giants` are the columns of floats that hold more than int64 does.
    """

    misfit: str | None
    kind: str
    cell: str
    giants: list[str]


def _look(path: Path, dialect: CsvDialect, types: Mapping[str, str]) -> _Seen:
    return _Seen(*look(read_through, path, dialect.to_mapping(), types))


def read_through(path: Path, dialect: Mapping[str, Any], types: Mapping[str, str]) -> _Seen:
    """Read a file to its end, or to the first cell that does not fit its column.

    Columns that `types` does not name have the type that Arrow guesses from the first block.

    Raises:
        pyarrow.ArrowInvalid: a row has more or fewer cells than the header.
    """
    chosen = CsvDialect.of(dialect)
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
        floats = [k for k, kind in enumerate(opened.schema.types) if pa.types.is_floating(kind)]
        try:
            for batch in opened:
                giants.update(names[k] for k in floats if reaches_int64(batch.column(k)))
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
