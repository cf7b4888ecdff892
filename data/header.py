"""Whether the first line of a text table has names, or is a row like the others."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

MISSING = frozenset(
    ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "?", ".", "-", "--"]
)
MOSTLY = 0.9  # of a column's cells; the others may be names again, or marks of ours unknown
LEAST_ASCENDING = 4  # of numbers that are names, such as wavelengths
YEARS = range(1800, 2101)


class Header(NamedTuple):
    """Whether there are names, and whether the cells leave no doubt of it."""

    is_there: bool
    is_sure: bool


def found_header(lines: Sequence[Sequence[str]], decimal: str) -> Header:
    """Compare the cells of the first line with those below them.

    Words above numbers are names. Numbers above numbers are a row, unless they count on (0, 1, 2),
    are years, or ascend (400.0, 400.5, 401.0, 401.5), as names do that are numbers. Words above words are a row
    where most of them come again below. In doubt, they are names.

    Args:
        lines: the cells of some lines, the first line's first.
        decimal: the mark before the fraction of a number.
    """
    first, *below = [[cell.strip() for cell in cells] for cells in lines] or [[]]
    numbers: list[float] = []
    again = new = 0
    for name, *cells in zip(first, *below, strict=False):
        known = [cell for cell in cells if cell not in MISSING]
        values = [value for cell in known if (value := number_of(cell, decimal)) is not None]
        number = number_of(name, decimal)
        if values and len(values) >= MOSTLY * len(known):
            if number is not None:
                numbers.append(number)
            elif name not in MISSING:
                return Header(is_there=True, is_sure=True)
        elif name in known:
            again += 1
        elif len({*known}) <= len(known) / 2:  # a word that comes once, where others come again
            new += 1
    is_row = again > new or bool(numbers and not _are_names(numbers))
    return Header(is_there=not is_row, is_sure=is_row)


def number_of(cell: str, decimal: str) -> float | None:
    """What a cell holds as a number, if it does."""
    plain = cell.replace(decimal, ".") if decimal != "." else cell
    return (
        float(plain) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", plain) else None
    )


def _are_names(numbers: Sequence[float]) -> bool:
    """Whether they count on, are years, or ascend for long."""
    steps = [after - before for before, after in pairwise(numbers)]
    if all(number % 1 == 0 for number in numbers):
        years = all(number in YEARS for number in numbers) and len({*numbers}) == len(numbers)
        if years or all(step == 1 for step in steps):
            return True
    return len(numbers) >= LEAST_ASCENDING and min(steps) > 0
