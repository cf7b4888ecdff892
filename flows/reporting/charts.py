"""The geometry of a chart: axes, ticks, curves and bars as plain numbers, drawn by a template.

Places are in thousandths of the frame, from its left and its top, so that a chart stretches to
any width; its text is set beside the frame at its own size. Colors are names (`tone`), so that
the page decides what they are in the dark.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

FRAME = 1000  # side of the frame, in its own units
ENOUGH_TO_CUT = 8  # points from which early ones may be left out of a frame
MIN_BINS, MAX_BINS = 16, 40
Values = npt.NDArray[np.float64]
SCALES: Mapping[str, Callable[[Values], Values]] = {
    "linear": np.asarray,
    "log": np.log,
    "log1p": np.log1p,
}


class Tick(NamedTuple):
    """A label at a place on an axis, in percent from its beginning."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """A range of values laid out from 0 to 1: linear, log, or log1p, which has a place for 0."""

    low: float
    high: float
    scale: Literal["linear", "log", "log1p"] = "linear"

    @classmethod
    def around(cls, values: Sequence[float] | Values) -> "Axis":
        """The range of the finite values, widened where it would be empty."""
        found = _finite(values)
        if not len(found):
            return cls(0.0, 1.0)
        low, high = float(found.min()), float(found.max())
        if low == high:
            room = abs(low) * 0.05 or 0.5
            low, high = low - room, high + room
        return cls(low, high)

    def place(self, values: Sequence[float] | Values) -> Values:
        """Where values lie: 0 at `low`, 1 at `high`, outside where they are outside."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found, low, high = (
                SCALES[self.scale](np.asarray(part, dtype=np.float64))
                for part in (values, self.low, self.high)
            )
        return (found - low) / (high - low)

    def percent(self, value: float) -> float:
        """Where one value lies, in percent, kept inside the frame."""
        return round(float(np.clip(self.place([value])[0], 0, 1)) * 100, 2)

    def ticks(self, wanted: int = 5) -> list[Tick]:
        """Round values inside the range, about as many as wanted."""
        if self.scale == "linear":
            step = _round_step(self.low, self.high, wanted)
            values = _multiples(step, self.low, self.high)
            return [Tick(self.percent(value), _at_step(value, step)) for value in values]
        values = _powers(
            max(self.low, 1.0 if self.scale == "log1p" else 0.0), self.high, wanted
        )
        values = [0.0, *values] if self.scale == "log1p" else values
        return [Tick(self.percent(value), number(value)) for value in values]


@dataclass(frozen=True)
class Curve:
    """One line of a chart, as an SVG path; `area` closes it down to the base line."""

    label: str
    tone: str
    path: str
    area: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line at a place, in percent, with a few words."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Everything that the template needs to draw one chart."""

    title: str
    summary: str  # the words for those who do not see it
    x_label: str
    curves: tuple[Curve, ...]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: tuple[Mark, ...] = ()
    note: str = ""
    readout: Mapping[str, object] | None = None  # what hovering shows: places and texts


def lines(
    title: str,
    x_label: str,
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    best: float | None = None,
    log: bool = False,
) -> Chart:
    """Curves over a common x, one per entry of `series`.

    Early values far below the rest are let out of the frame, and the note says so: the first
    steps of a training would otherwise flatten all that matters.
    """
    ys = {label: np.asarray(values, dtype=np.float64) for label, values in series.items()}
    everything = np.concatenate(list(ys.values()))
    across = Axis.around(x)
    whole = Axis.around(everything[everything > 0] if log else everything)
    frame = replace(whole, scale="log") if log else _without_outliers(whole, everything)
    curves = tuple(
        Curve(label, f"t{k}", path(across.place(x), frame.place(y)))
        for k, (label, y) in enumerate(ys.items())
    )
    finite = {label: y[np.isfinite(y)] for label, y in ys.items()}
    ends = ", ".join(
        f"{label} from {number(y[0])} to {number(y[-1])}"
        for label, y in finite.items()
        if len(y)
    )
    return Chart(
        title,
        f"{title} over {x_label}: {ends}",
        x_label,
        curves,
        across.ticks(),
        frame.ticks(),
        marks=() if best is None else (Mark(across.percent(best), "kept"),),
        note=""
        if frame.low == whole.low
        else f"begins at {number(whole.low)}, below the frame",
        readout={
            "at": np.round(across.place(x) * 100, 2).tolist(),
            "text": [_reading(x_label, at, k, ys) for k, at in enumerate(x)],
        },
    )


def _reading(x_label: str, at: float, k: int, ys: Mapping[str, Values]) -> str:
    values = "  ".join(f"{label} {y[k]:.4g}" for label, y in ys.items())
    return f"{x_label} {number(at)}:  {values}".replace("-", "−")


def _without_outliers(axis: Axis, values: Values) -> Axis:
    """A range that ends three spreads below the lower quartile, with some room above."""
    found = _finite(values)
    quartile = float(np.quantile(found, 0.25))
    floor = quartile - 3 * (axis.high - quartile)
    low = max(axis.low, floor) if len(found) >= ENOUGH_TO_CUT else axis.low
    return Axis(low, axis.high + 0.04 * (axis.high - low))


def histogram(
    title: str, x_label: str, series: Mapping[str, Sequence[float] | Values]
) -> Chart:
    """Outlines of the shares of several samples over common bins."""
    ys = {label: _finite(values) for label, values in series.items()}
    together = np.concatenate(list(ys.values()))
    axis = _bulk(together)
    bins = round(math.sqrt(len(together) / len(ys)))
    edges = np.linspace(axis.low, axis.high, min(max(bins, MIN_BINS), MAX_BINS) + 1)
    shares = {label: binned(values, edges) for label, values in ys.items()}
    top = max(float(share.max()) for share in shares.values()) or 1.0
    curves = tuple(
        Curve(label, f"t{k}", steps(share / top), area=True)
        for k, (label, share) in enumerate(shares.items())
    )
    middles = ", ".join(
        f"{label} has median {number(float(np.median(values)))}"
        for label, values in ys.items()
        if len(values)
    )
    return Chart(title, f"{title}: {middles}", x_label, curves, axis.ticks(), [])


def _bulk(values: Values) -> Axis:
    """A range that single far values do not stretch: they count in the bin at that end."""
    whole = Axis.around(values)
    if not len(values):
        return whole
    low, high = np.quantile(values, [0.05, 0.95]).tolist()
    room = 0.5 * (high - low)
    return Axis.around([max(whole.low, low - room), min(whole.high, high + room)])


def binned(values: Values, edges: Values) -> Values:
    """The share of values in each bin; what lies outside counts in the bin at that end."""
    inside = np.clip(values, edges[0], edges[-1])
    return np.histogram(inside, edges)[0] / max(len(values), 1)


def steps(heights: Sequence[float] | Values) -> str:
    """The outline of a histogram, heights from 0 to 1, as an SVG path."""
    across = np.repeat(np.linspace(0, 1, len(heights) + 1), 2)
    up = np.concatenate([[0.0], np.repeat(np.asarray(heights, dtype=np.float64), 2), [0.0]])
    return path(across, up)


def path(across: Values, up: Values) -> str:
    """An SVG path through points from (0, 0) below left to (1, 1); gaps where not finite."""
    pieces, pen = [], "M"
    for x, y in zip(across.tolist(), up.tolist(), strict=True):
        if math.isfinite(x) and math.isfinite(y):
            pieces.append(f"{pen}{_unit(x)} {_unit(1 - min(max(y, -1), 2))}")
            pen = "L"
        else:
            pen = "M"
    return "".join(pieces)


def _unit(share: float) -> str:
    return f"{share * FRAME:.1f}".removesuffix(".0")


def number(value: float) -> str:
    """A number as short as it can be read: 0.0042, 3.14, -102.6, 12,345, 1.2e+07."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "–")
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e7 or size < 1e-4:
        text = f"{value:.2g}"
    elif size >= 1000:
        text = f"{value:,.0f}"
    else:
        decimals = max(0, 2 - math.floor(math.log10(size)))
        text = f"{value:.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−") if "e" not in text else text


def _finite(values: Sequence[float] | Values) -> Values:
    found = np.asarray(values, dtype=np.float64)
    return found[np.isfinite(found)]


def _round_step(low: float, high: float, wanted: int) -> float:
    """1, 2, 2.5 or 5 times a power of ten, so that about as many fit as wanted."""
    rough = (high - low) / max(wanted, 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(s * magnitude for s in (1, 2, 2.5, 5, 10) if s * magnitude >= rough * 0.999)


def _multiples(step: float, low: float, high: float) -> list[float]:
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _at_step(value: float, step: float) -> str:
    """A multiple of a step with all the decimals that it needs: -19.75, where −19.8 is none."""
    size = abs(value)
    if size == 0 or size >= 1e7 or step < 1e-4:
        return number(value)
    decimals = max(0, 1 - math.floor(math.log10(step)))  # one more than the step's first
    text = f"{value:,.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")


def _powers(low: float, high: float, wanted: int) -> list[float]:
    """Powers of ten, fewer than there are or with 2 and 5 times them, as fits."""
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    tens = [10.0**k for k in range(first, last + 1) if 10.0**k >= low * 0.999]
    if len(tens) > wanted:
        return tens[:: -(-len(tens) // wanted)]
    if len(tens) > 2:
        return tens
    values = [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5)]
    inside = [value for value in values if low * 0.999 <= value <= high * 1.001]
    return inside[:: max(1, -(-len(inside) // (wanted + 1)))]
