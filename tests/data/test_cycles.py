import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract import TIMESTAMP
from data.cycles import places_of, times_at

UTC = datetime.UTC
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
times = st.integers(-70 * 365, 130 * 365).flatmap(
    lambda days: st.integers(0, 86_399).map(
        lambda seconds: EPOCH + datetime.timedelta(days=days, seconds=seconds)
    )
)
some_cycles = st.sampled_from(
    [("day",), ("week",), ("year",), ("day", "week"), ("week", "year", "day"), ("year", "day")]
)
zones = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns"])


def array(*values: datetime.datetime | None) -> pa.Array:
    return pa.array(values, TIMESTAMP)


@given(st.lists(times, min_size=1, max_size=9), some_cycles, zones)
def test_a_time_read_back_lies_at_the_same_places(
    values: list[datetime.datetime], cycles: tuple[str, ...], zone: str
) -> None:
    """To a second in the day and week; to a day of the year, for years differ in length (and a
    clock that is set forward in spring skips an hour that another year's clock has)."""
    places = places_of(array(*values), cycles, zone)
    again = places_of(times_at(places, cycles, zone), cycles, zone)

    an_hour = 2 * np.pi / 24 if zone != "UTC" else 0.0
    tolerance = {"day": 1e-3 + an_hour, "week": 1e-3 + an_hour / 7, "year": 2 * np.pi / 365}
    for place, cycle in enumerate(cycles):
        apart = np.abs(places - again)[:, 2 * place : 2 * place + 2].max()
        assert apart <= tolerance[cycle]


@given(times, st.integers(-500, 500))
def test_what_is_a_week_apart_lies_at_the_same_place(
    value: datetime.datetime, weeks: int
) -> None:
    later = value + datetime.timedelta(weeks=weeks)

    places = places_of(array(value, later), ("day", "week"), "UTC")
    np.testing.assert_allclose(places[0], places[1], atol=1e-6)


def test_places_are_where_a_clock_shows_them() -> None:
    moments = array(
        datetime.datetime(2024, 1, 1, 6, tzinfo=UTC),  # a Monday
        datetime.datetime(2024, 7, 1, 22, tzinfo=UTC),  # a Monday; midnight in Berlin
    )

    day = places_of(moments, ("day",), "UTC")
    np.testing.assert_allclose(day[0], [1, 0], atol=1e-9)
    berlin = places_of(moments, ("day",), "Europe/Berlin")
    np.testing.assert_allclose(berlin[1], [0, 1], atol=1e-9)
    week = places_of(array(datetime.datetime(2024, 1, 1, tzinfo=UTC)), ("week",), "UTC")
    np.testing.assert_allclose(week[0], [0, 1], atol=1e-9)
    year = places_of(array(datetime.datetime(2023, 7, 2, 12, tzinfo=UTC)), ("year",), "UTC")
    np.testing.assert_allclose(year[0], [0, -1], atol=1e-9)


def test_a_null_is_nan_and_back() -> None:
    places = places_of(array(None, datetime.datetime(2024, 1, 1, tzinfo=UTC)), ("day",), "UTC")

    assert np.isnan(places[0]).all()
    assert times_at(places, ("day",), "UTC").is_null().to_pylist() == [True, False]


@pytest.mark.parametrize("cycles", [("day",), ("week",), ("year",)])
def test_times_begin_in_1970(cycles: tuple[str, ...]) -> None:
    places = places_of(array(datetime.datetime(2024, 3, 5, 7, 9, tzinfo=UTC)), cycles, "UTC")

    assert times_at(places, cycles, "UTC")[0].as_py().year == 1970
