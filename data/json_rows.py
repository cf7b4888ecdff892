"""JSON as a table: one object a line, or an array of objects; a column has the type of all cells.

Integers that int64 cannot hold would become rounded floats on the way: a column that has one is
refused. The reader follows brackets by recursion, and deep ones end its process: files are read
by a child first (`data.quarantine`).
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.json

from data.cells import BEYOND_INT64, reaches_int64
from data.formats import READ_BYTES, READ_ROWS, Opened, SourceError, whole_batches
from data.packed import unpacked

SCALAR, TYPE = "(?:string|number|boolean)", r"(?:string|double|int64|bool|timestamp\S*)"
MIXED = re.compile(  # in a block, or between two
    rf"Column\(/(.+)\) changed from {SCALAR} to {SCALAR}|"
    rf"Field (.+) has incompatible types: {TYPE} vs {TYPE}"
)
LONGEST = 16 << 20  # of objects, in characters
BETWEEN = re.compile(r"[\s,]*")  # objects of an array
WANTED = "write one object a line, or an array of objects (pandas: orient='records')"


def open_json(path: Path) -> Opened:
    """Open JSON Lines, or an array of objects.

    Raises:
        SourceError: there are no rows, there is something else, or a column holds integers
            beyond int64.
    """
    _refuse_one_object(path)
    texts = frozenset[str]()
    while (found := _seen(path, texts)).mixed is not None:
        texts |= {found.mixed}
    if found.schema is None:
        raise SourceError(f"{path} has no rows; there is nothing to learn from")

    def read() -> Iterator[pa.RecordBatch]:
        options = pa.json.ParseOptions(explicit_schema=found.schema)
        for block in _blocks(path):
            table = pa.json.read_json(_written(block, texts), parse_options=options)
            yield from whole_batches(table.to_batches(max_chunksize=READ_ROWS))

    return Opened(found.schema, read)


class _Seen(NamedTuple):
    """The columns of all rows; or one whose cells are text in some rows and numbers in others."""

    schema: pa.Schema | None
    mixed: str | None = None


def _seen(path: Path, texts: frozenset[str]) -> _Seen:
    """Read a file to its end, or to a cell of another kind than those before it."""
    known = pa.schema([(name, pa.string()) for name in sorted(texts)])
    options = pa.json.ParseOptions(explicit_schema=known)
    schema: pa.Schema | None = None
    for block in _blocks(path):
        try:
            found = pa.json.read_json(_written(block, texts), parse_options=options)
            whole = found.schema if schema is None else _unified(schema, found.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            changed = MIXED.search(str(error))
            if changed is None or {*changed.groups()} <= texts | {None}:
                raise
            return _Seen(None, changed[1] or changed[2])
        _refuse_giant_integers(path, found, block)
        schema = whole
    return _Seen(schema)


def _written(block: bytes, texts: frozenset[str]) -> pa.BufferReader:
    """What Arrow reads: the cells of some columns as text, as they would be in a CSV."""
    if texts:
        rows = [json.loads(line) for line in block.splitlines() if line.strip()]
        for row in rows:
            for name in texts & row.keys():
                if not isinstance(row[name], str | None):
                    row[name] = json.dumps(row[name])
        block = "\n".join(map(json.dumps, rows)).encode()
    return pa.BufferReader(block)


def _unified(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    return pa.unify_schemas([one, other], promote_options="permissive")


def _refuse_one_object(path: Path) -> None:
    """Refuse an object over many lines, or of columns: neither is rows."""
    with unpacked(path) as file:
        line, more = file.readline(READ_BYTES).strip(), file.read(1)
    if not line.startswith(b"{"):
        return
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        is_open = len(line) < READ_BYTES
    except ValueError:  # no text: the reader says where
        return
    else:
        is_open = not more and any(isinstance(cell, dict) for cell in found.values())
    if is_open:
        raise SourceError(f"{path} begins with an object that is no row; {WANTED}")


def _blocks(path: Path) -> Iterator[bytes]:
    """Objects, one a line."""
    with unpacked(path) as file:
        is_array = file.read(READ_ROWS).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
    return _array_blocks(path) if is_array else _line_blocks(path)


def _line_blocks(path: Path) -> Iterator[bytes]:
    with unpacked(path) as file:
        while lines := file.readlines(READ_BYTES):
            block = b"".join(lines)
            if block.strip():
                yield block


def _array_blocks(path: Path) -> Iterator[bytes]:
    """Cut an array into its objects, on a line each: no string has a line break as it is."""
    scan = json.JSONDecoder().raw_decode
    with io.TextIOWrapper(unpacked(path), "utf-8-sig") as text:
        left = text.read(READ_ROWS).lstrip()[1:]
        while True:
            lines, place = [], _next(left, 0)
            while left[place : place + 1] == "{":
                try:
                    _, end = scan(left, place)
                except json.JSONDecodeError:
                    break
                lines.append(re.sub(r"[\r\n]", " ", left[place:end]))
                place = _next(left, end)
            if lines:
                yield "\n".join([*lines, ""]).encode()
            left = left[place:]
            if left[:1] not in ("", "{"):
                break
            more = text.read(READ_BYTES)
            if not more or len(left) > LONGEST:
                raise SourceError(f"{path} has an object without an end; {WANTED}")
            left += more
        if left[0] != "]" or (left[1:] + text.read(1)).strip():
            raise SourceError(f"{path} is no array of objects alone; {WANTED}")


def _next(text: str, place: int) -> int:
    """Where the next object begins, if one does."""
    found = BETWEEN.match(text, place)
    assert found is not None, "it matches nothing at all, too"
    return found.end()


def _refuse_giant_integers(path: Path, table: pa.Table, block: bytes) -> None:
    large = {
        field.name
        for field in table.schema
        if pa.types.is_floating(field.type) and reaches_int64(table[field.name])
    }
    if not large:
        return
    for line in block.splitlines():
        cells = json.loads(line) if line.strip() else {}
        for name in sorted(large & cells.keys()):
            if isinstance(cells[name], int) and not -BEYOND_INT64 <= cells[name] < BEYOND_INT64:
                raise SourceError(
                    f"{path}: column {name!r} holds integers beyond int64, which a float would "
                    f"round; keep them as text, in quotes"
                )
