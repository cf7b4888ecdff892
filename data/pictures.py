"""A folder of pictures as a table: one row a file, all of one size, or scaled to one.

Grey where every picture is grey, else red, green, blue; transparency is dropped. Columns:
`id` (the path in the folder), `image` (bytes, row by row), and `label` (the sub-folder) where
every picture lies in one.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.arrays import byte_cells, picture_field
from data.formats import READ_BYTES, READ_ROWS, Opened, Reader, Reading
from data.picture import Look, Pictures, look_at, pixels_of
from data.publication import digest_of, file_digest
from data.quarantine import look

SUFFIXES = (".png", ".jpg", ".jpeg")
IMAGE = "image"


def pictures_reader(folder: Path, files: list[Path], reading: Reading) -> Reader:
    """Return the reader of `files`, which lie in `folder` or below."""

    def digest() -> str:
        return digest_of([[str(file.relative_to(folder)), file_digest(file)] for file in files])

    return Reader(folder.name, lambda: _open(folder, files, reading), digest)


def _open(folder: Path, files: list[Path], reading: Reading) -> Opened:
    seen = Pictures(reading.sizes.get(IMAGE), reading.may_scale)
    for file in files:
        seen.add(Look(*look(look_at, file, str(file))), str(file))
    height, width, mode, scaled_from = seen.common()
    image = picture_field(IMAGE, height, width, len(mode), scaled_from)
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
            size = (height, width)
            images = np.stack(
                [pixels_of(file, mode, str(file), size) for file in files[start:stop]]
            )
            cells = [
                pa.array(ids[start:stop]),
                byte_cells(images),
                pa.array(labels[start:stop]),
            ]
            yield pa.record_batch(cells[: len(schema)], schema=schema)

    return Opened(schema, read)
