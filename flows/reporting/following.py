"""What each latent follows: how much of every column's variance it explains alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.encoding import CODED_KINDS
from flows.reporting.specimen import Specimen

LATENTS, COLUMNS = 16, 40  # shown: the strongest of each


@dataclass(frozen=True)
class Following:
    """A share from 0 to 1 for each column and latent."""

    latents: tuple[int, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]  # column, share for each latent


def followed_columns(specimen: Specimen, strengths: Sequence[float]) -> Following | None:
    """The strongest latents, and the single-entry columns that they follow.

    For numbers the share is the squared correlation with the posterior mean; for categories
    the share of the mean's variance that lies between them. None where no column is single.
    """
    columns = [c for c, _ in specimen.columns if c.width == 1 and not c.constant]
    if not columns:
        return None
    strongest = np.argsort(-np.asarray(strengths), kind="stable")[:LATENTS]
    latents = tuple(sorted(strongest.tolist()))
    means = specimen.mean[:, latents].astype(np.float64)
    rows = []
    for column in columns:
        cells = specimen.entries(column)[:, 0].astype(np.float64)
        share = between_codes if column.kind in CODED_KINDS else squared_correlation
        rows.append((column.name, tuple(share(cells, means).round(3).tolist())))
    rows.sort(key=lambda row: -max(row[1]))
    return Following(latents, tuple(rows[:COLUMNS]))


def squared_correlation(
    cells: npt.NDArray[np.float64], means: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The share of the variance of numbers (rows) that each of means (rows × latents) explains."""
    seen = np.isfinite(cells)
    if seen.sum() < 3:
        return np.zeros(means.shape[1])
    a = cells[seen] - cells[seen].mean()
    b = means[seen] - means[seen].mean(0)
    scale = np.square(a).sum() * np.square(b).sum(0)
    return np.square(a @ b) / np.where(scale > 0, scale, 1.0)


def between_codes(
    cells: npt.NDArray[np.float64], means: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The share of the variance of each of means (rows × latents) that lies between codes."""
    seen = np.isfinite(cells)
    centered = means[seen] - means[seen].mean(0) if seen.any() else means[seen]
    total = np.square(centered).sum(0)
    between = np.zeros(means.shape[1])
    for code in np.unique(cells[seen]):
        group = centered[cells[seen] == code]
        between += len(group) * np.square(group.mean(0))
    return between / np.where(total > 0, total, 1.0)
