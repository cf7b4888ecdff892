"""What a table says, as one digest: not how it is chunked, encoded or stored.

Two tables have the same digest exactly when they have the same columns (names, order, types)
and the same cells. Chunks, offsets of slices, dictionaries and the bytes that lie under a
null make no difference.
"""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.cells import value_type


class ContentDigest:
    """The sha256 of typed content, fed batch by batch."""

    def __init__(self, schema: pa.Schema) -> None:
        self._columns = [_Cells(value_type(kind)) for kind in schema.types]
        self._names = [f"{field.name}\0{value_type(field.type)}\n" for field in schema]
        self.rows = 0

    def add(self, table: pa.Table | pa.RecordBatch) -> None:
        """Add the rows of `table`, whose schema must be the one announced."""
        for cells, column in zip(self._columns, table.columns, strict=True):
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                cells.add(chunk)
        self.rows += len(table)

    def hexdigest(self) -> str:
        """Return the digest of everything added so far."""
        whole = hashlib.sha256(str(self.rows).encode())
        for name, cells in zip(self._names, self._columns, strict=True):
            whole.update(name.encode())
            whole.update(cells.digest())
        return whole.hexdigest()


def content_digest(table: pa.Table) -> str:
    """Return the digest of a whole table."""
    digest = ContentDigest(table.schema)
    digest.add(table)
    return digest.hexdigest()


class _Cells:
    """Where the nulls are, how long the cells are, and what is in them; each its own hash.

    Three hashes, because the bytes of one batch must follow those of the batch before it.
    """

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._nulls = hashlib.sha256()
        self._lengths = hashlib.sha256()
        self._values = hashlib.sha256()
        self._inner = [_Cells(value_type(inner)) for inner in _inner_types(kind)]

    def add(self, array: pa.Array) -> None:
        kind = self._kind
        array = array.cast(kind)
        self._nulls.update(array.is_null().to_numpy(zero_copy_only=False))
        if array.null_count:
            array = array.drop_null()
        if pa.types.is_nested(kind):
            self._add_nested(array)
        elif pa.types.is_string(kind) or pa.types.is_binary(kind):
            self._lengths.update(pc.binary_length(array).to_numpy())
            _, offsets, values = array.buffers()
            ends = np.frombuffer(offsets, np.int32)[
                array.offset : array.offset + len(array) + 1
            ]
            if len(array) and values is not None:
                self._values.update(values[int(ends[0]) : int(ends[-1])])
        elif not pa.types.is_null(kind):
            self._values.update(_fixed_width_bytes(array))

    def _add_nested(self, array: pa.Array) -> None:
        if pa.types.is_struct(self._kind):
            parts = array.flatten()
        else:
            self._lengths.update(pc.list_value_length(array).to_numpy())
            parts = [array.flatten()]
        for cells, part in zip(self._inner, parts, strict=True):
            cells.add(part)

    def digest(self) -> bytes:
        whole = hashlib.sha256()
        for part in (self._nulls, self._lengths, self._values):
            whole.update(part.digest())
        for inner in self._inner:
            whole.update(inner.digest())
        return whole.digest()


def _inner_types(kind: pa.DataType) -> list[pa.DataType]:
    if pa.types.is_struct(kind):
        return [kind.field(index).type for index in range(kind.num_fields)]
    return [kind.value_type] if pa.types.is_nested(kind) else []


def _fixed_width_bytes(array: pa.Array) -> memoryview:
    if pa.types.is_boolean(array.type):
        return memoryview(array.to_numpy(zero_copy_only=False))
    width = array.type.bit_width // 8
    values = array.buffers()[1]
    start = array.offset * width
    return memoryview(values or b"")[start : start + len(array) * width]
