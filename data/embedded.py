"""Pictures in a column of a table: cells that hold a PNG or a JPEG become pixels.

Data sets of pictures are distributed so, in Parquet: the bytes alone, or as the field `bytes` of a
struct with a `path` beside them (Hugging Face's `datasets`). A column is one of pictures where its
first cell is; then all have to be, of one size or scaled to one. Grey where every picture is grey,
else red, green, blue; transparency is dropped.
"""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.arrays import picture_field
from data.formats import READ_BYTES, Opened
from data.picture import Common, Pictures, Size, look_at, pixels_of

BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # of a PNG and of a JPEG
FIELD = "bytes"


def may_be_pictures(schema: pa.Schema) -> list[str]:
    """The columns whose cells might be pictures, by their types."""
    named = zip(schema.names, schema.types, strict=True)
    names = [name for name, kind in named if _is_bytes(kind) or _is_file(kind)]
    return [name for name in names if schema.names.count(name) == 1]


def begins_with_pictures(opened: Opened) -> bool:
    """Whether a column has a picture in the first cell that is there, of its first batch."""
    names = may_be_pictures(opened.schema)
    batches = opened.read() if names else iter(())
    first = next(batches, None)
    if isinstance(batches, Generator):
        batches.close()
    if first is None:
        return False
    files = [_files(first[name]).drop_null() for name in names]
    return any(some[0].as_py().startswith(BEGINNINGS) for some in files if len(some))


def pictures_in(
    batches: Iterable[pa.RecordBatch],
    place: str,
    sizes: Mapping[str, Size] | None = None,
    *,
    may_scale: bool = True,
) -> dict[str, Common]:
    """Read a table to its end; say which columns are pictures, and what these become.

    Raises:
        SourceError: a picture is damaged, too large, of another size than the first where they
            may not be scaled, or none; it is called by `place`, column and row.
    """
    found: dict[str, Pictures] = {}
    others: set[str] = set()  # columns that hold something else
    row = 0
    for batch in batches:
        for name in {*may_be_pictures(batch.schema)} - others:
            for k, content in enumerate(_files(batch[name]).to_pylist()):
                if content is None:
                    continue
                if name not in found and not content.startswith(BEGINNINGS):
                    others.add(name)
                    break
                pictures = found.setdefault(name, Pictures((sizes or {}).get(name), may_scale))
                called = _called(place, name, row, k)
                pictures.add(look_at(content, called), called)
        row += len(batch)
    return {name: pictures.common() for name, pictures in found.items()}


def sizes_in(schema: pa.Schema) -> dict[str, Size]:
    """The sizes that columns of pictures were scaled to."""
    scaled = [field for field in schema if b"scaled_from" in (field.metadata or {})]
    shapes = {field.name: json.loads(field.metadata[b"image_shape"]) for field in scaled}
    return {name: (shape[0], shape[1]) for name, shape in shapes.items()}


def unpacked(opened: Opened, pictures: Mapping[str, Common], place: str) -> Opened:
    """The same table with pixels in the place of pictures."""
    if not pictures:
        return opened
    fields = [
        _field(field.name, pictures[field.name]) if field.name in pictures else field
        for field in opened.schema
    ]
    schema = pa.schema(fields, opened.schema.metadata)
    rows = max(1, READ_BYTES // sum(schema.field(name).type.byte_width for name in pictures))

    def read() -> Iterator[pa.RecordBatch]:
        first = 0
        for batch in opened.read():
            for start in range(0, len(batch), rows):
                cells = batch.slice(start, rows).columns
                for k, field in enumerate(schema):
                    if field.name in pictures:
                        called = partial(_called, place, field.name, first + start)
                        one = pictures[field.name]
                        cells[k] = _pixels(_files(cells[k]), field.type, one, called)
                yield pa.record_batch(cells, schema=schema)
            first += len(batch)

    return opened._replace(schema=schema, read=read)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_file(kind: pa.DataType) -> bool:
    is_struct = pa.types.is_struct(kind) and kind.get_field_index(FIELD) >= 0
    return bool(is_struct and _is_bytes(kind.field(FIELD).type))


def _files(column: pa.Array) -> pa.Array:
    return pc.struct_field(column, FIELD) if pa.types.is_struct(column.type) else column


def _called(place: str, column: str, first: int, k: int) -> str:
    return f"{place}: {column!r} of row {first + k + 1:,}"


def _field(name: str, one: Common) -> pa.Field:
    return picture_field(name, one.height, one.width, len(one.mode), one.scaled_from)


def _pixels(
    files: pa.Array, kind: pa.DataType, one: Common, called: Callable[[int], str]
) -> pa.Array:
    """Cells of bytes; `called` names the k-th of the files in an error."""
    pixels = np.zeros((len(files), kind.byte_width), np.uint8)
    for k, content in enumerate(files.to_pylist()):
        if content is not None:
            pixels[k] = pixels_of(content, one.mode, called(k), (one.height, one.width))
    seen = files.is_valid().buffers()[1]
    return pa.Array.from_buffers(kind, len(files), [seen, pa.py_buffer(pixels)])
