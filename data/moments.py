"""What numbers and pixels add up to, part by part: each result merges with that of the next rows."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt


@dataclass
class Moments:
    """Count, mean, sum of squared deviations and extremes of finite numbers."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    min: float = np.inf
    max: float = -np.inf
    infinite: int = 0

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> Self:
        """Summarize values; NaN is no value, infinities are counted apart."""
        values = values[~np.isnan(values)]
        finite = values[np.isfinite(values)]
        infinite = len(values) - len(finite)
        if not len(finite):
            return cls(infinite=infinite)
        mean = float(finite.mean())
        squares = float(np.square(finite - mean).sum())
        low, high = float(finite.min()), float(finite.max())
        return cls(len(finite), mean, squares, low, high, infinite)

    def merge(self, other: Self) -> None:
        """Add another part's numbers (Chan, Golub & LeVeque 1979: no cancellation)."""
        self.infinite += other.infinite
        if not other.count:
            return
        if not self.count:  # not a digit of theirs is to change
            self.mean = other.mean
        total = self.count + other.count
        shift = other.mean - self.mean
        self.squares += other.squares + shift * shift * self.count * other.count / total
        self.mean += shift * other.count / total
        self.count = total
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)

    @property
    def stddev(self) -> float:
        """The population standard deviation; nan when nothing was seen."""
        return float(np.sqrt(self.squares / self.count)) if self.count else float("nan")


@dataclass
class Pixels:
    """How often each intensity occurs, and the sum of all images."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    total: npt.NDArray[np.float64] | None = None
    images: int = 0

    @classmethod
    def of(cls, images: npt.NDArray[np.uint8]) -> Self:
        """Summarize rows × entries."""
        pairs, total = np.zeros(1 << 16, np.int64), np.zeros(images.shape[1])
        for start in range(0, len(images), 256):  # whose sum is below 2^16
            some = images[start : start + 256]
            total += some.sum(0, dtype=np.uint16)
        for start in range(0, len(images), 4096):  # bincount widens to int64: small pieces
            some = np.ascontiguousarray(images[start : start + 4096]).ravel()
            pairs += np.bincount(some[: len(some) & ~1].view(np.uint16), minlength=1 << 16)
        counts = pairs.reshape(256, 256).sum(0) + pairs.reshape(256, 256).sum(1)
        if images.size % 2:
            counts[images[-1, -1]] += 1
        return cls(counts, total, len(images))

    def merge(self, other: Self) -> None:
        """Add another part's images."""
        self.counts = self.counts + other.counts
        if other.total is not None:
            self.total = other.total if self.total is None else self.total + other.total
        self.images += other.images

    def moments(self) -> Moments:
        """The moments of an entry, from the histogram."""
        seen = np.flatnonzero(self.counts)
        if not len(seen):
            return Moments()
        count = int(self.counts.sum())
        mean = float(self.counts @ np.arange(256)) / count
        squares = float(self.counts @ np.square(np.arange(256) - mean))
        return Moments(count, mean, squares, float(seen[0]), float(seen[-1]))
