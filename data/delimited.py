"""CSV and its kin: how the bytes are to be read, found out once; and what type each column has.

A CSV file has no types of its own. Theirs are found by reading the whole file once and
widening where a later row asks for it (integer, then float, then text), so that what a column
is does not depend on where the first odd value stands. Integers that int64 cannot hold would
become rounded floats on the way: such a column is refused unless its type is declared.
"""

import codecs
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data.cells import reaches_int64
from data.contract import CsvDialect, SpecError, refuse_unknown
from data.formats import Opened, Reading, SourceError
from data.quarantine import look

WIDER = {"null": "int64", "int64": "double"}  # anything else widens to string
BLOCK_BYTES = 4 << 20  # whose types Arrow guesses, and where the decimal mark is looked for
SAMPLE_BYTES = 64 << 10  # that the delimiter is told by
DELIMITERS = ",;\t|"
TEXTS, FLOATS = ("string", "large_string"), ("double", "float")  # types that may be declared
QUOTED = re.compile(r'"[^"]*"')
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


def found_dialect(path: Path, given: Mapping[str, str]) -> tuple[CsvDialect, frozenset[str]]:
    """Return the dialect of a file, and which of its properties the file leaves no doubt of.

    What is given is taken as it is.

    Raises:
        SpecError: a given property is unknown.
    """
    refuse_unknown(given, [field.name for field in fields(CsvDialect)], where="csv")
    try:
        codecs.lookup(given.get("encoding", "utf-8"))
    except LookupError as error:
        raise SpecError(f"csv.encoding: {error}") from None
    encoding, certain = (given["encoding"], True) if "encoding" in given else _encoding(path)
    sure = {"encoding"} if certain else set()
    with path.open("rb") as file:
        start = file.read(BLOCK_BYTES)
    lines = QUOTED.sub("", start[:SAMPLE_BYTES].decode(encoding, "replace")).splitlines()
    delimiter = given.get("delimiter") or _delimiter(lines)
    if lines and delimiter in lines[0]:
        sure.add("delimiter")
    decimal = given.get("decimal") or _decimal(start.decode(encoding, "replace"), delimiter)
    if decimal is not None:
        sure.add("decimal")
    return CsvDialect(encoding, delimiter, decimal or "."), frozenset(sure)


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


def _encoding(path: Path) -> tuple[str, bool]:
    """Return UTF-8 or UTF-16 where the bytes are that, else a one-byte encoding.

    Plain ASCII is UTF-8 without being sure: any encoding may turn up in a later file.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", True
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8", True
    if start and start.count(0) > len(start) // 4:  # every other byte of Latin text is 0
        return (
            "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
        ), True
    decoder, is_ascii, has_controls = codecs.getincrementaldecoder("utf-8")(), True, False
    is_utf8 = True
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            is_ascii = is_ascii and block.isascii()
            if not is_ascii and is_utf8:
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    is_utf8 = False
            has_controls = has_controls or re.search(rb"[\x80-\x9f]", block) is not None
            if not is_utf8 and has_controls:
                break
    if is_utf8:
        return "utf-8", not is_ascii
    return ("cp1252" if has_controls else "latin-1"), True


def _delimiter(lines: list[str]) -> str:
    """The mark that every line has equally often; else the one that the header has most."""
    header, rest = (lines[0], lines[1:-1]) if lines else ("", [])

    def rank(mark: str) -> tuple[bool, int]:
        count = header.count(mark)
        return bool(count) and all(line.count(mark) == count for line in rest), count

    return max(DELIMITERS, key=rank)


def _decimal(text: str, delimiter: str) -> str | None:
    """The mark before the fraction of numbers, if there is a number that has one."""
    if delimiter == ",":
        return None
    edge, blanks = re.escape(delimiter), "" if delimiter == " " else " *"
    cell = rf'(?:^|{edge})"?{blanks}[+-]?\d+%s\d+{blanks}"?(?={edge}|\r?$)'
    counts = {
        mark: sum(1 for _ in re.finditer(cell % re.escape(mark), text, re.MULTILINE))
        for mark in ",."
    }
    best = max(",.", key=lambda mark: counts[mark])
    return best if counts[best] else None


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
