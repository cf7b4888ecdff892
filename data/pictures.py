"""A folder of pictures as a table: one row a file, all of one size.

Grey where every picture is grey, else red, green, blue; transparency is dropped. Columns:
`id` (the path in the folder), `image` (bytes, row by row), and `label` (the sub-folder) where
every picture lies in one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from data.arrays import byte_cells
from data.formats import DAMAGE, READ_BYTES, READ_ROWS, Opened, Reader, SourceError
from data.publication import digest_of, file_digest
from data.quarantine import look

SUFFIXES = (".png", ".jpg", ".jpeg")
GREY = {"1", "L", "LA"}
DEEP = {"I", "F", "I;16", "I;16B", "I;16L"}  # more than eight bits a pixel
MAX_PIXELS = 64 << 20
TOO_LARGE = f"would unpack to more than {MAX_PIXELS:,} pixels; resize it"


@dataclass(frozen=True)
class _Size:
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} × {self.height}"


def pictures_reader(folder: Path, files: list[Path]) -> Reader:
    """Return the reader of `files`, which lie in `folder` or below."""

    def digest() -> str:
        return digest_of([[str(file.relative_to(folder)), file_digest(file)] for file in files])

    return Reader(folder.name, lambda: _open(folder, files), digest)


def _open(folder: Path, files: list[Path]) -> Opened:
    seen = [look(look_at, file) for file in files]
    sizes = [_Size(width, height) for width, height, _ in seen]
    _refuse_differing(files, sizes)
    mode = "L" if {mode for _, _, mode in seen} <= GREY else "RGB"
    size, channels = sizes[0], len(mode) if mode == "RGB" else 1
    shape = [size.height, size.width, *([channels] if channels > 1 else [])]
    ids = [str(file.relative_to(folder)) for file in files]
    labels = [str(file.parent.relative_to(folder)) for file in files]
    entries = size.height * size.width * channels
    fields = [
        pa.field("id", pa.string()),
        pa.field("image", pa.binary(entries), metadata={"image_shape": str(shape)}),
    ]
    if "." not in labels:
        fields.append(pa.field("label", pa.string()))
    schema = pa.schema(fields)
    rows = max(1, min(READ_ROWS, READ_BYTES // entries))

    def read() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(files), rows):
            stop = start + rows
            images = np.stack([_pixels(file, mode) for file in files[start:stop]])
            cells = [
                pa.array(ids[start:stop]),
                byte_cells(images),
                pa.array(labels[start:stop]),
            ]
            yield pa.record_batch(cells[: len(schema)], schema=schema)

    return Opened(schema, read)


def look_at(file: Path) -> tuple[int, int, str]:
    """Return a picture's width, height and mode, when its checksums fit and it unpacks.

    Decoding passes over the checksums of a PNG; a JPEG has none.

    Raises:
        SourceError: it is damaged, too large, or no picture.
    """
    with _opened(file) as picture, _explained(file):
        picture.verify()
    _pixels(file, picture.mode)
    return picture.width, picture.height, picture.mode


def _pixels(file: Path, mode: str) -> np.ndarray:
    with _opened(file) as picture, _explained(file):
        return np.asarray(picture.convert(mode)).reshape(-1)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise SourceError(f"{file} {TOO_LARGE}") from None
    except DAMAGE as error:
        raise SourceError(f"{file} is damaged ({error}); write it again") from None


def _opened(file: Path) -> Any:
    """Open a picture by its header alone: nothing is unpacked yet."""
    try:
        picture = Image.open(file, formats=("PNG", "JPEG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise SourceError(f"{file} {TOO_LARGE}") from None
    except DAMAGE as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise SourceError(f"{file} is no PNG or JPEG{reason}; write it again") from None
    width, height = picture.size
    problem = None
    if width * height > MAX_PIXELS:
        problem = TOO_LARGE
    elif picture.mode in DEEP:
        problem = "has more than eight bits a pixel; convert it to eight"
    if problem is not None:
        picture.close()
        raise SourceError(f"{file} {problem}")
    return picture


def _refuse_differing(files: list[Path], sizes: list[_Size]) -> None:
    differing = [k for k, size in enumerate(sizes) if size != sizes[0]]
    if differing:
        first = differing[0]
        raise SourceError(
            f"{len(differing)} of {len(files)} pictures have another size than the first: "
            f"{files[first]} is {sizes[first]}, {files[0]} is {sizes[0]}; resize them"
        )
