"""Times as places on circles: the day, the week from Monday, the calendar year.

A cycle is two entries, the sine and cosine of its angle; midnight is next to midnight, and
Sunday to Monday. What is encoded is the wall clock of a time zone. Which day it was is gone:
`times_at` gives the first time from 1970 on that lies there on every circle.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.contract import TIMESTAMP

DAY_S, WEEK_S = 86_400.0, 604_800.0
MONDAY_S = 4 * DAY_S  # 1970-01-05
YEARS = np.arange(28)  # after which dates fall on the same weekdays again

Seconds = npt.NDArray[np.float64]


def places_of(times: pa.Array, cycles: tuple[str, ...], timezone: str) -> Seconds:
    """Return rows × 2 · cycles: sine and cosine of each cycle's angle; NaN for null."""
    clock = pc.local_timestamp(times.cast(pa.timestamp("us", timezone)))
    seconds = clock.cast(pa.int64()).to_numpy(zero_copy_only=False) / 1e6
    angles = [2 * np.pi * _turn(seconds, cycle) for cycle in cycles]
    return np.stack([wave(angle) for angle in angles for wave in (np.sin, np.cos)], 1)


def times_at(places: Seconds, cycles: tuple[str, ...], timezone: str) -> pa.Array:
    """Return a time that lies at `places`, the first from 1970 on; null for NaN."""
    missing = np.isnan(places.sum(1))
    known = np.where(missing[:, None], 0.0, places)
    turns = {
        cycle: np.arctan2(known[:, 2 * k], known[:, 2 * k + 1]) / (2 * np.pi) % 1
        for k, cycle in enumerate(cycles)
    }
    micros = np.rint(_first_time(turns) * 1e6).astype(np.int64)
    clock = pa.array(micros, mask=missing).cast(pa.timestamp("us"))
    options = {"ambiguous": "earliest", "nonexistent": "earliest"}
    return pc.assume_timezone(clock, timezone, **options).cast(TIMESTAMP)


def _turn(seconds: Seconds, cycle: str) -> Seconds:
    """How far round the cycle, in [0, 1)."""
    if cycle == "day":
        return seconds / DAY_S % 1
    if cycle == "week":
        return (seconds - MONDAY_S) / WEEK_S % 1
    start, length = _year_of(np.nan_to_num(seconds))
    return (seconds - start) / length


def _year_of(seconds: Seconds) -> tuple[Seconds, Seconds]:
    """When the year of a time began, and how long it is."""
    year = np.floor(seconds).astype("datetime64[s]").astype("datetime64[Y]")
    start = year.astype("datetime64[s]").astype(np.float64)
    return start, (year + 1).astype("datetime64[s]").astype(np.float64) - start


def _first_time(turns: dict[str, Seconds]) -> Seconds:
    if "year" in turns:
        starts = (np.datetime64("1970", "Y") + YEARS).astype("datetime64[s]").astype(np.float64)
        start, length = _year_of(starts)
        candidates = start + turns["year"][:, None] * length
    elif "week" in turns:
        candidates = MONDAY_S + turns["week"][:, None] * WEEK_S
    else:
        candidates = np.zeros((len(turns["day"]), 1))
    if "day" in turns:
        of_day = turns["day"][:, None] * DAY_S
        candidates = of_day + DAY_S * np.rint((candidates - of_day) / DAY_S)
        candidates = np.where(candidates < 0, candidates + DAY_S, candidates)
    if "week" not in turns:
        return candidates[:, 0]
    apart = np.abs((_turn(candidates, "week") - turns["week"][:, None] + 0.5) % 1 - 0.5)
    best = np.argmin(apart > apart.min(1, keepdims=True) + 1e-3, 1)  # the first that is as near
    return candidates[np.arange(len(candidates)), best]
