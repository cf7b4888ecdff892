"""Rows of pixels as pictures that a page can hold: PNG files written into its text.

Images come as (count, height, width, channels), intensities from 0 to 1. The same intensities
give the same bytes.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

GAP = 2  # transparent pixels between the images of a sheet
Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI, its size in pixels, and what it shows in words."""

    uri: str
    width: int
    height: int
    alt: str


def images_of(
    pixels: npt.NDArray[np.generic], shape: tuple[int, int, int], top: float
) -> Images:
    """Rows of raw intensities 0..top as images; of 2 or more than 3 channels, the first."""
    images = pixels.astype(np.float32).reshape(len(pixels), *shape) / np.float32(top)
    return np.nan_to_num(images if shape[2] in (1, 3) else images[..., :1]).clip(0, 1)


def shrunk(images: Images, side: int) -> Images:
    """The same images with no side longer than `side` pixels."""
    height, width = images.shape[1:3]
    if max(height, width) <= side:
        return images
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = [np.asarray(_image(image).resize(size, Image.Resampling.BOX)) for image in images]
    whole = np.stack(small).reshape(len(images), size[1], size[0], -1)
    return whole.astype(np.float32) / np.float32(255)


def picture(image: Images, alt: str) -> Picture:
    """One image (height, width, channels)."""
    return _picture(_image(image), alt)


def sheet(images: Images, columns: int, alt: str, *, gap: int = GAP) -> Picture:
    """Images side by side, row after row; with a gap, what is between them is transparent."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    full = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    canvas = np.zeros((*full, channels + (gap > 0)), np.float32)
    for k, image in enumerate(images):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        canvas[top : top + height, left : left + width, :channels] = image
        canvas[top : top + height, left : left + width, channels:] = 1
    return _picture(_image(canvas), alt)


def _image(pixels: Images) -> Image.Image:
    whole = np.rint(pixels * 255).astype(np.uint8)
    return Image.fromarray(whole[..., 0] if whole.shape[-1] == 1 else whole)


def _picture(image: Image.Image, alt: str) -> Picture:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    text = base64.b64encode(file.getvalue()).decode()
    return Picture(f"data:image/png;base64,{text}", *image.size, alt)
