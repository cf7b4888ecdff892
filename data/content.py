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
        self._columns = [_Cells() for _ in schema]
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

    def __init__(self) -> None:
        self._nulls = hashlib.sha256()
        self._lengths = hashlib.sha256()
        self._values = hashlib.sha256()
        self._inner: _Cells | None = None

    def add(self, array: pa.Array) -> None:
        kind = value_type(array.type)
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
        if pa.types.is_struct(array.type):
            parts = array.flatten()
            self._inner = self._inner or _Cells()
            for part in parts:
                self._inner.add(part)
            return
        self._lengths.update(pc.list_value_length(array).to_numpy())
        self._inner = self._inner or _Cells()
        self._inner.add(array.flatten())

    def digest(self) -> bytes:
        whole = hashlib.sha256()
        for part in (self._nulls, self._lengths, self._values):
            whole.update(part.digest())
        if self._inner is not None:
            whole.update(self._inner.digest())
        return whole.digest()


def _fixed_width_bytes(array: pa.Array) -> memoryview:
    if pa.types.is_boolean(array.type):
        return memoryview(array.to_numpy(zero_copy_only=False))
    width = array.type.bit_width // 8
    values = array.buffers()[1]
    start = array.offset * width
    return memoryview(values or b"")[start : start + len(array) * width]
