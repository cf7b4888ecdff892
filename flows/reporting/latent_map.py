"""The latents in two dimensions, for looking at.

The map is the plane of largest variance of the posterior means (PCA): distances in it are true
distances, seen from one side. Labels only color it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from flows.reporting.charts import FRAME, number
from flows.reporting.pictures import Picture, images_of, sheet, shrunk
from flows.reporting.specimen import Specimen

ROWS = 1000  # points: each is a row that hovering shows
GROUPS = 10  # colors that can be told apart
THUMBNAIL = 40  # pixels
SHEET_COLUMNS = 40
OUTSIDE = 0.004  # share of points beyond each edge; they are drawn on it


@dataclass(frozen=True)
class Group:
    """The points of one color."""

    name: str
    tone: str
    points: tuple[tuple[int, float, float], ...]  # number of the row, x, y


@dataclass(frozen=True)
class Thumbnails:
    """The rows' pictures on one sheet, row after row."""

    sheet: Picture
    columns: int
    width: int
    height: int


@dataclass(frozen=True)
class LatentMap:
    """A scatter of rows, in groups, and what hovering shows of each."""

    summary: str
    axes: tuple[str, str]
    ratio: float  # height over width
    label: str | None
    groups: tuple[Group, ...]
    words: tuple[str, ...]  # one for each row
    thumbnails: Thumbnails | None


def draw_map(specimen: Specimen) -> LatentMap:
    """Lay the first rows of the sample out in two dimensions."""
    mean, stddev = specimen.mean[:ROWS], specimen.stddev[:ROWS]
    places, axes = plane(mean, stddev)
    x, y, ratio = _framed(places)
    label = specimen.snapshot.contract.label
    names, order = ["all rows"] * len(mean), ["all rows"]
    if specimen.labels is not None:
        names, order = grouped(specimen.labels[:ROWS])
    groups = tuple(
        Group(
            name,
            f"t{k}",
            tuple((i, x[i], y[i]) for i, mine in enumerate(names) if mine == name),
        )
        for k, name in enumerate(order)
    )
    return LatentMap(
        summary=_summary(len(mean), min(specimen.test_rows, len(mean))),
        axes=axes,
        ratio=ratio,
        label=label,
        groups=groups,
        words=_words(specimen, len(mean), label),
        thumbnails=_thumbnails(specimen, len(mean)),
    )


def _summary(rows: int, held_out: int) -> str:
    whose = "all held out" if held_out == rows else f"{held_out:,} of them held out"
    return f"Each of {rows:,} points is a row, {whose}"


def plane(
    mean: npt.NDArray[np.float32], stddev: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], tuple[str, str]]:
    """Two coordinates of each row, and what they are."""
    latents = mean.shape[1]
    if latents == 1:
        return np.column_stack([mean, stddev]).astype(np.float64), ("mean", "stddev")
    if latents == 2:
        return mean.astype(np.float64), ("latent 0", "latent 1")
    centered = mean.astype(np.float64) - mean.mean(0, dtype=np.float64)
    _, singular, directions = np.linalg.svd(centered, full_matrices=False)
    plane = directions[:2]
    largest = np.abs(plane).argmax(1)
    plane = plane * np.sign(plane[[0, 1], largest])[:, None]  # else their signs are anyone's
    shares = np.square(singular[:2]) / max(float(np.square(singular).sum()), 1e-300)
    first, second = (
        f"component {k + 1}: {share:.0%} of the variance"
        for k, share in enumerate(shares.tolist())
    )
    return centered @ plane.T, (first, second)


def _framed(places: npt.NDArray[np.float64]) -> tuple[list[float], list[float], float]:
    """Places in the frame, with one scale for both axes and room for the points' size."""
    low, high = np.quantile(places, [OUTSIDE, 1 - OUTSIDE], axis=0)
    room = 0.06 * max(float((high - low).max()), 1e-9)
    low, high = low - room, high + room
    spans = high - low
    ratio = float(np.clip(spans[1] / spans[0], 0.55, 0.8))
    scale = max(float(spans[0]), float(spans[1]) / ratio)
    middle = (low + high) / 2
    x = (places[:, 0] - middle[0]) / scale * FRAME + FRAME / 2
    y = FRAME * ratio / 2 - (places[:, 1] - middle[1]) / scale * FRAME
    edge = 6.0
    return (
        np.clip(x, edge, FRAME - edge).round(1).tolist(),
        np.clip(y, edge, FRAME * ratio - edge).round(1).tolist(),
        round(ratio, 4),
    )


def grouped(labels: Sequence[object]) -> tuple[list[str], list[str]]:
    """The group of each row, and the groups in the order of the legend."""
    known = {label for label in labels if label is not None}
    if len(known) > GROUPS and all(isinstance(label, int | float) for label in known):
        return _ranges([np.nan if label is None else float(str(label)) for label in labels])
    counts = Counter("missing" if label is None else str(label) for label in labels)
    kept = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    if len(kept) > GROUPS:
        kept = kept[: GROUPS - 1]
    texts = ["missing" if label is None else str(label) for label in labels]
    names = [text if text in kept else "others" for text in texts]
    order = sorted(kept, key=_by_number)
    return names, [*order, *(["others"] if "others" in names and "others" not in order else [])]


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _ranges(values: Sequence[float]) -> tuple[list[str], list[str]]:
    """Fifths of a numeric label."""
    found = np.array(values)
    edges = np.unique(np.quantile(found[np.isfinite(found)], np.linspace(0, 1, 6)))
    order = [f"{number(a)} to {number(b)}" for a, b in pairwise(edges.tolist())]
    places = np.clip(np.searchsorted(edges, found, side="right") - 1, 0, len(order) - 1)
    names = [
        order[place] if np.isfinite(value) else "missing"
        for place, value in zip(places.tolist(), values, strict=True)
    ]
    return names, [*order, *(["missing"] if "missing" in names else [])]


def _words(specimen: Specimen, rows: int, label: str | None) -> tuple[str, ...]:
    keys = [f"{specimen.snapshot.key} {key}" for key in specimen.keys[:rows]]
    if label is None or specimen.labels is None:
        return tuple(keys)
    labels = specimen.labels[:rows]
    return tuple(f"{key}\n{label} {value}" for key, value in zip(keys, labels, strict=True))


def _thumbnails(specimen: Specimen, rows: int) -> Thumbnails | None:
    column = specimen.image
    if column is None or column.image is None:
        return None
    pixels = specimen.entries(column)[:rows]
    images = shrunk(images_of(pixels, column.image, column.max or 1.0), THUMBNAIL)
    height, width = images.shape[1:3]
    return Thumbnails(sheet(images, SHEET_COLUMNS, "", gap=0), SHEET_COLUMNS, width, height)
