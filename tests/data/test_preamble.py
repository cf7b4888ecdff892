"""What stands before a table is told from its names and its rows."""

import pytest

from data.preamble import lines_before

ROWS = ["4,5,x", "5,6,y", "6,7,z", "7,8,x"]


@pytest.mark.parametrize(
    ("lines", "before"),
    [
        ([], 0),
        (["a,b,c"], 0),
        (["# made by a machine", "a,b,c"], 1),
        (["% made by a machine", "%", "a,b,c"], 2),
        (["Sales of May", "", "a,b,c"], 2),
        (["", "Sales of May,,", ",,", "a,b,c"], 3),
        (["", "a,b,c"], 0),
        (["# one, or two", "#", "3,4,x"], 2),
        (["#a,b,c"], 0),  # names, the first behind a mark
        (["# a,b,c"], 0),
        (["a,b"], 0),  # a name less than there are cells, or a broken line: no title
        (["3,,"], 0),  # a row whose other cells are missing
        (["x,,"], 0),  # here, too: no names come after it
    ],
)
def test_remarks_and_titles_stand_before(lines: list[str], before: int) -> None:
    assert lines_before([*lines, *ROWS], ",") == before


def test_among_blanks_a_remark_has_any_number_of_words() -> None:
    assert lines_before(["# x and y of each", "1 2.5 3", "2 3.5 4", "3 1 5"], None) == 1


@pytest.mark.parametrize("title", ["total", "# the total", "# total"])
def test_of_two_columns_a_word_may_be_a_name(title: str) -> None:
    """R writes one column so, with the names of its rows beside it."""
    assert lines_before([title, "1 2", "2 3", "3 4"], None) == int(title != "total")


def test_lines_that_are_all_apart_are_before_nothing() -> None:
    assert lines_before(["# a", "# b"] * 100, ",") == 0
    assert lines_before([], ",") == 0
