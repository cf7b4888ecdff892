import pytest

from data.header import Header, found_header

IRIS = ["5.1,3.5,1.4,0.2,setosa", "4.9,3.0,1.4,0.2,setosa", "7.0,3.2,4.7,1.4,versicolor"]
MUSHROOMS = ["p,x,s", "e,x,s", "e,b,y", "p,x,y"]
NAMES, A_ROW, IN_DOUBT = Header(True, True), Header(False, True), Header(True, False)


def header_of(lines: list[str], decimal: str = ".") -> Header:
    return found_header([line.split(",") for line in lines], decimal)


@pytest.mark.parametrize(
    "lines",
    [
        ["a,b,c,d,class", *IRIS],
        ["x", "1", "2"],
        ["country,1990,1991", "Chad,1.5,2.5", "Mali,2.5,2.5"],
        ["age,sex", "NA,m", "31,f", "?,f"],
        ["a,b", "1,x", "a,b", *["2,y"] * 20],  # two files one behind the other
    ],
)
def test_words_above_numbers_are_names(lines: list[str]) -> None:
    assert header_of(lines).is_there


@pytest.mark.parametrize(
    "lines",
    [
        IRIS,
        MUSHROOMS,
        ["1,14.23,127", "2,13.2,100", "3,12.1,96"],
        ["3,1,4", "1,5,9", "2,6,5"],
        ["2001,2001,7", "2002,2001,9", "2002,2003,5"],
        ["b,30.83,u,+", "a,58.67,u,+", "a,24.5,y,-"],
        ["?,1.5", "a,2.5", "a,1.5"],  # the first cell is one that was not observed
        ["Ann,5.5,x", "Bob,4.5,x", "Eve,3.5,y"],
    ],
)
def test_a_first_line_like_the_others_is_a_row(lines: list[str]) -> None:
    assert header_of(lines) == A_ROW


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2"],
        ["400.0", "400.5", "401.0", "401.5"],
        ["country", "2020"],
        ["country", "2000", "2005", "2010"],
        ["country", "2015", "2010"],
    ],
)
def test_numbers_that_count_on_or_ascend_are_names(names: list[str]) -> None:
    """As pandas writes columns without names, spectra have wavelengths, and wide tables years."""
    rows = [["Chad" if name == "country" else "0.5" for name in names]] * 3

    assert header_of([",".join(line) for line in (names, *rows)]) == IN_DOUBT


def test_words_that_do_not_come_again_are_names() -> None:
    assert header_of(["edible,shape,surface", *MUSHROOMS]) == IN_DOUBT


@pytest.mark.parametrize("lines", [[], ["a,b"], ["1.5,2.5"], ["a,b", "?,?"]])
def test_a_line_that_nothing_is_below_has_names(lines: list[str]) -> None:
    assert header_of(lines) == IN_DOUBT


def test_numbers_may_have_a_comma() -> None:
    lines = [["5,1", "x"], ["4,9", "x"]]

    assert found_header(lines, ",") == A_ROW
