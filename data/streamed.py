"""Files that are read where they are, by ranges: Parquet and Arrow in an object store.

No copy of them is made. A child asks for the ranges that it needs and decodes them
(`data.quarantine.stream`); this process fetches them, some ahead, and gets batches of rows. A
pass over the rows reads the object once; the child sends the next batch while one is used, and
the next file is begun while one is read.

Other formats are copied first (`data.remote`): text is looked through twice before its types
are known, and arrays, pictures and HDF5 are read in any order.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data.blocks import HELD_BYTES, LEAST_BYTES, Blocks, RangeFile
from data.cells import rows_within
from data.child import ask, send
from data.files import NOTES
from data.formats import (
    READ_BYTES,
    READ_ROWS,
    Opened,
    Reader,
    SourceError,
    arrow_batches,
    arrow_schema,
    as_source_error,
    parquet_in,
    whole_batches,
)
from data.layout import format_of, is_hidden, kind_of, matches, partitions, with_partition
from data.objects import SeenObject
from data.quarantine import is_trusted, stream
from data.read_ahead import read_ahead
from data.remote import Remote

PARQUET, ARROW = ".parquet", (".arrow", ".feather")
FOOTERS_AHEAD = 8  # files whose footers are asked for before they are opened


def streamed_readers(found: Remote) -> tuple[Reader, ...]:
    """The readers of files that are read where they are; none where they have to be copied.

    Raises:
        SourceError: a file is empty, or partitioned otherwise than the first.
    """
    objects = {
        file.name: file.seen
        for file in found.files
        if file.seen is not None and _is_wanted(file.name, found)
    }
    names = [name for name in objects if kind_of(name) not in (None, *NOTES)]
    if not names or {kind_of(name) for name in names} - {PARQUET, *ARROW}:
        return ()
    format_of(found.where, names)
    names.sort(key=lambda name: name.split("/"))
    files = [_Streamed(objects[name], str(kind_of(name))) for name in names]
    for number, file in enumerate(files):
        file.following = files[number + 1 : number + 1 + FOOTERS_AHEAD]
    said = partitions(names) if found.pattern else [{}]
    return tuple(
        with_partition(Reader(name, file.open, file.identity), partition)
        for name, file, partition in zip(names, files, said, strict=True)
    )


def _is_wanted(name: str, found: Remote) -> bool:
    if not found.pattern:
        return True
    return not is_hidden(name) and (found.pattern == "." or matches(name, found.pattern))


class Layout(NamedTuple):
    """What decides how far ahead a file is read."""

    columns: int  # that are read in turn
    together_bytes: int  # how much of the file they share

    @property
    def places(self) -> int:
        """In how many places the file is read in turn; one, where all are in reach together."""
        return self.columns if self.together_bytes > HELD_BYTES // 4 else 1


FOOTER = Layout(HELD_BYTES // LEAST_BYTES, HELD_BYTES)  # the smallest blocks


class _Streamed:
    """An object of a format that is read by ranges, and those that will be read after it."""

    def __init__(self, seen: SeenObject, suffix: str) -> None:
        if seen.size == 0:
            raise SourceError(f"{seen} is empty (0 bytes); write it again")
        self.following: Sequence[_Streamed] = ()
        self._seen, self._suffix, self._layout = seen, suffix, FOOTER
        self._begun: dict[bool, Blocks] = {}  # of the footer, and of the rows

    def identity(self) -> str:
        return self._seen.identity

    def open(self) -> Opened:
        with as_source_error(str(self._seen)), closing(self._blocks(footer=True)) as blocks:
            if is_trusted():
                schema, self._layout = looked_at(*self._file(blocks))
            else:
                said, columns = stream(send_layout, str(self._seen), blocks, self._suffix)
                schema = pa.ipc.read_schema(pa.py_buffer(columns))
                self._layout = Layout(*json.loads(bytes(said)))
            schema.names  # noqa: B018  # decoded here, where the file can be named
        return Opened(schema, self._read)

    def _blocks(self, *, footer: bool) -> Blocks:
        """What the object is read from; the next objects are asked for, too."""
        for one in self.following[: None if footer else 1]:
            if footer not in one._begun:
                one._begun[footer] = one._begin(footer=footer)
        return self._begun.pop(footer, None) or self._begin(footer=footer)

    def _begin(self, *, footer: bool) -> Blocks:
        places = (FOOTER if footer else self._layout).places
        end = self._seen.size - 1
        at = (max(0, end - LEAST_BYTES), end) if footer else (0, end)
        return Blocks(self._seen.read, self._seen.size, places=places, begun_at=at)

    def _read(self) -> Iterator[pa.RecordBatch]:
        with as_source_error(str(self._seen)), closing(self._batches()) as batches:
            yield from read_ahead(batches)

    def _batches(self) -> Generator[pa.RecordBatch, None, None]:
        with closing(self._blocks(footer=False)) as blocks:
            if is_trusted():
                yield from rows_in(*self._file(blocks))
                return
            with closing(stream(send_rows, str(self._seen), blocks, self._suffix)) as sent:
                for content in sent:
                    yield from whole_batches(pa.ipc.open_stream(pa.py_buffer(content)))

    def _file(self, blocks: Blocks) -> tuple[pa.NativeFile, str, int, str]:
        ranges = RangeFile(lambda *range: b"".join(blocks.pieces(*range)), self._seen.size)
        return pa.PythonFile(ranges), str(self._seen), self._seen.size, self._suffix


def looked_at(
    file: pa.NativeFile, place: str, size: int, suffix: str
) -> tuple[pa.Schema, Layout]:
    """The columns of a file, and where it is read."""
    if suffix != PARQUET:
        return arrow_schema(file), Layout(1, 0)
    schema = parquet_in(file, place, size).schema
    whole = pq.read_metadata(file)
    return schema, Layout(whole.num_columns, size // max(1, whole.num_row_groups))


def rows_in(
    file: pa.NativeFile, place: str, size: int, suffix: str
) -> Iterator[pa.RecordBatch]:
    """The rows of a file in order, some megabytes at a time."""
    if suffix == PARQUET:
        yield from parquet_in(file, place, size).read()
        return
    for batch in arrow_batches(file):
        rows = min(READ_ROWS, rows_within(batch.schema, READ_BYTES))
        for start in range(0, len(batch), rows):
            yield batch.slice(start, rows)


def send_layout(place: str, size: int, suffix: str) -> None:
    """Of the child: send what `looked_at` says."""
    file = pa.PythonFile(RangeFile(ask, size))
    schema, layout = looked_at(file, place, size, suffix)
    send(json.dumps(layout).encode())
    send(memoryview(schema.serialize()))


def send_rows(place: str, size: int, suffix: str) -> None:
    """Of the child: send the rows, each batch as an Arrow stream of its own."""
    file = pa.PythonFile(RangeFile(ask, size))
    for batch in rows_in(file, place, size, suffix):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        send(memoryview(sink.getvalue()))
