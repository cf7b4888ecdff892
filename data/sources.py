"""Where rows come from: files here or elsewhere, a database, a table in memory.

Rows come in a fixed order and more than once. Files of one source have the same columns, or
the source is refused. What a source is called shows no secret.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.cells import rows_within, value_type
from data.content import content_digest
from data.contract import ROW_ID, SpecError, hint
from data.csv_dialect import CsvDialect
from data.databases import Answer, is_database
from data.embedded import begins_with_pictures, pictures_in, unpacked
from data.files import file_reader
from data.folders import folder_readers, is_many
from data.formats import Opened, Reader, Reading, SourceError
from data.pixel_columns import gathered
from data.publication import digest_of
from data.remote import SCHEMES, Remote, remote
from data.streamed import streamed_readers

BATCH_ROWS = 131_072
BATCH_BYTES = 128 << 20
MAX_CELL_BYTES = 1 << 20
NAMED_FILES = 10  # of those that differ


@dataclass(frozen=True)
class Source:
    """Rows in a fixed order, from one reader or several that follow each other.

    `known_digest` identifies what is read where that can be told without reading it.
    """

    describe: str
    find: Callable[[], tuple[Reader, ...]]
    known_digest: str | None = None

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """The files, in order; remote ones are fetched now."""
        return tuple(map(_gathered, self.find()))

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns, as all files have them; no dictionaries, no large strings.

        Raises:
            SourceError: a file is damaged, names a column twice, or has other columns than
                the first; names every such file.
        """
        return _agreed_schema(self.describe, self.readers)

    @property
    def csv(self) -> CsvDialect | None:
        """The dialect of its first file, if it is text."""
        return self.readers[0].opened.csv

    @cached_property
    def digest(self) -> str:
        """The sha256 of what is read, names of files included: has it changed?"""
        if self.known_digest is not None:
            return self.known_digest
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
        schema = self.schema
        stream = (
            batch for reader in self.readers for batch in _plain(reader, schema, row_id=row_id)
        )
        return rebatched(stream, rows or min(BATCH_ROWS, rows_within(schema, BATCH_BYTES)))


def open_source(
    source: str | Path | Any, *, query: str | None = None, reading: Reading | None = None
) -> Source:
    """Open what a spec calls a source, or anything that Arrow, pandas or Polars calls a table.

    Args:
        source: a file, a folder, a glob, an https:// or s3:// URL, the URL of a database, or
            a table.
        query: what to ask a database.
        reading: what is known of how it is written; the rest is detected.

    Raises:
        SourceError: nothing is there, or it cannot be read; says which file and the way out.
    """
    reading = reading or Reading()
    if not isinstance(source, str | Path):
        table = _table_reader(source, reading)
        return Source("the table given", lambda: (table,))
    where = str(source)
    if is_database(where):
        answer = Answer(where, query)
        rows = Reader("row", answer.open, answer.digest)
        return Source(answer.describe, lambda: (rows,))
    if query is not None:
        raise SpecError(f"{where} is no database; a query needs one, as in sqlite:///file.db")
    if where.startswith(SCHEMES):
        found = remote(where)
        return Source(found.where, lambda: _remote_readers(found, reading), found.digest)
    if "://" in where and not where.startswith("file://"):
        raise SourceError(
            f"{where.partition('://')[0]}:// is no scheme that we read; known: s3, https, "
            f"sqlite, duckdb, postgresql, file"
        )
    where = where.removeprefix("file://")
    readers = _readers(where, reading)
    return Source(where, lambda: readers)


def _gathered(reader: Reader) -> Reader:
    """The same file, whose columns of pixels are one of pictures."""
    return replace(reader, open=lambda: gathered(reader.opened, reader.name))


def _readers(where: str, reading: Reading) -> tuple[Reader, ...]:
    if is_many(where):
        return folder_readers(where, reading)
    path = Path(where)
    if not path.exists():
        raise SourceError(f"{path} does not exist; the working folder is {Path.cwd()}")
    return (file_reader(path, reading),)


def _remote_readers(found: Remote, reading: Reading) -> tuple[Reader, ...]:
    readers = streamed_readers(found)
    if readers and not begins_with_pictures(readers[0].opened):
        return readers
    return _fetched_readers(found, reading)  # pictures are all looked at before one is a row


def _fetched_readers(fetched: Remote, reading: Reading) -> tuple[Reader, ...]:
    """The readers of files that were fetched; their errors name the place they came from."""

    @contextmanager
    def renamed() -> Iterator[None]:
        try:
            yield
        except SourceError as error:
            told = str(error).replace(str(fetched.folder), fetched.base)
            raise SourceError(told) from None

    def opener(reader: Reader) -> Callable[[], Opened]:
        def read(opened: Opened) -> Iterator[pa.RecordBatch]:
            with renamed():
                yield from opened.read()

        def open_renamed() -> Opened:
            with renamed():
                opened = reader.open()
            return opened._replace(read=lambda: read(opened))

        return open_renamed

    with renamed():
        readers = _readers(fetched.local(), reading)
    return tuple(replace(reader, open=opener(reader)) for reader in readers)


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


def _plain(reader: Reader, schema: pa.Schema, *, row_id: bool) -> Iterator[pa.RecordBatch]:
    """Read with every cell decoded by value: two files may have two dictionaries."""
    start = 0
    for batch in reader.read():
        plain = batch.select(schema.names).cast(schema)
        _refuse_giant_cells(reader, plain)
        if row_id:
            positions = pa.array(np.arange(start, start + len(batch))).cast(pa.string())
            ids = pc.binary_join_element_wise(pa.scalar(reader.name), positions, ":")
            plain = plain.append_column(ROW_ID, ids)
        start += len(batch)
        yield plain


def _refuse_giant_cells(reader: Reader, batch: pa.RecordBatch) -> None:
    for field, cells in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_string(field.type) or pa.types.is_binary(field.type):
            longest = pc.max(pc.binary_length(cells)).as_py() or 0
            if longest > MAX_CELL_BYTES:
                raise SourceError(
                    f"{reader.name}: column {field.name!r} has a cell of {longest:,} bytes; "
                    f"the limit is {MAX_CELL_BYTES:,}: leave the column out, or shorten it"
                )


def _agreed_schema(describe: str, readers: tuple[Reader, ...]) -> pa.Schema:
    for reader in readers:
        names = reader.schema.names
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise SourceError(
                f"{_named(describe, reader)} has columns that share a name: {twice}; rename them"
            )
        if any("\0" in name for name in names):
            raise SourceError(
                f"{_named(describe, reader)} has a NUL in a column's name; rename it"
            )
        if not names:
            raise SourceError(f"{_named(describe, reader)} has no columns")
    types: dict[str, pa.DataType] = {}
    for reader in readers:
        for field in reader.schema:
            if pa.types.is_null(types.get(field.name, pa.null())):
                types[field.name] = value_type(field.type)
    first = readers[0].schema
    differing = {reader.name: _differences(reader.schema, first, types) for reader in readers}
    differing = {name: found for name, found in differing.items() if found}
    if differing:
        lines = [f"{name}: {'; '.join(found)}" for name, found in differing.items()]
        more = ["..."] if len(lines) > NAMED_FILES else []
        raise SourceError(
            f"{describe}: {len(lines)} of {len(readers)} files have other columns than "
            f"{readers[0].name}:\n  " + "\n  ".join([*lines[:NAMED_FILES], *more]) + "\n"
            "Write all files alike; a missing column is not filled with nulls."
        )
    # Nullable, whatever a file promises of itself: an Arrow file is not held to it.
    fields = [
        field.with_type(types[field.name]).with_nullable(nullable=True) for field in first
    ]
    return pa.schema(fields, metadata=first.metadata)


def _differences(
    schema: pa.Schema, first: pa.Schema, types: Mapping[str, pa.DataType]
) -> list[str]:
    """What one file has otherwise than the first; a column that is all null has any type."""
    mine, theirs = dict.fromkeys(schema.names), dict.fromkeys(first.names)
    found = [f"no column {name!r}, {hint(name, mine)}" for name in theirs if name not in mine]
    for field in schema:
        kind = value_type(field.type)
        if field.name not in theirs:
            found.append(f"one more column {field.name!r}")
        elif kind != types[field.name] and not pa.types.is_null(kind):
            found.append(f"column {field.name!r} is {kind}, not {types[field.name]}")
    return found


def _named(describe: str, reader: Reader) -> str:
    """What an error calls a file: with its folder, unless it is the source itself."""
    return describe if describe.endswith(reader.name) or reader.name == "row" else reader.name


def _table_reader(table: Any, reading: Reading) -> Reader:
    if not hasattr(table, "__arrow_c_stream__"):
        raise SourceError(
            f"a {type(table).__name__} is no source; give a path, or a pyarrow, pandas or "
            f"Polars table"
        )
    whole = pa.table(table)
    rows = Opened(whole.schema, lambda: iter(whole.to_batches()))
    place = "the table given"
    pictures = pictures_in(rows.read(), place, reading.sizes, may_scale=reading.may_scale)
    opened = unpacked(rows, pictures, place)
    return Reader("row", lambda: opened, lambda: content_digest(whole))
