"""Single-cell data (.h5ad) as a table: counts per cell, and what was noted about each.

Counts are looked for in `layers/counts`, `raw/X` and `X`, in this order: the first matrix of
whole numbers is taken, as a sparse count (columns `gene_indices` and `gene_counts`, or `x`
where it is dense). A matrix that was normalized is a vector. The columns of `obs` travel
along; the index is the key. Read with h5py alone: anndata would bring scipy and zarr.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.cells import rows_within
from data.formats import READ_BYTES, Opened, SourceError, refuse_bomb

try:
    import h5py  # type: ignore[import-untyped]
except ImportError:  # the extra h5ad is not installed
    h5py = None

PLACES = ("layers/counts", "raw/X", "X")
LOOK_ROWS = 256  # where whole numbers are told from others
NOTE = {"annotation": "obs"}  # says to `data.guesses` that the column describes the row

Column = tuple[pa.Field, Any]


def open_h5ad(path: Path) -> Opened:
    """Open an annotated matrix.

    Raises:
        SourceError: h5py is missing, or the file is not what anndata writes.
    """
    if h5py is None:
        raise SourceError(
            f"reading {path} needs h5py; install it with pip install 'latent-features[h5ad]'"
        )
    with h5py.File(path) as file:
        name = _place_of_counts(path, file)
        rows, genes = _shape(file[name])
        is_sparse, is_whole = _is_sparse(file[name]), _is_whole(file[name])
        notes = _notes(path, file, rows)
        if is_sparse:
            refuse_bomb(path, 1, file[name]["data"].size * file[name]["data"].dtype.itemsize)
        else:
            refuse_bomb(path, rows, genes * file[name].dtype.itemsize)
    matrix = pa.schema(_matrix_fields(genes, is_sparse=is_sparse, is_whole=is_whole))
    schema = pa.schema([*(field for field, _ in notes), *matrix])
    step = rows_within(matrix, READ_BYTES) if not is_sparse else 4096

    def read() -> Iterator[pa.RecordBatch]:
        with h5py.File(path) as opened:
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                cells = [column[start:stop] for _, column in notes]
                cells += _cells(path, opened[name], start, stop, matrix)
                yield pa.record_batch(cells, schema=schema)

    return Opened(schema, read)


def _place_of_counts(path: Path, file: Any) -> str:
    there = [place for place in PLACES if place in file]
    if not there:
        raise SourceError(f"{path} has none of {', '.join(PLACES)}; write it with anndata")
    for place in there:
        encoding = file[place].attrs.get("encoding-type", "array")
        if encoding not in ("array", "csr_matrix"):
            raise SourceError(
                f"{path}: {place} is a {encoding}; rows must lie together: "
                f"convert it with X.tocsr()"
            )
    return next((place for place in there if _is_whole(file[place])), there[-1])


def _is_sparse(matrix: Any) -> bool:
    return isinstance(matrix, h5py.Group)


def _is_whole(matrix: Any) -> bool:
    """Whether the first rows hold whole numbers >= 0."""
    if _is_sparse(matrix):
        values = matrix["data"][: int(matrix["indptr"][: LOOK_ROWS + 1][-1])]
    else:
        values = matrix[:LOOK_ROWS]
    return bool(np.all((values >= 0) & (values == np.floor(values))))


def _shape(matrix: Any) -> tuple[int, int]:
    rows, genes = matrix.attrs["shape"] if _is_sparse(matrix) else matrix.shape
    return int(rows), int(genes)


def _matrix_fields(genes: int, *, is_sparse: bool, is_whole: bool) -> list[pa.Field]:
    if not is_sparse or not is_whole:
        entry = pa.int32() if is_whole else pa.float32()
        return [pa.field("x", pa.list_(entry, genes))]
    return [
        pa.field("gene_indices", pa.list_(pa.int32()), metadata={"length": str(genes)}),
        pa.field("gene_counts", pa.list_(pa.int32()), metadata={"length": str(genes)}),
    ]


def _cells(path: Path, matrix: Any, start: int, stop: int, schema: pa.Schema) -> list[pa.Array]:
    if not _is_sparse(matrix):
        return [_dense(path, matrix[start:stop], schema)]
    ends = matrix["indptr"][start : stop + 1].astype(np.int64)
    places = matrix["indices"][ends[0] : ends[-1]]
    values = matrix["data"][ends[0] : ends[-1]]
    offsets = (ends - ends[0]).astype(np.int32)
    if schema.names == ["x"]:
        dense = np.zeros((stop - start, schema.field("x").type.list_size), values.dtype)
        dense[np.repeat(np.arange(stop - start), np.diff(ends)), places] = values
        return [_dense(path, dense, schema)]
    return [
        pa.ListArray.from_arrays(offsets, pa.array(places.astype(np.int32))),
        pa.ListArray.from_arrays(offsets, _whole(path, values)),
    ]


def _dense(path: Path, values: np.ndarray, schema: pa.Schema) -> pa.Array:
    kind = schema.field("x").type
    flat = values.ravel()
    if kind.value_type == pa.int32():
        return pa.FixedSizeListArray.from_arrays(_whole(path, flat), kind.list_size)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(np.float32)), kind.list_size)


def _whole(path: Path, values: np.ndarray) -> pa.Array:
    try:
        return pa.array(values).cast(pa.int32())
    except pa.ArrowInvalid:
        raise SourceError(
            f"{path} begins with counts and goes on with other numbers; keep counts in "
            f"layers/counts"
        ) from None


def _notes(path: Path, file: Any, rows: int) -> list[Column]:
    """The columns of `obs`, small enough for memory: the index first, as the key."""
    obs = file["obs"]
    index = obs.attrs.get("_index", "index")
    names = [str(name) for name in obs.attrs.get("column-order", [])]
    columns = [_column("id", obs[index], {})]
    columns += [_column(name, obs[name], NOTE) for name in names if name != "id"]
    uneven = [field.name for field, cells in columns if len(cells) != rows]
    if uneven:
        raise SourceError(f"{path}: obs {uneven} have another length than the {rows:,} rows")
    return columns


def _column(name: str, stored: Any, metadata: dict[str, str]) -> Column:
    if isinstance(stored, h5py.Group) and "codes" in stored:
        codes = stored["codes"][:]
        labels = pa.array(_values(stored["categories"]))
        cells = labels.take(pa.array(codes, mask=codes < 0))
    elif isinstance(stored, h5py.Group):  # values with a mask
        cells = pa.array(_values(stored["values"]), mask=stored["mask"][:])
    else:
        cells = pa.array(_values(stored))
    return pa.field(name, cells.type, metadata=metadata), cells


def _values(stored: Any) -> Any:
    if h5py.check_string_dtype(stored.dtype) is not None:
        return stored.asstr()[:]
    return stored[:]
