"""Where rows come from: a file, or a table in memory, read in order and more than once."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.cells import rows_within, value_type
from data.content import content_digest
from data.contract import ROW_ID
from data.formats import Reader, SourceError, open_file
from data.publication import digest_of

BATCH_ROWS = 131_072
BATCH_BYTES = 128 << 20


@dataclass(frozen=True)
class Source:
    """Rows in a fixed order, from one reader or several that follow each other."""

    describe: str
    readers: tuple[Reader, ...]

    @property
    def schema(self) -> pa.Schema:
        """The columns, as the first file has them; no dictionaries, no large strings."""
        return _plain_schema(self.readers[0].schema)

    @cached_property
    def digest(self) -> str:
        """The sha256 of what is read, names of files included: has it changed?"""
        return digest_of([[reader.name, reader.digest()] for reader in self.readers])

    def batches(
        self, rows: int | None = None, *, row_id: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order, `rows` at a time (fewer only at the end).

        Without `rows`, as many as take a moderate amount of memory.

        With `row_id` there is one more column, made of file name and position.

        Raises:
            SourceError: a file turns out to be damaged.
        """
        stream = (batch for reader in self.readers for batch in _plain(reader, row_id=row_id))
        return rebatched(stream, rows or min(BATCH_ROWS, rows_within(self.schema, BATCH_BYTES)))


def open_source(source: str | Path | Any) -> Source:
    """Open a data file, or anything that Arrow, pandas or Polars calls a table.

    Raises:
        SourceError: nothing is there, or it cannot be read; says which file and the way out.
    """
    if not isinstance(source, str | Path):
        reader = _table_reader(source)
        where = "the table given"
    else:
        path = Path(source)
        if not path.exists():
            raise SourceError(f"{path} does not exist; the working folder is {Path.cwd()}")
        if path.is_dir():
            raise SourceError(f"{path} is a folder; name a file in it")
        reader, where = open_file(path), str(source)
    names = reader.schema.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SourceError(f"{where} has columns that share a name: {twice}; rename them")
    if not names:
        raise SourceError(f"{where} has no columns")
    return Source(where, (reader,))


def rebatched(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Cut a stream of batches anew: the same rows in the same order, `rows` at a time."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= rows:
            whole = _joined(waiting)
            yield whole.slice(0, rows)
            waiting = [whole.slice(rows)]
            count -= rows
    if count:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _plain(reader: Reader, *, row_id: bool) -> Iterator[pa.RecordBatch]:
    """Read with every cell decoded by value: two files may have two dictionaries."""
    start = 0
    for batch in reader.read():
        plain = batch.cast(_plain_schema(batch.schema))
        if row_id:
            positions = pa.array(np.arange(start, start + len(batch))).cast(pa.string())
            ids = pc.binary_join_element_wise(pa.scalar(reader.name), positions, ":")
            plain = plain.append_column(ROW_ID, ids)
        start += len(batch)
        yield plain


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    fields = [field.with_type(value_type(field.type)) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _table_reader(table: Any) -> Reader:
    if not hasattr(table, "__arrow_c_stream__"):
        raise SourceError(
            f"a {type(table).__name__} is no source; give a path, or a pyarrow, pandas or "
            f"Polars table"
        )
    whole = pa.table(table)
    return Reader(
        "row",
        whole.schema,
        lambda: iter(whole.to_batches()),
        lambda: content_digest(whole),
    )
