"""A folder of pictures as a table: one row a file, all of one size.

Grey where every picture is grey, else red, green, blue; transparency is dropped. Columns:
`id` (the path in the folder), `image` (bytes, row by row), and `label` (the sub-folder) where
every picture lies in one.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.arrays import byte_cells, picture_field
from data.formats import READ_BYTES, READ_ROWS, Opened, Reader, SourceError
from data.picture import GREY, Look, look_at, pixels_of
from data.publication import digest_of, file_digest
from data.quarantine import look

SUFFIXES = (".png", ".jpg", ".jpeg")


def pictures_reader(folder: Path, files: list[Path]) -> Reader:
    """Return the reader of `files`, which lie in `folder` or below."""

    def digest() -> str:
        return digest_of([[str(file.relative_to(folder)), file_digest(file)] for file in files])

    return Reader(folder.name, lambda: _open(folder, files), digest)


def _open(folder: Path, files: list[Path]) -> Opened:
    seen = [Look(*look(look_at, file, str(file))) for file in files]
    _refuse_differing(files, seen)
    mode = "L" if {picture.mode for picture in seen} <= GREY else "RGB"
    image = picture_field("image", seen[0].height, seen[0].width, len(mode))
    ids = [str(file.relative_to(folder)) for file in files]
    labels = [str(file.parent.relative_to(folder)) for file in files]
    fields = [pa.field("id", pa.string()), image]
    if "." not in labels:
        fields.append(pa.field("label", pa.string()))
    schema = pa.schema(fields)
    rows = max(1, min(READ_ROWS, READ_BYTES // image.type.byte_width))

    def read() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(files), rows):
            stop = start + rows
            images = np.stack([pixels_of(file, mode, str(file)) for file in files[start:stop]])
            cells = [
                pa.array(ids[start:stop]),
                byte_cells(images),
                pa.array(labels[start:stop]),
            ]
            yield pa.record_batch(cells[: len(schema)], schema=schema)

    return Opened(schema, read)


def _refuse_differing(files: list[Path], seen: list[Look]) -> None:
    differing = [k for k, picture in enumerate(seen) if picture[:2] != seen[0][:2]]
    if differing:
        first = differing[0]
        raise SourceError(
            f"{len(differing)} of {len(files)} pictures have another size than the first: "
            f"{files[first]} is {seen[first].size}, {files[0]} is {seen[0].size}; resize them"
        )
