"""Pictures, PNG or JPEG: opened by the header, checked whole, unpacked; what many have in common.

A model sees pictures of one size. Where they have several, or are larger than one would model
pixel by pixel, they are scaled: to the size that is asked for, else to the medians of their
heights and widths, neither above 64.
"""

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.formats import DAMAGE, SourceError

GREY = {"1", "L", "LA"}
DEEP = {"I", "F", "I;16", "I;16B", "I;16L"}  # more than eight bits a pixel
MAX_PIXELS = 64 << 20
LARGE_PIXELS = 128 * 128  # of a picture that is scaled unasked
SIDE = 64  # the longer one, of what is scaled unasked
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


Size = tuple[int, int]  # height and width


class Common(NamedTuple):
    """What pictures become that are shown together; `scaled_from` says of what size they are."""

    height: int
    width: int
    mode: str
    scaled_from: str = ""


@dataclass
class Pictures:
    """What the pictures of a folder, or of a column, have been so far.

    `wanted` is the size that they are to have; without it, it is chosen where `may_scale`.
    """

    wanted: Size | None = None
    may_scale: bool = True
    sizes: Counter[Size] = field(default_factory=Counter)
    first: str = ""
    is_grey: bool = True

    def add(self, seen: Look, name: str) -> None:
        """Add one.

        Raises:
            SourceError: it has another size than the first, and they may not be scaled.
        """
        size = (seen.height, seen.width)
        if not (self.wanted or self.may_scale) and self.sizes and size not in self.sizes:
            raise SourceError(
                f"{name} is {seen.size}, those before it are {self.first}; resize them, or set "
                f"height and width of their column"
            )
        self.first = self.first or seen.size
        self.sizes[size] += 1
        self.is_grey = self.is_grey and seen.mode in GREY

    def common(self) -> Common:
        """What all of them become."""
        size = self.wanted or self._size()
        mode = "L" if self.is_grey else "RGB"
        return Common(*size, mode, "" if {*self.sizes} == {size} else self._described())

    def _size(self) -> Size:
        (height, width), *others = self.sizes
        if not self.may_scale or not (others or height * width > LARGE_PIXELS):
            return height, width
        heights, widths = (sorted(of) for of in zip(*self.sizes.elements(), strict=True))
        height, width = heights[len(heights) // 2], widths[len(widths) // 2]
        factor = min(1.0, SIDE / max(height, width))
        return max(1, round(height * factor)), max(1, round(width * factor))

    def _described(self) -> str:
        small, large = (
            max_or_min(self.sizes, key=lambda size: (size[0] * size[1], size))
            for max_or_min in (min, max)
        )
        named = [f"{width} × {height}" for height, width in (small, large)]
        if small == large:
            return named[0]
        return f"{len(self.sizes)} sizes between {named[0]} and {named[1]}"


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
    with _opened(picture, name) as seen, _explained(name):
        upright = _upright(seen)
        return Look(upright.width, upright.height, seen.mode)


def pixels_of(
    picture: Path | bytes, mode: str, name: str, size: Size | None = None
) -> np.ndarray:
    """Its pixels, row by row: "L" gives one byte for each, "RGB" three.

    Turned as its camera says that it was held. Scaled to `size`, where it is given, by averages of the pixels that fall together.

    Raises:
        SourceError: as `look_at` does, but for checksums.
    """
    with _opened(picture, name) as seen, _explained(name):
        plain = _upright(seen).convert(mode)
        if size is not None and plain.size != size[::-1]:
            plain = plain.resize(size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(plain).reshape(-1)


def _upright(seen: Image.Image) -> Image.Image:
    """The picture as its camera was held, unpacked."""
    seen.load()  # before that, what a PNG says at its end is not known
    return ImageOps.exif_transpose(seen) if seen.getexif() else seen


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
