"""JSON Lines as a table: one object a line; a column's type is what holds the cells of all lines.

Integers that int64 cannot hold would become rounded floats on the way: a column that has one is
refused. The reader follows brackets by recursion, and deep ones end its process: files are read
by a child first (`data.quarantine`).
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.json

from data.cells import BEYOND_INT64, reaches_int64
from data.formats import READ_BYTES, READ_ROWS, Opened, SourceError, whole_batches


def open_json_lines(path: Path) -> Opened:
    """Open JSON Lines.

    Raises:
        SourceError: there are no lines, or a column holds integers beyond int64.
    """
    schema: pa.Schema = None
    for block in _line_blocks(path):
        found = pa.json.read_json(pa.BufferReader(block))
        _refuse_giant_integers(path, found, block)
        schema = found.schema if schema is None else _unified(schema, found.schema)
    if schema is None:
        raise SourceError(f"{path} has no rows; there is nothing to learn from")

    def read() -> Iterator[pa.RecordBatch]:
        options = pa.json.ParseOptions(explicit_schema=schema)
        for block in _line_blocks(path):
            table = pa.json.read_json(pa.BufferReader(block), parse_options=options)
            yield from whole_batches(table.to_batches(max_chunksize=READ_ROWS))

    return Opened(schema, read)


def _unified(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    return pa.unify_schemas([one, other], promote_options="permissive")


def _line_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while lines := file.readlines(READ_BYTES):
            block = b"".join(lines)
            if block.strip():
                yield block


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
