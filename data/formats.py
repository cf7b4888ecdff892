"""One reader per file format: a schema, rows in file order, and clear errors.

Text formats have no types of their own. Theirs are found by reading the whole file once and
widening where a later row asks for it (integer, then float, then text), so that what a column
is does not depend on where the first odd value stands.
"""

import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from data.cells import rows_within
from data.publication import file_digest

READ_BYTES = 16 << 20
READ_ROWS = 65_536
WIDER = {"null": "int64", "int64": "double"}  # anything else widens to string


class SourceError(ValueError):
    """A source is missing, empty, damaged, or of a format that we do not read."""


@dataclass(frozen=True)
class Reader:
    """One file, or one table in memory, that can be read any number of times."""

    name: str
    schema: pa.Schema
    read: Callable[[], Iterator[pa.RecordBatch]]
    digest: Callable[[], str]


def open_file(path: Path) -> Reader:
    """Open a file by its suffix.

    Raises:
        SourceError: the suffix is unknown, or the file cannot be read as what it says it is.
    """
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        raise SourceError(
            f"{path} is of no known format; known suffixes: {', '.join(sorted(OPENERS))}"
        )
    if path.stat().st_size == 0:
        raise SourceError(f"{path} is empty (0 bytes); write it again")
    with as_source_error(path):
        schema, read = opener(path)

    def guarded() -> Iterator[pa.RecordBatch]:
        with as_source_error(path):
            yield from read()

    return Reader(path.name, schema, guarded, lambda: file_digest(path))


@contextmanager
def as_source_error(path: Path) -> Iterator[None]:
    """Turn a reader's complaint into one that names the file and shows no values."""
    try:
        yield
    except SourceError:
        raise
    except (pa.ArrowException, OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"{path} cannot be read: {_without_values(error)}; "
            f"it is damaged, cut short, or not what its suffix says: write it again"
        ) from None


Opened = tuple[pa.Schema, Callable[[], Iterator[pa.RecordBatch]]]


def _open_parquet(path: Path) -> Opened:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow

    rows = min(READ_ROWS, rows_within(schema, READ_BYTES))

    def read() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield from file.iter_batches(batch_size=rows)

    return schema, read


def _open_arrow(path: Path) -> Opened:
    def read() -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(path)) as source:
            yield from _arrow_batches(source)

    with pa.memory_map(str(path)) as source:
        schema = _arrow_reader(source).schema
    return schema, read


def _arrow_reader(source: Any) -> Any:
    if source.read_at(6, 0) == b"ARROW1":
        return pa.ipc.open_file(source)
    return pa.ipc.open_stream(source)


def _arrow_batches(source: Any) -> Iterator[pa.RecordBatch]:
    reader = _arrow_reader(source)
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = iter(reader)
    for batch in batches:
        batch.validate(full=True)  # IPC is not checked by default, and may come from anyone
        yield batch


def _open_csv(path: Path) -> Opened:
    with path.open("rb") as file:
        first_line = file.readline()
    parse = pa.csv.ParseOptions(delimiter=_delimiter(first_line), newlines_in_values=True)
    types: dict[str, pa.DataType] = {}

    def reader() -> Any:
        return pa.csv.open_csv(
            path,
            read_options=pa.csv.ReadOptions(block_size=READ_BYTES),
            parse_options=parse,
            convert_options=pa.csv.ConvertOptions(
                column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )

    while (column := _first_misfit(reader, types)) is not None:
        types[column] = pa.type_for_alias(WIDER.get(str(types[column]), "string"))
    with reader() as opened:
        schema = opened.schema
    for field in schema:
        if pa.types.is_binary(field.type):
            raise SourceError(f"{path}: column {field.name!r} is not UTF-8; convert the file")
    return schema, lambda: iter(reader())


def _first_misfit(reader: Callable[[], Any], types: dict[str, pa.DataType]) -> str | None:
    """Read the whole file; return the column whose type does not fit, if there is one."""
    with reader() as opened:
        types.update(zip(opened.schema.names, opened.schema.types, strict=True))
        try:
            for _ in opened:
                pass
        except pa.ArrowInvalid as error:
            found = re.search(r"In CSV column #(\d+).*conversion error", str(error))
            if found is None:
                raise
            return str(opened.schema.names[int(found[1])])
    return None


def _delimiter(header: bytes) -> str:
    text = header.decode("utf-8", "replace")
    return max(",;\t|", key=lambda candidate: (text.count(candidate), candidate == ","))


def _open_json_lines(path: Path) -> Opened:
    schema: pa.Schema = None
    for block in _line_blocks(path):
        found = pa.json.read_json(pa.BufferReader(block)).schema
        schema = found if schema is None else _unified(schema, found)
    if schema is None:
        raise SourceError(f"{path} has no rows; there is nothing to learn from")

    def read() -> Iterator[pa.RecordBatch]:
        options = pa.json.ParseOptions(explicit_schema=schema)
        for block in _line_blocks(path):
            table = pa.json.read_json(pa.BufferReader(block), parse_options=options)
            yield from table.to_batches(max_chunksize=READ_ROWS)

    return schema, read


def _unified(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    return pa.unify_schemas([one, other], promote_options="permissive")


def _line_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while lines := file.readlines(READ_BYTES):
            block = b"".join(lines)
            if block.strip():
                yield block


def _open_npy(path: Path) -> Opened:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.names:
        return _columns({name: array[name] for name in array.dtype.names}, path)
    return _columns({"image" if _is_image(array) else "x": array}, path)


def _open_npz(path: Path) -> Opened:
    with np.load(path, allow_pickle=False) as archive:
        return _columns({name: archive[name] for name in archive.files}, path)


def _columns(arrays: dict[str, np.ndarray], path: Path) -> Opened:
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise SourceError(f"{path} holds arrays of different lengths {lengths}; one row each")

    def batch(start: int, stop: int) -> pa.RecordBatch:
        cells = {name: _cells(array[start:stop]) for name, array in arrays.items()}
        schema = pa.schema(
            pa.field(name, column.type, metadata=_shape_metadata(arrays[name]))
            for name, column in cells.items()
        )
        return pa.record_batch(list(cells.values()), schema=schema)

    total, schema = next(iter(lengths.values())), batch(0, 0).schema
    rows = min(READ_ROWS, rows_within(schema, READ_BYTES))

    def read() -> Iterator[pa.RecordBatch]:
        for start in range(0, total, rows):
            yield batch(start, min(start + rows, total))

    return schema, read


def _cells(array: np.ndarray) -> pa.Array:
    """One Arrow cell per row: a scalar, the bytes of an image, or a list of fixed length."""
    if array.ndim == 1:
        return pa.array(array)
    flat = np.ascontiguousarray(array).reshape(len(array), int(np.prod(array.shape[1:])))
    if flat.dtype == np.bool_:
        flat = flat.view(np.uint8)
    if flat.dtype == np.uint8:
        kind = pa.binary(flat.shape[1])
        return pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def _is_image(array: np.ndarray) -> bool:
    return array.ndim in (3, 4)


def _shape_metadata(array: np.ndarray) -> dict[str, str] | None:
    return {"image_shape": str(list(array.shape[1:]))} if _is_image(array) else None


def _without_values(error: Exception) -> str:
    """The first line of a message, without the cells that Arrow quotes at its end."""
    line = str(error).partition("\n")[0]
    return re.split(r": invalid value|(?<=got \d):|(?<=got \d\d):", line)[0].rstrip(".")


OPENERS: dict[str, Callable[[Path], Opened]] = {
    ".parquet": _open_parquet,
    ".csv": _open_csv,
    ".tsv": _open_csv,
    ".arrow": _open_arrow,
    ".feather": _open_arrow,
    ".jsonl": _open_json_lines,
    ".ndjson": _open_json_lines,
    ".npy": _open_npy,
    ".npz": _open_npz,
}
