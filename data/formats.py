"""What a reader of one file is, and the readers of Arrow's own formats.

A reader has a schema and gives its rows in file order, any number of times. Its errors name
the file and what to do, and show no values. The other formats are in `data.delimited` (CSV),
`data.json_rows`, `data.arrays` (NumPy, IDX), `data.pictures` and `data.annotated` (.h5ad);
`data.files` knows which file is which.
"""

import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data.cells import rows_within
from data.contract import SpecError
from data.csv_dialect import CsvDialect

READ_BYTES = 16 << 20
READ_ROWS = 65_536
STREAM_BYTES = 1 << 20  # of a column
STREAMS_BYTES = 128 << 20  # of all columns

FREE_BYTES = 4 << 30  # a table of this size is never taken for a bomb
MAX_EXPANSION = 1000  # times the size of the file


# What readers raise when they meet bytes that nobody wrote: found by changing bytes.
DAMAGE = (
    pa.ArrowException,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class SourceError(ValueError):
    """A source is missing, empty, damaged, or of a format that we do not read."""


@dataclass(frozen=True)
class Reading:
    """How a source is to be read, as far as that is known; the rest is detected.

    `csv` has settings of a person (see `data.csv_dialect.CsvDialect`). `frozen` is the
    dialect that the contract was made with: a file that is plainly of another is refused.
    `types` maps columns of text formats to Arrow types that are known already.

    `sizes` are the heights and widths that pictures are scaled to, by column; without one they
    are scaled as `data.picture` says, or, where they `may_scale` no more, have to be of one size.
    """

    csv: Mapping[str, Any] = field(default_factory=dict)
    frozen: CsvDialect | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    may_scale: bool = True


class Opened(NamedTuple):
    """What a file turned out to hold."""

    schema: pa.Schema
    read: Callable[[], Iterator[pa.RecordBatch]]
    csv: CsvDialect | None = None


@dataclass(frozen=True)
class Reader:
    """One file, or one table in memory, that can be read any number of times.

    It is opened when its schema or rows are asked for: its digest may be all that is needed.
    """

    name: str
    open: Callable[[], Opened]
    digest: Callable[[], str]

    @cached_property
    def opened(self) -> Opened:
        """What the file turned out to hold."""
        return self.open()

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self.opened.schema

    def read(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order."""
        return self.opened.read()


@contextmanager
def as_source_error(path: Path | str) -> Iterator[None]:
    """Turn a reader's complaint into one that names the file and shows no values."""
    try:
        yield
    except (SourceError, SpecError):
        raise
    except MemoryError:
        raise SourceError(
            f"{path} asks for more memory than there is; if it is not damaged, write it in "
            f"several files"
        ) from None
    except DAMAGE as error:
        reason = _without_values(error)
        if "Expected all lists to be of size" in reason:
            raise SourceError(
                f"{path} has a null among lists of a fixed length, which Arrow cannot read from "
                f"Parquet; write them as lists of any length"
            ) from None
        raise SourceError(
            f"{path} cannot be read: {reason}; "
            f"it is damaged, cut short, or not what its suffix says: write it again"
        ) from None


def most_unpacked(size: int) -> int:
    """How many bytes a file of `size` may hold unpacked before it is taken for a bomb."""
    return max(FREE_BYTES, MAX_EXPANSION * size)


def refuse_bomb(path: Path, rows: int, row_bytes: int) -> None:
    """Refuse a small file that says it holds a giant table, before a byte is unpacked.

    Raises:
        SourceError: more than `FREE_BYTES`, and more than `MAX_EXPANSION` times the file.
    """
    refuse_expansion(path, path.stat().st_size, rows, row_bytes)


def refuse_expansion(place: Path | str, size: int, rows: int, row_bytes: int) -> None:
    """Refuse a bomb wherever it lies.

    Raises:
        SourceError: as `refuse_bomb` does.
    """
    expanded = rows * row_bytes
    if expanded > most_unpacked(size):
        raise SourceError(
            f"{place} has {size:,} bytes and would unpack to {expanded:,} "
            f"({rows:,} rows of {row_bytes:,} bytes); if it is not a decompression bomb, "
            f"write it with less compression, or in several files"
        )


def open_parquet(path: Path) -> Opened:
    """Open a Parquet file."""
    return parquet_in(path, path, path.stat().st_size)


def parquet_in(source: Any, place: Path | str, size: int) -> Opened:
    """Open a Parquet file by its path, or by a file object that stays open."""
    with pq.ParquetFile(source) as file:
        schema, groups = file.schema_arrow, file.num_row_groups
        whole = file.metadata
        unpacked = sum(whole.row_group(i).total_byte_size for i in range(groups))
    refuse_expansion(place, size, max(whole.num_rows, 1), unpacked // max(whole.num_rows, 1))
    refuse_expansion(place, size, whole.num_rows, fixed_row_bytes(schema))
    rows = min(READ_ROWS, rows_within(schema, READ_BYTES))

    def read() -> Iterator[pa.RecordBatch]:
        # Not whole row groups at once (`pre_buffer`), which may be as large as the file.
        ahead = {"pre_buffer": False, "buffer_size": stream_bytes(whole.num_columns)}
        with pq.ParquetFile(source, page_checksum_verification=True, **ahead) as file:
            for group in range(groups):  # all at once, pyarrow 25 keeps what it has read
                yield from whole_batches(file.iter_batches(batch_size=rows, row_groups=[group]))

    return Opened(schema, read)


def stream_bytes(columns: int) -> int:
    """How much of each column is read at a time."""
    return max(4096, min(STREAM_BYTES, STREAMS_BYTES // max(1, columns)))


def fixed_row_bytes(schema: pa.Schema) -> int:
    """How much a row takes at least: what lists and text hold is not in the schema."""
    return sum(map(_fixed_bytes, schema.types))


def _fixed_bytes(kind: pa.DataType) -> int:
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _fixed_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return sum(_fixed_bytes(kind.field(i).type) for i in range(kind.num_fields))
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return 1


def open_arrow(path: Path) -> Opened:
    """Open an Arrow IPC file or stream (Feather is one)."""

    def read() -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(path)) as source:
            yield from arrow_batches(source)

    with pa.memory_map(str(path)) as source:
        return Opened(arrow_schema(source), read)


def arrow_schema(source: Any) -> pa.Schema:
    """The columns of an open Arrow file or stream."""
    return _arrow_reader(source).schema


def arrow_batches(source: Any) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an open Arrow file or stream, each checked."""
    reader = _arrow_reader(source)
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = iter(reader)
    yield from whole_batches(batches)


def whole_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Check what readers let pass: text that is no UTF-8, offsets and codes that lead nowhere."""
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _arrow_reader(source: Any) -> Any:
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    if is_file:
        return pa.ipc.open_file(source)
    return pa.ipc.open_stream(source)


def _without_values(error: Exception) -> str:
    """The first line of a message, without the cells that Arrow quotes at its end."""
    line = str(error).partition("\n")[0]
    return re.split(r": invalid value|(?<=got \d):|(?<=got \d\d):", line)[0].rstrip(".")
