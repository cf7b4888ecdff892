"""One picture, a PNG or a JPEG: opened by its header, checked whole, unpacked."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.formats import DAMAGE, SourceError

GREY = {"1", "L", "LA"}
DEEP = {"I", "F", "I;16", "I;16B", "I;16L"}  # more than eight bits a pixel
MAX_PIXELS = 64 << 20
TOO_LARGE = f"would unpack to more than {MAX_PIXELS:,} pixels; resize it"


class Look(NamedTuple):
    """What a picture is."""

    width: int
    height: int
    mode: str

    @property
    def size(self) -> str:
        """Width and height, as a person reads them."""
        return f"{self.width} × {self.height}"


def look_at(picture: Path | bytes, name: str) -> Look:
    """Say what a picture is, when its checksums fit and it unpacks.

    Decoding passes over the checksums of a PNG; a JPEG has none.

    Args:
        picture: a file, or what one holds.
        name: what errors call it.

    Raises:
        SourceError: it is damaged, too large, or no picture.
    """
    with _opened(picture, name) as seen, _explained(name):
        seen.verify()
    pixels_of(picture, seen.mode, name)
    return Look(seen.width, seen.height, seen.mode)


def pixels_of(picture: Path | bytes, mode: str, name: str) -> np.ndarray:
    """Its pixels, row by row: "L" gives one byte for each, "RGB" three.

    Raises:
        SourceError: as `look_at` does, but for checksums.
    """
    with _opened(picture, name) as seen, _explained(name):
        return np.asarray(seen.convert(mode)).reshape(-1)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise SourceError(f"{name} {TOO_LARGE}") from None
    except DAMAGE as error:
        raise SourceError(f"{name} is damaged ({error}); write it again") from None


def _opened(picture: Path | bytes, name: str) -> Any:
    """Open a picture by its header alone: nothing is unpacked yet."""
    source = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    try:
        seen = Image.open(source, formats=("PNG", "JPEG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise SourceError(f"{name} {TOO_LARGE}") from None
    except DAMAGE as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise SourceError(f"{name} is no PNG or JPEG{reason}; write it again") from None
    width, height = seen.size
    problem = None
    if width * height > MAX_PIXELS:
        problem = TOO_LARGE
    elif seen.mode in DEEP:
        problem = "has more than eight bits a pixel; convert it to eight"
    if problem is not None:
        seen.close()
        raise SourceError(f"{name} {problem}")
    return seen
