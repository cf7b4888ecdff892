"""What the model makes of pictures: reconstructions, samples from the prior, traversals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flows.reporting.pictures import Images, Picture, images_of, picture, sheet, shrunk
from flows.reporting.specimen import Specimen

RECONSTRUCTED = 16
SAMPLE_ROWS, SAMPLE_COLUMNS = 4, 8  # of each of two sheets
TRAVERSED_LATENTS = 10
TRAVERSAL = tuple(np.linspace(-2.5, 2.5, 11).tolist())  # in standard deviations of the prior
SIDE = 96  # pixels of the longest side that is shown
SAMPLE_SIDE = 48


@dataclass(frozen=True)
class Pair:
    """A row's picture and what the model makes of it."""

    original: Picture
    reconstruction: Picture
    caption: str


@dataclass(frozen=True)
class Traversal:
    """Pictures along one latent, the others at the prior's mean."""

    latent: int
    strength: float
    strip: Picture


@dataclass(frozen=True)
class Imagery:
    """All that is shown of a column of pictures."""

    column: str
    pairs: tuple[Pair, ...]
    samples: tuple[Picture, Picture]  # two sheets, side by side where there is room
    traversals: tuple[Traversal, ...]
    steps: tuple[float, ...] = TRAVERSAL


def draw_imagery(specimen: Specimen, strengths: Sequence[float]) -> Imagery | None:
    """Draw the first column of pictures; None where there is none."""
    if specimen.image is None:
        return None
    return Imagery(
        specimen.image.name,
        _pairs(specimen),
        _samples(specimen),
        _traversals(specimen, strengths),
    )


def _pairs(specimen: Specimen) -> tuple[Pair, ...]:
    originals = shrunk(_images(specimen, specimen.x[:RECONSTRUCTED]), SIDE)
    means = torch.from_numpy(specimen.mean[:RECONSTRUCTED])
    reconstructions = shrunk(_expected(specimen, means), SIDE)
    labels = specimen.labels or [None] * len(originals)
    pairs = []
    for original, made, key, label in zip(
        originals, reconstructions, specimen.keys, labels, strict=False
    ):
        caption = key if label is None else str(label)
        pairs.append(
            Pair(
                picture(original, f"original of row {key}"),
                picture(made, f"reconstruction of row {key}"),
                caption,
            )
        )
    return tuple(pairs)


def _samples(specimen: Specimen) -> tuple[Picture, Picture]:
    count = SAMPLE_ROWS * SAMPLE_COLUMNS
    z = specimen.model.prior.sample(2 * count, specimen.generator())
    images = shrunk(_expected(specimen, z), SAMPLE_SIDE)
    alt = f"{count} pictures drawn from the prior"
    first, second = (
        sheet(half, SAMPLE_COLUMNS, alt) for half in (images[:count], images[count:])
    )
    return first, second


def _traversals(specimen: Specimen, strengths: Sequence[float]) -> tuple[Traversal, ...]:
    order = np.argsort(-np.asarray(strengths), kind="stable")[:TRAVERSED_LATENTS]
    found = []
    for latent in order.tolist():
        z = torch.zeros(len(TRAVERSAL), specimen.model.latents)
        z[:, latent] = torch.tensor(TRAVERSAL)
        images = shrunk(_expected(specimen, z), SAMPLE_SIDE)
        alt = f"latent {latent} from {TRAVERSAL[0]} to {TRAVERSAL[-1]}"
        found.append(Traversal(latent, strengths[latent], sheet(images, len(images), alt)))
    return tuple(found)


def _expected(specimen: Specimen, z: Tensor) -> Images:
    with torch.inference_mode():
        return _images(specimen, specimen.model.reconstruct(z))


def _images(specimen: Specimen, x: Tensor) -> Images:
    column = specimen.image
    assert column is not None, "asked for pictures only"
    assert column.image is not None, "a column of pictures has a shape"
    return images_of(specimen.entries(column, x), column.image, column.max or 1.0)
