from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import data.delimited
import data.dialect
from data.contract import SpecError
from data.csv_dialect import CsvDialect
from data.files import file_reader
from data.formats import Reader, Reading, SourceError
from data.quarantine import VARIABLE as QUARANTINE
from data.sources import open_source


def open_file(path: Path) -> Reader:
    return file_reader(path, Reading())


def rows_of(path: Path) -> list[dict[str, Any]]:
    reader = open_file(path)
    return list(pa.Table.from_batches(reader.read(), reader.schema).to_pylist())


def csv(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_csv_is_found(tmp_path: Path, delimiter: str) -> None:
    path = csv(tmp_path, f"a{delimiter}b\n1{delimiter}2\n")

    assert rows_of(path) == [{"a": 1, "b": 2}]


FILLER = "x" * 1000
LATE = 100  # rows of filler, so that the next lies in a later block


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (data.delimited, data.dialect):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setenv(QUARANTINE, "off")  # the child has blocks as they are


@pytest.mark.parametrize(("late", "kind"), [("2.5", "double"), ("x", "string")])
def test_a_late_change_of_type_widens_the_column(tmp_path: Path, late: str, kind: str) -> None:
    """RELIABILITY 2b, late type change: Arrow types a CSV by its first block alone."""
    path = csv(tmp_path, "a,b\n" + f"1,{FILLER}\n" * LATE + f"{late},x\n")

    assert str(open_file(path).schema.field("a").type) == kind
    assert sum(len(batch) for batch in open_file(path).read()) == LATE + 1


def test_a_column_that_is_empty_at_first_gets_its_type_later(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b\n" + f",{FILLER}\n" * LATE + "x,x\n")

    assert str(open_file(path).schema.field("a").type) == "string"


def test_quoted_line_breaks_stay_in_their_cell(tmp_path: Path) -> None:
    assert rows_of(csv(tmp_path, 'a,b\n"x\ny",1\n')) == [{"a": "x\ny", "b": 1}]


def test_empty_cells_are_null_and_quoted_ones_are_text(tmp_path: Path) -> None:
    rows = rows_of(csv(tmp_path, 'a,b\n,1\n"",2\nNA,3\n"NA",4\n'))

    assert [row["a"] for row in rows] == [None, "", None, "NA"]


def test_a_ragged_csv_is_refused_without_its_values(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Expected 2 columns, got 1; it is damaged"):
        rows_of(csv(tmp_path, b"a,b\n1\n"))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_ragged_row_is_named_however_many_threads_read(
    threads: int, tmp_path: Path
) -> None:
    """Arrow counts rows only where one thread reads: so a second look, by one, tells which."""
    before = pa.cpu_count()
    pa.set_cpu_count(threads)
    try:
        with pytest.raises(SourceError, match=r"Row #3: Expected 2 columns, got 1; it is"):
            rows_of(csv(tmp_path, "a,b\n1,2\n3\n"))
    finally:
        pa.set_cpu_count(before)


TEXT = "name;price\nM\u00fcller;1,5\nWei\u00df;22,25\n"
ENCODINGS = {
    "UTF-8": ("utf-8", "utf-8"),
    "UTF-8 with a mark": ("utf-8-sig", "utf-8"),
    "UTF-16 with a mark": ("utf-16", "utf-16"),
    "UTF-16, little end first": ("utf-16-le", "utf-16-le"),
    "UTF-16, big end first": ("utf-16-be", "utf-16-be"),
    "latin-1": ("latin-1", "latin-1"),
}


@pytest.mark.parametrize("what", ENCODINGS)
def test_encoding_delimiter_and_decimal_mark_are_found(tmp_path: Path, what: str) -> None:
    """RELIABILITY 2b, CSV bad encoding, UTF-16, byte order mark: Arrow makes binary of it, or an error."""
    codec, name = ENCODINGS[what]
    path = csv(tmp_path, TEXT.encode(codec))

    assert rows_of(path) == [
        {"name": "M\u00fcller", "price": 1.5},
        {"name": "Wei\u00df", "price": 22.25},
    ]
    assert open_file(path).opened.csv == CsvDialect(name, ";", ",")


def test_windows_text_is_told_from_latin_1_by_its_quotes(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b\n1,\u201ex\u20ac\u201c\n".encode("cp1252"))

    assert rows_of(path) == [{"a": 1, "b": "\u201ex\u20ac\u201c"}]
    assert open_file(path).opened.csv == CsvDialect("cp1252", ",", ".")


def test_a_late_umlaut_tells_the_encoding(tmp_path: Path) -> None:
    path = csv(tmp_path, b"a,b\n" + f"1,{FILLER}\n".encode() * LATE + b"2,\xfc\n")

    assert open_file(path).opened.csv == CsvDialect("latin-1", ",", ".")


def test_a_late_comma_is_a_decimal_mark(tmp_path: Path) -> None:
    path = csv(tmp_path, "a;b\n" + f"1;{FILLER}\n" * LATE + "2,5;x\n")

    assert str(open_file(path).schema.field("a").type) == "double"


def test_commas_in_quotes_are_no_delimiters(tmp_path: Path) -> None:
    text = 'a;b\n"x, y, z";1\n"u, v";2\n'

    assert rows_of(csv(tmp_path, text)) == [{"a": "x, y, z", "b": 1}, {"a": "u, v", "b": 2}]


def test_two_columns_of_one_name_are_told(tmp_path: Path) -> None:
    """Not as damage, which Arrow's error is of."""
    with pytest.raises(SourceError, match="columns that share a name: \\['a'\\]; rename them"):
        assert open_source(csv(tmp_path, "a,a,b\n1.5,2.5,3\n2.5,3.5,4\n")).schema


def test_thousands_with_a_decimal_comma_stay_text(tmp_path: Path) -> None:
    """Arrow cannot read 1.234,5, and 1.234 beside it could be either: nothing is guessed."""
    rows = rows_of(csv(tmp_path, "a;b\n1.234,5;1,5\n1.234;2,5\n"))

    assert rows == [{"a": "1.234,5", "b": 1.5}, {"a": "1.234", "b": 2.5}]


FROZEN = CsvDialect("latin-1", ";", ",")


def test_what_a_file_leaves_open_is_as_it_was(tmp_path: Path) -> None:
    path = csv(tmp_path, b"a;b\n1;x\n")
    reader = file_reader(path, Reading(frozen=FROZEN))

    assert reader.opened.csv == FROZEN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a;b\n1,5;\u00fc\n".encode(), "has encoding 'utf-8', the contract was made with"),
        (b"a,b\n1,x\n", "has delimiter ',', the contract was made with ';'"),
        (b"a;b\n1.5;x\n", "has decimal '.', the contract was made with ','"),
    ],
)
def test_a_file_of_another_dialect_is_refused(
    tmp_path: Path, text: bytes, message: str
) -> None:
    path = csv(tmp_path, text)

    with pytest.raises(SourceError, match=message):
        rows_of_reading(path, Reading(frozen=FROZEN))


def rows_of_reading(path: Path, reading: Reading) -> list[dict[str, Any]]:
    reader = file_reader(path, reading)
    return list(pa.Table.from_batches(reader.read(), reader.schema).to_pylist())


def test_what_a_person_says_of_a_csv_is_taken(tmp_path: Path) -> None:
    path = csv(tmp_path, "a|b;c\n1|2;3,5\n".encode("utf-16-le"))
    given = {"encoding": "utf-16-le", "delimiter": "|", "decimal": ","}

    assert rows_of_reading(path, Reading(csv=given)) == [{"a": 1, "b;c": "2;3,5"}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"delimeter": ";"}, "csv: unknown key 'delimeter'; did you mean 'delimiter'?"),
        ({"encoding": "latin-0"}, "csv.encoding: unknown encoding: latin-0"),
    ],
)
def test_a_wrong_setting_is_a_wrong_spec(
    tmp_path: Path, given: dict[str, str], message: str
) -> None:
    path = csv(tmp_path, "a,b\n1,2\n")

    with pytest.raises(SpecError) as caught:
        rows_of_reading(path, Reading(csv=given))
    assert str(caught.value) == message


GIANT = "99999999999999999999"


@pytest.mark.parametrize(
    "column", [[GIANT], ["1.5", GIANT], [GIANT, "1.5"], ["7", f"-{GIANT}"]]
)
def test_integers_beyond_int64_are_refused(tmp_path: Path, column: list[str]) -> None:
    """RELIABILITY 2b, int beyond int64 in CSV: Arrow makes it a double in silence."""
    path = csv(tmp_path, "a,b\n" + "".join(f"{cell},1\n" for cell in column))

    with pytest.raises(SourceError) as caught:
        rows_of(path)
    assert str(caught.value) == (
        f"{path}: column 'a' holds integers beyond int64, which a float would round; "
        f'keep them as text with columns.a = {{ dtype = "string" }}, '
        f'or accept that with columns.a = {{ dtype = "double" }}'
    )
    text = rows_of_reading(path, Reading(types={"a": "string"}))
    assert [row["a"] for row in text] == column
    rounded = rows_of_reading(path, Reading(types={"a": "double"}))
    assert [row["a"] for row in rounded] == [float(cell) for cell in column]


def test_large_numbers_that_are_no_integers_are_fine(tmp_path: Path) -> None:
    rows = rows_of(csv(tmp_path, "a\n1e300\n123456789012345678901.5\ninf\n"))

    assert [row["a"] for row in rows] == [1e300, 123456789012345678901.5, float("inf")]


def test_declared_text_keeps_its_zeros(tmp_path: Path) -> None:
    path = csv(tmp_path, "zip,x\n01234,1\n99999,2\n")

    rows = rows_of_reading(path, Reading(types={"zip": "string", "x": "int64"}))
    assert [row["zip"] for row in rows] == ["01234", "99999"]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert rows_of(csv(tmp_path, b"\xef\xbb\xbfa,b\n1,2\n")) == [{"a": 1, "b": 2}]


words = st.text("abcäöüß ", min_size=1, max_size=6).map(str.strip).filter(bool)
records = st.lists(
    st.tuples(
        words, st.integers(-999, 999), st.floats(-99, 99).map(lambda v: round(v, 2) + 0.001)
    ),
    min_size=2,
    max_size=8,
)


@given(
    records=records,
    delimiter=st.sampled_from(",;\t|"),
    decimal=st.sampled_from(".,"),
    codec=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"]),
    quoted=st.booleans(),
)
def test_whatever_the_dialect_the_table_is_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[str, int, float]],
    delimiter: str,
    decimal: str,
    codec: str,
    quoted: bool,
) -> None:
    assume(delimiter != "," or decimal == ".")
    mark = '"' if quoted else ""
    lines = [delimiter.join(["word", "whole", "number"])]
    for word, whole, number in records:
        text = f"{number:.3f}".replace(".", decimal)
        lines.append(delimiter.join([f"{mark}{word}{mark}", str(whole), text]))
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(("\n".join(lines) + "\n").encode(codec))

    assert rows_of(path) == [
        {"word": word, "whole": whole, "number": float(f"{number:.3f}")}
        for word, whole, number in records
    ]
