"""Numbers and times in columns of text, as people write them.

A format says how, of all cells of a column:

    "$1,234.5"     a number, by an example: what stands before and behind it (a currency, %, a
                   unit), the mark between thousands, and the mark before a fraction
    "%d.%m.%Y"     a date, by the codes of strptime; with %H or %I a time, with %z in a zone

Formats are found where every cell agrees with one, and something about it is no plain digit: text of
digits alone may be codes. Afterwards they are frozen in the contract.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from data.header import MISSING

BLANKS = " \u00a0\u2009\u202f"  # the last three part thousands in print
MINUS = "\\-\u2212"  # both, within brackets of a pattern
CURRENCIES = ("USD", "EUR", "GBP", "CHF", "JPY", "CNY", "INR")
UNIT = r"[^\W\d_°µ]{0,8}[°µ%‰²³]?(?:/?[^\W\d_]{1,4}[²³]?)?"
EXAMPLE = re.compile(
    rf"(?P<before>[^\d.,]*?)1?(?P<group>[,.'{BLANKS}]?)234(?P<point>[.,])5(?P<behind>\D*)"
)
CELL = re.compile(
    rf"\(?[{MINUS}+]?\s*(?P<before>[^\d\s().,+{MINUS}]{{0,3}})\s*[{MINUS}+]?\s*"
    rf"(?P<number>[.,]?\d(?:[\d.,'{BLANKS}]*\d)?(?:[eE][+-]?\d+)?)(?P<behind>\s*{UNIT})\s*\)?"
)
STYLES = ("1234.5", "1,234.5", "1234,5", "1.234,5", "1 234,5", "1 234.5", "1'234.5")

DAYS = (
    *("%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%m-%d-%Y", "%d-%m-%Y"),
    *("%d.%m.%Y", "%d.%m.%y", "%Y/%m/%d", "%Y.%m.%d", "%Y-%m-%d"),
    *("%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y"),
)
HOURS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
ISO = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S%z")
TIMES = (*(day + hour for day, hour in product(DAYS, HOURS)), *ISO)
CODES = {
    "%d": r"(?P<day>\d{1,2})",
    "%m": r"\d{1,2}",
    "%Y": r"\d{4}",
    "%y": r"\d{2}",
    "%b": "[A-Za-z]{3}",
    "%B": "[A-Za-z]{3,9}",
    "%H": r"\d{1,2}",
    "%I": r"\d{1,2}",
    "%M": r"\d{2}",
    "%S": r"\d{2}(?:[.,]\d{1,9})?",
    "%p": "[AaPp][Mm]",
    "%z": r"(?:Z|[+-]\d{2}:?\d{2})",
}
COMMA, MARKED = "234,5", 0.1  # "20,22" among 3, 9 and 11 names two of them
FIRST_CELLS, FEW_CELLS = 64, 5  # by which codes are told, and formats with exceptions
STRAY = 0.05  # of the distinct cells


class Format(NamedTuple):
    """How the cells of a column of text are read."""

    type: pa.DataType
    parse: Callable[[pa.Array], pa.Array]  # trimmed cells; null where one is written otherwise


@cache
def format_of(said: str) -> Format:
    """Return the format that a contract names.

    Raises:
        ValueError: it is neither an example of a number nor codes of a time.
    """
    if found := EXAMPLE.fullmatch(said):
        return Format(pa.float64(), partial(_numbers, **found.groupdict()))
    codes = re.findall(r"%.", said)
    once = sorted({*codes}) == sorted(codes) and {*codes} <= CODES.keys()
    days = {code[1].lower() for code in codes} >= {"d", "y"} and {*codes} & {"%m", "%b", "%B"}
    if not (once and days):
        raise ValueError(
            f"{said!r} is no format: give an example of a number, such as '$1,234.5' or "
            f"'1.234,5 %', or the codes of a date, such as '%d.%m.%Y'"
        )
    zone = "UTC" if "%z" in codes else None
    hours = {"%H", "%I"} & {*codes}
    kind = pa.timestamp("us", tz=zone) if hours else pa.date32()
    return Format(kind, partial(_times, said=said, kind=kind))


def read_as(cells: pa.Array, said: str) -> tuple[pa.Array, pa.Array]:
    """Return the cells of text in the type of their format, and which could not be read.

    Marks of what is missing (`data.header.MISSING`) are null.
    """
    text = _trimmed(cells)
    gaps = pc.is_in(text, value_set=pa.array(sorted(MISSING)))
    read = format_of(said).parse(pc.if_else(gaps, pa.scalar(None, pa.string()), text))
    return read, pc.and_(pc.is_null(read), pc.and_(cells.is_valid(), pc.invert(gaps)))


def formats_in(rows: pa.Table, names: Iterable[str]) -> dict[str, str]:
    """Find the formats of these columns of text, where all cells that are not missing have one.

    Not where day and month could be either, nor where no cell has more than digits.
    """
    found = {}
    for name in names:
        cells = _distinct(rows[name])
        fitting = list(_fitting(cells)) if len(cells) else []
        if len(fitting) == 1:
            found[name] = fitting[0]
    return found


def nearly_in(rows: pa.Table, names: Iterable[str]) -> dict[str, str]:
    """Say of columns that have no format what keeps them from it.

    A few cells, two formats that fit, or that they are digits and no more.
    """
    found = {}
    for name in names:
        cells = _distinct(rows[name])
        some = cells.slice(0, FEW_CELLS).to_pylist()
        possible = dict.fromkeys(said for cell in some for said in _possible(cell))
        strays = {said: _misfits(cells, said) for said in possible}
        either = [said for said in strays if not strays[said] and said in TIMES]
        best = min(strays, key=lambda said: strays[said], default="")
        if len(either) > 1:
            found[name] = f"written as {' or '.join(map(repr, either))}: say which by format"
        elif strays.get(STYLES[0]) == 0:
            found[name] = f"digits alone, as codes are: numbers with format = {STYLES[0]!r}"
        elif best and 0 < strays[best] <= STRAY * len(cells):
            found[name] = but_for_few(best)
    return found


def but_for_few(said: str) -> str:
    """Say that a few cells keep a column from a format."""
    return f"but for a few cells written as {said!r}"


def _distinct(column: pa.ChunkedArray) -> pa.Array:
    """The cells that are there, each once."""
    cells = pc.unique(_trimmed(column.combine_chunks())).drop_null()
    return cells.filter(pc.invert(pc.is_in(cells, value_set=pa.array(sorted(MISSING)))))


def _possible(cell: str) -> Iterator[str]:
    """The formats that one cell has, and digits alone are a number."""
    if re.fullmatch(r"[1-9]\d*", cell):
        yield STYLES[0]
    yield from _number_formats([cell])
    yield from (said for said in TIMES if re.fullmatch(_pattern(said), cell))


def _fitting(cells: pa.Array) -> Iterator[str]:
    """The number format that all cells have, if there is one; or all formats of times."""
    some = cells.slice(0, FIRST_CELLS).to_pylist()
    for said in _number_formats(some):
        if not _misfits(cells, said) and (COMMA not in said or _has_many(cells)):
            yield said
            return
    for said in TIMES:
        if re.fullmatch(_pattern(said), some[0]) and not _misfits(cells, said):
            yield said


def _number_formats(some: Sequence[str]) -> Iterator[str]:
    """Formats with what stands around the number of the first cell."""
    found = CELL.fullmatch(some[0])
    if found is None or not _is_unit(found["before"], found["behind"]):
        return
    before, behind = found["before"], found["behind"].rstrip()
    plain = not (before or behind)
    if plain and all(re.fullmatch(r"[+-]?\d+", cell) for cell in some):
        return  # they may be codes
    if any(re.match(r"0\d", cell) for cell in some):
        return
    for style in STYLES:
        yield f"{before}{style}{behind}"


def _is_unit(before: str, behind: str) -> bool:
    """Whether this stands around numbers that are measured, not in names that end in one."""
    has_sign = any(unicodedata.category(mark) == "Sc" for mark in before)
    return not before or ((has_sign or before in CURRENCIES) and not behind.strip())


def _has_many(cells: pa.Array) -> bool:
    """Whether more than a stray cell has a mark within its number."""
    marked = pc.match_substring_regex(cells, r"\d\D\d").true_count
    return marked >= max(2, MARKED * len(cells))


def _misfits(cells: pa.Array, said: str) -> int:
    return format_of(said).parse(cells).null_count


def _trimmed(cells: pa.Array) -> pa.Array:
    return pc.utf8_trim(cells.cast(pa.string()), characters=f"{BLANKS}\t\r\n")


def _numbers(cells: pa.Array, before: str, group: str, point: str, behind: str) -> pa.Array:
    """Numbers with a sign or, as accounts write what is negative, in brackets."""
    mark = f"[{BLANKS}]" if group and group in BLANKS else re.escape(group)
    whole = rf"[1-9]\d{{0,2}}(?:{mark}\d{{3}})+|\d+" if group else r"\d+"
    fraction = re.escape(point)
    power = "" if behind else r"(?:[eE][+-]?\d+)?"
    number = rf"(?P<number>(?:(?:{whole})(?:{fraction}\d+)?|{fraction}\d+){power})"
    sign = rf"[{MINUS}+]?"
    pattern = (
        rf"^(?P<left>[(]?)(?P<one>{sign})\s*{re.escape(before.strip())}\s*(?P<two>{sign})\s*"
        rf"{number}\s*{re.escape(behind.strip())}(?P<right>[)]?)$"
    )
    found = pc.extract_regex(cells, pattern)
    parts = {name: pc.struct_field(found, name) for name in ("left", "one", "two", "right")}
    digits = pc.struct_field(found, "number")
    if group:
        digits = pc.replace_substring_regex(digits, mark, "")
    values = pc.replace_substring(digits, point, ".").cast(pa.float64())
    lengths = {name: pc.utf8_length(part) for name, part in parts.items()}
    whole_brackets = pc.equal(lengths["left"], lengths["right"])
    signs = pc.binary_join_element_wise(parts["left"], parts["one"], parts["two"], "")
    negative = pc.match_substring_regex(signs, rf"^[({MINUS}]$")
    readable = pc.and_(whole_brackets, pc.less_equal(pc.utf8_length(signs), 1))
    nothing = pa.scalar(None, pa.float64())
    return pc.if_else(readable, pc.if_else(negative, pc.negate(values), values), nothing)


def _times(cells: pa.Array, said: str, kind: pa.DataType) -> pa.Array:
    """Dates and times that there are: no 31st of February becomes a day in March."""
    fits = pc.match_substring_regex(cells, f"^{_pattern(said)}$")
    text = pc.if_else(fits, cells, pa.scalar(None, pa.string()))
    if said in ISO or said == "%Y-%m-%d %H:%M:%S":
        return _iso(text, kind)
    without_fraction = pc.replace_substring_regex(text, r"(:\d{2})[.,]\d+", r"\1")
    found = pc.strptime(without_fraction, said, unit="us", error_is_null=True)
    parts = pc.extract_regex(text, f"^{_pattern(said)}$")
    day = pc.struct_field(parts, "day").cast(pa.int64())
    same = pc.equal(pc.day(found), day)
    return pc.if_else(same, found, pa.scalar(None, found.type)).cast(kind)


def _iso(text: pa.Array, kind: pa.DataType) -> pa.Array:
    """With as much of a second as microseconds hold."""
    cut = pc.replace_substring_regex(text, r"(:\d{2})[.,](\d{1,6})\d*", r"\1.\2")
    try:
        return cut.cast(kind)
    except pa.ArrowInvalid:  # one of them is no day: each by itself
        return pa.array([_iso_time(cell, kind) for cell in cut.to_pylist()], kind)


def _iso_time(cell: str | None, kind: pa.DataType) -> object:
    try:
        return pa.scalar(cell).cast(kind).as_py()
    except pa.ArrowInvalid:
        return None


@cache
def _pattern(said: str) -> str:
    """A regular expression of the times of a format, for RE2 and for Python's `re`."""
    pieces = re.findall(r"%.|[^%]", said)
    return "".join(CODES.get(piece, re.escape(piece)) for piece in pieces)
