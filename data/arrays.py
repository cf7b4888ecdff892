"""Arrays on disk as tables: NumPy's .npy and .npz, and IDX, the format of MNIST.

The first axis counts the rows. An array of scalars is a column of scalars; images of bytes
are cells of bytes with their shape in the field's metadata; anything else is lists of one
length. Images in an IDX file find their labels in the file beside them.
"""

import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from data.cells import rows_within
from data.formats import READ_BYTES, READ_ROWS, Opened, SourceError, refuse_bomb
from data.packed import unpacked
from data.splits import role_of

IDX_NAME = re.compile(r".*(?:idx\d[-.]ubyte|\.idx)", re.IGNORECASE)  # packed or not
MAX_HEADER_BYTES = 64 << 10
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
COLOURS = (1, 3)  # how many values a pixel has

Arrays = dict[str, np.ndarray]


def open_npy(path: Path) -> Opened:
    """Open one array; the fields of a structured one are columns.

    It is mapped, not read: NumPy compares what its header announces with the file's length.
    """
    _refuse_long_header(path)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.names:
        return _columns({name: array[name] for name in array.dtype.names}, path)
    return _columns({"image" if _is_image(array) else "x": array}, path)


def open_npz(path: Path) -> Opened:
    """Open several arrays, each a column: those of train and test rows one after the other."""
    with zipfile.ZipFile(path) as archive:
        refuse_bomb(path, 1, sum(member.file_size for member in archive.infolist()))
    with np.load(path, allow_pickle=False) as arrays:
        return _columns(_stacked({name: arrays[name] for name in arrays.files}), path)


def open_idx(path: Path) -> Opened:
    """Open an IDX file, with the labels beside it if it is called "...images..."."""
    array = _read_idx(path)
    columns = {"image" if _is_image(array) else "x" if array.ndim > 1 else "label": array}
    labels = labels_beside(path)
    if labels is not None:
        columns["label"] = _read_idx(labels)
    return _columns(columns, path)


def labels_beside(path: Path) -> Path | None:
    """Return the file of labels that belongs to a file of images, if it is there.

    "train-images-idx3-ubyte.gz" has its labels in "train-labels-idx1-ubyte.gz".
    """
    name = re.sub(r"idx3", "idx1", path.name.replace("images", "labels"))
    beside = path.with_name(name)
    return beside if name != path.name and beside.exists() else None


def _refuse_long_header(path: Path) -> None:
    """Refuse what would be read to its end before it was found to be no header."""
    with path.open("rb") as file:
        magic, version, length = file.read(6), file.read(2), file.read(4)
    if magic == np.lib.format.MAGIC_PREFIX and version > b"\x01\x00":
        header_bytes = int.from_bytes(length, "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise SourceError(
                f"{path} announces a header of {header_bytes:,} bytes; "
                f"it is damaged or hostile: write it again"
            )


def _read_idx(path: Path) -> np.ndarray:
    with unpacked(path) as file:
        zeros, code, axes = struct.unpack(">HBB", _exactly(file, 4, path))
        if zeros or code not in IDX_TYPES or not 1 <= axes <= 4:
            raise SourceError(f"{path} does not begin as an IDX file does; write it again")
        shape = struct.unpack(f">{axes}I", _exactly(file, 4 * axes, path))
        dtype = np.dtype(IDX_TYPES[code])
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        refuse_bomb(path, 1, size)
        content = _exactly(file, size, path)
        if file.read(1):
            raise SourceError(f"{path} goes on behind the {shape} that it announces")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _exactly(file: BinaryIO, size: int, path: Path) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise SourceError(f"{path} is cut short; write it again")
    return content


def _columns(arrays: Arrays, path: Path) -> Opened:
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise SourceError(f"{path} holds arrays of different lengths {lengths}; one row each")

    arrays = {name: _colours_last(array) for name, array in arrays.items()}
    empty = [name for name, a in arrays.items() if 0 in (*a.shape[1:], a.dtype.itemsize)]
    if empty:
        raise SourceError(f"{path} holds rows of no entries in {empty}; leave that out")

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

    return Opened(schema, read)


def _stacked(arrays: Arrays) -> Arrays:
    """Put the rows of each part of a data set (`x_train`, `y_train`, `x_test`, ...) below each other.

    A column `split` says which part each is of. The arrays stay as they are where their names do
    not tell parts that have the same arrays of the same shapes, or where they may as well be
    columns: numbers, as many of each.
    """
    places = {name: _part_of(name) for name in arrays}
    parts: dict[str, Arrays] = {}
    for name, (role, column) in places.items():
        parts.setdefault(role, {})[column] = arrays[name]
    shapes = [
        {name: (x.dtype, x.shape[1:]) for name, x in part.items()} for part in parts.values()
    ]
    rows = [{len(x) if x.ndim else 0 for x in part.values()} for part in parts.values()]
    are_columns = all(x.ndim == 1 for x in arrays.values()) and len(set.union(*rows)) == 1
    is_told = "train" in parts and len(parts) > 1 and "" not in parts and not are_columns
    is_one = len({*places.values()}) == len(arrays) and all(
        len(lengths) == 1 for lengths in rows
    )
    if not (is_told and is_one and all(shape == shapes[0] for shape in shapes)):
        return arrays
    whole = {
        name: np.concatenate([part[name] for part in parts.values()]) for name in shapes[0]
    }
    return whole | {"split": np.repeat([*parts], [lengths.pop() for lengths in rows])}


def _part_of(name: str) -> tuple[str, str]:
    """The part of a data set that a name begins or ends with, and the rest of it."""
    for pattern in (
        r"(?P<part>[a-zA-Z]+)(?:[_.-](?P<rest>.+))?",
        r"(?P<rest>.+)[_.-](?P<part>[a-zA-Z]+)",
    ):
        found = re.fullmatch(pattern, name)
        role = role_of(found["part"]) if found else None
        if found and role:
            return role, found["rest"] or "x"
    return "", name


def _cells(array: np.ndarray) -> pa.Array:
    """One Arrow cell per row: a scalar, the bytes of an image, or a list of fixed length."""
    if array.ndim == 1 or array.shape[1:] == (1,):
        return pa.array(array.reshape(len(array)))
    flat = np.ascontiguousarray(array).reshape(len(array), int(np.prod(array.shape[1:])))
    if flat.dtype == np.bool_:
        flat = flat.view(np.uint8)
    if flat.dtype == np.uint8:
        return byte_cells(flat)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def picture_field(
    name: str, height: int, width: int, channels: int, scaled_from: str = ""
) -> pa.Field:
    """A column of pictures: a cell of bytes for each, their shape, and what they were before."""
    shape = [height, width, *([channels] if channels > 1 else [])]
    kind = pa.binary(height * width * channels)
    said = {"scaled_from": scaled_from} if scaled_from else {}
    return pa.field(name, kind, metadata={"image_shape": str(shape), **said})


def byte_cells(flat: np.ndarray) -> pa.Array:
    """Return rows × bytes as one cell of bytes a row."""
    kind = pa.binary(flat.shape[1])
    return pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])


def _is_image(array: np.ndarray) -> bool:
    return array.ndim in (3, 4)


def _colours_last(array: np.ndarray) -> np.ndarray:
    """Pictures with their colours as the last axis; PyTorch's have them first."""
    first = array.ndim == 4 and array.shape[1] in COLOURS and array.shape[3] not in COLOURS
    return np.moveaxis(array, 1, 3) if first else array


def _shape_metadata(array: np.ndarray) -> dict[str, Any] | None:
    return {"image_shape": str(list(array.shape[1:]))} if _is_image(array) else None
