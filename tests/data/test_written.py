"""Numbers and times in text: what people write is what is read, and what is no quantity stays text."""

import math
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.written import STYLES, TIMES, format_of, formats_in, nearly_in, read_as

DIGITS = "digits alone, as codes are: numbers with format = '1234.5'"


def found(*cells: str | None) -> str | None:
    return formats_in(pa.table({"x": pa.array(cells, pa.string())}), ["x"]).get("x")


def values(said: str, *cells: str | None) -> list[Any]:
    read, unread = read_as(pa.array(cells, pa.string()), said)
    assert not unread.true_count
    return list(read.to_pylist())


@pytest.mark.parametrize(
    ("cells", "said", "read"),
    [
        (["$1,234.50", "$5.00", "$7"], "$1,234.5", [1234.5, 5, 7]),
        (["($3.20)", "-$1", "$-2", "+$4"], "$1234.5", [-3.2, -1, -2, 4]),
        (["€ 1.234,50", "€ 5,00"], "€1.234,5", [1234.5, 5]),
        (["R$ 10.50", "R$ 1,000.00"], "R$1,234.5", [10.5, 1000]),
        (["USD 12", "USD 3.5"], "USD1234.5", [12, 3.5]),
        (["1,234", "1,234,567", "999"], "1,234.5", [1234, 1234567, 999]),
        (["1.234", "1.234.567", "999"], "1.234,5", [1234, 1234567, 999]),
        (["0,125", "1,250"], "1234,5", [0.125, 1.25]),
        (["12\u202f345,5", "1 000"], "1 234,5", [12345.5, 1000]),
        (["1'234.50", "7"], "1'234.5", [1234.5, 7]),
        (["12%", "3.5 %", "\u22121%"], "1234.5%", [12, 3.5, -1]),
        ([" 36 months", " 60 months"], "1234.5 months", [36, 60]),
        (["12.5°C", "-3°C"], "1234.5°C", [12.5, -3]),
        (["120 km/h", "80 km/h"], "1234.5 km/h", [120, 80]),
        (["1.5e5", "2E-3", ".5"], "1234.5", [1.5e5, 2e-3, 0.5]),
        (["1/31/2024", "12/5/2023"], "%m/%d/%Y", [date(2024, 1, 31), date(2023, 12, 5)]),
        (["31/1/2024", "5/12/2023"], "%d/%m/%Y", [date(2024, 1, 31), date(2023, 12, 5)]),
        (["31.12.99", "1.1.00"], "%d.%m.%y", [date(1999, 12, 31), date(2000, 1, 1)]),
        (["2024/01/31"], "%Y/%m/%d", [date(2024, 1, 31)]),
        (["5-Jan-2024", "06-FEB-2024"], "%d-%b-%Y", [date(2024, 1, 5), date(2024, 2, 6)]),
        (["January 5, 2024"], "%B %d, %Y", [date(2024, 1, 5)]),
        (
            ["1/31/2024 10:30 PM"],
            "%m/%d/%Y %I:%M %p",
            [datetime.fromisoformat("2024-01-31T22:30")],
        ),
        (
            ["2024-01-31T10:00:00.25Z", "2024-01-31T10:00:00+02:00"],
            "%Y-%m-%dT%H:%M:%S%z",
            [
                datetime(2024, 1, 31, 10, 0, 0, 250_000, tzinfo=UTC),
                datetime(2024, 1, 31, 8, tzinfo=UTC),
            ],
        ),
    ],
)
def test_what_all_cells_have_is_their_format(
    cells: list[str], said: str, read: list[Any]
) -> None:
    assert found(*cells) == said
    assert values(said, *cells) == read


@pytest.mark.parametrize(
    "cells",
    [
        ["12345", "99501", "10001"],  # digits alone: codes, if they are text
        ["0123.5", "0004.5"],
        ["A1", "A2", "A3"],
        ["12A", "13B"],
        ["1.2.3", "2.0.0"],
        ["10.0.0.1", "10.0.0.2"],
        ["555-1234", "555-9999"],
        ["18-24", "25-34"],
        ["$5", "€5"],  # two units
        ["12%", "12"],
        ["5 years", "1 year"],
        ["3", "9", "11", "20,22", "2", "1"],  # a list of two
        ["1/2/2024", "3/4/2024"],  # day and month, or month and day
        ["31.12.2024", "never"],
        ["30.02.2024", "01.01.2024"],  # no such day
        ["2024-02-30", "2024-01-01"],
        ["red", "green"],
        ["?", None],
    ],
)
def test_other_text_has_no_format(cells: list[str | None]) -> None:
    assert found(*cells) is None


@pytest.mark.parametrize(
    ("cells", "stray", "said"),
    [
        ([str(k) for k in range(1, 99)], "Total", "1234.5"),
        ([f"${k}.5" for k in range(99)], "call us", "$1234.5"),
        ([f"{k % 28 + 1}.{k % 12 + 1}.{1900 + k}" for k in range(99)], "never", "%d.%m.%Y"),
    ],
)
def test_what_strays_keep_from_being_a_format_is_named(
    cells: list[str], stray: str, said: str
) -> None:
    named = f"but for a few cells written as {said!r}"

    assert nearly(*cells, stray) == nearly(stray, *cells) == named
    assert nearly(*cells) == (DIGITS if said == "1234.5" else None)  # none is a stray
    assert nearly(*cells[:9], *[f"{stray} {k}" for k in range(9)]) is None


def test_day_and_month_that_could_be_either_are_named() -> None:
    assert nearly("1/2/2024", "3/4/2024") == (
        "written as '%m/%d/%Y' or '%d/%m/%Y': say which by format"
    )


def test_digits_alone_are_named() -> None:
    assert (
        nearly("12345", "99501") == "digits alone, as codes are: numbers with format = '1234.5'"
    )
    assert nearly("A1", "B2") is None


def nearly(*cells: str) -> str | None:
    return nearly_in(pa.table({"x": cells}), ["x"]).get("x")


def test_marks_of_what_is_missing_are_null_and_no_failure() -> None:
    assert found("$5", "-", "N/A", "", None) == "$1234.5"
    assert values("$1234.5", "$5", "-", " N/A ", "", None) == [5, None, None, None, None]


def test_what_is_written_otherwise_is_told() -> None:
    read, unread = read_as(pa.array(["12.5%", "12.5", "($3)", "(4%", None]), "1234.5%")

    assert read.to_pylist() == [12.5, None, None, None, None]
    assert unread.to_pylist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    "said", ["", "number", "%d.%m", "%H:%M", "1234", "%d.%m.%Q", "12,34.5", "%d.%m.%d.%Y"]
)
def test_what_is_no_format_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="is no format"):
        format_of(said)


@given(
    value=st.floats(-1e12, 1e12).map(lambda value: round(value, 3)),
    style=st.sampled_from(STYLES),
    before=st.sampled_from(["", "$", "€", "CHF"]),
    behind=st.sampled_from(["", "%", " kg", " €"]),
)
def test_a_number_that_is_written_is_read(
    value: float, style: str, before: str, behind: str
) -> None:
    group, point = style[1:-5], style[-2]
    text = f"{abs(value):,.3f}" if group else f"{abs(value):.3f}"
    text = text.translate({ord(","): group, ord("."): point})
    sign = "-" if math.copysign(1, value) < 0 else ""

    assert values(f"{before}{style}{behind}", f"{sign}{before}{text}{behind}") == [value]


@given(
    when=st.datetimes(
        datetime.fromisoformat("1970-01-01"), datetime.fromisoformat("2068-12-31")
    ),
    said=st.sampled_from(TIMES),
)
def test_a_time_that_is_written_is_read(when: datetime, said: str) -> None:
    when = when.replace(microsecond=0, second=when.second if "%S" in said else 0)
    when = when.replace(tzinfo=UTC if "%z" in said else None)

    (read,) = values(said, when.strftime(said))

    assert read == (when if ":" in said else when.date())
