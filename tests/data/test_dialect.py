"""How a text table is written, as it is found, given and frozen."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import data.delimited
import data.dialect
from data.contract import SpecError
from data.csv_dialect import CsvDialect
from data.dialect import found_dialect, squeezed
from data.files import file_reader
from data.formats import Reading, SourceError
from data.quarantine import VARIABLE as QUARANTINE

IRIS = "5.1,3.5,setosa\n4.9,3.0,setosa\n6.3,3.3,virginica\n"
MPG = b"""18.0   8   307.0   130.0  3504.  1\t"chevrolet  chevelle"\n
 15.0   8   350.0   ?      3693.  1\t"buick skylark 320"\r
18.0   8   318.0   150.0  3436.  1\t"plymouth satellite"
"""


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUARANTINE, "off")


def written(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(path: Path, **reading: Any) -> list[dict[str, Any]]:
    reader = file_reader(path, Reading(**reading))
    return list(pa.Table.from_batches(reader.read(), reader.schema).to_pylist())


def test_a_table_without_names_keeps_its_first_row(tmp_path: Path) -> None:
    """As the files of UCI's repository are written; Arrow takes the row for names."""
    rows = rows_of(written(tmp_path, IRIS))

    assert rows[0] == {"f0": 5.1, "f1": 3.5, "f2": "setosa"}
    assert len(rows) == 3


@pytest.mark.parametrize("header", [True, False])
def test_whether_there_are_names_can_be_said(tmp_path: Path, header: bool) -> None:
    rows = rows_of(written(tmp_path, IRIS), csv={"header": header})

    assert list(rows[0]) == (["5.1", "3.5", "setosa"] if header else ["f0", "f1", "f2"])


@pytest.mark.parametrize(
    ("frozen", "later", "way"),
    [
        (False, "a,b,c\n" + IRIS, "has names in its first line, other than .* header = false"),
        (True, IRIS, "has cells like any in its first line, other than .* header = true"),
    ],
)
def test_a_later_file_that_gains_or_loses_its_names_is_refused(
    tmp_path: Path, frozen: bool, later: str, way: str
) -> None:
    with pytest.raises(SourceError, match=way):
        rows_of(written(tmp_path, later), frozen=CsvDialect(header=frozen))


@pytest.mark.parametrize(
    ("mark", "name"),
    [(" ", "t.txt"), ("\t", "t.txt"), (";", "t.csv"), (",", "t.csv"), (",", "t.csv.gz")],
)
def test_names_of_rows_have_none_above_them(tmp_path: Path, mark: str, name: str) -> None:
    """As R's write.table writes, whose header has a name less than there are cells."""
    lines = [
        '"a" "rownames" "c"',
        '"1" 5.1 3 "set osa"',
        '"2" 4.9 4 "virginica"',
        '"7" 6 5 "x"',
    ]
    text = "\n".join(line.replace('" ', f'"{mark}').replace(" ", mark) for line in lines)
    text = text.replace(f"set{mark}osa", "set osa")
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    rows = rows_of(path)

    assert rows[0] == {"rownames_": 1, "a": 5.1, "rownames": 3, "c": "set osa"}
    assert [row["rownames_"] for row in rows] == [1, 2, 7]


@pytest.mark.parametrize("before", ["# of May\n", "Sales of May\n\n", "Sales,,\n,,\n", ""])
def test_a_table_begins_after_remarks_and_a_title(tmp_path: Path, before: str) -> None:
    path = written(tmp_path, f"{before}a,b,c\n1.5,2,x\n3,4,y\n5,6,x\n")

    assert rows_of(path)[0] == {"a": 1.5, "b": 2, "c": "x"}
    assert len(rows_of(path)) == 3
    assert rows_of(path, frozen=CsvDialect(skip=7)) == rows_of(path)  # other files have others


def test_names_of_rows_come_after_remarks_too(tmp_path: Path) -> None:
    path = written(tmp_path, '# by R\n"a" "b"\n"1" 2 3.5\n"2" 4 5\n"3" 5 5\n', "t.txt")

    assert rows_of(path)[0] == {"rownames": 1, "a": 2, "b": 3.5}


def test_how_many_lines_are_before_can_be_said(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b,c\nkm,kg,s\n1.5,2,3\n3,4,5\n5,6,6\n")

    assert rows_of(path, csv={"skip": 2, "header": False})[0] == {"f0": 1.5, "f1": 2, "f2": 3}


def test_a_later_file_with_names_of_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"row_names True, .* row_names = true"):
        rows_of(written(tmp_path, "a,b\n1,2,3\n2,3,4\n"), frozen=CsvDialect())


def test_an_empty_cell_at_the_end_of_all_rows_names_no_row(tmp_path: Path) -> None:
    assert not found_dialect(written(tmp_path, "a,b\n1,2,\n2,3,\n"), {})[0].row_names


@pytest.mark.parametrize("mark", ["?", " ?", "-", ".", "None"])
def test_a_mark_in_a_column_of_numbers_is_a_gap(tmp_path: Path, mark: str) -> None:
    rows = rows_of(written(tmp_path, f"a,b\n1.5,x\n{mark},y\n2.5,{mark}\n"))

    assert [row["a"] for row in rows] == [1.5, None, 2.5]
    assert [row["b"] for row in rows] == ["x", "y", None]


def test_a_mark_that_comes_late_is_a_gap_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (data.delimited, data.dialect):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 10)
    rows = rows_of(written(tmp_path, "a,b\n" + "1,x\n" * 1000 + "?,y\n2.5,z\n"))

    assert [row["a"] for row in rows[-3:]] == [1.0, None, 2.5]


def test_a_mark_among_words_is_a_word(tmp_path: Path) -> None:
    rows = rows_of(written(tmp_path, "a,b\nx,1\n?,2\n-,3\n"))

    assert [row["a"] for row in rows] == ["x", "?", "-"]


def test_what_stands_for_gaps_can_be_said(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n-9,x\n?,y\n")

    assert [row["a"] for row in rows_of(path, csv={"nulls": ["-9"]})] == [None, "?"]
    assert [row["a"] for row in rows_of(path, csv={"nulls": []})] == ["-9", "?"]


def test_cells_may_be_parted_by_any_number_of_blanks(tmp_path: Path) -> None:
    rows = rows_of(written(tmp_path, MPG, "auto-mpg.data"))

    assert found_dialect(tmp_path / "auto-mpg.data", {})[0] == CsvDialect(
        delimiter=" ", header=False, nulls=("?",)
    )
    assert [row["f3"] for row in rows] == [130.0, None, 150.0]
    assert [row["f6"] for row in rows] == [
        "chevrolet  chevelle",
        "buick skylark 320",
        "plymouth satellite",
    ]


def test_words_in_a_csv_are_not_parted_by_blanks(tmp_path: Path) -> None:
    text = "full name\nAnn Lee\nBob Ray\n"

    assert rows_of(written(tmp_path, text))[0] == {"full name": "Ann Lee"}
    assert rows_of(written(tmp_path, text, "t.txt"))[0] == {"full": "Ann", "name": "Lee"}


def test_tabs_in_a_txt_are_tabs_where_cells_have_blanks(tmp_path: Path) -> None:
    text = "name\tage\nAnn Lee\t31\nBob\t27\n"

    assert rows_of(written(tmp_path, text, "t.txt"))[0] == {"name": "Ann Lee", "age": 31}


def test_blanks_come_out_of_blocks_of_any_size(tmp_path: Path) -> None:
    lines = [f"  {n}    {n / 8}\t \t'{n}'" for n in range(2000)]
    path = written(tmp_path, "\n".join(lines), "t.dat")

    assert [row["f0"] for row in rows_of(path)] == [*range(2000)]
    assert squeezed(b' a  "b  c"\t d \r\n') == b'a "b  c" d\r\n'


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"header": "no"}, "csv.header: 'no' is no bool"),
        ({"nulls": "?"}, "csv.nulls: '?' is no list"),
        ({"header": False, "row_names": True}, "csv.row_names: true goes with header = true"),
        ({"delimiter": True}, "csv.delimiter: True is no str"),
    ],
)
def test_a_setting_of_a_wrong_type_is_a_wrong_spec(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        found_dialect(written(tmp_path, IRIS), given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "dialect", [CsvDialect(), CsvDialect("latin-1", ";", ",", False, 3, True, ("?", "-"))]
)
def test_a_dialect_comes_back_from_json(dialect: CsvDialect) -> None:
    assert CsvDialect.of(dialect.to_mapping()) == dialect


def test_a_usual_dialect_is_written_as_it_always_was() -> None:
    """A contract is named by its bytes: those of older homes stay what they are."""
    assert list(CsvDialect().to_mapping()) == ["encoding", "delimiter", "decimal"]


@pytest.mark.parametrize(
    ("cells", "decimal", "is_sure"),
    [
        (["1,234", "3.5", "12,345", "0.25"], ".", True),  # more thousands than fractions
        (["1,234,567", "12,345"], ".", True),
        (["1.234.567", "12.345"], ",", True),
        (["1,234", "3,5"], ",", True),
        (["12.345.678", "3.5"], ".", True),  # a number of a person, and one
        (["1,234", "12,345"], ",", False),  # it may be either
    ],
)
def test_a_mark_between_thousands_is_no_decimal_mark(
    cells: list[str],
    decimal: str,
    is_sure: bool,
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("\n".join(["name\tx", *(f"a\t{cell}" for cell in cells)]) + "\n")

    dialect, sure = found_dialect(path, {})

    assert dialect.decimal == decimal
    assert ("decimal" in sure) == is_sure
